//! The nodes of a cluster: who is there, and what they ask of each other.

use super::{Kind, Outcome, Set};
use prometheus::{IntCounterVec, IntGauge};

/// Results of requests to other nodes that are shown as 0 from the start.
const RESULTS_SHOWN: [&str; 6] = ["200", "206", "304", "404", "503", "error"];

/// The families.
#[derive(Debug)]
pub struct Cluster {
    members: IntGauge,
    asked: IntCounterVec,
    served: IntCounterVec,
    served_bytes: IntCounterVec,
}

impl Cluster {
    pub(super) fn new(set: &Set) -> Self {
        let asked = set.counters(
            "roadstead_node_requests_total",
            "Requests to other nodes of the cluster, by HTTP status, or error where there was none.",
            &["status"],
        );
        for status in RESULTS_SHOWN {
            asked.with_label_values(&[status]);
        }
        let served = set.counters(
            "roadstead_node_served_total",
            "Requests of other nodes of the cluster, by what was found here.",
            &["kind", "outcome"],
        );
        let served_bytes = set.counters(
            "roadstead_node_served_bytes_total",
            "Body bytes given to other nodes of the cluster.",
            &["kind"],
        );
        for kind in [Kind::Manifest, Kind::Blob] {
            served_bytes.with_label_values(&[kind.label()]);
            for outcome in Outcome::ALL {
                served.with_label_values(&[kind.label(), outcome.label()]);
            }
        }
        Self {
            members: set.gauge(
                "roadstead_cluster_members",
                "Nodes of the cluster that share the work, this one included: they answer, and are not about to leave. 0 without a cluster.",
            ),
            asked,
            served,
            served_bytes,
        }
    }

    /// So many nodes answer.
    pub fn members(&self, count: usize) {
        self.members.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Another node was asked. `status`: the status, or `error`.
    pub fn asked(&self, status: &str) {
        self.asked.with_label_values(&[status]).inc();
    }

    /// Another node was answered.
    pub fn served(&self, kind: Kind, outcome: Outcome) {
        let labels = [kind.label(), outcome.label()];
        self.served.with_label_values(&labels).inc();
    }

    /// Another node was given bytes.
    pub fn served_bytes(&self, kind: Kind, bytes: u64) {
        self.served_bytes
            .with_label_values(&[kind.label()])
            .inc_by(bytes);
    }
}
