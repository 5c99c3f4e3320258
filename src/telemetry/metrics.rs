//! Prometheus metrics. Labels are closed enums or configured upstream names:
//! never a repository, a tag or a digest. A name that is not configured counts under the empty label.

mod catalogue;
mod disk;
mod labels;
mod limits;
mod log;
mod process;
mod scrub;
mod set;
mod totals;
mod trouble;

use catalogue::Catalogue;
use disk::Disk;
pub use disk::DiskOp;
use labels::{ByKind, ByOutcome};
pub use labels::{EvictReason, Kind, Outcome};
use limits::Limits;
pub use limits::{Limit, Listener};
use log::Log;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};
use scrub::Scrub;
use set::{FirstBytes, NO_LABELS, Set};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;
pub use totals::Totals;
use trouble::Trouble;

/// The label of requests that name no upstream, or none that is configured.
const NO_UPSTREAM: &str = "";
/// The statuses of upstream requests that are shown as 0 from the start: what an alert is made of.
const STATUSES_SHOWN: [&str; 7] = ["200", "401", "429", "timeout", "connect", "error", "lost"];
/// All metrics of the process. Cheap to clone (an `Arc` inside).
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    client_bytes: IntCounterVec,
    upstream_bytes: IntCounterVec,
    upstream_requests: IntCounterVec,
    fills_in_flight: IntGauge,
    readers_in_flight: IntGauge,
    first_byte: FirstBytes,
    cache_bytes: IntGauge,
    cache_max_bytes: IntGauge,
    cache_blobs: IntGauge,
    evicted_size: IntCounter,
    evicted_damaged: IntCounter,
    catalogue: Catalogue,
    disk: Disk,
    log: Log,
    scrub: Scrub,
    evicted_removed: IntCounter,
    evicted_age: IntCounter,
    trouble: Trouble,
    limits: Limits,
    /// The counters of each configured upstream, resolved once: every request needs some.
    upstreams: HashMap<Box<str>, Upstream>,
}

/// The counters of one upstream.
#[derive(Debug)]
struct Upstream {
    requests: ByKind<ByOutcome<IntCounter>>,
    client_bytes: ByKind<IntCounter>,
    bytes: IntCounter,
    /// Every login of every endpoint is limited until then.
    limited_until: Mutex<Option<Instant>>,
}

