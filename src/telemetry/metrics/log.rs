//! Log lines that were not written.

use prometheus::IntCounter;

use super::super::sink;
use super::Set;

#[derive(Debug)]
pub(super) struct Log {
    dropped: IntCounter,
}

impl Log {
    pub(super) fn new(set: &Set) -> Self {
        Self {
            dropped: set.counter(
                "roadstead_log_lines_dropped_total",
                "Log lines that were not written, because nobody read standard error or it failed.",
            ),
        }
    }

    /// The process has one log, whoever counts.
    pub(super) fn catch_up(&self) {
        let missing = sink::dropped().saturating_sub(self.dropped.get());
        self.dropped.inc_by(missing);
    }
}
