//! The disk space of a fill, and what is left of it between two fills.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Capacity;
use crate::store::cas::Cas;
use crate::store::{FillKey, StoreError};

/// Room is reserved so far ahead of a fill's bytes, and never further ahead than what has arrived: whoever
/// announces a size and sends nothing takes nobody's room.
const RESERVE_STEP_BYTES: u64 = 64 * 1024 * 1024;

/// A file of less is deleted in some microseconds; of more, it takes the disk a while to free its blocks,
/// and whoever drops a fill may be an async task.
const DROPPED_HERE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Time that a fill waits for the last write of the one before: far longer than a write takes on a
/// disk that works, and short enough that its first client hears why it failed.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

/// The disk space of a fill: its file and its reservation.
#[derive(Debug)]
pub(in crate::store) struct Room {
    pub(in crate::store) cas: Cas,
    pub(in crate::store) key: FillKey,
    held: Mutex<Held>,
    /// True if the file goes when this is dropped.
    discard: AtomicBool,
}

/// The part of a reservation that the file takes already.
#[derive(Debug)]
struct Held {
    reserved: u64,
    /// Bytes that are in the file.
    written: u64,
    /// The same with what is just being written.
    taken: u64,
    /// The size that the blob is said to have.
    total: Option<u64>,
    /// Bytes of the reservation that were had without anybody's having said that.
    unsized_bytes: u64,
}

/// The fills whose partial files are somebody's. A write goes on after whoever awaited it has
/// gone, and its file with it: the next one of the same blob from the same upstream must not begin before.
#[derive(Debug, Default)]
pub(in crate::store) struct Rooms {
    taken: Mutex<HashSet<FillKey>>,
    left: Condvar,
}

impl Room {
    /// Takes the name of a fill's file, unless there is no room for `expected` bytes. Blocks.
    pub(in crate::store) fn reserve(
        cas: &Cas,
        key: FillKey,
        expected: Option<u64>,
    ) -> Result<Self, StoreError> {
        cas.contents().layout().refuse_if_failing()?;
        cas.capacity().rooms().enter(key)?;
        // From here on the file is this room's, and goes with it.
        let room = Self {
            cas: cas.clone(),
            key,
            held: Mutex::new(Held::of_file(cas.capacity().resume(&key))),
            discard: AtomicBool::new(true),
        };
        let resumed = room.held().reserved;
        cas.contents().bounds.add_unverified(resumed);
        // The fill before may have left its file there because it could not be deleted.
        cas.contents().layout().refuse_if_failing()?;
        if let Some(expected) = expected {
            room.expect(expected)?;
        }
        Ok(room)
    }

    /// The blob is said to have `total` bytes. Nothing is reserved for that, but what could not be had for
    /// all of them is refused before it costs anybody a blob.
    pub(in crate::store) fn expect(&self, total: u64) -> Result<(), StoreError> {
        let more = {
            let mut held = self.held();
            held.total = Some(total);
            let unsized_bytes = std::mem::take(&mut held.unsized_bytes);
            self.cas.contents().bounds.release_unsized(unsized_bytes);
            total.saturating_sub(held.reserved)
        };
        self.cas.capacity().could_have(more, total)
    }

    /// Room for `bytes` more of the file, which are here and about to be written, and some ahead.
    pub(in crate::store) fn take(&self, bytes: u64) -> Result<(), StoreError> {
        let mut held = self.held();
        let taken = held.taken.saturating_add(bytes);
        if taken > held.reserved {
            let ahead = taken.saturating_add(RESERVE_STEP_BYTES.min(taken));
            let ahead = ahead.min(held.total.unwrap_or(u64::MAX)).max(taken);
            self.grow_to(&mut held, ahead)
                .or_else(|_| self.grow_to(&mut held, taken))?;
        }
        held.taken = taken;
        Ok(())
    }

    /// They were not written.
    pub(in crate::store) fn untake(&self, bytes: u64) {
        let mut held = self.held();
        held.taken = held.taken.saturating_sub(bytes);
    }

    fn grow_to(&self, held: &mut Held, bytes: u64) -> Result<(), StoreError> {
        let more = bytes.saturating_sub(held.reserved);
        let before = held.unwritten();
        // More than was said is as if nothing had been.
        let is_sized = held.total.is_some_and(|total| bytes <= total);
        self.cas.capacity().reserve_unverified(more, is_sized)?;
        held.unsized_bytes += if is_sized { 0 } else { more };
        held.reserved = held.reserved.saturating_add(more);
        // Some of it may be in the file already, if an earlier fill has left more than was reserved.
        let new = held.unwritten().saturating_sub(before);
        self.cas.contents().bounds.unwritten_changes(more, new);
        Ok(())
    }

    /// So many bytes are in the file that were not before.
    pub(in crate::store) fn wrote(&self, bytes: u64) {
        self.change(|held| held.written = held.written.saturating_add(bytes));
    }

