//! Who holds the store: a server that runs, or nobody, and then it is opened here.
//!
//! A command asks [`Place::reach`] once and then [`Reached::ask`]s: the questions are those of the admin
//! API (docs/admin.md), whoever answers. What needs the store itself, and no server can do for it, opens
//! the directory with [`Place::open`], which fails while a server has it.
//!
//! 0. With `--cache-dir` nobody is asked: that directory is opened.
//! 1. The server at the admin address (`--admin`, or else the configuration's `server.admin_listen`) is
//!    asked. If anybody answers there, that is it.
//! 2. If nobody does, and `--admin` was not given, the cache directory is opened. A server that has it is
//!    noticed by its lock: an error that says so, never a second writer.
//!
//! Opened for looking, nothing in it is changed. Opened to change what is named, the store evicts nothing, whatever the configuration's size is: whoever looks with
//! the wrong configuration must not lose a cache.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::screen::clean;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::mirror::{Mirror, Parts};
use crate::oci::Directory;
use crate::server::AdminApi;
use crate::store::{OpenError, Store};
use crate::telemetry::Metrics;
use crate::upstream::{AdminClient, AdminError, Payload};

/// Where to look for the store.
#[derive(Clone, Debug)]
pub struct Place {
    /// The admin listener of a server that may run.
    pub admin: Url,
    /// Whether the user named it: then the directory is no other choice.
    pub named: bool,
    /// Whether the user named the directory: then no server is asked.
    pub directory: bool,
    /// The configuration, for the directory and what is done about tags.
    pub config: Config,
    /// How long a server may take to say that it is there.
    sign_of_life: Duration,
}

/// Who has the store.
#[derive(Debug)]
pub enum Reached {
    /// A server that runs.
    Server(Box<Client>),
    /// This process.
    Directory(Box<Opened>),
}

/// The admin API of a server that runs.
#[derive(Debug)]
pub struct Client {
    http: AdminClient,
    admin: Url,
}

/// A store that this process has opened. [`Opened::close`] it: what was changed is written then.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// A mirror without upstreams on it: for its questions.
    pub mirror: Mirror,
    api: AdminApi,
}

/// What the directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see what is there: nothing is changed.
    Look,
    /// To pin and to remove what is named: nothing else goes.
    Change,
    /// To store more: the configuration's size is kept to, as by a server.
    Store,
}

