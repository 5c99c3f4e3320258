//! Records that wait, and the thread that writes them.

use super::event::{self, Weight};
use super::file::AuditFile;
use crate::clock::Clock;
use crate::telemetry::Metrics;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most bytes that may wait: some 10,000 records, which is what a busy mirror has in the second that a disk may take.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// The most bytes at which a login or denial still finds room: whoever guesses passwords does not take an operator's.
const LOGIN_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The most bytes at which a pull still finds room.
const PULL_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The longest time that a record waits for others, so that they are written at once: all that a kill can lose.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// When so much waits it is written at once.
const BATCH_BYTES: usize = 256 * 1024;

/// The time between two attempts to write a file that could not be written.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Attempts that fail between two lines of the log: one a minute.
const TOLD_EVERY: u32 = 60;

/// The queue.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something to do for the thread.
    filled: Condvar,
    /// Something was written, or the thread has ended.
    ended: Condvar,
    /// Another process rotates the file.
    is_others: AtomicBool,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Bytes that have come since the start, and those of them that are written.
    come: u64,
    written: u64,
    /// Bytes among those that wait whose owners wait for them to be on the disk.
    awaited: u64,
    /// Records that had no room since the last that had.
    dropped: u64,
    /// The file is to be opened again.
    reopen: bool,
    /// No more records come.
    closed: bool,
    has_ended: bool,
}

/// The next step of the thread.
struct Work {
    reopen: bool,
    is_others: bool,
    /// Bytes that were taken.
    bytes: u64,
    /// Bytes of these that somebody waits for.
    awaited: u64,
    /// Nothing comes behind it.
    is_last: bool,
}

