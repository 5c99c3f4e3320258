//! The object store of this process.

use std::sync::Arc;

use super::StartError;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::mirror::Beside;
use crate::server::{ThisTier, TierStatus};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::tier::Tier;
use crate::upstream::OwnListeners;

/// The object store that is configured, if there is one. Dials nothing.
pub(super) fn open(
    config: &Config,
    store: &Store,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    own: &OwnListeners,
) -> Result<Option<Arc<Tier>>, StartError> {
    let Some(tier) = config.tier.as_deref() else {
        return Ok(None);
    };
    let (clock, metrics) = (Arc::clone(clock), metrics.clone());
    let tier = Tier::new(tier.clone(), store, clock, metrics, own);
    tier.map(|tier| Some(Arc::new(tier)))
        .map_err(StartError::Tier)
}

/// The places that are asked before the upstream: the nodes of a cluster, then the object store.
pub(super) fn beside(cluster: Option<&Cluster>, tier: Option<&Arc<Tier>>) -> Beside {
    let peers = cluster.map(|cluster| Arc::clone(cluster.peers()));
    let nodes = peers.iter().map(|peers| Arc::clone(peers) as _);
    let buckets = tier.map(|tier| Arc::clone(tier) as _);
    Beside {
        sources: nodes.chain(buckets).collect(),
        nodes: peers.map(|peers| peers as _),
        archive: tier.map(|tier| Arc::clone(tier) as _),
    }
}

/// The object store, for operators.
pub(super) fn described(tier: &Arc<Tier>) -> Arc<dyn ThisTier> {
    Arc::new(Bucket(Arc::clone(tier)))
}

/// The object store as operators see it.
#[derive(Debug)]
struct Bucket(Arc<Tier>);

impl ThisTier for Bucket {
    fn report(&self) -> TierStatus {
        let report = self.0.report();
        TierStatus {
            bucket: report.bucket,
            state: report.state.to_owned(),
            trouble: report.trouble,
            pending_blobs: report.pending,
            pending_bytes: report.pending_bytes,
            pending_facts: report.pending_facts,
        }
    }
}
