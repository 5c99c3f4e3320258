//! The connector: a host's addresses, which of them may be dialled, TCP, the proxy's handshake and TLS, all
//! within one time limit.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::Error;
use super::causes::{root_cause, timed_out};
use super::deadline::Deadline;
use super::gate::{Errand, Gate};
use super::handshake::{self, Refusal, Target};
use super::proxy::{Proxies, Route, Server, host_and_port};
use super::race::race;
use super::repeat::Answered;
use super::tls::TlsConfigs;

/// Makes connections for one kind of errand. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
    errand: Errand,
}

/// State that the connectors of one client have in common.
pub(super) struct Shared {
    pub(super) proxies: Arc<Proxies>,
    pub(super) pinned: Option<Pinned>,
    pub(super) tls: TlsConfigs,
    pub(super) gate: Gate,
    /// Covers the name look-up, TCP, the proxy's handshake and TLS together.
    pub(super) limit: Duration,
}

/// A host name whose addresses are configured.
pub(super) struct Pinned {
    pub(super) host: String,
    /// At least one.
    pub(super) addresses: Vec<IpAddr>,
}

impl Connector {
    pub(super) fn new(shared: Arc<Shared>, errand: Errand) -> Self {
        Self { shared, errand }
    }
}

/// A connector's error: a [`Error`] where it says all there is to say, or what some layer said.
pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Link, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (shared, errand) = (Arc::clone(&self.shared), self.errand);
        Box::pin(async move {
            let route = shared.proxies.route(&to);
            let connecting = shared.connect(&to, &route, errand);
            let deadline = Deadline::after(shared.limit);
            deadline.run(awaited(&route), connecting).await?
        })
    }
}

/// The event that is waited for, for errors.
fn awaited(route: &Route) -> &'static str {
    match route {
        Route::Direct => "a connection",
        Route::Forward(_) | Route::Tunnel(_) | Route::Socks(..) => THROUGH_PROXY,
    }
}

impl Shared {
    async fn connect(&self, to: &Uri, route: &Route, errand: Errand) -> Result<Link, BoxError> {
        let (host, port) = host_and_port(to);
        if let Route::Forward(server) = route {
            self.gate.admit_unseen(errand, host, port)?;
            return Ok(Link {
                stream: TokioIo::new(self.reach_proxy(server).await?),
                forwarded: true,
                http2: false,
            });
        }
        let targets = self.targets(to, route, errand).await?;
        let https = to.scheme() == Some(&Scheme::HTTPS);
        let attempts = targets.iter().map(|target| async move {
            let stream = self.attempt(target, route).await?;
            let link = if https {
                let config = self.tls.for_host(host, port);
                let stream = start_tls(config, host, stream).await;
                Link::over_tls(stream.map_err(Miss::Target)?)
            } else {
                Link::plain(stream)
            };
            if let Some(address) = target.address() {
                self.gate.reached(host, port, address);
            }
            Ok(link)
        });
        // The limit is over everything: one that is silent takes no time from the next.
        match race(attempts).await {
            Ok(link) => Ok(link),
            Err(Some(Miss::Target(error) | Miss::Final(error))) => Err(error),
            Err(None) => Err(Error::Connect("no address".to_owned()).into()),
        }
    }

