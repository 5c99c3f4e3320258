//! Spans of traces: exported, and dropped.

use super::Set;
use prometheus::{IntCounter, IntCounterVec};

/// The reason that a span was not exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Too many waited for their export.
    Full,
    /// Clients asked for more traces than they may.
    Limit,
    /// The collector did not take it.
    Refused,
    /// The collector did not answer, or had no room, time after time.
    Unreachable,
}

/// The families.
#[derive(Debug)]
pub struct Traces {
    exported: IntCounter,
    dropped: IntCounterVec,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::Full, Self::Limit, Self::Refused, Self::Unreachable];

    const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Limit => "limit",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

impl Traces {
    pub(super) fn new(set: &Set) -> Self {
        let all = Self {
            exported: set.counter(
                "roadstead_traces_exported_total",
                "Spans of traces that the collector has taken.",
            ),
            dropped: set.counters(
                "roadstead_traces_dropped_total",
                "Spans of traces that were not exported.",
                &["reason"],
            ),
        };
        for reason in Dropped::ALL {
            all.dropped(reason, 0);
        }
        all
    }

    /// The collector has taken so many spans.
    pub fn exported(&self, spans: usize) {
        self.exported.inc_by(spans as u64);
    }

    /// So many spans were not exported.
    pub fn dropped(&self, reason: Dropped, spans: usize) {
        let counter = self.dropped.with_label_values(&[reason.label()]);
        counter.inc_by(spans as u64);
    }
}
