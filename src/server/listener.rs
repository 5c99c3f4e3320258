//! Taking connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How long to wait after an accept that failed for want of something (file descriptors, memory):
/// at once again would spin, since the connection is still waiting to be accepted.
const ACCEPT_RETRY_WAIT: Duration = Duration::from_millis(500);

/// Hands every new connection to `serve`, until `stop` is cancelled; the listener is closed on return.
/// Past `connections_max` open connections (each holds its permit), new ones wait in the
/// listener's backlog.
pub(super) async fn accept_until(
    stop: &CancellationToken,
    listener: TcpListener,
    connections_max: usize,
    mut serve: impl FnMut(TcpStream, SocketAddr, OwnedSemaphorePermit),
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    let accept_all = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return; // Nobody closes this semaphore.
            };
            match listener.accept().await {
                Ok((stream, client)) => {
                    // Nagle's algorithm would delay the last part of each response.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%client, %error, "cannot set TCP_NODELAY");
                    }
                    serve(stream, client, permit);
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections, waiting");
                    tokio::time::sleep(ACCEPT_RETRY_WAIT).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept_all => {}
        () = stop.cancelled() => {}
    }
}

/// Whether an accept failed because of that one connection: the next may well succeed.
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
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn connections_past_the_bound_wait_and_stop_closes_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (sender, mut accepted) = mpsc::unbounded_channel();
        let accepting = accept_until(&stop, listener, 1, move |stream, _, permit| {
            sender.send((stream, permit)).unwrap();
        });
        let clients = async {
            let _first = TcpStream::connect(address).await.unwrap();
            let _second = TcpStream::connect(address).await.unwrap();
            let one = accepted.recv().await.unwrap();
            let early = tokio::time::timeout(Duration::from_millis(50), accepted.recv()).await;
            assert!(
                early.is_err(),
                "the second must wait for the first's permit"
            );
            drop(one);
            drop(accepted.recv().await.unwrap());
            stop.cancel();
        };
        tokio::join!(accepting, clients);
        TcpStream::connect(address).await.unwrap_err();
    }
}
