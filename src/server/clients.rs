//! Connections of clients, from the listener to their requests: PROXY head, TLS, HTTP.

use super::Endpoint;
use super::config::ListenerConfig;
use super::conn::client_stream::ClientStream;
use super::conn::connection::{self, Tasks};
use super::conn::record_writer::RecordStream;
use super::conn::stall_guard::Watch;
use super::conn::table::{Seat, Table};
use super::conn::tls::{self, Secured, Tls};
use super::conn::{accept, deferred_flush, proxy_protocol};
use super::http::access_log::Client;
use super::http::body::Body;
use super::http::context::Transport;
use super::http::forwarded::Proxies;
use super::leaving::Leaving;
use super::registry::arrival::Arrival;
use super::registry::door::{Asks, Door};
use super::registry::handler::Handler;
use crate::access::Principal;
use crate::mirror::Windows;
use crate::telemetry::{AuthMethod, AuthResult, Metrics};
use ::http::header::CONNECTION;
use ::http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Parts that all client listeners share.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) handler: Handler,
    pub(super) table: Arc<Table>,
    pub(super) proxies: Proxies,
    pub(super) metrics: Metrics,
    pub(super) leaving: Leaving,
}

/// A client listener.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) endpoint: Endpoint,
    pub(super) config: ListenerConfig,
    pub(super) tls: Option<Tls>,
    pub(super) door: Door,
}

/// The part of an entrance that its connections need.
#[derive(Clone, Debug)]
struct Way {
    door: Door,
    tls: Option<Tls>,
    has_proxy_head: bool,
}

/// Parts that all requests of a connection share, under one count of references, which is the connection's own.
struct Shared {
    front: Arc<Front>,
    arrival: Arrival,
    windows: Option<Windows>,
}

/// Takes connections at all listeners until `stop` is cancelled, and lets what runs finish for `drain_timeout`.
pub(super) async fn serve(
    entrances: Vec<Entrance>,
    front: &Arc<Front>,
    stop: &CancellationToken,
    drain_timeout: Duration,
) {
    let tasks = Tasks::new();
    let _killer = tasks.kill_on_drop();
    let listening = entrances
        .into_iter()
        .map(|entrance| entrance.accept(front, &tasks, stop));
    futures_util::future::join_all(listening).await;
    tracing::info!("draining: no new connections");
    match tasks.drain(front.leaving.finish_max(drain_timeout)).await {
        0 => tracing::info!("drained"),
        dropped => tracing::warn!(
            dropped,
            "connections were still busy at the end of the drain"
        ),
    }
}

impl Entrance {
    async fn accept(self, front: &Arc<Front>, tasks: &Tasks, stop: &CancellationToken) {
        tracing::info!(
            name = self.config.name,
            address = %self.endpoint.address,
            tls = self.config.tls,
            access = match self.config.asks {
                Asks::Nobody => "open",
                Asks::Everybody => "rules",
            },
            proxy_protocol = self.config.proxy_protocol,
            "listening for clients"
        );
        let way = Way {
            door: self.door,
            tls: self.tls,
            has_proxy_head: self.config.proxy_protocol,
        };
        let is_buffered = way.tls.is_some();
        let serve = |stream, peer, seat: Seat| {
            let (way, front, stop) = (way.clone(), Arc::clone(front), front.leaving.end());
            tasks.spawn(async move {
                let watch = Arc::clone(&seat.watch);
                let served = pin!(way.serve(front, stream, peer, &seat, stop));
                watch.run(served).await;
            });
        };
        accept::accept_until(
            stop,
            front.leaving.gate(),
            self.endpoint.listener,
            &front.table,
            is_buffered,
            serve,
        )
        .await;
    }
}

