//! Handles that a fill's work is given.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::origin::BlobSource;
use super::wish::FillOnRange;
use crate::mirror::core::{Core, Tasks, Upstreams};
use crate::mirror::fills::Fills;
use crate::mirror::shares::{Shares, Stays};
use crate::oci::UpstreamName;
use crate::store::Store;
use crate::telemetry::{Limit, Metrics};

/// Fills from one upstream that go on although nobody reads them any more: slow ones of one are not in the way of
/// another's.
const FILLS_UNATTENDED_MAX: usize = 32;

/// Handles that a fill's work is given.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) fill_on_range: FillOnRange,
    pub(super) store: Store,
    pub(super) upstreams: Upstreams,
    pub(super) tasks: Tasks,
    pub(super) fills: Arc<Fills>,
    pub(super) metrics: Metrics,
    /// Sources that are asked before the upstream, in this order.
    pub(super) sources: Vec<Arc<dyn BlobSource>>,
    /// Places for fills that nobody reads, of each upstream.
    unattended: Mutex<HashMap<UpstreamName, Arc<Shares>>>,
}

impl Means {
    pub(super) fn new(
        core: &Core,
        fill_on_range: FillOnRange,
        fills: &Arc<Fills>,
        sources: Vec<Arc<dyn BlobSource>>,
    ) -> Self {
        Self {
            fill_on_range,
            store: core.store.clone(),
            upstreams: core.upstreams.clone(),
            tasks: core.tasks.clone(),
            fills: Arc::clone(fills),
            metrics: core.metrics.clone(),
            sources,
            unattended: Mutex::default(),
        }
    }

    /// Places for fills from this upstream that nobody reads.
    pub(super) fn unattended(&self, upstream: &UpstreamName) -> Arc<Shares> {
        let places = || Shares::new(Limit::Transfers, FILLS_UNATTENDED_MAX, Stays::Nothing);
        // A table of handles, whole after each step. It has the names that are, or once were, configured.
        let mut all = self
            .unattended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(upstream.clone()).or_insert_with(places))
    }
}