    /// The file has so many bytes, and nobody writes to it.
    pub(in crate::store) fn holds(&self, bytes: u64) {
        self.change(|held| {
            held.written = bytes;
            held.taken = bytes;
        });
    }

    /// The file stays when this is dropped.
    pub(in crate::store) fn keep(&self) {
        self.discard.store(false, Ordering::Release);
    }

    /// Gives the reservation to somebody else.
    pub(in crate::store) fn hand_over(&self) -> u64 {
        self.change(|held| {
            let unsized_bytes = std::mem::take(&mut held.unsized_bytes);
            let reserved = std::mem::take(&mut held.reserved);
            let bounds = &self.cas.contents().bounds;
            bounds.release_unsized(unsized_bytes);
            bounds.release_unverified(reserved);
            reserved
        })
    }

    /// Has it again.
    pub(in crate::store) fn take_back(&self, bytes: u64) {
        self.cas.contents().bounds.add_unverified(bytes);
        self.change(|held| held.reserved = bytes);
    }

    /// Changes what is held, and what the store counts as reserved and not written with it.
    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.held();
        let before = held.unwritten();
        let changed = change(&mut held);
        let bounds = &self.cas.contents().bounds;
        bounds.unwritten_changes(before, held.unwritten());
        changed
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes over what an earlier fill left: its file takes it all.
    fn of_file(bytes: u64) -> Self {
        Self {
            reserved: bytes,
            written: bytes,
            taken: bytes,
            total: None,
            unsized_bytes: 0,
        }
    }

    fn unwritten(&self) -> u64 {
        self.reserved.saturating_sub(self.written)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let discard = self.discard.load(Ordering::Acquire);
        let large = self.held().written > DROPPED_HERE_BYTES_MAX;
        let reserved = self.hand_over();
        let late = self.cas.contents().layout().work().writes_are_late();
        let (cas, key) = (self.cas.clone(), self.key);
        let leave = move || {
            if discard {
                cas.contents().layout().parts().remove(&key);
            }
            cas.contents().release(reserved);
            cas.capacity().rooms().leave(&key);
        };
        match tokio::runtime::Handle::try_current() {
            // What a runtime that ends does not do any more, the next start does.
            Ok(runtime) if discard && (large || late) => drop(runtime.spawn_blocking(leave)),
            Ok(_) | Err(_) => leave(),
        }
    }
}

impl Rooms {
    fn enter(&self, key: FillKey) -> io::Result<()> {
        let (mut taken, waited) = self
            .left
            .wait_timeout_while(self.taken(), ROOM_WAIT_MAX, |taken| taken.contains(&key))
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let why = "an earlier download of it does not let go of its file";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        taken.insert(key);
        Ok(())
    }

    fn leave(&self, key: &FillKey) {
        self.taken().remove(key);
        self.left.notify_all();
    }

    fn taken(&self) -> MutexGuard<'_, HashSet<FillKey>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Partial files between two fills: they take room, and go when nothing else can.
impl Capacity {
    pub(in crate::store) fn suspended(&self) -> MutexGuard<'_, HashMap<FillKey, u64>> {
        self.suspended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of partial files that nobody writes.
    pub(in crate::store) fn resumable(&self) -> usize {
        self.suspended().len()
    }

    /// A partial file of an earlier run, whose bytes are reserved.
    pub(in crate::store) fn enter_suspended(&self, key: FillKey, bytes: u64) {
        self.suspended().insert(key, bytes);
    }

    /// The length of the partial file that an earlier transfer left, if nobody writes it now.
    #[must_use]
    pub fn suspended_bytes(&self, key: &FillKey) -> Option<u64> {
        self.suspended().get(key).copied()
    }

    /// Keeps, of what was reserved for a fill, what its file has, as after a restart.
    pub(in crate::store) fn suspend(&self, key: FillKey, reserved: u64, bytes: u64) {
        let kept = bytes.min(reserved);
        self.suspended().insert(key, kept);
        self.contents.release(reserved - kept);
    }

    /// Takes over the bytes reserved for a partial file; the caller answers for them now.
    fn resume(&self, key: &FillKey) -> u64 {
        self.suspended().remove(key).unwrap_or(0)
    }

    /// Bytes of the partial files that nobody writes.
    pub(in crate::store) fn all_suspended_bytes(&self) -> u64 {
        self.suspended().values().sum()
    }

    /// Removes all partial files that nobody writes; says how many bytes came free. Blocks.
    pub(in crate::store) fn discard_suspended(&self) -> u64 {
        // Locked to the end: a new fill of one of them begins when its file is gone.
        let mut suspended = self.suspended();
        let mut freed = 0;
        for (key, bytes) in suspended.drain() {
            self.contents.layout().parts().remove(&key);
            self.contents.ledger().release(bytes);
            freed += bytes;
        }
        freed
    }
}
