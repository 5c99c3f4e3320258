//! Requests to upstreams, and troubles with them: rate limits, endpoints that fail, requests sent again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec};
use tokio::time::Instant;

use super::{Kind, NO_UPSTREAM, Set};

/// The statuses of requests that are shown as 0 from the start: what an alert is made of.
const STATUSES_SHOWN: [&str; 7] = ["200", "401", "429", "timeout", "connect", "error", "lost"];

/// Families without a sample until there is something to say, for 0 would mean something else: people see
/// their names all the same.
pub(super) const SHOWN_EMPTY: [(&str, &str); 3] = [REMAINING, LIMIT, ENDPOINT_UP];
const REMAINING: (&str, &str) = (
    "roadstead_upstream_ratelimit_remaining",
    "Requests an upstream's rate limit still allows, as it last said; absent until it says so.",
);
const LIMIT: (&str, &str) = (
    "roadstead_upstream_ratelimit_limit",
    "Requests an upstream's rate limit allows in its window, as it last said; absent until it says so.",
);
const ENDPOINT_UP: (&str, &str) = (
    "roadstead_upstream_endpoint_up",
    "1 while an endpoint is asked; 0 while it is not, because it kept failing (its breaker is open).",
);

/// The kind of place that the bytes of a blob that is stored have come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillSource {
    /// Another node of the cluster.
    Peer,
    /// An object store.
    Tier,
    /// The upstream.
    Upstream,
}

impl FillSource {
    const ALL: [Self; 3] = [Self::Peer, Self::Tier, Self::Upstream];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Tier => "tier",
            Self::Upstream => "upstream",
        }
    }
}

/// The families of upstreams. Each method takes an upstream's name; one that is not configured counts under the empty
/// label, or not at all.
#[derive(Debug)]
pub struct Upstreams {
    bytes: IntCounterVec,
    fill_bytes: IntCounterVec,
    requests: IntCounterVec,
    retries: IntCounterVec,
    failovers: IntCounterVec,
    remaining: IntGaugeVec,
    limit: IntGaugeVec,
    endpoint_up: IntGaugeVec,
    limited: IntGaugeVec,
    retry_after: GaugeVec,
    configured: ArcSwap<HashMap<Box<str>, Arc<Upstream>>>,
}

/// One configured upstream.
#[derive(Debug)]
struct Upstream {
    /// Resolved once: every piece of a body needs it.
    bytes: IntCounter,
    /// Every login of every endpoint is limited until then.
    limited_until: Mutex<Option<Instant>>,
    /// It is configured still.
    is_asked: AtomicBool,
}

impl Upstreams {
    pub(super) fn new(set: &Set, names: &[&str]) -> Self {
        let bytes = set.counters(
            "roadstead_upstream_bytes_total",
            "Body bytes received from upstreams.",
            &["upstream"],
        );
        let all = Self {
            configured: ArcSwap::default(),
            bytes,
            fill_bytes: set.counters(
                "roadstead_fill_bytes_total",
                "Bytes of blobs that were written to the cache, by where they came from: another node of the cluster, the object store, or the upstream.",
                &["upstream", "source"],
            ),
            requests: set.counters(
                "roadstead_upstream_requests_total",
                "Requests to upstreams, by HTTP status, or timeout, connect or error where there was none.",
                &["upstream", "kind", "status"],
            ),
            retries: set.counters(
                "roadstead_upstream_retries_total",
                "Requests to upstreams sent again: connections that broke, failures of a moment, limits that ended.",
                &["upstream"],
            ),
            failovers: set.counters(
                "roadstead_upstream_failovers_total",
                "Questions put to the next endpoint of an upstream because one failed.",
                &["upstream"],
            ),
            remaining: set.gauges(REMAINING.0, REMAINING.1, &["upstream"]),
            limit: set.gauges(LIMIT.0, LIMIT.1, &["upstream"]),
            endpoint_up: set.gauges(ENDPOINT_UP.0, ENDPOINT_UP.1, &["upstream", "endpoint"]),
            limited: set.gauges(
                "roadstead_upstream_limited",
                "1 while every login of every endpoint of an upstream is rate limited.",
                &["upstream"],
            ),
            retry_after: set.seconds(
                "roadstead_upstream_retry_after_seconds",
                "Time until a rate limited upstream is asked again; 0 when it is not limited.",
                &["upstream"],
            ),
        };
        all.add(names);
        all
    }

