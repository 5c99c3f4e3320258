//! Requests to an object store: over pooled connections, through the proxy that is configured, within a time limit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connector::{Connector, Shared};
use super::gate::{Errand, Gate};
use super::proxy::{Proxies, Route};
use super::tls::TlsConfigs;
use super::{Error, OwnListeners, Peer, root_cause};

/// Below the time after which stores close idle connections.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Idle connections: as many as one big blob and some small objects are read on.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// The value of `User-Agent`.
const AGENT: &str = concat!("roadstead/", env!("CARGO_PKG_VERSION"));

/// The client of an object store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StorageClient<B> {
    client: Client<Connector, B>,
    proxies: Arc<Proxies>,
}

impl<B> StorageClient<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A client that connects as `peer` says, and never to `own`. Dials nothing. `connect_timeout` covers the name, TCP and
    /// TLS.
    ///
    /// # Errors
    /// One line that names the file or setting that cannot be used.
    pub(crate) fn new(
        peer: &Peer<'_>,
        connect_timeout: Duration,
        own: OwnListeners,
    ) -> Result<Self, String> {
        let proxies = Arc::new(Proxies::new(peer.proxy, None)?);
        let shared = Shared {
            proxies: Arc::clone(&proxies),
            pinned: None,
            tls: TlsConfigs::new(peer)?,
            gate: Gate::without_home(own),
            limit: connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(Connector::new(Arc::new(shared), Errand::Configured));
        Ok(Self { client, proxies })
    }

    /// Sends a request, and waits so long for the head of its answer.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Broken`], [`Error::Timeout`].
    pub(crate) async fn send(
        &self,
        mut request: Request<B>,
        within: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let forwarder = match self.proxies.route(request.uri()) {
            Route::Forward(server) => Some(server),
            Route::Direct | Route::Tunnel(_) | Route::Socks(..) => None,
        };
        // Neither is among the headers that a signature covers.
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(value) = forwarder.as_ref().and_then(|it| it.authorization.as_ref()) {
            headers.insert(PROXY_AUTHORIZATION, value.clone());
        }
        // Boxed: whatever waits for the store would be large.
        let sending = Box::pin(self.client.request(request));
        match tokio::time::timeout(within, sending).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Error::Connect(root_cause(&error))),
            Ok(Err(error)) => Err(Error::Broken(root_cause(&error))),
            Err(_elapsed) => Err(Error::Timeout("the object store")),
        }
    }
}

impl<B> fmt::Debug for StorageClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageClient")
    }
}
