//! Collecting what nothing refers to: blobs that no manifest names, records of what is gone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::remove::{Removal, Removed};
use super::usage::{PASS_BLOBS_MAX, key};
use super::{Contents, InspectError, Kept, Source};
use crate::clock::Clock;
use crate::mirror::core::Core;
use crate::mirror::{Policies, Ttl};
use crate::oci::manifest::{MANIFEST_BYTES_MAX, inspect};
use crate::oci::{Digest, Tag};
use crate::store::{LinkEntry, Store};

/// Time for which a blob that was used is left alone: a pull under way may have fetched it before its manifest, or
/// have had its manifest evicted.
const GRACE: Duration = Duration::from_mins(10);

/// Number of times that the marks are made anew because manifests were found that the index did not know as such.
const ROUNDS_MAX: usize = 4;

/// The numbers of what was collected, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// True if nothing was done.
    pub dry_run: bool,
    /// Blobs that no stored manifest names.
    pub removed_blobs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Links to what is not stored and no stored manifest of the repository names.
    pub stale_links: u64,
    /// Tags whose manifest is not stored, and that are too old to be served.
    pub stale_tags: u64,
    /// Media types of manifests that are not stored.
    pub stale_media_types: u64,
    /// Repositories of which nothing was left.
    pub empty_repositories: u64,
    /// Blobs that stay, and why. `shared_blobs` counts what was used in the last ten minutes.
    pub kept: Kept,
}

/// Collects what nothing refers to.
#[derive(Debug)]
pub struct Garbage {
    policies: Policies,
    store: Store,
    clock: Arc<dyn Clock>,
    contents: Contents,
    removal: Arc<Removal>,
}

impl Garbage {
    pub(in crate::mirror) fn new(core: &Core, contents: &Contents, removal: &Arc<Removal>) -> Self {
        Self {
            policies: core.policies.clone(),
            store: core.store.clone(),
            clock: Arc::clone(&core.clock),
            contents: contents.clone(),
            removal: Arc::clone(removal),
        }
    }

    /// Removes what no known manifest refers to, and stale records. With `dry_run` it is only said what
    /// would go.
    ///
    /// # Errors
    /// [`InspectError::Conflict`]: what is needed cannot be told now.
    pub async fn collect(&self, dry_run: bool) -> Result<Collected, InspectError> {
        let _one_at_a_time = self.removal.hold().await;
        self.store.pages().settle().await;
        self.removal.know_all().await?;
        let mut collected = Collected {
            dry_run,
            ..Collected::default()
        };
        self.collect_blobs(&mut collected).await?;
        self.removal.must_know_all().await?;
        self.collect_records(&mut collected).await;
        Ok(collected)
    }

    async fn collect_blobs(&self, collected: &mut Collected) -> Result<(), InspectError> {
        let now = self.clock.now();
        let mut after: Option<Digest> = None;
        loop {
            let mut garbage: BTreeMap<[u8; 32], Digest> = BTreeMap::new();
            while garbage.len() < PASS_BLOBS_MAX {
                let blobs = self
                    .store
                    .pages()
                    .stored_blobs(self.store.contents(), after.as_ref())
                    .await;
                let Some((digest, _)) = blobs.last() else {
                    break;
                };
                after = Some(*digest);
                garbage.extend(blobs.iter().map(|(digest, _)| (key(digest), *digest)));
            }
            if garbage.is_empty() {
                return Ok(());
            }
            for _ in 0..ROUNDS_MAX {
                self.keep_what_manifests_name(&mut garbage).await?;
                if !self.finds_manifests(&garbage).await {
                    break;
                }
            }
            let mut blobs = BTreeSet::new();
            for digest in garbage.into_values() {
                let used = self.store.contents().held(&digest).map(|held| held.used);
                if used.is_some_and(|used| now.since(used) < GRACE) {
                    collected.kept.shared_blobs += 1;
                } else {
                    blobs.insert(digest);
                }
            }
            let mut removed = Removed {
                dry_run: collected.dry_run,
                ..Removed::default()
            };
            self.removal.must_know_all().await?;
            self.removal.remove_blobs(&blobs, &mut removed).await;
            collected.removed_blobs += removed.removed_blobs;
            collected.freed_bytes += removed.freed_bytes;
            collected.kept.open_blobs += removed.kept.open_blobs;
            collected.kept.pinned_blobs += removed.kept.pinned_blobs;
        }
    }

    /// Takes the stored manifests out of what may go, and what they name.
    async fn keep_what_manifests_name(
        &self,
        garbage: &mut BTreeMap<[u8; 32], Digest>,
    ) -> Result<(), InspectError> {
        let mut after: Option<Digest> = None;
        loop {
            let manifests = self.store.pages().manifest_page(after.as_ref()).await;
            let Some(last) = manifests.last() else {
                // It may be the end because it cannot be read on.
                return self.removal.must_know_all().await;
            };
            after = Some(*last);
            for digest in manifests {
                if self.store.contains(&digest).is_none() {
                    continue;
                }
                garbage.remove(&key(&digest));
                let Some(seen) = self.contents.look(&digest).await else {
                    let why = format!(
                        "the manifest {digest} cannot be read: what it needs cannot be told; try roadstead verify --repair"
                    );
                    return Err(InspectError::Conflict(why));
                };
                for child in seen.children {
                    garbage.remove(&key(&child.digest));
                }
            }
        }
    }

