//! Removing images by hand: a tag or digest is forgotten, and what no other image has goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::MutexGuard;

use super::{Contents, InspectError, full_name, names};
use crate::catalogue::Name;
use crate::mirror::Source;
use crate::mirror::core::Core;
use crate::mirror::imported::Imported;
use crate::mirror::local::LocalManifests;
use crate::mirror::tag::Tags;
use crate::oci::{Digest, Reference, Tag};
use crate::store::{self, Event, LinkEntry, Store};

/// Blobs of a repository that are looked for in the others at a time: some 20 MB.
const BATCH_MAX: usize = 100_000;

/// Blobs removed before that is written to the index: a part of what may wait there.
const SAVED_EVERY: usize = 10_000;

/// Number of times that a question looks if all files have been gone through: that takes most stores less than a second.
const SCAN_LOOKS_MAX: u32 = 100;
const SCAN_LOOK_EACH: Duration = Duration::from_millis(50);

/// The outcome of removing an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The image, or the repository.
    pub image: String,
    /// True if nothing was done.
    pub dry_run: bool,
    /// The tags that are forgotten.
    pub forgotten_tags: Vec<String>,
    /// Blobs and manifests that are gone.
    pub removed_blobs: u64,
    /// The bytes that came free.
    pub freed_bytes: u64,
    /// Blobs that stay, and why.
    pub kept: Kept,
    /// Of a hosted image: seconds for which it can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restorable_seconds: Option<u64>,
}

/// Blobs of a removed image that stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Those that other images have.
    pub shared_blobs: u64,
    /// Their bytes.
    pub shared_bytes: u64,
    /// Those that somebody reads now.
    pub open_blobs: u64,
    /// Those of pinned images.
    pub pinned_blobs: u64,
}

/// That there is nothing to remove, and how to find what was meant.
fn nothing_to_remove(name: &str, image: &str) -> InspectError {
    let meant = match names::upstream_named(name) {
        Some(upstream) => format!(
            "{upstream} is a registry, and no image {image} is in the cache: name an image, or one of its repositories with --all"
        ),
        None => format!("{image} is not in the cache, so there is nothing to remove"),
    };
    let list = names::upstream_named(name).map_or_else(String::new, |name| format!(" {name}"));
    InspectError::NotFound(format!("{meant}; roadstead ls{list} lists what there is"))
}

/// Removes images by hand, one operator at a time.
#[derive(Debug)]
pub struct Removal {
    store: Store,
    local: Arc<LocalManifests>,
    imported: Arc<Imported>,
    tags: Arc<Tags>,
    contents: Contents,
    /// Held while an operator removes something.
    lock: tokio::sync::Mutex<()>,
}

impl Removal {
    pub(in crate::mirror) fn new(
        core: &Core,
        local: &Arc<LocalManifests>,
        imported: &Arc<Imported>,
        tags: &Arc<Tags>,
        contents: &Contents,
    ) -> Self {
        Self {
            store: core.store.clone(),
            local: Arc::clone(local),
            imported: Arc::clone(imported),
            tags: Arc::clone(tags),
            contents: contents.clone(),
            lock: tokio::sync::Mutex::default(),
        }
    }

    /// Waits for a removal that is under way; none begins as long as this is held.
    pub(in crate::mirror) async fn hold(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().await
    }

