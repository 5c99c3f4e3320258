//! Rows of the overview's tables.

use super::show::{self, Moment, Show};
use crate::mirror::inspect::{EndpointStatus, FillStatus, UpstreamStatus};
use crate::server::nodes::ClusterMember;
use crate::server::visits::{ClientEntry, PullEntry};
use crate::telemetry::EvictReason;
use std::time::Duration;

/// A blob on its way.
pub(super) struct FillRow {
    pub(super) repository: String,
    pub(super) digest: String,
    pub(super) short: String,
    /// A part of a hundred, once the size is known.
    pub(super) percent: Option<u64>,
    pub(super) bytes: String,
    pub(super) readers: String,
}

impl FillRow {
    pub(super) fn of(fill: &FillStatus) -> Self {
        let total = fill.total_bytes.unwrap_or_default();
        let covered = show::size(fill.covered_bytes);
        Self {
            repository: fill.repository.clone(),
            short: show::digest(&fill.digest),
            digest: fill.digest.clone(),
            percent: (fill.covered_bytes.min(total) * 100).checked_div(total),
            bytes: match fill.total_bytes {
                Some(total) => format!("{covered} / {}", show::size(total)),
                None => covered,
            },
            readers: show::count(fill.readers as u64),
        }
    }
}

/// A pull.
pub(super) struct PullRow {
    pub(super) image: String,
    pub(super) client: String,
    pub(super) user_agent: String,
    pub(super) started: Moment,
    pub(super) took: String,
    pub(super) bytes: String,
    pub(super) from_cache: String,
}

impl PullRow {
    pub(super) fn of(pull: &PullEntry, show: Show) -> Self {
        let took =
            |ended: crate::mirror::inspect::When| show.lasted(ended.0.since(pull.started_at.0));
        let running = || show.texts().running.to_owned();
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = (pull.bytes > 0).then(|| pull.cache_bytes as f64 / pull.bytes as f64);
        Self {
            image: pull.image.clone(),
            client: pull.client.to_string(),
            user_agent: pull.user_agent.clone(),
            started: show.moment(Some(pull.started_at)),
            took: pull.ended_at.map_or_else(running, took),
            bytes: show::size(pull.bytes),
            from_cache: show::ratio(ratio),
        }
    }
}

/// A client.
pub(super) struct ClientRow {
    pub(super) client: String,
    pub(super) user_agent: String,
    pub(super) first: Moment,
    pub(super) last: Moment,
    pub(super) requests: String,
    pub(super) bytes: String,
}

impl ClientRow {
    pub(super) fn of(client: &ClientEntry, show: Show) -> Self {
        Self {
            client: client.address.to_string(),
            user_agent: client.user_agent.clone(),
            first: show.moment(Some(client.first_seen)),
            last: show.moment(Some(client.last_seen)),
            requests: show::count(client.requests),
            bytes: show::size(client.bytes),
        }
    }
}

/// An upstream.
pub(super) struct UpstreamRow {
    pub(super) name: String,
    pub(super) pulls: String,
    pub(super) hits: String,
    pub(super) fetched: String,
    pub(super) endpoints: Vec<EndpointRow>,
}

/// An endpoint of an upstream.
pub(super) struct EndpointRow {
    pub(super) host: String,
    pub(super) state: String,
    /// The class of its mark.
    pub(super) mark: &'static str,
    pub(super) why: String,
    pub(super) latency: String,
    pub(super) quota: String,
}

impl UpstreamRow {
    pub(super) fn of(upstream: &UpstreamStatus, show: Show) -> Self {
        let endpoints = upstream.endpoints.iter();
        Self {
            name: upstream.name.clone(),
            pulls: show::count(upstream.traffic.pulls),
            hits: show::ratio(upstream.traffic.hit_ratio),
            fetched: show::size(upstream.traffic.upstream_bytes),
            endpoints: endpoints.map(|it| EndpointRow::of(it, show)).collect(),
        }
    }
}

impl EndpointRow {
    fn of(endpoint: &EndpointStatus, show: Show) -> Self {
        let t = show.texts();
        let until = |state: &str, seconds: Option<f64>| match seconds.filter(|it| *it > 0.0) {
            Some(seconds) => {
                // Rounded up: it is never asked sooner.
                let rest = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or_default();
                format!("{state} ({} {})", t.for_time, show.lasted(rest))
            }
            None => state.to_owned(),
        };
        let (state, mark) = match (endpoint.limited_for_seconds, endpoint.up) {
            (Some(seconds), _) => (until(t.limited, Some(seconds)), "warn"),
            (None, true) => (t.up.to_owned(), "good"),
            (None, false) => (until(t.down, endpoint.asked_in_seconds), "bad"),
        };
        Self {
            host: endpoint.host.clone(),
            state,
            mark,
            why: endpoint.why.clone().unwrap_or_default(),
            latency: show::latency(endpoint.latency_seconds),
            quota: show::optional(endpoint.remaining_pulls),
        }
    }
}

/// A node of the cluster.
pub(super) struct NodeRow {
    /// The name of its machine, or the beginning of its own.
    pub(super) host: String,
    pub(super) name: String,
    pub(super) address: String,
    pub(super) state: &'static str,
    /// The class of its mark.
    pub(super) mark: &'static str,
    pub(super) why: String,
    pub(super) zone: String,
    pub(super) version: String,
}

impl NodeRow {
    pub(super) fn of(member: &ClusterMember, show: Show) -> Self {
        let t = show.texts();
        let (state, mark) = match member.state.as_str() {
            "this" => (t.this_node, "good"),
            "up" => (t.up, "good"),
            "leaving" => (t.leaving, "warn"),
            _ => (t.silent, "bad"),
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
        let name = member.node.clone().unwrap_or_default();
        let short = name.get(..8).map(str::to_owned);
        Self {
            host: text(&member.host.clone().or(short)),
            name,
            address: member.address.to_string(),
            state,
            mark,
            why: member.trouble.clone().unwrap_or_default(),
            zone: text(&member.zone),
            version: text(&member.version),
        }
    }
}

/// Bytes that were evicted for a reason.
pub(super) struct EvictionRow {
    pub(super) reason: &'static str,
    pub(super) bytes: String,
}

impl EvictionRow {
    pub(super) fn of((reason, bytes): (EvictReason, u64), show: Show) -> Self {
        let t = show.texts();
        Self {
            reason: match reason {
                EvictReason::Size => t.evicted_size,
                EvictReason::Age => t.evicted_age,
                EvictReason::Removed => t.evicted_removed,
                EvictReason::Damaged => t.evicted_damaged,
            },
            bytes: show::size(bytes),
        }
    }
}
