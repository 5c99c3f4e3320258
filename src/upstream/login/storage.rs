//! Logins at object stores.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{CLOUD_TIMEOUT, CloudUrls, Text, cloud};
use crate::net::{Deadline, HttpClient, OwnListeners, ProxyConfig};
use crate::oci::UpstreamName;
use crate::telemetry::Metrics;
use crate::upstream::{FetchError, Secret, settings};

/// Time for which keys are used before they are asked for again: less than the five minutes for which AWS and Alibaba give
/// new keys of a role while the old ones still hold, and short enough for a file that is replaced.
const KEYS_FOR: Duration = Duration::from_mins(4);

/// Time for which a failure is everybody's answer.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// Keys that are refused are asked for again no more often.
const REFUSED_EACH: Duration = Duration::from_secs(30);

/// The source of keys for an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageLogin {
    /// An access key, as all stores with Amazon's protocol have it.
    Pair {
        /// The id of the key.
        id: Text,
        /// The secret part of it.
        secret: Text,
        /// The token of temporary keys.
        session_token: Option<Text>,
    },
    /// The key of an account of Azure's.
    Account {
        /// The key, in Base64.
        key: Text,
    },
    /// The role of a web identity (IRSA), or else of the machine (`IMDSv2`).
    Aws {
        /// The region.
        region: String,
        /// Role and token file of a web identity.
        web_identity: Option<(String, PathBuf)>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
    /// The RAM role of the machine.
    Alibaba {
        /// The role; `None`: the one that the metadata service names.
        role: Option<String>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
    /// A service account: of a key file, or else of the machine.
    Google {
        /// Its key, in JSON.
        key_file: Option<PathBuf>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
    /// A service principal, or else the machine's managed identity.
    Azure {
        /// The tenant of the service principal.
        tenant: Option<String>,
        /// The client id of the principal, or of an identity that users assign.
        client_id: Option<String>,
        /// The secret of the service principal.
        client_secret: Option<Text>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
}

/// Keys for an object store.
#[derive(Clone, Debug)]
pub enum StorageKeys {
    /// They sign requests.
    Signing {
        /// The id of the key.
        id: Secret,
        /// The secret part of it.
        secret: Secret,
        /// The token of temporary keys.
        token: Option<Secret>,
    },
    /// The key of an account, which signs requests in Azure's way.
    Account(Secret),
    /// A token that is sent as it is.
    Bearer(Secret),
}

/// The keys that were asked for last, or why there are none.
type Known = Option<(Instant, Result<Arc<StorageKeys>, FetchError>)>;

/// Keys for an object store, asked for again before they expire, and by one request however many wait.
#[derive(Debug)]
pub struct StorageLogins {
    login: StorageLogin,
    api: HttpClient,
    known: Mutex<Known>,
}

impl StorageLogins {
    /// Dials nothing. `name`: what stands in logs for the store.
    ///
    /// # Errors
    /// One line that names the proxy that cannot be used.
    pub fn new(
        login: StorageLogin,
        name: UpstreamName,
        proxy: &ProxyConfig,
        metrics: Metrics,
        own: OwnListeners,
    ) -> Result<Self, String> {
        let api = HttpClient::api(name, metrics, proxy, settings::CONNECT_TIMEOUT, own)?;
        Ok(Self {
            login,
            api,
            known: Mutex::default(),
        })
    }

    /// The store does not take them: unless they were just asked for, they are asked for again.
    pub async fn refused(&self) {
        let mut known = self.known.lock().await;
        let since = known.as_ref().map(|(since, _)| since.elapsed());
        if since.is_some_and(|since| since >= REFUSED_EACH) {
            *known = None;
        }
    }

    /// The keys.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub async fn keys(&self) -> Result<Arc<StorageKeys>, FetchError> {
        let mut known = self.known.lock().await;
        if let Some((since, keys)) = &*known {
            let holds = if keys.is_ok() { KEYS_FOR } else { FAILED_FOR };
            if since.elapsed() < holds {
                return keys.clone();
            }
        }
        let deadline = Deadline::after(CLOUD_TIMEOUT);
        let asked = cloud::storage_keys(&self.login, &self.api, deadline).await;
        let keys = asked.map(Arc::new);
        *known = Some((Instant::now(), keys.clone()));
        keys
    }
}
