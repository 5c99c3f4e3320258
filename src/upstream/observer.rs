//! Passes on what happens at the endpoints of an upstream to those whom it concerns: their health, the log,
//! the metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::health::{Change, Health, Resource};
use super::rate_limit::{self, Cost};
use super::turns::Turn;
use super::{EndpointId, FetchError};
use crate::oci::UpstreamName;
use crate::telemetry::Metrics;

/// One for each upstream.
#[derive(Debug)]
pub(super) struct EndpointObserver {
    upstream: UpstreamName,
    /// Host and port of each endpoint, for log and metrics.
    hosts: Vec<String>,
    metrics: Metrics,
    pub(super) health: Health,
    /// When people were told of a loop that costs only time.
    loop_logged: Mutex<Option<Instant>>,
    /// The same of what is not followed inside.
    inside_logged: Mutex<Option<Instant>>,
}

impl EndpointObserver {
    /// Nothing has happened yet.
    pub(super) fn new(
        upstream: UpstreamName,
        hosts: Vec<String>,
        health: Health,
        metrics: Metrics,
    ) -> Self {
        for host in &hosts {
            metrics
                .upstreams()
                .endpoint_up(upstream.as_str(), host, true);
        }
        Self {
            upstream,
            hosts,
            metrics,
            health,
            loop_logged: Mutex::default(),
            inside_logged: Mutex::default(),
        }
    }

    /// Host and port of an endpoint.
    pub(super) fn host(&self, endpoint: EndpointId) -> &str {
        self.hosts.get(endpoint.0).map_or("", String::as_str)
    }

    /// The same request is asked again.
    pub(super) fn retry(&self) {
        self.metrics.upstreams().retry(self.upstream.as_str());
    }

    /// The next endpoint is asked instead of one that failed.
    pub(super) fn failover(&self) {
        self.metrics.upstreams().failover(self.upstream.as_str());
    }

    /// An endpoint did not give what it was asked for. `elsewhere`: the next one is asked.
    pub(super) fn no_answer(&self, endpoint: EndpointId, error: &FetchError, elsewhere: bool) {
        let (upstream, host) = (&self.upstream, self.host(endpoint));
        let now = Instant::now();
        let inside = matches!(error, FetchError::Inside(_));
        let ourselves = matches!(error, FetchError::Ourselves(_));
        if (inside && is_news(&self.inside_logged, now))
            || (ourselves && is_news(&self.loop_logged, now))
        {
            let advice = if inside {
                "a redirect or token server is not followed"
            } else {
                "an upstream must not lead to this mirror's own listeners: check its endpoints and the \
                 addresses of their names"
            };
            tracing::warn!(%upstream, endpoint = host, %error, "{advice}");
        } else if matches!(error, FetchError::Loop(_))
            && elsewhere
            && is_news(&self.loop_logged, now)
        {
            tracing::warn!(
                %upstream, endpoint = host, %error,
                "endpoint leads in a circle, and is asked in vain each time: the next one is asked. Is it configured rightly?"
            );
        } else {
            tracing::debug!(%upstream, endpoint = host, %error, "no answer");
        }
    }

    /// Tells people of a breaker: once when it opens, once when it closes.
    pub(super) fn changed(&self, endpoint: EndpointId, change: Option<Change>, error: &str) {
        let (upstream, host) = (&self.upstream, self.host(endpoint));
        match change {
            None => {}
            Some(Change::Opened(pause)) => {
                self.metrics
                    .upstreams()
                    .endpoint_up(upstream.as_str(), host, false);
                let pause = pause.as_secs_f64();
                tracing::warn!(
                    %upstream, endpoint = host, error,
                    "endpoint keeps failing: backing off for {pause:.1} s (circuit open), then tried with one request at a time"
                );
            }
            Some(Change::StaysOpen(pause)) => {
                let pause = pause.as_secs_f64();
                tracing::debug!(%upstream, endpoint = host, error, "endpoint still fails: backing off for {pause:.1} s (circuit open)");
            }
            Some(Change::Rests(wait)) => {
                let wait = wait.as_secs_f64();
                tracing::info!(%upstream, endpoint = host, "endpoint is overloaded, as it says: backing off for {wait:.0} s");
            }
            Some(Change::Closed) => {
                self.metrics
                    .upstreams()
                    .endpoint_up(upstream.as_str(), host, true);
                tracing::info!(%upstream, endpoint = host, "endpoint is available again (circuit closed): asked as before");
            }
        }
    }

