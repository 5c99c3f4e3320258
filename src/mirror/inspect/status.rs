//! The state of the process: sizes, hits, upstreams, transfers.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::usage::{Dedup, UsageSurvey};
use super::{InspectError, When};
use crate::catalogue::Catalogue;
use crate::clock::{Clock, Timestamp};
use crate::mirror::core::{Core, Tasks, Upstreams};
use crate::mirror::fills::Fills;
use crate::store::{Figures, FillState, Store};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Totals;
use crate::upstream::EndpointReport;

/// The state of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of roadstead.
    pub version: String,
    /// True if a server runs; without one there are no upstreams, transfers and traffic.
    pub running: bool,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<When>,
    /// For how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// Its health: `ok`, or why it cannot do all that it is for.
    pub health: String,
    /// Sizes of the store.
    pub cache: CacheStatus,
    /// Requests and bytes since the start.
    pub traffic: Traffic,
    /// Bytes saved by keeping content once. At most a minute old.
    pub dedup: Dedup,
    /// The upstreams, in the order of their names.
    pub upstreams: Vec<UpstreamStatus>,
    /// Blobs on their way.
    pub fills: Vec<FillStatus>,
}

/// Sizes of the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// All of it, as `roadstead_cache_bytes`.
    pub used_bytes: u64,
    /// The most that it may take; absent without a server, which alone keeps to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Stored blobs and manifests.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// The bytes of those that belong to pinned images.
    pub pinned_bytes: u64,
    /// Partial files, and what is reserved for transfers and the index.
    pub reserved_bytes: u64,
    /// The index.
    pub index_bytes: u64,
    /// Bytes that the file system has free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
}

/// Requests and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests for manifests and blobs that were answered with them.
    pub pulls: u64,
    /// Those that needed no transfer of their own.
    pub hits: u64,
    /// `hits` of `pulls`; absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit_ratio: Option<f64>,
    /// Requests for what does not exist (404).
    #[serde(default)]
    pub not_found: u64,
    /// Requests that were refused (any other 4xx): upstream denies it or limits us, or they make no sense.
    #[serde(default)]
    pub refused: u64,
    /// Requests in which upstream or this mirror failed (5xx).
    pub errors: u64,
    /// Bytes handed to clients.
    pub client_bytes: u64,
    /// Bytes fetched from upstream.
    pub upstream_bytes: u64,
    /// Bytes that clients got beyond those that were fetched.
    pub saved_bytes: u64,
    /// `saved_bytes` of `client_bytes`; absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte_hit_ratio: Option<f64>,
}

/// The state of an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Requests to it, and bytes.
    pub traffic: Traffic,
    /// Its endpoints, in the order of the configuration.
    pub endpoints: Vec<EndpointStatus>,
}

/// The state of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Its host and port.
    pub host: String,
    /// True if it is asked.
    pub up: bool,
    /// Failures in a row.
    pub failures: u32,
    /// For how long it is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_in_seconds: Option<f64>,
    /// The failure for which it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Time that its answers took to begin, in the last minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_seconds: Option<f64>,
    /// For how long all its logins are limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited_for_seconds: Option<f64>,
    /// Number of pulls that are left, where it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_pulls: Option<u64>,
}

/// A blob on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FillStatus {
    /// The blob.
    pub digest: String,
    /// The repository for which it was begun.
    pub repository: String,
    /// Number of its bytes that are there.
    pub covered_bytes: u64,
    /// Its size, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Number of clients that read it.
    pub readers: usize,
}

/// The readiness of a mirror for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All is well.
    Ready,
    /// The store's disk or index fails, in one line: clients are served all the same, from what can be
    /// read and from upstream.
    Degraded(String),
    /// It is shutting down.
    Stopping,
}

/// Looks at how the process is.
#[derive(Debug)]
pub struct Overview {
    upstreams: Upstreams,
    store: Store,
    catalogue: Catalogue,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    tasks: Tasks,
    fills: Arc<Fills>,
    usage: Arc<UsageSurvey>,
    /// When this was made.
    started: Timestamp,
}

impl Overview {
    pub(in crate::mirror) fn new(
        core: &Core,
        fills: &Arc<Fills>,
        usage: &Arc<UsageSurvey>,
    ) -> Self {
        Self {
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            catalogue: core.catalogue.clone(),
            started: core.clock.now(),
            clock: Arc::clone(&core.clock),
            metrics: core.metrics.clone(),
            tasks: core.tasks.clone(),
            fills: Arc::clone(fills),
            usage: Arc::clone(usage),
        }
    }

