//! Sums over the metrics of one upstream, for who looks at the process instead of scraping it.

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;

use super::{Kind, Metrics, Outcome};

/// Requests and bytes since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests for manifests and blobs that were answered with them.
    pub pulls: u64,
    /// Those of them answered from the store (fresh or stale), or from a transfer that was under way
    /// already.
    pub hits: u64,
    /// Requests of any kind for what does not exist.
    pub not_found: u64,
    /// Requests of any kind that were refused: upstream denies it or limits us, or they make no sense.
    pub refused: u64,
    /// Requests of any kind in which upstream or this mirror failed.
    pub errors: u64,
    /// Body bytes handed to clients.
    pub client_bytes: u64,
    /// Body bytes received from upstream.
    pub upstream_bytes: u64,
}

impl Totals {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            pulls: self.pulls.saturating_add(other.pulls),
            hits: self.hits.saturating_add(other.hits),
            not_found: self.not_found.saturating_add(other.not_found),
            refused: self.refused.saturating_add(other.refused),
            errors: self.errors.saturating_add(other.errors),
            client_bytes: self.client_bytes.saturating_add(other.client_bytes),
            upstream_bytes: self.upstream_bytes.saturating_add(other.upstream_bytes),
        }
    }
}

impl Metrics {
    /// Requests and bytes of one upstream; zeros for one that is not configured.
    #[must_use]
    pub fn totals(&self, upstream: &str) -> Totals {
        let Some(counters) = self.inner.upstreams.get(upstream) else {
            return Totals::default();
        };
        let mut totals = Totals {
            upstream_bytes: counters.bytes.get(),
            ..Totals::default()
        };
        for kind in Kind::ALL {
            totals.client_bytes += counters.client_bytes.of(kind).get();
            let pulled = matches!(kind, Kind::Manifest | Kind::Blob);
            for outcome in Outcome::ALL {
                let count = counters.requests.of(kind).of(outcome).get();
                let (pull, hit) = match outcome {
                    Outcome::Hit | Outcome::Stale | Outcome::Collapsed => (pulled, pulled),
                    Outcome::Miss | Outcome::Partial | Outcome::Bypass => (pulled, false),
                    Outcome::NotFound => {
                        totals.not_found += count;
                        (false, false)
                    }
                    Outcome::Denied | Outcome::Limited | Outcome::Rejected => {
                        totals.refused += count;
                        (false, false)
                    }
                    Outcome::Error => {
                        totals.errors += count;
                        (false, false)
                    }
                };
                totals.pulls += if pull { count } else { 0 };
                totals.hits += if hit { count } else { 0 };
            }
        }
        totals
    }

    /// All requests that were sent to anybody so far, for tokens and along redirects too, answered or not.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        let families = self.inner.upstream_requests.collect();
        let counters = families.iter().flat_map(MetricFamily::get_metric);
        counters
            .map(|metric| whole(metric.get_counter().get_value()))
            .sum()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_are_told_from_lists_and_errors() {
        let metrics = Metrics::new(["docker.io"].into_iter());
        for outcome in Outcome::ALL {
            metrics.request(Kind::Blob, "docker.io", outcome);
        }
        metrics.request(Kind::Tags, "docker.io", Outcome::Bypass);
        metrics.client_bytes(Kind::Blob, "docker.io", 7);
        metrics.upstream_bytes("docker.io", 5);
        metrics.upstream_request("docker.io", Kind::Blob, "200");
        metrics.upstream_request("docker.io", Kind::Blob, "timeout");
        metrics.upstream_request("elsewhere", Kind::Other, "401");
        assert_eq!(metrics.requests_sent(), 3);
        let totals = metrics.totals("docker.io");
        let expected = Totals {
            pulls: 6,
            hits: 3,
            not_found: 1,
            refused: 3,
            errors: 1,
            client_bytes: 7,
            upstream_bytes: 5,
        };
        assert_eq!(totals, expected);
        assert_eq!(totals.plus(totals).hits, 6);
        assert_eq!(metrics.totals("ghcr.io"), Totals::default());
    }
}