    /// When the first login of all endpoints is not limited, if they all are.
    pub(super) fn limited_until(&self, until: Option<Instant>) {
        let upstream = self.upstream.as_str();
        self.metrics.upstreams().limited(upstream, until);
    }

    /// A login is limited at an endpoint, for what costs so much. `news`: for how long, where that was not known, and
    /// whom the limit counts. `until`: when the first login of all endpoints is not limited, if they all are.
    pub(super) fn limited(
        &self,
        endpoint: EndpointId,
        cost: Cost,
        news: Option<(Duration, Option<String>)>,
        until: Option<Instant>,
    ) {
        let (upstream, host) = (&self.upstream, self.host(endpoint));
        self.limited_until(until);
        let Some((wait, source)) = news else {
            return;
        };
        let counted = source.as_deref().unwrap_or("unknown");
        let others = if until.is_some() {
            "no other login or endpoint is left"
        } else {
            "others are used"
        };
        if wait < WORTH_A_LINE {
            let wait = wait.as_secs_f64();
            tracing::debug!(%upstream, endpoint = host, counted, "rate limited for {wait:.3} s");
            return;
        }
        let what = match cost {
            Cost::Pull => " for manifests",
            Cost::Nothing => "",
        };
        let but = if rate_limit::is_probed(wait) {
            ", but for one request every few minutes"
        } else {
            ""
        };
        let wait = wait.as_secs_f64();
        tracing::info!(
            %upstream, endpoint = host, counted,
            "rate limited: this login is not used{what} for {wait:.1} s{but}; {others}"
        );
    }
}

/// True if it was not told of lately; it is from now on.
fn is_news(logged: &Mutex<Option<Instant>>, now: Instant) -> bool {
    let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
    let news = logged.is_none_or(|at| at + LOOP_LINE_EVERY <= now);
    if news {
        *logged = Some(now);
    }
    news
}

/// The observer and the turn of a streamed body.
#[derive(Debug)]
pub(super) struct BodyGuard {
    pub(super) observer: Arc<EndpointObserver>,
    pub(super) endpoint: EndpointId,
    /// Asked for.
    pub(super) resource: Resource,
    /// When its head had come.
    pub(super) began: Instant,
    /// One of the upstream's `max_connections`.
    pub(super) turn: Turn,
}

impl BodyGuard {
    /// The body ended well, after so many bytes. The turn is another's from now on.
    pub(super) fn ended(self, bytes: u64) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        let health = &self.observer.health;
        health.body_ended(self.endpoint, bytes, took, now);
        drop(self.turn);
    }

    /// The body broke after so many bytes. One that had come so far is the blob's or the line's trouble: a
    /// single blob that always breaks must not keep an upstream from being asked for others.
    pub(super) fn failed(self, error: &FetchError, bytes: u64) {
        if bytes >= GIVES_BYTES_MIN {
            return;
        }
        let health = &self.observer.health;
        let times = (self.began, Instant::now());
        let change = health.body_failed(self.endpoint, error, self.resource, times);
        self.observer
            .changed(self.endpoint, change, &error.to_string());
        drop(self.turn);
    }
}

/// A loop is met by each request, and does not change by itself.
const LOOP_LINE_EVERY: Duration = Duration::from_mins(1);
/// An endpoint that gives so many bytes of a body is well.
const GIVES_BYTES_MIN: u64 = 64 * 1024;
/// Shorter limits come by the dozen a minute (GHCR), and nobody notices.
const WORTH_A_LINE: Duration = Duration::from_secs(1);
