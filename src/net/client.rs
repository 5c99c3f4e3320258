//! Connections: the hyper client, its pools, its limits, and what its errors mean.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT, VIA};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::causes::{causes, root_cause, timed_out};
use super::connector::{Connector, Pinned, Shared};
use super::deadline::Deadline;
use super::gate::{Errand, Gate};
use super::handshake;
use super::place::OwnListeners;
use super::proxy::{Proxies, Route, Server};
use super::repeat::{self, Pool, Suspicion};
use super::sends::Sends;
use super::tls::TlsConfigs;
use super::traced::Sending;
use super::{Error, OnBehalf, Peer, ProxyConfig};
use crate::oci::UpstreamName;
use crate::telemetry::{Kind, Metrics};

/// The client of one endpoint: its connections, counted in the metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpClient {
    /// The pool of lane 0, and those of the others.
    pool: Pool,
    more: Arc<[Pool]>,
    /// Another host's answers that no digest checks: their connections lead nowhere inside.
    unchecked: Pool,
    /// New connections, each for one request, as those of `pool` and of `unchecked`.
    fresh: Pool,
    fresh_unchecked: Pool,
    suspicion: Arc<Suspicion>,
    proxies: Arc<Proxies>,
    upstream: UpstreamName,
    metrics: Metrics,
}

/// The kind of connection that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the endpoint itself, or elsewhere for what its digest checks. Requests in different lanes do not
    /// share a connection.
    Lane(usize),
    /// To another host, for what nothing checks.
    Unchecked,
}

impl HttpClient {
    /// The client of an endpoint, connecting as that is configured. Dials nothing, and never `own`. Requests in
    /// different ones of `lanes` lanes never share a connection.
    ///
    /// # Errors
    /// One line naming the file or setting that cannot be used.
    pub(crate) fn new(
        upstream: UpstreamName,
        metrics: Metrics,
        endpoint: &Peer<'_>,
        connect_timeout: Duration,
        lanes: usize,
        own: OwnListeners,
    ) -> Result<Self, String> {
        let tls = TlsConfigs::new(endpoint)?;
        let host = endpoint.url.host_str().unwrap_or_default();
        let pinned = (!endpoint.resolve.is_empty()).then(|| Pinned {
            host: host.trim_matches(['[', ']']).to_owned(),
            addresses: endpoint.resolve.to_vec(),
        });
        let name = pinned.as_ref().map(|pinned| pinned.host.clone());
        let proxies = Arc::new(Proxies::new(endpoint.proxy, name)?);
        if endpoint.insecure_skip_verify {
            tracing::warn!(
                %upstream,
                endpoint = host,
                "insecure_skip_verify: any certificate is accepted, so anybody on the way can read \
                 the credentials and change what tags point at"
            );
        }
        let shared = Shared {
            proxies,
            pinned,
            tls,
            gate: Gate::new(endpoint, own),
            limit: connect_timeout,
        };
        let errands = [Errand::Content, Errand::Unchecked];
        Ok(Self::over(shared, errands, lanes, upstream, metrics))
    }

    /// A client for the APIs and metadata services of clouds: one lane, the system's roots, proxied as
    /// `proxy` says, but never on the way to this machine, to link-local addresses, or to a metadata service.
    ///
    /// # Errors
    /// One line naming the proxy that cannot be used.
    pub(crate) fn api(
        upstream: UpstreamName,
        metrics: Metrics,
        proxy: &ProxyConfig,
        connect_timeout: Duration,
        own: OwnListeners,
    ) -> Result<Self, String> {
        let shared = Shared {
            proxies: Arc::new(Proxies::for_apis(proxy)?),
            pinned: None,
            tls: TlsConfigs::system()?,
            gate: Gate::without_home(own),
            limit: connect_timeout,
        };
        let errands = [Errand::Configured, Errand::Configured];
        Ok(Self::over(shared, errands, 1, upstream, metrics))
    }

    fn over(
        shared: Shared,
        [usual, rest]: [Errand; 2],
        lanes: usize,
        upstream: UpstreamName,
        metrics: Metrics,
    ) -> Self {
        let shared = Arc::new(shared);
        let more = lanes.clamp(1, LANES_MAX) - 1;
        let window = lane_window(more);
        let pool =
            |errand, window, idle| pool(Connector::new(Arc::clone(&shared), errand), window, idle);
        Self {
            pool: pool(usual, HTTP2_CONNECTION_WINDOW_BYTES, POOL_IDLE_PER_HOST_MAX),
            more: (0..more)
                .map(|_| pool(usual, window, POOL_IDLE_PER_LANE_MAX))
                .collect(),
            unchecked: pool(rest, HTTP2_STREAM_WINDOW_BYTES, POOL_IDLE_PER_LANE_MAX),
            fresh: pool(usual, HTTP2_STREAM_WINDOW_BYTES, 0),
            fresh_unchecked: pool(rest, HTTP2_STREAM_WINDOW_BYTES, 0),
            suspicion: Arc::default(),
            proxies: Arc::clone(&shared.proxies),
            upstream,
            metrics,
        }
    }

