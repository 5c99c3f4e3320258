//! A client that pushes to a roadstead that runs, by its client listener: what a push needs, repeated where that may
//! help, and going on from where an upload is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use url::{Url, form_urlencoded};

use crate::commands::client::tls_advice;
use crate::commands::plain::PlainClient;
use crate::commands::warm::server::{ERROR_BYTES_MAX, HEADER_TIMEOUT, accept, passes, waits};
use crate::oci::route::Route;
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::server::SOURCE;
use crate::telemetry::metrics::HOSTED;

/// Bytes of a blob that are sent in one request, and held in memory for it.
pub(in crate::commands) const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// Repeats of a request that may go well then: half a minute in all.
const RETRIES: usize = 6;

/// The longest wait that the server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// Time that a request with a part of a blob may take: a chunk over a slow line, and with the last one the server's disk.
const TRANSFER_TIMEOUT: Duration = Duration::from_mins(5);

/// The server that is pushed to.
#[derive(Debug)]
pub(in crate::commands) struct Pusher {
    client: PlainClient,
    server: Url,
}

/// An upload that has begun.
#[derive(Debug)]
pub(in crate::commands) struct Upload {
    /// Path and query, as the server has said last.
    at: String,
    /// Bytes that it has.
    offset: u64,
}

/// The beginning of a blob.
#[derive(Debug)]
pub(in crate::commands) enum Begun {
    /// The server has it from elsewhere.
    Mounted,
    /// It is to be sent.
    At(Upload),
}

/// The reason that something was not pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Refusal {
    /// The status; none where no answer came.
    pub(in crate::commands) status: Option<StatusCode>,
    /// The code of the error envelope.
    code: String,
    why: String,
    retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Refusal {
    fn of(why: impl fmt::Display) -> Self {
        Self {
            status: None,
            code: String::new(),
            why: why.to_string(),
            retry_after: None,
        }
    }

    /// True if all else that is pushed to the repository will be refused as well.
    pub(in crate::commands) fn is_of_repository(&self) -> bool {
        let refused = matches!(
            self.status,
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED)
        );
        refused || matches!(&*self.code, "NAME_UNKNOWN" | "NAME_INVALID")
    }

    /// True if the manifest names what is not there.
    pub(in crate::commands) fn misses_something(&self) -> bool {
        self.code == "MANIFEST_BLOB_UNKNOWN"
    }

    fn is_absence(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    fn patience(&self) -> Option<Duration> {
        let may_pass = self.status.is_none_or(|it| passes(it.as_u16()));
        let wait = self.retry_after.unwrap_or_default();
        (may_pass && wait <= RETRY_AFTER_MAX).then_some(wait)
    }
}

impl Pusher {
    /// A client of the server at this URL. Dials nothing.
    ///
    /// # Errors
    /// One line.
    pub(in crate::commands) fn new(server: &Url, ca_file: Option<PathBuf>) -> Result<Self, String> {
        Ok(Self {
            client: PlainClient::new(server, ca_file)?,
            server: server.clone(),
        })
    }

    /// Checks that a registry answers.
    ///
    /// # Errors
    /// One line.
    pub(in crate::commands) async fn ping(&self) -> Result<(), String> {
        let path = Route::Ping.path();
        let answer = self.client.get(&path, None, HEADER_TIMEOUT).await.map(drop);
        answer.map_err(|error| {
            let why = error.to_string();
            let advice = tls_advice(&why, "--ca-file", "--server");
            let server = &self.server;
            format!("no registry answers at {server}: {why}{advice} (is `roadstead serve` running? --server names another)")
        })
    }

