//! Spans that wait for their export.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ended::Ended;

/// Spans that wait at most: some seconds of a busy mirror that samples all.
pub(super) const WAITING_SPANS_MAX: usize = 8192;
/// Memory that they may take.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Spans of one export, as many as OpenTelemetry's own exporters send at once. Collectors take 4 MiB and more.
pub(super) const BATCH_SPANS_MAX: usize = 512;

/// Ended spans, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Told when there is a first span, and when there are enough for an export.
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Ended>,
    bytes: usize,
}

impl Queue {
    /// Puts a span at the end; false if there is no room for it.
    #[must_use]
    pub(super) fn push(&self, span: Ended) -> bool {
        let bytes = span.bytes();
        let mut waiting = self.waiting();
        if waiting.spans.len() >= WAITING_SPANS_MAX || waiting.bytes + bytes > WAITING_BYTES_MAX {
            return false;
        }
        waiting.bytes += bytes;
        waiting.spans.push_back(span);
        let count = waiting.spans.len();
        drop(waiting);
        if count == 1 || count == BATCH_SPANS_MAX {
            self.filled.notify_one();
        }
        true
    }

    /// The oldest spans, as many as one export takes.
    pub(super) fn take(&self) -> Vec<Ended> {
        let mut waiting = self.waiting();
        let count = waiting.spans.len().min(BATCH_SPANS_MAX);
        let taken: Vec<Ended> = waiting.spans.drain(..count).collect();
        let bytes: usize = taken.iter().map(Ended::bytes).sum();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        taken
    }

    /// Waits until so many spans are there.
    pub(super) async fn holds(&self, count: usize) {
        while self.waiting().spans.len() < count {
            // A permit that was given meanwhile is kept for this one, and looked at once too often.
            self.filled.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Each change is one push or drain, and its count.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
