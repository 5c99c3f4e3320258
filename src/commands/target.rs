//! The holder of the store: a server that runs, or nobody, and then it is opened here.
//!
//! A command asks [`Locator::reach`] once and then [`Target::ask`]s: the questions are those of the admin
//! API (docs/admin.md), whoever answers.
//!
//! 1. With `--cache-dir` no server is asked: that directory is opened.
//! 2. A server that `--admin` or `ROADSTEAD_ADMIN` names is asked, and nothing else; no configuration is read.
//! 3. The server at the configuration's `server.admin_listen` is asked. If anybody answers there, that is it.
//! 4. If nobody does, the cache directory is opened. A server that has it is noticed by its lock: an error that
//!    says so, never a second writer.
//!
//! In a directory that is opened to look into it nothing is changed. Opened to change what is named, the store evicts
//! nothing, whatever the configuration's size is: a look with the wrong configuration must not cost a cache.

mod address;
mod admin;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use address::Faults;
pub use address::{ADMIN_VARIABLE, AdminFlags, SERVER_VARIABLE, ServerFlags};
pub(super) use address::{admin_url, named_server, server_url};
pub use admin::AdminServer;

use crate::clock::SystemClock;
use crate::commands::client::{AdminClient, AdminError, Payload};
use crate::config::{Config, Overrides};
use crate::format::harmless;
use crate::mirror::{Mirror, OpenMode, Opened, Parts, UpstreamSet};
use crate::oci;
use crate::server::AdminApi;
use crate::store::Store;
use crate::telemetry::Metrics;

/// The longest wait for a sign of life: a roadstead answers it from memory, at once. A listener that says nothing is
/// something else, or has stopped; ten seconds are for a machine that is busy.
const SIGN_OF_LIFE_MAX: Duration = Duration::from_secs(10);
/// Going through an index of millions of entries, or all manifests, takes minutes on a slow disk.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(30);
/// The body is in the server's memory by then.
const BODY_WAIT_MAX: Duration = Duration::from_mins(1);
/// Pages are far smaller; a list of ten thousand repositories is not.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The place of the store, as far as the command line tells.
#[derive(Clone, Debug)]
pub struct Locator {
    place: Place,
    /// The longest that a server may take to say that it is there.
    sign_of_life: Duration,
}

#[derive(Clone, Debug)]
enum Place {
    /// The admin listener that the user named: nothing of any configuration is needed.
    Named(AdminServer),
    /// That of the configuration, and where nobody answers there, its directory.
    Configured(AdminServer, Box<Result<Config, String>>),
    /// The directory that the user named: no server is asked.
    Directory(Box<Config>),
}

/// The holder of the store.
#[derive(Debug)]
pub enum Target {
    /// A server that runs.
    Server(Box<Server>),
    /// This process.
    Directory(Box<Directory>),
}

/// The admin API of a server that runs.
#[derive(Debug)]
pub struct Server {
    http: AdminClient,
    admin: AdminServer,
}

/// A store that this process has opened. [`Directory::close`] it: what was changed is written then.
#[derive(Debug)]
pub struct Directory {
    /// The store.
    pub store: Store,
    /// A mirror without upstreams on it: for its questions.
    pub mirror: Mirror,
    api: AdminApi,
    /// The configuration has hosted repositories.
    hosts: bool,
}

/// The reason that a question has no answer: one line.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
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
        /// The reason that nobody answers.
        why: String,
        /// The reason that the directory cannot be opened.
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
    /// Nobody answers, and the configuration, which has the directory, makes no sense.
    #[error("no roadstead answers at {admin} ({why}), and the configuration is wrong: {error}")]
    Configuration {
        /// The admin address.
        admin: String,
        /// The reason that nobody answers.
        why: String,
        /// The faults of the configuration.
        error: String,
    },
    /// The directory cannot be opened.
    #[error("{0}")]
    Directory(String),
    /// The question was refused: the server's own words.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The fault, and what to do.
        message: String,
    },
    /// The answer makes no sense.
    #[error("the answer of {from} makes no sense: {why}. Is it a roadstead of this version?")]
    Nonsense {
        /// The name of the server that answered.
        from: String,
        /// The fault.
        why: String,
    },
}

impl Locator {
    /// Locates the store, as flags, environment and configuration say, in this order.
    ///
    /// # Errors
    /// One line: a flag makes no sense, or the configuration does not say where the server is.
    pub fn of(
        flags: &AdminFlags,
        cache_dir: Option<&String>,
        state_dir: Option<&String>,
    ) -> Result<Self, String> {
        if cache_dir.is_some() {
            let config = Config::load(&Overrides {
                config: flags.config.clone(),
                cache_dir: cache_dir.cloned(),
                state_dir: state_dir.cloned(),
                ..Overrides::default()
            });
            let config = config.map_err(|error| error.to_string())?;
            return Ok(Self::at(Place::Directory(Box::new(config))));
        }
        if let Some(admin) = flags.named()? {
            return Ok(Self::at(Place::Named(admin)));
        }
        let (listeners, config) = address::configured(flags.config.as_ref(), Faults::Elsewhere)?;
        let admin = flags.configured(&listeners)?;
        Ok(Self::at(Place::Configured(admin, Box::new(config))))
    }

