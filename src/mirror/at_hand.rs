//! Hits: what can be answered from memory, or from a file that is open, without waiting for anything.
//!
//! These are most of all requests, and what they cost is what the mirror can do. Whatever is not clear here at once
//! goes the long way, which comes to the same answer.

use std::sync::Arc;

use super::answer::{BlobAnswer, BlobHead};
use super::freshness::{self, Verdict};
use super::local::Manifest;
use super::manifest::Kept;
use super::{Inner, Source};
use crate::oci::manifest::ChildKind;
use crate::oci::{AcceptClass, Digest, Reference};
use crate::store::Link;
use crate::telemetry::Outcome;

impl Inner {
    /// A manifest that is in memory and, by its tag, fresh.
    pub(super) fn manifest_at_hand(
        &self,
        source: &Source,
        reference: &Reference,
        accept: AcceptClass,
    ) -> Option<Kept> {
        let digest = match reference {
            Reference::Digest(digest) => {
                self.link_at_hand(source, digest, ChildKind::Manifest)?;
                *digest
            }
            Reference::Tag(tag) => {
                let records = self.store.tags_in_memory(source, tag)?;
                let policy = self.config.of_tag(source, tag);
                // How upstream failed matters for those alone that are not fresh.
                match freshness::judge(&records, accept, &policy, None, self.clock.now()) {
                    Verdict::Fresh(record) => record.digest,
                    Verdict::StaleForNow(_)
                    | Verdict::StaleMeanwhile(_)
                    | Verdict::Revalidate(_)
                    | Verdict::Absent => return None,
                }
            }
        };
        let manifest = self
            .local
            .as_said_to(source, self.local.in_memory(&digest)?)?;
        Some(Kept::hit(manifest))
    }

    /// A stored blob whose file is open.
    pub(super) fn blob_at_hand(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
    ) -> Option<BlobAnswer> {
        let link = self.link_at_hand(source, digest, ChildKind::Blob)?;
        let blob = self.store.open_blob(digest)?;
        // Where they differ the link is corrected: the long way.
        let agrees = link.size.is_none_or(|said| said == blob.size());
        agrees.then(|| self.answer_stored(blob, source))
    }

    /// What HEAD says of a stored blob.
    pub(super) fn blob_head_at_hand(&self, source: &Source, digest: &Digest) -> Option<BlobHead> {
        self.link_at_hand(source, digest, ChildKind::Blob)?;
        Some(BlobHead {
            total: Some(self.store.contains(digest)?),
            outcome: Outcome::Hit,
        })
    }

    /// These will likely be asked for by whoever is given this manifest.
    pub(super) fn expect_children(&self, manifest: &Manifest) {
        if manifest.told.is_due(self.clock.now()) {
            self.store.expect(&manifest.children);
        }
    }

    fn link_at_hand(&self, source: &Source, digest: &Digest, kind: ChildKind) -> Option<Link> {
        let link = self.store.link_in_memory(source, digest)?;
        // Whether one that is not given is good enough is found once, the long way.
        (link.is_given() && link.covers(kind)).then_some(link)
    }
}
