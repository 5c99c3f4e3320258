//! HTTP in: listeners, TLS, routing, bodies, the access log, the operator's listener.
//!
//! A connection is accepted, secured, counted and served by `conn`. Each request becomes an `http::context::Request` and
//! goes through `registry::handler`, which asks the mirror; what it says becomes a response in `registry::reply`, and
//! what it cannot say one in `http::error`. The bytes leave through `http::body`, which at its end, however that comes,
//! drops the request's `http::access_log::Exchange` and so writes its line. The operator's listener is `admin`.

use crate::access::Guard;
use crate::clock::Clock;
use crate::mirror::{Mirror, Windows};
use crate::server::http::access_log::Client;
use crate::server::http::context::Transport;
use crate::telemetry::{Listener, Metrics};
use ::http::Request;
use admin::Admin;
pub use admin::{AdminApi, PeopleApi};
use conn::buffers::Buffers;
use conn::client_stream::ClientStream;
use conn::connection::Tasks;
pub use conn::limits::Limits;
use conn::record_writer::RecordStream;
use conn::stall_guard::Watch;
use conn::table::{Seat, Table};
use conn::{accept, connection, deferred_flush, fd_limit, tls};
use hyper::body::Incoming;
use hyper::service::service_fn;
pub use registry::door::Asks;
use registry::door::{Door, Memory};
use registry::handler::Handler;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

mod admin;
mod conn;
mod http;
mod registry;
#[cfg(test)]
mod testing;

/// The most admin connections at once: a few scrapers and probes, which get in all the same when all are taken.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// The longest time that the admin listener's last answers may take once the drain is over.
const ADMIN_DRAIN_MAX: Duration = Duration::from_secs(1);

/// The listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address for clients.
    pub listen: SocketAddr,
    /// Metrics, health and the admin API.
    pub admin_listen: SocketAddr,
    /// What `listen` asks of its clients.
    pub asks: Asks,
    /// HTTPS; plain HTTP when absent.
    pub tls: Option<TlsConfig>,
    /// The longest time that running bodies may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Limits of connections.
    pub limits: Limits,
}

impl Config {
    /// The scheme of the URL at which clients reach `listen`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Reason why a server cannot start; one clear line each, naming the address or file and the cause.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The certificate or key cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
}

/// Bound listeners, not serving yet.
#[derive(Debug)]
pub struct Bound {
    clients: Endpoint,
    admin: Endpoint,
    tls: Option<Arc<rustls::ServerConfig>>,
    asks: Asks,
    drain_timeout: Duration,
    limits: Limits,
}

#[derive(Debug)]
struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl Endpoint {
    async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            io::Result::Ok(Self { listener, address })
        };
        bound
            .await
            .map_err(|source| BindError::Listen { address, source })
    }
}

impl Bound {
    /// Binds both listeners and reads the certificate. Raises the process's limit on open files, too.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        fd_limit::raise_limit();
        // The certificate first: nobody should connect to a listener that then goes away.
        let tls = config.tls.as_ref().map(tls::load).transpose()?;
        Ok(Self {
            clients: Endpoint::bind(config.listen).await?,
            admin: Endpoint::bind(config.admin_listen).await?,
            tls,
            asks: config.asks,
            drain_timeout: config.drain_timeout,
            limits: config.limits.clone(),
        })
    }

    /// The client listener's real address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.clients.address
    }

    /// The admin listener's real address.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Serves until `stop` is cancelled; then takes no new connection, lets running requests and bodies
    /// finish for `drain_timeout`, and returns. The admin listener answers until the very end.
    pub async fn serve(
        self,
        mirror: Mirror,
        metrics: Metrics,
        guard: Guard,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) {
        let buffers = Buffers::default();
        let wanted = self.limits.max_connections;
        let connections_max = fd_limit::connections_max(wanted, mirror.open_files_max());
        let table = |listener, connections_max| {
            let (limits, metrics) = (self.limits.clone(), metrics.clone());
            Table::new(listener, connections_max, limits, metrics, buffers.clone())
        };
        let clients = table(Listener::Client, connections_max);
        let operators = table(Listener::Admin, ADMIN_CONNECTIONS_MAX);
        let admin = Admin::new(mirror.clone(), &guard, metrics.clone(), stop.clone());
        let admin = Arc::new(admin);
        let door = Door::new(guard, self.asks, self.tls.is_some());
        let handler = Handler::new(mirror, metrics, buffers.clone(), door, &*clock);
        let handler = Arc::new(handler);
        let tls = self.tls.map(TlsAcceptor::from);
        let drained = CancellationToken::new();
        let serve_clients = async {
            let listener = self.clients.listener;
            serve_clients(listener, &clients, tls, handler, &stop, self.drain_timeout).await;
            drained.cancel();
        };
        let serve_admin = serve_admin(self.admin.listener, &operators, admin, &drained);
        let serve = async { tokio::join!(serve_clients, serve_admin) };
        tokio::select! {
            _served = serve => {}
            () = clients.keep_order() => {}
            () = operators.keep_order() => {}
        }
    }
}

