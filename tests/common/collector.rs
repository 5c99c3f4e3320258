//! An OpenTelemetry collector inside the test process: OTLP over HTTP, scripted, with an event to await.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::within;

/// The answer to an export.
#[derive(Clone, Debug)]
pub enum Reply {
    /// All is taken.
    Take,
    /// This status, with `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// None, ever.
    Hang,
    /// All but so many is taken.
    Reject(i64),
}

/// A span that was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty: it has none.
    pub parent: String,
    pub name: String,
    /// 1: internal, 2: server, 3: client.
    pub kind: i32,
    pub attributes: Vec<(String, Value)>,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
    pub is_error: bool,
    pub nanoseconds: u64,
    pub state: String,
    pub service: String,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(i64),
    Other,
}

impl Span {
    /// The text of an attribute; empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Value::Text(text)) => text,
            Some(Value::Number(_) | Value::Other) | None => "",
        }
    }

    /// The number of an attribute.
    pub fn number(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::Number(number) => Some(*number),
            Value::Text(_) | Value::Other => None,
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let mut values = self.attributes.iter().filter(|(name, _)| name == key);
        let value = values.next();
        assert!(values.next().is_none(), "{key} twice in {self:?}");
        value.map(|(_, value)| value)
    }

    /// `traceparent` of a request that this span is about.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

/// Everything that came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Spans that were taken.
    pub spans: Vec<Span>,
    /// The headers and the path of each request.
    pub requests: Vec<(HeaderMap, String)>,
}

impl Seen {
    /// The spans of a trace.
    pub fn of(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans.iter().filter(|span| span.trace == trace);
        spans.cloned().collect()
    }
}

struct Shared {
    reply: Mutex<Reply>,
    seen: watch::Sender<Seen>,
    /// Connections begin with a handshake.
    tls: Option<TlsAcceptor>,
}

