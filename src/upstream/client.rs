//! Connections: the hyper client, its pools, its limits, and what its errors mean.

use std::error::Error as StdError;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderValue, USER_AGENT, VIA};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, Error as ClientError, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use super::deadline::Deadline;
use super::{EndpointConfig, FetchError, Via, tls};
use crate::oci::UpstreamName;
use crate::telemetry::{Kind, Metrics};

/// The client of one endpoint: a pool of connections, counted in the metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    pool: Client<TimedConnector, Full<Bytes>>,
    upstream: UpstreamName,
    metrics: Metrics,
}

impl HttpClient {
    /// The client of an endpoint, connecting as that is configured. Dials nothing.
    ///
    /// # Errors
    /// One line naming the file or setting that cannot be used.
    pub(super) fn new(
        upstream: UpstreamName,
        metrics: Metrics,
        endpoint: &EndpointConfig,
        connect_timeout: Duration,
        _lanes: usize,
    ) -> Result<Self, String> {
        let connector = connector(endpoint.ca_file.as_deref(), connect_timeout)?;
        let pool = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
            .http1_max_buf_size(HTTP1_BUFFER_BYTES_MAX)
            .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(HTTP2_HEADER_BYTES_MAX)
            .http2_keep_alive_interval(HTTP2_PING_INTERVAL)
            .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT)
            .build(connector);
        Ok(Self {
            pool,
            upstream,
            metrics,
        })
    }

    /// Sends one request and waits for the head of its answer.
    ///
    /// # Errors
    /// [`FetchError::Connect`], [`FetchError::Timeout`], [`FetchError::Broken`],
    /// [`FetchError::Protocol`], [`FetchError::TooLarge`].
    pub(super) async fn send(
        &self,
        kind: Kind,
        mut request: Request<Full<Bytes>>,
        deadline: Deadline,
        _lane: usize,
    ) -> Result<Response<Incoming>, FetchError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // An encoded body would neither have the digest nor the size that was asked for.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(via) = Via::current() {
            headers.insert(VIA, via);
        }
        let sent = deadline
            .run("the response header", self.pool.request(request))
            .await;
        let result = sent.and_then(|sent| sent.map_err(|error| meaning(&host, &error)));
        let status = match &result {
            Ok(response) => response.status().as_str().to_owned(),
            Err(error) => label(error).to_owned(),
        };
        self.metrics
            .upstream_request(self.upstream.as_str(), kind, &status);
        result
    }

    /// The metrics that this client counts in.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The upstream that this client belongs to.
    pub(super) fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }
}

fn connector(ca_file: Option<&Path>, connect_timeout: Duration) -> Result<TimedConnector, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // Nagle would hold back a request that follows another on the same connection.
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    // Shared out among a host's addresses, so that a dead first address leaves time for the next.
    tcp.set_connect_timeout(Some(connect_timeout));
    let inner = HttpsConnectorBuilder::new()
        .with_tls_config(tls::config(ca_file)?)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp);
    Ok(TimedConnector {
        inner,
        limit: connect_timeout,
    })
}

/// A connector whose limit covers the name look-up, TCP and TLS together.
#[derive(Clone)]
struct TimedConnector {
    inner: HttpsConnector<HttpConnector>,
    limit: Duration,
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Connection = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;

impl Service<Uri> for TimedConnector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.inner.call(to);
        let limit = self.limit;
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(result) => result,
                Err(_elapsed) => Err(ConnectTimeout.into()),
            }
        })
    }
}

/// The connector's limit has passed.
#[derive(Debug, thiserror::Error)]
#[error("no connection in time")]
struct ConnectTimeout;

/// What an error of hyper's means. Hosts are named, URLs are not.
fn meaning(host: &str, error: &ClientError) -> FetchError {
    let causes = || causes(error);
    if error.is_connect() {
        let timed_out = causes().any(|cause| {
            cause.is::<ConnectTimeout>()
                || cause
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut)
        });
        return if timed_out {
            FetchError::Timeout("a connection")
        } else {
            FetchError::Connect(format!("{host}: {}", root_cause(error)))
        };
    }
    match causes().find_map(|cause| cause.downcast_ref::<hyper::Error>()) {
        Some(inner) if inner.is_parse_too_large() => FetchError::TooLarge {
            what: "the response header",
            limit: HTTP1_BUFFER_BYTES_MAX,
        },
        Some(inner) if inner.is_parse() => {
            FetchError::Protocol(format!("{host}: {}", root_cause(error)))
        }
        Some(_) | None => FetchError::Broken(format!("{host}: {}", root_cause(error))),
    }
}

/// The text of the innermost cause: the outer ones say little more than "client error".
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// An error and what it was caused by, outermost first.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}

/// The `status` label of a request that got no answer.
fn label(error: &FetchError) -> &'static str {
    match error {
        FetchError::Timeout(_) => "timeout",
        FetchError::Connect(_) => "connect",
        FetchError::NotFound { .. }
        | FetchError::Unauthorized
        | FetchError::Denied
        | FetchError::RateLimited { .. }
        | FetchError::RangeNotSatisfiable
        | FetchError::Status(_)
        | FetchError::Broken(_)
        | FetchError::TooLarge { .. }
        | FetchError::Protocol(_)
        | FetchError::Loop(_)
        | FetchError::Login(_)
        | FetchError::Busy
        | FetchError::Token(_) => "error",
    }
}

/// What roadstead calls itself.
const AGENT: &str = concat!("roadstead/", env!("CARGO_PKG_VERSION"));
/// Below the 60 to 75 s after which common servers and load balancers close idle connections.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Idle connections kept for one host: enough for a pull's layers, not a burden for a registry.
const POOL_IDLE_PER_HOST_MAX: usize = 32;
/// Keeps the entry of an idle connection alive in address translators on the way.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// The largest response head, and the most of a body that is read ahead (hyper's own default).
const HTTP1_BUFFER_BYTES_MAX: usize = 408 * 1024;
/// A window bounds the rate at window / round trip: 4 MiB is 20 MB/s at 200 ms, for one blob.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Several blobs of a pull share one connection.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Signed redirects and tokens make heads of several KiB; none comes near this.
const HTTP2_HEADER_BYTES_MAX: u32 = 64 * 1024;
/// Finds HTTP/2 connections that died silently, on which every new request would wait in vain.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long the answer to such a ping may take.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
