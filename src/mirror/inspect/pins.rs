//! The images that are never evicted: those that somebody pinned by hand, and those that a `[[cache.pin]]`
//! of the configuration means. What belongs to one is looked up anew whenever a manifest of its
//! repository was fetched or its tag was revalidated; a task of the mirror does that, so that no pull
//! waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Closure, Contents, InspectError, When, full_name, names, tree};
use crate::catalogue::{Catalogue, CatalogueError, Change};
use crate::clock::Clock;
use crate::mirror::core::{Core, Tasks};
use crate::mirror::opening::{self, hand_pin};
use crate::mirror::{Config, Pattern, Source};
use crate::oci::{Digest, Reference, Tag};
use crate::store::{Event, EventKinds, Heard, Pinned, Store, Subscription};

/// Time between two attempts to read the catalogue's pins, where the first failed.
const CATCH_UP_EVERY: Duration = Duration::from_secs(5);

/// A pinned image, as the list of them has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinEntry {
    /// Its name in full.
    pub image: String,
    /// Since when it is pinned.
    pub since: When,
    /// True if a rule of the configuration says so, rather than somebody by hand.
    pub by_rule: bool,
    /// Manifests and blobs that belong to it, as far as they are known.
    pub blobs: u64,
    /// Number of them that are stored.
    pub stored_blobs: u64,
    /// The bytes of those.
    pub stored_bytes: u64,
}

/// Pins images, and keeps what belongs to them up to date.
#[derive(Debug)]
pub struct Pins {
    config: Arc<Config>,
    store: Store,
    catalogue: Catalogue,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    contents: Contents,
    /// Held while somebody pins or unpins, so that catalogue and store see both in one order.
    changing: tokio::sync::Mutex<()>,
    /// The events, until the mirror's task takes them.
    events: Mutex<Option<Subscription>>,
}

impl Pins {
    pub(in crate::mirror) fn new(core: &Core, contents: &Contents) -> Self {
        // Rules that pin are looked at once, at the start: they are about all that is stored.
        let config = Arc::new(core.policies.now());
        let kinds = EventKinds::MANIFEST_STORED | EventKinds::TAG_MOVED | EventKinds::TAG_DELETED;
        let events = core.store.events().subscribe(kinds);
        Self {
            config,
            store: core.store.clone(),
            catalogue: core.catalogue.clone(),
            changing: tokio::sync::Mutex::default(),
            clock: Arc::clone(&core.clock),
            tasks: core.tasks.clone(),
            contents: contents.clone(),
            events: Mutex::new(Some(events)),
        }
    }

    /// The rule that pins a tag; without a tag, the one that pins the whole repository.
    fn rule(&self, source: &Source, tag: Option<&Tag>) -> Option<&str> {
        let mut rules = self.config.pins.iter();
        let rule = rules.find(|pattern| pattern.means(source, tag));
        rule.map(Pattern::as_str)
    }

