//! The span of a client's request, in the words of OpenTelemetry's conventions for HTTP. It tells of what was pulled what
//! the access line tells, and ends with that.

use super::host;
use crate::telemetry::Kind;
use crate::telemetry::access::AccessLine;
use crate::telemetry::trace::{Span, Trace, Tracer, Value};
use http::{HeaderValue, Method, Version, request};
use std::borrow::Cow;
use std::net::IpAddr;

/// A method that no convention names: clients may make up any.
const OTHER_METHOD: &str = "_OTHER";

/// The span of a client's request.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    span: Span,
    /// Bytes of the answer that were stored before.
    stored: Option<u64>,
}

impl RequestSpan {
    /// Begins the span of a request, if it belongs to a trace.
    pub(crate) fn begin(
        tracer: &Tracer,
        head: &request::Parts,
        client: IpAddr,
        is_secure: bool,
    ) -> Option<Box<Self>> {
        let span = tracer.begin(&head.headers)?;
        if span.trace().is_recorded() {
            let scheme = if is_secure { "https" } else { "http" };
            span.set("url.scheme", Value::fixed(scheme));
            span.set("client.address", client.to_string().as_str());
            let version = Value::fixed(version(head.version));
            span.set("network.protocol.version", version);
            if let Some((host, port)) = host::of(head).map(parts) {
                span.set("server.address", host);
                if let Some(port) = port {
                    span.set("server.port", port);
                }
            }
        }
        let stored = None;
        Some(Box::new(Self { span, stored }))
    }

    /// The trace, for the work that the request causes.
    pub(crate) fn trace(&self) -> Trace {
        self.span.trace().clone()
    }

    /// The identity of the trace.
    pub(crate) fn trace_id(&self) -> u128 {
        self.span.trace().context().trace_id()
    }

    /// So many bytes of the answer were stored when it began.
    pub(crate) fn finds_stored(&mut self, bytes: u64) {
        self.stored = Some(bytes);
    }

    /// The answer says this of the cache.
    pub(crate) fn says(&self, cache_status: Option<&HeaderValue>) {
        if let Some(Ok(status)) = cache_status.map(HeaderValue::to_str) {
            self.span.set("roadstead.cache_status", status);
        }
    }

    /// The request has ended, and its access line says how.
    pub(crate) fn end(&self, kind: Kind, line: &AccessLine<'_>) {
        let span = &self.span;
        if !span.trace().is_recorded() {
            return;
        }
        let method = known_method(line.method);
        let route = route(kind);
        span.name(match route {
            Some(route) => Cow::Owned(format!("{method} {route}")),
            None => Cow::Owned(method.to_owned()),
        });
        span.set("http.request.method", method);
        if method == OTHER_METHOD {
            span.set("http.request.method_original", line.method);
        }
        if let Some(route) = route {
            span.set("http.route", Value::fixed(route));
        }
        span.set("url.path", line.path);
        span.set("http.response.status_code", line.status);
        span.set("http.response.body.size", line.bytes);
        self.tell_bytes(line);
        span.set("roadstead.request_id", line.request_id.to_string().as_str());
        let texts = [
            ("roadstead.upstream", line.upstream),
            ("roadstead.repository", line.repository),
            ("roadstead.outcome", line.outcome),
            ("user_agent.original", line.user_agent),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                span.set(key, text);
            }
        }
        let names = [
            ("roadstead.reference", line.reference),
            ("roadstead.digest", line.digest),
        ];
        for (key, name) in names {
            if let Some(name) = name {
                span.set(key, name.to_string().as_str());
            }
        }
        span.set("roadstead.ended", line.ended);
        let trace = span.trace();
        if line.ended == "failed" {
            trace.fail(Value::fixed("body"), "the body broke off");
        } else if line.status >= 500 {
            trace.fail(line.status.to_string().as_str(), "");
        }
    }

    /// Of the bytes of the body, those that were stored before, and those that upstream gave for it.
    fn tell_bytes(&self, line: &AccessLine<'_>) {
        let is_hit = matches!(line.outcome, Some("hit" | "stale"));
        let usual = if is_hit { line.bytes } else { 0 };
        let stored = self.stored.unwrap_or(usual).min(line.bytes);
        self.span.set("roadstead.bytes.cache", stored);
        self.span
            .set("roadstead.bytes.upstream", line.bytes - stored);
    }
}

/// The path of a kind of request, with names in the place of what is different each time.
fn route(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Manifest => Some("/v2/{name}/manifests/{reference}"),
        Kind::Blob => Some("/v2/{name}/blobs/{digest}"),
        Kind::Tags => Some("/v2/{name}/tags/list"),
        Kind::Referrers => Some("/v2/{name}/referrers/{digest}"),
        Kind::Upload => Some("/v2/{name}/blobs/uploads/"),
        Kind::Other => None,
    }
}

fn known_method(method: &str) -> &str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    if known.iter().any(|known| known == method) {
        method
    } else {
        OTHER_METHOD
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// Host and port of what a client has sent as a host.
fn parts(host: &str) -> (&str, Option<u16>) {
    let with_port = host.rsplit_once(':');
    match with_port.and_then(|(name, port)| Some((name, port.parse().ok()?))) {
        Some((name, port)) => (name.trim_matches(['[', ']']), Some(port)),
        None => (host.trim_matches(['[', ']']), None),
    }
}