    /// Locates a server that is to read its configuration again, which may be one that cannot be read.
    ///
    /// # Errors
    /// One line, as for [`Locator::of`].
    pub fn of_reload(flags: &AdminFlags) -> Result<Self, String> {
        if let Some(admin) = flags.named()? {
            return Ok(Self::at(Place::Named(admin)));
        }
        let (listeners, config) = address::configured(flags.config.as_ref(), Faults::Syntax)?;
        let admin = flags.configured(&listeners)?;
        Ok(Self::at(Place::Configured(admin, Box::new(config))))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            sign_of_life: SIGN_OF_LIFE_MAX,
        }
    }

    /// The admin listener, unless a directory was named.
    #[must_use]
    pub fn admin(&self) -> Option<&AdminServer> {
        match &self.place {
            Place::Named(admin) | Place::Configured(admin, _) => Some(admin),
            Place::Directory(_) => None,
        }
    }

    /// The faults of the configuration that the address was read from.
    fn fault(&self) -> Option<String> {
        match &self.place {
            Place::Configured(_, config) => config.as_ref().as_ref().err().cloned(),
            Place::Named(_) | Place::Directory(_) => None,
        }
    }

    /// The configuration of the directory that is used where no server answers.
    #[must_use]
    pub fn into_config(self) -> Option<Result<Config, String>> {
        match self.place {
            Place::Named(_) => None,
            Place::Configured(_, config) => Some(*config),
            Place::Directory(config) => Some(Ok(*config)),
        }
    }

    /// The server, if one answers, or else the directory.
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn reach(&self, mode: OpenMode) -> Result<Target, TargetError> {
        let (admin, config) = match &self.place {
            Place::Directory(config) => {
                let directory = open(config, mode).await?;
                return Ok(Target::Directory(Box::new(directory)));
            }
            Place::Named(admin) => (admin, None),
            Place::Configured(admin, config) => (admin, Some(config)),
        };
        let http = AdminClient::new(admin).map_err(TargetError::Address)?;
        let why = match self.ask_for_life(http, admin).await {
            Ok(server) => return Ok(Target::Server(Box::new(server))),
            Err(why) => why.cause(),
        };
        let admin = admin.to_string();
        let opened = match config.map(AsRef::as_ref) {
            None => return Err(TargetError::NotThere { admin, why }),
            Some(Ok(config)) => open(config, mode).await,
            Some(Err(error)) => {
                return Err(TargetError::Configuration {
                    admin,
                    why,
                    error: error.clone(),
                });
            }
        };
        match opened {
            Ok(directory) => Ok(Target::Directory(Box::new(directory))),
            Err(open) => Err(TargetError::Nobody {
                admin,
                why,
                open: open.to_string(),
            }),
        }
    }

    /// The server: what is asked makes no sense without one.
    ///
    /// # Errors
    /// [`TargetError`]: nobody answers, or a directory was named.
    pub async fn reach_server(&self) -> Result<Target, TargetError> {
        let Some(admin) = self.admin() else {
            let why = "a server is asked for this, not a directory: name it with --admin";
            return Err(TargetError::Address(why.to_owned()));
        };
        let http = AdminClient::new(admin).map_err(TargetError::Address)?;
        let server = self.ask_for_life(http, admin).await;
        let server = server.map_err(|why| {
            let (admin, why) = (admin.to_string(), why.cause());
            match self.fault() {
                Some(error) => TargetError::Configuration { admin, why, error },
                None => TargetError::NotThere { admin, why },
            }
        })?;
        Ok(Target::Server(Box::new(server)))
    }

    /// The server that answers at the admin address.
    async fn ask_for_life(
        &self,
        http: AdminClient,
        admin: &AdminServer,
    ) -> Result<Server, AdminError> {
        let patience = Some(self.sign_of_life);
        let asked = http.send(Method::GET, "/healthz", Payload::none(), patience);
        // Any answer is a sign of life; its content matters only to the questions that follow.
        drop(asked.await?);
        let admin = admin.clone();
        Ok(Server { http, admin })
    }
}