    /// Addresses of the destination's host that may be dialled, in the order in which it is tried.
    async fn targets(
        &self,
        to: &Uri,
        route: &Route,
        errand: Errand,
    ) -> Result<Vec<Target>, BoxError> {
        let (host, port) = host_and_port(to);
        let addresses = match (&self.pinned, route) {
            (Some(pinned), _) if pinned.host.eq_ignore_ascii_case(host) => pinned.addresses.clone(),
            (_, Route::Direct | Route::Socks(_, false)) => look_up(host, port).await?,
            // The proxy looks names up.
            (_, Route::Tunnel(_) | Route::Socks(_, true) | Route::Forward(_)) => {
                self.gate.admit_unseen(errand, host, port)?;
                let host = host.to_owned();
                return Ok(vec![Target { host, port }]);
            }
        };
        let (mut targets, mut refused) = (Vec::new(), None);
        for address in addresses {
            match self.gate.admit(errand, host, port, address) {
                Ok(()) => targets.push(Target {
                    host: address.to_string(),
                    port,
                }),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        match (targets.is_empty(), refused) {
            (true, Some(refused)) => Err(refused.into()),
            _ => Ok(targets),
        }
    }

    /// A connection to a target, TLS not yet begun.
    async fn attempt(&self, target: &Target, route: &Route) -> Result<BoxStream, Miss> {
        let (server, result, stream) = match route {
            Route::Direct | Route::Forward(_) => {
                let address = target.address().ok_or_else(no_address)?;
                let stream = dial(SocketAddr::new(address, target.port)).await;
                return stream.map_err(|error| Miss::Target(error.into()));
            }
            Route::Tunnel(server) => {
                let mut stream = self.reach_proxy(server).await.map_err(Miss::Final)?;
                let authorization = server.authorization.as_ref();
                let result = handshake::http_connect(&mut stream, target, authorization).await;
                (server, result, stream)
            }
            Route::Socks(server, _) => {
                let mut stream = self.reach_proxy(server).await.map_err(Miss::Final)?;
                let credentials = server.credentials.as_ref();
                let result = handshake::socks5(&mut stream, target, credentials).await;
                (server, result, stream)
            }
        };
        let error = |why| Error::Connect(format!("{server} {why}")).into();
        match result {
            Ok(()) => Ok(stream),
            Err(Refusal::Target(why)) => Err(Miss::Target(error(why))),
            Err(Refusal::Proxy(why)) => Err(Miss::Final(error(why))),
        }
    }

    /// A connection to a proxy, TLS included where it wants that.
    async fn reach_proxy(&self, server: &Server) -> Result<BoxStream, BoxError> {
        let failed = |error: BoxError| -> BoxError {
            if timed_out(error.as_ref()) {
                Error::Timeout(THROUGH_PROXY).into()
            } else {
                Error::Connect(format!("{server}: {}", root_cause(error.as_ref()))).into()
            }
        };
        let host = server.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = look_up(host, server.port).await;
        let addresses = addresses.map_err(|error| failed(error.into()))?;
        let dialling = addresses.into_iter().map(|address| async move {
            let stream = dial(SocketAddr::new(address, server.port)).await;
            stream.map_err(|error| Miss::Target(error.into()))
        });
        let stream = match race(dialling).await {
            Ok(stream) => stream,
            Err(Some(Miss::Target(error) | Miss::Final(error))) => return Err(failed(error)),
            Err(None) => return Err(failed(Error::Connect("no address".to_owned()).into())),
        };
        if !server.is_tls() {
            return Ok(stream);
        }
        let config = self.tls.for_proxy();
        let stream = start_tls(config, host, stream).await.map_err(failed)?;
        Ok(Box::new(stream))
    }
}

/// The addresses of a host (a name, or an address without brackets), a bounded number of them, both families in
/// turn (RFC 8305 section 4).
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let first = found.first().is_some_and(SocketAddr::is_ipv4);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for address in found {
        let same = address.is_ipv4() == first;
        let list = if same { &mut one } else { &mut other };
        if !list.contains(&address.ip()) {
            list.push(address.ip());
        }
    }
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    while turns.len() < ADDRESSES_MAX {
        let (next, after) = (one.next(), other.next());
        if next.is_none() && after.is_none() {
            break;
        }
        turns.extend(next.into_iter().chain(after));
    }
    Ok(turns)
}

/// TCP to an address.
pub(super) async fn dial(address: SocketAddr) -> io::Result<BoxStream> {
    let stream = TcpStream::connect(address).await?;
    // Nagle would hold back a request that follows another on the same connection.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(Box::new(stream))
}

pub(super) async fn start_tls(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: BoxStream,
) -> Result<tokio_rustls::client::TlsStream<BoxStream>, BoxError> {
    let name = ServerName::try_from(host.to_owned())?;
    let connector = TlsConnector::from(Arc::clone(config));
    Ok(connector.connect(name, stream).await?)
}

/// Reason why there is no connection to a target.
pub(super) enum Miss {
    /// Another one may do.
    Target(BoxError),
    /// No other one is worth trying.
    Final(BoxError),
}

fn no_address() -> Miss {
    Miss::Target(Error::Connect("no address".to_owned()).into())
}

/// Bytes to and from somebody: TCP, or TLS over it, or TLS in TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
pub(crate) type BoxStream = Box<dyn Stream>;

/// A connection as hyper takes it.
pub(super) struct Link {
    stream: TokioIo<BoxStream>,
    /// A proxy at the other end forwards requests, and is told whole URLs.
    forwarded: bool,
    http2: bool,
}

impl Link {
    fn plain(stream: BoxStream) -> Self {
        Self {
            stream: TokioIo::new(stream),
            forwarded: false,
            http2: false,
        }
    }

    fn over_tls(stream: tokio_rustls::client::TlsStream<BoxStream>) -> Self {
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Self {
            http2,
            ..Self::plain(Box::new(stream))
        }
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        let connected = Connected::new()
            .proxy(self.forwarded)
            .extra(Answered::default());
        if self.http2 {
            connected.negotiated_h2()
        } else {
            connected
        }
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }
}

const THROUGH_PROXY: &str = "a connection through the proxy";
/// Keeps the entry of an idle connection alive in address translators on the way, and finds out when it is gone.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A request that nobody acknowledges for so long goes nowhere.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried; the largest services have a dozen.
const ADDRESSES_MAX: usize = 16;
