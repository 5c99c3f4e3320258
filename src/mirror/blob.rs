//! Blobs: from the store, from a fill that is under way, or by a new fill.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::answer::{BlobAnswer, BlobHead, Content, Filling};
use super::core::{ANSWER_WAIT_MAX, Core, Tasks};
use super::fills::{Claim, Fills, Lead};
use super::links::Links;
use super::negative::{Negative, What};
use super::passthrough::Passthroughs;
use super::transfer::Transfers;
use super::{MirrorError, Source};
use crate::oci::manifest::ChildKind;
use crate::oci::{ByteRange, Digest};
use crate::store::{Ended, Fill, Link, Store};
use crate::telemetry::Outcome;
use crate::upstream::{OnBehalf, in_request_scope};

/// Number of times that a request looks again: when a blob was stored or evicted in
/// between, or when the fill it joined failed for another repository's reasons.
const ATTEMPTS_MAX: usize = 4;

/// Blobs, and the transfers of those that are not stored.
#[derive(Debug)]
pub(super) struct Blobs {
    store: Store,
    tasks: Tasks,
    negative: Arc<Negative>,
    links: Arc<Links>,
    fills: Arc<Fills>,
    transfers: Arc<Transfers>,
    passthroughs: Arc<Passthroughs>,
}

impl Blobs {
    pub(super) fn new(
        core: &Core,
        negative: &Arc<Negative>,
        links: &Arc<Links>,
        fills: &Arc<Fills>,
        transfers: &Arc<Transfers>,
        passthroughs: &Arc<Passthroughs>,
    ) -> Self {
        Self {
            store: core.store.clone(),
            tasks: core.tasks.clone(),
            negative: Arc::clone(negative),
            links: Arc::clone(links),
            fills: Arc::clone(fills),
            transfers: Arc::clone(transfers),
            passthroughs: Arc::clone(passthroughs),
        }
    }

    pub(super) async fn get(
        &self,
        source: &Source,
        digest: &Digest,
        asked: Option<ByteRange>,
    ) -> Result<BlobAnswer, MirrorError> {
        let answer_by = Instant::now() + ANSWER_WAIT_MAX;
        let mut told = None;
        for attempt in 0..ATTEMPTS_MAX {
            if let Some(answer) = self.stored_blob(source, digest).await? {
                return Ok(answer);
            }
            self.negative.check(source, &What::Blob(*digest))?;
            let stored = || self.store.contains(digest).is_some();
            match self.fills.claim(digest, source, stored)? {
                Claim::Stored if attempt == 0 => {}
                // It is there, and cannot be read now: the disk does not answer, or descriptors are lacking.
                Claim::Stored => return self.passthroughs.answer(source, digest, answer_by).await,
                Claim::Follow {
                    fill,
                    source: for_whom,
                    waits: _waits,
                } => {
                    // What upstream sends for this repository needs no further proof that it is there.
                    if for_whom != *source {
                        self.links
                            .ensure_named(source, digest, ChildKind::Blob)
                            .await?;
                    }
                    match fill.started().await {
                        Ok(total) => {
                            let content = self.filling(fill, source, digest, asked).await;
                            return Ok(BlobAnswer {
                                total,
                                outcome: Outcome::Collapsed,
                                fed_by: None,
                                content,
                            });
                        }
                        Err(Ended::Failed(MirrorError::NotStored { .. })) => {
                            return self.passthroughs.answer(source, digest, answer_by).await;
                        }
                        // It failed for whoever asked first, by another way or with too much else.
                        Err(Ended::Failed(error)) if error.is_the_askers_own() => {
                            told = Some(error);
                        }
                        // Its repository or upstream may have failed where ours would not.
                        Err(_) if for_whom != *source => {}
                        Err(ended) => return Err(ended.into()),
                    }
                }
                Claim::Lead(lead, _waits) => {
                    return self.led(lead, source, digest, asked, answer_by).await;
                }
            }
        }
        Err(told.unwrap_or(MirrorError::Busy("the blob comes and goes")))
    }

