//! Spans of outbound requests.
//!
//! A request belongs to the trace of the client's request that has caused it. Its span ends with the body of its
//! answer, and says which server was asked, and never more of a URL than a log line may. The trace is told (`traceparent`)
//! to servers that the configuration or their challenge names, and to no other: where they redirect is somebody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{Error, OnBehalf};
use crate::oci::UpstreamName;
use crate::telemetry::Kind;
use crate::telemetry::trace::{Span, SpanKind, Value};

/// Marks a request to a server that the configuration names, or a challenge of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// A registry's endpoint.
    Endpoint,
    /// A token server.
    TokenServer,
}

/// The span of a request that is being sent; nothing where it is not recorded.
#[derive(Debug)]
pub(super) struct Sending {
    span: Option<Span>,
    repeats: AtomicU32,
}

/// The span of an answer, for whoever reads its body.
#[derive(Clone, Debug)]
struct Answered(Arc<Span>);

/// The span of an answer whose body is being read. It ends with this.
#[derive(Debug)]
pub(crate) struct BodySpan {
    span: Arc<Span>,
    bytes: u64,
}

impl Sending {
    /// Begins the span of a request, if the work that it is a part of is traced, and says so in its headers.
    pub(super) fn begin(
        request: &mut Request<Full<Bytes>>,
        kind: Kind,
        upstream: &UpstreamName,
    ) -> Self {
        let named = request.extensions().get::<Named>().copied();
        let span = OnBehalf::traced(|trace| {
            let what = match named {
                Some(Named::TokenServer) => "token",
                Some(Named::Endpoint) | None => kind.label(),
            };
            let name = format!("{} {what}", request.method());
            let span = trace.child(name, SpanKind::Client);
            if named.is_some() {
                let own = span.as_ref().map_or(trace, Span::trace);
                own.context().write_to(request.headers_mut());
            }
            span
        });
        let span = span.flatten();
        if let Some(span) = &span {
            describe(span, request, named);
            span.set("roadstead.upstream", upstream.as_str());
        }
        Self {
            span,
            repeats: AtomicU32::new(0),
        }
    }

    /// The connection was gone, and the same is sent again.
    pub(super) fn repeats(&self) {
        self.repeats.fetch_add(1, Ordering::Relaxed);
    }

    /// The head of the answer is there, or will not come.
    pub(super) fn ended(self, result: &mut Result<Response<Incoming>, Error>) {
        let Some(span) = self.span else {
            return;
        };
        let repeats = self.repeats.load(Ordering::Relaxed);
        if repeats > 0 {
            span.set("http.request.resend_count", repeats);
        }
        match result {
            Ok(response) => {
                let status = response.status();
                span.set("http.response.status_code", status.as_u16());
                let version = Value::fixed(version(response.version()));
                span.set("network.protocol.version", version);
                if is_failure(status) {
                    span.trace().fail(status.as_str(), "");
                }
                response.extensions_mut().insert(Answered(Arc::new(span)));
            }
            Err(error) => span
                .trace()
                .fail(Value::fixed(error.label()), &error.to_string()),
        }
    }
}

impl BodySpan {
    /// The span of an answer, if it has one.
    pub(crate) fn of(response: &mut Response<Incoming>) -> Option<Self> {
        let Answered(span) = response.extensions_mut().remove()?;
        let bytes = 0;
        Some(Self { span, bytes })
    }

    /// Bytes of the body came.
    pub(crate) fn came(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The body broke off.
    pub(crate) fn failed(&self, error: &dyn std::error::Error) {
        let class = Value::fixed("body");
        self.span.trace().fail(class, &error.to_string());
    }
}

impl Drop for BodySpan {
    fn drop(&mut self) {
        self.span.set("http.response.body.size", self.bytes);
    }
}

/// The attributes of a request that are known before it is sent.
fn describe(span: &Span, request: &Request<Full<Bytes>>, named: Option<Named>) {
    let uri = request.uri();
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    span.set("http.request.method", request.method().as_str());
    span.set("server.address", host.trim_matches(['[', ']']));
    let usual = if scheme == "https" { 443 } else { 80 };
    span.set("server.port", uri.port_u16().unwrap_or(usual));
    span.set("url.scheme", scheme);
    // The path of another server may be a secret, and so may any query.
    if named.is_some() {
        let (authority, path) = (uri.authority().map_or("", |it| it.as_str()), uri.path());
        span.set("url.full", format!("{scheme}://{authority}{path}").as_str());
        span.set("url.path", path);
    }
}

/// True if a status is a failure. A challenge and a 404 are how registries are talked to: the answer to the client says
/// what they mean.
fn is_failure(status: StatusCode) -> bool {
    let is_usual = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND);
    status.as_u16() >= 400 && !is_usual
}

/// The version, as `network.protocol.version` has it.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
