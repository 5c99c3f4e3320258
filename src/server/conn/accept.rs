//! Taking connections.

use crate::server::conn::table::{Seat, Table};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The wait after an accept that failed for want of something (file descriptors, memory) when nobody can give it
/// up: at once again would spin, since the connection is still waiting to be accepted.
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(500);

/// The same when somebody has just given it up.
const FREED_WAIT: Duration = Duration::from_millis(5);

/// So many that found no place wait for one, and the others' connections are closed. They wait here and not in the
/// backlog, so that those of one address do not keep out another's.
const WAITING_MAX: usize = 256;

/// Time until those who wait try again: a connection that becomes idle says nothing.
const KNOCK_WAIT: Duration = Duration::from_millis(100);

/// Those who have knocked and found no place.
struct Waiting<'a> {
    table: &'a Arc<Table>,
    queue: VecDeque<(TcpStream, SocketAddr)>,
    is_buffered: bool,
    /// The length of the queue, as the table knows it.
    told: usize,
}

/// Hands every new connection to `serve`, until `stop` is cancelled; the listener is closed on return. While the gate is
/// false, connections stay in the listener's queue.
/// Past the table's bound new ones get a place that another gives up, or wait for one. `is_buffered`: whether they have
/// TLS.
pub(crate) async fn accept_until(
    stop: &CancellationToken,
    mut gate: watch::Receiver<bool>,
    listener: TcpListener,
    table: &Arc<Table>,
    is_buffered: bool,
    mut serve: impl FnMut(TcpStream, SocketAddr, Seat),
) {
    let accept_all = async {
        let mut waiting = Waiting {
            table,
            queue: VecDeque::new(),
            is_buffered,
            told: 0,
        };
        loop {
            let someone_waits = !waiting.queue.is_empty();
            let accept = || async {
                tokio::select! {
                    accepted = listener.accept() => Some(accepted),
                    () = table.freed(), if someone_waits => None,
                    () = tokio::time::sleep(KNOCK_WAIT), if someone_waits => None,
                }
            };
            let accepted = while_open(&mut gate, accept).await;
            match accepted {
                None => {}
                Some(Ok((stream, client))) => {
                    // Nagle's algorithm would delay the last part of each response.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%client, %error, "cannot set TCP_NODELAY");
                    }
                    // Behind those who wait: a place that has just become free is theirs.
                    waiting.queue.push_back((stream, client));
                }
                Some(Err(error)) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Some(Err(error)) => {
                    let freed = table.give_up_idle();
                    tracing::warn!(%error, freed, "cannot accept connections, waiting");
                    tokio::time::sleep(if freed { FREED_WAIT } else { ACCEPT_RETRY_WAIT }).await;
                }
            }
            waiting.serve(&mut serve);
        }
    };
    tokio::select! {
        () = accept_all => {}
        () = stop.cancelled() => {}
    }
}

/// Accepts while the gate is true.
pub(crate) async fn while_open<T, F: Future<Output = T>>(
    gate: &mut watch::Receiver<bool>,
    accept: impl Fn() -> F,
) -> T {
    loop {
        // Its sender is gone only with the server.
        drop(gate.wait_for(|is_open| *is_open).await);
        tokio::select! {
            biased;
            _ = gate.wait_for(|is_open| !*is_open) => {}
            accepted = accept() => return accepted,
        }
    }
}

impl Waiting<'_> {
    /// Serves those who get a place, the first one first; past the bound, one of those left is turned away.
    fn serve(&mut self, serve: &mut impl FnMut(TcpStream, SocketAddr, Seat)) {
        let mut at = 0;
        while let Some((_, client)) = self.queue.get(at) {
            let Some(seat) = self.table.admit(*client, self.is_buffered) else {
                at += 1;
                continue;
            };
            if let Some((stream, client)) = self.queue.remove(at) {
                serve(stream, client, seat);
            }
        }
        if self.queue.len() > WAITING_MAX {
            self.turn_away();
        }
        let waiting = self.queue.len();
        self.table
            .waiting(std::mem::replace(&mut self.told, waiting), waiting);
    }

    /// Closes a connection of the client that has most.
    fn turn_away(&mut self) {
        let mut most = 0;
        for at in 1..self.queue.len() {
            if let (Some((_, one)), Some((_, other))) = (self.queue.get(most), self.queue.get(at))
                && self.table.has_less(*one, *other)
            {
                most = at;
            }
        }
        self.queue.remove(most);
        self.table.turned_away();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.table.waiting(self.told, 0);
    }
}

/// True if an accept failed because of that one connection: the next may well succeed.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::conn::buffers::Buffers;
    use crate::server::conn::limits::Limits;
    use crate::server::testing;
    use crate::telemetry::Listener;
    use tokio::sync::mpsc;

    /// A place that was free for a moment went to whoever had just come, as often as to one that had waited for it.
    #[tokio::test]
    async fn those_who_wait_are_served_before_those_who_come() {
        let (limits, metrics) = (Limits::default(), testing::metrics());
        let table = Table::new(Listener::Client, 1, limits, metrics, Buffers::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, (served, mut all)) = (CancellationToken::new(), mpsc::unbounded_channel());
        let open = watch::Sender::new(true);
        let serve = |stream: TcpStream, client: SocketAddr, seat: Seat| {
            // One that works gives its place to nobody of its address.
            let running = seat.watch.begin(false);
            served.send((client, seat, running, stream)).unwrap();
        };
        let comes_and_goes = async {
            let mut waiting = TcpStream::connect(address).await.unwrap();
            let mut has = all.recv().await.unwrap();
            assert_eq!(has.0, waiting.local_addr().unwrap());
            for _ in 0..20 {
                waiting = TcpStream::connect(address).await.unwrap();
                while table.waiting.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                    tokio::task::yield_now().await;
                }
                drop(has);
                let late = TcpStream::connect(address).await.unwrap();
                has = all.recv().await.unwrap();
                assert_eq!(
                    has.0,
                    waiting.local_addr().unwrap(),
                    "not the one that waited"
                );
                drop(has);
                has = all.recv().await.unwrap();
                assert_eq!(has.0, late.local_addr().unwrap());
            }
        };
        tokio::select! {
            () = accept_until(&stop, open.subscribe(), listener, &table, false, serve) => panic!("it stopped"),
            () = comes_and_goes => {}
        }
    }
}
