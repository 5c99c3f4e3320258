//! What was read from the catalogue, for those who ask again: a pull of what was pulled a moment ago asks it nothing.
//!
//! A change is committed, then counted here, then its entries go; whoever has read meanwhile sees by the count that what
//! he has read may be old. Where something goes, all that is known of repositories that share its place is read again.

use crate::catalogue::hosted::Act;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use super::manifests::Served;
use crate::oci::{Digest, Reference, Repository};

/// Memory for manifests, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes that a manifest takes in memory beside its own.
const ENTRY_BYTES: usize = 400;

/// Blobs of repositories that are remembered: some 300 bytes each.
const LINKS_MAX: u64 = 100_000;

/// Counts of changes.
const PLACES: usize = 1024;

/// What was read.
#[derive(Debug)]
pub(super) struct Caches {
    manifests: Cache<(Repository, Reference), (Arc<Served>, u64)>,
    links: Cache<(Repository, Digest), (u64, u64)>,
    places: Vec<Place>,
}

#[derive(Debug, Default)]
struct Place {
    changes: AtomicU64,
    deletes: AtomicU64,
}

/// The state of a repository's place before something was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    changes: u64,
    deletes: u64,
}

impl Caches {
    pub(super) fn new() -> Self {
        let weigh = |_: &(Repository, Reference), (served, _): &(Arc<Served>, u64)| {
            let bytes = ENTRY_BYTES + served.bytes.len();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self {
            manifests: Cache::builder()
                .max_capacity(MANIFEST_BYTES_MAX)
                .weigher(weigh)
                .build(),
            links: Cache::new(LINKS_MAX),
            places: (0..PLACES).map(|_| Place::default()).collect(),
        }
    }

    /// A manifest.
    pub(super) fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Option<Arc<Served>> {
        let key = (repository.clone(), reference.clone());
        let (served, deletes) = self.manifests.get(&key)?;
        (deletes == self.before(repository).deletes).then_some(served)
    }

    /// The size of a blob that a manifest of the repository names.
    pub(super) fn link(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        let (size, deletes) = self.links.get(&(repository.clone(), *digest))?;
        (deletes == self.before(repository).deletes).then_some(size)
    }

    /// To be asked before something is read.
    pub(super) fn before(&self, repository: &Repository) -> Before {
        let place = self.place(repository);
        let of = |count: fn(&Place) -> &AtomicU64| {
            place.map_or(0, |place| count(place).load(Ordering::SeqCst))
        };
        Before {
            changes: of(|place| &place.changes),
            deletes: of(|place| &place.deletes),
        }
    }

    /// Remembers a manifest that was read.
    pub(super) fn put_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        served: &Arc<Served>,
        before: Before,
    ) {
        let key = (repository.clone(), reference.clone());
        let value = (Arc::clone(served), before.deletes);
        self.manifests.insert(key.clone(), value);
        if self.before(repository).changes != before.changes {
            self.manifests.invalidate(&key);
        }
    }

    /// Remembers a blob that a manifest names.
    pub(super) fn put_link(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        before: Before,
    ) {
        let key = (repository.clone(), *digest);
        self.links.insert(key.clone(), (size, before.deletes));
        if self.before(repository).changes != before.changes {
            self.links.invalidate(&key);
        }
    }

    /// These references mean something else now.
    pub(super) fn moved(&self, repository: &Repository, references: &[Reference]) {
        if let Some(place) = self.place(repository) {
            place.changes.fetch_add(1, Ordering::SeqCst);
        }
        for reference in references {
            let key = (repository.clone(), reference.clone());
            self.manifests.invalidate(&key);
        }
    }

    /// An act is durable: forgets what it has changed.
    pub(super) fn acted(&self, act: &Act) {
        match act {
            Act::PutManifest(put) => {
                let tags = put.tags.iter();
                let tags = tags.map(|it| Reference::Tag(it.tag.clone()));
                let moved: Vec<_> = tags.chain([Reference::Digest(put.digest)]).collect();
                self.moved(&put.repository, &moved);
            }
            Act::Link { repository, .. } => self.moved(repository, &[]),
            Act::DeleteTag { repository, .. }
            | Act::DeleteManifest { repository, .. }
            | Act::DeleteBlob { repository, .. }
            | Act::RestoreTag { repository, .. }
            | Act::DropRepository(repository, _)
            | Act::RestoreRepository(repository) => self.deleted(repository),
            Act::Expire(expiry) => self.deleted(&expiry.repository),
            Act::DropNamespace(..) | Act::RestoreNamespace(_) => self.all_deleted(),
            // What these change is in no cache, or is told by what came of them.
            Act::PutNamespace { .. }
            | Act::Trim(_)
            | Act::Advance { .. }
            | Act::NotePace(_)
            | Act::Lease { .. }
            | Act::Review { .. }
            | Act::LetGo { .. }
            | Act::LetGoCondemned
            | Act::DropBlob(_)
            | Act::Dropped(_) => {}
        }
    }

    /// Something of a repository has gone.
    pub(super) fn deleted(&self, repository: &Repository) {
        if let Some(place) = self.place(repository) {
            place.changes.fetch_add(1, Ordering::SeqCst);
            place.deletes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Something of many repositories has gone.
    pub(super) fn all_deleted(&self) {
        for place in &self.places {
            place.changes.fetch_add(1, Ordering::SeqCst);
            place.deletes.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn place(&self, repository: &Repository) -> Option<&Place> {
        let mut hasher = DefaultHasher::new();
        repository.hash(&mut hasher);
        let all = u64::try_from(PLACES).unwrap_or(1);
        let number = usize::try_from(hasher.finish() % all).unwrap_or_default();
        self.places.get(number)
    }
}
