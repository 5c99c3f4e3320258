//! The admin API: what there is, what it takes, and what changes it (docs/admin.md).
//!
//! Everything that is asked stands in the path and query; bodies of requests are not read. Answers are
//! JSON, errors `{"error": "…"}`.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use crate::format;
use crate::mirror::Mirror;
use crate::mirror::inspect::{Filter, InspectError};
use crate::oci::UpstreamName;
use crate::server::admin::answer::flag;

/// What all paths of the API begin with.
pub(super) const PREFIX: &str = "/api/";

/// Repositories in an answer about usage, unless something else is asked for, and at most.
const REPOSITORIES_DEFAULT: usize = 1000;
const REPOSITORIES_MAX: usize = 100_000;

/// What `status` and `/readyz` say while requests under way are finished and no new connection is taken.
pub(super) const DRAINING: &str = "draining";

/// Answers the questions of the admin API: those of the listener, and those of a command that has opened
/// the store itself.
#[derive(Clone, Debug)]
pub struct AdminApi {
    mirror: Mirror,
    /// Whether clients are served.
    running: bool,
    /// Cancelled when the drain begins.
    stop: CancellationToken,
}

/// An answer or a refusal, and its status.
type Answer = Result<Bytes, Refusal>;

#[derive(Debug)]
struct Refusal(StatusCode, String);

impl AdminApi {
    /// For a server.
    #[must_use]
    pub(super) fn of_server(mirror: Mirror, stop: CancellationToken) -> Self {
        Self {
            mirror,
            running: true,
            stop,
        }
    }

    /// For a command that has opened the store itself.
    #[must_use]
    pub fn without_server(mirror: Mirror) -> Self {
        Self {
            mirror,
            running: false,
            stop: CancellationToken::new(),
        }
    }

    /// Answers a question, `target` being its path and query, in JSON.
    pub async fn answer(&self, method: &Method, target: &str) -> (StatusCode, Bytes) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let answer = match Query::parse(query) {
            Ok(query) => self.route(method, path, query).await,
            Err(refusal) => Err(refusal),
        };
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        match answer {
            Ok(body) => {
                if changes {
                    tracing::info!(%method, target, "an operator's command");
                }
                (StatusCode::OK, body)
            }
            Err(Refusal(status, why)) => {
                tracing::debug!(%method, target, %status, why, "the admin API refuses");
                (status, error_body(&why))
            }
        }
    }

    async fn route(&self, method: &Method, path: &str, query: Query) -> Answer {
        match (path, method) {
            ("/api/v1/status", &Method::GET | &Method::HEAD) => self.status(query).await,
            ("/api/v1/images", &Method::GET | &Method::HEAD) => self.images(query).await,
            ("/api/v1/images", &Method::DELETE) => self.remove(query).await,
            ("/api/v1/usage", &Method::GET | &Method::HEAD) => self.usage(query).await,
            ("/api/v1/inspect", &Method::GET | &Method::HEAD) => self.inspect(query).await,
            ("/api/v1/gc", &Method::POST) => self.collect(query).await,
            ("/api/v1/refresh", &Method::POST) => self.refresh(query).await,
            ("/api/v1/pins", &Method::GET | &Method::HEAD) => self.pins(query).await,
            ("/api/v1/pins", &Method::PUT) => self.pin(query).await,
            ("/api/v1/pins", &Method::DELETE) => self.unpin(query).await,
            (
                "/api/v1/status" | "/api/v1/images" | "/api/v1/usage" | "/api/v1/inspect"
                | "/api/v1/gc" | "/api/v1/pins" | "/api/v1/refresh",
                _,
            ) => Err(Refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{path} does not take {method}; docs/admin.md lists what it takes"),
            )),
            _ => Err(Refusal(
                StatusCode::NOT_FOUND,
                format!("{path} is nothing of this version's; docs/admin.md lists what there is"),
            )),
        }
    }

    async fn status(&self, query: Query) -> Answer {
        query.end()?;
        let mut status = self.mirror.operator().status(self.running).await?;
        if self.stop.is_cancelled() {
            DRAINING.clone_into(&mut status.health);
        }
        json(&status)
    }

    async fn images(&self, mut query: Query) -> Answer {
        let filter = Filter::parse(&query.take("match").unwrap_or_default())
            .map_err(|error| bad(error.to_string()))?;
        let (after, limit) = (query.take("after"), query.number("limit")?);
        query.end()?;
        let page = self
            .mirror
            .operator()
            .image_page(&filter, after.as_deref(), limit);
        json(&page.await?)
    }

    async fn usage(&self, mut query: Query) -> Answer {
        let upstream = query.take("upstream");
        let upstream = upstream.map(|it| UpstreamName::parse(&it)).transpose();
        let upstream = upstream.map_err(|error| bad(format!("upstream: {error}")))?;
        let limit = query.number("limit")?.unwrap_or(REPOSITORIES_DEFAULT);
        query.end()?;
        let limit = limit.min(REPOSITORIES_MAX);
        json(&self.mirror.operator().usage(upstream.as_ref(), limit).await)
    }

    async fn inspect(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        json(&self.mirror.operator().inspect_image(&image).await?)
    }

    async fn remove(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        let (all, dry_run) = (query.flag("all")?, query.flag("dry_run")?);
        query.end()?;
        json(
            &self
                .mirror
                .operator()
                .remove_image(&image, all, dry_run)
                .await?,
        )
    }

    async fn collect(&self, mut query: Query) -> Answer {
        let dry_run = query.flag("dry_run")?;
        query.end()?;
        json(&self.mirror.operator().collect_garbage(dry_run).await?)
    }

    async fn refresh(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        // Boxed: a request to upstream is large, and the other questions have none.
        json(&Box::pin(self.mirror.refresh_image(&image)).await?)
    }

    async fn pins(&self, query: Query) -> Answer {
        query.end()?;
        json(&Pins {
            pins: self.mirror.pins().await,
        })
    }

    async fn pin(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        json(&self.mirror.pin_image(&image).await?)
    }

    async fn unpin(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        json(&self.mirror.unpin_image(&image).await?)
    }
}

