//! Families are registered as they are made.

use std::sync::OnceLock;

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::labels::{ByKind, ByOutcome, Kind, Outcome};

/// Seconds to the first byte: from a hit in memory (well under a millisecond) to containerd's limit
/// for a response's head, 30 s.
const FIRST_BYTE_BUCKETS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// The labels of a family that has none.
pub(super) const NO_LABELS: [&str; 0] = [];

/// The family of times to the first byte: without a sample until something was answered.
pub(super) const FIRST_BYTE: (&str, &str) = (
    "roadstead_first_byte_seconds",
    "Time from a request's arrival to the first byte of its answer's body.",
);

/// Times to the first byte. Each has two dozen series, and most kinds of answers are never given: those that were not
/// are not shown.
#[derive(Debug)]
pub(super) struct FirstBytes {
    family: HistogramVec,
    used: ByKind<ByOutcome<OnceLock<Histogram>>>,
}

impl FirstBytes {
    pub(super) fn of(&self, kind: Kind, outcome: Outcome) -> &Histogram {
        let labels = [kind.label(), outcome.label()];
        let used = self.used.of(kind).of(outcome);
        used.get_or_init(|| self.family.with_label_values(&labels))
    }
}

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

    /// A counter without labels.
    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.counters(name, help, &[]).with_label_values(&NO_LABELS)
    }

    /// A gauge without labels.
    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.gauges(name, help, &[]).with_label_values(&NO_LABELS)
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

    pub(super) fn first_byte(&self) -> FirstBytes {
        let options =
            HistogramOpts::new(FIRST_BYTE.0, FIRST_BYTE.1).buckets(FIRST_BYTE_BUCKETS.to_vec());
        let family = HistogramVec::new(options, &["kind", "outcome"]).expect("a valid name");
        self.register(Box::new(family.clone()));
        FirstBytes {
            family,
            used: ByKind::new(|_| ByOutcome::new(|_| OnceLock::new())),
        }
    }

    fn register(&self, collector: Box<dyn prometheus::core::Collector>) {
        self.0.register(collector).expect("a name used once");
    }
}
