//! Serving connections: hyper's settings, and the end of them all.

use crate::server::conn::h2_executor::{NewStreams, Streams};
use crate::server::conn::stall_guard::Watch;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The largest head of a request, and the most of a response that is buffered for a slow reader where nothing else
/// bounds it: a thousand of them must not cost more than some 100 MiB. Larger chunks go out as they are, uncopied.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// The most requests at once on one HTTP/2 connection. RFC 9113 section 6.5.2 recommends no less than
/// 100; an image with more layers than this waits a little.
const STREAMS_MAX: u32 = 128;

/// The largest head of an HTTP/2 request, decoded.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// The most streams of one HTTP/2 connection that may have been taken back, or ended for an error of the client's,
/// before it is closed: those that hyper has not seen yet (CVE-2023-44487), and those that were reset here. Those that
/// it has seen are counted by the watch.
const PENDING_RESETS_MAX: usize = 20;
const ERROR_RESETS_MAX: usize = 256;

/// Time between requests to an HTTP/2 client for a sign of life, and the longest time for its answer: one that is gone
/// without a word does not hold a blob until its body has stalled for long enough.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_WAIT_MAX: Duration = Duration::from_secs(20);

/// The tasks of one listener's connections.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Cancelled when the drain's time is over.
    kill: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    pub(crate) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            kill: CancellationToken::new(),
        }
    }

    /// Runs `task` until it ends or the drain is over. A panic in it ends it alone.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        // On the heap: an async block holds what it pins twice, and a connection's task is large.
        let mut task = Box::pin(task);
        self.tracker.spawn(async move {
            tokio::select! {
                () = kill.cancelled() => {}
                () = &mut task => {}
            }
        });
    }

    /// Waits for all tasks, at most `wait_max`; then drops what still runs, and says how many that were.
    pub(crate) async fn drain(&self, wait_max: Duration) -> usize {
        self.tracker.close();
        if tokio::time::timeout(wait_max, self.tracker.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        let dropped = self.tracker.len();
        self.kill.cancel();
        self.tracker.wait().await;
        dropped
    }

    /// Drops all tasks when the returned guard is dropped.
    pub(crate) fn kill_on_drop(&self) -> tokio_util::sync::DropGuard {
        self.kill.clone().drop_guard()
    }
}

/// For a stream that hyper flushes itself.
pub(crate) fn flushed(_: &mut Context<'_>) -> Poll<io::Result<()>> {
    Poll::Ready(Ok(()))
}

/// Speaks HTTP/1.1 or HTTP/2, whichever the client begins with, on `stream` until the client or
/// `stop` ends it; after `stop` the requests under way are still finished. `flush` comes whenever hyper has nothing
/// more to write for now.
pub(crate) async fn serve<T, S, B>(
    stop: CancellationToken,
    stream: T,
    flush: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
    watch: Arc<Watch>,
    service: S,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: http_body::Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut streams = Streams::default();
    let builder = builder(streams.executor(&watch));
    // The watch knows of each request, from its head to the last byte of the answer.
    let counts = Arc::clone(&watch);
    let service = service_fn(move |request: Request<Incoming>| {
        let running = counts.begin(request.version() == Version::HTTP_2);
        let answer = service.call(request);
        async move { Ok::<_, Infallible>(answer.await?.map(|body| running.answer(body))) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stopped = pin!(stop.cancelled().fuse());
    let mut is_leaving = false;
    let served = poll_fn(|context| {
        let leaves = !is_leaving && watch.is_to_leave();
        if leaves || (!stopped.is_terminated() && stopped.as_mut().poll(context).is_ready()) {
            is_leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        let served = streams.poll_with(context, |context| connection.as_mut().poll(context));
        if let Poll::Ready(Err(error)) = flush(context)
            && served.is_pending()
        {
            return Poll::Ready(Err(error.into()));
        }
        served
    });
    if let Err(error) = served.await {
        // Clients leave in the middle as a matter of course; the access log tells how far they got.
        tracing::debug!(client = %watch.peer(), error, "connection ended early");
    }
}

fn builder(streams: NewStreams) -> Builder<NewStreams> {
    let mut builder = Builder::new(streams);
    builder
        .http1()
        // The watch does it, without a timer for each request.
        .header_read_timeout(None)
        // At most 100 headers, which is hyper's own bound: one that is set costs an allocation a request.
        .max_buf_size(BUFFER_BYTES_MAX)
        .keep_alive(true)
        // A client that has closed its side is gone: no registry client half-closes.
        .half_close(false)
        // Chunks must not be copied into one buffer first.
        .writev(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_WAIT_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::body::{Body, Content};
    use crate::server::testing::{Server, exchange, metrics};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    fn hello() -> Response<Body> {
        let content = Content::Full(bytes::Bytes::from_static(b"hello"));
        Response::new(Body::new(content, exchange(&metrics())))
    }

    async fn read_to(client: &mut TcpStream, end: &[u8]) {
        let mut taken = Vec::new();
        while !taken.ends_with(end) {
            let read = client.read_buf(&mut taken).await.unwrap();
            assert_ne!(
                read,
                0,
                "closed after {:?}",
                String::from_utf8_lossy(&taken)
            );
        }
    }

    #[tokio::test]
    async fn stop_closes_idle_and_silent_connections_at_once() {
        let server = Server::bind().await;
        let mut idle = server.connect(hello).await;
        let mut silent = server.connect(hello).await;
        for _ in 0..2 {
            // Twice, so that it has been kept alive.
            idle.write_all(GET).await.unwrap();
            read_to(&mut idle, b"hello").await;
        }
        server.stop.cancel();
        assert_eq!(server.tasks.drain(Duration::from_secs(10)).await, 0);
        for client in [&mut idle, &mut silent] {
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn a_drain_that_takes_too_long_drops_what_still_runs() {
        let server = Server::bind().await;
        server.tasks.spawn(std::future::pending());
        server.tasks.spawn(std::future::ready(()));
        assert_eq!(server.tasks.drain(Duration::from_millis(20)).await, 1);
    }

    #[tokio::test]
    async fn a_panic_breaks_one_connection_only() {
        let server = Server::bind().await;
        let mut broken = server.connect(|| panic!("a bug, for the test")).await;
        broken.write_all(GET).await.unwrap();
        let mut answer = Vec::new();
        // Reset or closed, but no answer and no hang.
        drop(broken.read_to_end(&mut answer).await);
        assert!(answer.is_empty());

        let mut other = server.connect(hello).await;
        other.write_all(GET).await.unwrap();
        read_to(&mut other, b"hello").await;
    }
}
