//! One request of a client: parsed, asked of the mirror, answered.

use crate::clock::Clock;
use crate::mirror::{BlobAnswer, BlobHead, Mirror, Source, Windows};
use crate::oci::route::{Route, Target};
use crate::oci::{Accept, AcceptClass, Digest, Page, Reference};
use crate::server::conn::buffers::Buffers;
use crate::server::http::access_log::{Client, Exchange, RequestIds};
use crate::server::http::body::{Body, ByteStream, Content};
use crate::server::http::conditions;
use crate::server::http::error::ApiError;
use crate::server::http::host;
use crate::server::http::multipart::Multipart;
use crate::server::registry::reply::{self, Reply, Wanted};
use crate::server::registry::restraint::Restraint;
use crate::telemetry::{Kind, Limit, Metrics};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, Version, header, request};
use std::ops::Range;

const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What is read at once and answered whole, rather than as a stream: most images' configs, and the footers that lazy
/// clients begin with.
const AT_HAND_BYTES_MAX: u64 = 32 * 1024;

/// What `/` says to somebody who opened it in a browser.
const GREETING: &[u8] = b"roadstead: a registry mirror. The API is under /v2/.\n";

/// Answers clients.
#[derive(Debug)]
pub(crate) struct Handler {
    mirror: Mirror,
    metrics: Metrics,
    buffers: Buffers,
    ids: RequestIds,
    restraint: Restraint,
}

impl Handler {
    /// A handler that asks `mirror`.
    pub(crate) fn new(
        mirror: Mirror,
        metrics: Metrics,
        buffers: Buffers,
        clock: &dyn Clock,
    ) -> Self {
        Self {
            mirror,
            metrics,
            buffers,
            ids: RequestIds::new(clock),
            restraint: Restraint::new(),
        }
    }

    /// Answers one request. Its body, if it has one, is never read. `windows`: those of the connection, if it has
    /// no TLS. `must_wait`: memory is short, and this client has more of it than others.
    pub(crate) async fn answer(
        &self,
        request: request::Parts,
        client: Client,
        windows: Option<Windows>,
        must_wait: bool,
    ) -> Response<Body> {
        let mut exchange = Box::new(Exchange::begin(
            self.ids.next(),
            client,
            &request,
            self.metrics.clone(),
        ));
        let mut echo_ns = false;
        // HTTP/2 cuts bodies into frames, which it may copy.
        exchange.windows = windows.filter(|_| request.version < Version::HTTP_2);
        let asked = if must_wait && request.uri.path() != "/v2/" {
            self.metrics.limited(Limit::Buffers);
            Err(ApiError::too_much())
        } else {
            self.dispatch(&request, &mut exchange, &mut echo_ns).await
        };
        let reply = match asked {
            Ok(reply) => reply,
            Err(refusal) => {
                if let Some(limit) = refusal.limit() {
                    let refused = self.restraint.refuse(limit, &exchange, &self.metrics);
                    Box::pin(refused).await;
                }
                let refusal = refusal.about(exchange.upstream());
                refusal.log(&mut exchange);
                refusal.into_reply()
            }
        };
        respond(&request, reply, exchange, echo_ns)
    }

    async fn dispatch(
        &self,
        request: &request::Parts,
        exchange: &mut Exchange,
        echo_ns: &mut bool,
    ) -> Result<Reply, ApiError> {
        let path = request.uri.path();
        if let Some(why) = host::refusal(request) {
            return Err(ApiError::malformed(why));
        }
        if path == "/" && matches!(request.method, Method::GET | Method::HEAD) {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            return Ok(Reply::own(text, Bytes::from_static(GREETING)));
        }
        let target = Target::parse(&request.method, path, request.uri.query())?;
        let via = request.headers.get_all(header::VIA).iter();
        let behalf = self.mirror.on_behalf(
            exchange.client_id(),
            via.filter_map(|value| value.to_str().ok()),
        )?;
        behalf
            .scope(self.ask(request, target, exchange, echo_ns))
            .await
    }

