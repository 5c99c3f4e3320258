//! Clients' requests and the bytes that they were given.

use std::collections::HashMap;

use prometheus::{IntCounter, IntCounterVec};

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
    pub(super) by_upstream: HashMap<Box<str>, Counters>,
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
        let counters = |name: &&str| {
            let counters = Counters {
                requests: ByKind::new(|kind| {
                    ByOutcome::new(|outcome| {
                        requests.with_label_values(&[kind.label(), *name, outcome.label()])
                    })
                }),
                bytes: ByKind::new(|kind| bytes.with_label_values(&[kind.label(), *name])),
            };
            (Box::from(*name), counters)
        };
        Self {
            by_upstream: upstreams.iter().map(counters).collect(),
            first_byte: set.first_byte(),
            answered: requests,
            bytes,
        }
    }

    pub(super) fn of(&self, upstream: &str) -> Option<&Counters> {
        self.by_upstream.get(upstream)
    }
}
