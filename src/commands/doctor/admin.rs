//! The admin listener of a server that may run: each question is bounded, and no answer is an error of the command.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;

use crate::commands::client::{AdminClient, Payload};
use crate::commands::target::AdminServer;

/// The longest wait for an answer, which comes from memory.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// A page of metrics of hundreds of upstreams is far below.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A listener that is asked.
#[derive(Debug)]
pub(super) struct Admin {
    client: AdminClient,
    pub(super) name: String,
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Admin {
    /// Dials nothing yet.
    ///
    /// # Errors
    /// One line: the address is none, or a file of certificates cannot be used.
    pub(super) fn new(server: &AdminServer) -> Result<Self, String> {
        Ok(Self {
            client: AdminClient::new(server)?,
            name: server.to_string(),
        })
    }

    /// GET of a path.
    ///
    /// # Errors
    /// One line: nobody answers.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, String> {
        let asking = async {
            let sent = self
                .client
                .send(Method::GET, path, Payload::none(), Some(WAIT_MAX));
            let (head, body) = sent.await.map_err(|error| error.cause())?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        let late = || Err(format!("no answer within {} s", WAIT_MAX.as_secs()));
        let asked = tokio::time::timeout(WAIT_MAX, asking).await;
        asked.unwrap_or_else(|_elapsed| late())
    }

    /// GET of JSON.
    ///
    /// # Errors
    /// One line: nobody answers, or the answer is something else.
    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let answer = self.get(path).await?;
        if !answer.status.is_success() {
            return Err(format!("{path} answered {}", answer.status));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| format!("the answer of {path} makes no sense: {error}"))
    }
}
