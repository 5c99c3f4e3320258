//! Writing to the bucket, after the commit: what was just stored or heard, and what a look through the index finds.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::error::BucketError;
use super::facts;
use super::handle::Tier;
use super::notes;
use super::queue::{Fact, Waiting};
use super::upload::Written;
use crate::mirror::{KeptLink, Mirror, Nodes, Owned, Source};
use crate::oci::{Accept, AcceptClass, Digest, Tag};
use crate::store::{Event, EventKinds, Heard, Link, Origin, TagRecord};

/// Blobs that are written at once.
const BLOBS_AT_ONCE: usize = 2;

/// Tags and links that are written at once.
const FACTS_AT_ONCE: usize = 4;

/// Wait after something could not be written.
const FAILED_WAIT: Duration = Duration::from_secs(5);

/// Wait after the store refused it: keys or permissions have to be changed by somebody.
const REFUSED_WAIT: Duration = Duration::from_mins(1);

/// The media type of a fact.
const FACT_TYPE: &str = "application/json";

/// Seconds of a day.
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Writes to the bucket. Cheap to clone.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) tier: Tier,
    mirror: Mirror,
    nodes: Option<Arc<dyn Nodes>>,
}

impl Writer {
    pub(super) fn new(tier: Tier, mirror: Mirror, nodes: Option<Arc<dyn Nodes>>) -> Self {
        Self {
            tier,
            mirror,
            nodes,
        }
    }

    /// Writes, for as long as it is polled.
    pub(super) async fn run(self) {
        if !self.tier.config.write.enabled {
            return std::future::pending().await;
        }
        let blobs = join_all((0..BLOBS_AT_ONCE).map(|_| self.write_blobs()));
        let facts = join_all((0..FACTS_AT_ONCE).map(|_| self.write_facts()));
        let listening = Box::pin(self.listen());
        let surveying = Box::pin(self.survey());
        let probing = Box::pin(self.tier.keep_probing());
        let cleaning = Box::pin(self.tier.clean_leftovers());
        tokio::join!(blobs, facts, listening, surveying, probing, cleaning);
    }

    /// Puts into the queue what is stored and heard.
    async fn listen(&self) {
        let kinds = EventKinds::BLOB_STORED
            | EventKinds::LINKED
            | EventKinds::TAG_MOVED
            | EventKinds::TAG_DELETED;
        let mut events = self.tier.store.events().subscribe(kinds);
        while let Some(heard) = events.next().await {
            match heard {
                Heard::Event(event) => self.hear(event),
                Heard::Missed(_) => self.tier.queue.missed(),
            }
        }
        std::future::pending::<()>().await;
    }

    fn hear(&self, event: Event) {
        let queue = &self.tier.queue;
        match event {
            Event::BlobStored { digest, size } if self.is_mine(&digest) => {
                let anew = self.tier.is_distrusted(&digest);
                let waiting = Waiting { digest, size, anew };
                queue.add_blob(waiting);
            }
            Event::Linked { source, digest }
                if self.is_mine(&digest) && self.keeps_words_of(&source) =>
            {
                queue.add_fact(Fact::Link(source, digest));
            }
            Event::TagMoved { source, tag, .. }
            | Event::TagDeleted {
                source,
                tag,
                kept: false,
            } if self.is_mine_to_name(&source, &tag) && self.keeps_words_of(&source) => {
                queue.add_fact(Fact::Tag(source, tag));
            }
            Event::BlobStored { .. }
            | Event::Linked { .. }
            | Event::TagMoved { .. }
            | Event::BlobEvicted { .. }
            | Event::BlobDamaged { .. }
            | Event::ManifestStored { .. }
            | Event::TagDeleted { .. }
            | Event::ImageRemoved { .. }
            | Event::Pulled { .. } => {}
        }
    }

    /// True if no other node owns a digest: that one writes it.
    pub(super) fn is_mine(&self, digest: &Digest) -> bool {
        let nodes = self.nodes.as_ref();
        !nodes.is_some_and(|nodes| nodes.own(&Owned::Content(digest)))
    }

    fn is_mine_to_name(&self, source: &Source, tag: &Tag) -> bool {
        let accept = Accept::from(AcceptClass::ALL);
        let nodes = self.nodes.as_ref();
        !nodes.is_some_and(|nodes| nodes.own(&Owned::Tagged(source, tag, &accept)))
    }

    /// True if what an upstream says may be kept: not if it answers each client for itself, and only sealed.
    pub(super) fn keeps_words_of(&self, source: &Source) -> bool {
        self.tier.seal.is_some() && !self.mirror.in_use().decides_for_each(&source.upstream)
    }

    /// Days after which what is in use is written again, if the bucket deletes what is old.
    pub(super) fn renew_days(&self) -> Option<u32> {
        let renew = self.tier.config.write.renew?;
        u32::try_from(renew.as_secs() / DAY_SECONDS).ok()
    }

