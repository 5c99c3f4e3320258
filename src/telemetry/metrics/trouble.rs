//! Troubles with upstreams: rate limits, endpoints that fail, requests sent again.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};
use std::sync::PoisonError;
use tokio::time::Instant;

use super::{Metrics, Set};

/// The families.
#[derive(Debug)]
pub(super) struct Trouble {
    remaining: IntGaugeVec,
    limit: IntGaugeVec,
    endpoint_up: IntGaugeVec,
    limited: IntGaugeVec,
    retry_after: GaugeVec,
    retries: IntCounterVec,
    failovers: IntCounterVec,
}

impl Trouble {
    pub(super) fn new(set: &Set) -> Self {
        Self {
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
        }
    }

    /// Shows the counters of an upstream from the start.
    pub(super) fn show(&self, upstream: &str) {
        self.retries.with_label_values(&[upstream]);
        self.failovers.with_label_values(&[upstream]);
    }
}

impl Metrics {
    /// Sets the requests that an upstream said its limit still allows.
    pub fn ratelimit_remaining(&self, upstream: &str, remaining: i64) {
        self.inner
            .trouble
            .remaining
            .with_label_values(&[self.upstream_label(upstream)])
            .set(remaining);
    }

    /// Sets the limit that an upstream said it has.
    pub fn ratelimit_limit(&self, upstream: &str, limit: i64) {
        self.inner
            .trouble
            .limit
            .with_label_values(&[self.upstream_label(upstream)])
            .set(limit);
    }

    /// Every login of every endpoint of the upstream is limited until then; `None`: not so. The time passes
    /// by itself.
    pub fn upstream_limited(&self, upstream: &str, until: Option<Instant>) {
        if let Some(upstream) = self.inner.upstreams.get(upstream) {
            let limited = &upstream.limited_until;
            *limited.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }

    /// Sets if an endpoint is asked. `endpoint` is the host and port of a configured endpoint.
    pub fn endpoint_up(&self, upstream: &str, endpoint: &str, up: bool) {
        if self.inner.upstreams.contains_key(upstream) {
            self.inner
                .trouble
                .endpoint_up
                .with_label_values(&[upstream, endpoint])
                .set(i64::from(up));
        }
    }

    /// A request to an upstream was sent again.
    pub fn upstream_retry(&self, upstream: &str) {
        let upstream = self.upstream_label(upstream);
        self.inner
            .trouble
            .retries
            .with_label_values(&[upstream])
            .inc();
    }

    /// A question was put to the next endpoint, because one failed.
    pub fn upstream_failover(&self, upstream: &str) {
        let upstream = self.upstream_label(upstream);
        self.inner
            .trouble
            .failovers
            .with_label_values(&[upstream])
            .inc();
    }

    /// Brings the gauges up to date that change as time passes.
    pub(super) fn count_down(&self) {
        let now = Instant::now();
        for (name, upstream) in &self.inner.upstreams {
            let until = *upstream
                .limited_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let left = until.map(|until| until.saturating_duration_since(now));
            let left = left.unwrap_or_default();
            let labels = [name.as_ref()];
            let limited = self.inner.trouble.limited.with_label_values(&labels);
            limited.set(i64::from(!left.is_zero()));
            let retry_after = self.inner.trouble.retry_after.with_label_values(&labels);
            retry_after.set(left.as_secs_f64());
        }
    }
}

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
