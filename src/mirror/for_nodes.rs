//! What a node of a cluster tells the others: that which it has, and how old its knowledge is. Nobody is waited for.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::Source;
use super::answer::{BlobAnswer, Content, Filling};
use super::core::Core;
use super::fills::Fills;
use super::negative::{Negative, What};
use super::offers::Offer;
use super::passthrough::Passthroughs;
use super::tag::Tags;
use crate::clock::Clock;
use crate::oci::manifest::ChildKind;
use crate::oci::{Accept, AcceptClass, ByteRange, Digest, Reference, Tag};
use crate::store::{FillKey, Link, Store};
use crate::telemetry::Outcome;

/// Knowledge that nodes of a cluster share.
#[derive(Debug)]
pub struct ForNodes {
    store: Store,
    clock: Arc<dyn Clock>,
    negative: Arc<Negative>,
    tags: Arc<Tags>,
    fills: Arc<Fills>,
    passthroughs: Arc<Passthroughs>,
}

/// A blob, or the beginning of what was asked for of it, that is here without waiting for anybody.
#[derive(Debug)]
pub struct StoredPart {
    /// The content.
    pub answer: BlobAnswer,
    /// The bytes of it that are here.
    pub range: Range<u64>,
}

impl ForNodes {
    pub(super) fn new(
        core: &Core,
        negative: &Arc<Negative>,
        tags: &Arc<Tags>,
        fills: &Arc<Fills>,
        passthroughs: &Arc<Passthroughs>,
    ) -> Self {
        Self {
            store: core.store.clone(),
            clock: Arc::clone(&core.clock),
            negative: Arc::clone(negative),
            tags: Arc::clone(tags),
            fills: Arc::clone(fills),
            passthroughs: Arc::clone(passthroughs),
        }
    }

    /// Another node has these parts of a blob, for the rest of which it asks.
    pub fn offered(&self, source: &Source, digest: &Digest, offer: Offer) {
        let key = FillKey::new(&source.upstream, *digest);
        self.fills.offers().take(key, offer);
    }

    /// The size of a blob that is stored and that the upstream has said the repository has. Nobody is asked.
    pub async fn stored_size(&self, source: &Source, digest: &Digest) -> Option<u64> {
        let link = self.store.metadata().link(source, digest).await?;
        if !(link.covers(ChildKind::Blob) && link.is_given()) {
            return None;
        }
        self.store.scan().find(digest).await
    }

    /// What there is of a blob, from the first byte asked for on. Nobody is asked, and nobody is waited for.
    pub async fn stored(
        &self,
        source: &Source,
        digest: &Digest,
        asked: Option<ByteRange>,
    ) -> Option<StoredPart> {
        let link = self.store.metadata().link(source, digest).await;
        let link = link.filter(|link| link.covers(ChildKind::Blob));
        let resolve = |total| match asked {
            None => Some(0..total),
            Some(asked) => asked.resolve(total).ok(),
        };
        if link.is_some_and(|link| link.is_given())
            && let Some(blob) = self.store.blob(digest).await
        {
            let range = resolve(blob.size())?;
            let answer = self.passthroughs.answer_stored(blob, source);
            return Some(StoredPart { answer, range });
        }
        // The upstream sends it for this repository, or has named it in one of its manifests.
        let fill = self.fills.find(&source.upstream, digest)?;
        if link.is_none() && !self.fills.is_for(source, digest) {
            return None;
        }
        let total = fill.started().now_or_never()?.ok()??;
        let Range { start, end } = resolve(total)?;
        // Its last byte would wait for the check of the digest.
        let end = fill.run_end(start).min(end).min(total.saturating_sub(1));
        let last = end.checked_sub(1).filter(|last| *last >= start)?;
        let filling = Filling {
            fill,
            asked: Some(ByteRange::Between(start, last)),
            size_is_known: true,
            asker: self.passthroughs.asker(source, digest),
        };
        let answer = BlobAnswer {
            total: Some(total),
            outcome: Outcome::Partial,
            fed_by: None,
            content: Content::Filling(filling),
        };
        let range = start..end;
        Some(StoredPart { answer, range })
    }

    /// Another node says that the upstream has this blob in this repository, and how large it is: a word as good as the
    /// upstream's own.
    pub async fn vouch(&self, source: &Source, digest: &Digest, size: u64) {
        let metadata = self.store.metadata();
        let known = metadata.link(source, digest).await;
        if !known.is_some_and(|link| link.covers(ChildKind::Blob) && link.is_given()) {
            let link = Link::of(ChildKind::Blob, Some(size)).given();
            metadata.record_links(source, vec![(*digest, link)]).await;
        }
    }

    /// Asks the upstream what a tag names now, however fresh it is. The answer is what is known of it after that.
    pub async fn refresh(&self, source: &Source, tag: &Tag, class: AcceptClass) {
        if let Err(error) = self.tags.refresh(source, tag, class).await {
            tracing::debug!(upstream = %source.upstream, repository = %source.repository, %tag, %error, "a tag cannot be refreshed for another node");
        }
    }

    /// Time since the upstream said that a tag is not there, if it has lately.
    #[must_use]
    pub fn no_tag_age(&self, source: &Source, tag: &Tag, accept: &Accept) -> Option<Duration> {
        let what = What::Manifest(Reference::Tag(tag.clone()), accept.clone());
        self.negative.age(source, &what)
    }

    /// Time since the upstream said what a tag names for clients of a class, if it has.
    pub async fn tag_age(
        &self,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
    ) -> Option<Duration> {
        let records = self.store.metadata().tags(source, tag).await;
        let record = records.iter().find(|record| record.class == class)?;
        Some(self.clock.now().since(record.checked))
    }
}
