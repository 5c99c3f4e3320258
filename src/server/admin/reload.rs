//! The configuration is read again.

use super::answer::{AdminBody, full, with_type};
use super::error::AdminError;
use super::query::Query;
use crate::audit::Change;
use crate::server::http::JSON;
use crate::server::reload::{KeyChange, ReloadError, Reloaded, Reloader};
use bytes::Bytes;
use http::{Method, Response, StatusCode, request};
use serde_json::Value;
use std::sync::Arc;

/// The path of the API.
pub(super) const PATH: &str = "/api/v1/reload";

/// Reads the configuration again, and says what has changed.
pub(super) async fn answer(
    reloader: &Arc<dyn Reloader>,
    head: &request::Parts,
    changes: &mut Vec<Change>,
) -> Response<AdminBody> {
    match reload(reloader, head).await {
        Ok(effect) => {
            changes.extend(effect.applied.iter().map(change));
            // Text and lists of text can be written.
            let body = serde_json::to_vec(&effect).unwrap_or_default();
            full(with_type(StatusCode::OK, JSON, Bytes::from(body)))
        }
        Err(error) => error.into_response(),
    }
}

async fn reload(
    reloader: &Arc<dyn Reloader>,
    head: &request::Parts,
) -> Result<Reloaded, AdminError> {
    if head.method != Method::POST {
        return Err(AdminError::method("POST"));
    }
    Query::parse(head.uri.query().unwrap_or_default()).end()?;
    let reloader = Arc::clone(reloader);
    let ended = tokio::task::spawn_blocking(move || reloader.reload()).await;
    let effect = ended.map_err(|error| {
        let why = format!("the reload was broken off: {error}");
        AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, why)
    })?;
    effect.map_err(|error| {
        let status = match &error {
            ReloadError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ReloadError::Unreadable(_) => StatusCode::CONFLICT,
            ReloadError::Busy => StatusCode::TOO_MANY_REQUESTS,
        };
        AdminError::new(status, error.to_string())
    })
}

/// A record of the audit log.
fn change(key: &KeyChange) -> Change {
    let value = |text: &Option<String>| text.clone().map_or(Value::Null, Value::String);
    Change {
        change: "configuration changed",
        name: key.key.clone(),
        before: value(&key.before),
        after: value(&key.now),
    }
}
