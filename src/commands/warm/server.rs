//! Requests to the server that is warmed: bounded in number, repeated where that may help.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::commands::plain::PlainClient;
use crate::oci::manifest::{MANIFEST_BYTES_MAX, media};
use crate::oci::route::{Route, Target};
use crate::oci::{AcceptClass, Digest, ImageName, Reference};
use crate::upstream::FetchError;

/// The server, and how it is asked.
#[derive(Debug)]
pub(super) struct Server {
    client: PlainClient,
    /// A permit for each request that is under way.
    permits: Semaphore,
    retries: usize,
}

/// The state in which the server found what it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It had it.
    There,
    /// It fetched it, for us or somebody else, and keeps it.
    Fetched,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) found: Found,
    /// The length of the body.
    pub(super) bytes: u64,
    /// The body, if it was to be kept.
    pub(super) body: Vec<u8>,
    pub(super) content_type: Option<String>,
    pub(super) digest: Option<String>,
}

/// The reason that something did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GetError {
    /// The server answered so; the text is its own message.
    #[error("{status}{text}")]
    Status {
        status: u16,
        text: String,
        retry_after: Option<Duration>,
    },
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The body did not come whole.
    #[error("the transfer broke off: {0}")]
    Body(String),
    /// It came, and is as little in the cache as before.
    #[error("the mirror passed it through without keeping it")]
    NotKept,
}

impl Server {
    /// A server of which at most so many things are asked at once, each again at most `retries` times.
    pub(super) fn new(client: PlainClient, concurrency: usize, retries: usize) -> Self {
        Self {
            client,
            permits: Semaphore::new(concurrency),
            retries,
        }
    }

    /// Checks that a server answers.
    ///
    /// # Errors
    /// Nobody does.
    pub(super) async fn ping(&self) -> Result<(), FetchError> {
        let path = Route::Ping.path();
        let answer = self.client.get(&path, None, HEADER_TIMEOUT).await;
        answer.map(drop)
    }

    /// A manifest, its body kept.
    ///
    /// # Errors
    /// [`GetError`], after the last try.
    pub(super) async fn manifest(
        &self,
        image: &ImageName,
        reference: &Reference,
    ) -> Result<Got, GetError> {
        let route = Route::Manifest {
            path: image.repository.to_string(),
            reference: reference.clone(),
        };
        self.repeat(&target(image, route), Some(&accept()), true, &|_| ())
            .await
    }

    /// A blob, its bytes counted and thrown away. `progress` hears of bytes that came, and as a negative
    /// number of those that count no more because the transfer begins again.
    ///
    /// # Errors
    /// [`GetError`], after the last try.
    pub(super) async fn blob(
        &self,
        image: &ImageName,
        digest: Digest,
        progress: &(dyn Fn(i64) + Sync),
    ) -> Result<Got, GetError> {
        let route = Route::Blob {
            path: image.repository.to_string(),
            digest,
        };
        self.repeat(&target(image, route), None, false, progress)
            .await
    }

