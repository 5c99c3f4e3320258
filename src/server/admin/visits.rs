//! Clients that were here, and their pulls.

use super::answer::{AdminBody, full, with_type};
use super::error::AdminError;
use super::query::Query;
use crate::format;
use crate::server::http::JSON;
use crate::server::visits::{ClientList, PullEntry, Visits};
use bytes::Bytes;
use http::{Method, Response, StatusCode, request};
use serde::Serialize;

/// The paths of the API.
pub(super) const CLIENTS: &str = "/api/v1/clients";
pub(super) const PULLS: &str = "/api/v1/pulls";

/// Entries in an answer, unless another number is asked for.
const LIMIT_DEFAULT: usize = 1000;

#[derive(Serialize)]
struct Pulls<'a> {
    pulls: &'a [PullEntry],
}

/// Lists clients or pulls, the latest first.
pub(super) fn answer(visits: &Visits, head: &request::Parts) -> Response<AdminBody> {
    match list(visits, head) {
        Ok(body) => full(with_type(StatusCode::OK, JSON, body)),
        Err(error) => error.into_response(),
    }
}

fn list(visits: &Visits, head: &request::Parts) -> Result<Bytes, AdminError> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(AdminError::method("GET, HEAD"));
    }
    let mut query = Query::parse(head.uri.query().unwrap_or_default());
    let limit = query.number("limit")?.unwrap_or(LIMIT_DEFAULT);
    query.end()?;
    // Text, numbers and times can be written.
    let text = if head.uri.path() == CLIENTS {
        let mut clients = visits.clients();
        clients.truncate(limit);
        serde_json::to_string(&ClientList { clients })
    } else {
        let mut pulls = visits.pulls();
        pulls.truncate(limit);
        serde_json::to_string(&Pulls { pulls: &pulls })
    };
    let text = text.unwrap_or_default();
    Ok(format::escaped(&text).into_owned().into())
}
