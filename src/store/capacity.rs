//! Bounds of the store, and the ways in which it keeps to them: `max_size` bounds the store's own
//! files, `min_free` what it leaves of the file system. Both are seen to before the first byte of
//! anything is written; a task keeps ahead of them, so that requests rarely wait for an eviction.

pub mod evict;
mod index;
pub(super) mod pins;
pub(super) mod quota;
pub(super) mod reservation;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) use index::index_max;
use index::room_for_index;
use reservation::Rooms;

use crate::store::capacity::evict::{Ledger, Victim};
use crate::store::contents::Contents;
use crate::store::disk::layout;
use crate::store::locks::FilesGuard;
use crate::store::maintain::quarantine::Quarantine;
use crate::store::{Config, FillKey, StoreError};
use crate::telemetry::metrics::EvictReason;

/// Above this part of its size, in percent, the store makes room in the background.
const HIGH_PERCENT: u8 = 95;

/// Down to this one: what a fast line fetches in some seconds fits in between.
const LOW_PERCENT: u8 = 90;

/// So much is evicted under one lock: requests that need room themselves come in between.
pub(super) const STEP_BYTES: u64 = 64 * 1024 * 1024;

/// Part of the store, in percent, that blobs on their way, which may turn out wrong, may have while others are evicted for
/// them. Past that they have what is free.
const UNVERIFIED_PERCENT: u8 = 50;

/// The same for those of them of which nobody has said how large they are: one without an end would have all of that.
const UNSIZED_PERCENT: u8 = 25;

/// Part of the store, in percent, that suspended downloads may have while others are evicted.
const SUSPENDED_PERCENT: u8 = 25;

/// Room for the index is taken in steps of this, always one step ahead of what it takes on disk: half
/// a second's changes fit in it many times.
pub(super) const INDEX_STEP_BYTES: u64 = 2 * 1024 * 1024;

/// A store that could not make room for so much, or for so many percent of itself, stores nothing worth it.
const LEAST_ROOM_BYTES: u64 = 1024 * 1024;
const LEAST_ROOM_PERCENT: u8 = 5;

/// So often in a row that is seen, twice a second, before it is said: readers who hold all of a small store
/// are soon done.
const LACKING_TIMES: u32 = 20;

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

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free for whoever is not root.
    pub free: u64,
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
pub(super) struct Bounds {
    dir: PathBuf,
    meter: Meter,
    /// `max_size`, in bytes.
    max: u64,
    min_free: Amount,
    /// Bytes reserved and not yet written: the file system still counts them as free.
    unwritten: AtomicU64,
    /// Bytes reserved for blobs on their way.
    unverified: AtomicU64,
    /// Those of them for blobs of which nobody has said how large they are.
    unsized_bytes: AtomicU64,
    /// Bytes that the index takes on disk.
    index_bytes: AtomicU64,
    /// Part of `max` that is kept for the index.
    index_room: Mutex<u64>,
    /// Bytes that the index took when it was last made smaller.
    slimmed: AtomicU64,
    /// Number of times in a row that there was no room for anything.
    lacking: AtomicU32,
}

impl Bounds {
    /// `max_size` in bytes.
    ///
    /// # Errors
    /// It is a part of a file system that cannot be measured.
    pub(super) fn max_of(config: &Config) -> io::Result<u64> {
        Ok(match config.max_size {
            Amount::Bytes(bytes) => bytes,
            part @ Amount::Percent(_) => part.of(config.meter.space(&config.dir)?.total),
        })
    }