async fn serve_clients(
    listener: TcpListener,
    table: &Arc<Table>,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    stop: &CancellationToken,
    drain_timeout: Duration,
) {
    let tasks = Tasks::new();
    let _killer = tasks.kill_on_drop();
    let is_buffered = tls.is_some();
    accept::accept_until(
        stop,
        listener,
        table,
        is_buffered,
        |stream, client, seat| {
            let stop = stop.clone();
            let (tls, handler) = (tls.clone(), Arc::clone(&handler));
            tasks.spawn(async move {
                let watch = Arc::clone(&seat.watch);
                let served = pin!(serve_client(stop, stream, client, &watch, tls, handler));
                watch.run(served).await;
                drop::<Seat>(seat);
            });
        },
    )
    .await;
    tracing::info!("draining: no new connections");
    match tasks.drain(drain_timeout).await {
        0 => tracing::info!("drained"),
        dropped => tracing::warn!(
            dropped,
            "connections were still busy at the end of the drain"
        ),
    }
}

async fn serve_client(
    stop: CancellationToken,
    stream: TcpStream,
    client: SocketAddr,
    watch: &Arc<Watch>,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
) {
    let windows = tls.is_none().then(Windows::default);
    // What all requests of this connection share, under one count of references, which is the connection's own.
    let client_of_all = Client::from(client);
    let shared = Arc::new((handler, client_of_all, Memory::default(), windows.clone()));
    let counts = Arc::clone(watch);
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        let must_wait = counts.must_wait();
        async move {
            let (handler, client, memory, windows) = &*shared;
            let (request, body) = request.into_parts();
            let transport = Transport::new(request.version, windows.clone());
            let answer =
                handler.answer(request, body, client.clone(), memory, transport, must_wait);
            Ok::<_, Infallible>(answer.await)
        }
    });
    let watch = Arc::clone(watch);
    let Some(tls) = tls else {
        let stream = ClientStream::plain(stream, Arc::clone(&watch), windows);
        return connection::serve(stop, stream, connection::flushed, watch, service).await;
    };
    // The watch knows how long a client may take for it. Nothing has been asked yet, so nothing is lost by a stop.
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = stop.cancelled() => return,
    };
    match accepted {
        Ok(stream) => {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
            let stream = ClientStream::new(RecordStream::new(stream), Arc::clone(&watch));
            let (stream, flusher) = deferred_flush::new(stream, is_http2);
            let flush = |context: &mut Context<'_>| flusher.poll_flush(context);
            connection::serve(stop, stream, flush, watch, service).await;
        }
        Err(error) => tracing::debug!(%client, %error, "TLS handshake failed"),
    }
}

async fn serve_admin(
    listener: TcpListener,
    table: &Arc<Table>,
    admin: Arc<Admin>,
    drained: &CancellationToken,
) {
    let tasks = Tasks::new();
    let _killer = tasks.kill_on_drop();
    accept::accept_until(drained, listener, table, false, |stream, client, seat| {
        let admin = Arc::clone(&admin);
        let service = service_fn(move |request: Request<Incoming>| {
            let admin = Arc::clone(&admin);
            async move { Ok::<_, Infallible>(admin.serve(request, client).await) }
        });
        let stop = drained.clone();
        tasks.spawn(async move {
            let watch = Arc::clone(&seat.watch);
            let stream = ClientStream::new(stream, Arc::clone(&watch));
            let flush = connection::flushed;
            let counts = Arc::clone(&watch);
            let served = pin!(connection::serve(stop, stream, flush, counts, service));
            watch.run(served).await;
            drop::<Seat>(seat);
        });
    })
    .await;
    tasks.drain(ADMIN_DRAIN_MAX).await;
}
