//! The admin API: what there is, what it takes, and what changes it (docs/admin.md).
//!
//! Everything that is asked stands in the path and query; bodies of requests are not read. Answers are
//! JSON, errors `{"error": "…"}`.

use super::error::AdminError;
use super::query::Query;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::format;
use crate::mirror::Mirror;
use crate::mirror::inspect::Filter;
use crate::oci::UpstreamName;

/// The beginning of all paths of the API.
pub(super) const PREFIX: &str = "/api/";

/// Repositories in an answer about usage, unless something else is asked for, and at most.
const REPOSITORIES_DEFAULT: usize = 1000;
const REPOSITORIES_MAX: usize = 100_000;

/// The health that `status` and `/readyz` report while requests under way are finished and no new connection is taken.
pub(super) const DRAINING: &str = "draining";

/// Answers the questions of the admin API: those of the listener, and those of a command that has opened
/// the store itself.
#[derive(Clone, Debug)]
pub struct AdminApi {
    mirror: Mirror,
    /// True if clients are served.
    running: bool,
    /// Cancelled when the drain begins.
    stop: CancellationToken,
}

/// The JSON of an answer, or an error.
pub(super) type Answer = Result<Bytes, AdminError>;

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
        match self.ask(method, target).await {
            Ok(body) => (StatusCode::OK, body),
            Err(error) => (error.status, error.body()),
        }
    }

    /// Answers a question.
    pub(super) async fn ask(&self, method: &Method, target: &str) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let answer = self.route(method, path, Query::parse(query)).await;
        match &answer {
            Ok(_) if matches!(*method, Method::GET | Method::HEAD) => {}
            Ok(_) => tracing::info!(%method, target, "an operator's command"),
            Err(error) => {
                let (status, why) = (error.status, error.message());
                tracing::debug!(%method, target, %status, why, "the admin API refuses");
            }
        }
        answer
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
            ("/api/v1/status" | "/api/v1/usage" | "/api/v1/inspect", _) => {
                Err(AdminError::method("GET, HEAD"))
            }
            ("/api/v1/images", _) => Err(AdminError::method("GET, HEAD, DELETE")),
            ("/api/v1/pins", _) => Err(AdminError::method("GET, HEAD, PUT, DELETE")),
            ("/api/v1/gc" | "/api/v1/refresh", _) => Err(AdminError::method("POST")),
            _ => Err(AdminError::new(
                StatusCode::NOT_FOUND,
                format!("{path} is nothing of this version's; docs/admin.md lists what there is"),
            )),
        }
    }

    async fn status(&self, query: Query) -> Answer {
        query.end()?;
        let mut status = self
            .mirror
            .operator()
            .overview()
            .status(self.running)
            .await?;
        if self.stop.is_cancelled() {
            DRAINING.clone_into(&mut status.health);
        }
        json(&status)
    }

    async fn images(&self, mut query: Query) -> Answer {
        let filter = Filter::parse(&query.take("match")?.unwrap_or_default())
            .map_err(|error| AdminError::bad(error.to_string()))?;
        let (after, limit) = (query.take("after")?, query.number("limit")?);
        query.end()?;
        let page = self
            .mirror
            .operator()
            .images()
            .page(&filter, after.as_deref(), limit);
        json(&page.await?)
    }

    async fn usage(&self, mut query: Query) -> Answer {
        let upstream = query.take("upstream")?;
        let upstream = upstream.map(|it| UpstreamName::parse(&it)).transpose();
        let upstream = upstream.map_err(|error| AdminError::bad(format!("upstream: {error}")))?;
        let limit = query.number("limit")?.unwrap_or(REPOSITORIES_DEFAULT);
        query.end()?;
        let limit = limit.min(REPOSITORIES_MAX);
        json(
            &self
                .mirror
                .operator()
                .usage()
                .of(upstream.as_ref(), limit)
                .await,
        )
    }

    async fn inspect(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        json(&self.mirror.operator().images().inspect(&image).await?)
    }

    async fn remove(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        let (all, dry_run) = (query.flag("all")?, query.flag("dry_run")?);
        query.end()?;
        json(
            &self
                .mirror
                .operator()
                .removal()
                .remove(&image, all, dry_run)
                .await?,
        )
    }

    async fn collect(&self, mut query: Query) -> Answer {
        let dry_run = query.flag("dry_run")?;
        query.end()?;
        json(&self.mirror.operator().garbage().collect(dry_run).await?)
    }

    async fn refresh(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        // Boxed: a request to upstream is large, and the other questions have none.
        json(&Box::pin(self.mirror.operator().refresher().refresh(&image)).await?)
    }

    async fn pins(&self, query: Query) -> Answer {
        query.end()?;
        json(&Pins {
            pins: self.mirror.operator().pins().list().await,
        })
    }

    async fn pin(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        json(&self.mirror.operator().pins().pin(&image).await?)
    }

    async fn unpin(&self, mut query: Query) -> Answer {
        let image = query.need("image")?;
        query.end()?;
        json(&self.mirror.operator().pins().unpin(&image).await?)
    }
}

#[derive(Serialize)]
struct Pins<T> {
    pins: Vec<T>,
}

fn json(value: &impl Serialize) -> Answer {
    // People read it on terminals.
    let body = format::json(value);
    let failed = |error: serde_json::Error| {
        AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    body.map(Bytes::from).map_err(failed)
}
