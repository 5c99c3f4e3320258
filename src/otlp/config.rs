//! The collector, as it is configured.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::headers::Headers;
use crate::net::ProxyConfig;
use crate::telemetry::trace::Ratio;

/// A collector, and what it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The base URL: `/v1/traces` comes behind it.
    pub endpoint: Url,
    /// The headers of each request.
    pub headers: Headers,
    /// A file with more of them, which is read for each request.
    pub headers_file: Option<PathBuf>,
    /// PEM file of further trusted roots.
    pub ca_file: Option<PathBuf>,
    /// The way to it.
    pub proxy: ProxyConfig,
    /// The part of the traces begun here that is recorded.
    pub sample: Ratio,
    /// Time that one request may take.
    pub timeout: Duration,
}

impl Config {
    /// `timeout` of OpenTelemetry's own exporters.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// One of a hundred: a mirror answers thousands of requests a second, and a trace of each would cost as much as the
    /// answers, here and in the collector. What clients trace is recorded besides.
    pub const SAMPLE: Ratio = Ratio::HUNDREDTH;

    /// A collector that needs nothing but its URL.
    #[must_use]
    pub fn at(endpoint: Url) -> Self {
        Self {
            endpoint,
            headers: Headers::default(),
            headers_file: None,
            ca_file: None,
            proxy: ProxyConfig::Direct,
            sample: Self::SAMPLE,
            timeout: Self::TIMEOUT,
        }
    }
}
