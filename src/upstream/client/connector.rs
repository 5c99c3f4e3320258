//! The connector: a host's addresses, TCP, the proxy's handshake and TLS, all within one time limit.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::handshake::{self, Refusal, Target};
use super::proxy::{Proxies, Route, Server, host_and_port};
use super::{root_cause, timed_out};
use crate::upstream::FetchError;
use crate::upstream::deadline::Deadline;
use crate::upstream::tls::TlsConfigs;

/// Makes connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connector(Arc<Shared>);

struct Shared {
    tcp: HttpConnector,
    proxies: Arc<Proxies>,
    pinned: Option<Pinned>,
    tls: TlsConfigs,
    limit: Duration,
}

/// A host name whose addresses are configured.
pub(super) struct Pinned {
    pub(super) host: String,
    /// At least one.
    pub(super) addresses: Vec<IpAddr>,
}

impl Connector {
    /// A connector whose limit covers the name look-up, TCP, the proxy's handshake and TLS together.
    pub(super) fn new(
        proxies: Arc<Proxies>,
        pinned: Option<Pinned>,
        tls: TlsConfigs,
        limit: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new();
        // Nagle would hold back a request that follows another on the same connection.
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        // Shared out among a host's addresses, so that a dead first address leaves time for the next.
        tcp.set_connect_timeout(Some(limit));
        Self(Arc::new(Shared {
            tcp,
            proxies,
            pinned,
            tls,
            limit,
        }))
    }
}

/// A connector's error: a [`FetchError`] where it says all there is to say, or what some layer said.
type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Link;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Link, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let route = shared.proxies.route(&to);
            let connecting = shared.connect(&to, &route);
            let deadline = Deadline::after(shared.limit);
            deadline.run(awaited(&route), connecting).await?
        })
    }
}

/// What is waited for, for errors.
fn awaited(route: &Route) -> &'static str {
    match route {
        Route::Direct => "a connection",
        Route::Forward(_) | Route::Tunnel(_) | Route::Socks(..) => THROUGH_PROXY,
    }
}

impl Shared {
    async fn connect(&self, to: &Uri, route: &Route) -> Result<Link, BoxError> {
        let stream = self.reach(to, route).await?;
        if to.scheme() != Some(&Scheme::HTTPS) {
            return Ok(Link {
                stream: TokioIo::new(stream),
                forwarded: matches!(route, Route::Forward(_)),
                http2: false,
            });
        }
        let (host, port) = host_and_port(to);
        let config = self.tls.for_host(host, port);
        let stream = start_tls(config, host, stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Link {
            stream: TokioIo::new(Box::new(stream)),
            forwarded: false,
            http2,
        })
    }

    /// A connection to the destination, or to the proxy that forwards to it: TLS not yet begun.
    async fn reach(&self, to: &Uri, route: &Route) -> Result<BoxStream, BoxError> {
        if let Route::Forward(server) = route {
            return self.reach_proxy(server).await;
        }
        let targets = self.targets(to, route).await?;
        let deadline = Deadline::after(self.limit);
        let mut last = None;
        for (index, target) in targets.iter().enumerate() {
            // One that is silent leaves time for the next.
            let share = deadline.share(targets.len().saturating_sub(index));
            match share.run(awaited(route), self.attempt(target, route)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(Miss::Final(error))) => return Err(error),
                Ok(Err(Miss::Target(error))) => last = Some(error),
                Err(timeout) => last = Some(timeout.into()),
            }
        }
        Err(last.unwrap_or_else(|| FetchError::Connect("no address".to_owned()).into()))
    }

    /// What the destination's host stands for, in the order in which it is tried.
    async fn targets(&self, to: &Uri, route: &Route) -> Result<Vec<Target>, BoxError> {
        let (host, port) = host_and_port(to);
        let at = |host: String| Target { host, port };
        if let Some(pinned) = &self.pinned
            && pinned.host.eq_ignore_ascii_case(host)
        {
            let addresses = pinned.addresses.iter();
            return Ok(addresses.map(|address| at(address.to_string())).collect());
        }
        if let Route::Socks(_, false) = route {
            let found = tokio::net::lookup_host((host, port)).await?;
            let found = found.take(SOCKS_ADDRESSES_MAX);
            return Ok(found.map(|found| at(found.ip().to_string())).collect());
        }
        Ok(vec![at(host.to_owned())])
    }

    async fn attempt(&self, target: &Target, route: &Route) -> Result<BoxStream, Miss> {
        let (server, result, stream) = match route {
            Route::Direct | Route::Forward(_) => {
                let stream = self.dial(&target.to_string()).await;
                return stream.map_err(Miss::Target);
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
        let error = |why| FetchError::Connect(format!("{server} {why}")).into();
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
                FetchError::Timeout(THROUGH_PROXY).into()
            } else {
                FetchError::Connect(format!("{server}: {}", root_cause(error.as_ref()))).into()
            }
        };
        let address = format!("{}:{}", server.host, server.port);
        let stream = self.dial(&address).await.map_err(failed)?;
        if !server.is_tls() {
            return Ok(stream);
        }
        let host = server.host.trim_start_matches('[').trim_end_matches(']');
        let config = self.tls.for_proxy();
        let stream = start_tls(config, host, stream).await.map_err(failed)?;
        Ok(Box::new(stream))
    }

    /// TCP to `host:port`.
    async fn dial(&self, authority: &str) -> Result<BoxStream, BoxError> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(authority)
            .path_and_query("/")
            .build()?;
        let stream = self.tcp.clone().call(uri).await?;
        Ok(Box::new(stream.into_inner()))
    }
}

async fn start_tls(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: BoxStream,
) -> Result<tokio_rustls::client::TlsStream<BoxStream>, BoxError> {
    let name = ServerName::try_from(host.to_owned())?;
    let connector = TlsConnector::from(Arc::clone(config));
    Ok(connector.connect(name, stream).await?)
}

/// Why there is no connection to a target.
enum Miss {
    /// Another one may do.
    Target(BoxError),
    /// No other one is worth trying.
    Final(BoxError),
}

/// Bytes to and from somebody: TCP, or TLS over it, or TLS in TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
type BoxStream = Box<dyn Stream>;

/// A connection as hyper takes it.
pub(super) struct Link {
    stream: TokioIo<BoxStream>,
    /// A proxy at the other end forwards requests, and is told whole URLs.
    forwarded: bool,
    http2: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.forwarded);
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
/// Keeps the entry of an idle connection alive in address translators on the way.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// Addresses of one name that a SOCKS5 proxy is asked for, one after the other.
const SOCKS_ADDRESSES_MAX: usize = 4;
