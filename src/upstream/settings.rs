//! Configuration of an upstream, resolved: plain values, nothing dialled or read yet.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;

use super::login::LoginConfig;
use crate::net::{ClientCertificate, Network, Peer, Place, ProxyConfig};
use crate::oci::UpstreamName;

/// One base URL of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// `http://` or `https://`, no query, no fragment, no user info; a path prefix is allowed.
    pub url: Url,
    /// PEM file of further trusted roots for this endpoint.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a certificate (with its chain) and its key, shown to the endpoint.
    pub client_certificate: Option<ClientCertificate>,
    /// Any certificate is accepted; the log warns of it.
    pub insecure_skip_verify: bool,
    /// The route of connections.
    pub proxy: ProxyConfig,
    /// Addresses that the endpoint's host name stands for; empty: it is looked up.
    pub resolve: Vec<IpAddr>,
    /// Networks in which its redirects and token servers may lie besides, for what no digest checks.
    pub redirect_networks: Vec<Network>,
    /// Sent with every request to the endpoint itself (never to where it redirects). Marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The pool of logins for this endpoint; `None`: the upstream's.
    pub logins: Option<Vec<LoginConfig>>,
}

impl EndpointConfig {
    /// An endpoint that needs nothing but its URL.
    #[must_use]
    pub fn at(url: Url) -> Self {
        Self {
            url,
            ca_file: None,
            client_certificate: None,
            insecure_skip_verify: false,
            proxy: ProxyConfig::Direct,
            resolve: Vec::new(),
            redirect_networks: Vec::new(),
            headers: Vec::new(),
            logins: None,
        }
    }

    /// True if credentials of clients may be shown to it. What has logins of its own, or none on purpose, is run by
    /// somebody else than the upstream; and nobody shall read them on the way.
    #[must_use]
    pub fn takes_clients(&self) -> bool {
        let is_private = self.url.scheme() == "https" || Place::of(&self.url) == Place::Loopback;
        self.logins.is_none() && is_private && !self.insecure_skip_verify
    }

    /// The part that concerns connections.
    pub(crate) fn peer(&self) -> Peer<'_> {
        Peer {
            url: &self.url,
            ca_file: self.ca_file.as_deref(),
            client_certificate: self.client_certificate.as_ref(),
            insecure_skip_verify: self.insecure_skip_verify,
            proxy: &self.proxy,
            resolve: &self.resolve,
            redirect_networks: &self.redirect_networks,
        }
    }
}

/// The rule that says which endpoint is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The one that is written first. Those whose breaker is open are left out while there are others.
    #[default]
    Ordered,
    /// The one that has answered fastest; of ill ones as above.
    Fastest,
}

/// The setting for big blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    /// Connections for one blob, at least 1.
    pub connections: usize,
    /// Blobs up to this many bytes are fetched on one connection.
    pub above: u64,
    /// Bytes asked for in one request, at most.
    pub segment_size: u64,
}

impl Default for Parallel {
    fn default() -> Self {
        Self {
            connections: 4,
            above: 16 * 1024 * 1024,
            segment_size: 16 * 1024 * 1024,
        }
    }
}

/// Content of an upstream for clients that have not said who they are, as far as the rules of access allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Visibility {
    /// All that this mirror can pull, whatever login it uses for that.
    #[default]
    Anyone,
    /// Nothing that a client without a login could not pull from the upstream itself.
    Public,
    /// Content that a statement of the rules allows, and nothing without one.
    Rules,
    /// Content that the upstream itself gives for the credential that the client has sent; without one, what it gives
    /// anybody.
    Upstream,
}