    /// Removes an image, or with `all` the repository that it is in. With `dry_run` it is only said what
    /// would go.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn remove(
        &self,
        name: &str,
        all: bool,
        dry_run: bool,
    ) -> Result<Removed, InspectError> {
        let (source, reference) = names::parse_image(name)?;
        let _one_at_a_time = self.hold().await;
        self.store.pages().settle().await;
        self.know_all().await?;
        if all {
            return self.remove_repository(&source, dry_run).await;
        }
        let image = full_name(&source, &reference);
        if self.store.pins().get(&source, &reference).is_some() {
            return Err(InspectError::Conflict(format!(
                "{image} is pinned; unpin it first"
            )));
        }
        let roots = self.contents.roots(&source, &reference).await;
        if roots.is_empty() {
            return Err(nothing_to_remove(name, &image));
        }
        let tags = match &reference {
            Reference::Tag(tag) => vec![tag.clone()],
            Reference::Digest(digest) => self.tags_naming(&source, digest).await,
        };
        let closure = self.contents.closure(&roots).await;
        let own: BTreeSet<Digest> = closure.parts.into_keys().collect();
        let mut exclusive = own.clone();
        self.keep_other_images(&source, &own, &tags, &mut exclusive)
            .await;
        let links: Vec<Digest> = exclusive.iter().copied().collect();
        self.keep_other_repositories(&source, &mut exclusive).await;
        self.must_know_all().await?;
        let mut removed = Removed {
            image,
            dry_run,
            forgotten_tags: tags.iter().map(ToString::to_string).collect(),
            ..Removed::default()
        };
        self.count_shared(own.difference(&exclusive), &mut removed);
        if !dry_run {
            // Durably first: or an import would come back with the next start.
            let names = tags.iter().cloned().map(Name::Tag);
            let unpinned = links.iter().filter(|digest| !self.is_pinned(digest));
            let names = names.chain(unpinned.copied().map(Name::Digest));
            self.imported.forget(&source, names).await?;
            for tag in &tags {
                self.forget_name(&source, tag).await;
            }
        }
        self.remove_blobs(&exclusive, &mut removed).await;
        if !dry_run {
            // Pinned content is still the repository's.
            let links = links.into_iter();
            let gone = links.filter(|digest| !self.is_pinned(digest)).collect();
            self.store.metadata().forget_links(&source, gone).await;
            self.end_removal(source, Some(reference)).await;
        }
        Ok(removed)
    }

    /// True if a stored blob belongs to a pinned image.
    fn is_pinned(&self, digest: &Digest) -> bool {
        let held = self.store.contents().held(digest);
        held.is_some_and(|held| held.pinned)
    }

    /// Counts what stays because others have it.
    fn count_shared<'a>(&self, shared: impl Iterator<Item = &'a Digest>, removed: &mut Removed) {
        let shared: Vec<Digest> = shared.copied().collect();
        for (_, size) in self.store.contents().stored(&shared) {
            removed.kept.shared_blobs += 1;
            removed.kept.shared_bytes += size;
        }
    }

    async fn end_removal(&self, source: Source, reference: Option<Reference>) {
        self.store.metadata().forget_if_empty(&source).await;
        let removed = Event::ImageRemoved { source, reference };
        self.store.events().tell(removed);
    }

    /// Waits for the look through all files, which a start begins with, and refuses if that takes long.
    pub(super) async fn know_all(&self) -> Result<(), InspectError> {
        self.imported.must_be_restored().await?;
        for _ in 0..SCAN_LOOKS_MAX {
            if self.store.knows_all().await {
                break;
            }
            tokio::time::sleep(SCAN_LOOK_EACH).await;
        }
        self.must_know_all().await
    }

    /// Refuses to remove anything while the index does not say all.
    pub(super) async fn must_know_all(&self) -> Result<(), InspectError> {
        if self.store.knows_all().await {
            return Ok(());
        }
        let why = "the index cannot be read, or the files are still being looked through after the start: what is needed cannot be told now; try again later";
        Err(InspectError::Conflict(why.to_owned()))
    }

    /// Forgets what a tag names, here and in what is remembered of its failures.
    async fn forget_name(&self, source: &Source, tag: &Tag) {
        self.store.metadata().drop_tag(source, tag).await;
        self.tags.forget_failure(source, tag);
    }

    /// The tags of a repository that name a digest.
    async fn tags_naming(&self, source: &Source, digest: &Digest) -> Vec<Tag> {
        let mut found = Vec::new();
        let mut after: Option<Tag> = None;
        loop {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else {
                return found;
            };
            after = Some(last.tag.clone());
            let names = tags
                .into_iter()
                .filter(|entry| entry.records.iter().any(|record| record.digest == *digest));
            found.extend(names.map(|entry| entry.tag));
        }
    }

    /// Takes out of `exclusive` what the repository's other images have: what its other tags name, and
    /// manifests that are no part of the image (`own`).
    async fn keep_other_images(
        &self,
        source: &Source,
        own: &BTreeSet<Digest>,
        removed_tags: &[Tag],
        exclusive: &mut BTreeSet<Digest>,
    ) {
        let mut after: Option<Tag> = None;
        while !exclusive.is_empty() {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else { break };
            after = Some(last.tag.clone());
            for entry in tags.iter().filter(|it| !removed_tags.contains(&it.tag)) {
                for record in &entry.records {
                    self.keep_parts_of(&record.digest, exclusive).await;
                }
            }
        }
        let mut after: Option<LinkEntry> = None;
        while !exclusive.is_empty() {
            let links = self
                .store
                .pages()
                .link_page(Some(source), after.as_ref())
                .await;
            let Some(last) = links.last() else { break };
            after = Some(last.clone());
            let others = links
                .iter()
                .filter(|entry| entry.link.manifest && !own.contains(&entry.digest));
            for entry in others {
                self.keep_parts_of(&entry.digest, exclusive).await;
            }
        }
    }

    async fn keep_parts_of(&self, digest: &Digest, exclusive: &mut BTreeSet<Digest>) {
        for part in self.contents.closure(&[*digest]).await.parts.keys() {
            exclusive.remove(part);
        }
    }

    /// Takes out of `exclusive` what other repositories have.
    async fn keep_other_repositories(&self, source: &Source, exclusive: &mut BTreeSet<Digest>) {
        let mut after: Option<LinkEntry> = None;
        while !exclusive.is_empty() {
            let links = self.store.pages().link_page(None, after.as_ref()).await;
            let Some(last) = links.last() else { break };
            after = Some(last.clone());
            for entry in links.iter().filter(|entry| entry.source != *source) {
                exclusive.remove(&entry.digest);
            }
        }
    }

    /// Removes blobs, and counts what stays for being read or pinned.
    pub(super) async fn remove_blobs(&self, blobs: &BTreeSet<Digest>, removed: &mut Removed) {
        for (at, digest) in blobs.iter().enumerate() {
            if at % SAVED_EVERY == SAVED_EVERY - 1 {
                self.store.pages().settle().await;
            }
            let removal = if removed.dry_run {
                self.store.contents().would_remove(digest)
            } else {
                self.local.forget(digest);
                self.store.contents().remove(digest).await
            };
            match removal {
                store::Removal::Absent => {}
                store::Removal::Open => removed.kept.open_blobs += 1,
                store::Removal::Pinned => removed.kept.pinned_blobs += 1,
                store::Removal::Removed(size) => {
                    removed.removed_blobs += 1;
                    removed.freed_bytes += size;
                }
            }
        }
    }

    async fn remove_repository(
        &self,
        source: &Source,
        dry_run: bool,
    ) -> Result<Removed, InspectError> {
        let image = format!("{}/{}", source.upstream, source.repository);
        let pinned: Vec<Reference> = self
            .store
            .pins()
            .of(source)
            .into_iter()
            .map(|pinned| pinned.reference)
            .collect();
        let mut removed = Removed {
            image: image.clone(),
            dry_run,
            ..Removed::default()
        };
        let mut found = self.forget_tags(source, &pinned, &mut removed).await?;
        let mut after: Option<LinkEntry> = None;
        loop {
            let mut batch = BTreeSet::new();
            while batch.len() < BATCH_MAX {
                let links = self
                    .store
                    .pages()
                    .link_page(Some(source), after.as_ref())
                    .await;
                let Some(last) = links.last() else { break };
                after = Some(last.clone());
                batch.extend(links.iter().map(|entry| entry.digest));
            }
            if batch.is_empty() {
                break;
            }
            found = true;
            let own: Vec<Digest> = batch.iter().copied().collect();
            self.keep_other_repositories(source, &mut batch).await;
            let shared = own.iter().filter(|digest| !batch.contains(digest));
            self.count_shared(shared, &mut removed);
            self.remove_blobs(&batch, &mut removed).await;
            if !dry_run {
                let gone = own.into_iter().filter(|digest| !self.is_pinned(digest));
                let gone: Vec<Digest> = gone.collect();
                let names = gone.iter().copied().map(Name::Digest);
                self.imported.forget(source, names).await?;
                self.store.metadata().forget_links(source, gone).await;
            }
        }
        if !found {
            return Err(InspectError::NotFound(format!(
                "nothing of {image} is in the cache, so there is nothing to remove; roadstead ls {} lists what there is",
                source.upstream
            )));
        }
        if !dry_run {
            self.end_removal(source.clone(), None).await;
        }
        Ok(removed)
    }

    /// Forgets the tags of a repository that are not pinned. Whether there was any.
    async fn forget_tags(
        &self,
        source: &Source,
        pinned: &[Reference],
        removed: &mut Removed,
    ) -> Result<bool, InspectError> {
        let mut found = false;
        let mut after: Option<Tag> = None;
        loop {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else {
                return Ok(found);
            };
            found = true;
            after = Some(last.tag.clone());
            self.store.pages().settle().await;
            let is_pinned = |tag: &Tag| pinned.contains(&Reference::Tag(tag.clone()));
            if !removed.dry_run {
                let tags = tags.iter().map(|entry| entry.tag.clone());
                let names = tags.filter(|tag| !is_pinned(tag)).map(Name::Tag);
                self.imported.forget(source, names).await?;
            }
            for entry in tags {
                if is_pinned(&entry.tag) {
                    continue;
                }
                if !removed.dry_run {
                    self.forget_name(source, &entry.tag).await;
                }
                removed.forgotten_tags.push(entry.tag.to_string());
            }
        }
    }
}
