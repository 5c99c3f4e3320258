//! The index's part of the store: room for it, ahead of what it takes, and a bound.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Capacity;
use super::bounds::{Amount, INDEX_STEP_BYTES, room_for_index};

/// Part of `max_size`, in percent, that the index may take before it forgets what can be asked again.
const INDEX_PERCENT: u8 = 20;

/// And at most this: sixteen million blobs have no more.
const INDEX_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

impl Capacity {
    /// The index has been written: room for what it takes now, and for what comes next. Blocks.
    pub(in crate::store) fn account_for_index(&self) {
        let Some(bytes) = self.index_within_bound() else {
            return;
        };
        let bounds = &self.contents.bounds;
        let before = bounds.index_bytes.swap(bytes, Ordering::Relaxed);
        let mut room = bounds
            .index_room
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let more = room_for_index(bytes).saturating_sub(*room);
        let less = room.saturating_sub(room_for_index(bytes) + INDEX_STEP_BYTES);
        if less > 0 {
            self.contents.ledger().have_back(less);
            *room -= less;
        } else if more > 0 {
            match self.reserve(more) {
                Ok(()) => {
                    // Most of it is written; the rest is small.
                    bounds.unwritten_changes(more, 0);
                    // It counts by itself, like the room that it had at the start.
                    self.contents.ledger().give_away(more);
                    *room += more;
                }
                Err(error) => {
                    tracing::debug!(%error, "no room for the index now; it is tried again");
                }
            }
        }
        drop(room);
        if before != bytes {
            self.contents.report();
        }
    }

    /// Measures the index, after making it smaller if it takes more than it may. Blocks.
    fn index_within_bound(&self) -> Option<u64> {
        let measure = || {
            let measured = self.contents.layout().index().bytes();
            let measured = measured.inspect_err(|error| {
                tracing::warn!(%error, "cannot see how large the index is");
            });
            measured.ok()
        };
        let before = measure()?;
        let bounds = &self.contents.bounds;
        let most = index_max(bounds.max());
        // Where that was of no use, it is tried again when there is more.
        if before <= most.max(bounds.slimmed.load(Ordering::Relaxed)) {
            return Some(before);
        }
        let forgotten = self.contents.records.slim(before, most);
        let bytes = measure()?;
        let slimmed = if bytes > most {
            before.max(bytes) + INDEX_STEP_BYTES
        } else {
            0
        };
        bounds.slimmed.store(slimmed, Ordering::Relaxed);
        tracing::warn!(
            before,
            bytes,
            most,
            forgotten,
            "the index had outgrown its part of cache.max_size; links and tags were forgotten, oldest first, and are asked of upstream again"
        );
        Some(bytes)
    }
}

/// Bytes that an index may take in a store of `max` bytes. One without a bound bounds nothing: a command that only looks changes nothing.
pub(in crate::store) fn index_max(max: u64) -> u64 {
    if max == u64::MAX {
        return max;
    }
    let part = Amount::Percent(INDEX_PERCENT).of(max);
    part.clamp(INDEX_STEP_BYTES, INDEX_BYTES_MAX)
}