    pub fn readiness(&self) -> Readiness {
        if self.tasks.stopping().is_cancelled() {
            return Readiness::Stopping;
        }
        let trouble = self.store.trouble().or_else(|| self.catalogue.trouble());
        trouble.map_or(Readiness::Ready, Readiness::Degraded)
    }

    /// Requests and bytes of all upstreams since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let names = self.upstreams.now();
        let each = names.iter();
        each.map(|(name, _)| self.metrics.so_far().totals(name.as_str()))
            .fold(Totals::default(), Totals::plus)
    }

    /// The state of the process.
    ///
    /// # Errors
    /// [`InspectError`]: the operating system does not answer.
    pub async fn status(&self, running: bool) -> Result<Status, InspectError> {
        let figures = self.store.contents().figures_async().await;
        let ready = self.readiness();
        let upstreams = self.upstream_statuses();
        let sum = self.totals();
        let now = self.clock.now();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running,
            started_at: running.then_some(When(self.started)),
            uptime_seconds: running.then(|| now.since(self.started).as_secs()),
            health: match ready {
                Readiness::Ready => "ok".to_owned(),
                Readiness::Degraded(why) => format!("degraded: {why}"),
                Readiness::Stopping => "draining".to_owned(),
            },
            cache: CacheStatus::of(figures, running),
            traffic: Traffic::of(sum),
            dedup: self.usage.recent_dedup().await,
            upstreams,
            fills: self.fill_statuses(),
        })
    }

    fn upstream_statuses(&self) -> Vec<UpstreamStatus> {
        let mut statuses: Vec<UpstreamStatus> = self
            .upstreams
            .now()
            .iter()
            .map(|(name, upstream)| UpstreamStatus {
                name: name.to_string(),
                traffic: Traffic::of(self.metrics.so_far().totals(name.as_str())),
                endpoints: upstream
                    .report()
                    .into_iter()
                    .map(EndpointStatus::of)
                    .collect(),
            })
            .collect();
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
        statuses
    }

    fn fill_statuses(&self) -> Vec<FillStatus> {
        let mut fills: Vec<FillStatus> = self
            .fills
            .list()
            .into_iter()
            .map(|(digest, source, fill)| {
                let FillState {
                    total,
                    covered,
                    readers,
                } = fill.state();
                FillStatus {
                    digest: digest.to_string(),
                    repository: format!("{}/{}", source.upstream, source.repository),
                    covered_bytes: covered,
                    total_bytes: total,
                    readers,
                }
            })
            .collect();
        fills.sort_by(|a, b| (&a.repository, &a.digest).cmp(&(&b.repository, &b.digest)));
        fills
    }
}

impl CacheStatus {
    fn of(figures: Figures, running: bool) -> Self {
        Self {
            used_bytes: figures.used,
            max_bytes: running.then_some(figures.max),
            blobs: figures.blobs,
            blob_bytes: figures.blob_bytes,
            pinned_bytes: figures.pinned,
            reserved_bytes: figures.reserved,
            index_bytes: figures.index,
            free_bytes: figures.free,
        }
    }
}

impl Traffic {
    fn of(totals: Totals) -> Self {
        let saved = totals.client_bytes.saturating_sub(totals.upstream_bytes);
        Self {
            pulls: totals.pulls,
            hits: totals.hits,
            hit_ratio: ratio(totals.hits, totals.pulls),
            not_found: totals.not_found,
            refused: totals.refused,
            errors: totals.errors,
            client_bytes: totals.client_bytes,
            upstream_bytes: totals.upstream_bytes,
            saved_bytes: saved,
            byte_hit_ratio: ratio(saved, totals.client_bytes),
        }
    }
}

/// A part of a whole, unless that is nothing.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl EndpointStatus {
    fn of(report: EndpointReport) -> Self {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            host: report.host,
            up: report.up,
            failures: report.failures,
            asked_in_seconds: seconds(report.asked_in),
            why: report.why,
            latency_seconds: seconds(report.latency),
            limited_for_seconds: seconds(report.limited_for),
            remaining_pulls: report.remaining,
        }
    }
}
