//! An upstream is set up from what is configured. Nothing is dialled.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::auth::Auth;
use super::body::WHOLE_BYTES_MAX;
use super::health::Health;
use super::login::Source;
use super::observer::EndpointObserver;
use super::rate_limit::Limit;
use super::refused_heads::Heads;
use super::request::{Account, Endpoint, Inner};
use super::timings::Timings;
use super::turns::Turns;
use super::{Config, EndpointConfig, EndpointId, OwnListeners, Upstream, Visibility, realm};
use crate::net::HttpClient;
use crate::oci::UpstreamName;
use crate::telemetry::Metrics;

/// Reason why an upstream cannot be set up: one line naming the file or setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream {name}: {why}")]
pub struct SetupError {
    /// The upstream.
    pub name: UpstreamName,
    /// The mistake.
    pub why: String,
}

impl Upstream {
    /// Sets up the client of an upstream: reads its CA files, makes its pools. Dials nothing.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(config: &Config, metrics: Metrics) -> Result<Self, SetupError> {
        Self::beside(config, metrics, &OwnListeners::default())
    }

    /// As `new`, for a process that listens at `own`, which is never dialled.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn beside(
        config: &Config,
        metrics: Metrics,
        own: &OwnListeners,
    ) -> Result<Self, SetupError> {
        Self::with(config, metrics, Timings::default(), own)
    }

    /// As `beside`, with other times than those that nobody configures.
    ///
    /// # Errors
    /// [`SetupError`].
    pub(super) fn with(
        config: &Config,
        metrics: Metrics,
        timings: Timings,
        own: &OwnListeners,
    ) -> Result<Self, SetupError> {
        let wrong = |why: String| SetupError {
            name: config.name.clone(),
            why,
        };
        if config.endpoints.is_empty() {
            return Err(wrong("it has no endpoint".to_owned()));
        }
        let endpoints = config.endpoints.iter().enumerate();
        let endpoints: Result<Vec<_>, _> = endpoints
            .map(|(index, endpoint)| {
                Endpoint::new(EndpointId(index), endpoint, config, &metrics, timings, own)
            })
            .collect();
        let endpoints = endpoints.map_err(wrong)?;
        let hosts = endpoints.iter().map(|endpoint| endpoint.base.authority());
        let hosts = hosts.map(str::to_owned).collect();
        let health = Health::new(endpoints.len(), config.strategy, timings);
        Ok(Self {
            inner: Arc::new(Inner {
                name: config.name.clone(),
                endpoints,
                header_timeout: config.header_timeout,
                idle_timeout: config.idle_timeout,
                parallel: config.parallel,
                retry_delay: config.retry_delay,
                timings,
                observer: Arc::new(EndpointObserver::new(
                    config.name.clone(),
                    hosts,
                    health,
                    metrics,
                )),
                turns: Arc::new(Turns::new(config.max_connections)),
                heads: Heads::default(),
                memory: Arc::new(Semaphore::new(WHOLE_BYTES_MAX / 1024)),
            }),
        })
    }
}

impl Endpoint {
    /// # Errors
    /// One line naming what is wrong.
    fn new(
        id: EndpointId,
        endpoint: &EndpointConfig,
        config: &Config,
        metrics: &Metrics,
        timings: Timings,
        own: &OwnListeners,
    ) -> Result<Self, String> {
        let base = endpoint.url.clone();
        if !matches!(base.scheme(), "http" | "https") || realm::has_user_info(&base) {
            return Err("an endpoint is no http or https URL without user info".to_owned());
        }
        let client = HttpClient::new(
            config.name.clone(),
            metrics.clone(),
            &endpoint.peer(),
            connect_share(config),
            config.parallel.connections,
            own.clone(),
        )?;
        // Clouds' services are reached without what belongs to the endpoint alone.
        let api = HttpClient::api(
            config.name.clone(),
            metrics.clone(),
            &endpoint.proxy,
            connect_share(config),
            own.clone(),
        )?;
        // Made for each endpoint: what a login is depends on the host that it is for.
        let logins = endpoint.logins.as_ref().unwrap_or(&config.logins).iter();
        let sources: Result<Vec<_>, _> = logins
            .map(|login| Source::new(login, base.authority(), api.clone()))
            .collect();
        let mut sources = sources?;
        let passes = config.visibility == Visibility::Upstream
            && sources.is_empty()
            && endpoint.takes_clients();
        if sources.is_empty() {
            sources.push(Source::anonymous());
        }
        let accounts = sources.into_iter().map(|source| Account {
            auth: Auth::new(source),
            limit: Limit::new(timings),
        });
        Ok(Self {
            id,
            base,
            client,
            headers: endpoint.headers.iter().cloned().collect(),
            accounts: accounts.collect(),
            passes,
        })
    }
}

/// The longest time that a connection to one endpoint may take: several that are unreachable, tried one after
/// the other, together take no longer than one pull should wait to hear that.
fn connect_share(config: &Config) -> Duration {
    match u32::try_from(config.endpoints.len()) {
        Ok(0 | 1) => config.connect_timeout,
        Ok(endpoints) => config.connect_timeout.min(UNREACHABLE_WAIT_MAX / endpoints),
        Err(_) => Duration::ZERO,
    }
}

/// Endpoints that cannot be reached, all together, cost a pull no more than this: a client then goes on
/// to the registry itself.
const UNREACHABLE_WAIT_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::tests::config;

    #[test]
    fn endpoints_that_cannot_be_reached_share_ten_seconds() {
        let share = |endpoints: &[&str], seconds| {
            let mut config = config(endpoints);
            config.connect_timeout = Duration::from_secs(seconds);
            connect_share(&config).as_millis()
        };
        let (a, b, c, d) = ("http://a", "http://b", "http://c", "http://d");
        assert_eq!(share(&[a], 15), 15_000, "as configured");
        assert_eq!(share(&[a, b], 5), 5_000);
        assert_eq!(share(&[a, b, c, d], 5), 2_500, "four used to take 20 s");
        assert_eq!(share(&[a, b, c, d], 1), 1_000);
    }
}
