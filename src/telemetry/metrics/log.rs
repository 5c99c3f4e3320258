//! Log lines that were not written.

use prometheus::IntCounter;

use super::super::sink;
use super::{NO_LABELS, Set};

#[derive(Debug)]
pub(super) struct Log {
    dropped: IntCounter,
}

impl Log {
    pub(super) fn new(set: &Set) -> Self {
        let dropped = set.counters(
            "roadstead_log_lines_dropped_total",
            "Log lines that were not written, because nobody read standard error or it failed.",
            &[],
        );
        Self {
            dropped: dropped.with_label_values(&NO_LABELS),
        }
    }

    /// The process has one log, whoever counts.
    pub(super) fn catch_up(&self) {
        let missing = sink::dropped().saturating_sub(self.dropped.get());
        self.dropped.inc_by(missing);
    }
}
