//! Changes of the catalogue, and its health.

use prometheus::{IntCounter, IntGauge};

use super::Set;

/// The families.
#[derive(Debug)]
pub struct CatalogueMetrics {
    degraded: IntGauge,
    committed: IntCounter,
    failed: IntCounter,
}

impl CatalogueMetrics {
    pub(super) fn new(set: &Set) -> Self {
        let changes = set.counters(
            "roadstead_catalogue_changes_total",
            "Changes of the catalogue, by what became of them.",
            &["result"],
        );
        Self {
            degraded: set.gauge(
                "roadstead_catalogue_degraded",
                "1 while the catalogue in the state directory cannot be opened or written.",
            ),
            committed: changes.with_label_values(&["committed"]),
            failed: changes.with_label_values(&["failed"]),
        }
    }

    /// Sets if the catalogue cannot be opened or written.
    pub fn degraded(&self, degraded: bool) {
        self.degraded.set(i64::from(degraded));
    }

    /// Changes are durable, or were refused because the catalogue could not be written.
    pub fn changes(&self, count: usize, committed: bool) {
        let counter = if committed {
            &self.committed
        } else {
            &self.failed
        };
        counter.inc_by(count as u64);
    }
}