    async fn repeat(
        &self,
        target: &str,
        accept: Option<&str>,
        keep: bool,
        progress: &(dyn Fn(i64) + Sync),
    ) -> Result<Got, GetError> {
        let mut waits = waits(self.retries);
        loop {
            let error = match self.once(target, accept, keep, progress).await {
                Ok(got) => return Ok(got),
                Err(error) => error,
            };
            let wait = error.patience().and_then(|asked| {
                let wait = waits.next()?;
                Some(wait.max(asked))
            });
            let Some(wait) = wait else { return Err(error) };
            tracing::debug!(target, %error, ?wait, "asked again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn once(
        &self,
        target: &str,
        accept: Option<&str>,
        keep: bool,
        progress: &(dyn Fn(i64) + Sync),
    ) -> Result<Got, GetError> {
        // Never closed. It is not held during waits, so that others go on meanwhile.
        let _permit = self.permits.acquire().await;
        let answer = self.client.get(target, accept, HEADER_TIMEOUT).await?;
        let (head, mut body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(refusal(head.status, &head.headers, body).await);
        }
        let mut got = Got {
            found: found(&head.headers)?,
            bytes: 0,
            body: Vec::new(),
            content_type: text(&head.headers, header::CONTENT_TYPE.as_str()),
            digest: text(&head.headers, "docker-content-digest"),
        };
        let result = read(&mut body, |data| {
            got.bytes += data.len() as u64;
            progress(signed(data.len() as u64));
            if keep && got.body.len() + data.len() > MANIFEST_BYTES_MAX {
                return Err(GetError::Body(format!(
                    "it has more than {MANIFEST_BYTES_MAX} bytes"
                )));
            }
            if keep {
                got.body.extend_from_slice(&data);
            }
            Ok(())
        })
        .await;
        if let Err(error) = result {
            progress(-signed(got.bytes));
            return Err(error);
        }
        Ok(got)
    }
}

impl GetError {
    /// The least wait before asking again; `None` where that is of no use.
    fn patience(&self) -> Option<Duration> {
        match self {
            Self::Status {
                status,
                retry_after,
                ..
            } => {
                let wait = retry_after.unwrap_or_default();
                (passes(*status) && wait <= RETRY_AFTER_MAX).then_some(wait)
            }
            Self::Fetch(_) | Self::Body(_) => Some(Duration::ZERO),
            Self::NotKept => None,
        }
    }

    /// True if the server says that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }
}

/// True if an answer of this status may be another one soon.
pub(crate) fn passes(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Path and query; `ns` names the upstream whatever the server's name is.
pub(crate) fn target(image: &ImageName, route: Route) -> String {
    let ns = Some(image.upstream.to_string());
    Target { route, ns }.to_string()
}

/// The formats that podman, skopeo and older versions of docker name, schema 1 as the last choice among them. What upstream
/// says to those it would have said to containerd and docker, who name fewer, so that one GET of a tag does for all; of
/// fewer formats it would not do for podman, whose first pull would cost a second one.
pub(crate) fn accept() -> String {
    let named = accept_class().header();
    AcceptClass::from_headers([named.as_str(), media::DOCKER_SCHEMA1].into_iter()).header()
}

/// The formats that containerd and docker name.
pub(crate) fn accept_class() -> AcceptClass {
    let formats = [
        media::OCI_INDEX,
        media::DOCKER_LIST,
        media::OCI_MANIFEST,
        media::DOCKER_MANIFEST,
    ];
    AcceptClass::from_headers(formats.into_iter())
}

/// Reads a body to its end.
async fn read(
    body: &mut Incoming,
    mut take: impl FnMut(Bytes) -> Result<(), GetError>,
) -> Result<(), GetError> {
    loop {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame())
            .await
            .map_err(|_elapsed| GetError::Fetch(FetchError::Timeout("more of the body")))?;
        match frame {
            None => return Ok(()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    take(data)?;
                }
            }
            Some(Err(error)) => return Err(GetError::Body(error.to_string())),
        }
    }
}

/// Reads `Cache-Status` (RFC 9211). A server that says nothing has no cache that we could see into.
fn found(headers: &HeaderMap) -> Result<Found, GetError> {
    let status = text(headers, "cache-status").unwrap_or_default();
    let mut members = status.split([';', ',']).map(str::trim);
    // A stale tag is one that was there.
    if members.clone().any(|it| it == "hit" || it == "fwd=stale") {
        return Ok(Found::There);
    }
    if members.any(|it| it == "fwd=bypass") {
        return Err(GetError::NotKept);
    }
    Ok(Found::Fetched)
}

/// The error of an answer that is no success.
async fn refusal(status: StatusCode, headers: &HeaderMap, mut body: Incoming) -> GetError {
    let mut bytes = Vec::new();
    // A body that does not come, or is too long, is no message; the status is there in any case.
    read(&mut body, |data| {
        let room = ERROR_BYTES_MAX.saturating_sub(bytes.len());
        bytes.extend(data.iter().take(room));
        if room == 0 {
            return Err(GetError::Body("too long".to_owned()));
        }
        Ok(())
    })
    .await
    .ok();
    let retry_after = text(headers, header::RETRY_AFTER.as_str());
    GetError::Status {
        status: status.as_u16(),
        text: message(&bytes).map_or_else(
            || format!(" {}", status.canonical_reason().unwrap_or("(no reason)")),
            |message| format!(" {message}"),
        ),
        // roadstead itself sends seconds, not dates.
        retry_after: retry_after
            .and_then(|text| text.parse().ok())
            .map(Duration::from_secs),
    }
}

/// The message of the spec's error envelope, on one line.
fn message(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let envelope: Envelope = serde_json::from_slice(bytes).ok()?;
    let Entry { code, message } = envelope.errors.into_iter().next()?;
    let text = format!("{code}: {message}");
    Some(text.replace(char::is_control, " "))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Each twice as long as the one before, with jitter.
pub(crate) fn waits(retries: usize) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(WAIT_FIRST)
        .with_max_delay(WAIT_MAX)
        .with_max_times(retries)
        .with_jitter()
        .build()
}

/// The server answers within 25 s, or says that it cannot; this is for one that is overloaded.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_mins(1);
/// The server breaks a transfer off after 60 s without a byte; nothing comes from one that has not by now.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(150);
/// The first wait before something is asked again.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// The longest wait of our own choice.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A limit that lasts longer is told instead of waited for; the shortest ones of registries are for a minute.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);
/// Error envelopes have some hundred bytes.
pub(crate) const ERROR_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cache_status: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("cache-status", cache_status.parse().unwrap());
        headers
    }

    #[test]
    fn cache_status_says_what_was_there() {
        for (text, expected) in [
            ("roadstead; hit", Ok(Found::There)),
            ("roadstead; fwd=stale", Ok(Found::There)),
            ("roadstead; fwd=miss; stored", Ok(Found::Fetched)),
            ("roadstead; fwd=miss; collapsed", Ok(Found::Fetched)),
            ("roadstead; fwd=partial", Ok(Found::Fetched)),
            ("roadstead; fwd=bypass", Err(GetError::NotKept)),
            ("", Ok(Found::Fetched)),
        ] {
            assert_eq!(found(&headers(text)), expected, "{text}");
        }
    }

    #[test]
    fn only_what_may_pass_is_asked_again() {
        let status = |status, seconds: u64| GetError::Status {
            status,
            text: String::new(),
            retry_after: (seconds > 0).then(|| Duration::from_secs(seconds)),
        };
        assert_eq!(status(429, 7).patience(), Some(Duration::from_secs(7)));
        assert_eq!(status(429, 3600).patience(), None);
        assert_eq!(status(503, 0).patience(), Some(Duration::ZERO));
        assert_eq!(status(404, 0).patience(), None);
        assert_eq!(GetError::NotKept.patience(), None);
        assert_eq!(waits(3).count(), 3);
    }

    #[test]
    fn the_servers_own_message_is_told_on_one_line() {
        let body = br#"{"errors":[{"code":"NAME_UNKNOWN","message":"a\nb"}]}"#;
        assert_eq!(message(body).as_deref(), Some("NAME_UNKNOWN: a b"));
        assert_eq!(message(b"<html>"), None);
        assert_eq!(message(br#"{"errors":[]}"#), None);
    }

    #[test]
    fn the_upstream_is_named_in_the_query() {
        let image = ImageName::parse("ghcr.io/org/app:1").unwrap();
        let route = Route::Manifest {
            path: image.repository.to_string(),
            reference: image.reference.clone(),
        };
        assert_eq!(target(&image, route), "/v2/org/app/manifests/1?ns=ghcr.io");
    }
}
