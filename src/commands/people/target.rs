//! The holder of the catalogue: a server that runs, or nobody, and then it is opened here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Common;
use crate::access::{self, Guard, Sharing};
use crate::catalogue::Catalogue;
use crate::clock::SystemClock;
use crate::commands::client::{AdminClient, Payload};
use crate::commands::target::{AdminServer, Locator};
use crate::config::{Config, Overrides};
use crate::format::harmless;
use crate::server::PeopleApi;
use crate::telemetry::Metrics;

/// A server answers this from memory; one that says nothing is something else, or has stopped.
const SIGN_OF_LIFE_MAX: Duration = Duration::from_secs(10);

/// A password is hashed, and a change written to the disk.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// A hundred thousand tokens.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The reason why a command was not done: one line.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

/// The holder of the catalogue.
#[derive(Debug)]
pub(super) struct People {
    place: Place,
    /// The address for clients, if the configuration says it.
    listen: Option<String>,
}

#[derive(Debug)]
enum Place {
    /// A server that runs.
    Server(AdminClient, Box<AdminServer>),
    /// This process.
    Here(Box<PeopleApi>),
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl People {
    /// The server, if one answers, or else the state directory.
    ///
    /// # Errors
    /// [`PeopleError`].
    pub(super) async fn reach(common: &Common) -> Result<Self, PeopleError> {
        if let Some(dir) = &common.state_dir {
            let config = Config::load(&Overrides {
                config: common.server.config.clone(),
                state_dir: Some(dir.clone()),
                ..Overrides::default()
            });
            let config = config.map_err(|error| PeopleError::Usage(error.to_string()))?;
            return Self::open(config).await;
        }
        let locator = Locator::of(&common.server, None, None).map_err(PeopleError::Usage)?;
        let admin = locator.admin().cloned();
        let config = locator.into_config();
        let listen = config.as_ref().and_then(|config| {
            let config = config.as_ref().ok()?;
            Some(config.server.listen().to_string())
        });
        let Some(admin) = admin else {
            return Err(PeopleError::Usage(
                "name a server or a state directory".to_owned(),
            ));
        };
        let client = AdminClient::new(&admin).map_err(PeopleError::Usage)?;
        let patience = Some(SIGN_OF_LIFE_MAX);
        let alive = client
            .send(Method::GET, "/healthz", Payload::none(), patience)
            .await;
        let why = match alive {
            Ok(_answer) => {
                let place = Place::Server(client, Box::new(admin));
                return Ok(Self { place, listen });
            }
            Err(error) => error.cause(),
        };
        match config {
            None => Err(PeopleError::Failed(format!(
                "no roadstead answers at {admin}: {why}"
            ))),
            Some(Err(error)) => Err(PeopleError::Failed(format!(
                "no roadstead answers at {admin} ({why}), and the configuration is wrong: {error}"
            ))),
            Some(Ok(config)) => Self::open(config).await,
        }
    }

    /// Opens the catalogue of a state directory that no server has.
    async fn open(config: Config) -> Result<Self, PeopleError> {
        let metrics = Metrics::new(std::iter::empty());
        let (state, for_catalogue) = (config.state.clone(), metrics.clone());
        let opened = tokio::task::spawn_blocking(move || Catalogue::open(&state, for_catalogue));
        let catalogue = opened
            .await
            .map_err(|error| PeopleError::Failed(error.to_string()))?;
        if let Some(trouble) = catalogue.trouble() {
            return Err(PeopleError::Failed(trouble));
        }
        let listen = Some(config.server.listen().to_string());
        let access = access::Config {
            cluster: config.cluster.as_ref().map(|_| Sharing::default()),
            ..config.access
        };
        let guard = Guard::open(access, Some(catalogue), Arc::new(SystemClock), metrics);
        let guard = guard
            .await
            .map_err(|error| PeopleError::Failed(error.to_string()))?;
        let place = Place::Here(Box::new(PeopleApi::new(&guard)));
        Ok(Self { place, listen })
    }

    /// Asks the admin API, and reads the answer.
    ///
    /// # Errors
    /// [`PeopleError`].
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, PeopleError> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let (status, answer) = match &self.place {
            Place::Here(api) => {
                let body = body.unwrap_or_default();
                api.answer(&method, target, &body).await
            }
            Place::Server(client, admin) => {
                let payload = match body {
                    Some(body) => Payload::bytes(body, Some("application/json".to_owned())),
                    None => Payload::none(),
                };
                ask_server(client, admin, method, target, payload).await?
            }
        };
        if !status.is_success() {
            let told = serde_json::from_slice(&answer).map(|told: Refused| told.error);
            let why = told.unwrap_or_else(|_| format!("the server answered {status}"));
            return Err(PeopleError::Failed(harmless(&why).into_owned()));
        }
        let nonsense = |error: serde_json::Error| {
            PeopleError::Failed(format!(
                "the answer makes no sense: {error}. Is it a roadstead of this version?"
            ))
        };
        serde_json::from_slice(&answer).map_err(nonsense)
    }

    /// The host that clients log in to, as far as it is known.
    pub(super) fn host(&self) -> String {
        self.listen
            .clone()
            .unwrap_or_else(|| "HOST:PORT".to_owned())
    }
}

async fn ask_server(
    client: &AdminClient,
    admin: &AdminServer,
    method: Method,
    target: &str,
    payload: Payload,
) -> Result<(StatusCode, Bytes), PeopleError> {
    let failed = |why: String| PeopleError::Failed(format!("{admin} does not answer: {why}"));
    let answer = client
        .send(method, target, payload, Some(ANSWER_WAIT_MAX))
        .await;
    let (head, body) = answer.map_err(|error| failed(error.cause()))?.into_parts();
    let whole = Limited::new(body, ANSWER_BYTES_MAX).collect();
    let whole = tokio::time::timeout(ANSWER_WAIT_MAX, whole).await;
    let whole = whole.map_err(|error| failed(error.to_string()))?;
    let whole = whole.map_err(|error| failed(error.to_string()))?;
    Ok((head.status, whole.to_bytes()))
}
