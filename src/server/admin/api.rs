//! The admin API: what there is, what it takes, and the commands to change it.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::mirror::Mirror;

/// Answers the questions of the admin API: those of the listener, and those of a command that has opened
/// the store itself.
#[derive(Clone, Debug)]
pub struct AdminApi {
    mirror: Mirror,
}

impl AdminApi {
    /// For a server.
    #[must_use]
    pub(in crate::server) fn of_server(mirror: Mirror) -> Self {
        Self { mirror }
    }

    /// For a command.
    #[must_use]
    pub fn without_server(mirror: Mirror) -> Self {
        Self { mirror }
    }

    /// Answers a question in JSON.
    pub async fn answer(&self, method: &Method, target: &str) -> (StatusCode, Bytes) {
        let _ = (method, target, &self.mirror);
        let body = json!({"error": "not found"});
        (StatusCode::NOT_FOUND, body.to_string().into())
    }
}
