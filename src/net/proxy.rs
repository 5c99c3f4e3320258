//! Choice of the proxy that a connection goes through, if any.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use url::Url;

use super::no_proxy::NoProxy;
use super::place::{Place, is_at_or_below};
use super::{Credentials, EnvironmentProxies, Proxy, ProxyConfig, Secret};

/// The proxies of an endpoint and of where it redirects to.
#[derive(Debug)]
pub(super) struct Proxies {
    choice: Choice,
    /// True if this machine and the metadata services of clouds are reached straight in any case.
    metadata_straight: bool,
    /// A host that no proxy may resolve: what it stands for is configured.
    pinned: Option<String>,
}

#[derive(Debug)]
enum Choice {
    Direct,
    Always(Arc<Server>),
    Environment {
        http: Option<Arc<Server>>,
        https: Option<Arc<Server>>,
        no: NoProxy,
    },
}

/// The way to a destination.
#[derive(Clone, Debug)]
pub(super) enum Route {
    /// Straight.
    Direct,
    /// Plain HTTP: the proxy gets the request itself, with the whole URL (RFC 9112 section 3.2.2).
    Forward(Arc<Server>),
    /// Through a tunnel that CONNECT makes.
    Tunnel(Arc<Server>),
    /// Through a SOCKS5 connection; `true`: the proxy resolves names.
    Socks(Arc<Server>, bool),
}

/// One proxy, as it is spoken to.
pub(super) struct Server {
    kind: Kind,
    /// With brackets, where it is an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) credentials: Option<Credentials>,
    /// The same for HTTP (RFC 7617), marked sensitive; none for SOCKS5.
    pub(super) authorization: Option<HeaderValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Https,
    Socks5,
    Socks5h,
}

impl Proxies {
    /// The proxies that are configured. `pinned` is a host whose addresses are configured.
    ///
    /// # Errors
    /// One line naming the proxy or variable that cannot be used.
    pub(super) fn new(config: &ProxyConfig, pinned: Option<String>) -> Result<Self, String> {
        let choice = match config {
            ProxyConfig::Direct => Choice::Direct,
            ProxyConfig::Through(proxy) => Choice::Always(Arc::new(Server::new(proxy)?)),
            ProxyConfig::Environment(variables) => Choice::environment(variables)?,
        };
        Ok(Self {
            choice,
            metadata_straight: false,
            pinned,
        })
    }

    /// The same for the APIs of clouds: see [`is_metadata`].
    ///
    /// # Errors
    /// As [`Proxies::new`].
    pub(super) fn for_apis(config: &ProxyConfig) -> Result<Self, String> {
        Ok(Self {
            metadata_straight: true,
            ..Self::new(config, None)?
        })
    }

    /// The way to the host of a URI.
    pub(super) fn route(&self, to: &Uri) -> Route {
        let (host, port) = host_and_port(to);
        let https = to.scheme() == Some(&Scheme::HTTPS);
        let server = match &self.choice {
            Choice::Direct => None,
            Choice::Always(server) => Some(server),
            Choice::Environment { no, .. } if is_loopback(host) || no.contains(host, port) => None,
            Choice::Environment { https: server, .. } if https => server.as_ref(),
            Choice::Environment { http: server, .. } => server.as_ref(),
        };
        match server {
            None => Route::Direct,
            Some(_) if self.metadata_straight && is_metadata(host) => Route::Direct,
            Some(server) => {
                // A forwarding proxy would look the name up; through a tunnel it gets the address.
                let pinned = self.is_pinned(host);
                let server = Arc::clone(server);
                match server.kind {
                    Kind::Http | Kind::Https if https || pinned => Route::Tunnel(server),
                    Kind::Http | Kind::Https => Route::Forward(server),
                    Kind::Socks5 => Route::Socks(server, false),
                    Kind::Socks5h => Route::Socks(server, true),
                }
            }
        }
    }

    fn is_pinned(&self, host: &str) -> bool {
        let pinned = self.pinned.as_deref();
        pinned.is_some_and(|pinned| pinned.eq_ignore_ascii_case(host))
    }
}

