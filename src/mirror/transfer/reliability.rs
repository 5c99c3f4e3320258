//! The reliability of each origin of a fill's bytes, and the one that is fallen back to.

use std::collections::HashMap;

use super::origin::{Origin, Origins};
use super::provenance::Provenance;

/// An endpoint without ranges begins at the first byte again: so many broken connections of one that has
/// them are rather put up with.
const UNFIT_WEIGHT: u32 = 3;

/// Observations of the origins of one fill.
#[derive(Debug, Default)]
pub(super) struct Reliability {
    pub(super) provenance: Provenance,
    /// Sources beside the upstream that may be asked, in this order, before it. One that fails leaves the list.
    pub(super) others: Vec<Origin>,
    /// Nodes that did not give what they had offered.
    pub(super) failed_holders: Vec<Origin>,
    /// Number of times that connections of an endpoint broke.
    pub(super) failures: HashMap<Origin, u32>,
    /// The strong `ETag` that each host gave.
    pub(super) validators: HashMap<(Origin, String), String>,
    /// The one endpoint that was fallen back to, after wrong bytes.
    pub(super) only: Option<Origin>,
    /// Offset at which a body last ended cleanly, of an endpoint that did not announce its size, before the size
    /// that a manifest says was reached.
    pub(super) short_end: Option<(Origin, u64)>,
    /// Origins that ranges are not asked of: everything is streamed from the start, and what is there is skipped.
    pub(super) plain: Vec<Origin>,
    /// The endpoint that announced the total, where no manifest had.
    pub(super) announced_by: Option<Origin>,
}

impl Reliability {
    /// True if ranges may be asked for.
    pub(super) fn takes_ranges(&self, origins: &Origins<'_>, origin: Origin) -> bool {
        !self.plain.contains(&origin) && origins.honours_range(origin)
    }

    /// The origins to ask now: sources beside the upstream, then its endpoints, those whose connections broke least
    /// often first. Never empty.
    pub(super) fn order(&self, origins: &Origins<'_>, needs_range: bool) -> Vec<Origin> {
        if let Some(only) = self.only {
            return vec![only];
        }
        let mut endpoints = origins.endpoints();
        endpoints.sort_by_key(|endpoint| {
            let failures = self.failures.get(endpoint).copied().unwrap_or_default();
            let unfit = needs_range && !self.takes_ranges(origins, *endpoint);
            failures.saturating_add(if unfit { UNFIT_WEIGHT } else { 0 })
        });
        if self.others.is_empty() {
            return endpoints;
        }
        [self.others.as_slice(), &endpoints].concat()
    }

    /// A source beside the upstream is asked no more.
    pub(super) fn leave(&mut self, other: Origin) {
        let before = self.others.len();
        self.others.retain(|it| *it != other);
        if self.others.len() == before {
            self.failed_holders.push(other);
        }
    }

    /// True if ranges may be asked for at the origin that is asked next.
    pub(super) fn next_takes_ranges(&self, origins: &Origins<'_>) -> bool {
        let order = self.order(origins, true);
        let next = order.first();
        next.is_some_and(|next| self.takes_ranges(origins, *next))
    }
}
