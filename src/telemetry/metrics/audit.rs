//! Records of the audit log that were not written.

use super::Set;
use prometheus::{IntCounter, IntGauge};

/// The families.
#[derive(Debug)]
pub struct AuditMetrics {
    dropped: IntCounter,
    failed: IntGauge,
}

impl AuditMetrics {
    pub(super) fn new(set: &Set) -> Self {
        Self {
            dropped: set.counter(
                "roadstead_audit_dropped_total",
                "Records of the audit log that were dropped, because it could not be written as fast as they came.",
            ),
            failed: set.gauge(
                "roadstead_audit_failed",
                "1 while the audit log cannot be written.",
            ),
        }
    }

    /// A record was dropped.
    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// The file cannot be written, or can again.
    pub fn failed(&self, failed: bool) {
        self.failed.set(failed.into());
    }
}
