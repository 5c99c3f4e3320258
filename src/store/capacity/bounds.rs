//! The bounds of a store, in bytes, and what counts towards them beside blobs and reservations.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Config;
use crate::store::disk::layout::{self, Space};

/// Room for the index is taken in steps of this, always one step ahead of what it takes on disk: half
/// a second's changes fit in it many times.
pub(in crate::store) const INDEX_STEP_BYTES: u64 = 2 * 1024 * 1024;

/// A number of bytes, or a part of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system that the store is on, at most 100.
    Percent(u8),
}

impl Amount {
    /// In bytes, on a file system of `total` bytes.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => {
                let part = u128::from(total) * u128::from(percent) / 100;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }

    fn is_nothing(self) -> bool {
        matches!(self, Self::Bytes(0) | Self::Percent(0))
    }
}

/// Says what the file system of a directory has.
pub trait Measure: Send + Sync + std::fmt::Debug {
    /// Measures it now.
    ///
    /// # Errors
    /// The operating system's.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// The source of a file system's figures: the operating system, unless a test says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Meter(Option<Arc<dyn Measure>>);

impl Meter {
    /// Asks somebody else.
    #[must_use]
    pub fn of(measure: Arc<dyn Measure>) -> Self {
        Self(Some(measure))
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        match &self.0 {
            Some(measure) => measure.space(dir),
            None => layout::space(dir),
        }
    }
}

impl PartialEq for Meter {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

impl Eq for Meter {}

/// The bounds of a store, and what counts towards them beside blobs and reservations.
#[derive(Debug)]
pub(in crate::store) struct Bounds {
    dir: PathBuf,
    meter: Meter,
    /// Nothing is ever evicted, or set aside as damaged.
    pub(in crate::store) permanent: bool,
    /// `max_size`, in bytes.
    max: AtomicU64,
    min_free: Mutex<Amount>,
    /// Bytes reserved and not yet written: the file system still counts them as free.
    unwritten: AtomicU64,
    /// Bytes reserved for blobs on their way.
    pub(in crate::store) unverified: AtomicU64,
    /// Those of them for blobs of which nobody has said how large they are.
    pub(in crate::store) unsized_bytes: AtomicU64,
    /// Bytes that the index takes on disk.
    pub(in crate::store) index_bytes: AtomicU64,
    /// Part of `max` that is kept for the index.
    pub(in crate::store) index_room: Mutex<u64>,
    /// Bytes that the index took when it was last made smaller.
    pub(in crate::store) slimmed: AtomicU64,
    /// Number of times in a row that there was no room for anything.
    pub(in crate::store) lacking: AtomicU32,
}

impl Bounds {
    /// `max_size` in bytes.
    ///
    /// # Errors
    /// It is a part of a file system that cannot be measured.
    pub(in crate::store) fn max_of(config: &Config) -> io::Result<u64> {
        Ok(match config.max_size {
            Amount::Bytes(bytes) => bytes,
            part @ Amount::Percent(_) => part.of(config.meter.space(&config.dir)?.total),
        })
    }

    /// The bounds of a store of `max` bytes, whose index takes `index_bytes`.
    pub(in crate::store) fn new(config: &Config, max: u64, index_bytes: u64) -> Self {
        let index_room = room_for_index(index_bytes);
        if max <= index_room {
            tracing::warn!(
                max_bytes = max,
                index_bytes = index_room,
                "cache.max_size has room for the index alone: no blob will be kept"
            );
        }
        Self {
            dir: config.dir.clone(),
            meter: config.meter.clone(),
            permanent: config.permanent,
            max: AtomicU64::new(max),
            min_free: Mutex::new(config.min_free),
            unwritten: AtomicU64::new(0),
            unverified: AtomicU64::new(0),
            unsized_bytes: AtomicU64::new(0),
            index_bytes: AtomicU64::new(index_bytes),
            index_room: Mutex::new(index_room),
            slimmed: AtomicU64::new(0),
            lacking: AtomicU32::new(0),
        }
    }

    /// Part of `max_size` that is left for blobs and partial files at the start.
    pub(in crate::store) fn for_blobs(&self) -> u64 {
        let room = self
            .index_room
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.max().saturating_sub(*room)
    }

