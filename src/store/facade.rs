//! Questions to the store that a part of it answers.

use super::{Config, Metadata, Pages, Store, Tiered, layout};
use crate::oci::Digest;

/// Metadata.
impl Store {
    /// Keeps to the bounds of another configuration: `max_size`, `min_free`, `max_age` and the upstreams' shares. More
    /// room is there at once; what is too much goes in steps. The directory stays.
    ///
    /// # Errors
    /// `max_size` is a part of a file system that cannot be measured: all is as it was.
    pub fn set_bounds(&self, config: &Config) -> std::io::Result<()> {
        self.quotas().replace(config)
    }

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

    /// The blobs that are stored, with their sizes in bytes, after `after`, sorted; empty at the end.
    pub async fn blob_page(&self, after: Option<&Digest>) -> Vec<(Digest, u64)> {
        let mut after = after.map(super::metadata::schema::digest_key);
        loop {
            let Some((known, last)) = self.inner.pages.blob_page(after.take()).await else {
                return Vec::new();
            };
            let stored = self.contents().stored(&known);
            if !stored.is_empty() {
                return stored;
            }
            after = Some(last);
        }
    }
}
