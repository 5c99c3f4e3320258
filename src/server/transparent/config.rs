//! Configuration of transparent mode.

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
