//! Which limits were met.

use prometheus::IntCounterVec;

use super::{Metrics, Set};

/// What there was too much of, or what took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Questions to upstreams under way.
    Questions,
    /// Transfers of blobs under way.
    Transfers,
    /// Blobs that pass through because they cannot be stored.
    Passes,
    /// Connections to one upstream.
    UpstreamConnections,
}

impl Limit {
    /// Every limit, in the order of the labels' documentation.
    const ALL: [Self; 4] = [
        Self::Questions,
        Self::Transfers,
        Self::Passes,
        Self::UpstreamConnections,
    ];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Questions => "questions",
            Self::Transfers => "transfers",
            Self::Passes => "passes",
            Self::UpstreamConnections => "upstream_connections",
        }
    }
}

/// The families.
#[derive(Debug)]
pub(super) struct Limits {
    limited: IntCounterVec,
}

impl Limits {
    pub(super) fn new(set: &Set) -> Self {
        let limited = set.counters(
            "roadstead_limited_total",
            "What was refused or ended because a limit was met.",
            &["limit"],
        );
        for limit in Limit::ALL {
            limited.with_label_values(&[limit.label()]);
        }
        Self { limited }
    }
}

impl Metrics {
    /// A limit was met.
    pub fn limited(&self, limit: Limit) {
        let counter = &self.inner.limits.limited;
        counter.with_label_values(&[limit.label()]).inc();
    }
}
