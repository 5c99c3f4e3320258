//! Bytes that the scrub has read, and its findings.

use prometheus::{IntCounter, IntGaugeVec};

use super::set::NO_LABELS;
use super::{Metrics, Set};

/// The families.
#[derive(Debug)]
pub(super) struct Scrub {
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
}

impl Metrics {
    /// The scrub has read so many bytes.
    pub fn scrubbed(&self, bytes: u64) {
        self.inner.scrub.bytes.inc_by(bytes);
    }

    /// The scrub has found a damaged blob.
    pub fn scrub_damaged(&self) {
        self.inner.scrub.damaged.inc();
    }

    /// A round of the scrub was completed at this time, in seconds since the Unix epoch.
    pub fn scrub_completed(&self, seconds: u64) {
        let completed = self.inner.scrub.completed.with_label_values(&NO_LABELS);
        completed.set(super::signed(seconds));
    }
}

/// Without a sample until the first round is over: 0 would be a round of 1970.
pub(super) const COMPLETED: (&str, &str) = (
    "roadstead_scrub_completed_timestamp_seconds",
    "When the scrub last completed a round through the whole store; absent until then.",
);
