//! Upstream registries: the only code that dials.
//!
//! An [`Upstream`] answers four questions (manifest, blob, tag list, referrers) with what the registry
//! says, after tokens and redirects, within its time limits. It decides nothing about caching.
//!
//! | file | what it does |
//! | --- | --- |
//! | `fetch` | the questions, and what their answers must look like |
//! | `rounds` | whom a question is put to: endpoints in order, logins, repeats; which error is told |
//! | `exchange` | one question to one endpoint: one repeat, the challenge |
//! | `extent` | which part of a blob an answer holds |
//! | `auth`, `token`, `token_server`, `realm` | `Authorization`: challenges, tokens, which realms are trusted |
//! | `via` | which mirrors a question has passed through |
//! | `behalf`, `work` | for which clients a question is asked |
//! | `redirect` | where an answer that lies elsewhere is fetched from |
//! | `status` | what an answer that is no success means |
//! | `body` | bytes as they arrive |
//! | `health` | which endpoints are well, fast, and trusted for a digest |
//! | `limits` | rate limits, and which login they leave to be used |
//! | `turns` | whose turn it is to use a connection |
//! | `weighed` | a table that is bounded in bytes |
//! | `watch` | who hears of what happens: health, log, metrics |
//! | `timings` | times that nobody configures |
//! | `setup` | an upstream from its configuration |
//! | `login/` | user names, passwords and tokens, and how they are kept fresh |
//! | `client`, `tls` | connections |
//! | `place` | where an address lies: on this machine, inside, at a metadata service |
//! | `report` | how the endpoints are, for people |
//! | `plain` | a client of a roadstead that runs, for its commands |
//! | `puller` | a client of any registry, as those who pull have it: for `bench` |
//! | `settings` | what is configured |
//! | `deadline` | the one time limit of a question |
//!
//! No error, log line or `Debug` text of this module holds a secret, a path or a query: a signed
//! URL is a secret, too. Hosts and causes are named.

mod auth;
mod behalf;
mod body;
mod client;
mod coding;
mod deadline;
mod error;
mod exchange;
mod extent;
mod fetch;
mod heads;
mod health;
mod limits;
mod login;
mod place;
mod plain;
mod puller;
mod realm;
mod redirect;
mod report;
mod rounds;
mod settings;
mod setup;
mod status;
mod timings;
mod tls;
mod token;
mod token_server;
mod traits;
mod turns;
mod via;
mod watch;
mod weighed;
mod work;

#[cfg(test)]
mod tests;

pub use behalf::{Address, ClientId, OnBehalf, carry};
pub use body::BlobBody;
pub use error::FetchError;
pub use fetch::{
    BlobAsk, BlobFetch, EndpointId, ListFetch, ManifestFetch, ManifestHead, Patience, Upstream,
};
pub use login::{CloudConfig, CloudUrls, LoginConfig, Text};
pub use place::{Network, OwnListeners};
pub use plain::PlainClient;
pub use puller::{PulledManifest, Puller};
pub use report::EndpointReport;
pub use settings::{
    CONNECT_TIMEOUT, ClientCertificate, Config, Credentials, EndpointConfig, EnvironmentProxies,
    HEADER_TIMEOUT, IDLE_TIMEOUT, MAX_CONNECTIONS, Parallel, Proxy, ProxyConfig, RETRY_DELAY,
    Secret, Strategy,
};
pub use setup::SetupError;
pub use via::{Loop, Pseudonym, Via};
pub use work::Work;
