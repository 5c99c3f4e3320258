//! The word of an upstream on a blob, as an object store keeps it.

use futures_util::future::join;

use super::origin::Origins;

/// The word of an upstream on a blob, as far as another source keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The repository has it, with this size.
    Given(u64),
    /// It is not said.
    Unknown,
    /// It is not said, and no other source has the blob.
    Nobody,
}

impl Origins<'_> {
    /// Asks the sources that keep the upstream's word, before the upstream is.
    pub(super) async fn word(&self) -> Word {
        let mut keeps = Vec::new();
        for (_, other) in self.sources() {
            match other.word(self.blob) {
                Some(word) if self.may_have(other) => keeps.push((other, word)),
                Some(_) => {}
                None => return Word::Unknown,
            }
        }
        for (other, word) in keeps {
            let has = tokio::time::timeout(other.wait_max(), other.stat(self.blob));
            match join(word, has).await {
                (Some(size), _) => return Word::Given(size),
                (None, Ok(Ok(Some(_)))) => return Word::Unknown,
                (None, _) => {}
            }
        }
        Word::Nobody
    }
}
