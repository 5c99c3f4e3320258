//! Clients' requests and the bytes that they were given.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::Set;
use super::labels::{ByKind, ByOutcome};
use super::set::FirstBytes;

/// The families.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) answered: IntCounterVec,
    pub(super) bytes: IntCounterVec,
    pub(super) first_byte: FirstBytes,
    /// The counters of each configured upstream, resolved once: every request needs some.
    pub(super) clients_seen: IntGauge,
    by_upstream: ArcSwap<HashMap<Box<str>, Arc<Counters>>>,
}

/// The counters of one upstream.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) requests: ByKind<ByOutcome<IntCounter>>,
    pub(super) bytes: ByKind<IntCounter>,
}

impl Requests {
    pub(super) fn new(set: &Set, upstreams: &[&str]) -> Self {
        let requests = set.counters(
            "roadstead_requests_total",
            "Requests answered, by what was asked for and how it was answered.",
            &["kind", "upstream", "outcome"],
        );
        let bytes = set.counters(
            "roadstead_client_bytes_total",
            "Body bytes handed to clients.",
            &["kind", "upstream"],
        );
        let all = Self {
            by_upstream: ArcSwap::default(),
            clients_seen: set.gauge(
                "roadstead_clients_seen",
                "Clients (addresses) that asked for something within the last hour.",
            ),
            first_byte: set.first_byte(),
            answered: requests,
            bytes,
        };
        all.add(upstreams);
        all
    }

    /// Counts for these upstreams, too. Those of before stay: a counter does not go back.
    pub(super) fn add(&self, upstreams: &[&str]) {
        self.by_upstream.rcu(|before| {
            let mut after = HashMap::clone(before);
            for name in upstreams {
                if !after.contains_key(*name) {
                    after.insert(Box::from(*name), Arc::new(self.counters(name)));
                }
            }
            after
        });
    }

    fn counters(&self, name: &str) -> Counters {
        Counters {
            requests: ByKind::new(|kind| {
                ByOutcome::new(|outcome| {
                    let labels = [kind.label(), name, outcome.label()];
                    self.answered.with_label_values(&labels)
                })
            }),
            bytes: ByKind::new(|kind| self.bytes.with_label_values(&[kind.label(), name])),
        }
    }

    /// What `count` makes of an upstream's counters, if it is configured.
    pub(super) fn of<T>(&self, upstream: &str, count: impl FnOnce(&Counters) -> T) -> Option<T> {
        self.by_upstream.load().get(upstream).map(|it| count(it))
    }
}