    /// Pins an image that is known here.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn pin(&self, name: &str) -> Result<PinEntry, InspectError> {
        let (source, reference) = names::parse_image(name)?;
        self.catalogue.must_be_writable()?;
        let roots = self.contents.roots(&source, &reference).await;
        if roots.is_empty() {
            return Err(tree::not_known(&full_name(&source, &reference)));
        }
        let closure = self.contents.closure(&roots).await;
        let pinned = self.pinned(source, reference, closure, false);
        let told = self.pin_entry(&pinned);
        self.keep(pinned).await?;
        Ok(told)
    }

    /// Pins an image durably, and then here.
    async fn keep(&self, pinned: Pinned) -> Result<(), InspectError> {
        let _changing = self.changing.lock().await;
        let mut by_hand = hand_pin(&pinned);
        let mut undo = Change::Unpin(pinned.source.clone(), pinned.reference.clone());
        if let Some(old) = self.store.pins().get(&pinned.source, &pinned.reference) {
            by_hand.since = old.since;
            if !old.by_rule {
                undo = Change::Pin(hand_pin(&old));
            }
        }
        self.catalogue.commit(Change::Pin(by_hand)).await?;
        if let Err(error) = self.store.pins().pin(pinned) {
            // There are too many: the next start must find what is pinned now.
            self.catalogue.commit(undo).await?;
            return Err(InspectError::Conflict(error.to_string()));
        }
        Ok(())
    }

    /// Undoes that.
    ///
    /// # Errors
    /// [`InspectError::NotFound`]: it is not pinned.
    /// [`InspectError::Conflict`]: a rule of the configuration pins it.
    /// [`InspectError::Unavailable`]: it could not be made durable.
    pub async fn unpin(&self, name: &str) -> Result<PinEntry, InspectError> {
        let (source, reference) = names::parse_image(name)?;
        let image = full_name(&source, &reference);
        let Some(pinned) = self.store.pins().get(&source, &reference) else {
            return Err(InspectError::NotFound(format!("{image} is not pinned")));
        };
        let tag = tag_of(&reference);
        if let Some(rule) = self.rule(&source, tag) {
            return Err(InspectError::Conflict(format!(
                "{image} is pinned by the configuration: [[cache.pin]] match = \"{rule}\""
            )));
        }
        let told = self.pin_entry(&pinned);
        let _changing = self.changing.lock().await;
        let change = Change::Unpin(source.clone(), reference.clone());
        self.catalogue.commit(change).await?;
        self.store.pins().unpin(&source, &reference);
        Ok(told)
    }

    /// The pinned images, sorted by name.
    pub async fn list(self: &Arc<Self>) -> Vec<PinEntry> {
        let this = Arc::clone(self);
        // A hundred thousand look-ups, at most.
        let looking = tokio::task::spawn_blocking(move || {
            let pins = this.store.pins().all();
            pins.iter().map(|it| this.pin_entry(it)).collect()
        });
        looking.await.unwrap_or_default()
    }

    /// From now on the rules of the configuration are followed: what is there already is pinned in the
    /// background, and what comes as it comes. Once for each mirror.
    pub fn watch(self: &Arc<Self>) {
        self.catch_up_later();
        let events = self
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut events) = events else { return };
        let this = Arc::clone(self);
        let stop = self.tasks.stopping().clone();
        self.tasks.spawn(async move {
            let work = async {
                this.pin_what_is_there().await;
                while let Some(heard) = events.next().await {
                    match heard {
                        Heard::Event(event) => this.follow(event).await,
                        Heard::Missed(events) => {
                            tracing::debug!(events, "looking again at all that may be pinned");
                            this.pin_what_is_there().await;
                        }
                    }
                }
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Takes in the pins in the background that could not be read in time at the start.
    fn catch_up_later(self: &Arc<Self>) {
        if !self.store.pins().keeps_everything() || !self.catalogue.is_known() {
            return;
        }
        let this = Arc::clone(self);
        let stop = self.tasks.stopping().clone();
        self.tasks.spawn(async move {
            let work = async {
                while let Err(error) = this.catch_up().await {
                    tracing::debug!(%error, "the catalogue's pins cannot be read yet");
                    tokio::time::sleep(CATCH_UP_EVERY).await;
                }
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn catch_up(&self) -> Result<(), CatalogueError> {
        // Without the lock, for an operator would wait as long; what it has read comes out of memory below.
        self.catalogue.wait_for_pins().await?;
        let _changing = self.changing.lock().await;
        let pins = self.catalogue.pins().await?;
        opening::keep_late(&self.store, &self.catalogue, &pins).await;
        Ok(())
    }

    async fn pin_what_is_there(&self) {
        for pinned in self.store.pins().all() {
            let rule = self.rule(&pinned.source, tag_of(&pinned.reference));
            if pinned.by_rule && rule.is_none() {
                self.store.pins().unpin(&pinned.source, &pinned.reference);
            } else {
                self.renew(pinned).await;
            }
        }
        if self.config.pins.is_empty() {
            return;
        }
        self.store.pages().settle().await;
        let mut at: Option<Source> = None;
        loop {
            let sources = self.store.pages().repository_page(None, at.as_ref()).await;
            let Some(last) = sources.last() else { return };
            at = Some(last.clone());
            for source in &sources {
                let mut after: Option<Tag> = None;
                loop {
                    let tags = self.store.pages().tag_page(source, after.as_ref()).await;
                    let Some(last) = tags.last() else { break };
                    after = Some(last.tag.clone());
                    for entry in &tags {
                        self.follow_tag(source, &entry.tag).await;
                    }
                }
            }
        }
    }

    async fn follow(&self, event: Event) {
        match event {
            Event::TagMoved { source, tag, .. } => self.follow_tag(&source, &tag).await,
            Event::ManifestStored { source, digest } => {
                self.follow_manifest(&source, &digest).await;
            }
            Event::TagDeleted {
                source,
                tag,
                kept: true,
            } => self.keep_deleted(source, tag).await,
            Event::TagDeleted { kept: false, .. }
            | Event::BlobStored { .. }
            | Event::Linked { .. }
            | Event::BlobEvicted { .. }
            | Event::BlobDamaged { .. }
            | Event::ImageRemoved { .. }
            | Event::Pulled { .. } => {}
        }
    }

    /// Pins an image that upstream does not have any more. Once it is evicted it cannot be fetched again: its manifest
    /// would name what nobody can get.
    async fn keep_deleted(&self, source: Source, tag: Tag) {
        let reference = Reference::Tag(tag);
        let roots = self.contents.roots(&source, &reference).await;
        if roots.is_empty() || self.store.pins().get(&source, &reference).is_some() {
            return;
        }
        let closure = self.contents.closure(&roots).await;
        let image = full_name(&source, &reference);
        match self
            .keep(self.pinned(source, reference, closure, false))
            .await
        {
            Ok(()) => {
                tracing::info!(%image, "upstream has deleted this tag, and it is kept (tags.keep_deleted): what is stored of it is pinned now; roadstead unpin lets go of it");
            }
            Err(error) => {
                tracing::warn!(%image, %error, "upstream has deleted this tag, and it is kept, but cannot be pinned: what is evicted of it cannot be fetched again");
            }
        }
    }

    async fn follow_tag(&self, source: &Source, tag: &Tag) {
        let reference = Reference::Tag(tag.clone());
        if let Some(pinned) = self.store.pins().get(source, &reference) {
            self.renew(pinned).await;
        } else if self.rule(source, Some(tag)).is_some() {
            self.pin_by_rule(source, reference).await;
        }
    }

    /// A manifest of an image that is pinned brings its layers along. What is pulled by its digest alone
    /// is an image of its own, where a rule means the whole repository.
    async fn follow_manifest(&self, source: &Source, digest: &Digest) {
        let mut is_part = false;
        for pinned in self.store.pins().of(source) {
            if pinned.digests.binary_search(digest).is_ok() {
                is_part = true;
                self.renew(pinned).await;
            }
        }
        if !is_part && self.rule(source, None).is_some() {
            self.pin_by_rule(source, Reference::Digest(*digest)).await;
        }
    }

    async fn pin_by_rule(&self, source: &Source, reference: Reference) {
        let roots = self.contents.roots(source, &reference).await;
        if roots.is_empty() {
            return;
        }
        let closure = self.contents.closure(&roots).await;
        let image = full_name(source, &reference);
        let pinned = self.pinned(source.clone(), reference, closure, true);
        if let Err(error) = self.store.pins().pin(pinned) {
            tracing::warn!(%image, %error, "an image that a [[cache.pin]] means is not pinned");
        } else {
            tracing::debug!(%image, "pinned by a rule");
        }
    }

    /// Looks up anew what belongs to a pinned image. One whose manifests cannot be read now, or whose tag
    /// upstream has deleted, keeps what it has.
    async fn renew(&self, old: Pinned) {
        let roots = self.contents.roots(&old.source, &old.reference).await;
        let closure = self.contents.closure(&roots).await;
        let moved = roots
            .iter()
            .any(|root| old.digests.binary_search(root).is_err());
        if roots.is_empty() || (!closure.roots_seen && !moved) {
            return;
        }
        let (by_rule, before) = (old.by_rule, old.digests);
        let pinned = self.pinned(old.source, old.reference, closure, by_rule);
        let image = full_name(&pinned.source, &pinned.reference);
        if !by_rule && pinned.digests != before {
            let change = Change::Renew(hand_pin(&pinned));
            if let Err(error) = self.catalogue.commit(change).await {
                tracing::warn!(%image, %error, "a pinned image has changed; after the next start it is pinned as it was until its tag is asked for");
            }
        }
        if let Err(error) = self.store.pins().renew(pinned) {
            tracing::warn!(%image, %error, "a pinned image has changed, and stays pinned as it was");
        }
    }

    fn pinned(
        &self,
        source: Source,
        reference: Reference,
        closure: Closure,
        by_rule: bool,
    ) -> Pinned {
        Pinned {
            source,
            reference,
            since: self.clock.now(),
            by_rule,
            digests: closure.parts.into_keys().collect(),
        }
    }

    fn pin_entry(&self, pinned: &Pinned) -> PinEntry {
        let stored = self.store.contents().stored(&pinned.digests);
        PinEntry {
            image: full_name(&pinned.source, &pinned.reference),
            since: When(pinned.since),
            by_rule: pinned.by_rule,
            blobs: pinned.digests.len() as u64,
            stored_blobs: stored.len() as u64,
            stored_bytes: stored.iter().map(|(_, size)| size).sum(),
        }
    }
}

fn tag_of(reference: &Reference) -> Option<&Tag> {
    match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(_) => None,
    }
}

#[cfg(test)]
mod tests;
