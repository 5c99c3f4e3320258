//! Logins at an upstream: where user names, passwords and tokens come from, and how they are
//! kept fresh.
//!
//! A [`Source`] is one entry of a pool. It gives a [`Login`], fetched when it is first needed, again
//! before it expires, and by one task however many wait.
//!
//! | file | what it does |
//! | --- | --- |
//! | `cache` | when a login is fetched, cached, fetched again, and not used |
//! | `file` | files that hold a secret, and whether they have changed |
//! | `docker_config` | Docker's `config.json` |
//! | `exec` | programs that give logins |
//! | `cloud/` | the ways of the clouds |
//! | `storage` | logins at object stores |

mod cache;
mod cloud;
mod config;
mod docker_config;
mod exec;
mod file;
mod issued;
mod storage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Credentials, FetchError, Secret};
use crate::net::Deadline;
use crate::net::HttpClient;
use cache::{CredentialCache, Provider};
use docker_config::Docker;
use exec::Helper;
use issued::Issued;
pub(super) use issued::Login;

pub use config::{CloudConfig, CloudUrls, LoginConfig, Text};
pub use storage::{StorageKeys, StorageLogin, StorageLogins};

/// One entry of a pool of logins. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Source {
    cache: Option<Arc<CredentialCache<Kind>>>,
}

impl Source {
    /// Nobody in particular.
    pub(super) fn anonymous() -> Self {
        Self { cache: None }
    }

    /// Sets up a source: checks what can be checked without dialling, reading or running anything.
    /// `registry` is the host (and port) that the login is for; `api` dials cloud services.
    ///
    /// # Errors
    /// One line naming what is wrong.
    pub(super) fn new(
        config: &LoginConfig,
        registry: &str,
        api: HttpClient,
    ) -> Result<Self, String> {
        let upstream = api.upstream().clone();
        let kind = Kind::new(config, registry, api)?;
        Ok(Self {
            cache: Some(Arc::new(CredentialCache::new(kind, upstream))),
        })
    }

    /// The login, fresh; `None` for nobody in particular.
    ///
    /// # Errors
    /// [`FetchError::Login`] when it cannot be had, [`FetchError::LoginRefused`] when it was refused less
    /// than a minute ago and has not changed since; [`FetchError::Timeout`].
    pub(super) async fn login(&self, deadline: Deadline) -> Result<Option<Arc<Login>>, FetchError> {
        match &self.cache {
            Some(cache) => cache.login(deadline).await,
            None => Ok(None),
        }
    }

    /// True if there is a login.
    pub(super) fn is_login(&self) -> bool {
        self.cache.is_some()
    }

    /// The registry or its token server does not take this login: it is not used for a minute, unless
    /// the source gives another one.
    pub(super) fn refused(&self, login: &Arc<Login>) {
        if let Some(cache) = &self.cache {
            cache.refused(login);
        }
    }
}

/// The kind of a source.
struct Kind {
    /// For errors and logs.
    name: String,
    inputs: Vec<PathBuf>,
    ask: Ask,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each entry of a pool, behind an Arc"
)]
enum Ask {
    Password {
        username: Text,
        password: Text,
    },
    Docker(Docker),
    Exec {
        helper: Helper,
        registry: String,
    },
    Cloud {
        config: CloudConfig,
        registry: String,
        api: HttpClient,
    },
}

impl Kind {
    fn new(config: &LoginConfig, registry: &str, api: HttpClient) -> Result<Self, String> {
        let registry = registry.to_owned();
        Ok(match config {
            LoginConfig::Password { username, password } => {
                Self::password(username.clone(), password.clone())?
            }
            LoginConfig::DockerConfig(path) => Self {
                name: format!("the login in {}", path.display()),
                inputs: vec![path.clone()],
                ask: Ask::Docker(Docker::new(path.clone(), registry)),
            },
            LoginConfig::Exec {
                command,
                timeout,
                ttl,
            } => {
                let helper = Helper {
                    command: command.iter().map(OsString::from).collect(),
                    timeout: *timeout,
                    ttl: *ttl,
                };
                if command.first().is_none_or(String::is_empty) {
                    return Err("a login by `exec` names no program".to_owned());
                }
                Self {
                    name: format!("the login from {}", helper.program()),
                    inputs: Vec::new(),
                    ask: Ask::Exec { helper, registry },
                }
            }
            LoginConfig::Cloud(config) => {
                let (service, inputs) = cloud_inputs(config);
                Self {
                    name: format!("the login from {service}"),
                    inputs,
                    ask: Ask::Cloud {
                        config: config.clone(),
                        registry,
                        api,
                    },
                }
            }
        })
    }

