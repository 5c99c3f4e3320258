//! Figures of the store for an operator, and the removal of blobs. Nothing here counts as a use.

use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::store::capacity::evict::Ledger;
use crate::store::disk::layout;
use crate::store::disk::work::{Kind, Task};
use crate::store::{Contents, Space};

/// Sizes of the store, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All of it: blobs, room reserved for transfers, partial files, the index.
    pub used: u64,
    /// The most that it may take.
    pub max: u64,
    /// The stored blobs.
    pub blob_bytes: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// The blobs of pinned images.
    pub pinned: u64,
    /// Partial files, and what is reserved for them and the index.
    pub reserved: u64,
    /// The index.
    pub index: u64,
    /// Bytes that the file system has free, if it says.
    pub free: Option<u64>,
    /// Bytes that it has in all.
    pub disk: Option<u64>,
}

/// Facts about a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its size in bytes.
    pub size: u64,
    /// When it was last used, to the minute.
    pub used: Timestamp,
    /// In how many different minutes; stays at 127.
    pub uses: u8,
    /// True if somebody reads it.
    pub open: bool,
    /// True if it belongs to a pinned image.
    pub pinned: bool,
}

/// The outcome of removing a blob.
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

/// Figures.
impl Contents {
    /// Measures what the store takes now. Asks the operating system: not for async code.
    #[must_use]
    pub fn figures(&self) -> Figures {
        figures(self, layout::space(&self.layout().index().path()).ok())
    }

    /// The same, for async code.
    pub async fn figures_async(&self) -> Figures {
        let task = Task::new("see how full the disk is");
        let path = self.layout().index().path();
        let space = self
            .layout()
            .work()
            .run(Kind::Index, task, move || layout::space(&path));
        figures(self, space.await.flatten().ok())
    }
}

fn figures(contents: &Contents, space: Option<Space>) -> Figures {
    let bounds = &contents.bounds;
    let index = bounds.index_bytes();
    // What a look for files has reserved for those it may find is taken by nothing yet.
    let hidden = *contents.hidden();
    let ledger = contents.ledger();
    let (held, blob_bytes) = (
        ledger.bytes().saturating_sub(hidden),
        ledger.order().bytes(),
    );
    Figures {
        used: held.saturating_add(index),
        max: bounds.max(),
        blob_bytes,
        blobs: ledger.order().len() as u64,
        pinned: ledger.order().kept_bytes(),
        reserved: held.saturating_sub(blob_bytes),
        index,
        free: space.map(|space| space.free),
        disk: space.map(|space| space.total),
    }
}

/// The outcome of removing a blob. One that is expected to be read in a moment is read by nobody.
pub(super) fn removal(ledger: &Ledger, digest: &Digest) -> Removal {
    match ledger.order().entry(digest) {
        None => Removal::Absent,
        Some(_) if ledger.stored().is_open(digest) => Removal::Open,
        Some(_) if ledger.order().keeps(digest) => Removal::Pinned,
        Some(entry) => Removal::Removed(entry.size),
    }
}