impl Choice {
    fn environment(variables: &EnvironmentProxies) -> Result<Self, String> {
        let server = |name: &str, value: &Option<Secret>| match value {
            Some(value) if !value.expose().trim().is_empty() => {
                let proxy = from_variable(value.expose().trim())
                    .ok_or_else(|| format!("{name} is not the URL of a proxy"))?;
                let server = Server::new(&proxy).map_err(|why| format!("{name}: {why}"))?;
                Ok(Some(Arc::new(server)))
            }
            Some(_) | None => Ok::<_, String>(None),
        };
        let all = server("ALL_PROXY", &variables.all)?;
        Ok(Self::Environment {
            http: server("HTTP_PROXY", &variables.http)?.or_else(|| all.clone()),
            https: server("HTTPS_PROXY", &variables.https)?.or(all),
            no: NoProxy::parse(&variables.no),
        })
    }
}

/// A proxy as the environment names it: the scheme may be missing (`http://` is meant), a user name and
/// password may be in it.
fn from_variable(value: &str) -> Option<Proxy> {
    let mut url = if value.contains("://") {
        Url::parse(value).ok()?
    } else {
        Url::parse(&format!("http://{value}")).ok()?
    };
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().ok()?;
        Some(text.into_owned())
    };
    let credentials = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        Some(Credentials {
            username: decode(url.username())?,
            password: Secret::new(decode(url.password().unwrap_or_default())?),
        })
    };
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(Proxy { url, credentials })
}

impl Server {
    fn new(proxy: &Proxy) -> Result<Self, String> {
        let (kind, port) = match proxy.url.scheme() {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https, 443),
            "socks5" => (Kind::Socks5, SOCKS_PORT),
            "socks5h" => (Kind::Socks5h, SOCKS_PORT),
            _ => return Err("a proxy is http://, https://, socks5:// or socks5h://".to_owned()),
        };
        let host = proxy.url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or("a proxy needs a host")?.to_owned();
        let authorization = match (kind, &proxy.credentials) {
            (_, None) => None,
            (Kind::Http | Kind::Https, Some(credentials)) => Some(basic(credentials)?),
            (Kind::Socks5 | Kind::Socks5h, Some(credentials)) => {
                let Credentials { username, password } = credentials;
                if username.len().max(password.expose().len()) > SOCKS_LOGIN_BYTES_MAX {
                    return Err(
                        "SOCKS5 takes usernames and passwords of at most 255 bytes".to_owned()
                    );
                }
                None
            }
        };
        Ok(Self {
            kind,
            host,
            port: proxy.url.port().unwrap_or(port),
            credentials: proxy.credentials.clone(),
            authorization,
        })
    }

    /// True if it is spoken to over TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.kind == Kind::Https
    }
}

/// Host and port, as errors name it.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proxy {}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn basic(credentials: &Credentials) -> Result<HeaderValue, String> {
    let Credentials { username, password } = credentials;
    // RFC 7617 section 2: the first colon ends the user name.
    if username.contains(':') {
        return Err("the username for a proxy must not contain a colon".to_owned());
    }
    let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
    let mut value = HeaderValue::try_from(format!("Basic {pair}"))
        .map_err(|_| "the credentials for a proxy fit no header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The host of a URI without brackets, and its port.
pub(super) fn host_and_port(uri: &Uri) -> (&str, u16) {
    let host = uri.host().unwrap_or_default();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let default = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    (bare.unwrap_or(host), uri.port_u16().unwrap_or(default))
}

/// True if a host is this machine. No proxy of the environment is asked for it, as with Go: the proxy
/// would look at its own machine.
fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => is_at_or_below(host, "localhost"),
    }
}

/// True if a host is this machine, or the metadata service of a cloud, which knows who we are by where we
/// ask from: no proxy can ask it for us.
fn is_metadata(host: &str) -> bool {
    matches!(Place::of_host(host), Place::Loopback | Place::LinkLocal)
}

/// The port of SOCKS (RFC 1928 section 3).
const SOCKS_PORT: u16 = 1080;
/// RFC 1929: the length is said in one byte.
const SOCKS_LOGIN_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests;
