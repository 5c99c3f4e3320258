//! Reasons why a server cannot start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Reason why a server cannot start; one clear line each, naming the address or file and the cause.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The Unix socket cannot be bound.
    #[error("cannot listen on {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A socket that the service manager has bound cannot be used.
    #[error("cannot use the inherited socket {socket}: {why}")]
    Inherited {
        /// The socket: its name, and what else is known of it.
        socket: String,
        /// The cause.
        why: String,
    },
    /// The certificate or key cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
}
