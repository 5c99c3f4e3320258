//! Transparent mode: a listener that answers at the upstreams' own host names, to clients that a DNS override leads here.
//!
//! An [`Authority`] that the operator has made and installed at the clients signs short-lived certificates, for configured
//! names and no others. All of them are minted ahead, so that no handshake waits for a signature, no client can ask for
//! one, and their number is that of the names. A request whose `Host` is one of the names goes to that upstream.

mod authority;
mod names;

pub(crate) use authority::Minted;
pub use authority::{Authority, AuthorityError, LEAF_LIFETIME, NewAuthority, make};
pub(crate) use names::StandIn;

use crate::oci::UpstreamName;
use std::path::PathBuf;

/// Transparent mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransparentConfig {
    /// Certificate of the authority, PEM, with those up to its root if it is no root itself.
    pub ca: PathBuf,
    /// Its key, PEM, which its owner alone may read.
    pub ca_key: PathBuf,
    /// The names, at least one, each once.
    pub hosts: Vec<TransparentHost>,
}

/// A name of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransparentHost {
    /// The host in lower case, no address.
    pub host: String,
    /// The port, where it is not that of HTTPS.
    pub port: Option<u16>,
    /// The upstream.
    pub upstream: UpstreamName,
}

impl TransparentConfig {
    /// The hosts that certificates are for, each once, in their order.
    #[must_use]
    pub fn certified(&self) -> Vec<String> {
        let mut certified = Vec::<String>::new();
        for TransparentHost { host, .. } in &self.hosts {
            if !certified.contains(host) {
                certified.push(host.clone());
            }
        }
        certified
    }
}
