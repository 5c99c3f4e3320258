//! Connections that are gone when the next request comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::tls::Authority;
use super::*;

/// The end of a connection, once `Old::age` has been called.
#[derive(Clone, Copy)]
enum End {
    /// It is closed when the next request comes.
    Closed,
    /// The same with a reset.
    Reset,
    /// 408, which servers say to connections that they close for having been idle.
    Late,
    /// Requests are taken, and nothing comes back.
    Silent,
}

/// A server of HTTP/1.1 whose connections can be made to be gone.
struct Old {
    address: SocketAddr,
    /// Connections up to this number are gone.
    gone: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Old {
    /// `together`: so many requests come first, each on a connection of its own.
    async fn start(end: End, together: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gone, connections) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let (dead, count) = (Arc::clone(&gone), Arc::clone(&connections));
        let barrier = Arc::new(Barrier::new(together));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _peer) = listener.accept().await.unwrap();
                let number = AtomicUsize::fetch_add(&count, 1, Ordering::SeqCst) + 1;
                let (dead, barrier) = (Arc::clone(&dead), Arc::clone(&barrier));
                running.spawn(async move {
                    let first = (number <= together).then_some(barrier);
                    serve_old(stream, end, first, || number <= dead.load(Ordering::SeqCst)).await;
                });
            }
        });
        Self {
            address,
            gone,
            connections,
            _task: task,
        }
    }

    /// All connections that there are now are gone.
    fn age(&self) {
        let now = self.connections.load(Ordering::SeqCst);
        self.gone.store(now, Ordering::SeqCst);
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve_old(
    mut stream: TcpStream,
    end: End,
    mut first: Option<Arc<Barrier>>,
    gone: impl Fn() -> bool,
) {
    while read_head(&mut stream).await.is_some() {
        if let Some(barrier) = first.take() {
            barrier.wait().await;
        }
        if gone() {
            match end {
                End::Closed => return,
                End::Reset => {
                    socket2::SockRef::from(&stream)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                    return;
                }
                End::Late => {
                    let late = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _gone = stream.write_all(late).await;
                    return;
                }
                End::Silent => std::future::pending().await,
            }
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(())
}

async fn pulls(upstream: &Upstream, count: usize) -> Vec<Result<ManifestFetch, FetchError>> {
    join_all((0..count).map(|number| pull_of(upstream, number, Patience::Now))).await
}

/// Requests for manifests that came to this.
fn requests(metrics: &Metrics, status: &str) -> u64 {
    let series = format!(
        "roadstead_upstream_requests_total{{kind=\"manifest\",status=\"{status}\",upstream=\"{NAME}\"}} "
    );
    let text = metrics.render();
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap().parse().unwrap()
}

#[track_caller]
fn assert_all(results: &[Result<ManifestFetch, FetchError>]) {
    let failed: Vec<_> = results
        .iter()
        .filter_map(|one| one.as_ref().err())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {:?}",
        failed.len(),
        results.len(),
        failed[0]
    );
}

#[tokio::test]
async fn connections_that_are_gone_fail_no_request_and_are_no_failure() {
    for end in [End::Closed, End::Reset, End::Late] {
        let server = Old::start(end, 12).await;
        let (upstream, metrics) = quick(&config(&[&server.url()]), Timings::default());
        assert_all(&pulls(&upstream, 12).await);
        assert_eq!(server.connections.load(Ordering::SeqCst), 12);
        server.age();
        assert_all(&pulls(&upstream, 12).await);
        assert_eq!(
            (requests(&metrics, "lost"), requests(&metrics, "error")),
            (12, 0)
        );
        assert_all(&pulls(&upstream, 12).await);
    }
}

#[tokio::test]
async fn a_connection_that_is_gone_in_silence_does_not_cost_the_time_of_the_request() {
    let server = Old::start(End::Silent, 12).await;
    let upstream = simple(&server.url());
    assert_all(&pulls(&upstream, 12).await);
    server.age();
    let began = Instant::now();
    // One after the other: each of them meets one that is gone.
    for number in 0..12 {
        pull_of(&upstream, number, Patience::Now).await.unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_server_that_only_takes_its_time_is_asked_once_on_a_new_connection() {
    let server = server::Server::start(|_| server::Reply::Hang).await;
    let mut config = config(&[&server.url()]);
    config.header_timeout = Duration::from_secs(2);
    pull(&upstream(&config), Patience::Now).await.unwrap_err();
    assert_eq!(server.seen().len(), 1);
}

/// The behaviour of a server of HTTP/2 after so many requests of a connection.
#[derive(Clone, Copy)]
enum Limit {
    /// GOAWAY, naming the last one; what comes after it is ignored (nginx's `keepalive_requests`).
    GoAway(usize),
    /// The others are reset with `REFUSED_STREAM`.
    Refuse(usize),
}

async fn limited(limit: Limit) -> (SocketAddr, Authority, Arc<AtomicUsize>, JoinSet<()>) {
    let authority = Authority::new();
    let acceptor = authority.acceptor("127.0.0.1", &[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut running = JoinSet::new();
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            running.spawn(async move {
                let _closed = serve_http2(acceptor, stream, limit, &count).await;
            });
        }
    });
    (address, authority, answered, task)
}

/// The frames of RFC 9113 that this takes, written out.
async fn serve_http2(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    limit: Limit,
    answered: &AtomicUsize,
) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let mut stream = acceptor.accept(stream).await?;
    stream.read_exact(&mut [0; 24]).await?;
    frame(&mut stream, SETTINGS, 0, 0, &[]).await?;
    let mut requests = 0;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes(id);
        if kind == SETTINGS && flags == 0 {
            frame(&mut stream, SETTINGS, 1, 0, &[]).await?;
        }
        if kind != HEADERS {
            continue;
        }
        requests += 1;
        let (Limit::GoAway(most) | Limit::Refuse(most)) = limit;
        if requests <= most {
            // `:status 200` is entry 8 of HPACK's static table.
            frame(&mut stream, HEADERS, 4, id, &[0x88]).await?;
            frame(&mut stream, 0, 1, id, b"{}").await?;
            answered.fetch_add(1, Ordering::SeqCst);
        }
        match limit {
            Limit::GoAway(most) if requests == most => {
                let last_and_no_error = [id.to_be_bytes(), [0; 4]].concat();
                frame(&mut stream, 7, 0, 0, &last_and_no_error).await?;
            }
            Limit::Refuse(most) if requests > most => {
                frame(&mut stream, 3, 0, id, &7_u32.to_be_bytes()).await?;
            }
            Limit::GoAway(_) | Limit::Refuse(_) => {}
        }
    }
}

async fn frame(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> std::io::Result<()> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[tokio::test]
async fn what_an_http2_server_did_not_process_is_asked_on_a_new_connection() {
    for limit in [Limit::GoAway(5), Limit::GoAway(1), Limit::Refuse(5)] {
        let (address, authority, answered, _task) = limited(limit).await;
        let mut config = config(&[&format!("https://{address}")]);
        config.endpoints[0].ca_file = Some(authority.ca_file());
        let (upstream, metrics) = quick(&config, Timings::default());
        for round in 1..=3 {
            assert_all(&pulls(&upstream, 20).await);
            assert_eq!(answered.load(Ordering::SeqCst), 20 * round);
        }
        assert!(requests(&metrics, "lost") > 0);
        assert_eq!(requests(&metrics, "error"), 0);
    }
}
