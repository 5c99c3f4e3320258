//! The outbound HTTP client: the only code that dials.
//!
//! | file | what it does |
//! | --- | --- |
//! | `client` | the pools of one server's connections, and what their errors mean |
//! | `connector`, `race` | name look-up, TCP, proxy and TLS within one time limit; several addresses at once |
//! | `proxy`, `no_proxy`, `handshake` | which proxy is used for what; HTTP CONNECT and SOCKS5 |
//! | `gate`, `place` | which addresses are dialled for what |
//! | `tls` | certificates |
//! | `repeat`, `sends` | requests whose connection was gone; how many may still be sent |
//! | `nodes` | requests to the other nodes of a cluster |
//! | `shared_secret` | secrets that nodes of a cluster share |
//! | `storage` | requests to an object store |
//! | `dialer` | connections in other protocols than HTTP |
//! | `deadline` | one time limit for many steps |
//! | `client_credential` | what a client has sent for an upstream |
//! | `behalf`, `via`, `work` | the client's request that an outbound request belongs to |
//! | `traced` | spans of outbound requests |
//! | `causes` | what an error was caused by |
//! | `settings`, `error` | what is configured, and what can go wrong |
//!
//! No error, log line or `Debug` text of this module holds a secret, a path or a query: a signed URL is a secret, too.

mod behalf;
mod causes;
mod client;
mod client_credential;
mod connector;
mod deadline;
mod dialer;
mod error;
mod gate;
mod handshake;
mod no_proxy;
mod nodes;
mod place;
mod proxy;
mod race;
mod repeat;
mod sends;
mod settings;
mod shared_secret;
mod storage;
mod tls;
mod traced;
mod via;
mod work;

pub use behalf::{Address, ClientId, OnBehalf, in_request_scope};
pub use client_credential::ClientCredential;
pub use place::{Network, OwnListeners, is_public};
pub use settings::{
    ClientCertificate, Credentials, EnvironmentProxies, Proxy, ProxyConfig, Secret,
};
pub use via::{Loop, Pseudonym, Via};
pub use work::Work;

pub(crate) use causes::root_cause;
pub(crate) use client::{HttpClient, Way};
pub(crate) use connector::BoxStream;
pub(crate) use deadline::Deadline;
pub(crate) use dialer::Dialer;
pub(crate) use error::Error;
pub(crate) use nodes::NodeClient;
pub(crate) use place::{Place, near};
pub(crate) use sends::Sends;
pub(crate) use settings::Peer;
pub(crate) use shared_secret::SharedSecrets;
pub(crate) use storage::StorageClient;
pub(crate) use tls::client_config as tls_client_config;
pub(crate) use tls::{is_known_authority, read_certificates, read_key};
pub(crate) use traced::{BodySpan, Named};