    /// Sees that the repository can be pushed to: what is mirrored is not asked for, lest its upstream is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn check(&self, repository: &Repository) -> Result<(), Refusal> {
        let (path, session) = (repository.to_string(), String::new());
        let path = Route::Upload { path, session }.path();
        let none = HeaderMap::new();
        let begun = self.ask(Method::POST, &path, &none, &[StatusCode::ACCEPTED]);
        let at = self.location(begun.await?.headers())?;
        self.cancel(&Upload { at, offset: 0 }).await;
        Ok(())
    }

    /// The digest of a hosted manifest that is there, as far as the server says so at once.
    ///
    /// # Errors
    /// [`Refusal`]: whoever asks may not.
    pub(in crate::commands) async fn glance(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Digest>, Refusal> {
        let route = Route::Manifest {
            path: repository.to_string(),
            reference: reference.clone(),
        };
        let (path, none) = (route.path(), HeaderMap::new());
        let answer = self.once(Method::HEAD, &path, &none, Bytes::new(), HEADER_TIMEOUT);
        let answer = answer.await?;
        if matches!(
            answer.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            return expect(answer, &[]).await.map(|_| None);
        }
        let is_hosted = answer.headers().get(SOURCE).is_some_and(|it| it == HOSTED);
        let digest = text(answer.headers(), "docker-content-digest").filter(|_| is_hosted);
        Ok(digest.and_then(|it| Digest::parse(&it).ok()))
    }

    /// The digest of a manifest that is there.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Digest>, Refusal> {
        let route = Route::Manifest {
            path: repository.to_string(),
            reference: reference.clone(),
        };
        let mut headers = HeaderMap::new();
        let accept = HeaderValue::from_str(&accept());
        headers.extend(accept.map(|accept| (http::header::ACCEPT, accept)));
        let path = route.path();
        let answer = self.ask(Method::HEAD, &path, &headers, &[StatusCode::OK]);
        match answer.await {
            Ok(answer) => {
                let digest = text(answer.headers(), "docker-content-digest");
                let digest = digest.and_then(|it| Digest::parse(&it).ok());
                match (digest, reference) {
                    (Some(digest), _) => Ok(Some(digest)),
                    (None, Reference::Digest(digest)) => Ok(Some(*digest)),
                    (None, Reference::Tag(_)) => {
                        Err(Refusal::of("the server does not say the tag's digest"))
                    }
                }
            }
            Err(refusal) if refusal.is_absence() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// True if a blob is there.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn has_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Refusal> {
        let route = Route::Blob {
            path: repository.to_string(),
            digest: *digest,
        };
        let (path, none) = (route.path(), HeaderMap::new());
        let answer = self.ask(Method::HEAD, &path, &none, &[StatusCode::OK]);
        match answer.await {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is_absence() => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    /// Begins a blob, which the server may have from another repository already.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn begin(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Begun, Refusal> {
        let session = String::new();
        let path = repository.to_string();
        let path = Route::Upload { path, session }.path();
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("mount", &digest.to_string());
        query.append_pair("digest-algorithm", digest.algorithm().name());
        let target = format!("{path}?{}", query.finish());
        let expected = [StatusCode::CREATED, StatusCode::ACCEPTED];
        let none = HeaderMap::new();
        let answer = self.ask(Method::POST, &target, &none, &expected);
        let answer = answer.await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(Begun::Mounted);
        }
        Ok(Begun::At(Upload {
            at: self.location(answer.headers())?,
            offset: 0,
        }))
    }

    /// Sends some of a blob.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn send(
        &self,
        upload: &mut Upload,
        bytes: Bytes,
    ) -> Result<(), Refusal> {
        let begin = upload.offset;
        let end = begin + bytes.len() as u64;
        let mut waits = waits(RETRIES);
        while upload.offset < end {
            let sent = usize::try_from(upload.offset - begin).unwrap_or(bytes.len());
            let rest = bytes.slice(sent.min(bytes.len())..);
            let sent = self.chunk(upload, end, rest).await;
            let Err(refusal) = sent else { return Ok(()) };
            // Somebody else's writing is our own request before, whose connection broke.
            let may_pass = matches!(
                refusal.status,
                Some(StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::CONFLICT)
            );
            let patience = refusal.patience().or(may_pass.then_some(Duration::ZERO));
            let Some((wait, asked)) = waits.next().zip(patience) else {
                return Err(refusal);
            };
            tokio::time::sleep(wait.max(asked)).await;
            // The length of what the server has is the truth.
            let there = self.offset(upload).await?;
            if !(begin..=end).contains(&there) {
                return Err(refusal);
            }
            upload.offset = there;
        }
        Ok(())
    }

    async fn chunk(&self, upload: &mut Upload, end: u64, bytes: Bytes) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        let range = format!("{}-{}", upload.offset, end.saturating_sub(1));
        let range = HeaderValue::from_str(&range);
        headers.extend(range.map(|range| (CONTENT_RANGE, range)));
        headers.insert(CONTENT_TYPE, OCTETS);
        let answer = self.once(Method::PATCH, &upload.at, &headers, bytes, TRANSFER_TIMEOUT);
        let answer = expect(answer.await?, &[StatusCode::ACCEPTED]).await?;
        upload.at = self.location(answer.headers())?;
        upload.offset = end;
        Ok(())
    }

    /// Bytes that the server has of an upload.
    async fn offset(&self, upload: &Upload) -> Result<u64, Refusal> {
        let expected = [StatusCode::NO_CONTENT];
        let none = HeaderMap::new();
        let answer = self.ask(Method::GET, &upload.at, &none, &expected);
        let answer = answer.await?;
        let range = text(answer.headers(), RANGE.as_str()).unwrap_or_default();
        let (_, last) = range.rsplit_once('-').unwrap_or_default();
        let last: Option<u64> = last.parse().ok();
        // `0-0` is what is said of nothing at all, too.
        Ok(last.filter(|last| *last > 0).map_or(0, |last| last + 1))
    }

    /// Sends the end of a blob; it is durable then.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn finish(
        &self,
        repository: &Repository,
        upload: &Upload,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<(), Refusal> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("digest", &digest.to_string());
        let between = if upload.at.contains('?') { '&' } else { '?' };
        let target = format!("{}{between}{}", upload.at, query.finish());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, OCTETS);
        if !bytes.is_empty() {
            let last = upload.offset + bytes.len() as u64 - 1;
            let range = HeaderValue::from_str(&format!("{}-{last}", upload.offset));
            headers.extend(range.map(|range| (CONTENT_RANGE, range)));
        }
        let sent = self.once(Method::PUT, &target, &headers, bytes, TRANSFER_TIMEOUT);
        let sent = match sent.await {
            Ok(answer) => expect(answer, &[StatusCode::CREATED]).await,
            Err(refusal) => Err(refusal),
        };
        match sent {
            Ok(_) => Ok(()),
            // The answer alone may be lost.
            Err(refusal) => match self.has_blob(repository, digest).await {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(refusal),
            },
        }
    }

    /// Ends an upload that is given up.
    pub(in crate::commands) async fn cancel(&self, upload: &Upload) {
        let none = HeaderMap::new();
        let asked = self.once(
            Method::DELETE,
            &upload.at,
            &none,
            Bytes::new(),
            HEADER_TIMEOUT,
        );
        // It expires else.
        asked.await.ok();
    }

    /// Puts a manifest, and has these tags name it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(in crate::commands) async fn put_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        (media_type, bytes): (&str, Bytes),
        tag: Option<&Tag>,
    ) -> Result<(), Refusal> {
        let route = Route::Manifest {
            path: repository.to_string(),
            reference: Reference::Digest(*digest),
        };
        let mut target = route.path();
        if let Some(tag) = tag {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("tag", tag.as_str());
            target = format!("{target}?{}", query.finish());
        }
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(media_type);
        headers.extend(media_type.map(|it| (CONTENT_TYPE, it)));
        let expected = [StatusCode::CREATED];
        let put = self.repeated(Method::PUT, &target, &headers, &bytes, &expected);
        put.await.map(drop)
    }

    async fn ask(
        &self,
        method: Method,
        target: &str,
        headers: &HeaderMap,
        expected: &[StatusCode],
    ) -> Result<Response<Incoming>, Refusal> {
        self.repeated(method, target, headers, &Bytes::new(), expected)
            .await
    }

    async fn repeated(
        &self,
        method: Method,
        target: &str,
        headers: &HeaderMap,
        body: &Bytes,
        expected: &[StatusCode],
    ) -> Result<Response<Incoming>, Refusal> {
        let mut waits = waits(RETRIES);
        loop {
            let sent = self.once(
                method.clone(),
                target,
                headers,
                body.clone(),
                HEADER_TIMEOUT,
            );
            let answered = match sent.await {
                Ok(answer) => expect(answer, expected).await,
                Err(refusal) => Err(refusal),
            };
            let refusal = match answered {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            let Some((wait, asked)) = waits.next().zip(refusal.patience()) else {
                return Err(refusal);
            };
            tokio::time::sleep(wait.max(asked)).await;
        }
    }

    async fn once(
        &self,
        method: Method,
        target: &str,
        headers: &HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Incoming>, Refusal> {
        let sent = self
            .client
            .send(method, target, headers.clone(), body, patience);
        sent.await.map_err(Refusal::of)
    }

    /// Path and query of `Location`, below the server's URL.
    fn location(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let wrong = || Refusal::of("the server does not say where the upload is");
        let location = text(headers, LOCATION.as_str()).ok_or_else(wrong)?;
        let url = self.server.join(&location).map_err(|_| wrong())?;
        if url.origin() != self.server.origin() {
            return Err(Refusal::of("the server sends uploads elsewhere"));
        }
        let prefix = self.server.path().trim_end_matches('/');
        let path = url.path();
        let path = path.strip_prefix(prefix).unwrap_or(path);
        Ok(match url.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        })
    }
}

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// An answer of one of these statuses, or what the server says instead.
async fn expect(
    answer: Response<Incoming>,
    expected: &[StatusCode],
) -> Result<Response<Incoming>, Refusal> {
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
    let status = answer.status();
    if expected.contains(&status) {
        return Ok(answer);
    }
    let retry_after = text(answer.headers(), RETRY_AFTER.as_str());
    let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect();
    let body = tokio::time::timeout(HEADER_TIMEOUT, body).await;
    let body = body.ok().and_then(Result::ok);
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    let envelope: Option<Envelope> = serde_json::from_slice(&body).ok();
    let entry = envelope.and_then(|it| it.errors.into_iter().next());
    let (code, why) = match entry {
        Some(Entry { code, message }) => {
            let why = format!("{} {code}: {message}", status.as_u16());
            (code, why.replace(char::is_control, " "))
        }
        None => (String::new(), status.to_string()),
    };
    Err(Refusal {
        status: Some(status),
        code,
        why,
        retry_after: retry_after
            .and_then(|it| it.parse().ok())
            .map(Duration::from_secs),
    })
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}
