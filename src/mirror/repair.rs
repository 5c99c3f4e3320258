//! Getting back what was set aside: by the links that say who has it.

use std::sync::Arc;

use futures_util::FutureExt;

use super::core::{Core, Tasks, Upstreams};
use super::fills::{Claim, Fills};
use super::local::LocalManifests;
use super::manifest::Manifests;
use super::transfer::Transfers;
use super::{MirrorError, Source};
use crate::oci::Digest;
use crate::oci::manifest::ChildKind;
use crate::store::{Event, Heard, Link, Store, Subscription};
use crate::upstream::Patience;

/// Repositories that are asked for one blob: a base layer may be linked to a thousand.
pub(super) const SOURCES_MAX: usize = 16;

/// Blobs whose links are looked for at once, each time through the whole table of them.
const BATCH_MAX: usize = 64;

/// Number of times that a repair looks again when the blob was stored, or a fill was begun, in between.
const ATTEMPTS_MAX: usize = 4;

/// The blob to fetch again because of an event.
fn damaged(heard: &Heard) -> Option<Digest> {
    match heard {
        Heard::Event(Event::BlobDamaged { digest, .. }) => Some(*digest),
        Heard::Event(_) => None,
        Heard::Missed(events) => {
            tracing::debug!(
                events,
                "damaged blobs among these are fetched again by the next request"
            );
            None
        }
    }
}

/// Fetches again what is damaged.
#[derive(Debug)]
pub(super) struct Repairs {
    upstreams: Upstreams,
    store: Store,
    tasks: Tasks,
    fills: Arc<Fills>,
    local: Arc<LocalManifests>,
    manifests: Arc<Manifests>,
    transfers: Arc<Transfers>,
}

impl Repairs {
    pub(super) fn new(
        core: &Core,
        fills: &Arc<Fills>,
        local: &Arc<LocalManifests>,
        manifests: &Arc<Manifests>,
        transfers: &Arc<Transfers>,
    ) -> Self {
        Self {
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            tasks: core.tasks.clone(),
            fills: Arc::clone(fills),
            local: Arc::clone(local),
            manifests: Arc::clone(manifests),
            transfers: Arc::clone(transfers),
        }
    }

    pub(super) async fn repair_all(&self, mut events: Subscription) {
        let mut batch = Vec::new();
        while let Some(heard) = events.next().await {
            batch.extend(damaged(&heard));
            while batch.len() < BATCH_MAX
                && let Some(Some(heard)) = events.next().now_or_never()
            {
                batch.extend(damaged(&heard));
            }
            if batch.is_empty() {
                continue;
            }
            let mut sources = self.store.pages().sources_of(&batch, SOURCES_MAX).await;
            for digest in batch.drain(..) {
                let sources = sources.remove(&digest).unwrap_or_default();
                match self.repair(&digest, &sources).await {
                    Ok(()) => tracing::info!(%digest, "a damaged blob has been fetched again"),
                    Err(why) => {
                        tracing::warn!(%digest, why, "a damaged blob cannot be fetched again now; the next request for it tries");
                    }
                }
            }
        }
    }

    /// Gets a blob or manifest that is not stored from any of these repositories whose upstream is
    /// configured.
    ///
    /// # Errors
    /// The error of the last one that was asked, on one line.
    pub(super) async fn repair(&self, digest: &Digest, sources: &[Source]) -> Result<(), String> {
        let mut why = "no repository of a configured upstream is known to have it".to_owned();
        let known = |source: &&Source| self.upstreams.contains(&source.upstream);
        for source in sources.iter().filter(known) {
            let link = self
                .store
                .metadata()
                .link(source, digest)
                .await
                .unwrap_or_default();
            let asked = if link.covers(ChildKind::Manifest) {
                self.repair_manifest(source, digest).await
            } else {
                self.repair_blob(source, digest).await
            };
            match asked {
                Ok(()) => return Ok(()),
                Err(error) => why = format!("{}/{}: {error}", source.upstream, source.repository),
            }
        }
        Err(why)
    }

    async fn repair_manifest(&self, source: &Source, digest: &Digest) -> Result<(), MirrorError> {
        // What is in memory was checked when it came there.
        match self.local.peek(digest) {
            Some(manifest) => {
                let bytes = manifest.bytes.clone();
                self.store.put(digest, &manifest.media_type, bytes).await?;
            }
            None => drop(
                self.manifests
                    .by_digest(source, digest, Patience::Wait)
                    .await?,
            ),
        }
        self.is_stored(digest)
    }

    async fn repair_blob(&self, source: &Source, digest: &Digest) -> Result<(), MirrorError> {
        for _ in 0..ATTEMPTS_MAX {
            let stored = || self.store.contains(digest).is_some();
            match self.fills.claim(digest, source, stored)? {
                Claim::Stored => {
                    // It is there for whoever else has asked for it; that this repository has it was known.
                    let link = Link::of(ChildKind::Blob, None);
                    self.store
                        .metadata()
                        .record_links(source, vec![(*digest, link)])
                        .await;
                    return Ok(());
                }
                Claim::Follow { fill, .. } => {
                    // It is for another repository's sake, and may fail for its reasons.
                    let _reader = fill.reader(None);
                    if fill.over().await.is_ok() {
                        return self.is_stored(digest);
                    }
                }
                Claim::Lead(lead, _waits) => {
                    let fill = lead.fill.clone();
                    // Somebody waits for it, though not for its bytes.
                    let _reader = fill.reader(None);
                    let transfers = Arc::clone(&self.transfers);
                    let (source, digest_asked) = (source.clone(), *digest);
                    self.tasks.spawn(async move {
                        transfers.fetch(lead, source, digest_asked, None).await;
                    });
                    fill.over().await?;
                    return self.is_stored(digest);
                }
            }
        }
        Err(MirrorError::Busy("the blob comes and goes"))
    }

    fn is_stored(&self, digest: &Digest) -> Result<(), MirrorError> {
        match self.store.contains(digest) {
            Some(_) => Ok(()),
            None => Err(MirrorError::Store(
                "it was fetched, and cannot be kept".to_owned(),
            )),
        }
    }
}
