//! Upstream registries: the only code that dials.
//!
//! An [`Upstream`] answers four questions (manifest, blob, tag list, referrers) with what the registry
//! says, after tokens and redirects, within its time limits. It decides nothing about caching.

//!
//! | file | what it does |
//! | --- | --- |
//! | `fetch` | the questions, and what their answers must look like |
//! | `exchange` | one question: endpoints in order, one repeat, the challenge |
//! | `auth`, `token`, `realm` | `Authorization`: challenges, tokens, which realms are trusted |
//! | `redirect` | where an answer that lies elsewhere is fetched from |
//! | `status` | what an answer that is no success means |
//! | `body` | bytes as they arrive |
//! | `client`, `tls` | connections |
//! | `deadline` | the one time limit of a question |
//!
//! No error, log line or `Debug` text of this module holds a secret, a path or a query: a signed
//! URL is a secret, too. Hosts and causes are named.

mod auth;
mod body;
mod client;
mod deadline;
mod error;
mod exchange;
mod fetch;
mod realm;
mod redirect;
mod status;
mod tls;
mod token;

#[cfg(test)]
mod tests;

pub use body::BlobBody;
pub use error::FetchError;
pub use fetch::{BlobFetch, ListFetch, ManifestFetch, ManifestHead, SetupError, Upstream};

use std::path::PathBuf;
use std::time::Duration;

use crate::oci::UpstreamName;

/// A secret that cannot be printed: `Debug` shows `***`, there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }
    /// The secret itself, for the `Authorization` header alone.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Who roadstead is to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: Secret,
}

/// One base URL of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// `http://` or `https://`, no query, no fragment, no user info; a path prefix is allowed.
    pub url: url::Url,
    /// PEM file of further trusted roots for this endpoint.
    pub ca_file: Option<PathBuf>,
}

/// One upstream, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its public name.
    pub name: UpstreamName,
    /// Base URLs in order of preference; at least one.
    pub endpoints: Vec<EndpointConfig>,
    /// Requests that name no upstream go here.
    pub default: bool,
    /// `Host` names that select it.
    pub hosts: Vec<String>,
    /// Credentials, if any.
    pub credentials: Option<Credentials>,
    /// To a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// To the first response header, retries, redirects and token included.
    pub header_timeout: Duration,
    /// No byte for this long: the connection is given up.
    pub idle_timeout: Duration,
    /// Connections for one big blob.
    pub parallel: usize,
}