    async fn ask(
        &self,
        request: &request::Parts,
        target: Target,
        exchange: &mut Exchange,
        echo_ns: &mut bool,
    ) -> Result<Reply, ApiError> {
        let path = request.uri.path();
        let ns = target.ns.as_deref().or_else(|| namespace(request));
        *echo_ns = ns.is_some();
        match target.route {
            Route::Ping => Ok(Reply::own(reply::JSON, Bytes::from_static(b"{}"))),
            Route::Catalog(page) => Box::pin(self.catalog(&page, path, ns)).await,
            Route::Manifest { path, reference } => {
                exchange.asks_for(Kind::Manifest, Some(reference.clone()));
                let source = self.resolve(request, ns, &path, exchange)?;
                self.manifest(request, &source, &reference, exchange).await
            }
            Route::Blob { path, digest } => {
                exchange.asks_for(Kind::Blob, Some(Reference::Digest(digest)));
                let source = self.resolve(request, ns, &path, exchange)?;
                self.blob(request, &source, &digest, exchange).await
            }
            Route::Tags { path: name, page } => {
                exchange.asks_for(Kind::Tags, None);
                let source = self.resolve(request, ns, &name, exchange)?;
                let answer = Box::pin(self.mirror.tags(&source, &page)).await?;
                Ok(Reply::list(answer, path, ns))
            }
            Route::Referrers {
                path: name,
                digest,
                artifact_type,
                cursor,
            } => {
                exchange.asks_for(Kind::Referrers, Some(Reference::Digest(digest)));
                let source = self.resolve(request, ns, &name, exchange)?;
                let asked =
                    self.mirror
                        .referrers(&source, &digest, artifact_type.as_deref(), &cursor);
                Ok(Reply::list(Box::pin(asked).await?, path, ns))
            }
        }
    }

    fn resolve(
        &self,
        request: &request::Parts,
        ns: Option<&str>,
        path: &str,
        exchange: &mut Exchange,
    ) -> Result<Source, ApiError> {
        let host = asked_host(&request.uri, &request.headers);
        let source = self.mirror.directory().resolve(ns, host, path)?;
        exchange.goes_to(&source.upstream, &source.repository);
        Ok(source)
    }

    async fn manifest(
        &self,
        request: &request::Parts,
        source: &Source,
        reference: &Reference,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let headers = &request.headers;
        let (class, by_digest) = match reference {
            Reference::Tag(_) => (AcceptClass::from_headers(accepted(headers)), false),
            Reference::Digest(_) => (AcceptClass::ALL, true),
        };
        // An answer that the client did not list is served all the same, as registries do: it may
        // well understand it, and 406 is nothing that any client handles.
        let at_hand = self.mirror.manifest_at_hand(source, reference, class);
        let answer = if let Some(answer) = at_hand {
            answer
        } else {
            let accept = match reference {
                Reference::Tag(_) => Accept::from_headers(accepted(headers)),
                Reference::Digest(_) => Accept::of_digest(accepted(headers)),
            };
            self.mirror.manifest(source, reference, accept).await?
        };
        exchange.found(&answer.digest);
        Ok(Reply::manifest(headers, answer, by_digest))
    }

