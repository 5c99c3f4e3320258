//! The state of an upstream's endpoints, for people.

use std::time::Duration;

use tokio::time::Instant;

use super::Upstream;
use super::rate_limit::Cost;

/// The state of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointReport {
    /// Its host and port.
    pub host: String,
    /// True if requests are put to it.
    pub up: bool,
    /// Failures in a row.
    pub failures: u32,
    /// For how long it is not asked, if it is not.
    pub asked_in: Option<Duration>,
    /// The failure for which it is not.
    pub why: Option<String>,
    /// Time until its answers began, in the last minutes.
    pub latency: Option<Duration>,
    /// For how long every login's pulls are limited.
    pub limited_for: Option<Duration>,
    /// Number of pulls that are left to all logins together, where the registry says.
    pub remaining: Option<u64>,
}

impl Upstream {
    /// The state of the endpoints now, in the order of the configuration.
    #[must_use]
    pub fn report(&self) -> Vec<EndpointReport> {
        let now = Instant::now();
        let endpoints = self.inner.endpoints.iter();
        endpoints
            .filter_map(|endpoint| {
                let shape = self.inner.observer.health.shape(endpoint.id, now)?;
                let accounts = endpoint.accounts.iter();
                let remaining = accounts.filter_map(|account| account.limit.remaining(now));
                Some(EndpointReport {
                    host: self.inner.observer.host(endpoint.id).to_owned(),
                    up: shape.up,
                    failures: shape.failures,
                    asked_in: shape.asked_in,
                    why: shape.why,
                    latency: shape.latency,
                    limited_for: endpoint.limited(Cost::Pull, now),
                    remaining: remaining.reduce(|sum, left| sum + left),
                })
            })
            .collect()
    }
}
