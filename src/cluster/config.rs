//! Configuration of a node of a cluster.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Bodies that other nodes read from one node at once, where nothing else is configured.
pub const STREAMS_MAX: usize = 64;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address at which other nodes reach it.
    pub listen: SocketAddr,
    /// Nodes: of each name all addresses that it has.
    pub seeds: Vec<Seed>,
    /// The keys by which nodes know each other.
    pub keys: Keys,
    /// The zone that it is in: traffic between zones is billed.
    pub zone: Option<String>,
    /// Bodies that other nodes may read from it at once.
    pub streams_max: usize,
}

/// A name or address of nodes, with the port of their listeners.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seed {
    /// A host name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The files that a node's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Secrets that all nodes share, a line each; the first one is in use.
    Secret(PathBuf),
    /// A certificate of an authority of the cluster's own.
    Authority {
        /// PEM, the authority.
        ca: PathBuf,
        /// PEM, the node's, leaf first.
        cert: PathBuf,
        /// PEM.
        key: PathBuf,
    },
}

impl Seed {
    /// Reads `HOST:PORT`, also with an IPv6 address in brackets.
    ///
    /// # Errors
    /// One line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be HOST:PORT like \"roadstead-0.roadstead:5002\"".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some(address) => address
                .parse::<std::net::Ipv6Addr>()
                .is_ok()
                .then_some(address),
            None => Some(host).filter(|host| {
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                !host.is_empty() && host.len() <= 253 && host.bytes().all(is_name)
            }),
        };
        let (host, port) = host.zip(port).ok_or_else(wrong)?;
        let host = host.to_owned();
        Ok(Self { host, port })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}
