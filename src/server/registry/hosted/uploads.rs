//! Uploads: POST begins one, PATCH brings some of it, PUT the rest and the digest; GET says how much has come, DELETE
//! ends it (dist-spec, "Pushing blobs").

use super::HostedRequest;
use super::body::{Unreceived, receive};
use crate::hosted::{HostedError, Session, Writer};
use crate::oci::push::{ChunkRange, PushQuery};
use crate::oci::route::Route;
use crate::oci::{Digest, ErrorCode};
use crate::server::http::body::Content;
use crate::server::http::error::ApiError;
use crate::server::registry::reply::{EntityTag, Reply};
use crate::telemetry::Outcome;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Time that taking over a mirrored blob may take: hashing it. Then its client uploads it.
const MOUNT_WAIT_MAX: Duration = Duration::from_secs(15);

impl HostedRequest<'_> {
    pub(super) async fn upload(&self, id: &str, body: &mut Incoming) -> Result<Reply, ApiError> {
        let query = PushQuery::parse(self.request.head.uri.query())?;
        let method = &self.request.head.method;
        if id.is_empty() {
            if *method != Method::POST {
                return Err(ApiError::no_such_method("POST"));
            }
            return self.begin(query, body).await;
        }
        let owner = self.owner();
        let session = self.hosted.session(self.repository, id, &owner)?;
        match *method {
            Method::GET | Method::HEAD => {
                let mut reply = self.progress(StatusCode::NO_CONTENT, &session, session.length());
                let never = HeaderValue::from_static("no-store");
                reply.headers.insert(header::CACHE_CONTROL, never);
                Ok(reply)
            }
            Method::DELETE => {
                self.hosted.cancel(&session).await?;
                let status = StatusCode::NO_CONTENT;
                Ok(Reply::new(status, Content::Empty, Outcome::Hit))
            }
            Method::PATCH => {
                let mut writer = self.writer(&session).await?;
                self.receive(body, &mut writer).await?;
                Ok(self.progress(StatusCode::ACCEPTED, &session, writer.length()))
            }
            Method::PUT => {
                let digest = query.digest.ok_or_else(no_digest)?;
                let mut writer = self.writer(&session).await?;
                self.receive(body, &mut writer).await?;
                self.finish(writer, digest).await
            }
            _ => Err(ApiError::no_such_method("GET, PATCH, PUT and DELETE")),
        }
    }

    /// Begins an upload, or has the blob at once: from another repository, or from the body.
    async fn begin(&self, query: PushQuery, body: &mut Incoming) -> Result<Reply, ApiError> {
        self.have_namespace().await?;
        if let Some(digest) = query.mount
            && self.mount(&digest, query.from.as_deref()).await
        {
            return Ok(self.created(&digest));
        }
        let client = self.caller.source();
        let algorithm = query.digest.map(|it| it.algorithm()).or(query.algorithm);
        let owner = self.owner();
        let begun = self
            .hosted
            .begin(self.repository, &owner, client, algorithm);
        let session = begun.await?;
        let Some(digest) = query.digest else {
            return Ok(self.progress(StatusCode::ACCEPTED, &session, 0));
        };
        let done = async {
            let mut writer = self.writer(&session).await?;
            self.receive(body, &mut writer).await?;
            self.finish(writer, digest).await
        };
        let done = done.await;
        if done.is_err() {
            // Nobody knows its name.
            self.hosted.cancel(&session).await.ok();
        }
        done
    }

    /// The right to write, from where the request says that it goes on.
    async fn writer(&self, session: &Arc<Session>) -> Result<Writer, ApiError> {
        let headers = &self.request.head.headers;
        let location = self.location(session);
        let wrong = |why| ApiError::chunk(why, location.clone(), session.length());
        let range = match headers.get(header::CONTENT_RANGE) {
            None => None,
            Some(text) => {
                let range = text.to_str().ok().and_then(ChunkRange::parse);
                Some(range.ok_or_else(|| wrong("the Content-Range makes no sense"))?)
            }
        };
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        if let (Some(range), Some(length)) = (range, length)
            && range.length() != length
        {
            return Err(wrong("Content-Range and Content-Length differ"));
        }
        let writer = self.hosted.writer(Arc::clone(session), range).await;
        writer.map_err(|error| ApiError::of_upload(error, &location, session.length()))
    }

    async fn receive(&self, body: &mut Incoming, writer: &mut Writer) -> Result<(), ApiError> {
        let share = || self.hosted.take_in(self.caller.source());
        let received = receive(body, writer, share).await;
        let location = self.location(writer.session());
        received.map_err(|error| match error {
            // Somebody has ended it.
            Unreceived::Broken(_) if self.hosted.is_over(writer.session()) => {
                HostedError::NoUpload.into()
            }
            error @ (Unreceived::Broken(_) | Unreceived::Hosted(_)) => {
                error.answer(&location, writer.length())
            }
        })
    }

    async fn finish(&self, writer: Writer, digest: Digest) -> Result<Reply, ApiError> {
        let (session, length) = (Arc::clone(writer.session()), writer.length());
        let finished = writer.finish(digest, &self.by()).await;
        let location = self.location(&session);
        finished.map_err(|error| ApiError::of_upload(error, &location, length))?;
        Ok(self.created(&digest))
    }

    /// Has a blob from another repository, hosted or mirrored, that the client may pull from; whether it has.
    async fn mount(&self, digest: &Digest, from: Option<&str>) -> bool {
        let mounting = async {
            if let Some(from) = from
                && self.mount_from(digest, from).await
            {
                return true;
            }
            self.mount_from_anywhere(digest).await
        };
        let mounted = tokio::time::timeout(MOUNT_WAIT_MAX, mounting).await;
        mounted.unwrap_or(false)
    }

    async fn mount_from(&self, digest: &Digest, from: &str) -> bool {
        let names = self.hosted.names();
        let hosted = names.place(self.request.host, None, from, false);
        if let Ok(crate::hosted::Place::Hosted(repository)) = hosted
            && self.mount_hosted(digest, &repository).await
        {
            return true;
        }
        let source = {
            let directory = self.handler.mirror().directory();
            directory.resolve(None, None, from)
        };
        let Ok(source) = source else {
            return false;
        };
        if !self.sees_mirrored(&source) {
            return false;
        }
        let mirrored = self.handler.mirror().for_hosted();
        match mirrored.stored(&source, digest).await {
            Some(blob) => {
                let by = self.by();
                let mounted = self.hosted.mount_stored(self.repository, blob, &by).await;
                is_mounted(mounted)
            }
            None => false,
        }
    }

    async fn mount_hosted(&self, digest: &Digest, from: &crate::oci::Repository) -> bool {
        if !self.sees(from) {
            return false;
        }
        let by = self.by();
        let mounted = self.hosted.mount(self.repository, from, digest, &by).await;
        is_mounted(mounted)
    }

    /// The same, where the client does not say from where, or there is none.
    async fn mount_from_anywhere(&self, digest: &Digest) -> bool {
        let holders = self.hosted.holders(digest).await.unwrap_or_default();
        if let Some(from) = holders.iter().find(|it| self.sees(it))
            && self.mount_hosted(digest, from).await
        {
            return true;
        }
        let mirror = self.handler.mirror();
        // Whoever may pull from all repositories may have what any of them has.
        if self.visitor.is_some() || mirror.visibility().hides_something() {
            return false;
        }
        match mirror.for_hosted().stored_anywhere(digest).await {
            Some(blob) => {
                let by = self.by();
                let mounted = self.hosted.mount_stored(self.repository, blob, &by).await;
                is_mounted(mounted)
            }
            None => false,
        }
    }

    /// Says how much of an upload has come. Of none at all nothing else can be said (as distribution does).
    fn progress(&self, status: StatusCode, session: &Session, length: u64) -> Reply {
        let mut reply = Reply::new(status, Content::Empty, Outcome::Hit);
        reply.set(header::LOCATION, self.location(session));
        reply.set(header::RANGE, format!("0-{}", length.saturating_sub(1)));
        reply.set(UPLOAD_UUID, session.id.clone());
        reply
    }

    /// The blob is in the repository.
    fn created(&self, digest: &Digest) -> Reply {
        let mut reply = Reply::new(StatusCode::CREATED, Content::Empty, Outcome::Hit);
        let route = Route::Blob {
            path: self.path().to_owned(),
            digest: *digest,
        };
        reply.set(header::LOCATION, self.with_ns(route.path()));
        reply.says_digest(&EntityTag::new(digest));
        reply
    }

    /// Relative, so that it is right behind any proxy that ends TLS.
    fn location(&self, session: &Session) -> String {
        let route = Route::Upload {
            path: self.path().to_owned(),
            session: session.id.clone(),
        };
        self.with_ns(route.path())
    }

    pub(super) fn with_ns(&self, path: String) -> String {
        match self.request.ns() {
            Some(ns) => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.append_pair("ns", ns);
                format!("{path}?{}", query.finish())
            }
            None => path,
        }
    }
}

/// True if a blob was mounted; why not is told where it is no matter of course.
fn is_mounted(mounted: Result<(), HostedError>) -> bool {
    match mounted {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "a blob is not mounted; its client uploads it");
            false
        }
    }
}

fn no_digest() -> ApiError {
    ApiError::bad_push(ErrorCode::DigestInvalid, "the parameter digest is missing")
}