    /// Begins a fill, and reads it.
    async fn led(
        &self,
        lead: Lead,
        source: &Source,
        digest: &Digest,
        asked: Option<ByteRange>,
        answer_by: Instant,
    ) -> Result<BlobAnswer, MirrorError> {
        let (fill, fed_by) = (lead.fill.clone(), lead.fed_by.clone());
        let (source_asked, wanted) = (source.clone(), *digest);
        let transfers = Arc::clone(&self.transfers);
        self.tasks.spawn(in_request_scope(async move {
            transfers.fetch(lead, source_asked, wanted, asked).await;
        }));
        let started = fill.started().await.map_err(MirrorError::from);
        if let Err(MirrorError::NotStored { .. }) = started {
            return self.passthroughs.answer(source, digest, answer_by).await;
        }
        let total = started.inspect_err(|error| {
            self.negative.note(source, What::Blob(*digest), error);
        })?;
        let outcome = if fill.was_taken_up() {
            Outcome::Partial
        } else {
            Outcome::Miss
        };
        let content = self.filling(fill, source, digest, asked).await;
        Ok(BlobAnswer {
            total,
            outcome,
            fed_by: fed_by.get(),
            content,
        })
    }

    async fn filling(
        &self,
        fill: Fill<MirrorError>,
        source: &Source,
        digest: &Digest,
        asked: Option<ByteRange>,
    ) -> Content {
        let size_is_known = match asked {
            // It may be the first of several.
            Some(_) => {
                let link = self.store.metadata().link(source, digest).await;
                link.is_some_and(|link| link.size.is_some())
            }
            // Nothing depends on it.
            None => false,
        };
        Content::Filling(Filling {
            fill,
            asked,
            size_is_known,
            asker: self.passthroughs.asker(source, digest),
        })
    }

    pub(super) async fn head(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<BlobHead, MirrorError> {
        if let Some(size) = self.store.scan().find(digest).await {
            self.links
                .ensure_linked(source, digest, ChildKind::Blob)
                .await?;
            return Ok(BlobHead {
                total: Some(size),
                outcome: Outcome::Hit,
            });
        }
        // What a manifest of this repository says of it is as good as upstream's HEAD, and better than some.
        let link = self.store.metadata().link(source, digest).await;
        let said = link.filter(|link| link.covers(ChildKind::Blob));
        if let Some(size) = said.and_then(|link| link.size).filter(|size| *size > 0) {
            self.negative.check(source, &What::Blob(*digest))?;
            return Ok(BlobHead {
                total: Some(size),
                outcome: Outcome::Hit,
            });
        }
        if let Some(fill) = self.fills.find(&source.upstream, digest) {
            self.links
                .ensure_named(source, digest, ChildKind::Blob)
                .await?;
            let started = if OnBehalf::is_for_node() {
                // It may itself wait for the node that asks.
                fill.started().now_or_never()
            } else {
                Some(fill.started().await)
            };
            if let Some(Ok(total)) = started {
                return Ok(BlobHead {
                    total,
                    outcome: Outcome::Collapsed,
                });
            }
        }
        let total = self.links.ask_head(source, digest, ChildKind::Blob).await?;
        Ok(BlobHead {
            total,
            outcome: Outcome::Bypass,
        })
    }

    async fn stored_blob(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<Option<BlobAnswer>, MirrorError> {
        let Some(blob) = self.store.blob(digest).await else {
            return Ok(None);
        };
        self.links
            .ensure_linked(source, digest, ChildKind::Blob)
            .await?;
        let size = blob.size();
        let link = self.store.metadata().link(source, digest).await;
        if link.is_some_and(|link| link.size.is_some_and(|said| said != size)) {
            // What is stored was hashed in full when it came: a manifest that says another size is wrong.
            tracing::debug!(upstream = %source.upstream, repository = %source.repository, %digest, bytes = size, "a manifest says another size of what is stored");
            let link = Link::of(ChildKind::Blob, Some(size));
            self.store
                .metadata()
                .record_links(source, vec![(*digest, link)])
                .await;
        }
        if OnBehalf::is_for_node() {
            // Whoever asks takes this node for the first to be asked: it is no copy that others have anyway.
            self.store.quotas().copied(digest, false);
        }
        Ok(Some(self.passthroughs.answer_stored(blob, source)))
    }
}
