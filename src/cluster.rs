//! Several nodes that share one cache: for each digest, and each tag, one of them asks the upstream for all.
//!
//! | file | what |
//! | --- | --- |
//! | `config` | what is configured |
//! | `identity` | the keys by which nodes know each other |
//! | `members` | the nodes as this one sees them, and which of them owns what (pure) |
//! | `discovery` | finding nodes, and noticing that one is gone |
//! | `peers` | asking them for blobs and manifests |
//!
//! A node is a source of blobs (`mirror::BlobSource`) that is asked before the upstream: resuming at the byte reached, going
//! on elsewhere, and checking are the mirror's. No correctness rests on agreement about the members: a digest is checked by
//! whoever reads, and **what a node asks never waits for a node**, so that no circle of waiting closes.

mod config;
mod discovery;
mod identity;
mod members;
mod peers;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

pub use config::{Config, Keys, STREAMS_MAX, Seed};
use discovery::Discovery;
pub use identity::Identity;
pub use members::{Hello, MemberReport, Members, NodeId};
pub use peers::Peers;

use crate::catalogue::{Catalogue, Change};
use crate::telemetry::Metrics;

/// The version of what nodes say to each other.
pub(crate) const PROTOCOL: u32 = 1;

/// The node of this process. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    config: Arc<Config>,
    members: Arc<Members>,
    peers: Arc<Peers>,
    discovery: Arc<Discovery>,
    host: Arc<str>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("me", &self.members.me())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// A node that has not looked for others yet. Its name is in the catalogue; one that cannot be written gives it another
    /// one each time, and it owns other things then.
    ///
    /// # Errors
    /// One line.
    pub async fn new(
        config: Config,
        identity: &Identity,
        catalogue: &Catalogue,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let me = name(catalogue).await?;
        let members = Arc::new(Members::new(me, members::process()?));
        let peers = Arc::new(Peers::new(
            identity,
            Arc::clone(&members),
            config.zone.clone(),
            metrics.clone(),
        )?);
        let discovery = Discovery::new(
            config.seeds.clone(),
            Arc::clone(&members),
            peers.client(),
            metrics,
        );
        Ok(Self {
            config: Arc::new(config),
            host: host().into(),
            members,
            peers,
            discovery: Arc::new(discovery),
        })
    }

    /// The other nodes, as a source.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// The nodes.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// What is configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What this node says of itself.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            node: self.members.me().to_string(),
            process: self.members.process().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.to_string(),
            zone: self.config.zone.clone(),
            draining: self.members.is_leaving(),
        }
    }

    /// The same as other nodes get it: JSON.
    #[must_use]
    pub fn greeting(&self) -> Bytes {
        // Strings and numbers: they always fit.
        serde_json::to_vec(&self.hello()).unwrap_or_default().into()
    }

    /// This node is about to leave, or stays after all: it owns nothing from now on, as the others hear within a second or
    /// two. What they read is read to its end.
    pub fn leave(&self, is_leaving: bool) {
        if self.members.is_leaving() != is_leaving {
            self.members.leave(is_leaving);
            tracing::info!(node = %self.members.me(), is_leaving, "this node owns nothing any more, or does again");
        }
    }

    /// The same for another node, which a person names.
    ///
    /// # Errors
    /// One line: there is no such node, or it does not answer.
    pub async fn have_leave(&self, node: &str, is_leaving: bool) -> Result<(), String> {
        let address = self.members.find(node)?;
        if self.members.is_here(address) {
            self.leave(is_leaving);
            return Ok(());
        }
        let told = self.peers.have_leave(address, is_leaving).await;
        told.map_err(|error| format!("{address}: {error}"))
    }

    /// Finds other nodes, and notices when one is gone, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tracing::info!(
            node = %self.members.me(), listen = %self.config.listen,
            zone = self.config.zone, "this node looks for the others of its cluster"
        );
        stop.run_until_cancelled(self.discovery.run()).await;
    }
}

/// The name of the machine, for people.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim()
        .chars()
        .filter(|it| !it.is_control())
        .take(64)
        .collect()
}

/// The name of this node, which its catalogue has.
async fn name(catalogue: &Catalogue) -> Result<NodeId, String> {
    let known = || async {
        let known = catalogue.node().await;
        known.map(|known| known.as_deref().and_then(NodeId::parse))
    };
    if let Ok(Some(known)) = known().await {
        return Ok(known);
    }
    let new = NodeId::random()?;
    let change = Change::Node(new.to_string());
    if let Err(error) = catalogue.commit(change).await {
        tracing::warn!(node = %new, %error, "the name of this node cannot be kept: it has another one, and owns other things, after each restart until the catalogue can be written");
        return Ok(new);
    }
    Ok(known().await.ok().flatten().unwrap_or(new))
}
