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

use crate::store::cas::ingest::Sink;
use crate::store::disk::layout::FillRecord;

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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything here blocks.
impl Sink {
    /// Records how far the fill has come; `total` if it is known. A disk that does not take it has an
    /// older record, or none.
    pub(in crate::store) fn record(&self, total: Option<u64>) {
        let state = self.recorder.state();
        if state.closed {
            return;
        }
        let coverage = self.shared.coverage();
        let record = FillRecord { total, coverage };
        let key = self.room.key;
        let layout = self.room.cas.contents().layout();
        if let Err(error) = layout.parts().record(&key, &self.file, &record) {
            tracing::debug!(digest = %key.digest(), %error, "how far a download has come is not recorded");
        }
    }

    /// Removes the record, whose promise is about to be untrue; no other comes as long as the
    /// caller keeps what is returned.
    pub(in crate::store) fn unrecord(&self) -> io::Result<Unrecorded<'_>> {
        let state = self.recorder.state();
        let layout = self.room.cas.contents().layout();
        layout.parts().forget_record(&self.room.key)?;
        Ok(Unrecorded(state))
    }

    /// Nothing is recorded from here on but by whoever calls this.
    pub(in crate::store) fn close_record(&self) {
        self.recorder.state().closed = true;
    }
}
