//! Configuration of the listeners.

use super::conn::limits::Limits;
use super::registry::door::Asks;
use super::transparent::TransparentConfig;
use crate::access::Network;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listeners for clients: at least one; the first is the one that people are told of.
    pub listeners: Vec<ListenerConfig>,
    /// Metrics, health and the admin API.
    pub admin_listen: SocketAddr,
    /// A Unix socket with the same answers as the admin listener.
    pub admin_socket: Option<PathBuf>,
    /// HTTPS of client listeners that have it.
    pub tls: Option<TlsConfig>,
    /// HTTPS of the admin listener; plain HTTP when absent.
    pub admin_tls: Option<TlsConfig>,
    /// Names, beside addresses, by which the admin API may be asked.
    pub admin_hosts: Vec<String>,
    /// Proxies and balancers that are believed whom they speak for.
    pub trusted_proxies: Vec<Network>,
    /// The configuration file is read again when it has changed.
    pub watch_config: bool,
    /// The longest time that running bodies may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Limits of connections.
    pub limits: Limits,
}

/// A client listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Name in logs.
    pub name: Option<String>,
    /// The address.
    pub address: SocketAddr,
    /// True if it speaks TLS; [`Config::tls`] is there then.
    pub tls: bool,
    /// Identification that it asks clients for.
    pub asks: Asks,
    /// Connections begin with a head of the PROXY protocol.
    pub proxy_protocol: bool,
}

impl Config {
    /// The client listener that people are told of.
    #[must_use]
    pub fn first(&self) -> ListenerConfig {
        let none = || ListenerConfig::at(SocketAddr::from(([127, 0, 0, 1], 0)));
        self.listeners.first().cloned().unwrap_or_else(none)
    }

    /// The address of the first client listener.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.first().address
    }

    /// True if clients may be on other machines: they reach a listener, or a proxy on this machine brings them.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        let mut addresses = self.listeners.iter().map(|listener| listener.address);
        !self.trusted_proxies.is_empty() || addresses.any(|address| !address.ip().is_loopback())
    }

    /// The scheme of the URL at which clients reach it.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        scheme(self.first().tls)
    }

    /// The scheme of the URL at which operators reach the admin listener.
    #[must_use]
    pub fn admin_scheme(&self) -> &'static str {
        scheme(self.admin_tls.is_some())
    }
}

impl ListenerConfig {
    /// A listener of plain HTTP without anything special.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            name: None,
            address,
            tls: false,
            asks: Asks::default(),
            proxy_protocol: false,
        }
    }
}

/// The scheme of URLs.
pub(super) const fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificates; the first is for clients that name no host, or none of theirs. At least one, unless there is
    /// `transparent`.
    pub pairs: Vec<PairConfig>,
    /// Upstreams' own names for which certificates are minted.
    pub transparent: Option<TransparentConfig>,
    /// Authorities whose certificates clients may show, PEM.
    pub client_ca: Option<PathBuf>,
    /// Lists of certificates that they have revoked, PEM or DER.
    pub client_crl: Option<PathBuf>,
    /// Treatment of clients without one, where there is a `client_ca`.
    pub client_auth: ClientAuth,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairConfig {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Treatment of clients that show no certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are refused.
    #[default]
    Required,
    /// They are let in as others are.
    Optional,
}

impl TlsConfig {
    /// A configuration with one certificate, and clients without.
    #[must_use]
    pub fn of(cert: PathBuf, key: PathBuf) -> Self {
        Self {
            pairs: vec![PairConfig { cert, key }],
            ..Self::without_certificate()
        }
    }

    /// A configuration without any certificate yet.
    #[must_use]
    pub fn without_certificate() -> Self {
        Self {
            pairs: Vec::new(),
            transparent: None,
            client_ca: None,
            client_crl: None,
            client_auth: ClientAuth::default(),
        }
    }
}
