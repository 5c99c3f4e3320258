//! Connections of operators, their tools and probes: the admin listener.

use super::admin::{Admin, Caller};
use super::conn::accept;
use super::conn::client_stream::{ClientStream, Socket};
use super::conn::connection::{self, Tasks};
use super::conn::record_writer::RecordStream;
use super::conn::stall_guard::Watch;
use super::conn::table::{Seat, Table};
use super::conn::tls::Tls;
use super::leaving::Leaving;
use super::unix;
use ::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;

/// The longest time that the admin listener's last answers may take once the drain is over.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// The wait after an accept that failed, so that it does not spin.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// The address that clients of the Unix socket count for.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The admin listener's parts.
#[derive(Debug)]
pub(super) struct Operators {
    pub(super) admin: Arc<Admin>,
    pub(super) tls: Option<Tls>,
    pub(super) table: Arc<Table>,
    pub(super) leaving: Leaving,
}

impl Operators {
    /// Takes connections until `drained` is cancelled.
    pub(super) async fn serve(
        &self,
        listener: TcpListener,
        socket: Option<UnixListener>,
        drained: &CancellationToken,
    ) {
        let tasks = Tasks::new();
        let _killer = tasks.kill_on_drop();
        let is_buffered = self.tls.is_some();
        let (admin, stop) = (Arc::clone(&self.admin), drained.clone());
        // A task of its own: rendering holds up no connection.
        tasks.spawn(async move {
            stop.run_until_cancelled(admin.keep_pages()).await;
        });
        let serve = |stream: TcpStream, peer, seat: Seat| {
            let (tls, admin, stop) = (self.tls.clone(), Arc::clone(&self.admin), drained.clone());
            tasks.spawn(async move {
                let watch = Arc::clone(&seat.watch);
                let served = pin!(secure(tls, stream, &watch, (admin, peer), stop));
                watch.run(served).await;
                drop::<Seat>(seat);
            });
        };
        let gate = self.leaving.gate();
        let accept = accept::accept_until(drained, gate, listener, &self.table, is_buffered, serve);
        let accept_unix = async {
            if let Some(socket) = socket {
                self.accept_unix(&socket, &tasks, drained).await;
            }
        };
        tokio::join!(accept, accept_unix);
        tokio::join!(tasks.drain(DRAIN_MAX), self.admin.end(DRAIN_MAX));
    }
}

impl Operators {
    async fn accept_unix(&self, socket: &UnixListener, tasks: &Tasks, drained: &CancellationToken) {
        let mut gate = self.leaving.gate();
        loop {
            let accepted = tokio::select! {
                biased;
                () = drained.cancelled() => return,
                accepted = accept::while_open(&mut gate, || socket.accept()) => accepted,
            };
            let stream = match accepted {
                Ok((stream, _unnamed)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections at server.admin_socket, waiting");
                    tokio::time::sleep(RETRY_WAIT).await;
                    continue;
                }
            };
            if !unix::is_operator(&stream) {
                tracing::debug!(
                    "a connection at server.admin_socket is neither root's nor of this user, and is closed"
                );
                continue;
            }
            let Some(seat) = self.table.admit(HERE, false) else {
                continue;
            };
            let (admin, stop) = (Arc::clone(&self.admin), drained.clone());
            tasks.spawn(async move {
                let watch = Arc::clone(&seat.watch);
                let served = pin!(answer(stream, &watch, (admin, Caller::Here), stop));
                watch.run(served).await;
                drop::<Seat>(seat);
            });
        }
    }
}

async fn secure(
    tls: Option<Tls>,
    stream: TcpStream,
    watch: &Arc<Watch>,
    (admin, peer): (Arc<Admin>, SocketAddr),
    stop: CancellationToken,
) {
    let Some(tls) = tls else {
        let caller = Caller::At(peer, None);
        return answer(stream, watch, (admin, caller), stop).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = stop.cancelled() => return,
    };
    match accepted {
        Ok(secured) => {
            let caller = Caller::At(peer, secured.who);
            let stream = RecordStream::new(secured.stream);
            answer(stream, watch, (admin, caller), stop).await;
        }
        Err(error) => tracing::debug!(
            client = %watch.peer(), %error, "TLS handshake at the admin listener failed"
        ),
    }
}

async fn answer<S: Socket + Send + 'static>(
    stream: S,
    watch: &Arc<Watch>,
    (admin, caller): (Arc<Admin>, Caller),
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (admin, caller) = (Arc::clone(&admin), caller.clone());
        async move { Ok::<_, Infallible>(admin.serve(request, caller).await) }
    });
    let stream = ClientStream::new(stream, Arc::clone(watch));
    connection::serve(
        stop,
        stream,
        connection::flushed,
        Arc::clone(watch),
        service,
    )
    .await;
}
