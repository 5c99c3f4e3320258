//! Configuration of the object store.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::upstream::{Network, ProxyConfig, StorageLogin};

/// An object store, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The bucket.
    pub place: Place,
    /// The way to it.
    pub access: Access,
    /// The source of keys.
    pub login: StorageLogin,
    /// Secrets that nodes share, a line each; `None`: no tags and links are kept there.
    pub secret_file: Option<PathBuf>,
    /// Writing.
    pub write: Write,
    /// Sending clients there.
    pub redirect: Redirect,
}

/// A part of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its protocol.
    pub scheme: Scheme,
    /// The bucket's name, or the container's.
    pub bucket: String,
    /// The beginning of all keys, without slashes at its ends; may be empty.
    pub prefix: String,
}

/// The protocol of an object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon's, which most stores understand.
    S3,
    /// Alibaba's OSS, by its version of Amazon's.
    Oss,
    /// Google's.
    Gs,
    /// Azure's.
    Az,
}

/// The way to a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The store's address; `None`: the one of the cloud.
    pub endpoint: Option<Url>,
    /// The region, for signatures and for the cloud's address.
    pub region: Option<String>,
    /// True if the bucket's name is a part of the host's.
    pub virtual_hosted: bool,
    /// The account, of Azure's.
    pub account: Option<String>,
    /// PEM file of further trusted roots.
    pub ca_file: Option<PathBuf>,
    /// The proxy.
    pub proxy: ProxyConfig,
}

/// Writing to a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// False: it is only read.
    pub enabled: bool,
    /// The class of storage; `None`: the bucket's.
    pub storage_class: Option<String>,
    /// Encryption by the store; `None`: the bucket's.
    pub encryption: Option<Encryption>,
    /// Objects that are older than this and in use are written again, for buckets that delete old ones.
    pub renew: Option<Duration>,
}

/// Encryption by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the store's.
    Aes256,
    /// With a key of the key service's; `None`: its usual one.
    Kms(Option<String>),
}

/// Sending clients to the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// When.
    pub when: When,
    /// The store's address for clients; `None`: the node's own.
    pub endpoint: Option<Url>,
    /// Clients that can reach it; empty: all.
    pub networks: Vec<Network>,
}

/// The cases in which clients are sent to the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Never.
    #[default]
    Never,
    /// While many bodies are on their way.
    Busy,
    /// Whenever it may be.
    Always,
}

impl Scheme {
    /// The word before `://`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Oss => "oss",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            scheme,
            bucket,
            prefix,
        } = self;
        write!(f, "{}://{bucket}", scheme.word())?;
        if prefix.is_empty() {
            return Ok(());
        }
        write!(f, "/{prefix}")
    }
}

impl Redirect {
    /// True if clients at this address are sent to the bucket.
    #[must_use]
    pub fn reaches(&self, client: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|it| it.contains(client))
    }
}
