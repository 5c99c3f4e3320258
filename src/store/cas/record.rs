//! The progress of a fill, recorded beside its file now and then, so that a process that is killed
//! loses little of it.
//!
//! The record never promises what the disk has not got: the coverage is taken first, then the file is
//! made durable, then the record replaces the one before it. What a fill has covered does not change
//! until a doubt, and before that the record goes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tokio::time::Instant;

/// A record is due when so many bytes have come since the last one: what a crash may cost a fill on a
/// fast line, and some tens of milliseconds of a disk's time.
const RECORD_EACH_BYTES: u64 = 64 * 1024 * 1024;

/// And when any have come and the last one is so old: what a crash may cost a fill on a slow line.
/// Each one makes the disk write at once what it would have written some seconds later anyway.
const RECORD_EACH: Duration = Duration::from_secs(2);

/// When a fill was last recorded.
#[derive(Debug)]
pub(in crate::store) struct Recorder {
    /// Bytes written since.
    unrecorded: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    at: Instant,
    /// There is nothing more to record.
    closed: bool,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            unrecorded: AtomicU64::new(0),
            state: Mutex::new(State {
                at: Instant::now(),
                closed: false,
            }),
        }
    }
}

/// Nothing is recorded meanwhile.
#[must_use]
pub(in crate::store) struct Unrecorded<'a>(
    #[expect(dead_code, reason = "it is a lock")] MutexGuard<'a, State>,
);

impl Recorder {
    /// So many bytes more are in the file.
    pub(in crate::store) fn wrote(&self, bytes: u64) {
        self.unrecorded.fetch_add(bytes, Ordering::Relaxed);
    }

    /// True if it is time for a record; true is said once for each. Does not wait.
    pub(in crate::store) fn due(&self) -> bool {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            // One is being made.
            Err(TryLockError::WouldBlock) => return false,
        };
        let bytes = self.unrecorded.load(Ordering::Relaxed);
        let due = bytes >= RECORD_EACH_BYTES || (bytes > 0 && state.at.elapsed() >= RECORD_EACH);
        if !due || state.closed {
            return false;
        }
        state.at = Instant::now();
        self.unrecorded.store(0, Ordering::Relaxed);
        true
    }

    /// Makes a record with `make`, unless there is nothing more to record. Blocks as long as that takes.
    pub(in crate::store) fn record(&self, make: impl FnOnce()) {
        if !self.state().closed {
            make();
        }
    }

    /// Removes the record with `forget`; no other comes as long as the caller keeps what is returned.
    pub(in crate::store) fn unrecord(
        &self,
        forget: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Unrecorded<'_>> {
        let state = self.state();
        forget()?;
        Ok(Unrecorded(state))
    }

    /// Nothing is recorded from here on.
    pub(in crate::store) fn close(&self) {
        self.state().closed = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
