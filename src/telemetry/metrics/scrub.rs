//! Bytes that the scrub has read, and its findings.

use prometheus::{IntCounter, IntGaugeVec};

use super::set::NO_LABELS;
use super::{Set, signed};

/// The families.
#[derive(Debug)]
pub struct Scrub {
    bytes: IntCounter,
    damaged: IntCounter,
    completed: IntGaugeVec,
}

impl Scrub {
    pub(super) fn new(set: &Set) -> Self {
        Self {
            bytes: set.counter(
                "roadstead_scrub_bytes_total",
                "Bytes of stored blobs that the scrub has read.",
            ),
            damaged: set.counter(
                "roadstead_scrub_damaged_total",
                "Stored blobs that the scrub found damaged and set aside.",
            ),
            completed: set.gauges(COMPLETED.0, COMPLETED.1, &[]),
        }
    }

    /// So many bytes were read.
    pub fn read(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    /// A damaged blob was found.
    pub fn damaged(&self) {
        self.damaged.inc();
    }

    /// A round was completed at this time, in seconds since the Unix epoch.
    pub fn completed(&self, seconds: u64) {
        let completed = self.completed.with_label_values(&NO_LABELS);
        completed.set(signed(seconds));
    }
}

/// Without a sample until the first round is over: 0 would be a round of 1970.
pub(super) const COMPLETED: (&str, &str) = (
    "roadstead_scrub_completed_timestamp_seconds",
    "When the scrub last completed a round through the whole store; absent until then.",
);