impl Queue {
    pub(super) fn new(metrics: Metrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            ended: Condvar::new(),
            is_others: AtomicBool::new(false),
            metrics,
            clock,
        }
    }

    /// Takes a record, if there is room for one of its weight.
    pub(super) fn push(&self, weight: Weight, line: &str) {
        let limit = match weight {
            Weight::Pull => PULL_BYTES_MAX,
            Weight::Login => LOGIN_BYTES_MAX,
            Weight::Act => BYTES_MAX,
        };
        let wake = {
            let mut waiting = self.lock();
            if waiting.closed || waiting.bytes.len().saturating_add(line.len()) > limit {
                waiting.dropped += 1;
                self.metrics.audit().dropped();
                false
            } else {
                let before = waiting.bytes.len();
                waiting.take_in(line);
                before == 0 || (before < BATCH_BYTES && waiting.bytes.len() >= BATCH_BYTES)
            }
        };
        if wake {
            self.filled.notify_one();
        }
    }

    /// Takes records of which none may be lost, if there is room for all of them; their place, for [`Self::is_written`].
    pub(super) fn append(&self, lines: &str) -> Option<u64> {
        let mut waiting = self.lock();
        let bytes = waiting.bytes.len().saturating_add(lines.len());
        // In an empty queue there is room for any, so that nobody waits for ever.
        if waiting.closed || (bytes > BYTES_MAX && !waiting.bytes.is_empty()) {
            return None;
        }
        waiting.take_in(lines);
        waiting.awaited += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let place = waiting.come;
        drop(waiting);
        self.filled.notify_one();
        Some(place)
    }

    /// Waits until what has come up to a place is on the disk, but no longer than this. Blocks.
    pub(super) fn is_written(&self, place: u64, wait_max: Duration) -> bool {
        let (waiting, _) = self
            .ended
            .wait_timeout_while(self.lock(), wait_max, |waiting| {
                waiting.written < place && !waiting.has_ended
            })
            .unwrap_or_else(PoisonError::into_inner);
        waiting.written >= place
    }

    /// Has the file rotated no more.
    pub(super) fn leave_rotating_to_others(&self) {
        self.is_others.store(true, Ordering::Release);
    }

    /// Has the file opened again.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.filled.notify_one();
    }

    /// Takes no more, and waits until all is written, but no longer than this.
    pub(super) fn close(&self, wait_max: Duration) {
        let mut waiting = self.lock();
        waiting.closed = true;
        self.filled.notify_one();
        let (waiting, _) = self
            .ended
            .wait_timeout_while(waiting, wait_max, |waiting| !waiting.has_ended)
            .unwrap_or_else(PoisonError::into_inner);
        if !waiting.has_ended {
            tracing::error!(
                "the last records of the audit log are not written: its disk does not answer"
            );
        }
    }

    /// Writes records as they come, until the queue is closed: for a thread of its own.
    pub(super) fn write(&self, mut file: AuditFile) {
        let mut batch = Vec::new();
        loop {
            let work = self.next(&mut batch);
            if work.reopen {
                tracing::info!(path = %file.path().display(), "the audit log is opened again");
                file.close();
            }
            if work.is_others {
                file.stop_rotating();
            }
            let is_written = self.write_out(&mut file, &batch);
            if is_written && work.awaited > 0 {
                file.sync();
            }
            batch.clear();
            if is_written {
                // What was lost counts for nobody: it happens at the end alone.
                self.lock().written += work.bytes;
                self.ended.notify_all();
            }
            if work.is_last {
                break;
            }
        }
        self.lock().has_ended = true;
        self.ended.notify_all();
    }

    /// Waits for something to do, and takes the records.
    fn next(&self, batch: &mut Vec<u8>) -> Work {
        let is_urgent = |waiting: &Waiting| {
            waiting.reopen || waiting.closed || waiting.bytes.len() >= BATCH_BYTES
        };
        let waiting = self
            .filled
            .wait_while(self.lock(), |waiting| {
                waiting.bytes.is_empty() && !is_urgent(waiting)
            })
            .unwrap_or_else(PoisonError::into_inner);
        let (mut waiting, _) = self
            .filled
            .wait_timeout_while(waiting, WAIT_MAX, |waiting| !is_urgent(waiting))
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, batch);
        let bytes = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        // They had no room behind the records that are taken here.
        let dropped = std::mem::take(&mut waiting.dropped);
        if dropped > 0 {
            let told = event::dropped(self.clock.now(), dropped);
            batch.extend_from_slice(told.as_bytes());
        }
        Work {
            reopen: std::mem::take(&mut waiting.reopen),
            is_others: self.is_others.load(Ordering::Acquire),
            bytes,
            awaited: std::mem::take(&mut waiting.awaited),
            is_last: waiting.closed,
        }
    }

    /// Writes a batch, however long that takes: what comes meanwhile waits in the queue. False: the end has come before.
    fn write_out(&self, file: &mut AuditFile, batch: &[u8]) -> bool {
        let mut rest = batch;
        let mut failures: u32 = 0;
        // With nothing to write the file is opened all the same, so that a wrong name is told at once.
        while let Err(error) = file.append(&mut rest) {
            self.metrics.audit().failed(true);
            if failures.is_multiple_of(TOLD_EVERY) {
                tracing::error!(
                    path = %file.path().display(), %error,
                    "the audit log cannot be written: records wait, then they are dropped and counted \
                     (roadstead_audit_dropped_total), and requests are served; make room, or mend the file's permissions: \
                     it is tried again each second"
                );
            }
            failures = failures.saturating_add(1);
            if self.lock().closed {
                let lost = rest.split_inclusive(|byte| *byte == b'\n');
                lost.for_each(|_record| self.metrics.audit().dropped());
                return false;
            }
            std::thread::sleep(RETRY_EVERY);
        }
        if failures > 0 {
            self.metrics.audit().failed(false);
            tracing::info!(path = %file.path().display(), "the audit log is written again");
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Bytes are appended or taken: nothing is left half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take_in(&mut self, lines: &str) {
        self.bytes.extend_from_slice(lines.as_bytes());
        self.come += u64::try_from(lines.len()).unwrap_or(u64::MAX);
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}
