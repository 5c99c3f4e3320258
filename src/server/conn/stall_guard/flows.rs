//! The bodies of a connection: one at a time over HTTP/1, several over HTTP/2.

use super::flow::Flow;
use super::locked;
use super::seen::{FlowSeen, Why};
use crate::server::conn::limits::Limits;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// The number of flows at which those that are over are forgotten: the watch looks seldom.
pub(super) const FLOWS_KEPT_MAX: usize = 512;

/// The flows of a connection.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// HTTP/1's, one body after the other.
    only: Arc<Flow>,
    /// HTTP/2's, with what was seen of them.
    several: Mutex<Vec<(Arc<Flow>, FlowSeen)>>,
    /// That of the request that has just begun, for the task that runs it.
    begun: Mutex<Option<Arc<Flow>>>,
}

/// The result of a look at HTTP/2's flows.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) are_running: bool,
    pub(super) are_under_way: bool,
    /// Those that there are, and those of them that are too slow.
    pub(super) count: usize,
    pub(super) slow: usize,
    /// The last bytes of finished requests that their client does not take.
    pub(super) have_stuck_ends: bool,
    pub(super) ended: Option<(Why, usize)>,
}

impl Flows {
    /// The flow of a request that begins.
    pub(super) fn begin(&self, is_http2: bool) -> Arc<Flow> {
        let flow = if is_http2 {
            let flow = Arc::<Flow>::default();
            let mut flows = locked(&self.several);
            if flows.len() >= FLOWS_KEPT_MAX {
                flows.retain(|(flow, _)| is_kept(flow));
            }
            flows.push((Arc::clone(&flow), FlowSeen::default()));
            drop(flows);
            *locked(&self.begun) = Some(Arc::clone(&flow));
            flow
        } else {
            Arc::clone(&self.only)
        };
        flow.begin();
        flow
    }

    /// The flow of the request that [`begin`](Self::begin) was last called for, once.
    pub(super) fn begun(&self) -> Option<Arc<Flow>> {
        locked(&self.begun).take()
    }

    /// Looks at what has changed since the last time, and gives up what has stood still for too long.
    pub(super) fn look(&self, now: Instant, limits: &Limits, is_pressed: bool) -> Found {
        let mut found = Found::default();
        locked(&self.several).retain_mut(|(flow, seen)| {
            if !is_kept(flow) {
                return false;
            }
            let waits = flow.waits_for_client();
            let taken = flow.taken();
            seen.note(now, taken, waits);
            seen.rate.note(now, taken, waits, limits.body_min_rate);
            found.are_under_way |= flow.is_under_way();
            let stalled = waits && seen.stood(now) >= limits.body_stall_timeout;
            let is_slow = waits && seen.rate.is_slow();
            found.count += 1;
            found.slow += usize::from(is_slow);
            if !flow.is_live() {
                found.have_stuck_ends |= stalled || (is_slow && is_pressed);
            } else if stalled || (is_slow && is_pressed) {
                flow.give_up();
                let why = if stalled { Why::Stall } else { Why::Rate };
                let count = found.ended.map_or(0, |(_, count)| count);
                found.ended = Some((why, count + 1));
            } else {
                found.are_running = true;
            }
            true
        });
        found
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        locked(&self.several).len()
    }
}

/// True if somebody but the watch has it.
fn is_kept(flow: &Arc<Flow>) -> bool {
    Arc::strong_count(flow) > 1
}
