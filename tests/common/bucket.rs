//! An object store inside the test process, with Amazon's protocol as far as it is spoken here: scripted and counted.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fake_body::{Body, full};
use super::fake_registry::refused_port;
use super::within;

/// The bucket's name.
pub const BUCKET: &str = "images";

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This status, with this error code.
    Status(u16, &'static str),
    /// No answer.
    Stall,
    /// The connection ends after so many bytes of the body.
    CutAt(usize),
    /// Other bytes of the same number.
    WrongBytes,
    /// One byte in this time.
    Trickle(Duration),
    /// The whole object, whatever part was asked for.
    NoRange,
    /// This status, with a text that has no end.
    Endless(u16),
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    /// The key, without the bucket.
    pub key: String,
    pub query: String,
    pub signed: bool,
    /// Those that are the store's own: `x-amz-…`, `x-goog-…`, `x-ms-…`.
    pub headers: BTreeMap<String, String>,
}

/// The path at which a machine's metadata service gives tokens: Google's and Azure's.
const TOKENS: [&str; 2] = [
    "/computeMetadata/v1/instance/service-accounts/default/token",
    "/metadata/identity/oauth2/token",
];

type Rule = (Box<dyn Fn(&Asked) -> bool + Send>, Trouble, usize);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, (String, BTreeMap<usize, Bytes>)>,
    asked: Vec<Asked>,
    rules: Vec<Rule>,
}

/// An object store inside the test process.
pub struct FakeBucket {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    stop: Mutex<CancellationToken>,
    /// Keeps the port while nobody listens.
    held: Mutex<Option<TcpSocket>>,
}

impl FakeBucket {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bucket = Self::of(address, None);
        bucket.serve(listener);
        bucket
    }

    /// One whose port refuses connections until it [comes up](Self::comes_up).
    pub fn down() -> Self {
        let (socket, address) = refused_port().unwrap();
        Self::of(address, Some(socket))
    }

    fn of(address: SocketAddr, held: Option<TcpSocket>) -> Self {
        Self {
            address,
            state: Arc::default(),
            changed: Arc::default(),
            stop: Mutex::default(),
            held: Mutex::new(held),
        }
    }

    pub fn comes_up(&self) {
        let socket = self.held.lock().unwrap().take().unwrap();
        self.serve(socket.listen(64).unwrap());
    }

    fn serve(&self, listener: TcpListener) {
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap() = stop.clone();
        let (state, changed) = (Arc::clone(&self.state), Arc::clone(&self.changed));
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, changed) = (Arc::clone(&state), Arc::clone(&changed));
                connections.spawn(connection(stream, state, changed));
            }
        }));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that this meets go wrong, so many times.
    pub fn trouble(
        &self,
        meets: impl Fn(&Asked) -> bool + Send + 'static,
        trouble: Trouble,
        times: usize,
    ) {
        let rule: Rule = (Box::new(meets), trouble, times);
        self.state.lock().unwrap().rules.push(rule);
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.state.lock().unwrap().objects.clone()
    }

    pub fn put(&self, key: &str, bytes: Bytes) {
        let mut state = self.state.lock().unwrap();
        state.objects.insert(key.to_owned(), bytes);
    }

    pub fn remove(&self, key: &str) -> Option<Bytes> {
        self.state.lock().unwrap().objects.remove(key)
    }

    /// Uploads in parts that were begun and neither completed nor given up.
    pub fn uploads(&self) -> usize {
        self.state.lock().unwrap().uploads.len()
    }

    /// Begins one that nobody goes on with.
    pub fn leave_upload(&self, key: &str, id: &str) {
        let mut state = self.state.lock().unwrap();
        let upload = (key.to_owned(), BTreeMap::new());
        state.uploads.insert(id.to_owned(), upload);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Number of requests that this meets.
    pub fn count(&self, meets: impl Fn(&Asked) -> bool) -> usize {
        self.asked().iter().filter(|it| meets(it)).count()
    }

    /// Waits until the objects are so.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&BTreeMap<String, Bytes>) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if wanted(&self.objects()) {
                    return;
                }
                changed.await;
            }
        };
        within(what, waiting).await;
    }
}

