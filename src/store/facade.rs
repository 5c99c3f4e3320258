//! Questions to the store that a part of it answers.

use super::{Metadata, Pages, Store, Tiered, layout};

/// Metadata.
impl Store {
    /// Facts about repositories.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The index, in pages.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.inner.pages
    }

    /// Notes on what an object store beside this one has.
    #[must_use]
    pub fn tiered(&self) -> &Tiered {
        &self.inner.tiered
    }

    /// The trouble of the disk and its reason, in one line; `None` when all is well. Does not ask it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let layout = self.contents().layout();
        if layout.ownership().is_ending() {
            return Some(layout::HANDED_OVER.to_owned());
        }
        layout.health().trouble()
    }

    /// True if the pages have all there is: not while the index fails, or while the files are looked
    /// through after it was lost. What nobody seems to need may be needed then.
    pub async fn knows_all(&self) -> bool {
        let sound = self.inner.pages.is_sound().await;
        self.scan().is_done() && sound
    }
}