impl Metrics {
    /// Fresh metrics; every label set of the configured upstreams that can be known is shown as 0 from the start.
    #[must_use]
    pub fn new<'a>(upstreams: impl Iterator<Item = &'a str>) -> Self {
        let set = Set(Registry::new());
        let requests = set.counters(
            "roadstead_requests_total",
            "Requests answered, by what was asked for and how it was answered.",
            &["kind", "upstream", "outcome"],
        );
        let client_bytes = set.counters(
            "roadstead_client_bytes_total",
            "Body bytes handed to clients.",
            &["kind", "upstream"],
        );
        let upstream_bytes = set.counters(
            "roadstead_upstream_bytes_total",
            "Body bytes received from upstreams.",
            &["upstream"],
        );
        let upstream_requests = set.counters(
            "roadstead_upstream_requests_total",
            "Requests to upstreams, by HTTP status, or timeout, connect or error where there was none.",
            &["upstream", "kind", "status"],
        );
        let evicted = evicted_bytes(&set);
        let evicted = |reason: EvictReason| evicted.with_label_values(&[reason.label()]);
        process::build_info(&set);
        let trouble = Trouble::new(&set);
        let gauge = |name, help| set.gauges(name, help, &[]).with_label_values(&NO_LABELS);
        let upstreams = upstreams
            .map(|name| {
                for kind in Kind::ALL {
                    for status in STATUSES_SHOWN {
                        upstream_requests.with_label_values(&[name, kind.label(), status]);
                    }
                }
                trouble.show(name);
                let upstream = Upstream::new(name, &requests, &client_bytes, &upstream_bytes);
                (name.into(), upstream)
            })
            .collect();
        Self {
            inner: Arc::new(Inner {
                fills_in_flight: gauge(
                    "roadstead_fills_in_flight",
                    "Transfers of blobs from upstreams under way.",
                ),
                readers_in_flight: gauge("roadstead_readers_in_flight", "Client bodies under way."),
                first_byte: set.first_byte(),
                cache_bytes: gauge("roadstead_cache_bytes", "Bytes the cache takes on disk."),
                cache_max_bytes: gauge("roadstead_cache_max_bytes", "Bytes it may take on disk."),
                cache_blobs: gauge("roadstead_cache_blobs", "Whole blobs in the cache."),
                evicted_size: evicted(EvictReason::Size),
                evicted_damaged: evicted(EvictReason::Damaged),
                catalogue: Catalogue::new(&set),
                disk: Disk::new(&set),
                log: Log::new(&set),
                scrub: Scrub::new(&set),
                evicted_removed: evicted(EvictReason::Removed),
                evicted_age: evicted(EvictReason::Age),
                trouble,
                limits: Limits::new(&set),
                registry: set.0,
                requests,
                client_bytes,
                upstream_bytes,
                upstream_requests,
                upstreams,
            }),
        }
    }

    /// A request was answered. `upstream` is `""` where none was named.
    pub fn request(&self, kind: Kind, upstream: &str, outcome: Outcome) {
        match self.inner.upstreams.get(upstream) {
            Some(upstream) => upstream.requests.of(kind).of(outcome).inc(),
            None => self
                .inner
                .requests
                .with_label_values(&[kind.label(), NO_UPSTREAM, outcome.label()])
                .inc(),
        }
    }

    /// Time from the request's arrival to its first body byte (or its head when it has no body).
    pub fn first_byte(&self, kind: Kind, outcome: Outcome, seconds: f64) {
        self.inner.first_byte.of(kind, outcome).observe(seconds);
    }

    /// Body bytes were handed to a client.
    pub fn client_bytes(&self, kind: Kind, upstream: &str, bytes: u64) {
        match self.inner.upstreams.get(upstream) {
            Some(upstream) => upstream.client_bytes.of(kind).inc_by(bytes),
            None => self
                .inner
                .client_bytes
                .with_label_values(&[kind.label(), NO_UPSTREAM])
                .inc_by(bytes),
        }
    }

    /// Body bytes came from an upstream.
    pub fn upstream_bytes(&self, upstream: &str, bytes: u64) {
        match self.inner.upstreams.get(upstream) {
            Some(upstream) => upstream.bytes.inc_by(bytes),
            None => self
                .inner
                .upstream_bytes
                .with_label_values(&[NO_UPSTREAM])
                .inc_by(bytes),
        }
    }

    /// A request to an upstream was answered with `status` (an HTTP status, or `timeout`, `connect`, `error`).
    /// Anything else counts as `error`.
    pub fn upstream_request(&self, upstream: &str, kind: Kind, status: &str) {
        let status = if is_status(status) { status } else { "error" };
        self.inner
            .upstream_requests
            .with_label_values(&[self.upstream_label(upstream), kind.label(), status])
            .inc();
    }

    /// A fill began (+1) or ended (-1).
    pub fn fills_in_flight(&self, change: i64) {
        self.inner.fills_in_flight.add(change);
    }

    /// A client's body began (+1) or ended (-1).
    pub fn readers_in_flight(&self, change: i64) {
        self.inner.readers_in_flight.add(change);
    }

    /// True if clients are being given bytes, or bytes are being fetched for them.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.inner.readers_in_flight.get() > 0 || self.inner.fills_in_flight.get() > 0
    }

    /// Sets the contents of the store.
    pub fn cache(&self, bytes: u64, blobs: u64, max_bytes: u64) {
        self.inner.cache_bytes.set(signed(bytes));
        self.inner.cache_blobs.set(signed(blobs));
        self.inner.cache_max_bytes.set(signed(max_bytes));
    }

    /// Bytes were evicted.
    pub fn evicted(&self, reason: EvictReason, bytes: u64) {
        match reason {
            EvictReason::Size => &self.inner.evicted_size,
            EvictReason::Damaged => &self.inner.evicted_damaged,
            EvictReason::Removed => &self.inner.evicted_removed,
            EvictReason::Age => &self.inner.evicted_age,
        }
        .inc_by(bytes);
    }

    /// The text exposition.
    #[must_use]
    pub fn render(&self) -> String {
        self.count_down();
        self.inner.log.catch_up();
        let families = self.inner.registry.gather();
        let mut text = match TextEncoder::new().encode_to_string(&families) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written as text");
                String::new()
            }
        };
        let gauges = trouble::SHOWN_EMPTY.into_iter().chain([scrub::COMPLETED]);
        let gauges = gauges.map(|(name, help)| (name, help, "gauge"));
        let (name, help) = set::FIRST_BYTE;
        for (name, help, kind) in gauges.chain([(name, help, "histogram")]) {
            if !families.iter().any(|family| family.name() == name) {
                let lines = [
                    "# HELP ",
                    name,
                    " ",
                    help,
                    "\n# TYPE ",
                    name,
                    " ",
                    kind,
                    "\n",
                ];
                text.extend(lines);
            }
        }
        process::render(&mut text);
        text
    }

    /// The upstream's label: its name if it is configured.
    fn upstream_label<'a>(&self, upstream: &'a str) -> &'a str {
        if self.inner.upstreams.contains_key(upstream) {
            upstream
        } else {
            NO_UPSTREAM
        }
    }
}

impl Upstream {
    fn new(
        name: &str,
        requests: &IntCounterVec,
        client_bytes: &IntCounterVec,
        upstream_bytes: &IntCounterVec,
    ) -> Self {
        Self {
            requests: ByKind::new(|kind| {
                ByOutcome::new(|outcome| {
                    requests.with_label_values(&[kind.label(), name, outcome.label()])
                })
            }),
            client_bytes: ByKind::new(|kind| client_bytes.with_label_values(&[kind.label(), name])),
            bytes: upstream_bytes.with_label_values(&[name]),
            limited_until: Mutex::new(None),
        }
    }
}

fn evicted_bytes(set: &Set) -> IntCounterVec {
    set.counters(
        "roadstead_evicted_bytes_total",
        "Bytes evicted from the cache, to make room (size), because they were damaged, because an operator removed them, or because nobody used them (age).",
        &["reason"],
    )
}

/// An HTTP status, or what stands for one where there was none.
fn is_status(text: &str) -> bool {
    matches!(text, "timeout" | "connect" | "error" | "lost")
        || matches!(text.as_bytes(), [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'])
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
