//! Helpers of this module's tests.

use crate::clock::{ManualClock, Timestamp};
use crate::oci::{Repository, UpstreamName};
use crate::server::conn::buffers::Buffers;
use crate::server::conn::client_stream::ClientStream;
use crate::server::conn::connection::{self, Tasks};
use crate::server::conn::stall_guard::Watch;
use crate::server::http::access_log::Exchange;
use crate::server::http::body::Body;
use crate::server::http::request_id::RequestIds;
use crate::telemetry::{Kind, Metrics, Outcome};
use http::{Request, Response, StatusCode, request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Metrics of an instance with one upstream. Every test that logs begins here.
pub(super) fn metrics() -> Metrics {
    // While nobody listens, tracing may remember of a log statement that nobody ever will, and a test on
    // another thread then waits for its line in vain. So somebody listens from the start, to nothing.
    static LISTENER: OnceLock<tracing::Dispatch> = OnceLock::new();
    LISTENER.get_or_init(|| {
        let nowhere = tracing_subscriber::fmt().with_writer(std::io::sink);
        tracing::Dispatch::new(nowhere.finish())
    });
    Metrics::new(["docker.io"].into_iter())
}

/// The head of a GET of some blob.
pub(super) fn request_head() -> request::Parts {
    let request = Request::get("/v2/library/nginx/blobs/sha256:aa")
        .header("user-agent", "test/1")
        .body(());
    request.unwrap().into_parts().0
}

/// An answered request for a blob of docker.io.
pub(super) fn exchange(metrics: &Metrics) -> Box<Exchange> {
    let ids = RequestIds::new(&ManualClock::new(Timestamp(0xab)));
    let client = SocketAddr::from(([192, 0, 2, 1], 4711));
    let mut exchange = Exchange::begin(ids.next(), client.into(), &request_head(), metrics.clone());
    exchange.asks_for(Kind::Blob, None);
    exchange.goes_to(
        &UpstreamName::parse("docker.io").unwrap(),
        &Repository::parse("library/nginx").unwrap(),
    );
    exchange.answered(StatusCode::OK, Outcome::Hit);
    Box::new(exchange)
}

/// So many bytes that nothing repeats soon.
pub(super) fn content(length: usize) -> Vec<u8> {
    (0..251_u8).cycle().step_by(31).take(length).collect()
}

/// The next number below `limit` of the sequence that `seed` begins.
pub(super) fn below(seed: &mut u64, limit: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    usize::try_from(*seed >> 33).unwrap() % limit
}

/// The log lines of this thread, for as long as it lives.
pub(super) struct Logs {
    written: Arc<Mutex<Vec<u8>>>,
    _default: tracing::subscriber::DefaultGuard,
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logs {
    /// Collects from now on.
    pub(super) fn collect() -> Self {
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Arc::clone(&written);
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || Sink(Arc::clone(&sink)))
            .finish();
        Self {
            written,
            _default: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The fields of all access lines so far.
    pub(super) fn access(&self) -> Vec<serde_json::Value> {
        self.lines("roadstead::access")
    }

    /// The fields of all lines of this target so far.
    pub(super) fn lines(&self, target: &str) -> Vec<serde_json::Value> {
        let written = String::from_utf8(self.written.lock().unwrap().clone()).unwrap();
        written
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["target"] == target)
            .map(|mut line| line["fields"].take())
            .collect()
    }
}

/// A server whose every answer is made by a function.
pub(super) struct Server {
    pub(super) tasks: Tasks,
    pub(super) stop: CancellationToken,
    listener: TcpListener,
}

impl Server {
    pub(super) async fn bind() -> Self {
        Self {
            tasks: Tasks::new(),
            stop: CancellationToken::new(),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    /// A connection on which every request is answered with `answer`.
    pub(super) async fn connect(
        &self,
        answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> TcpStream {
        let address = self.listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (stream, peer) = self.listener.accept().await.unwrap();
        let watch = Watch::new(peer, false, Buffers::default());
        let service = service_fn(move |_: Request<Incoming>| {
            std::future::ready(Ok::<_, Infallible>(answer()))
        });
        self.tasks.spawn(connection::serve(
            self.stop.clone(),
            ClientStream::new(stream, Arc::clone(&watch)),
            connection::flushed,
            watch,
            service,
        ));
        client
    }
}

/// Everything that a server answers to `request` before it closes the connection.
pub(super) async fn converse(mut client: TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an unclean end like any other: what came before it counts.
    if let Err(error) = client.read_to_end(&mut answer).await {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    String::from_utf8(answer).unwrap()
}
