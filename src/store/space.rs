//! How much the store may take, and what it does to keep to that: `max_size` bounds the store's own
//! files, `min_free` what it leaves of the file system. Both are seen to before the first byte of
//! anything is written; a task keeps ahead of them, so that requests rarely wait for an eviction.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::evict::{Ledger, Victim};
use super::{Config, Store, StoreError, fs};
use crate::telemetry::metrics::EvictReason;

/// Above this part of its size, in percent, the store makes room in the background.
const HIGH_PERCENT: u8 = 95;

/// Down to this one: what a fast line fetches in some seconds fits in between.
const LOW_PERCENT: u8 = 90;

/// So much is evicted under one lock: requests that need room themselves come in between.
pub(super) const STEP_BYTES: u64 = 64 * 1024 * 1024;

/// Room for the index is taken in steps of this, always one step ahead of what it takes on disk: half
/// a second's changes fit in it many times.
pub(super) const INDEX_STEP_BYTES: u64 = 2 * 1024 * 1024;

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

impl Config {
    /// The same, but that nothing goes to keep to a bound: for who only looks, perhaps with the configuration of
    /// another store, which must not cost this one its blobs.
    #[must_use]
    pub fn unbounded(self) -> Self {
        Self {
            max_size: Amount::Bytes(u64::MAX),
            min_free: Amount::Bytes(0),
            max_age: None,
            shares: Vec::new(),
            ..self
        }
    }
}

/// What a file system has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free for whoever is not root.
    pub free: u64,
}

/// Says what the file system of a directory has.
pub trait Measure: Send + Sync + std::fmt::Debug {
    /// What it has now.
    ///
    /// # Errors
    /// The operating system's.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// Who is asked what the file system has: the operating system, unless a test says otherwise.
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
            None => fs::space(dir),
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
pub(super) struct Bounds {
    dir: PathBuf,
    meter: Meter,
    /// `max_size`, in bytes.
    max: u64,
    min_free: Amount,
    /// What is reserved and not yet written: the file system still counts it as free.
    unwritten: AtomicU64,
    /// What the index takes on disk.
    index_bytes: AtomicU64,
    /// What of `max` is kept for the index.
    index_room: Mutex<u64>,
}

impl Bounds {
    /// The bounds of a store in `dir`, whose index takes `index_bytes`.
    ///
    /// # Errors
    /// `max_size` is a part of a file system that cannot be measured.
    pub(super) fn new(config: &Config, index_bytes: u64) -> io::Result<Self> {
        let max = match config.max_size {
            Amount::Bytes(bytes) => bytes,
            part @ Amount::Percent(_) => part.of(config.meter.space(&config.dir)?.total),
        };
        let index_room = room_for_index(index_bytes);
        if max <= index_room {
            tracing::warn!(
                max_bytes = max,
                index_bytes = index_room,
                "cache.max_size has room for the index alone: no blob will be kept"
            );
        }
        Ok(Self {
            dir: config.dir.clone(),
            meter: config.meter.clone(),
            max,
            min_free: config.min_free,
            unwritten: AtomicU64::new(0),
            index_bytes: AtomicU64::new(index_bytes),
            index_room: Mutex::new(index_room),
        })
    }

    /// What is left of `max_size` for blobs and partial files at the start.
    pub(super) fn for_blobs(&self) -> u64 {
        let room = self
            .index_room
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.max.saturating_sub(*room)
    }

    /// `max_size`, in bytes.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// What the index takes on disk.
    pub(super) fn index_bytes(&self) -> u64 {
        self.index_bytes.load(Ordering::Relaxed)
    }

    /// What the file system has of anybody's, at least all that is the store's; no bound where it
    /// cannot be asked.
    pub(super) fn taken_on_disk(&self) -> u64 {
        let space = self.meter.space(&self.dir);
        space.map_or(u64::MAX, |space| space.total.saturating_sub(space.free))
    }

    /// What was reserved and not written was `before`, and is `after` now.
    pub(super) fn unwritten_changes(&self, before: u64, after: u64) {
        if after >= before {
            self.unwritten.fetch_add(after - before, Ordering::AcqRel);
        } else {
            self.unwritten.fetch_sub(before - after, Ordering::AcqRel);
        }
    }

    /// Whether `bytes` more would leave the file system what it shall have.
    pub(super) fn leaves_free(&self, bytes: u64) -> bool {
        self.shortage(bytes).is_none()
    }

    /// How many bytes must come free before `bytes` more may be written; and what is free.
    fn shortage(&self, bytes: u64) -> Option<Shortage> {
        if self.min_free.is_nothing() {
            return None;
        }
        let space = match self.meter.space(&self.dir) {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "cannot ask how much is free on the file system; going on without cache.min_free");
                return None;
            }
        };
        let keep = self.min_free.of(space.total);
        let promised = self.unwritten.load(Ordering::Acquire);
        let wanted = keep.saturating_add(promised).saturating_add(bytes);
        let short = wanted.saturating_sub(space.free);
        let free = space.free;
        (short > 0).then_some(Shortage { short, free, keep })
    }
}

struct Shortage {
    short: u64,
    free: u64,
    keep: u64,
}