    /// The bounds of a store of `max` bytes, whose index takes `index_bytes`.
    pub(super) fn new(config: &Config, max: u64, index_bytes: u64) -> Self {
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
            max,
            min_free: config.min_free,
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

    /// Bytes that the index takes on disk.
    pub(super) fn index_bytes(&self) -> u64 {
        self.index_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the file system that anybody has, at least all that is the store's; no bound where it
    /// cannot be asked.
    pub(super) fn taken_on_disk(&self) -> u64 {
        let space = self.meter.space(&self.dir);
        space.map_or(u64::MAX, |space| space.total.saturating_sub(space.free))
    }

    /// Changes what is reserved and not written from `before` to `after`.
    pub(super) fn unwritten_changes(&self, before: u64, after: u64) {
        if after >= before {
            self.unwritten.fetch_add(after - before, Ordering::AcqRel);
        } else {
            self.unwritten.fetch_sub(before - after, Ordering::AcqRel);
        }
    }

    /// So many bytes that are reserved are a blob's on its way.
    pub(super) fn add_unverified(&self, bytes: u64) {
        self.unverified.fetch_add(bytes, Ordering::AcqRel);
    }

    /// They are not any more.
    pub(super) fn release_unverified(&self, bytes: u64) {
        self.unverified.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Bytes reserved for blobs on their way.
    #[cfg(test)]
    pub(super) fn unverified_bytes(&self) -> u64 {
        self.unverified.load(Ordering::Acquire)
    }

    /// Somebody has said it of so many bytes, or they are not reserved any more.
    pub(super) fn release_unsized(&self, bytes: u64) {
        self.unsized_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// True if `bytes` more would leave the file system what it shall have.
    pub(super) fn leaves_free(&self, bytes: u64) -> bool {
        self.shortage(bytes).is_none()
    }

    /// Number of bytes that must come free before `bytes` more may be written; and what is free.
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

/// Reserves room, and makes it.
#[derive(Debug)]
pub struct Capacity {
    contents: Arc<Contents>,
    quarantine: Arc<Quarantine>,
    /// The partial files that nobody writes now, and the bytes reserved for each.
    suspended: Mutex<HashMap<FillKey, u64>>,
    /// The partial files that somebody writes.
    rooms: Rooms,
}

impl Capacity {
    pub(super) fn new(contents: &Arc<Contents>, quarantine: &Arc<Quarantine>) -> Self {
        Self {
            contents: Arc::clone(contents),
            quarantine: Arc::clone(quarantine),
            suspended: Mutex::default(),
            rooms: Rooms::default(),
        }
    }

    /// The names of the partial files that somebody writes.
    pub(super) fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// The bytes reserved from now on; what must go for them goes now. They count as not yet written.
    /// Blocks.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let files = self.contents.files();
        self.discard_much_suspended(&files, bytes);
        self.make_free(&files, bytes)?;
        let admitted = self.contents.ledger().admit(bytes);
        let victims = admitted.or_else(|refused| {
            if bytes > refused.max {
                return Err(refused);
            }
            self.discard_spare();
            self.contents.ledger().admit(bytes)
        })?;
        self.evict(&files, &victims);
        // What could not be deleted is still there.
        if let Err(failing) = self.contents.layout().refuse_if_failing() {
            self.contents.ledger().release(bytes);
            return Err(failing);
        }
        self.contents.bounds.unwritten_changes(0, bytes);
        self.contents.report();
        Ok(())
    }

    /// The same for a blob on its way, of which somebody has said how large it is, or not: of what is stored, only
    /// so much goes for all of those. Blocks.
    pub(super) fn reserve_unverified(&self, bytes: u64, is_sized: bool) -> Result<(), StoreError> {
        let bounds = &self.contents.bounds;
        let unsized_bytes = if is_sized { 0 } else { bytes };
        let all = bounds.unverified.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let unsized_all = bounds
            .unsized_bytes
            .fetch_add(unsized_bytes, Ordering::AcqRel);
        let reserved = self
            .may_have(bytes, UNVERIFIED_PERCENT, all)
            .and_then(|()| {
                self.may_have(unsized_bytes, UNSIZED_PERCENT, unsized_all + unsized_bytes)
            })
            .and_then(|()| self.reserve(bytes));
        reserved.inspect_err(|_| {
            bounds.release_unverified(bytes);
            bounds.release_unsized(unsized_bytes);
        })
    }

    /// Checks that a blob on its way could have `bytes` more, of `total`. Nothing is reserved, and nothing goes. Blocks.
    pub(super) fn could_have(&self, bytes: u64, total: u64) -> Result<(), StoreError> {
        self.could_reserve(bytes)?;
        self.may_have(bytes, UNVERIFIED_PERCENT, total)
    }

    /// Checks that so many more are within a part of the store with `all` like them, or free.
    fn may_have(&self, bytes: u64, percent: u8, all: u64) -> Result<(), StoreError> {
        let (after, most) = {
            let ledger = self.contents.ledger();
            (ledger.bytes().saturating_add(bytes), ledger.max())
        };
        let max = Amount::Percent(percent).of(most);
        // Above the high mark the background would evict for it.
        let is_free = || over_marks(after, most) == 0 && self.contents.bounds.leaves_free(bytes);
        if bytes == 0 || all <= max || is_free() {
            return Ok(());
        }
        Err(StoreError::Unverified { max })
    }

    /// Checks that `bytes` could be reserved, if everything went that may; nothing goes. Blocks.
    pub(super) fn could_reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let spare = self.all_suspended_bytes() + self.quarantine.bytes();
        let shortage = self.contents.bounds.shortage(bytes);
        let mut ledger = self.contents.ledger();
        ledger.could_admit(bytes, spare)?;
        if let Some(Shortage { short, free, keep }) = shortage
            && ledger.could_free(short).saturating_add(spare) < short
        {
            return Err(StoreError::NotFree {
                wanted: bytes,
                free,
                keep,
            });
        }
        Ok(())
    }

    /// Deletes suspended downloads before blobs are evicted, where there are too many of them.
    fn discard_much_suspended(&self, _files: &FilesGuard<'_>, bytes: u64) {
        let (over, max) = {
            let ledger = self.contents.ledger();
            let (after, max) = (ledger.bytes().saturating_add(bytes), ledger.max());
            (after > max, max)
        };
        let most = Amount::Percent(SUSPENDED_PERCENT).of(max);
        if over && bytes <= max && self.all_suspended_bytes() > most {
            self.discard_suspended();
        }
    }

    /// Makes sure that the file system has as much left as it should after `bytes` more. If evicting
    /// everything would not do, nothing is evicted.
    fn make_free(&self, files: &FilesGuard<'_>, bytes: u64) -> Result<(), StoreError> {
        let Some(Shortage { short, free, keep }) = self.contents.bounds.shortage(bytes) else {
            return Ok(());
        };
        // What can never fit is refused for that, and costs nobody a blob.
        let never = bytes > self.contents.ledger().max();
        if !never {
            let victims = self.contents.ledger().free(short, short);
            if !victims.is_empty() {
                self.evict(files, &victims);
                return Ok(());
            }
            let short = short.saturating_sub(self.discard_spare());
            let victims = self.contents.ledger().free(short, short);
            self.evict(files, &victims);
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
        let short = self
            .contents
            .bounds
            .shortage(0)
            .map_or(0, |lack| lack.short);
        let over = {
            // What a look for files has reserved for those it may find is no reason to delete any.
            let hidden = *self.contents.hidden();
            let ledger = self.contents.ledger();
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
            let files = self.contents.files();
            let victims = choose(&mut self.contents.ledger(), need.min(STEP_BYTES));
            if victims.is_empty() {
                return;
            }
            self.evict(&files, &victims);
            let freed: u64 = victims.iter().map(|victim| victim.size).sum();
            need = need.saturating_sub(freed);
        }
    }

    /// Sees whether anything can be stored, and tells if that is not so: at the `start`, if it cannot be so by the
    /// store's size, and later if it has not been so for a while. Blocks.
    pub(super) fn see_room(&self, start: bool) {
        if *self.contents.hidden() > 0 {
            // Room is kept for what a look through the files may find, and soon free.
            return;
        }
        let bounds = &self.contents.bounds;
        let max = self.contents.ledger().max();
        let least = Amount::Percent(LEAST_ROOM_PERCENT).of(bounds.max);
        let least = least.clamp(1, LEAST_ROOM_BYTES);
        let lack = if start && max >= least {
            None
        } else {
            self.could_reserve(least).err()
        };
        let times = if lack.is_some() {
            bounds.lacking.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            bounds.lacking.store(0, Ordering::Relaxed);
            0
        };
        if lack.is_none() || start || times >= LACKING_TIMES {
            let why = lack.map(|lack| lack.to_string());
            self.contents.layout().health().lacks_room(why);
        }
    }

    /// Deletes what nobody asks for, before a request is refused: suspended downloads, and
    /// damaged blobs. Says how many bytes came free.
    fn discard_spare(&self) -> u64 {
        self.discard_suspended() + self.quarantine.discard()
    }

    fn evict(&self, files: &FilesGuard<'_>, victims: &[Victim]) {
        if !victims.is_empty() {
            self.contents.delete_all(files, victims, EvictReason::Size);
        }
    }
}

/// Number of bytes that must go of `bytes` in a store of `max`.
fn over_marks(bytes: u64, max: u64) -> u64 {
    if bytes > Amount::Percent(HIGH_PERCENT).of(max) {
        bytes - Amount::Percent(LOW_PERCENT).of(max)
    } else {
        0
    }
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
}
