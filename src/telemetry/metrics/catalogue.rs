//! Changes of the catalogue, and its health.

use prometheus::{IntCounter, IntGauge};

use super::Set;

/// The families.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) degraded: IntGauge,
    pub(super) committed: IntCounter,
    pub(super) failed: IntCounter,
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