/// Why a question has no answer: one line.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The address of the admin listener is none that can be asked.
    #[error("{0}")]
    Address(String),
    /// Nobody answers, and the directory is somebody else's.
    #[error(
        "no roadstead answers at {admin} ({why}), and without one: {open}. If a roadstead has it, name its admin listener with --admin"
    )]
    Nobody {
        /// The admin address.
        admin: String,
        /// Why nobody answers.
        why: String,
        /// Why the directory cannot be opened.
        open: String,
    },
    /// Nobody answers where the user said.
    #[error("no roadstead answers at {admin}: {why}")]
    NotThere {
        /// The admin address.
        admin: String,
        /// The cause.
        why: String,
    },
    /// The directory cannot be opened.
    #[error("{0}")]
    Directory(String),
    /// The question was refused: the server's own words.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What is wrong, and what to do.
        message: String,
    },
    /// The answer makes no sense.
    #[error("the answer of {from} makes no sense: {why}. Is it a roadstead of this version?")]
    Nonsense {
        /// Who answered.
        from: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Place {
    /// Where the store of this configuration is; `admin` is what the user named.
    ///
    /// # Errors
    /// [`ReachError::Address`].
    pub fn new(config: Config, admin: Option<Url>) -> Result<Self, ReachError> {
        let named = admin.is_some();
        let admin = match admin {
            Some(admin) => admin,
            None if config.server.admin_listen.port() == 0 => {
                let why = "server.admin_listen has port 0, which is another one each time: name the admin listener with --admin";
                return Err(ReachError::Address(why.to_owned()));
            }
            None => admin_url(&config)?,
        };
        Ok(Self {
            admin,
            named,
            directory: false,
            config,
            sign_of_life: SIGN_OF_LIFE_MAX,
        })
    }

    /// The directory of this configuration, whether a server runs or not.
    #[must_use]
    pub fn in_directory(self) -> Self {
        Self {
            directory: true,
            ..self
        }
    }

    /// The server, if one answers, or else the directory.
    ///
    /// # Errors
    /// [`ReachError`].
    pub async fn reach(&self, purpose: Purpose) -> Result<Reached, ReachError> {
        if self.directory {
            let opened = self.open(purpose).await?;
            return Ok(Reached::Directory(Box::new(opened)));
        }
        let http = AdminClient::new(&self.admin).map_err(ReachError::Address)?;
        let why = match self.server(http).await {
            Ok(client) => return Ok(Reached::Server(Box::new(client))),
            Err(why) => why.cause(),
        };
        let admin = self.admin.to_string();
        if self.named {
            return Err(ReachError::NotThere { admin, why });
        }
        match self.open(purpose).await {
            Ok(opened) => Ok(Reached::Directory(Box::new(opened))),
            Err(open) => Err(ReachError::Nobody {
                admin,
                why,
                open: open.to_string(),
            }),
        }
    }

    /// The server that answers at the admin address.
    async fn server(&self, http: AdminClient) -> Result<Client, AdminError> {
        let patience = Some(self.sign_of_life);
        let asked = http.send(Method::GET, "/healthz", Payload::none(), patience);
        // Whoever answers is there, whatever he says; what he says is seen to when he is asked.
        drop(asked.await?);
        let admin = self.admin.clone();
        Ok(Client { http, admin })
    }

    /// Opens the cache directory, which must exist. Fails while another process has it.
    ///
    /// # Errors
    /// [`ReachError::Directory`].
    pub async fn open(&self, purpose: Purpose) -> Result<Opened, ReachError> {
        let mut cache = self.config.cache.clone();
        if purpose != Purpose::Store {
            // Nobody who wants to see a directory that is not there wants it to be made.
            if !cache.dir.is_dir() {
                let dir = cache.dir.display();
                return Err(ReachError::Directory(format!(
                    "there is no directory {dir}"
                )));
            }
            cache = cache.unbounded();
        }
        let metrics = Metrics::new(std::iter::empty());
        let opening = {
            let metrics = metrics.clone();
            tokio::task::spawn_blocking(move || {
                let clock = Arc::new(SystemClock);
                let store = match purpose {
                    Purpose::Look => Store::look_into(&cache, clock, metrics)?,
                    Purpose::Change | Purpose::Store => Store::open(&cache, clock, metrics)?,
                };
                // Nobody runs it: what the index does not know is found now.
                store.scan().all();
                Ok::<_, OpenError>(store)
            })
        };
        let failed = |error: &dyn fmt::Display| ReachError::Directory(error.to_string());
        let store = opening
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        let mirror = Mirror::new(Parts {
            config: self.config.tags.clone(),
            fill_on_range: self.config.fill_on_range,
            directory: Directory::new(Vec::new()),
            upstreams: Vec::new(),
            store: store.clone(),
            clock: Arc::new(SystemClock),
            metrics,
        });
        Ok(Opened {
            store,
            api: AdminApi::without_server(mirror.clone()),
            mirror,
        })
    }
}

impl Reached {
    /// Asks the admin API, `target` being a path and query; the answer's JSON, whole.
    ///
    /// # Errors
    /// [`ReachError`].
    pub async fn ask(&self, method: Method, target: &str) -> Result<Bytes, ReachError> {
        let (status, body) = match self {
            Self::Server(client) => client.ask(method, target).await?,
            Self::Directory(opened) => opened.api.answer(&method, target).await,
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(refusal(status, &body))
    }

    /// The same, read as what it should be.
    ///
    /// # Errors
    /// [`ReachError`].
    pub async fn ask_for<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
    ) -> Result<T, ReachError> {
        let body = self.ask(method, target).await?;
        serde_json::from_slice(&body).map_err(|error| ReachError::Nonsense {
            from: self.name(),
            why: error.to_string(),
        })
    }

    /// Whether a server answers.
    #[must_use]
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Who answers, for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Server(client) => client.admin.to_string(),
            Self::Directory(_) => "the cache directory".to_owned(),
        }
    }

    /// Ends it: what was changed in a directory is written.
    pub async fn close(self) {
        match self {
            Self::Server(_) => {}
            Self::Directory(opened) => opened.close().await,
        }
    }
}

