//! A client of the admin listener of a roadstead that runs: a connection for each request, plain HTTP/1.1,
//! bodies of any length in both directions.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use url::{Host, Url};

use super::output::complain;

/// The header that a request must bring to change something, so that no page in a browser can send it; the server has
/// the same in `server::admin_answer`, which no client may use.
const ADMIN_HEADER: HeaderName = HeaderName::from_static("x-roadstead-admin");

/// The token that is sent to the admin API.
const TOKEN_VARIABLE: &str = "ROADSTEAD_TOKEN";

/// A client of one admin listener.
#[derive(Debug)]
pub struct AdminClient {
    /// Host and port.
    authority: String,
    /// The operator's token, if he has one.
    token: Option<HeaderValue>,
    connections: TaskTracker,
}

/// The reason that there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens there.
    #[error("nobody answers at http://{authority}: {source}")]
    NotThere {
        /// The address.
        authority: String,
        /// The cause.
        source: io::Error,
    },
    /// The answer's head did not come.
    #[error("http://{authority} does not answer: {why}")]
    Broken {
        /// The address.
        authority: String,
        /// The cause.
        why: String,
    },
}

impl AdminError {
    /// The cause alone, for a message that says already who was asked.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::NotThere { source, .. } => source.to_string(),
            Self::Broken { why, .. } => why.clone(),
        }
    }
}

/// The body of a request.
pub struct Payload {
    body: UnsyncBoxBody<Bytes, io::Error>,
    length: u64,
    content_type: Option<String>,
}

impl Payload {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        let never = |never: Infallible| match never {};
        Self {
            body: Empty::new().map_err(never).boxed_unsync(),
            length: 0,
            content_type: None,
        }
    }

    /// Bytes at hand.
    #[must_use]
    pub fn bytes(bytes: Bytes, content_type: Option<String>) -> Self {
        let never = |never: Infallible| match never {};
        Self {
            length: bytes.len() as u64,
            body: Full::new(bytes).map_err(never).boxed_unsync(),
            content_type,
        }
    }

    /// So many bytes, as they come.
    pub fn stream(
        length: u64,
        stream: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        use futures_util::TryStreamExt as _;
        Self {
            body: StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync(),
            length,
            content_type: None,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Payload").field(&self.length).finish()
    }
}

impl AdminClient {
    /// A client of the admin listener at this URL. Dials nothing.
    ///
    /// # Errors
    /// One line: the URL is not one of plain HTTP without a path.
    pub fn new(base: &Url) -> Result<Self, String> {
        let authority = match (base.scheme(), base.host_str()) {
            ("http", Some(host)) if base.path() == "/" => {
                let port = base.port_or_known_default().unwrap_or(80);
                format!("{host}:{port}")
            }
            _ => return Err(format!("{base} is no URL like http://127.0.0.1:5001")),
        };
        let token = token()?;
        if token.is_some() && !is_near(base) {
            complain(&format!(
                "the token of {TOKEN_VARIABLE} goes to {authority} unencrypted, where others on the network can read it"
            ));
        }
        Ok(Self {
            authority,
            token,
            connections: TaskTracker::new(),
        })
    }

    /// Sends a request, and waits for the head of its answer for as long as the body takes and `patience` in
    /// silence; without a limit where that is `None`.
    ///
    /// # Errors
    /// [`AdminError`]; an answer of any status is none.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        payload: Payload,
        patience: Option<Duration>,
    ) -> Result<Response<Incoming>, AdminError> {
        let broken = |why: String| AdminError::Broken {
            authority: self.authority.clone(),
            why,
        };
        let stream = self.connect().await?;
        // By its address, since the listener answers to no name that somebody else could give it (DNS rebinding).
        let host = stream.peer_addr();
        let host = host.map_or_else(|_| self.authority.clone(), |address| address.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.to_string()))?;
        self.connections.spawn(async move {
            // A failure shows in the answer.
            connection.await.ok();
        });
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, host)
            .header(ADMIN_HEADER, "1")
            .header(CONTENT_LENGTH, payload.length);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(content_type) = payload.content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(payload.body);
        let request = request.map_err(|error| broken(error.to_string()))?;
        let answer = sender.send_request(request);
        let answer = match patience {
            Some(patience) => tokio::time::timeout(patience, answer)
                .await
                .map_err(|_elapsed| broken(format!("nothing within {} s", patience.as_secs())))?,
            None => answer.await,
        };
        answer.map_err(|error| broken(describe(&error)))
    }

    async fn connect(&self) -> Result<TcpStream, AdminError> {
        let connecting = TcpStream::connect(&self.authority);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        connected
            .unwrap_or_else(|_elapsed| Err(late()))
            .map_err(|source| AdminError::NotThere {
                authority: self.authority.clone(),
                source,
            })
    }
}

/// The value of `Authorization`, if the environment has a token.
fn token() -> Result<Option<HeaderValue>, String> {
    let Some(token) = std::env::var_os(TOKEN_VARIABLE).filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    // The value is not repeated: it is a secret.
    let wrong = || format!("{TOKEN_VARIABLE} is no token");
    let token = token.to_str().ok_or_else(wrong)?.trim();
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// True if a URL leads to this machine.
fn is_near(base: &Url) -> bool {
    match base.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// Advice where a server's certificate is not believed, or there is none. The words of the TLS library name the fault.
#[must_use]
pub fn tls_advice(why: &str) -> &'static str {
    let has = |words: &str| why.contains(words);
    if has("UnknownIssuer") || has("CaUsedAsEndEntity") {
        return "; nobody known here has signed its certificate: --ca-file FILE names the issuer's, or the server's own";
    }
    if has("NotValidForName") || has("not valid for name") {
        return "; its certificate is for other names: ask it by one of those with --server";
    }
    if has("expired") || has("Expired") {
        return "; its certificate has expired: renew it (server.tls.cert), or set the clock";
    }
    if has("not valid yet") || has("NotValidYet") {
        return "; its certificate begins later: set the clock";
    }
    if has("InvalidContentType") || has("corrupt message") {
        return "; it speaks plain HTTP: write http:// instead of https://";
    }
    ""
}

/// hyper's own words say little without their cause.
fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The server is near; a syn that is lost twice is made up for after 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
