//! Bytes that the scrub has read, and its findings.

use prometheus::{IntCounter, IntGaugeVec};

use super::Set;

/// The families.
#[derive(Debug)]
pub(super) struct Scrub {
    pub(super) bytes: IntCounter,
    pub(super) damaged: IntCounter,
    pub(super) completed: IntGaugeVec,
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

/// Without a sample until the first round is over: 0 would be a round of 1970.
pub(super) const COMPLETED: (&str, &str) = (
    "roadstead_scrub_completed_timestamp_seconds",
    "When the scrub last completed a round through the whole store; absent until then.",
);