impl Drop for FakeBucket {
    fn drop(&mut self) {
        self.stop.lock().unwrap().cancel();
    }
}

async fn connection(stream: TcpStream, state: Arc<Mutex<State>>, changed: Arc<Notify>) {
    let service = service_fn(move |request| {
        let (state, changed) = (Arc::clone(&state), Arc::clone(&changed));
        async move {
            let response = answer(request, &state).await;
            changed.notify_waiters();
            Ok::<_, Infallible>(response)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A script may have cut it.
    drop(served);
}

fn plain(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap();
    Response::builder().status(status).body(full(body)).unwrap()
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    plain(status, text)
}

async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let prefix = format!("/{BUCKET}/");
    let key = path.strip_prefix(&prefix).unwrap_or_default();
    // Google's has slashes in it encoded.
    let key = percent_encoding::percent_decode_str(key)
        .decode_utf8()
        .unwrap()
        .into_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let has_signature = query.contains("X-Amz-Signature=");
    let asked = Asked {
        method: head.method.clone(),
        key: key.clone(),
        signed: has_signature || head.headers.contains_key("authorization"),
        query: query.clone(),
        headers: own_headers(&head.headers),
    };
    if TOKENS.contains(&path) {
        let token = r#"{"access_token":"token","expires_in":3600}"#;
        return plain(200, token);
    }
    let Ok(body) = body.collect().await else {
        return refusal(400, "IncompleteBody");
    };
    let body = body.to_bytes();
    let trouble = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        let mut rules = state.rules.iter_mut();
        let rule = rules.find(|(meets, _, left)| *left > 0 && meets(&asked));
        rule.map(|(_, trouble, left)| {
            *left -= 1;
            trouble.clone()
        })
    };
    match trouble {
        Some(Trouble::Status(status, code)) => return refusal(status, code),
        Some(Trouble::Stall) => return std::future::pending().await,
        Some(Trouble::Endless(status)) => {
            let mut response = plain(status, "");
            *response.body_mut() = endless();
            return response;
        }
        _ => {}
    }
    if !asked.signed {
        return refusal(403, "AccessDenied");
    }
    let range = head.headers.get("range");
    let range = range.and_then(|it| it.to_str().ok()).map(str::to_owned);
    act(state, &asked, body, range.as_deref(), trouble)
}

/// Does what is asked.
fn act(
    state: &Mutex<State>,
    asked: &Asked,
    body: Bytes,
    range: Option<&str>,
    trouble: Option<Trouble>,
) -> Response<Body> {
    let (key, query) = (asked.key.clone(), asked.query.as_str());
    match asked.method {
        Method::GET if query.starts_with("uploads") => list_uploads(state),
        Method::GET | Method::HEAD => read(state, &key, range, &asked.method, trouble),
        Method::PUT if query.contains("uploadId=") => put_part(state, query, body),
        Method::PUT => {
            state.lock().unwrap().objects.insert(key, body);
            // Azure's says so.
            let status = if asked.headers.contains_key("x-ms-blob-type") {
                201
            } else {
                200
            };
            tagged(status, "")
        }
        Method::POST if query.contains("uploadId=") => complete(state, query),
        Method::POST => begin(state, key),
        Method::DELETE if query.contains("uploadId=") => {
            let id = parameter(query, "uploadId");
            match state.lock().unwrap().uploads.remove(&id) {
                Some(_) => plain(204, ""),
                None => refusal(404, "NoSuchUpload"),
            }
        }
        _ => refusal(405, "MethodNotAllowed"),
    }
}

fn own_headers(headers: &http::HeaderMap) -> BTreeMap<String, String> {
    let own = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-"));
    own.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

fn tagged(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = plain(status, body);
    let date = "Wed, 01 Jan 2020 00:00:00 GMT".parse().unwrap();
    response.headers_mut().insert("last-modified", date);
    response
        .headers_mut()
        .insert("etag", "\"tag\"".parse().unwrap());
    response
}

fn parameter(query: &str, name: &str) -> String {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .unwrap_or_default()
        .1
        .to_owned()
}

fn begin(state: &Mutex<State>, key: String) -> Response<Body> {
    let mut state = state.lock().unwrap();
    let id = format!("upload-{}", state.asked.len());
    state.uploads.insert(id.clone(), (key, BTreeMap::new()));
    let text = format!(
        "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
    );
    plain(200, text)
}

fn put_part(state: &Mutex<State>, query: &str, body: Bytes) -> Response<Body> {
    let (id, number) = (parameter(query, "uploadId"), parameter(query, "partNumber"));
    let mut state = state.lock().unwrap();
    let Some((_, parts)) = state.uploads.get_mut(&id) else {
        return refusal(404, "NoSuchUpload");
    };
    parts.insert(number.parse().unwrap(), body);
    tagged(200, "")
}

fn complete(state: &Mutex<State>, query: &str) -> Response<Body> {
    let mut state = state.lock().unwrap();
    let Some((key, parts)) = state.uploads.remove(&parameter(query, "uploadId")) else {
        return refusal(404, "NoSuchUpload");
    };
    let whole: Vec<u8> = parts.into_values().flatten().collect();
    state.objects.insert(key, whole.into());
    let text =
        "<CompleteMultipartUploadResult><ETag>\"tag\"</ETag></CompleteMultipartUploadResult>";
    plain(200, text)
}

fn list_uploads(state: &Mutex<State>) -> Response<Body> {
    let uploads = &state.lock().unwrap().uploads;
    let one = |(id, (key, _)): (&String, &(String, _))| {
        format!(
            "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2020-01-01T00:00:00.000Z</Initiated></Upload>"
        )
    };
    let all: String = uploads.iter().map(one).collect();
    let text = format!(
        "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{all}</ListMultipartUploadsResult>"
    );
    plain(200, text)
}

fn read(
    state: &Mutex<State>,
    key: &str,
    range: Option<&str>,
    method: &Method,
    trouble: Option<Trouble>,
) -> Response<Body> {
    let Some(whole) = state.lock().unwrap().objects.get(key).cloned() else {
        return refusal(404, "NoSuchKey");
    };
    let total = whole.len();
    let asked = range.filter(|_| trouble != Some(Trouble::NoRange));
    let asked = asked.and_then(|it| it.strip_prefix("bytes=")?.split_once('-'));
    let (start, end) = match asked {
        Some((start, end)) => {
            let end = end.parse::<usize>().map_or(total, |last| last + 1);
            (start.parse().unwrap(), end.min(total))
        }
        None => (0, total),
    };
    let part = whole.slice(start..end);
    let builder = Response::builder()
        .status(if asked.is_some() { 206 } else { 200 })
        .header("etag", "\"tag\"")
        .header("last-modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        .header("content-length", part.len());
    let builder = if asked.is_some() {
        builder.header(
            "content-range",
            format!("bytes {start}-{}/{total}", end - 1),
        )
    } else {
        builder
    };
    let body = match (method, trouble) {
        (&Method::HEAD, _) => full(""),
        (_, Some(Trouble::WrongBytes)) => full(part.iter().map(|byte| !byte).collect::<Vec<u8>>()),
        (_, Some(Trouble::CutAt(at))) => cut(part.slice(..at.min(part.len()))),
        (_, Some(Trouble::Trickle(each))) => trickle(part, each),
        _ => full(part),
    };
    builder.body(body).unwrap()
}

fn cut(part: Bytes) -> Body {
    let pieces = [
        Ok(Frame::data(part)),
        Err(std::io::Error::other("cut by the test's script")),
    ];
    let pieces = stream::iter(pieces);
    StreamBody::new(pieces).boxed_unsync()
}

fn trickle(part: Bytes, each: Duration) -> Body {
    let pieces = stream::unfold(part, move |mut rest| async move {
        tokio::time::sleep(each).await;
        let piece = (!rest.is_empty()).then(|| rest.split_to(1))?;
        Some((Ok::<_, std::io::Error>(Frame::data(piece)), rest))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn endless() -> Body {
    let piece = Bytes::from(vec![b' '; 64 * 1024]);
    let pieces = stream::repeat_with(move || Ok::<_, std::io::Error>(Frame::data(piece.clone())));
    StreamBody::new(pieces).boxed_unsync()
}