/// Reserving room, and making it.
impl Store {
    /// The bytes reserved from now on; what must go for them goes now. They count as not yet written.
    /// Blocks.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let _files = self.files();
        self.make_free(bytes)?;
        let admitted = self.ledger().admit(bytes);
        let victims = admitted.or_else(|refused| {
            if bytes > refused.max {
                return Err(refused);
            }
            self.discard_spare();
            self.ledger().admit(bytes)
        })?;
        self.evict(&victims);
        // What could not be deleted is still there.
        if let Err(failing) = self.refuse_if_failing() {
            self.ledger().release(bytes);
            return Err(failing);
        }
        self.inner.bounds.unwritten_changes(0, bytes);
        self.report();
        Ok(())
    }

    pub(super) fn release(&self, bytes: u64) {
        self.ledger().release(bytes);
        self.report();
    }

    /// Makes sure that the file system has as much left as it should after `bytes` more; the caller
    /// holds `files`. If evicting everything would not do, nothing is evicted.
    fn make_free(&self, bytes: u64) -> Result<(), StoreError> {
        let Some(Shortage { short, free, keep }) = self.inner.bounds.shortage(bytes) else {
            return Ok(());
        };
        // What can never fit is refused for that, and costs nobody a blob.
        let never = bytes > self.ledger().max();
        if !never {
            let victims = self.ledger().free(short, short);
            if !victims.is_empty() {
                self.evict(&victims);
                return Ok(());
            }
            let short = short.saturating_sub(self.discard_spare());
            let victims = self.ledger().free(short, short);
            self.evict(&victims);
            if short == 0 || !victims.is_empty() {
                return Ok(());
            }
        }
        Err(StoreError::NotFree {
            wanted: bytes,
            free,
            keep,
        })
    }

    /// Makes room before somebody needs it: from above the high mark down to the low one, and whatever
    /// the file system lacks. Blocks.
    pub(super) fn trim(&self) {
        let short = self.inner.bounds.shortage(0).map_or(0, |lack| lack.short);
        let over = {
            // What a look for files has reserved for those it may find is no reason to delete any.
            let hidden = self.inner.scan.hidden_bytes();
            let ledger = self.ledger();
            over_marks(ledger.bytes().saturating_sub(hidden), ledger.max())
        };
        self.free_in_steps(short.max(over), |ledger, bytes| ledger.free(bytes, 0));
    }

    /// Evicts `need` bytes of what `choose` names for some of them, as far as it names any. Requests that
    /// need room come in between. Blocks.
    pub(super) fn free_in_steps(
        &self,
        mut need: u64,
        choose: impl Fn(&mut Ledger, u64) -> Vec<Victim>,
    ) {
        while need > 0 {
            let _files = self.files();
            let victims = choose(&mut self.ledger(), need.min(STEP_BYTES));
            if victims.is_empty() {
                return;
            }
            self.evict(&victims);
            let freed: u64 = victims.iter().map(|victim| victim.size).sum();
            need = need.saturating_sub(freed);
        }
    }

    /// The index has been written: room for what it takes now, and for what comes next. Blocks.
    pub(super) fn account_for_index(&self) {
        let bytes = match self.layout().index_bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, "cannot see how large the index is");
                return;
            }
        };
        let bounds = &self.inner.bounds;
        let before = bounds.index_bytes.swap(bytes, Ordering::Relaxed);
        let mut room = bounds
            .index_room
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let more = room_for_index(bytes).saturating_sub(*room);
        // It only ever grows here: redb gives nothing back while it is open.
        if more > 0 {
            match self.reserve(more) {
                Ok(()) => {
                    // Most of it is written; the rest is small.
                    bounds.unwritten_changes(more, 0);
                    // It counts by itself, like the room that it had at the start.
                    self.ledger().give_away(more);
                    *room += more;
                }
                Err(error) => {
                    tracing::debug!(%error, "no room for the index now; it is tried again");
                }
            }
        }
        drop(room);
        if before != bytes {
            self.report();
        }
    }

    /// Deletes what nobody asks for, before a request is refused: downloads that were left off, and
    /// damaged blobs. Says how many bytes came free.
    fn discard_spare(&self) -> u64 {
        self.discard_left_off() + self.discard_aside()
    }

    fn evict(&self, victims: &[Victim]) {
        if !victims.is_empty() {
            self.delete_all(victims, EvictReason::Size);
        }
    }
}

/// What must go of `bytes` in a store of `max`.
fn over_marks(bytes: u64, max: u64) -> u64 {
    if bytes > Amount::Percent(HIGH_PERCENT).of(max) {
        bytes - Amount::Percent(LOW_PERCENT).of(max)
    } else {
        0
    }
}

/// The room for an index of `bytes`: whole steps, and always some of one ahead.
fn room_for_index(bytes: u64) -> u64 {
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
    fn nothing_goes_below_the_high_mark_and_down_to_the_low_one_above_it() {
        assert_eq!(over_marks(0, 0), 0);
        assert_eq!(over_marks(950, 1000), 0);
        assert_eq!(over_marks(951, 1000), 51);
        assert_eq!(over_marks(1000, 1000), 100);
        assert_eq!(
            over_marks(u64::MAX, u64::MAX),
            u64::MAX - Amount::Percent(90).of(u64::MAX)
        );
    }

    #[test]
    fn the_index_has_room_ahead() {
        for bytes in [0, 1, INDEX_STEP_BYTES - 1, INDEX_STEP_BYTES, 100_000_000] {
            let room = room_for_index(bytes);
            assert!(room > bytes && room - bytes <= INDEX_STEP_BYTES, "{bytes}");
        }
    }
}
