//! What the store is asked for and a part of it answers.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Link, LinkEntry, Metadata, Pages, Store, SurveyError, TagEntry, TagRecord};
use crate::oci::directory::Source;
use crate::oci::{AcceptClass, Digest, Tag, UpstreamName};

/// Metadata.
impl Store {
    /// What is known of repositories.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The index, in pages.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.inner.pages
    }

    /// The knowledge that a repository has a digest.
    pub async fn link(&self, source: &Source, digest: &Digest) -> Option<Link> {
        self.inner.metadata.link(source, digest).await
    }

    /// The same, as far as it is in memory.
    #[must_use]
    pub fn link_in_memory(&self, source: &Source, digest: &Digest) -> Option<Link> {
        self.inner.metadata.link_in_memory(source, digest)
    }

    /// Records that a repository has these digests.
    pub async fn record_links(&self, source: &Source, links: Vec<(Digest, Link)>) {
        self.inner.metadata.record_links(source, links).await;
    }

    /// Forgets the size that a repository is said to have a digest with: it turned out wrong.
    pub async fn forget_size(&self, source: &Source, digest: &Digest) {
        self.inner.metadata.forget_size(source, digest).await;
    }

    /// What a tag named, for each set of formats asked for.
    pub async fn tags(&self, source: &Source, tag: &Tag) -> Arc<Vec<TagRecord>> {
        self.inner.metadata.tags(source, tag).await
    }

    /// The same, as far as it is in memory.
    #[must_use]
    pub fn tags_in_memory(&self, source: &Source, tag: &Tag) -> Option<Arc<Vec<TagRecord>>> {
        self.inner.metadata.tags_in_memory(source, tag)
    }

    /// Records what a tag names.
    pub async fn record_tag(&self, source: &Source, tag: &Tag, record: TagRecord) {
        self.inner.metadata.record_tag(source, tag, record).await;
    }

    /// Forgets what a tag named in the formats of `class`: upstream says that it is gone. Some
    /// registries say so to whoever cannot read what is there, which is nothing about the others.
    pub async fn forget_tag(&self, source: &Source, tag: &Tag, class: AcceptClass) {
        self.inner.metadata.forget_tag(source, tag, class).await;
    }

    /// The media type that a manifest was stored with.
    pub async fn media_type(&self, digest: &Digest) -> Option<String> {
        self.inner.metadata.media_type(digest).await
    }

    /// Notes the media type of a stored manifest that the index does not know.
    pub fn note_media_type(&self, digest: &Digest, media_type: &str) {
        self.inner.metadata.note_media_type(digest, media_type);
    }

    /// Forgets that a repository has these digests: the next pull asks upstream.
    pub async fn forget_links(&self, source: &Source, digests: Vec<Digest>) {
        self.inner.metadata.forget_links(source, digests).await;
    }

    /// Forgets what a tag named, in all formats.
    pub async fn drop_tag(&self, source: &Source, tag: &Tag) {
        self.inner.metadata.drop_tag(source, tag).await;
    }

    /// Forgets the media type of a digest that is not stored.
    pub async fn forget_media_type(&self, digest: &Digest) {
        self.inner.metadata.forget_media_type(digest).await;
    }

    /// Forgets a repository of which neither tags nor links are left. Whether it did.
    pub async fn forget_if_empty(&self, source: &Source) -> bool {
        self.inner.metadata.forget_if_empty(source).await
    }

    /// Makes sure that what was changed until now is in the pages read from now on.
    pub async fn settle_index(&self) {
        self.inner.pages.settle().await;
    }

    /// The repositories that something is known of, sorted by upstream and name,
    /// after `after`, at most `limit`.
    pub async fn repositories(&self, after: Option<&Source>, limit: usize) -> Vec<Source> {
        self.inner.pages.repositories(after, limit).await
    }

    /// The repositories of an upstream (of all, when `None`) after `after`, sorted; empty at the end.
    pub async fn repository_page(
        &self,
        upstream: Option<&UpstreamName>,
        after: Option<&Source>,
    ) -> Vec<Source> {
        self.inner.pages.repository_page(upstream, after).await
    }

    /// The tags of a repository after `after`, sorted; empty at the end.
    pub async fn tag_page(&self, source: &Source, after: Option<&Tag>) -> Vec<TagEntry> {
        self.inner.pages.tag_page(source, after).await
    }

    /// The links of a repository (of all, when `None`) after `after`, sorted; empty at the end.
    pub async fn link_page(
        &self,
        source: Option<&Source>,
        after: Option<&LinkEntry>,
    ) -> Vec<LinkEntry> {
        self.inner.pages.link_page(source, after).await
    }

    /// The digests that the index has a media type for: manifests, stored or not; after `after`.
    pub async fn manifest_page(&self, after: Option<&Digest>) -> Vec<Digest> {
        self.inner.pages.manifest_page(after).await
    }

    /// The digests of stored blobs that come after `after`, in order, at most `limit`; empty at the end.
    ///
    /// # Errors
    /// [`SurveyError`].
    pub async fn stored_after(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, SurveyError> {
        self.inner.pages.stored_after(after, limit).await
    }

    /// The repositories that have these digests, at most `limit` for each. Reads through all links.
    pub async fn sources_of(
        &self,
        digests: &[Digest],
        limit: usize,
    ) -> HashMap<Digest, Vec<Source>> {
        self.inner.pages.sources_of(digests, limit).await
    }

    /// What the tags of a repository name, in the order of the tags.
    pub async fn tags_of(&self, source: &Source) -> Vec<(Tag, Vec<TagRecord>)> {
        self.inner.pages.tags_of(source).await
    }

    /// Makes sure that what was changed until now is in the pages read from now on. Blocks.
    pub fn save(&self) {
        self.write_index();
    }

    /// Whether the pages have all there is: not while the index fails, or while the files are looked
    /// through after it was lost. What nobody seems to need may be needed then.
    pub async fn knows_all(&self) -> bool {
        let sound = self.inner.pages.is_sound().await;
        self.inner.scan.is_done() && sound
    }

    /// The blobs that are stored, with their sizes in bytes, after `after`, sorted; empty at the end.
    pub async fn blob_page(&self, after: Option<&Digest>) -> Vec<(Digest, u64)> {
        let mut after = after.map(super::metadata::schema::digest_key);
        loop {
            let Some((known, last)) = self.inner.pages.blob_page(after.take()).await else {
                return Vec::new();
            };
            let stored = self.stored(&known);
            if !stored.is_empty() {
                return stored;
            }
            after = Some(last);
        }
    }

    /// How many blobs are stored, and how many bytes those and the fills under way take.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let ledger = self.ledger();
        (ledger.blobs() as u64, ledger.bytes())
    }
}
