//! HTTP in. (skeleton)
use crate::clock::Clock;
use crate::mirror::Mirror;
use crate::telemetry::Metrics;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Metrics, health and the admin API.
    pub admin_listen: SocketAddr,
    /// HTTPS; plain HTTP when absent.
    pub tls: Option<TlsConfig>,
    /// How long running bodies may go on after SIGTERM.
    pub drain_timeout: Duration,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Why a server cannot start; one clear line each, naming the address or file and the cause.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate or key cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Bound listeners, not serving yet.
#[derive(Debug)]
pub struct Bound {}

impl Bound {
    /// Binds both listeners and reads the certificate.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        todo!()
    }
    /// The client listener's real address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        todo!()
    }
    /// The admin listener's real address.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        todo!()
    }
    /// Serves until `stop` is cancelled; then takes no new connection, lets running requests and bodies
    /// finish for `drain_timeout`, and returns.
    pub async fn serve(
        self,
        mirror: Mirror,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) {
        todo!()
    }
}