impl Client {
    async fn ask(&self, method: Method, target: &str) -> Result<(StatusCode, Bytes), ReachError> {
        let gone = |error: AdminError| ReachError::NotThere {
            admin: self.admin.to_string(),
            why: error.cause(),
        };
        let patience = Some(ANSWER_WAIT_MAX);
        let asked = self.http.send(method, target, Payload::none(), patience);
        let answer = asked.await.map_err(gone)?;
        let (head, body) = answer.into_parts();
        let nonsense = |error: &dyn fmt::Display| ReachError::Nonsense {
            from: self.admin.to_string(),
            why: error.to_string(),
        };
        let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
        let whole = tokio::time::timeout(BODY_WAIT_MAX, body.collect())
            .await
            .map_err(|error| nonsense(&error))?
            .map_err(|error| nonsense(&error))?;
        Ok((head.status, whole.to_bytes()))
    }
}

impl Opened {
    /// Writes what was changed, and lets the directory go.
    pub async fn close(self) {
        self.mirror.stop().await;
        self.store.pages().settle().await;
    }
}

/// What an answer that is no success says.
fn refusal(status: StatusCode, body: &[u8]) -> ReachError {
    #[derive(Deserialize)]
    struct Told {
        error: String,
    }
    let told = serde_json::from_slice(body).map(|told: Told| told.error);
    ReachError::Refused {
        status: status.as_u16(),
        message: told.map_or_else(
            |_| format!("the server answered {status}"),
            |told| clean(&told),
        ),
    }
}

/// Where the mirror of this configuration is reached from this machine: its registry port.
///
/// # Errors
/// [`ReachError::Address`].
pub fn server_url(config: &Config) -> Result<Url, ReachError> {
    url_of(config.server.scheme(), config.server.listen, "--server")
}

/// Where its operator reaches it: the admin listener.
///
/// # Errors
/// [`ReachError::Address`].
pub fn admin_url(config: &Config) -> Result<Url, ReachError> {
    url_of("http", config.server.admin_listen, "--admin")
}

fn url_of(scheme: &str, mut address: SocketAddr, flag: &str) -> Result<Url, ReachError> {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let url = format!("{scheme}://{address}");
    // A link-local address with its zone is none.
    url.parse().map_err(|error| {
        ReachError::Address(format!(
            "{url} is no URL ({error}): name the server with {flag}"
        ))
    })
}

/// Whether a roadstead is there: it answers that from memory, at once. Who is connected to and says nothing is
/// something else, or has stopped; ten seconds are for a machine that is busy.
const SIGN_OF_LIFE_MAX: Duration = Duration::from_secs(10);
/// Going through an index of millions of entries, or all manifests, takes minutes on a slow disk.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(30);
/// The body is in the server's memory by then.
const BODY_WAIT_MAX: Duration = Duration::from_mins(1);
/// Pages are far smaller; a list of ten thousand repositories is not.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_takes_a_connection_and_says_nothing_is_no_server() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin: Url = format!("http://{}", silent.local_addr().unwrap())
            .parse()
            .unwrap();
        let none = tempfile::tempdir().unwrap();
        let flags = Overrides {
            cache_dir: Some(none.path().join("none").display().to_string()),
            ..Overrides::default()
        };
        let config = Config::from_layers(&flags, [], &[]).unwrap();
        let mut place = Place::new(config, Some(admin)).unwrap();
        assert_eq!(place.sign_of_life, Duration::from_secs(10));
        place.sign_of_life = Duration::from_millis(50);
        // Bounded: it used to be half an hour.
        let reached = tokio::time::timeout(Duration::from_secs(20), place.reach(Purpose::Look));
        let error = reached.await.unwrap().unwrap_err();
        assert!(matches!(&error, ReachError::NotThere { .. }), "{error}");
        // Not named by the user, the directory is the next to be looked at.
        place.named = false;
        let reached = tokio::time::timeout(Duration::from_secs(20), place.reach(Purpose::Look));
        let error = reached.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("there is no directory"), "{error}");
    }
}
