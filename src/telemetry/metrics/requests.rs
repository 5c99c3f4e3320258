//! Clients' requests and the bytes that they were given.

use std::collections::HashMap;

use prometheus::{IntCounter, IntCounterVec};

use super::labels::{ByKind, ByOutcome, Kind, Outcome};
use super::set::FirstBytes;
use super::{Metrics, NO_UPSTREAM, Set};

/// The families.
#[derive(Debug)]
pub(super) struct Requests {
    answered: IntCounterVec,
    bytes: IntCounterVec,
    first_byte: FirstBytes,
    /// The counters of each configured upstream, resolved once: every request needs some.
    by_upstream: HashMap<Box<str>, Counters>,
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

impl Metrics {
    /// A request was answered. `upstream` is `""` where none was named.
    pub fn request(&self, kind: Kind, upstream: &str, outcome: Outcome) {
        let requests = &self.inner.requests;
        match requests.of(upstream) {
            Some(counters) => counters.requests.of(kind).of(outcome).inc(),
            None => requests
                .answered
                .with_label_values(&[kind.label(), NO_UPSTREAM, outcome.label()])
                .inc(),
        }
    }

    /// Time from the request's arrival to its first body byte (or its head when it has no body).
    pub fn first_byte(&self, kind: Kind, outcome: Outcome, seconds: f64) {
        let first_byte = &self.inner.requests.first_byte;
        first_byte.of(kind, outcome).observe(seconds);
    }

    /// Body bytes were handed to a client.
    pub fn client_bytes(&self, kind: Kind, upstream: &str, bytes: u64) {
        let requests = &self.inner.requests;
        match requests.of(upstream) {
            Some(counters) => counters.bytes.of(kind).inc_by(bytes),
            None => requests
                .bytes
                .with_label_values(&[kind.label(), NO_UPSTREAM])
                .inc_by(bytes),
        }
    }
}