/// One upstream, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its public name.
    pub name: UpstreamName,
    /// Base URLs in order of preference; at least one.
    pub endpoints: Vec<EndpointConfig>,
    /// The rule that says which of them is asked first.
    pub strategy: Strategy,
    /// Requests that name no upstream go here.
    pub default: bool,
    /// `Host` names that select it.
    pub hosts: Vec<String>,
    /// Logins at the endpoints that have none of their own: a pool. The one with most left of
    /// its rate limit comes first, where the registry says what is left, and else they come as they are
    /// written; each is used when those before it are limited or refused. Empty: anonymous.
    pub logins: Vec<LoginConfig>,
    /// Requests to it at the same time, each counted until its body ends.
    pub max_connections: usize,
    /// To a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// To the first response header, retries, redirects and token included.
    pub header_timeout: Duration,
    /// No byte for this long: the connection is replaced.
    pub idle_timeout: Duration,
    /// The first wait before a transfer that broke off is gone on with. Each further wait of a series is
    /// twice as long as the one before, up to fifty times this, and all have jitter.
    pub retry_delay: Duration,
    /// The setting for big blobs.
    pub parallel: Parallel,
    /// Content of it for anonymous clients.
    pub visibility: Visibility,
    /// Time for which it is remembered what a client without a login, or with one of its own, could pull.
    pub visibility_ttl: Duration,
}

impl Config {
    /// True if some request to it bears a secret: a login, a header, a certificate.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        let mut endpoints = self.endpoints.iter();
        !self.logins.is_empty()
            || endpoints.any(|it| {
                let has_login = it.logins.as_ref().is_some_and(|logins| !logins.is_empty());
                has_login || !it.headers.is_empty() || it.client_certificate.is_some()
            })
    }

    /// Hosts and ports of its endpoints.
    #[must_use]
    pub fn authorities(&self) -> Vec<String> {
        let endpoints = self.endpoints.iter();
        endpoints.map(|it| it.url.authority().to_owned()).collect()
    }

    /// True if files of it are read when it is set up: they may be others another time.
    #[must_use]
    pub fn reads_files(&self) -> bool {
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|it| it.ca_file.is_some() || it.client_certificate.is_some())
    }

    /// The same upstream as clients see it whose credentials are shown to it: the endpoints that they may be shown to, and
    /// no secret of this mirror's.
    #[must_use]
    pub fn for_clients(&self) -> Self {
        let mut shown = self.clone();
        shown.endpoints.retain(EndpointConfig::takes_clients);
        shown.without_secrets()
    }

    /// The same upstream as somebody sees it who has no secret of it.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let endpoints = self.endpoints.iter().cloned();
        Self {
            endpoints: endpoints
                .map(|endpoint| EndpointConfig {
                    logins: None,
                    headers: Vec::new(),
                    client_certificate: None,
                    ..endpoint
                })
                .collect(),
            logins: Vec::new(),
            ..self.clone()
        }
    }

    /// An upstream with these endpoints and defaults for the rest.
    #[must_use]
    pub fn of(name: UpstreamName, endpoints: Vec<EndpointConfig>) -> Self {
        Self {
            name,
            endpoints,
            strategy: Strategy::default(),
            default: false,
            hosts: Vec::new(),
            logins: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            connect_timeout: CONNECT_TIMEOUT,
            header_timeout: HEADER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            retry_delay: RETRY_DELAY,
            parallel: Parallel::default(),
            visibility: Visibility::default(),
            visibility_ttl: VISIBILITY_TTL,
        }
    }
}

/// `upstream.*.max_connections`: a node that starts asks for some dozens of layers at once; registries
/// count connections of one address in hundreds.
pub const MAX_CONNECTIONS: usize = 64;
/// `upstream.*.visibility_ttl`: a repository that was made private is hidden soon, and a pull of dozens of layers is one
/// look.
pub const VISIBILITY_TTL: Duration = Duration::from_mins(5);
/// `upstream.*.connect_timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `upstream.*.header_timeout`.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// `upstream.*.retry_delay`: servers close connections at any time, which is over in a moment.
pub const RETRY_DELAY: Duration = Duration::from_millis(100);
/// `upstream.*.idle_timeout`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