/// A collector. Dropping it takes it off the network.
pub struct Collector {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    /// The port, while nobody listens on it.
    held: Mutex<Option<TcpSocket>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Collector {
    /// One that takes everything.
    pub fn start() -> Self {
        let collector = Self::down();
        collector.comes_up();
        collector
    }

    /// One that takes everything over HTTPS.
    pub fn secure(tls: TlsAcceptor) -> Self {
        let collector = Self::not_listening(Some(tls));
        collector.comes_up();
        collector
    }

    /// One that refuses connections.
    pub fn down() -> Self {
        Self::not_listening(None)
    }

    fn not_listening(tls: Option<TlsAcceptor>) -> Self {
        let (socket, address) = super::fake_registry::refused_port().unwrap();
        Self {
            address,
            shared: Arc::new(Shared {
                reply: Mutex::new(Reply::Take),
                seen: watch::Sender::new(Seen::default()),
                tls,
            }),
            held: Mutex::new(Some(socket)),
            accepting: Mutex::default(),
        }
    }

    /// It listens from now on.
    pub fn comes_up(&self) {
        let socket = self.held.lock().unwrap().take().expect("it is up");
        let listener = socket.listen(64).unwrap();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
        *self.accepting.lock().unwrap() = Some(accepting);
    }

    /// `http://host:port`, or `https://`
    pub fn url(&self) -> String {
        let scheme = self.shared.tls.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", self.address)
    }

    /// From now on exports are answered so.
    pub fn replies(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// Everything that has come so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Waits until `wanted` holds.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.shared.seen.subscribe();
        let there = within(what, seen.wait_for(wanted)).await;
        there.unwrap().clone()
    }

    /// Waits for the spans of a trace: so many.
    pub async fn spans_of(&self, trace: &str, count: usize) -> Vec<Span> {
        let what = format!("{count} spans of {trace}");
        let seen = self
            .wait_for(&what, |seen| seen.of(trace).len() >= count)
            .await;
        seen.of(trace)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(accepting) = &*self.accepting.lock().unwrap() {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            match shared.tls.clone() {
                None => serve(stream, &shared).await,
                Some(tls) => {
                    // A client may not trust this certificate.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, &shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let service = service_fn(|request| answer(shared, request));
    // A client that goes away is an error to hyper and none to us.
    let _ended: Result<(), hyper::Error> = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let reply = shared.reply.lock().unwrap().clone();
    let is_taken = matches!(reply, Reply::Take | Reply::Reject(_));
    let spans = read(&body);
    shared.seen.send_modify(|seen| {
        let path = head.uri.path().to_owned();
        seen.requests.push((head.headers.clone(), path));
        if is_taken {
            seen.spans.extend(spans);
        }
    });
    let mut response = Response::new(Full::default());
    match reply {
        Reply::Take => {}
        Reply::Status(status, after) => {
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Some(after) = after {
                response.headers_mut().insert("retry-after", after.into());
            }
        }
        Reply::Hang => std::future::pending().await,
        Reply::Reject(rejected_spans) => {
            let answer = proto::Response {
                partial_success: Some(proto::PartialSuccess { rejected_spans }),
            };
            *response.body_mut() = Full::new(answer.encode_to_vec().into());
        }
    }
    Ok(response)
}

fn read(body: &[u8]) -> Vec<Span> {
    let request = proto::Request::decode(body).expect("no OTLP");
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.expect("no resource");
        let mut names = resource.attributes.into_iter().map(attribute);
        let service = names.find(|(key, _)| key == "service.name");
        let Some((_, Value::Text(service))) = service else {
            panic!("no service.name")
        };
        for of_scope in of_resource.scope_spans {
            let read = of_scope
                .spans
                .into_iter()
                .map(|span| span_of(span, &service));
            spans.extend(read);
        }
    }
    spans
}

fn span_of(span: proto::Span, service: &str) -> Span {
    assert_eq!((span.trace_id.len(), span.id.len()), (16, 8));
    let took = span
        .end_time_unix_nano
        .checked_sub(span.start_time_unix_nano);
    let links = span.links.iter();
    Span {
        trace: hex(&span.trace_id),
        id: hex(&span.id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        kind: span.kind,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        links: links
            .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
            .collect(),
        is_error: span.status.is_some_and(|status| status.code == 2),
        nanoseconds: took.expect("it ends before it begins"),
        state: span.trace_state,
        service: service.to_owned(),
    }
}

fn attribute(pair: proto::KeyValue) -> (String, Value) {
    let value = match pair.value.and_then(|value| value.value) {
        Some(proto::Any::Text(text)) => Value::Text(text),
        Some(proto::Any::Number(number)) => Value::Number(number),
        None => Value::Other,
    };
    (pair.key, value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What these tests read of opentelemetry-proto.
mod proto {
    use prost::{Message, Oneof};

    #[derive(Clone, PartialEq, Message)]
    pub struct Request {
        #[prost(message, repeated, tag = "1")]
        pub resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct ResourceSpans {
        #[prost(message, optional, tag = "1")]
        pub resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub scope_spans: Vec<ScopeSpans>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub id: Vec<u8>,
        #[prost(string, tag = "3")]
        pub trace_state: String,
        #[prost(bytes = "vec", tag = "4")]
        pub parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub name: String,
        #[prost(int32, tag = "6")]
        pub kind: i32,
        #[prost(fixed64, tag = "7")]
        pub start_time_unix_nano: u64,
        #[prost(fixed64, tag = "8")]
        pub end_time_unix_nano: u64,
        #[prost(message, repeated, tag = "9")]
        pub attributes: Vec<KeyValue>,
        #[prost(message, repeated, tag = "13")]
        pub links: Vec<Link>,
        #[prost(message, optional, tag = "15")]
        pub status: Option<Status>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Link {
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub span_id: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Status {
        #[prost(int32, tag = "3")]
        pub code: i32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct KeyValue {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(message, optional, tag = "2")]
        pub value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct AnyValue {
        #[prost(oneof = "Any", tags = "1, 3")]
        pub value: Option<Any>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub enum Any {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(int64, tag = "3")]
        Number(i64),
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Response {
        #[prost(message, optional, tag = "1")]
        pub partial_success: Option<PartialSuccess>,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct PartialSuccess {
        #[prost(int64, tag = "1")]
        pub rejected_spans: i64,
    }
}