impl Way {
    async fn serve(
        self,
        front: Arc<Front>,
        mut stream: TcpStream,
        peer: SocketAddr,
        seat: &Seat,
        stop: CancellationToken,
    ) {
        let mut client = peer;
        if self.has_proxy_head {
            let told = tokio::select! {
                // Boxed, as what follows: a connection has room for one of them at a time, and most need neither.
                told = Box::pin(front.whose(&mut stream, peer)) => told,
                // A stop loses nothing: nothing has been asked yet.
                () = stop.cancelled() => return,
            };
            match told {
                Ok(source) => client = source,
                Err(error) => {
                    return tracing::debug!(%peer, %error, "a connection without a PROXY head is closed");
                }
            }
            seat.is_of(client);
        }
        let watch = &seat.watch;
        let Some(tls) = &self.tls else {
            return self.serve_plain(front, stream, client, watch, stop).await;
        };
        // The watch knows how long a client may take for it.
        let accepted = tokio::select! {
            accepted = tls.accept(stream) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(secured) => {
                let serving = self.serve_secured(front, secured, client, watch, stop);
                Box::pin(serving).await;
            }
            Err(error) => {
                front.count_refused(&error);
                tracing::debug!(%client, %error, "TLS handshake failed");
            }
        }
    }

    async fn serve_plain(
        &self,
        front: Arc<Front>,
        stream: TcpStream,
        client: SocketAddr,
        watch: &Arc<Watch>,
        stop: CancellationToken,
    ) {
        let windows = Some(Windows::default());
        let stream = ClientStream::plain(stream, Arc::clone(watch), windows.clone());
        let service = self.requests(front, client, None, windows, watch);
        connection::serve(
            stop,
            stream,
            connection::flushed,
            Arc::clone(watch),
            service,
        )
        .await;
    }

    async fn serve_secured(
        &self,
        front: Arc<Front>,
        secured: Secured,
        client: SocketAddr,
        watch: &Arc<Watch>,
        stop: CancellationToken,
    ) {
        let Secured {
            stream,
            who,
            outdated,
        } = secured;
        if who.is_some() {
            front
                .metrics
                .access()
                .authenticated(AuthMethod::Certificate, AuthResult::Accepted);
        }
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
        let stream = ClientStream::new(RecordStream::new(stream), Arc::clone(watch));
        let (stream, flusher) = deferred_flush::new(stream, is_http2);
        let flush = |context: &mut Context<'_>| flusher.poll_flush(context);
        let service = self.requests(front, client, who, None, watch);
        let ending = if outdated.is_some() {
            stop.child_token()
        } else {
            stop
        };
        let watched = Arc::clone(watch);
        let served = connection::serve(ending.clone(), stream, flush, watched, service);
        // The connection ends as at a drain: running requests are finished.
        let until_outdated = async {
            if let Some(outdated) = outdated {
                outdated.cancelled().await;
                ending.cancel();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = served => {}
            () = until_outdated => {}
        }
    }

    /// Answers the requests of a connection.
    fn requests(
        &self,
        front: Arc<Front>,
        client: SocketAddr,
        who: Option<Arc<Principal>>,
        windows: Option<Windows>,
        watch: &Arc<Watch>,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + use<> {
        let arrival = Arrival::new(self.door.clone(), Client::from(client), who, &front.proxies);
        let shared = Arc::new(Shared {
            front,
            arrival,
            windows,
        });
        let counts = Arc::clone(watch);
        service_fn(move |request: Request<Incoming>| {
            let shared = Arc::clone(&shared);
            let must_wait = counts.must_wait();
            async move {
                let (request, body) = request.into_parts();
                let is_http1 = request.version == Version::HTTP_11;
                let transport = Transport::new(request.version, shared.windows.clone());
                let handler = &shared.front.handler;
                let answer = handler.answer(request, body, &shared.arrival, transport, must_wait);
                let mut answer = answer.await;
                if is_http1 && shared.front.leaving.closes() {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(answer)
            }
        })
    }
}

impl Front {
    /// Reads the client of a connection from the head that its balancer sends.
    async fn whose(&self, stream: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
        if !self.proxies.trust(peer.ip()) {
            return Err(io::Error::other(
                "it comes from none of server.trusted_proxies",
            ));
        }
        Ok(proxy_protocol::take(stream).await?.unwrap_or(peer))
    }

    /// Counts a client whose certificate is not accepted, or that has none and must.
    fn count_refused(&self, error: &io::Error) {
        let cause = error
            .get_ref()
            .and_then(|it| it.downcast_ref::<rustls::Error>());
        let is_refused = matches!(
            cause,
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
        );
        if is_refused {
            self.metrics
                .access()
                .authenticated(AuthMethod::Certificate, AuthResult::Rejected);
        }
    }
}
