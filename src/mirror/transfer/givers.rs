//! The endpoints that give a fill its bytes: what is known of each, and which one is believed.

use std::collections::HashMap;

use super::trust::Trust;
use crate::upstream::{EndpointId, Upstream};

/// What is known of the endpoints of one fill.
#[derive(Debug, Default)]
pub(super) struct Givers {
    pub(super) trust: Trust,
    /// Whose connections broke, how often.
    pub(super) failures: HashMap<EndpointId, u32>,
    /// The strong `ETag` that each host gave.
    pub(super) validators: HashMap<(EndpointId, String), String>,
    /// The one endpoint that is believed, after others were not.
    pub(super) only: Option<EndpointId>,
    /// Where a body last ended cleanly, of an endpoint that did not announce its size, before the size
    /// that a manifest says was reached.
    pub(super) short_end: Option<(EndpointId, u64)>,
    /// Of these endpoints ranges are not asked for: everything is streamed from the start, and what is
    /// there is skipped.
    pub(super) plain: Vec<EndpointId>,
    /// The endpoint that announced the total, where no manifest had.
    pub(super) announced_by: Option<EndpointId>,
}

impl Givers {
    /// Whether ranges may be asked for at an endpoint.
    pub(super) fn take_ranges(&self, upstream: &Upstream, endpoint: EndpointId) -> bool {
        !self.plain.contains(&endpoint) && upstream.honours_range(endpoint)
    }
}
