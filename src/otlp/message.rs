//! Spans as OTLP writes them: the messages of opentelemetry-proto (`trace/v1/trace.proto` and what it names), version
//! 1, of which the numbers of fields are stable. Fields that are never written are left away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::{Message, Oneof};

use crate::format::VERSION;
use crate::telemetry::trace::{Context, Ended, SpanKind, Value};

/// The part of a program that makes spans, as the collector shows it.
const SCOPE: &str = "roadstead";

/// `SpanFlags`: the lowest byte is that of `traceparent`; the two bits above it say where the parent is.
const SAMPLED: u32 = 1;
const KNOWS_IF_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// `ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

/// `ExportTracePartialSuccess`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

/// `InstrumentationScope`.
#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(uint32, tag = "14")]
    dropped_links_count: u32,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(fixed32, tag = "6")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 3")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

/// Spans of this process, whose name among others like it is `instance`, as one request.
pub(super) fn encode(spans: Vec<Ended>, instance: &str) -> Vec<u8> {
    let attributes = [
        ("service.name", "roadstead"),
        ("service.version", VERSION),
        ("service.instance.id", instance),
    ];
    let attributes = attributes.map(|(key, value)| KeyValue::of(key, Value::from(value)));
    let request = Request {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: attributes.to_vec(),
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(Scope {
                    name: SCOPE.to_owned(),
                    version: VERSION.to_owned(),
                }),
                spans: spans.into_iter().map(Span::from).collect(),
            }],
        }],
    };
    request.encode_to_vec()
}

impl From<Ended> for Span {
    fn from(ended: Ended) -> Self {
        let Ended {
            context,
            parent,
            kind,
            start,
            took,
            facts,
        } = ended;
        let end = start.checked_add(took).unwrap_or(start);
        let attributes = facts.attributes.into_iter();
        let is_remote = parent.is_some_and(|parent| parent.is_remote);
        let status = facts.failure.map(|message| Status {
            message,
            code: ERROR,
        });
        Self {
            trace_id: context.trace_id().to_be_bytes().to_vec(),
            id: context.span_id().to_be_bytes().to_vec(),
            trace_state: context.state().unwrap_or_default().to_owned(),
            parent_span_id: parent.map_or_else(Vec::new, |it| it.span_id.to_be_bytes().to_vec()),
            name: facts.name.into_owned(),
            kind: kind_number(kind),
            start_time_unix_nano: nanoseconds(start),
            end_time_unix_nano: nanoseconds(end),
            attributes: attributes
                .map(|(key, value)| KeyValue::of(key, value))
                .collect(),
            links: facts.links.iter().map(Link::from).collect(),
            dropped_links_count: facts.links_dropped,
            status,
            flags: SAMPLED | KNOWS_IF_REMOTE | if is_remote { IS_REMOTE } else { 0 },
        }
    }
}

impl From<&Context> for Link {
    fn from(context: &Context) -> Self {
        Self {
            trace_id: context.trace_id().to_be_bytes().to_vec(),
            span_id: context.span_id().to_be_bytes().to_vec(),
            trace_state: context.state().unwrap_or_default().to_owned(),
            flags: SAMPLED | KNOWS_IF_REMOTE,
        }
    }
}

impl KeyValue {
    fn of(key: &str, value: Value) -> Self {
        let value = match value {
            Value::Text(text) => Any::Text(text.into_owned()),
            Value::Number(number) => Any::Number(number),
        };
        Self {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
        }
    }
}

/// `SpanKind`.
const fn kind_number(kind: SpanKind) -> i32 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since: Duration = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
