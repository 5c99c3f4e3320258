//! What an operator sees of the store, and what he removes. Nothing here counts as a use.

use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::store::capacity::evict::{Ledger, Victim};
use crate::store::disk::layout;
use crate::store::disk::work::{Kind, Task};
use crate::store::{FillKey, Space, Store};
use crate::telemetry::metrics::EvictReason;

/// What the store takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All of it: blobs, room reserved for transfers, partial files, the index.
    pub used: u64,
    /// What it may take.
    pub max: u64,
    /// The stored blobs.
    pub blob_bytes: u64,
    /// How many there are.
    pub blobs: u64,
    /// The blobs of pinned images.
    pub pinned: u64,
    /// Partial files, and what is reserved for them and the index.
    pub reserved: u64,
    /// The index.
    pub index: u64,
    /// What the file system has free, if it says.
    pub free: Option<u64>,
    /// What it has in all.
    pub disk: Option<u64>,
}

/// What is known of a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its size in bytes.
    pub size: u64,
    /// When it was last used, to the minute.
    pub used: Timestamp,
    /// In how many different minutes; stays at 255.
    pub uses: u8,
    /// Whether somebody reads it.
    pub open: bool,
    /// Whether it belongs to a pinned image.
    pub pinned: bool,
}

/// What came of removing a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone: so many bytes.
    Removed(u64),
    /// Somebody reads it; it stays.
    Open,
    /// It belongs to a pinned image; it stays.
    Pinned,
    /// It is not stored.
    Absent,
}

impl Store {
    /// What the store takes now. Asks the operating system: not for async code.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures_with(layout::space(&self.inner.layout.index_path()).ok())
    }

    fn figures_with(&self, space: Option<Space>) -> Figures {
        let bounds = &self.inner.bounds;
        let index = bounds.index_bytes();
        // What a look for files has reserved for those it may find is taken by nothing yet.
        let hidden = *self.inner.locks.hidden();
        let ledger = self.ledger();
        let (held, blob_bytes) = (ledger.bytes().saturating_sub(hidden), ledger.blob_bytes());
        Figures {
            used: held.saturating_add(index),
            max: bounds.max(),
            blob_bytes,
            blobs: ledger.blobs() as u64,
            pinned: ledger.kept_bytes(),
            reserved: held.saturating_sub(blob_bytes),
            index,
            free: space.map(|space| space.free),
            disk: space.map(|space| space.total),
        }
    }

    /// The same, for async code.
    pub async fn figures_async(&self) -> Figures {
        let task = Task::new("see how full the disk is");
        let path = self.inner.layout.index_path();
        let space = self
            .work()
            .run(Kind::Index, task, move || layout::space(&path));
        self.figures_with(space.await.flatten().ok())
    }

    /// What is known of a blob, if it is stored.
    #[must_use]
    pub fn held(&self, digest: &Digest) -> Option<Held> {
        let ledger = self.ledger();
        let entry = ledger.entry(digest)?;
        Some(Held {
            size: entry.size,
            used: entry.used,
            uses: entry.uses,
            open: ledger.is_open(digest),
            pinned: ledger.keeps(digest),
        })
    }

    /// Those of these blobs that are stored, with their sizes. The caller bounds how many he asks for:
    /// requests wait meanwhile.
    #[must_use]
    pub fn stored(&self, digests: &[Digest]) -> Vec<(Digest, u64)> {
        let mut stored = Vec::with_capacity(digests.len());
        for some in digests.chunks(ASKED_AT_ONCE_MAX) {
            let ledger = self.ledger();
            stored.extend(
                some.iter()
                    .filter_map(|digest| Some((*digest, ledger.size(digest)?))),
            );
        }
        stored
    }

    /// The length of the partial file that an earlier transfer left, if nobody writes it now.
    #[must_use]
    pub fn left_off_bytes(&self, key: &FillKey) -> Option<u64> {
        self.left_off().get(key).copied()
    }

    /// What would come of removing a blob now.
    #[must_use]
    pub fn would_remove(&self, digest: &Digest) -> Removal {
        removal(&self.ledger(), digest)
    }

    /// Removes a stored blob, unless somebody reads it or it belongs to a pinned image.
    pub async fn remove(&self, digest: &Digest) -> Removal {
        let (store, digest) = (self.clone(), *digest);
        let task = Task::of("remove", &digest);
        let remove = move || store.remove_now(&digest);
        let removed = self.work().run(Kind::Write, task, remove).await;
        // What nobody could say is as if somebody had it open: it is not removed.
        removed.unwrap_or(Removal::Open)
    }

    fn remove_now(&self, digest: &Digest) -> Removal {
        let files = self.files();
        let size = {
            let mut ledger = self.ledger();
            match removal(&ledger, digest) {
                Removal::Removed(_) => ledger.forget(digest).unwrap_or(0),
                stays @ (Removal::Open | Removal::Pinned | Removal::Absent) => return stays,
            }
        };
        let victim = Victim {
            digest: *digest,
            size,
        };
        self.delete_all(&files, &[victim], EvictReason::Removed);
        // What could not be deleted is there again.
        match self.contains(digest) {
            Some(_) => Removal::Open,
            None => Removal::Removed(size),
        }
    }
}

/// What comes of removing a blob. One that is expected to be read in a moment is read by nobody.
fn removal(ledger: &Ledger, digest: &Digest) -> Removal {
    match ledger.entry(digest) {
        None => Removal::Absent,
        Some(_) if ledger.is_open(digest) => Removal::Open,
        Some(_) if ledger.keeps(digest) => Removal::Pinned,
        Some(entry) => Removal::Removed(entry.size),
    }
}

/// Blobs looked up under one lock of the ledger: some 20 µs.
const ASKED_AT_ONCE_MAX: usize = 256;
