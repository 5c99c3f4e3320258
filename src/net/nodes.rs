//! Requests to the other nodes of a cluster: straight, over TLS, in HTTP/1.1, each on a connection of its own.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

use super::connector::{Connector, Shared};
use super::gate::{Errand, Gate};
use super::proxy::Proxies;
use super::tls::TlsConfigs;
use super::{Error, OwnListeners, ProxyConfig, root_cause};

/// Below the time after which a node closes idle connections.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// Idle connections kept for one node: the layers of an image or two.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// Requests to nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NodeClient(Client<Connector, Empty<Bytes>>);

impl NodeClient {
    /// A client that recognizes nodes, and is recognized by them, by `tls`. `connect_timeout` covers TCP and TLS.
    ///
    /// # Errors
    /// One line.
    pub(crate) fn new(tls: ClientConfig, connect_timeout: Duration) -> Result<Self, String> {
        let shared = Shared {
            proxies: Arc::new(Proxies::new(&ProxyConfig::Direct, None)?),
            pinned: None,
            tls: TlsConfigs::only(tls),
            // It finds itself among the addresses, and has to ask to know it.
            gate: Gate::without_home(OwnListeners::default()),
            limit: connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(Connector::new(Arc::new(shared), Errand::Configured));
        Ok(Self(client))
    }

    /// A GET of a path, with its query, of the node at an address.
    ///
    /// # Errors
    /// [`Error::Protocol`]: that is no path.
    pub(crate) fn request(address: SocketAddr, path: &str) -> Result<Request<Empty<Bytes>>, Error> {
        let uri = Uri::builder()
            .scheme("https")
            .authority(address.to_string())
            .path_and_query(path)
            .build()
            .map_err(|error| Error::Protocol(error.to_string()))?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        Ok(request)
    }

    /// Sends a request, and waits so long for the head of its answer.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Broken`], [`Error::Timeout`].
    pub(crate) async fn send(
        &self,
        request: Request<Empty<Bytes>>,
        within: Duration,
    ) -> Result<Response<Incoming>, Error> {
        // Boxed: whatever waits for a node would be large.
        let sending = Box::pin(self.0.request(request));
        match tokio::time::timeout(within, sending).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Error::Connect(root_cause(&error))),
            Ok(Err(error)) => Err(Error::Broken(root_cause(&error))),
            Err(_elapsed) => Err(Error::Timeout("another node")),
        }
    }
}

impl fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeClient")
    }
}