    async fn blob(
        &self,
        request: &request::Parts,
        source: &Source,
        digest: &Digest,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let headers = &request.headers;
        // A client that has the blob needs no fill, only to hear that the repository has it too.
        let head_will_do = request.method == Method::HEAD
            || (headers.contains_key(header::IF_NONE_MATCH)
                && conditions::client_has(headers, &digest.to_string()));
        if head_will_do {
            let head = self.mirror.blob_head(source, digest).await?;
            return Ok(Reply::blob_head(headers, digest, head));
        }
        let asked = conditions::asked_ranges(headers);
        let first = asked.and_then(|asked| asked.first());
        let answer = self.mirror.blob(source, digest, first).await?;
        let head = BlobHead {
            total: answer.total,
            outcome: answer.outcome,
        };
        let is_stored = answer.is_stored();
        Reply::blob(headers, digest, head, is_stored, |wanted, length| {
            let windows = exchange.windows.take();
            let buffers = windows.is_none().then(|| self.buffers.clone());
            let part = match wanted {
                Wanted::Whole => None,
                Wanted::Part(part) => Some(part),
                Wanted::Parts(frame, parts) => {
                    let readers = answer.parts(parts.clone());
                    let body = Multipart::new(frame, &parts, readers, windows);
                    let stream = ByteStream::of_pieces(body, length, &self.metrics, buffers);
                    return in_frames(stream, request.version);
                }
            };
            if let Some(bytes) = at_hand(&answer, part.as_ref()) {
                return Content::Full(bytes);
            }
            let mut reader = answer.reader(part);
            if let Some(windows) = windows {
                reader = reader.in_windows(windows);
            }
            in_frames(
                ByteStream::of_pieces(reader, length, &self.metrics, buffers),
                request.version,
            )
        })
        .await
    }

    async fn catalog(&self, page: &Page, path: &str, ns: Option<&str>) -> Result<Reply, ApiError> {
        let (repositories, next) = self.mirror.catalog(page).await;
        // As distribution answers (docs/spec/api.md, "Listing Repositories").
        let body = serde_json::json!({ "repositories": repositories }).to_string();
        let mut reply = Reply::own(reply::JSON, Bytes::from(body));
        if let Some(next) = next {
            reply.link(next, path, ns);
        }
        Ok(reply)
    }
}

/// What a client asks for of a blob, if it is little and at hand.
fn at_hand(answer: &BlobAnswer, part: Option<&Range<u64>>) -> Option<Bytes> {
    let part = part.cloned().or_else(|| Some(0..answer.total?))?;
    let length = part.end.saturating_sub(part.start);
    (1..=AT_HAND_BYTES_MAX)
        .contains(&length)
        .then(|| answer.at_hand(part))?
}

/// The stream as the version of HTTP sends it best.
fn in_frames(stream: ByteStream, version: Version) -> Content {
    Content::Stream(if version == Version::HTTP_2 {
        stream.in_frames()
    } else {
        stream
    })
}

/// Puts a response together: what all of them have, the body, the end of the request's story.
fn respond(
    request: &request::Parts,
    mut reply: Reply,
    mut exchange: Box<Exchange>,
    echo_ns: bool,
) -> Response<Body> {
    reply.answer_head(&request.method);
    reply.add_cache_status(exchange.kind());
    let headers = &mut reply.headers;
    let path = request.uri.path();
    if path == "/v2" || path.starts_with("/v2/") {
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    }
    // A client must not be told that a digest's text is a web page.
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    if let Ok(id) = exchange.id().with_text(HeaderValue::from_str) {
        headers.insert(REQUEST_ID, id);
    }
    // Only the configured name is echoed, never the client's text (dist-spec, "Registry proxying").
    let upstream = exchange.upstream().filter(|_| echo_ns);
    if let Some(Ok(name)) = upstream.map(|name| HeaderValue::from_str(name.as_str())) {
        headers.insert(OCI_NAMESPACE, name);
    }
    exchange.answered(reply.status, reply.outcome);
    let mut response = Response::new(Body::new(reply.content, exchange));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

/// The `Accept` headers of a request.
fn accepted(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::ACCEPT).iter();
    values.filter_map(|value| value.to_str().ok())
}

/// `OCI-Namespace` of a request (dist-spec, "Registry proxying"). Where it contradicts `ns`, which clients have sent
/// for longer, that counts.
fn namespace(request: &request::Parts) -> Option<&str> {
    let name = request.headers.get(OCI_NAMESPACE)?.to_str().ok()?.trim();
    Some(name).filter(|name| !name.is_empty())
}

/// The host a request was sent to: `:authority` of HTTP/2 and that of an absolute target go before the
/// `Host` header (RFC 9112 section 3.2.2).
fn asked_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST)?.to_str().ok(),
    }
}