    /// Sends one request that is no part of another, and waits for the head of its answer.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Timeout`], [`Error::Broken`],
    /// [`Error::Protocol`], [`Error::TooLarge`], [`Error::Inside`], [`Error::Ourselves`].
    pub(crate) async fn send(
        &self,
        kind: Kind,
        request: Request<Full<Bytes>>,
        deadline: Deadline,
        way: Way,
    ) -> Result<Response<Incoming>, Error> {
        let sends = Sends::new(ALONE_REQUESTS_MAX);
        self.send_from(&sends, kind, request, deadline, way).await
    }

    /// Sends one of the requests that `sends` has left, and waits for the head of its answer.
    ///
    /// # Errors
    /// As for [`HttpClient::send`]; [`Error::Protocol`] when none is left.
    pub(crate) async fn send_from(
        &self,
        sends: &Sends,
        kind: Kind,
        mut request: Request<Full<Bytes>>,
        deadline: Deadline,
        way: Way,
    ) -> Result<Response<Incoming>, Error> {
        if !sends.take() {
            return Err(Error::Protocol(
                "no end after as many requests as one may take".to_owned(),
            ));
        }
        let host = request.uri().host().unwrap_or_default().to_owned();
        let forwarder = match self.proxies.route(request.uri()) {
            Route::Forward(server) => Some(server),
            Route::Direct | Route::Tunnel(_) | Route::Socks(..) => None,
        };
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // An encoded body would neither have the digest nor the size that was asked for.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(via) = OnBehalf::via() {
            headers.insert(VIA, via);
        }
        if let Some(value) = forwarder.as_ref().and_then(|it| it.authorization.as_ref()) {
            headers.insert(PROXY_AUTHORIZATION, value.clone());
        }
        let span = Sending::begin(&mut request, kind, &self.upstream);
        let (kept, fresh) = match way {
            Way::Lane(lane) => (self.lane(lane), &self.fresh),
            Way::Unchecked => (&self.unchecked, &self.fresh_unchecked),
        };
        let metrics = self.metrics.upstreams();
        let upstream = self.upstream.as_str();
        let lost = || {
            metrics.request(upstream, kind, "lost");
            self.count_retry();
            span.repeats();
        };
        // Boxed: whatever waits for an upstream would be large.
        let sending = Box::pin(repeat::send(
            kept,
            fresh,
            &self.suspicion,
            request,
            sends,
            lost,
        ));
        let sent = deadline.run("the response header", sending).await;
        let mut result = match sent {
            Ok(Ok(response)) => let_through(&host, forwarder.as_deref(), response),
            Ok(Err(error)) => Err(meaning(&host, &error)),
            Err(timeout) => Err(timeout),
        };
        let status = match &result {
            Ok(response) => response.status().as_str().to_owned(),
            Err(error) => error.label().to_owned(),
        };
        metrics.request(upstream, kind, &status);
        span.ended(&mut result);
        result
    }

    fn lane(&self, lane: usize) -> &Pool {
        let lane = lane % (self.more.len() + 1);
        let other = lane.checked_sub(1).and_then(|index| self.more.get(index));
        other.unwrap_or(&self.pool)
    }

    /// The same request is asked again.
    pub(crate) fn count_retry(&self) {
        self.metrics.upstreams().retry(self.upstream.as_str());
    }

    /// The metrics that this client counts in.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The upstream that this client belongs to.
    pub(crate) fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpClient").field(&self.upstream).finish()
    }
}

fn pool(connector: Connector, window_bytes: u32, idle_max: usize) -> Pool {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(idle_max)
        .http1_max_buf_size(HTTP1_BUFFER_BYTES_MAX)
        .http1_max_headers(HTTP1_HEADERS_MAX)
        .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES.min(window_bytes))
        .http2_initial_connection_window_size(window_bytes)
        .http2_max_header_list_size(HTTP2_HEADER_BYTES_MAX)
        .http2_keep_alive_interval(HTTP2_PING_INTERVAL)
        .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .build(connector)
}

/// The window of a connection in each of so many lanes besides lane 0.
fn lane_window(lanes: usize) -> u32 {
    let lanes = u32::try_from(lanes.max(1)).unwrap_or(u32::MAX);
    (HTTP2_LANES_WINDOW_BYTES / lanes).min(HTTP2_LANE_WINDOW_BYTES_MAX)
}

/// An answer, unless it is the forwarding proxy's own that it does not know us (RFC 9110 section 15.5.8).
fn let_through(
    host: &str,
    forwarder: Option<&Server>,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, Error> {
    if header_bytes(response.headers()) > HEADER_BYTES_MAX {
        return Err(HEADER_TOO_LARGE);
    }
    match forwarder {
        Some(server) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            let advice = handshake::advice(server.authorization.is_some());
            Err(Error::Connect(format!(
                "{host}: {server} refused the request with status 407: {advice}"
            )))
        }
        Some(_) | None => Ok(response),
    }
}

