//! The dialogue with a proxy before a connection goes through it: HTTP CONNECT (RFC 9110 section 9.3.6)
//! and SOCKS5 (RFC 1928, with the user names and passwords of RFC 1929).

use std::fmt;
use std::io;
use std::net::IpAddr;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Credentials;

/// The destination of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// As in a URL: `r.example:443`, `[2001:db8::1]:443`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Some(IpAddr::V4(_)) | None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Reason why there is no way through a proxy. The texts follow "proxy HOST" and hold no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The proxy does not reach this target; another address may do.
    Target(String),
    /// The proxy itself, or who we are to it.
    Proxy(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Proxy(if error.kind() == io::ErrorKind::UnexpectedEof {
            CLOSED.to_owned()
        } else {
            format!("broke the connection: {error}")
        })
    }
}

/// Asks an HTTP proxy for a tunnel. Afterwards `stream` is the connection to `target`.
///
/// # Errors
/// [`Refusal`].
pub(super) async fn http_connect(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &Target,
    authorization: Option<&HeaderValue>,
) -> Result<(), Refusal> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    match connect_status(stream).await? {
        200..300 => Ok(()),
        407 => Err(Refusal::Proxy(format!(
            "refused CONNECT with status 407: {}",
            advice(authorization.is_some())
        ))),
        status => Err(Refusal::Target(format!(
            "refused CONNECT with status {status}"
        ))),
    }
}

/// Advice to a user about a proxy that wants to know who we are.
pub(super) fn advice(credentials: bool) -> &'static str {
    if credentials {
        "check its username and password"
    } else {
        "it wants a username and password"
    }
}

/// Reads the head of the answer to CONNECT.
async fn connect_status(stream: &mut (impl AsyncRead + Unpin)) -> Result<u16, Refusal> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let mut limited = (&mut *stream).take(CONNECT_HEAD_BYTES_MAX - head.len() as u64);
        if limited.read_buf(&mut head).await? == 0 {
            let full = head.len() as u64 >= CONNECT_HEAD_BYTES_MAX;
            let why = if full {
                "answered CONNECT with a header that is too large"
            } else {
                CLOSED
            };
            return Err(Refusal::Proxy(why.to_owned()));
        }
        let mut headers = [httparse::EMPTY_HEADER; CONNECT_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(end)) => {
                let status = response.code.unwrap_or_default();
                // Nobody behind the tunnel speaks before we do: this would be taken for its answer.
                if (200..300).contains(&status) && end < head.len() {
                    let why = "answered CONNECT with more than a header";
                    return Err(Refusal::Proxy(why.to_owned()));
                }
                return Ok(status);
            }
            Err(error) => {
                return Err(Refusal::Proxy(format!(
                    "answered CONNECT with no HTTP: {error}"
                )));
            }
        }
    }
}

/// Asks a SOCKS5 proxy for a connection. Afterwards `stream` is the connection to `target`. A name in
/// `target` is resolved by the proxy.
///
/// # Errors
/// [`Refusal`].
pub(super) async fn socks5(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &Target,
    credentials: Option<&Credentials>,
) -> Result<(), Refusal> {
    let methods: &[u8] = match credentials {
        Some(_) => &[SOCKS_VERSION, 2, NO_LOGIN, PASSWORD_LOGIN],
        None => &[SOCKS_VERSION, 1, NO_LOGIN],
    };
    stream.write_all(methods).await?;
    stream.flush().await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, credentials) {
        ([SOCKS_VERSION, NO_LOGIN], _) => {}
        ([SOCKS_VERSION, PASSWORD_LOGIN], Some(credentials)) => {
            socks5_login(stream, credentials).await?;
        }
        ([SOCKS_VERSION, _], credentials) => {
            let advice = advice(credentials.is_some());
            return Err(Refusal::Proxy(format!("refused SOCKS5: {advice}")));
        }
        _ => return Err(Refusal::Proxy(NO_SOCKS.to_owned())),
    }
    let mut request = vec![SOCKS_VERSION, SOCKS_CONNECT, 0];
    match target.address() {
        Some(IpAddr::V4(address)) => {
            request.push(SOCKS_IPV4);
            request.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            request.push(SOCKS_IPV6);
            request.extend_from_slice(&address.octets());
        }
        None => {
            request.push(SOCKS_NAME);
            let too_long = || Refusal::Target("cannot be asked for so long a name".to_owned());
            push_counted(&mut request, &target.host).ok_or_else(too_long)?;
        }
    }
    request.extend_from_slice(&target.port.to_be_bytes());
    stream.write_all(&request).await?;
    stream.flush().await?;
    socks5_answer(stream).await
}

/// RFC 1929.
async fn socks5_login(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    credentials: &Credentials,
) -> Result<(), Refusal> {
    let mut request = vec![SOCKS_LOGIN_VERSION];
    push_counted(&mut request, &credentials.username)
        .and_then(|()| push_counted(&mut request, credentials.password.expose()))
        .ok_or_else(|| {
            Refusal::Proxy("takes usernames and passwords of at most 255 bytes".to_owned())
        })?;
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    match answer {
        [_, 0] => Ok(()),
        _ => Err(Refusal::Proxy(format!("refused SOCKS5: {}", advice(true)))),
    }
}

async fn socks5_answer(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), Refusal> {
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    let [version, reply, _reserved, kind] = answer;
    if version != SOCKS_VERSION {
        return Err(Refusal::Proxy(NO_SOCKS.to_owned()));
    }
    if reply != 0 {
        let why = socks5_reply(reply);
        return Err(Refusal::Target(format!("refused the connection: {why}")));
    }
    // The address and port that the proxy uses itself, which nobody needs.
    let length = match kind {
        SOCKS_IPV4 => 4,
        SOCKS_IPV6 => 16,
        SOCKS_NAME => usize::from(stream.read_u8().await?),
        _ => return Err(Refusal::Proxy(NO_SOCKS.to_owned())),
    };
    let mut bound = vec![0; length + 2];
    stream.read_exact(&mut bound).await?;
    Ok(())
}

/// RFC 1928 section 6.
fn socks5_reply(code: u8) -> &'static str {
    match code {
        2 => "its rules do not allow it",
        3 => "network unreachable",
        4 => "host unreachable, or its name unknown",
        5 => "connection refused",
        6 => "timed out",
        8 => "it does not know this kind of address",
        _ => "general failure",
    }
}

/// A length in one byte and then the text; `None`, when it is longer than that can say.
fn push_counted(request: &mut Vec<u8>, text: &str) -> Option<()> {
    request.push(u8::try_from(text.len()).ok()?);
    request.extend_from_slice(text.as_bytes());
    Some(())
}

const CLOSED: &str = "closed the connection";
const NO_SOCKS: &str = "does not speak SOCKS5";
/// The answer to CONNECT has a few short header fields.
const CONNECT_HEAD_BYTES_MAX: u64 = 16 * 1024;
/// Proxies add some fields of their own.
const CONNECT_HEADERS_MAX: usize = 64;
const SOCKS_VERSION: u8 = 5;
const SOCKS_LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const PASSWORD_LOGIN: u8 = 2;
const SOCKS_CONNECT: u8 = 1;
const SOCKS_IPV4: u8 = 1;
const SOCKS_NAME: u8 = 3;
const SOCKS_IPV6: u8 = 4;