/// Opens the cache directory, which must exist. Fails while another process has it.
async fn open(config: &Config, mode: OpenMode) -> Result<Directory, TargetError> {
    let cache = config.cache.clone().found(&config.state.dir, false);
    // Nobody who wants to see a directory that is not there wants it to be made.
    if !cache.dir.is_dir() {
        let dir = cache.dir.display();
        return Err(TargetError::Directory(format!(
            "there is no directory {dir}"
        )));
    }
    let cache = cache.unbounded();
    let metrics = Metrics::new(std::iter::empty());
    let failed = |error: &dyn fmt::Display| TargetError::Directory(error.to_string());
    let (state, clock) = (config.state.clone(), Arc::new(SystemClock));
    let opened = Opened::open(mode, cache, state, clock, metrics.clone()).await;
    let Opened { store, catalogue } = opened.map_err(|error| failed(&error))?;
    let scanned = {
        let store = store.clone();
        // Nobody runs it: what the index does not know is found now.
        tokio::task::spawn_blocking(move || store.scan().all())
    };
    scanned.await.map_err(|error| failed(&error))?;
    let mirror = Mirror::new(Parts {
        policies: config.tags.clone().into(),
        fill_on_range: config.fill_on_range,
        upstreams: UpstreamSet {
            directory: oci::Directory::new(Vec::new()),
            upstreams: Vec::new(),
            public_views: Vec::new(),
            client_views: Vec::new(),
        },
        store: store.clone(),
        catalogue,
        clock: Arc::new(SystemClock),
        metrics,
    });
    let hosts = config.hosted.is_some();
    Ok(Directory {
        store,
        api: AdminApi::without_server(mirror.clone()),
        mirror,
        hosts,
    })
}

impl Target {
    /// Asks the admin API for an answer in JSON.
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, TargetError> {
        let mut target = path.to_owned();
        if !parameters.is_empty() {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(parameters);
            target = format!("{path}?{}", query.finish());
        }
        let (status, body) = match self {
            Self::Server(server) => server.ask(method, &target).await?,
            Self::Directory(opened) => opened.api.answer(&method, &target).await,
        };
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| TargetError::Nonsense {
            from: self.name(),
            why: error.to_string(),
        })
    }

    /// True if there are hosted repositories, and no server that knows them.
    #[must_use]
    pub fn has_hosted_aside(&self) -> bool {
        matches!(self, Self::Directory(opened) if opened.hosts)
    }

    /// True if a server answers.
    #[must_use]
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Server(server) => server.admin.to_string(),
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

impl Server {
    async fn ask(&self, method: Method, target: &str) -> Result<(StatusCode, Bytes), TargetError> {
        let gone = |error: AdminError| TargetError::NotThere {
            admin: self.admin.to_string(),
            why: error.cause(),
        };
        let patience = Some(ANSWER_WAIT_MAX);
        let asked = self.http.send(method, target, Payload::none(), patience);
        let answer = asked.await.map_err(gone)?;
        let (head, body) = answer.into_parts();
        let nonsense = |error: &dyn fmt::Display| TargetError::Nonsense {
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

impl Directory {
    /// Writes what was changed, and lets the directory go.
    pub async fn close(self) {
        self.mirror.stop().await;
        self.store.pages().settle().await;
    }
}

/// The error of an answer that is no success.
fn refusal(status: StatusCode, body: &[u8]) -> TargetError {
    #[derive(Deserialize)]
    struct Told {
        error: String,
    }
    let told = serde_json::from_slice(body).map(|told: Told| told.error);
    TargetError::Refused {
        status: status.as_u16(),
        message: told.map_or_else(
            |_| format!("the server answered {status}"),
            // Several errors of a configuration come as lines.
            |told| told.lines().map(harmless).collect::<Vec<_>>().join("\n"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_takes_a_connection_and_says_nothing_is_no_server() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = format!("http://{}", silent.local_addr().unwrap());
        let admin = AdminServer::at(admin.parse().unwrap());
        let none = tempfile::tempdir().unwrap();
        let flags = Overrides {
            cache_dir: Some(none.path().join("none").display().to_string()),
            ..Overrides::default()
        };
        let config = Config::from_layers(&flags, [], &[]).unwrap();
        let mut locator = Locator::at(Place::Named(admin.clone()));
        assert_eq!(locator.sign_of_life, Duration::from_secs(10));
        locator.sign_of_life = Duration::from_millis(50);
        // Bounded: it used to be half an hour.
        let reached = tokio::time::timeout(Duration::from_secs(20), locator.reach(OpenMode::Look));
        let error = reached.await.unwrap().unwrap_err();
        assert!(matches!(&error, TargetError::NotThere { .. }), "{error}");
        // Not named by the user, the directory is the next to be looked at.
        locator.place = Place::Configured(admin, Box::new(Ok(config)));
        let reached = tokio::time::timeout(Duration::from_secs(20), locator.reach(OpenMode::Look));
        let error = reached.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("there is no directory"), "{error}");
    }
}
