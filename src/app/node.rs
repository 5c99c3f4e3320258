//! The node of a cluster that this process is.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::StartError;
use crate::access::{Sharing, SigningSeed};
use crate::cluster::{Cluster, Identity, MemberReport};
use crate::config::Config;
use crate::server::{ClusterMember, ClusterReport, NodeDesk, NodeListener, ThisNode};

/// The keys of this node, if it is one of a cluster, and its listener for the others.
pub(super) fn identify(config: &Config) -> Result<Option<(Identity, NodeListener)>, StartError> {
    let Some(config) = config.cluster.as_deref() else {
        return Ok(None);
    };
    let identity = Identity::read(&config.keys).map_err(StartError::Cluster)?;
    let listener = NodeListener {
        address: config.listen,
        tls: identity.server(),
    };
    Ok(Some((identity, listener)))
}

/// What it shares of access with the others.
pub(super) fn sharing(identity: &Identity) -> Sharing {
    let seeds = identity.token_seeds().iter();
    Sharing {
        seeds: seeds.copied().map(SigningSeed::new).collect(),
    }
}

/// The answers for other nodes, and for operators.
pub(super) fn desk(cluster: &Cluster) -> NodeDesk {
    let node = Arc::new(Node(cluster.clone()));
    NodeDesk::new(node, cluster.config().streams_max)
}

/// A node as others see it.
#[derive(Debug)]
struct Node(Cluster);

impl ThisNode for Node {
    fn greeting(&self) -> Bytes {
        self.0.greeting()
    }

    fn leave(&self, is_leaving: bool) {
        self.0.leave(is_leaving);
    }

    fn report(&self) -> ClusterReport {
        let members = self.0.members();
        let hello = self.0.hello();
        ClusterReport {
            node: hello.node.clone(),
            is_leaving: hello.draining,
            members: members.report().into_iter().map(member).collect(),
        }
    }

    fn have_leave<'a>(
        &'a self,
        node: &'a str,
        is_leaving: bool,
    ) -> BoxFuture<'a, Result<(), String>> {
        self.0.have_leave(node, is_leaving).boxed()
    }
}

fn member(report: MemberReport) -> ClusterMember {
    let MemberReport {
        address,
        state,
        hello,
        trouble,
    } = report;
    let (node, host, zone, version) = match hello {
        Some(hello) => (
            Some(hello.node),
            Some(hello.host).filter(|host| !host.is_empty()),
            hello.zone,
            Some(hello.version),
        ),
        None => (None, None, None, None),
    };
    ClusterMember {
        address,
        state,
        node,
        host,
        zone,
        version,
        trouble,
    }
}
