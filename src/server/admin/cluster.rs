//! The nodes of a cluster.

use super::answer::{AdminBody, full, with_type};
use super::error::AdminError;
use super::query::Query;
use crate::server::http::JSON;
use crate::server::nodes::NodeDesk;
use bytes::Bytes;
use http::{Method, Response, StatusCode, request};

/// The path of the API.
pub(super) const PATH: &str = "/api/v1/cluster";

/// Says what this node sees, or has a node leave.
pub(super) async fn answer(desk: Option<&NodeDesk>, head: &request::Parts) -> Response<AdminBody> {
    match ask(desk, head).await {
        Ok(body) => full(with_type(StatusCode::OK, JSON, body)),
        Err(error) => error.into_response(),
    }
}

async fn ask(desk: Option<&NodeDesk>, head: &request::Parts) -> Result<Bytes, AdminError> {
    let node = desk.map(NodeDesk::node).ok_or_else(|| {
        let why = "this roadstead is alone: there is no [cluster] in its configuration";
        AdminError::new(StatusCode::NOT_FOUND, why)
    })?;
    let mut query = Query::parse(head.uri.query().unwrap_or_default());
    match head.method {
        Method::GET | Method::HEAD => query.end()?,
        Method::POST => {
            let is_leaving = match query.need("leaving")?.as_str() {
                "true" => true,
                "false" => false,
                _ => return Err(AdminError::bad("leaving must be true or false")),
            };
            let other = query.take("node")?;
            query.end()?;
            match other {
                None => node.leave(is_leaving),
                Some(other) => {
                    let asked = node.have_leave(&other, is_leaving).await;
                    asked.map_err(|why| AdminError::new(StatusCode::BAD_GATEWAY, why))?;
                }
            }
        }
        _ => return Err(AdminError::method("GET, HEAD, POST")),
    }
    // Text, addresses and lists of them can be written.
    let body = serde_json::to_vec(&node.report()).unwrap_or_default();
    Ok(Bytes::from(body))
}
