//! Prometheus metrics. Labels are closed enums or configured upstream names:
//! never a repository, a tag or a digest. A name that is not configured counts under the empty label.

mod access;
mod audit;
mod cache;
mod catalogue;
mod cluster;
mod disk;
mod hosted;
mod labels;
mod limits;
mod log;
mod process;
mod record;
mod reload;
mod requests;
mod scrub;
mod set;
mod tier;
mod totals;
mod traces;
mod upstreams;

pub use access::{AccessMetrics, AuthMethod, AuthResult};
use audit::AuditMetrics;
pub use cache::CacheMetrics;
pub use catalogue::CatalogueMetrics;
pub use cluster::Cluster;
pub use disk::{Disk, DiskOp};
pub use hosted::{HOSTED, HostedMetrics};
pub use labels::{EvictReason, Kind, Outcome};
pub use limits::{Limit, Limits, Listener};
use log::Log;
use prometheus::{IntGauge, Registry, TextEncoder};
pub use reload::Reload;
use requests::Requests;
pub use scrub::Scrub;
use set::Set;
use std::collections::HashMap;
use std::sync::Arc;
pub use tier::{Tier, TierOp};
pub use totals::{SoFar, Totals};
pub use traces::{Dropped, Traces};
pub use upstreams::{FillSource, Upstreams};

/// The label of requests that name no upstream, or none that is configured.
const NO_UPSTREAM: &str = "";

/// All metrics of the process. Cheap to clone (an `Arc` inside).
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: Requests,
    upstreams: Upstreams,
    fills_in_flight: IntGauge,
    readers_in_flight: IntGauge,
    access: AccessMetrics,
    audit: AuditMetrics,
    cache: CacheMetrics,
    catalogue: CatalogueMetrics,
    cluster: Cluster,
    disk: Disk,
    hosted: HostedMetrics,
    log: Log,
    scrub: Scrub,
    limits: Limits,
    reload: Reload,
    tier: Tier,
    traces: Traces,
}

impl Metrics {
    /// Fresh metrics; every label set of the configured upstreams that can be known is shown as 0 from the start.
    #[must_use]
    pub fn new<'a>(upstreams: impl Iterator<Item = &'a str>) -> Self {
        let set = Set(Registry::new());
        let upstreams: Vec<&str> = upstreams.collect();
        process::build_info(&set);
        Self {
            inner: Arc::new(Inner {
                requests: Requests::new(&set, &upstreams),
                upstreams: Upstreams::new(&set, &upstreams),
                fills_in_flight: set.gauge(
                    "roadstead_fills_in_flight",
                    "Transfers of blobs from upstreams under way.",
                ),
                readers_in_flight: set
                    .gauge("roadstead_readers_in_flight", "Client bodies under way."),
                cache: CacheMetrics::new(&set),
                access: AccessMetrics::new(&set),
                audit: AuditMetrics::new(&set),
                catalogue: CatalogueMetrics::new(&set),
                cluster: Cluster::new(&set),
                disk: Disk::new(&set),
                hosted: HostedMetrics::new(&set),
                log: Log::new(&set),
                scrub: Scrub::new(&set),
                limits: Limits::new(&set),
                reload: Reload::new(&set),
                tier: Tier::new(&set),
                traces: Traces::new(&set),
                registry: set.0,
            }),
        }
    }

    /// Other upstreams are configured, with these endpoints (their hosts and ports).
    pub fn upstreams_are(&self, endpoints: &HashMap<&str, Vec<String>>) {
        let names: Vec<&str> = endpoints.keys().copied().collect();
        self.inner.requests.add(&names);
        self.inner.upstreams.add(&names);
        self.inner.upstreams.ask_only(endpoints);
    }

    /// The part about the contents of the store.
    #[must_use]
    pub fn cache(&self) -> &CacheMetrics {
        &self.inner.cache
    }

    /// The part about the catalogue.
    #[must_use]
    pub fn catalogue(&self) -> &CatalogueMetrics {
        &self.inner.catalogue
    }

    /// The part about the store's disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// The part about connections and limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The part about access.
    #[must_use]
    pub fn access(&self) -> &AccessMetrics {
        &self.inner.access
    }

    /// The part about the configuration.
    #[must_use]
    pub fn reload(&self) -> &Reload {
        &self.inner.reload
    }

    /// The part about the check of what is stored.
    #[must_use]
    pub fn scrub(&self) -> &Scrub {
        &self.inner.scrub
    }

    /// The part about the audit log.
    #[must_use]
    pub fn audit(&self) -> &AuditMetrics {
        &self.inner.audit
    }

    /// The part about the object store.
    #[must_use]
    pub fn tier(&self) -> &Tier {
        &self.inner.tier
    }

    /// The part about traces.
    #[must_use]
    pub fn traces(&self) -> &Traces {
        &self.inner.traces
    }

    /// The part about the other nodes of a cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    /// The part about hosted repositories.
    #[must_use]
    pub fn hosted(&self) -> &HostedMetrics {
        &self.inner.hosted
    }

    /// Counts requests for hosted repositories, too.
    pub fn counts_hosted(&self) {
        self.inner.requests.add(&[HOSTED]);
    }

    /// The families of upstreams.
    #[must_use]
    pub fn upstreams(&self) -> &Upstreams {
        &self.inner.upstreams
    }

    /// Sums of what was counted.
    #[must_use]
    pub fn so_far(&self) -> SoFar<'_> {
        SoFar(self)
    }

    /// A fill began (+1) or ended (-1).
    pub fn fills_in_flight(&self, change: i64) {
        self.inner.fills_in_flight.add(change);
    }

    /// Clients' bodies on their way.
    #[must_use]
    pub fn bodies(&self) -> usize {
        usize::try_from(self.inner.readers_in_flight.get()).unwrap_or(0)
    }

    /// A client's body began (+1) or ended (-1).
    pub fn readers_in_flight(&self, change: i64) {
        self.inner.readers_in_flight.add(change);
    }

    /// The text exposition.
    #[must_use]
    pub fn render(&self) -> String {
        self.inner.upstreams.count_down();
        self.inner.log.catch_up();
        let families = self.inner.registry.gather();
        let mut text = match TextEncoder::new().encode_to_string(&families) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written as text");
                String::new()
            }
        };
        let gauges = upstreams::SHOWN_EMPTY.into_iter().chain([scrub::COMPLETED]);
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
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
