//! Configuration of connections, resolved: plain values, nothing dialled or read yet.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use url::Url;

use super::place::Network;

/// A secret that cannot be printed: `Debug` shows `***`, there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }
    /// The secret itself, for what is sent to whom it was meant for.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A user name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: Secret,
}

/// The route of connections to an endpoint, and to where it redirects.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ProxyConfig {
    /// Straight.
    #[default]
    Direct,
    /// As `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` said at start.
    Environment(EnvironmentProxies),
    /// Through this one.
    Through(Proxy),
}

/// The proxies that the environment names; values as they were written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EnvironmentProxies {
    /// For `http://` destinations.
    pub http: Option<Secret>,
    /// For `https://` destinations.
    pub https: Option<Secret>,
    /// For both, where the one above is missing.
    pub all: Option<Secret>,
    /// Hosts that are reached straight, in the usual syntax of `NO_PROXY`.
    pub no: String,
}

/// One proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `http://`, `https://` (HTTP CONNECT), `socks5://` or `socks5h://`; without user info.
    pub url: Url,
    /// Credentials for it, if it wants any.
    pub credentials: Option<Credentials>,
}

/// The certificate that roadstead shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM: the certificate first, then its chain.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// A server, and how connections to it and to where it redirects are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    /// `http://` or `https://`.
    pub(crate) url: &'a Url,
    /// PEM file of further trusted roots.
    pub(crate) ca_file: Option<&'a Path>,
    /// Shown to its own host and port alone.
    pub(crate) client_certificate: Option<&'a ClientCertificate>,
    /// Any certificate of its own host and port is accepted.
    pub(crate) insecure_skip_verify: bool,
    /// The way to it.
    pub(crate) proxy: &'a ProxyConfig,
    /// Addresses that its host name stands for; empty: it is looked up.
    pub(crate) resolve: &'a [IpAddr],
    /// Networks in which its redirects may lie besides, for what no digest checks.
    pub(crate) redirect_networks: &'a [Network],
}
