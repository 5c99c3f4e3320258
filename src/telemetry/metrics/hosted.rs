//! Hosted repositories.

use prometheus::IntGauge;

use super::{Set, signed};

/// The label of requests for hosted repositories, in the place of an upstream's name.
pub const HOSTED: &str = "hosted";

/// The families.
#[derive(Debug)]
pub struct HostedMetrics {
    uploads: IntGauge,
    bytes: IntGauge,
    queue: IntGauge,
}

impl HostedMetrics {
    pub(super) fn new(set: &Set) -> Self {
        Self {
            uploads: set.gauge(
                "roadstead_uploads_in_flight",
                "Uploads to hosted repositories that were begun and are not finished.",
            ),
            bytes: set.gauge(
                "roadstead_hosted_bytes",
                "Bytes on disk of hosted blobs and uploads.",
            ),
            queue: set.gauge(
                "roadstead_gc_queue",
                "Entries that the garbage collector of hosted repositories has still to look at.",
            ),
        }
    }

    /// Uploads that are under way, and bytes on disk.
    pub fn holds(&self, uploads: usize, bytes: u64) {
        self.uploads.set(i64::try_from(uploads).unwrap_or(i64::MAX));
        self.bytes.set(signed(bytes));
    }

    /// Entries of the garbage collector's queue.
    pub fn queue(&self, length: u64) {
        self.queue.set(signed(length));
    }
}
