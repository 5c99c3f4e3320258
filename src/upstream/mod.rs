//! Upstream registries, over the connections of `net`.
//!
//! An [`Upstream`] answers four requests (manifest, blob, tag list, referrers) with what the registry
//! says, after tokens and redirects, within its time limits. It decides nothing about caching.
//!
//! | file | what it does |
//! | --- | --- |
//! | `registry` | the registry's API: manifests, blobs, lists, and what their answers must look like |
//! | `heads` | HEAD, and where it is refused |
//! | `failover` | endpoint order: each endpoint, each of its accounts, the rounds; the final error |
//! | `budget` | the most that one request may cost an upstream: time and HTTP requests |
//! | `request` | one authorised request to one endpoint as one account, redirects included |
//! | `extent` | which part of a blob an answer holds |
//! | `auth`, `token`, `token_server`, `realm` | `Authorization`: challenges, tokens, which realms are trusted |
//! | `client`, `challenges` | a request with the credential of the client that has caused it; challenges that are its to answer |
//! | `ping` | what the registry says at `/v2/` |
//! | `probe` | the same of every endpoint and with every login, for `doctor` |
//! | `redirect` | where an answer that lies elsewhere is fetched from |
//! | `status`, `traits` | what an answer that is no success means, and what a failure means for the next step |
//! | `body` | bytes as they arrive |
//! | `health` | which endpoints are well, fast, and trusted for a digest |
//! | `rate_limit` | rate limits, and which login they leave to be used |
//! | `turns` | whose turn it is to use a connection |
//! | `weighed` | a table that is bounded in bytes |
//! | `observer` | passes on what happens: to health, log, metrics |
//! | `timings` | times that nobody configures |
//! | `setup` | an upstream from its configuration |
//! | `login/` | user names, passwords and tokens, and how they are kept fresh |
//! | `report` | how the endpoints are, for people |
//! | `puller` | a client of any registry, as those who pull have it: for `bench` |
//! | `settings` | what is configured |
//!
//! No error, log line or `Debug` text of this module holds a secret, a path or a query: a signed
//! URL is a secret, too. Hosts and causes are named.

mod asked;
mod auth;
mod body;
mod budget;
mod challenges;
mod client;
mod coding;
mod error;
mod extent;
mod failover;
mod headers;
mod heads;
mod health;
mod login;
mod observer;
mod ping;
mod probe;
mod puller;
mod rate_limit;
mod realm;
mod redirect;
mod refused_heads;
mod registry;
mod report;
mod request;
mod settings;
mod setup;
mod status;
mod timings;
mod token;
mod token_server;
mod traits;
mod turns;
mod weighed;

#[cfg(test)]
mod tests;

pub use crate::net::{
    Address, ClientCertificate, ClientCredential, ClientId, Credentials, EnvironmentProxies, Loop,
    Network, OnBehalf, OwnListeners, Proxy, ProxyConfig, Pseudonym, Secret, Via, Work,
    in_request_scope,
};
pub use asked::{BlobRequest, EndpointId, Patience};
pub use body::BlobBody;
pub use challenges::Challenges;
pub use error::FetchError;
pub use login::{
    CloudConfig, CloudUrls, LoginConfig, StorageKeys, StorageLogin, StorageLogins, Text,
};
pub use probe::{EndpointProbe, LoginProbe, ProbeAnswer};
pub use puller::{PulledManifest, Puller};
pub use registry::{BlobFetch, ListFetch, ManifestFetch, ManifestHead, Upstream};
pub use report::EndpointReport;
pub use settings::{
    CONNECT_TIMEOUT, Config, EndpointConfig, HEADER_TIMEOUT, IDLE_TIMEOUT, MAX_CONNECTIONS,
    Parallel, RETRY_DELAY, Strategy, VISIBILITY_TTL, Visibility,
};
pub use setup::SetupError;
