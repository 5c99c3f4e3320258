//! Sums over the metrics of one upstream, for who looks at the process instead of scraping it.

use super::requests::Counters;
use super::{EvictReason, Kind, Metrics, Outcome};

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
    /// The clients' part.
    fn of(counters: &Counters) -> Self {
        let mut totals = Self::default();
        for kind in Kind::ALL {
            totals.client_bytes += counters.bytes.of(kind).get();
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

/// Sums of what was counted.
#[derive(Clone, Copy, Debug)]
pub struct SoFar<'a>(pub(super) &'a Metrics);

impl SoFar<'_> {
    /// True if clients are being given bytes, or bytes are being fetched for them.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        let Self(metrics) = self;
        metrics.inner.readers_in_flight.get() > 0 || metrics.inner.fills_in_flight.get() > 0
    }

    /// Requests and bytes of one upstream; zeros for one that is not configured.
    #[must_use]
    pub fn totals(&self, upstream: &str) -> Totals {
        let counted = self.0.inner.requests.of(upstream, Totals::of);
        Totals {
            upstream_bytes: self.0.inner.upstreams.bytes_so_far(upstream),
            ..counted.unwrap_or_default()
        }
    }

    /// Bytes that were evicted for this reason so far.
    #[must_use]
    pub fn evicted(&self, reason: EvictReason) -> u64 {
        self.0.inner.cache.counter(reason).get()
    }

    /// Bytes that the cache takes on disk.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        u64::try_from(self.0.inner.cache.bytes.get()).unwrap_or_default()
    }

    /// All requests that were sent to anybody so far, for tokens and along redirects too, answered or not.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.0.inner.upstreams.requests_so_far()
    }
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
        metrics.upstreams().bytes("docker.io", 5);
        metrics.upstreams().request("docker.io", Kind::Blob, "200");
        metrics
            .upstreams()
            .request("docker.io", Kind::Blob, "timeout");
        metrics.upstreams().request("elsewhere", Kind::Other, "401");
        assert_eq!(metrics.so_far().requests_sent(), 3);
        let totals = metrics.so_far().totals("docker.io");
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
        assert_eq!(metrics.so_far().totals("ghcr.io"), Totals::default());
    }
}