    async fn write_blobs(&self) {
        let queue = &self.tier.queue;
        loop {
            let waiting = queue.next_blob().await;
            let written = self.tier.write(waiting).await;
            let wait = self.outcome(&written, &waiting.digest.to_string());
            match &written {
                Ok(Written::New | Written::Before) => {
                    let key = notes::blob_key(&waiting.digest);
                    self.tier.store.tiered().set(key, b"").await;
                    // Between nodes it counts who of them has a blob: with all of theirs in the bucket nothing would.
                    if self.nodes.is_none() {
                        self.tier.store.quotas().copied(&waiting.digest, true);
                    }
                }
                Ok(Written::NotHere) => {}
                Err(_) => {
                    queue.add_blob(waiting);
                }
            }
            queue.done(waiting);
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn write_facts(&self) {
        let queue = &self.tier.queue;
        loop {
            let fact = queue.next_fact().await;
            let written = match &fact {
                Fact::Link(source, digest) => self.write_link(source, digest).await,
                Fact::Tag(source, tag) => self.write_tag(source, tag).await,
            };
            let what = match &fact {
                Fact::Link(source, _) => format!("a link of {}", source.repository),
                Fact::Tag(source, tag) => format!("{}:{tag}", source.repository),
            };
            let wait = self.outcome(&written, &what);
            if written.is_err() {
                queue.add_fact(fact);
            }
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Tells of what went wrong, and how long to wait then.
    fn outcome<T>(&self, written: &Result<T, BucketError>, what: &str) -> Option<Duration> {
        let (queue, bucket) = (&self.tier.queue, self.tier.bucket.name());
        match written {
            Ok(_) => {
                queue.is_in_trouble(None);
                None
            }
            Err(BucketError::Rests) => Some(self.tier.bucket.rest().unwrap_or(FAILED_WAIT)),
            Err(BucketError::Refused(why)) => {
                if queue.is_in_trouble(Some(why.clone())) {
                    tracing::warn!(
                        bucket,
                        what,
                        why,
                        "the object store does not let us write: nothing new gets there until its keys or permissions are changed; it is tried again each minute, and read as far as it lets us"
                    );
                }
                Some(REFUSED_WAIT)
            }
            Err(error @ (BucketError::Failed(_) | BucketError::Absent)) => {
                tracing::debug!(bucket, what, %error, "not written to the object store; it is tried again");
                Some(FAILED_WAIT)
            }
        }
    }

    async fn write_link(&self, source: &Source, digest: &Digest) -> Result<(), BucketError> {
        let store = &self.tier.store;
        let Some(link) = store.metadata().link(source, digest).await else {
            return Ok(());
        };
        if !link.is_given() {
            return Ok(());
        }
        let text = link_text(&link);
        let note = notes::of(store, notes::link_key(source, digest)).await;
        let renew_days = self.renew_days();
        if note.is_some_and(|it| it.text == text && !notes::is_old(store, &it, renew_days)) {
            return Ok(());
        }
        let media_type = if link.manifest {
            store.metadata().media_type(digest).await
        } else {
            None
        };
        let kept = KeptLink { link, media_type };
        let key = self.tier.keys.link(source, digest);
        self.put_fact(&key, &facts::link(source, digest, kept))
            .await?;
        let note = notes::link_key(source, digest);
        store.tiered().set(note, &text).await;
        Ok(())
    }

    async fn write_tag(&self, source: &Source, tag: &Tag) -> Result<(), BucketError> {
        let store = &self.tier.store;
        let records = store.metadata().tags(source, tag).await;
        let heard = records.iter().filter(|it| it.origin == Origin::Upstream);
        let heard: Vec<&TagRecord> = heard.collect();
        let text = notes::tag_text(&heard);
        let note = notes::of(store, notes::tag_key(source, tag)).await;
        let is_nothing = heard.is_empty() && note.is_none();
        if is_nothing || note.as_ref().is_some_and(|it| it.text == text) {
            return Ok(());
        }
        // Other nodes may have heard it for other formats. What this one had, and the upstream has deleted, is not to come
        // back from there.
        let before = note.as_ref().map(notes::formats).unwrap_or_default();
        let kept = self.tier.kept_tag(source, tag).await.unwrap_or_default();
        let is_others = |it: &TagRecord| {
            let here = heard.iter().any(|ours| ours.class == it.class);
            !here && !before.contains(&it.class)
        };
        let others = kept.into_iter().filter(is_others);
        let ours = heard.iter().map(|it| (*it).clone());
        let fact = facts::tag(source, tag, ours.chain(others).collect());
        self.put_fact(&self.tier.keys.tag(source, tag), &fact)
            .await?;
        let note = notes::tag_key(source, tag);
        if heard.is_empty() {
            store.tiered().forget(note).await;
        } else {
            store.tiered().set(note, &text).await;
        }
        Ok(())
    }

    async fn put_fact(
        &self,
        key: &object_store::path::Path,
        fact: &impl serde::Serialize,
    ) -> Result<(), BucketError> {
        let sealed = self.tier.seal.as_ref().and_then(|seal| seal.seal(fact));
        match sealed {
            Some(sealed) => self.tier.bucket.put(key, sealed.into(), FACT_TYPE).await,
            None => Ok(()),
        }
    }
}

/// The text of a link's note: another link has another.
pub(super) fn link_text(link: &Link) -> Vec<u8> {
    format!("{} {} {:?}", link.manifest, link.blob, link.size).into_bytes()
}
