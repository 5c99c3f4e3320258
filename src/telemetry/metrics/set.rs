//! Families are registered as they are made.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use super::labels::{ByKind, ByOutcome};

/// Seconds to the first byte: from a hit in memory (well under a millisecond) to containerd's limit
/// for a response's head, 30 s.
const FIRST_BYTE_BUCKETS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// What has no labels.
pub(super) const NO_LABELS: [&str; 0] = [];

/// Registers metrics as it makes them.
pub(super) struct Set(pub(super) Registry);

#[expect(
    clippy::expect_used,
    reason = "a metric fails to register only for its name or labels, which are constants here that a test registers"
)]
impl Set {
    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name");
        self.register(Box::new(counters.clone()));
        counters
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid name");
        self.register(Box::new(gauges.clone()));
        gauges
    }

    pub(super) fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        let gauges = GaugeVec::new(Opts::new(name, help), labels).expect("a valid name");
        self.register(Box::new(gauges.clone()));
        gauges
    }

    pub(super) fn first_byte(&self) -> ByKind<ByOutcome<Histogram>> {
        let options = HistogramOpts::new(
            "roadstead_first_byte_seconds",
            "Time from a request's arrival to the first byte of its answer's body.",
        )
        .buckets(FIRST_BYTE_BUCKETS.to_vec());
        let histograms = HistogramVec::new(options, &["kind", "outcome"]).expect("a valid name");
        self.register(Box::new(histograms.clone()));
        ByKind::new(|kind| {
            ByOutcome::new(|outcome| histograms.with_label_values(&[kind.label(), outcome.label()]))
        })
    }

    fn register(&self, collector: Box<dyn prometheus::core::Collector>) {
        self.0.register(collector).expect("a name used once");
    }
}
