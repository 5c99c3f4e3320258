//! Connections to a server that is spoken to in another protocol than HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use url::Url;

use super::causes::root_cause;
use super::connector::{BoxStream, Miss, dial, look_up, start_tls};
use super::race::race;
use super::tls::TlsConfigs;
use super::{Error, Peer, ProxyConfig};

/// Makes connections to one server. They go straight, whatever proxies there are for HTTP, and have no time limit of
/// their own.
#[derive(Clone)]
pub(crate) struct Dialer {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
}

impl Dialer {
    /// Connections to the host of a URL. `ca_file`: a PEM file of certificates that the server's may be signed by,
    /// besides the system's. Blocks: files are read.
    ///
    /// # Errors
    /// One line that names the file, or the URL without a host.
    pub(crate) fn new(url: &Url, port: u16, ca_file: Option<&Path>) -> Result<Self, String> {
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| format!("{url} has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let peer = Peer {
            url,
            ca_file,
            client_certificate: None,
            insecure_skip_verify: false,
            proxy: &ProxyConfig::Direct,
            resolve: &[],
            redirect_networks: &[],
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            // Without ALPN, which is about HTTP.
            tls: Arc::clone(TlsConfigs::new(&peer)?.for_proxy()),
        })
    }

    /// A TCP connection to the first of the host's addresses that answers.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub(crate) async fn dial(&self) -> Result<BoxStream, Error> {
        let addresses = look_up(&self.host, self.port).await;
        let addresses = addresses.map_err(|error| self.failed(&error.to_string()))?;
        let attempts = addresses.into_iter().map(|address| async move {
            let stream = dial(SocketAddr::new(address, self.port)).await;
            stream.map_err(|error| Miss::Target(error.into()))
        });
        race(attempts).await.map_err(|miss| match miss {
            Some(Miss::Target(error) | Miss::Final(error)) => {
                self.failed(&root_cause(error.as_ref()))
            }
            None => self.failed("no address"),
        })
    }

    /// TLS over a connection; the certificate must be for the host.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub(crate) async fn secure(&self, stream: BoxStream) -> Result<BoxStream, Error> {
        let stream = start_tls(&self.tls, &self.host, stream).await;
        let stream = stream.map_err(|error| self.failed(&root_cause(error.as_ref())))?;
        Ok(Box::new(stream))
    }

    fn failed(&self, why: &str) -> Error {
        Error::Connect(format!("{}:{}: {why}", self.host, self.port))
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({}:{})", self.host, self.port)
    }
}