    /// `max_size`, in bytes.
    pub(in crate::store) fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// `max_size` of another configuration, in bytes.
    ///
    /// # Errors
    /// It is a part of a file system that cannot be measured.
    pub(in crate::store) fn max_by(&self, config: &Config) -> io::Result<u64> {
        Ok(match config.max_size {
            Amount::Bytes(bytes) => bytes,
            part @ Amount::Percent(_) => part.of(self.meter.space(&self.dir)?.total),
        })
    }

    /// Sets `max_size`, in bytes, and says what it was.
    pub(super) fn replace_max(&self, max: u64) -> u64 {
        self.max.swap(max, Ordering::Relaxed)
    }

    /// Leaves so much of the file system free from now on.
    pub(in crate::store) fn keep_free(&self, min_free: Amount) {
        *self.min_free.lock().unwrap_or_else(PoisonError::into_inner) = min_free;
    }

    fn min_free(&self) -> Amount {
        *self.min_free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the index takes on disk.
    pub(in crate::store) fn index_bytes(&self) -> u64 {
        self.index_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the file system that anybody has, at least all that is the store's; no bound where it
    /// cannot be asked.
    pub(in crate::store) fn taken_on_disk(&self) -> u64 {
        let space = self.meter.space(&self.dir);
        space.map_or(u64::MAX, |space| space.total.saturating_sub(space.free))
    }

    /// Changes what is reserved and not written from `before` to `after`.
    pub(in crate::store) fn unwritten_changes(&self, before: u64, after: u64) {
        if after >= before {
            self.unwritten.fetch_add(after - before, Ordering::AcqRel);
        } else {
            self.unwritten.fetch_sub(before - after, Ordering::AcqRel);
        }
    }

    /// So many bytes that are reserved are a blob's on its way.
    pub(in crate::store) fn add_unverified(&self, bytes: u64) {
        self.unverified.fetch_add(bytes, Ordering::AcqRel);
    }

    /// They are not any more.
    pub(in crate::store) fn release_unverified(&self, bytes: u64) {
        self.unverified.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Bytes reserved for blobs on their way.
    #[cfg(test)]
    pub(in crate::store) fn unverified_bytes(&self) -> u64 {
        self.unverified.load(Ordering::Acquire)
    }

    /// Somebody has said it of so many bytes, or they are not reserved any more.
    pub(in crate::store) fn release_unsized(&self, bytes: u64) {
        self.unsized_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// True if `bytes` more would leave the file system what it shall have.
    pub(in crate::store) fn leaves_free(&self, bytes: u64) -> bool {
        self.shortage(bytes).is_none()
    }

    /// Number of bytes that must come free before `bytes` more may be written; and what is free.
    pub(in crate::store) fn shortage(&self, bytes: u64) -> Option<Shortage> {
        let min_free = self.min_free();
        if min_free.is_nothing() {
            return None;
        }
        let space = match self.meter.space(&self.dir) {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "cannot ask how much is free on the file system; going on without cache.min_free");
                return None;
            }
        };
        let keep = min_free.of(space.total);
        let promised = self.unwritten.load(Ordering::Acquire);
        let wanted = keep.saturating_add(promised).saturating_add(bytes);
        let short = wanted.saturating_sub(space.free);
        let free = space.free;
        (short > 0).then_some(Shortage { short, free, keep })
    }
}

/// Bytes that must come free, those that are, and those that shall stay so.
pub(in crate::store) struct Shortage {
    pub(in crate::store) short: u64,
    pub(in crate::store) free: u64,
    pub(in crate::store) keep: u64,
}

/// The room for an index of `bytes`: whole steps, and always some of one ahead.
pub(in crate::store) fn room_for_index(bytes: u64) -> u64 {
    (bytes / INDEX_STEP_BYTES + 1) * INDEX_STEP_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_of_the_file_system() {
        assert_eq!(Amount::Percent(80).of(1000), 800);
        assert_eq!(Amount::Percent(100).of(u64::MAX), u64::MAX);
        assert_eq!(Amount::Percent(1).of(99), 0);
        assert_eq!(Amount::Bytes(7).of(0), 7);
    }

    #[test]
    fn the_index_has_room_ahead() {
        for bytes in [0, 1, INDEX_STEP_BYTES - 1, INDEX_STEP_BYTES, 100_000_000] {
            let room = room_for_index(bytes);
            assert!(room > bytes && room - bytes <= INDEX_STEP_BYTES, "{bytes}");
        }
    }
}
