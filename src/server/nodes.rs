//! The listener for the other nodes of a cluster, what they may ask there, and what an operator is told of them.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The node of this process.
pub trait ThisNode: fmt::Debug + Send + Sync {
    /// The answer to a greeting: JSON.
    fn greeting(&self) -> Bytes;

    /// It owns nothing from now on, or does again.
    fn leave(&self, is_leaving: bool);

    /// The nodes as this one sees them.
    fn report(&self) -> ClusterReport;

    /// Has another node own nothing from now on, or again.
    fn have_leave<'a>(
        &'a self,
        node: &'a str,
        is_leaving: bool,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// The nodes of a cluster as one of them sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The name of the node that tells.
    pub node: String,
    /// True if it owns nothing any more.
    pub is_leaving: bool,
    /// The addresses that it knows.
    pub members: Vec<ClusterMember>,
}

/// An address, and the node there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMember {
    /// The address.
    pub address: SocketAddr,
    /// `this`, `up`, `leaving` or `down`.
    pub state: String,
    /// The node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The name of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The zone that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The version that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The reason why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The listener for nodes.
#[derive(Clone, Debug)]
pub struct NodeListener {
    /// The address.
    pub address: SocketAddr,
    /// TLS, which lets nodes in and nobody else.
    pub tls: Arc<rustls::ServerConfig>,
}

/// The answers that nodes get. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeDesk {
    node: Arc<dyn ThisNode>,
    streams: Arc<Semaphore>,
}

impl NodeDesk {
    /// Answers for a node, with so many bodies of blobs at once.
    #[must_use]
    pub fn new(node: Arc<dyn ThisNode>, streams_max: usize) -> Self {
        let streams = Semaphore::new(streams_max.min(Semaphore::MAX_PERMITS));
        Self {
            node,
            streams: Arc::new(streams),
        }
    }

    pub(crate) fn node(&self) -> &dyn ThisNode {
        &*self.node
    }

    /// A place for the body of a blob, until it is dropped; `None`: all are taken.
    pub(crate) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }
}
