//! A server that answers by a script, and remembers what it was asked.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub(in crate::upstream) type Body = BoxBody<Bytes, io::Error>;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Seen {
    pub(in crate::upstream) method: Method,
    /// Path and query.
    pub(in crate::upstream) target: String,
    pub(in crate::upstream) headers: HeaderMap,
    pub(in crate::upstream) body: Bytes,
    pub(in crate::upstream) version: http::Version,
}

impl Seen {
    pub(in crate::upstream) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A step of the script.
pub(in crate::upstream) enum Reply {
    /// This.
    Give(Response<Body>),
    /// This, once the semaphore has a permit.
    When(Arc<Semaphore>, Response<Body>),
    /// Nothing, ever.
    Hang,
    /// The connection is closed without an answer.
    Close,
}

impl From<Response<Body>> for Reply {
    fn from(response: Response<Body>) -> Self {
        Self::Give(response)
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A running server; dropping it ends it and its connections.
pub(in crate::upstream) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    _task: JoinSet<()>,
}

impl Server {
    pub(in crate::upstream) async fn start(
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(None, script).await
    }

    pub(in crate::upstream) async fn listen(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut task = JoinSet::new();
        let script: Arc<Script> = Arc::new(script);
        task.spawn(accept(
            listener,
            tls,
            script,
            Arc::clone(&seen),
            Arc::clone(&connections),
        ));
        Self {
            address,
            scheme,
            seen,
            connections,
            _task: task,
        }
    }

    pub(in crate::upstream) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// All requests so far.
    pub(in crate::upstream) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests so far whose target begins so.
    pub(in crate::upstream) fn seen_at(&self, prefix: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|request| request.target.starts_with(prefix));
        seen
    }

    /// Number of connections that were made.
    pub(in crate::upstream) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
) {
    let mut running = JoinSet::new();
    loop {
        let (stream, _peer) = listener.accept().await.unwrap();
        *connections.lock().unwrap() += 1;
        let (tls, script, seen) = (tls.clone(), Arc::clone(&script), Arc::clone(&seen));
        running.spawn(async move {
            match tls {
                None => serve(stream, script, seen).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, script, seen).await;
                    }
                }
            }
        });
    }
}

async fn serve<S>(stream: S, script: Arc<Script>, seen: Arc<Mutex<Vec<Seen>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
        async move {
            let (head, body) = request.into_parts();
            let request = Seen {
                method: head.method,
                target: head.uri.path_and_query().unwrap().to_string(),
                headers: head.headers,
                body: body.collect().await.unwrap().to_bytes(),
                version: head.version,
            };
            seen.lock().unwrap().push(request.clone());
            match script(&request) {
                Reply::Give(response) => Ok(response),
                Reply::When(semaphore, response) => {
                    semaphore.acquire().await.unwrap().forget();
                    Ok(response)
                }
                Reply::Hang => std::future::pending().await,
                Reply::Close => Err(io::Error::other("closed by the script")),
            }
        }
    });
    // A script that closes a connection makes this an error; the test looks at the client's side.
    drop(
        auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

/// An answer with headers and a whole body.
pub(in crate::upstream) fn answer(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Body> {
    let whole = Full::new(body.into()).map_err(|never: Infallible| match never {});
    build(status, headers, whole.boxed())
}

/// An answer whose body comes from a channel: the test sends pieces when it likes, or an error to break
/// the connection.
pub(in crate::upstream) fn piecewise(
    status: u16,
    headers: &[(&str, &str)],
    pieces: mpsc::Receiver<Result<Bytes, io::Error>>,
) -> Response<Body> {
    let frames = futures_util::stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((piece.map(Frame::data), pieces))
    });
    build(status, headers, BodyExt::boxed(StreamBody::new(frames)))
}

/// An answer without a length, whose body is these pieces.
pub(in crate::upstream) fn pieces(pieces: &[&'static [u8]]) -> Response<Body> {
    let (send, receive) = mpsc::channel(pieces.len());
    for piece in pieces {
        send.try_send(Ok(Bytes::from_static(piece))).unwrap();
    }
    piecewise(200, &[], receive)
}

fn build(status: u16, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}
