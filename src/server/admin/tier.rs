//! The object store.

use super::answer::{AdminBody, full, with_type};
use super::error::AdminError;
use super::query::Query;
use crate::server::http::JSON;
use crate::server::tier::ThisTier;
use bytes::Bytes;
use http::{Method, Response, StatusCode, request};

/// The path of the API.
pub(super) const PATH: &str = "/api/v1/tier";

/// Says how the object store is.
pub(super) fn answer(tier: Option<&dyn ThisTier>, head: &request::Parts) -> Response<AdminBody> {
    match ask(tier, head) {
        Ok(body) => full(with_type(StatusCode::OK, JSON, body)),
        Err(error) => error.into_response(),
    }
}

fn ask(tier: Option<&dyn ThisTier>, head: &request::Parts) -> Result<Bytes, AdminError> {
    let tier = tier.ok_or_else(|| {
        let why = "this roadstead has no object store: there is no [tier] in its configuration";
        AdminError::new(StatusCode::NOT_FOUND, why)
    })?;
    match head.method {
        Method::GET | Method::HEAD => {}
        _ => return Err(AdminError::method("GET, HEAD")),
    }
    Query::parse(head.uri.query().unwrap_or_default()).end()?;
    // Text and numbers can be written.
    let body = serde_json::to_vec(&tier.report()).unwrap_or_default();
    Ok(Bytes::from(body))
}
