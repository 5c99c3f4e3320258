//! The ways of the clouds: temporary passwords by their own HTTP APIs.
//!
//! | file | what it does |
//! | --- | --- |
//! | `ecr` | AWS: Elastic Container Registry, private and public |
//! | `gar` | Google: Artifact Registry and `gcr.io` |
//! | `azure` | Azure Container Registry |
//! | `alibaba` | Alibaba Cloud Container Registry, Personal and Enterprise |
//! | `tcr` | Tencent Container Registry, Enterprise |
//! | `call` | one request to a service, and what its answer says |
//! | `storage` | keys for object stores |
//! | `metadata` | temporary keys from a metadata service |
//! | `input` | keys from the configuration and from files |
//! | `sigv4`, `alibaba_signature`, `tc3`, `jwt`, `mac`, `date` | signatures; pure |

mod alibaba;
mod alibaba_signature;
mod azure;
mod call;
mod date;
mod ecr;
mod gar;
mod input;
mod jwt;
mod mac;
mod metadata;
mod sigv4;
mod storage;
mod tc3;
mod tcr;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{CloudConfig, Login};
use crate::clock::SystemClock;
use crate::net::Deadline;
use crate::net::HttpClient;
use crate::upstream::{Credentials, FetchError, Secret};
use call::Caller;
pub(super) use storage::keys as storage_keys;

/// A login and how long it may be used.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) login: Login,
    /// From now until the end that the cloud named: whoever keeps it asks again before that.
    pub(super) good_for: Duration,
}

/// Asks a cloud for a login to `registry` (host, and port if it has one).
///
/// # Errors
/// [`FetchError::Login`], naming the service and what it said, without secrets; [`FetchError::Timeout`]
/// when the deadline has passed.
pub(super) async fn fetch(
    config: &CloudConfig,
    registry: &str,
    api: &HttpClient,
    deadline: Deadline,
) -> Result<Fetched, FetchError> {
    let clock = SystemClock;
    let caller = Caller {
        api,
        deadline,
        clock: &clock,
    };
    ask(config, registry, caller).await
}

/// As [`fetch`], with the clock that signs.
async fn ask(
    config: &CloudConfig,
    registry: &str,
    caller: Caller<'_>,
) -> Result<Fetched, FetchError> {
    match Cloud::of(config) {
        Cloud::Ecr(ecr) => ecr.login(registry, caller).await,
        Cloud::Gar(gar) => gar.login(caller).await,
        Cloud::AzureAcr(azure) => azure.login(registry, caller).await,
        Cloud::AlibabaAcr(alibaba) => alibaba.login(registry, caller).await,
        Cloud::Tcr(tcr) => tcr.login(caller).await,
    }
}

/// A cloud and what is configured of it.
enum Cloud<'a> {
    Ecr(ecr::Ecr<'a>),
    Gar(gar::Gar<'a>),
    AzureAcr(azure::Azure<'a>),
    AlibabaAcr(alibaba::Alibaba<'a>),
    Tcr(tcr::Tcr<'a>),
}

impl<'a> Cloud<'a> {
    fn of(config: &'a CloudConfig) -> Self {
        match config {
            CloudConfig::Ecr {
                region,
                keys,
                session_token,
                web_identity,
                urls,
            } => Self::Ecr(ecr::Ecr {
                region,
                keys,
                session_token,
                web_identity,
                urls,
            }),
            CloudConfig::Gar { key_file, urls } => Self::Gar(gar::Gar { key_file, urls }),
            CloudConfig::AzureAcr {
                tenant,
                client_id,
                client_secret,
                urls,
            } => Self::AzureAcr(azure::Azure {
                tenant,
                client_id,
                client_secret,
                urls,
            }),
            CloudConfig::AlibabaAcr {
                region,
                instance_id,
                keys,
                session_token,
                role,
                urls,
            } => Self::AlibabaAcr(alibaba::Alibaba {
                region,
                instance_id,
                keys,
                session_token,
                role,
                urls,
            }),
            CloudConfig::Tcr {
                region,
                instance_id,
                keys,
                session_token,
                role,
                urls,
            } => Self::Tcr(tcr::Tcr {
                region,
                instance_id,
                keys,
                session_token,
                role,
                urls,
            }),
        }
    }
}

/// A user name and password.
fn basic(username: &str, password: &str) -> Login {
    Login::Basic(Credentials {
        username: username.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}