/// As HTTP/2 counts a list of header fields (RFC 9113 section 6.5.2), but for its 32 bytes a field.
fn header_bytes(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    let sizes = fields.map(|(name, value)| name.as_str().len() + value.len() + 4);
    sizes.fold(0, usize::saturating_add)
}

/// Translates an error of hyper's. Hosts are named, URLs are not.
fn meaning(host: &str, error: &ClientError) -> Error {
    if error.is_connect() {
        let own = causes(error).find_map(|cause| cause.downcast_ref::<Error>());
        return if let Some(own @ (Error::Timeout(_) | Error::Inside(_) | Error::Ourselves(_))) = own
        {
            own.clone()
        } else if let Some(Error::Connect(why)) = own {
            Error::Connect(format!("{host}: {why}"))
        } else if timed_out(error) {
            Error::Timeout("a connection")
        } else {
            Error::Connect(format!("{host}: {}", root_cause(error)))
        };
    }
    match causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>()) {
        Some(inner) if inner.is_parse_too_large() => HEADER_TOO_LARGE,
        Some(_) if malformed_http2(error) => Error::Protocol(format!(
            "{host}: the response header is malformed, or larger than {HEADER_BYTES_MAX} bytes"
        )),
        Some(inner) if inner.is_parse() => {
            Error::Protocol(format!("{host}: {}", root_cause(error)))
        }
        Some(_) | None => Error::Broken(format!("{host}: {}", root_cause(error))),
    }
}

/// True if it was us who broke an HTTP/2 stream off for what came on it; of a header that is too large the
/// library says no more than that.
fn malformed_http2(error: &ClientError) -> bool {
    causes(error).any(|cause| {
        let cause = cause.downcast_ref::<h2::Error>();
        cause.is_some_and(|cause| {
            let malformed = cause.reason() == Some(h2::Reason::PROTOCOL_ERROR);
            cause.is_library() && (malformed || cause.is_go_away())
        })
    })
}

/// A request that is no part of another: once, and again for connections that were gone.
const ALONE_REQUESTS_MAX: u32 = 3;
/// The value of `User-Agent`.
const AGENT: &str = concat!("roadstead/", env!("CARGO_PKG_VERSION"));
/// Below the 60 to 75 s after which common servers and load balancers close idle connections.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Idle connections kept for one host: enough for a pull's layers, not a burden for a registry.
const POOL_IDLE_PER_HOST_MAX: usize = 32;
/// The same for the lanes after the first, which carry segments of big blobs alone.
const POOL_IDLE_PER_LANE_MAX: usize = 8;
/// More connections than this for one blob gain nothing; requests in lanes above share those below.
const LANES_MAX: usize = 32;
/// The most of a body, and of a head, that is read ahead (hyper's own default).
const HTTP1_BUFFER_BYTES_MAX: usize = 408 * 1024;
/// The largest head of a response. Signed redirects and tokens make some KiB; none comes near this.
const HEADER_BYTES_MAX: usize = 64 * 1024;
const HEADER_TOO_LARGE: Error = Error::TooLarge {
    what: "the response header",
    limit: HEADER_BYTES_MAX,
};
/// As many header fields as fit into that (`a: bcd` and its end are eight bytes): it is bytes that are bounded. The
/// parser makes room for all of them each time, so that it is no more.
const HTTP1_HEADERS_MAX: usize = HEADER_BYTES_MAX / 8;
/// A window bounds the rate at window / round trip: 4 MiB is 20 MB/s at 200 ms, for one blob.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Several blobs of a pull share the connection of lane 0. This much is held for a host when all who
/// read from it are slow, and [`HTTP2_LANES_WINDOW_BYTES`] in the other lanes.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Two segments at full rate in each lane after the first.
const HTTP2_LANE_WINDOW_BYTES_MAX: u32 = 2 * HTTP2_STREAM_WINDOW_BYTES;
/// All lanes after the first together, for one host, however many there are.
const HTTP2_LANES_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// HTTP/2 counts 32 bytes for each field besides its text (RFC 9113 section 6.5.2); what is text is bounded as
/// for HTTP/1.1.
const HTTP2_HEADER_BYTES_MAX: u32 = 4 * 64 * 1024;
/// Finds HTTP/2 connections that died silently, on which every new request would wait in vain.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(15);
/// The longest time that the answer to such a ping may take.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_lanes_there_are_their_windows_are_bounded_together() {
        assert_eq!(lane_window(0), HTTP2_LANE_WINDOW_BYTES_MAX);
        assert_eq!(lane_window(3), 8 * 1024 * 1024);
        for lanes in 1..LANES_MAX {
            let all = u64::from(lane_window(lanes)) * lanes as u64;
            assert!(all <= u64::from(HTTP2_LANES_WINDOW_BYTES), "{lanes}");
            assert!(lane_window(lanes) >= 1024 * 1024, "{lanes}");
        }
    }
}
