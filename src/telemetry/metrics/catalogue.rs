//! Changes of the catalogue, and its health.

use prometheus::{IntCounter, IntGauge};

use super::{Metrics, Set};

/// The families.
#[derive(Debug)]
pub(super) struct Catalogue {
    degraded: IntGauge,
    committed: IntCounter,
    failed: IntCounter,
}

impl Catalogue {
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
}

impl Metrics {
    /// Sets if the catalogue cannot be opened or written.
    pub fn catalogue_degraded(&self, degraded: bool) {
        self.inner.catalogue.degraded.set(i64::from(degraded));
    }

    /// Changes of the catalogue are durable, or were refused because it could not be written.
    pub fn catalogue_changes(&self, count: usize, committed: bool) {
        let families = &self.inner.catalogue;
        let counter = if committed {
            &families.committed
        } else {
            &families.failed
        };
        counter.inc_by(count as u64);
    }
}
