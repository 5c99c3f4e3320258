//! Bounds of the store, and the ways in which it keeps to them: `max_size` bounds the store's own
//! files, `min_free` what it leaves of the file system. Both are seen to before the first byte of
//! anything is written; a task keeps ahead of them, so that requests rarely wait for an eviction.

pub(super) mod bounds;
pub mod evict;
mod index;
pub(super) mod pins;
pub(super) mod quota;
pub(super) mod reservation;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

#[cfg(test)]
pub(super) use bounds::INDEX_STEP_BYTES;
use bounds::Shortage;
pub use bounds::{Amount, Measure, Meter};
pub(super) use index::index_max;
use reservation::Rooms;

use crate::store::capacity::evict::{Ledger, Victim};
use crate::store::contents::Contents;
use crate::store::locks::FilesGuard;
use crate::store::maintain::quarantine::Quarantine;
use crate::store::{FillKey, StoreError};
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

/// A store that could not make room for so much, or for so many percent of itself, stores nothing worth it.
const LEAST_ROOM_BYTES: u64 = 1024 * 1024;
const LEAST_ROOM_PERCENT: u8 = 5;

/// So often in a row that is seen, twice a second, before it is said: readers who hold all of a small store
/// are soon done.
const LACKING_TIMES: u32 = 20;

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
        let least = Amount::Percent(LEAST_ROOM_PERCENT).of(bounds.max());
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
