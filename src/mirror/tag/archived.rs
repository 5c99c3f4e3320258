//! What a tag named, as the object store keeps it for nodes that have never heard of it.

use std::sync::Arc;

use super::Tags;
use crate::mirror::negative::What;
use crate::mirror::{Policy, Source, freshness};
use crate::oci::{Accept, AcceptClass, Reference, Tag};
use crate::store::TagRecord;

impl Tags {
    /// What is known of a tag, here or else from the object store.
    pub(super) async fn records_of(
        &self,
        source: &Source,
        tag: &Tag,
        accept: &Accept,
        policy: &Policy,
    ) -> Arc<Vec<TagRecord>> {
        let records = self.imported.tags(source, tag).await;
        let what = What::Manifest(Reference::Tag(tag.clone()), accept.clone());
        if freshness::last_known(&records, accept.class).is_none()
            && self.negative.check(source, &what).is_ok()
            && self.restore(source, tag, accept.class, policy).await
        {
            return self.imported.tags(source, tag).await;
        }
        records
    }

    /// Takes what a tag named from the object store, with the manifest: as if this node had heard it when it was heard.
    /// True if there was something that may be served while the upstream does not answer.
    async fn restore(
        &self,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
        policy: &Policy,
    ) -> bool {
        let archived = self.fetcher.archived();
        let Some(mut records) = archived.tag(source, tag).await else {
            return false;
        };
        let now = self.clock.now();
        for record in &mut records {
            // Clocks differ: what is of tomorrow is not fresh for longer.
            record.checked = record.checked.min(now);
        }
        let Some(named) = freshness::fallback(&records, class, policy, now) else {
            return false;
        };
        let digest = named.digest;
        let here = self.local.read_for(source, &digest).await.is_some();
        if !here && self.fetcher.take_archived(source, digest).await.is_none() {
            return false;
        }
        let metadata = self.store.metadata();
        let known = metadata.tags(source, tag).await;
        for record in records {
            if known.iter().all(|it| it.class != record.class) {
                metadata.record_tag(source, tag, record).await;
            }
        }
        true
    }
}
