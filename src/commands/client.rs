//! A client of the admin listener of a roadstead that runs: a connection for each request, HTTP/1.1 over TCP, TLS or a
//! Unix socket, bodies of any length in both directions.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;
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
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;
use url::Host;

use super::target::AdminServer;
use super::token::authorization;
use crate::net::tls_client_config;

/// The header that a request must bring to change something, so that no page in a browser can send it; the server has
/// the same in `server::admin_answer`, which no client may use.
const ADMIN_HEADER: HeaderName = HeaderName::from_static("x-roadstead-admin");

/// The host that is asked over a Unix socket.
const LOCALHOST: &str = "localhost";

/// A client of one admin listener.
#[derive(Debug)]
pub struct AdminClient {
    /// Host and port, or the path of the socket.
    authority: String,
    way: Way,
    /// A Unix socket of the same server, which is tried before.
    socket: Option<PathBuf>,
    /// The operator's token, if he has one.
    token: Option<HeaderValue>,
    connections: TaskTracker,
}

/// The connection to a listener.
enum Way {
    Plain,
    Tls(Box<Tls>),
    Socket(PathBuf),
}

/// Connections over TLS.
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    shows_certificate: bool,
}

/// A connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
            Self::Socket(_) => "Socket",
        })
    }
}

/// The reason that there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens there.
    #[error("nobody answers at {authority}: {source}")]
    NotThere {
        /// The address.
        authority: String,
        /// The cause.
        source: io::Error,
    },
    /// The answer's head did not come.
    #[error("{authority} does not answer: {why}")]
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
    /// A client of an admin listener. Reads the certificates that it needs, and dials nothing.
    ///
    /// # Errors
    /// One line: the URL is none of an admin listener, or a file cannot be used.
    pub fn new(admin: &AdminServer) -> Result<Self, String> {
        let base = &admin.url;
        let refused = || format!("{base} is no URL like http://127.0.0.1:5001");
        let (authority, way) = match (base.scheme(), base.host()) {
            ("unix", _) => {
                let path = percent_encoding::percent_decode_str(base.path());
                let path = PathBuf::from(OsString::from_vec(path.collect()));
                (path.display().to_string(), Way::Socket(path))
            }
            ("http", Some(host)) if base.path() == "/" => {
                let port = base.port_or_known_default().unwrap_or(80);
                (format!("{host}:{port}"), Way::Plain)
            }
            ("https", Some(host)) if base.path() == "/" => {
                let port = base.port_or_known_default().unwrap_or(443);
                (format!("{host}:{port}"), Self::tls(admin, &host)?)
            }
            _ => return Err(refused()),
        };
        Ok(Self {
            authority,
            way,
            socket: admin.socket.clone(),
            token: authorization(base)?,
            connections: TaskTracker::new(),
        })
    }

    fn tls(admin: &AdminServer, host: &Host<&str>) -> Result<Way, String> {
        let trust = &admin.trust;
        let config = tls_client_config(
            trust.ca_file.as_deref(),
            trust.certificate.as_ref(),
            trust.own.as_deref(),
        )?;
        let name = match host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned())
                .map_err(|error| format!("{name}: {error}"))?,
            Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
        };
        Ok(Way::Tls(Box::new(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            shows_certificate: trust.certificate.is_some(),
        })))
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
        let (stream, host) = self.connect().await?;
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
        answer.map_err(|error| broken(format!("{}{}", describe(&error), self.advice())))
    }

    /// Advice where a connection ends that was made: a server that wants a certificate says so after the handshake (TLS 1.3,
    /// RFC 8446 section 4.4.2.4), and its alert may come too late to be read.
    fn advice(&self) -> &'static str {
        match &self.way {
            Way::Tls(tls) if !tls.shows_certificate => {
                "; if it asks for a certificate, --admin-cert and --admin-key name one"
            }
            Way::Tls(_) | Way::Plain | Way::Socket(_) => "",
        }
    }

    /// A connection, and the host that is asked over it.
    async fn connect(&self) -> Result<(Box<dyn Stream>, String), AdminError> {
        let connecting = async {
            if let Some(socket) = &self.socket {
                // Of another user, or of a server that does not run: over the network it is told what is wrong.
                if let Ok(stream) = UnixStream::connect(socket).await {
                    return Ok((Box::new(stream) as Box<dyn Stream>, LOCALHOST.to_owned()));
                }
            }
            if let Way::Socket(path) = &self.way {
                let stream = UnixStream::connect(path).await?;
                return Ok((Box::new(stream) as _, LOCALHOST.to_owned()));
            }
            let stream = TcpStream::connect(&self.authority).await?;
            // By its address, since the listener answers to no name that somebody else could give it (DNS rebinding).
            let host = stream.peer_addr()?.to_string();
            match &self.way {
                Way::Tls(tls) => {
                    let stream = tls.connector.connect(tls.name.clone(), stream).await;
                    let stream = stream.map_err(|error| {
                        let advice = tls_advice(&error.to_string(), "--admin-ca", "--admin");
                        io::Error::new(error.kind(), format!("{error}{advice}"))
                    })?;
                    Ok((Box::new(stream) as _, host))
                }
                Way::Plain | Way::Socket(_) => Ok((Box::new(stream) as _, host)),
            }
        };
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

/// Advice where a server's certificate is not believed, or there is none; `ca` and `address` are the flags of these. The
/// words of the TLS library name the fault.
#[must_use]
pub fn tls_advice(why: &str, ca: &str, address: &str) -> String {
    let has = |words: &str| why.contains(words);
    if has("UnknownIssuer") || has("CaUsedAsEndEntity") {
        return format!(
            "; nobody known here has signed its certificate: {ca} FILE names the issuer's, or the server's own"
        );
    }
    if has("NotValidForName") || has("not valid for name") {
        return format!(
            "; its certificate is for other names: ask it by one of those with {address}"
        );
    }
    let advice = if has("expired") || has("Expired") {
        "; its certificate has expired: renew it (server.tls.cert), or set the clock"
    } else if has("not valid yet") || has("NotValidYet") {
        "; its certificate begins later: set the clock"
    } else if has("InvalidContentType") || has("corrupt message") {
        "; it speaks plain HTTP: write http:// instead of https://"
    } else {
        ""
    };
    advice.to_owned()
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
