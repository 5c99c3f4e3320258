//! A byte-exact client: what arrived, and whether it ended cleanly.

use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

use super::within;

/// Small, so that a reader that stops reading is soon felt by the mirror.
const RECEIVE_BUFFER_BYTES: u32 = 64 * 1024;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As its framing promised.
    Clean,
    /// The connection broke first (or there was no framing to promise anything).
    Broken,
}

/// An answer, whole. `status` is 0 when the connection broke before one.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub ending: Ending,
}

impl Answer {
    /// A header's text, empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap_or("(not text)"))
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name);
        values.iter().map(|value| value.to_str().unwrap()).collect()
    }

    /// The first error code in the envelope; the test fails where there is no envelope.
    pub fn code(&self) -> String {
        let value: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| {
            panic!(
                "no error envelope: {} {:?}",
                self.status,
                String::from_utf8_lossy(&self.body)
            )
        });
        value["errors"][0]["code"].as_str().unwrap_or("").to_owned()
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts a clean 200 (or 206) with exactly these bytes.
    #[track_caller]
    pub fn assert_bytes(&self, status: u16, expected: &[u8]) {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.ending, Ending::Clean, "the body broke off");
        assert_eq!(self.body.len(), expected.len(), "length of the body");
        assert!(self.body == expected, "the body holds other bytes");
    }

    /// Asserts the one thing that must never happen did not: these bytes are not what was
    /// asked for, so no success may end cleanly with a whole body.
    #[track_caller]
    pub fn assert_no_clean_success(&self) {
        let clean = (200..300).contains(&self.status) && self.ending == Ending::Clean;
        assert!(
            !clean,
            "a clean {} with {} bytes",
            self.status,
            self.body.len()
        );
    }
}

/// An answer that is read piece by piece. Dropping it hangs up.
#[derive(Debug)]
pub struct Streaming {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    pending: Bytes,
    ended: Option<Ending>,
    connection: tokio::task::JoinHandle<()>,
}

impl Streaming {
    /// The next piece; `None` at the end, of whichever kind.
    pub async fn piece(&mut self) -> Option<Bytes> {
        if self.pending.has_remaining() {
            return Some(std::mem::take(&mut self.pending));
        }
        loop {
            match within("a piece of a body", self.body.frame()).await {
                None => {
                    self.ended = Some(Ending::Clean);
                    return None;
                }
                Some(Err(_)) => {
                    self.ended = Some(Ending::Broken);
                    return None;
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && data.has_remaining()
                    {
                        return Some(data);
                    }
                }
            }
        }
    }

    /// Exactly the next `length` bytes.
    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let mut piece = self.piece().await.expect("the body ended too early");
            let taken = piece.split_to(piece.len().min(length - bytes.len()));
            bytes.extend_from_slice(&taken);
            self.pending = piece;
        }
        bytes
    }

    /// All that is left.
    pub async fn rest(&mut self) -> (Vec<u8>, Ending) {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await {
            bytes.extend_from_slice(&piece);
        }
        (bytes, self.ended.unwrap_or(Ending::Broken))
    }

    /// Reads to the end, comparing with `expected` as it goes and keeping nothing.
    pub async fn assert_rest_equals(&mut self, expected: &[u8]) {
        let mut left = expected;
        while let Some(piece) = self.piece().await {
            assert!(piece.len() <= left.len(), "more bytes than expected");
            let (now, later) = left.split_at(piece.len());
            assert!(now == piece, "other bytes than expected");
            left = later;
        }
        assert_eq!(left.len(), 0, "bytes missing at the end");
        assert_eq!(self.ended, Some(Ending::Clean), "the body broke off");
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Asks one server, a connection for each request.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub SocketAddr);

impl Client {
    /// GET without further headers.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    /// HEAD without further headers.
    pub async fn head(&self, path: &str) -> Answer {
        self.ask(Method::HEAD, path, &[]).await
    }

    /// GET with headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(Method::GET, path, headers).await
    }

    /// Any request, its answer whole.
    pub async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask_with(method, path, headers, Bytes::new()).await
    }

    /// Any request with a body, its answer whole.
    pub async fn ask_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let is_head = method == Method::HEAD;
        let Some(mut streaming) = self.send(method, path, headers, body).await else {
            return Answer {
                status: 0,
                headers: HeaderMap::new(),
                body: Vec::new(),
                ending: Ending::Broken,
            };
        };
        let (body, ending) = streaming.rest().await;
        let framed = is_head
            || matches!(streaming.status, 204 | 304)
            || streaming.headers.contains_key("content-length")
            || streaming.headers.contains_key("transfer-encoding");
        Answer {
            status: streaming.status,
            headers: std::mem::take(&mut streaming.headers),
            body,
            ending: if framed { ending } else { Ending::Broken },
        }
    }

    /// GET, to be read piece by piece; the head must come.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Streaming {
        let opened = self.send(Method::GET, path, headers, Bytes::new());
        let opened = opened.await;
        opened.expect("the connection broke before the head of the answer")
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Option<Streaming> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
        let stream = within("a connection", socket.connect(self.0)).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(RECEIVE_BUFFER_BYTES as usize)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            // A broken connection shows in the body.
            let _ended: Result<(), hyper::Error> = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path);
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request = request.header("Host", self.0.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let response = within("the head of an answer", sender.send_request(request)).await;
        let (head, body) = response.ok()?.into_parts();
        Some(Streaming {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            pending: Bytes::new(),
            ended: None,
            connection,
        })
    }
}
