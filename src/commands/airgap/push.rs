//! Requests to the admin listener of the mirror that is imported into.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::AirgapError;
use super::progress::Reporter;
use super::reading::Part;
use crate::commands::client::{AdminClient, Payload};
use crate::commands::target::AdminServer;
use crate::oci::{Digest, ImageName};

/// The mirror's admin listener.
pub(super) struct Admin {
    client: AdminClient,
}

/// The result of giving an image its name.
pub(super) enum Named {
    /// It can be pulled; so many manifests that its index names were not brought.
    Done { absent: u64 },
    /// Parts have gone again: they were evicted, or an operator has removed what had them.
    Incomplete(String),
}

impl Admin {
    pub(super) fn new(admin: &AdminServer) -> Result<Self, AirgapError> {
        let client = AdminClient::new(admin).map_err(AirgapError)?;
        Ok(Self { client })
    }

    /// True if the mirror has a blob or manifest.
    pub(super) async fn has(&self, digest: &Digest) -> Result<bool, AirgapError> {
        let target = format!("/api/v1/import/blobs/{digest}");
        let (status, said) = self.ask(Method::GET, &target, Payload::none()).await?;
        match status {
            StatusCode::OK => Ok(true),
            // Another server's 404 says nothing of this kind.
            StatusCode::NOT_FOUND if said.get("error").is_some() => Ok(false),
            _ => Err(refused(status, &said)),
        }
    }

    /// Brings a blob.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        part: Part,
        reporter: &Arc<Reporter>,
    ) -> Result<(), AirgapError> {
        let target = format!("/api/v1/import/blobs/{digest}");
        let payload = Payload::stream(part.size, pieces(part, Arc::clone(reporter)));
        let (status, said) = self.ask(Method::PUT, &target, payload).await?;
        created(status, &said)
    }

    /// Brings a manifest.
    pub(super) async fn manifest(
        &self,
        digest: &Digest,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(), AirgapError> {
        let target = format!("/api/v1/import/manifests/{digest}");
        let payload = Payload::bytes(bytes.into(), Some(media_type.to_owned()));
        let (status, said) = self.ask(Method::PUT, &target, payload).await?;
        created(status, &said)
    }

    /// Gives what was brought its name, and pins it if that is wanted.
    pub(super) async fn image(
        &self,
        name: &ImageName,
        digest: &Digest,
        pin: bool,
    ) -> Result<Named, AirgapError> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("name", &name.to_string());
        query.append_pair("digest", &digest.to_string());
        if pin {
            query.append_pair("pin", "true");
        }
        let target = format!("/api/v1/import/images?{}", query.finish());
        let (status, said) = self.ask(Method::POST, &target, Payload::none()).await?;
        match status {
            StatusCode::OK => {
                let absent = said.get("absent").and_then(Value::as_u64);
                let absent = absent.unwrap_or_default();
                Ok(Named::Done { absent })
            }
            StatusCode::CONFLICT if said.get("missing").is_some() => {
                Ok(Named::Incomplete(refused(status, &said).to_string()))
            }
            _ => Err(refused(status, &said)),
        }
    }

    async fn ask(
        &self,
        method: Method,
        target: &str,
        payload: Payload,
    ) -> Result<(StatusCode, Value), AirgapError> {
        let patience = match method {
            // The answer to a blob comes when all of it is on the server's disk.
            Method::PUT => None,
            Method::POST => Some(NAMING_WAIT),
            _ => Some(ANSWER_WAIT),
        };
        let answer = self.client.send(method, target, payload, patience).await;
        let answer = answer.map_err(|error| AirgapError(error.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let body = tokio::time::timeout(ANSWER_WAIT, body.collect()).await;
        let bytes = body.ok().and_then(Result::ok);
        let bytes = bytes.map(http_body_util::Collected::to_bytes);
        let said = serde_json::from_slice(&bytes.unwrap_or_default());
        Ok((status, said.unwrap_or(Value::Null)))
    }
}

fn created(status: StatusCode, said: &Value) -> Result<(), AirgapError> {
    match status {
        StatusCode::OK | StatusCode::CREATED => Ok(()),
        _ => Err(refused(status, said)),
    }
}

fn refused(status: StatusCode, said: &Value) -> AirgapError {
    let why = said.get("error").and_then(Value::as_str);
    let why = why.unwrap_or("is that the admin address of a roadstead that can import?");
    AirgapError(format!("the server answers {status}: {why}"))
}

/// The bytes of a file, read as they are sent.
fn pieces(
    part: Part,
    reporter: Arc<Reporter>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((part, 0_u64), move |(part, at)| {
        let reporter = Arc::clone(&reporter);
        async move {
            if at >= part.size {
                return Ok(None);
            }
            let reading = part.clone();
            let read = tokio::task::spawn_blocking(move || reading.read_at(at)).await;
            let bytes = read.map_err(std::io::Error::other).flatten()?;
            reporter.progress.advance(bytes.len() as u64);
            let at = at + bytes.len() as u64;
            Ok(Some((Bytes::from(bytes), (part, at))))
        }
    })
}

/// A question is answered at once.
const ANSWER_WAIT: Duration = Duration::from_mins(1);
/// An image gets its name when an operator's removal that is under way is over: `gc` takes minutes on a slow disk.
const NAMING_WAIT: Duration = Duration::from_mins(30);
/// An image that lacks a thousand parts is told so in some 75 kB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
