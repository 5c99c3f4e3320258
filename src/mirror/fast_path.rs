//! Hits: what can be answered from memory, or from a file that is open, without waiting for anything.
//!
//! These are most of all requests, and what they cost is what the mirror can do. Whatever is not clear here at once
//! goes the long way, which comes to the same answer.

use std::sync::Arc;

use super::answer::{BlobAnswer, BlobHead, ManifestAnswer};
use super::core::Core;
use super::freshness::{self, Verdict};
use super::lent::Lent;
use super::local::{LocalManifests, Manifest};
use super::manifest::Kept;
use super::passthrough::Passthroughs;
use super::{MirrorError, Policies, Source};
use crate::clock::Clock;
use crate::oci::manifest::ChildKind;
use crate::oci::{AcceptClass, Digest, Reference};
use crate::store::{Event, EventKinds, Link, Store};
use crate::telemetry::Outcome;

/// Answers what waits for nothing.
#[derive(Debug)]
pub(super) struct Hits {
    policies: Policies,
    store: Store,
    clock: Arc<dyn Clock>,
    local: Arc<LocalManifests>,
    passthroughs: Arc<Passthroughs>,
    lent: Lent,
}

impl Hits {
    pub(super) fn new(
        core: &Core,
        local: &Arc<LocalManifests>,
        passthroughs: &Arc<Passthroughs>,
        lent: &Lent,
    ) -> Self {
        Self {
            policies: core.policies.clone(),
            store: core.store.clone(),
            clock: Arc::clone(&core.clock),
            local: Arc::clone(local),
            passthroughs: Arc::clone(passthroughs),
            lent: lent.clone(),
        }
    }

    /// A manifest that is in memory and, by its tag, fresh.
    pub(super) fn manifest(
        &self,
        source: &Source,
        reference: &Reference,
        accept: AcceptClass,
    ) -> Option<Kept> {
        let digest = match reference {
            Reference::Digest(digest) => {
                self.link(source, digest, ChildKind::Manifest)?;
                *digest
            }
            Reference::Tag(tag) => {
                let records = self.store.metadata().tags_in_memory(source, tag)?;
                let policy = self.policies.of_tag(source, tag);
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
    pub(super) fn blob(&self, source: &Source, digest: &Digest) -> Option<BlobAnswer> {
        let link = self.link(source, digest, ChildKind::Blob)?;
        let blob = self.store.open_blob(digest)?;
        // Where they differ the link is corrected: the long way.
        let agrees = link.size.is_none_or(|said| said == blob.size());
        agrees.then(|| self.passthroughs.answer_stored(blob, source))
    }

    /// Answers HEAD of a stored blob.
    pub(super) fn blob_head(&self, source: &Source, digest: &Digest) -> Option<BlobHead> {
        self.link(source, digest, ChildKind::Blob)?;
        Some(BlobHead {
            total: Some(self.store.contains(digest)?),
            outcome: Outcome::Hit,
        })
    }

    /// The answer for the client of this request, who will likely ask for what the manifest names.
    ///
    /// # Errors
    /// [`MirrorError::Busy`].
    pub(super) fn answer(
        &self,
        source: &Source,
        kept: Kept,
    ) -> Result<ManifestAnswer, MirrorError> {
        self.expect_children(&kept.manifest);
        let digest = kept.manifest.digest;
        let events = self.store.events();
        events.tell_if_wanted(EventKinds::PULLED, || Event::Pulled {
            source: source.clone(),
            digest,
        });
        Ok(ManifestAnswer {
            digest,
            media_type: Arc::clone(&kept.manifest.media_type),
            bytes: self.lent.lend_to_client(kept.manifest.bytes.clone())?,
            outcome: kept.outcome,
            warnings: kept.warnings,
        })
    }

    /// Tells the store, now and then, what whoever is given this manifest will ask for.
    fn expect_children(&self, manifest: &Manifest) {
        if manifest.told.is_due(self.clock.now()) {
            self.store.contents().expect(&manifest.children);
        }
    }

    fn link(&self, source: &Source, digest: &Digest, kind: ChildKind) -> Option<Link> {
        let link = self.store.metadata().link_in_memory(source, digest)?;
        // Whether one that is not given is good enough is found once, the long way.
        (link.is_given() && link.covers(kind)).then_some(link)
    }
}