    fn password(username: Text, password: Text) -> Result<Self, String> {
        if let Text::Literal(username) = &username {
            check_username(username).map_err(str::to_owned)?;
        }
        let inputs: Vec<PathBuf> = paths([Some(&username), Some(&password)]);
        let name = match inputs.last() {
            Some(path) => format!("the user name and password of {}", path.display()),
            None => "the user name and password".to_owned(),
        };
        Ok(Self {
            name,
            inputs,
            ask: Ask::Password { username, password },
        })
    }
}

impl Provider for Kind {
    async fn fetch(&self) -> Result<Issued, FetchError> {
        match &self.ask {
            Ask::Password { username, password } => {
                let (username, password) = (username.clone(), password.clone());
                off_thread(move || read_password(&username, &password)).await
            }
            Ask::Docker(docker) => docker.fetch().await,
            Ask::Exec { helper, registry } => helper.ask(registry).await,
            Ask::Cloud {
                config,
                registry,
                api,
            } => {
                let deadline = Deadline::after(CLOUD_TIMEOUT);
                let fetched = cloud::fetch(config, registry, api, deadline).await?;
                Ok(Issued {
                    login: Some(fetched.login),
                    good_for: Some(fetched.good_for),
                })
            }
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> &[PathBuf] {
        &self.inputs
    }
}

fn read_password(username: &Text, password: &Text) -> Result<Issued, FetchError> {
    let read = |text: &Text| match text {
        Text::Literal(secret) => Ok(secret.clone()),
        Text::File(path) => file::read_secret(path),
    };
    let (username, password) = (read(username)?, read(password)?);
    check_username(&username).map_err(|why| FetchError::Login(why.to_owned()))?;
    Ok(Issued {
        login: Some(Login::Basic(Credentials {
            username: username.expose().to_owned(),
            password,
        })),
        good_for: None,
    })
}

/// RFC 7617 section 2: whatever follows the first colon would be taken for the password.
fn check_username(username: &Secret) -> Result<(), &'static str> {
    if username.expose().contains(':') {
        return Err("a user name must not hold a colon");
    }
    Ok(())
}

/// A cloud's service, and the files of its long-lived keys. The token of a web identity is not among them:
/// it is replaced every few minutes, and what was had with an old one goes on working.
fn cloud_inputs(config: &CloudConfig) -> (&'static str, Vec<PathBuf>) {
    let pair = |keys: &Option<(Text, Text)>, token: &Option<Text>| {
        let (id, secret) = keys.as_ref().map(|(id, secret)| (id, secret)).unzip();
        paths([id, secret, token.as_ref()])
    };
    match config {
        CloudConfig::Ecr {
            keys,
            session_token,
            ..
        } => ("AWS ECR", pair(keys, session_token)),
        CloudConfig::Gar { key_file, .. } => (
            "Google Artifact Registry",
            key_file.iter().cloned().collect(),
        ),
        CloudConfig::AzureAcr { client_secret, .. } => {
            ("Azure Container Registry", paths([client_secret.as_ref()]))
        }
        CloudConfig::AlibabaAcr {
            keys,
            session_token,
            ..
        } => ("Alibaba Cloud ACR", pair(keys, session_token)),
        CloudConfig::Tcr {
            keys,
            session_token,
            ..
        } => ("Tencent TCR", pair(keys, session_token)),
    }
}

/// The files among some texts.
fn paths<const N: usize>(texts: [Option<&Text>; N]) -> Vec<PathBuf> {
    let path = |text: &Text| match text {
        Text::File(path) => Some(path.clone()),
        Text::Literal(_) => None,
    };
    texts.into_iter().flatten().filter_map(path).collect()
}

/// Runs what blocks where that does no harm.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|_| Err(FetchError::Login("reading was broken off".to_owned())))
}

/// For all the requests that a cloud's way takes; a pull does not wait longer for its first header (20 s).
const CLOUD_TIMEOUT: Duration = Duration::from_secs(15);