    /// Counts for these upstreams, too.
    pub(super) fn add(&self, names: &[&str]) {
        self.configured.rcu(|before| {
            let mut after = HashMap::clone(before);
            for name in names {
                after.entry(Box::from(*name)).or_insert_with(|| {
                    Arc::new(Upstream {
                        bytes: self.bytes.with_label_values(&[*name]),
                        limited_until: Mutex::new(None),
                        is_asked: AtomicBool::new(true),
                    })
                });
            }
            after
        });
        for name in names {
            self.show(name);
        }
    }

    /// Leaves the gauges away of upstreams and endpoints that are none of these. Counters stay: they do not go back, and a
    /// transfer may still run.
    pub(super) fn ask_only(&self, endpoints: &HashMap<&str, Vec<String>>) {
        for (name, upstream) in self.configured.load().iter() {
            let is_asked = endpoints.contains_key(name.as_ref());
            upstream.is_asked.store(is_asked, Ordering::Relaxed);
            if !is_asked {
                // One that was never set cannot be removed.
                self.remaining.remove_label_values(&[name]).ok();
                self.limit.remove_label_values(&[name]).ok();
                self.limited.remove_label_values(&[name]).ok();
                self.retry_after.remove_label_values(&[name]).ok();
            }
        }
        let families = self.endpoint_up.collect();
        let mut shown = HashSet::new();
        for metric in families.iter().flat_map(MetricFamily::get_metric) {
            let value = |wanted: &str| {
                let mut labels = metric.get_label().iter();
                let found = labels.find(|label| label.name() == wanted);
                found.map_or("", |label| label.value())
            };
            let (upstream, endpoint) = (value("upstream"), value("endpoint"));
            let asked = endpoints.get(upstream);
            if asked.is_some_and(|asked| asked.iter().any(|it| it == endpoint)) {
                shown.insert((upstream, endpoint));
            } else {
                let labels = [upstream, endpoint];
                self.endpoint_up.remove_label_values(&labels).ok();
            }
        }
        // An upstream that is new was set up before its name counted.
        for (upstream, hosts) in endpoints {
            for host in hosts {
                if !shown.contains(&(*upstream, host.as_str())) {
                    self.endpoint_up(upstream, host, true);
                }
            }
        }
    }

    /// Shows the counters of an upstream from the start.
    fn show(&self, name: &str) {
        for kind in Kind::ALL {
            for status in STATUSES_SHOWN {
                self.requests
                    .with_label_values(&[name, kind.label(), status]);
            }
        }
        for source in FillSource::ALL {
            self.fill_bytes.with_label_values(&[name, source.label()]);
        }
        self.retries.with_label_values(&[name]);
        self.failovers.with_label_values(&[name]);
    }

    /// Bytes of a blob were written that came from there.
    pub fn filled(&self, upstream: &str, source: FillSource, bytes: u64) {
        let labels = [self.label(upstream), source.label()];
        self.fill_bytes.with_label_values(&labels).inc_by(bytes);
    }

    fn is_configured(&self, upstream: &str) -> bool {
        self.configured.load().contains_key(upstream)
    }

    fn is_asked(&self, upstream: &str) -> bool {
        let configured = self.configured.load();
        let upstream = configured.get(upstream);
        upstream.is_some_and(|it| it.is_asked.load(Ordering::Relaxed))
    }