    /// True if manifests are among what may go: those of an index that was lost. They are entered again.
    async fn finds_manifests(&self, garbage: &BTreeMap<[u8; 32], Digest>) -> bool {
        let mut found = false;
        for digest in garbage.values() {
            let held = self.store.contents().held(digest);
            let is_small = held.is_some_and(|held| held.size <= MANIFEST_BYTES_MAX as u64);
            if !is_small {
                continue;
            }
            let Some(bytes) = self.store.audit().peek(digest, MANIFEST_BYTES_MAX).await else {
                continue;
            };
            if bytes.first() == Some(&b'{')
                && let Ok(inspection) = inspect(None, &bytes)
            {
                self.store
                    .metadata()
                    .note_media_type(digest, &inspection.media_type);
                found = true;
            }
        }
        if found {
            self.store.pages().settle().await;
        }
        found
    }

    async fn collect_records(&self, collected: &mut Collected) {
        let mut at: Option<Source> = None;
        loop {
            let sources = self.store.pages().repository_page(None, at.as_ref()).await;
            let Some(last) = sources.last() else { break };
            at = Some(last.clone());
            for source in &sources {
                self.collect_tags(source, collected).await;
                self.collect_links(source, collected).await;
                if !collected.dry_run && self.store.metadata().forget_if_empty(source).await {
                    collected.empty_repositories += 1;
                }
            }
        }
        let mut after: Option<Digest> = None;
        loop {
            let manifests = self.store.pages().manifest_page(after.as_ref()).await;
            let Some(last) = manifests.last() else { return };
            after = Some(*last);
            for digest in manifests {
                if self.store.contains(&digest).is_none() {
                    collected.stale_media_types += 1;
                    if !collected.dry_run {
                        self.store.metadata().forget_media_type(&digest).await;
                    }
                }
            }
        }
    }

    async fn collect_tags(&self, source: &Source, collected: &mut Collected) {
        let now = self.clock.now();
        let mut after: Option<Tag> = None;
        loop {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else { return };
            after = Some(last.tag.clone());
            for entry in tags {
                let policy = self.policies.of_tag(source, &entry.tag);
                let Ttl::For(ttl) = policy.ttl else { continue };
                let believed = ttl.saturating_add(policy.stale_if_error);
                let is_stale = entry.records.iter().all(|record| {
                    self.store.contains(&record.digest).is_none()
                        && now.since(record.checked) > believed
                });
                if is_stale {
                    collected.stale_tags += 1;
                    if !collected.dry_run {
                        self.store.metadata().drop_tag(source, &entry.tag).await;
                    }
                }
            }
        }
    }

    async fn collect_links(&self, source: &Source, collected: &mut Collected) {
        let mut after: Option<LinkEntry> = None;
        loop {
            let mut stale: HashSet<Digest> = HashSet::new();
            while stale.len() < PASS_BLOBS_MAX {
                let links = self
                    .store
                    .pages()
                    .link_page(Some(source), after.as_ref())
                    .await;
                let Some(last) = links.last() else { break };
                after = Some(last.clone());
                let gone = links.iter().map(|entry| entry.digest);
                stale.extend(gone.filter(|digest| self.store.contains(digest).is_none()));
            }
            if stale.is_empty() {
                return;
            }
            self.keep_known_links(source, &mut stale).await;
            collected.stale_links += stale.len() as u64;
            if !collected.dry_run {
                let stale = stale.into_iter().collect();
                self.store.metadata().forget_links(source, stale).await;
            }
        }
    }

    /// Takes out of `stale` what the repository's tags and stored manifests name.
    async fn keep_known_links(&self, source: &Source, stale: &mut HashSet<Digest>) {
        let mut after: Option<Tag> = None;
        while !stale.is_empty() {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else { break };
            after = Some(last.tag.clone());
            for record in tags.iter().flat_map(|entry| &entry.records) {
                stale.remove(&record.digest);
            }
        }
        let mut after: Option<LinkEntry> = None;
        while !stale.is_empty() {
            let links = self
                .store
                .pages()
                .link_page(Some(source), after.as_ref())
                .await;
            let Some(last) = links.last() else { break };
            after = Some(last.clone());
            let manifests = links.iter().filter(|entry| entry.link.manifest);
            for digest in manifests.map(|entry| entry.digest) {
                if let Some(seen) = self.contents.look(&digest).await {
                    for child in seen.children {
                        stale.remove(&child.digest);
                    }
                }
            }
        }
    }
}
