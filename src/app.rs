//! Puts the parts together, runs them, drains them. (skeleton)
use crate::{clock::Clock, config::Config, server::BindError};
use std::net::SocketAddr;
use std::sync::Arc;

/// A running roadstead.
#[derive(Debug)]
pub struct App {}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The store's directory.
    #[error("{0}")]
    Store(String),
    /// An upstream's CA file or the like.
    #[error("{0}")]
    Upstream(String),
}

impl App {
    /// Opens the store, binds, and serves in the background of the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
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
    /// Drains and stops: returns when nothing runs any more.
    pub async fn stop(self) {
        todo!()
    }
}