    /// The upstream's label: its name if it is configured.
    fn label<'a>(&self, upstream: &'a str) -> &'a str {
        if self.is_configured(upstream) {
            upstream
        } else {
            NO_UPSTREAM
        }
    }

    /// Body bytes came from an upstream.
    pub fn bytes(&self, upstream: &str, bytes: u64) {
        match self.configured.load().get(upstream) {
            Some(upstream) => upstream.bytes.inc_by(bytes),
            None => self.bytes.with_label_values(&[NO_UPSTREAM]).inc_by(bytes),
        }
    }

    /// Body bytes that came from an upstream so far.
    pub(super) fn bytes_so_far(&self, upstream: &str) -> u64 {
        let configured = self.configured.load();
        let upstream = configured.get(upstream);
        upstream.map_or(0, |upstream| upstream.bytes.get())
    }

    /// A request to an upstream was answered with `status` (an HTTP status, or `timeout`, `connect`, `error`).
    /// Anything else counts as `error`.
    pub fn request(&self, upstream: &str, kind: Kind, status: &str) {
        let status = if is_status(status) { status } else { "error" };
        self.requests
            .with_label_values(&[self.label(upstream), kind.label(), status])
            .inc();
    }

    /// All requests that were sent to anybody so far.
    pub(super) fn requests_so_far(&self) -> u64 {
        let families = self.requests.collect();
        let counters = families.iter().flat_map(MetricFamily::get_metric);
        counters
            .map(|metric| whole(metric.get_counter().get_value()))
            .sum()
    }

    /// A request to an upstream was sent again.
    pub fn retry(&self, upstream: &str) {
        let label = self.label(upstream);
        self.retries.with_label_values(&[label]).inc();
    }

    /// A question was put to the next endpoint, because one failed.
    pub fn failover(&self, upstream: &str) {
        let label = self.label(upstream);
        self.failovers.with_label_values(&[label]).inc();
    }

    /// Sets the requests that an upstream said its limit still allows.
    pub fn ratelimit_remaining(&self, upstream: &str, remaining: i64) {
        let label = self.label(upstream);
        self.remaining.with_label_values(&[label]).set(remaining);
    }

    /// Sets the limit that an upstream said it has.
    pub fn ratelimit_limit(&self, upstream: &str, limit: i64) {
        let label = self.label(upstream);
        self.limit.with_label_values(&[label]).set(limit);
    }

    /// Every login of every endpoint of the upstream is limited until then; `None`: not so. The time passes
    /// by itself.
    pub fn limited(&self, upstream: &str, until: Option<Instant>) {
        if let Some(upstream) = self.configured.load().get(upstream) {
            let limited = &upstream.limited_until;
            *limited.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }

    /// Sets if an endpoint is asked. `endpoint` is the host and port of a configured endpoint.
    pub fn endpoint_up(&self, upstream: &str, endpoint: &str, up: bool) {
        if self.is_asked(upstream) {
            self.endpoint_up
                .with_label_values(&[upstream, endpoint])
                .set(i64::from(up));
        }
    }

    /// Brings the gauges up to date that change as time passes.
    pub(super) fn count_down(&self) {
        let now = Instant::now();
        for (name, upstream) in self.configured.load().iter() {
            if !upstream.is_asked.load(Ordering::Relaxed) {
                continue;
            }
            let until = &upstream.limited_until;
            let until = *until.lock().unwrap_or_else(PoisonError::into_inner);
            let left = until.map(|until| until.saturating_duration_since(now));
            let left = left.unwrap_or_default();
            let labels = [name.as_ref()];
            let limited = self.limited.with_label_values(&labels);
            limited.set(i64::from(!left.is_zero()));
            let retry_after = self.retry_after.with_label_values(&labels);
            retry_after.set(left.as_secs_f64());
        }
    }
}

/// An HTTP status, or what stands for one where there was none.
fn is_status(text: &str) -> bool {
    matches!(text, "timeout" | "connect" | "error" | "lost")
        || matches!(text.as_bytes(), [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'])
}

/// The client library keeps even counters of whole numbers as floats.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count is whole and not negative, and far below 2^53"
)]
fn whole(count: f64) -> u64 {
    count as u64
}