#[derive(Serialize)]
struct Pins<T> {
    pins: Vec<T>,
}

/// The parameters of a question. One that is not known is an error: a misspelt `dry_run` must not remove
/// anything.
struct Query(BTreeMap<String, String>);

impl Query {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let twice = parameters.insert(name.to_string(), value.into_owned());
            if twice.is_some() {
                return Err(bad(format!("{name} is given twice")));
            }
        }
        Ok(Self(parameters))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn need(&mut self, name: &str) -> Result<String, Refusal> {
        let value = self.take(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| bad(format!("{name} is missing; write ?{name}=…")))
    }

    fn number(&mut self, name: &str) -> Result<Option<usize>, Refusal> {
        let number = self.take(name).map(|value| value.parse()).transpose();
        number.map_err(|_| bad(format!("{name} must be a number")))
    }

    fn flag(&mut self, name: &str) -> Result<bool, Refusal> {
        let flag = self.take(name).map_or(Some(false), |value| flag(&value));
        flag.ok_or_else(|| bad(format!("{name} must be true or false")))
    }

    /// All that was asked has been understood.
    fn end(&self) -> Result<(), Refusal> {
        match self.0.keys().next() {
            Some(name) => Err(bad(format!("{name} is no parameter of this question"))),
            None => Ok(()),
        }
    }
}

impl From<InspectError> for Refusal {
    fn from(error: InspectError) -> Self {
        let status = match error {
            InspectError::Bad(_) => StatusCode::BAD_REQUEST,
            InspectError::NotFound(_) => StatusCode::NOT_FOUND,
            InspectError::Conflict(_) => StatusCode::CONFLICT,
            InspectError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            InspectError::Upstream(_) => StatusCode::BAD_GATEWAY,
        };
        Self(status, error.to_string())
    }
}

fn bad(why: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why)
}

fn json(value: &impl Serialize) -> Answer {
    // People read it on terminals.
    let body = format::json(value);
    let failed =
        |error: serde_json::Error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    body.map(Bytes::from).map_err(failed)
}

/// The body of a refusal.
pub(super) fn error_body(why: &str) -> Bytes {
    let body = serde_json::json!({ "error": why }).to_string();
    format::escaped(&body).into_owned().into()
}
