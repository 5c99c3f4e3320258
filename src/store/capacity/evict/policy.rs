//! The choice of the blob that goes first.

use std::cmp::Reverse;

use super::blobs::{Blobs, Place};
use super::uses;
use crate::clock::Timestamp;

/// The choice of the blob that goes first. The ledger keeps the sizes, the bound and the pins; a policy keeps the
/// order. It is told of everything that happens and may move blobs between lists, nothing else.
pub trait Policy: std::fmt::Debug {
    /// Number of lists that it orders blobs in.
    const LISTS: u16;

    /// A blob came in or was read at start-up, the oldest use first; it is in list 0.
    fn entered(&mut self, blobs: &mut Blobs, place: Place);

    /// A blob was used. `counted` once for all uses within a minute: it is one more in the
    /// entry's `uses` already.
    fn used(&mut self, blobs: &mut Blobs, place: Place, counted: bool);

    /// Names what to delete first, until `need` bytes are found or there is no more. None of
    /// them is pinned, each frees something, and none is named twice.
    fn victims(&mut self, blobs: &mut Blobs, need: u64, now: Timestamp) -> Vec<Place>;

    /// A victim that it named goes now.
    fn evicted(&mut self, blobs: &Blobs, place: Place);
}

/// Names victims where each list is in the order in which its blobs should go: time and again the
/// one of the lists' oldest that is worth least. Takes time for each victim, each list and each
/// pinned blob passed over.
pub fn cheapest<V: Ord>(
    blobs: &Blobs,
    need: u64,
    worth: impl Fn(Place) -> Option<V>,
) -> Vec<Place> {
    let mut next: Vec<Option<Place>> = (0..blobs.lists())
        .map(|list| blobs.evictable(blobs.oldest(list)))
        .collect();
    let (mut found, mut victims) = (0_u64, Vec::new());
    while found < need {
        let offers = next.iter_mut().filter_map(|offer| {
            let place = (*offer)?;
            Some((worth(place)?, place, offer))
        });
        let Some((_, place, offer)) = offers.min_by(|a, b| a.0.cmp(&b.0)) else {
            break;
        };
        *offer = blobs.evictable(blobs.newer(place));
        found = found.saturating_add(blobs.entry(place).map_or(0, |entry| entry.size));
        victims.push(place);
    }
    victims
}

/// The policy kept: the blob goes first whose idle time, divided by its uses, is longest. One used
/// in ten different minutes may lie idle ten times as long as one that was used once: a scan of
/// everything must be ten times as large to push it out.
///
/// A copy that another node of the cluster gave goes before what this node alone has: it seems idle for [`COPY_TIMES`] as long.
///
/// Blobs of as many uses are a list in order of last use; the longest idle of each list are
/// compared. All that it goes by is in the index: a restart changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdleByUses;

/// More uses than this count no more. What was once pulled all the time must go within a bounded
/// time when it is no longer pulled; `docs/eviction.md` compares.
const USES_MAX: u8 = 16;

/// A copy counts as idle for this many times as long. That a node with a third of the disk has little of what the others have
/// is worth more to all than that it has it from its own disk; `benches/eviction --cluster` compares.
const COPY_TIMES: u32 = 16;

impl Policy for IdleByUses {
    const LISTS: u16 = 2 * USES_MAX as u16;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        let list = blobs.entry(place).map_or(0, |entry| list_of(entry.uses));
        blobs.put(place, list);
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, _counted: bool) {
        self.entered(blobs, place);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, now: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |place| {
            let entry = blobs.entry(place)?;
            // A millisecond more: of those used just now, the one used least goes first.
            let idle = u128::from(now.0.saturating_sub(entry.used.0)) + 1;
            let uses = u128::from(list_of(uses::count(entry.uses))) + 1;
            let times = if uses::is_copy(entry.uses) {
                COPY_TIMES
            } else {
                1
            };
            let part = u128::from(DIVISIBLE) * u128::from(times);
            Some(Reverse(idle * part / uses))
        })
    }

    fn evicted(&mut self, _: &Blobs, _: Place) {}
}

/// The least common multiple of 1 to [`USES_MAX`]: nothing is lost when an idle time is divided.
const DIVISIBLE: u32 = 720_720;

/// The list for that many uses: first those of what this node alone has, then those of copies.
fn list_of(uses: u8) -> u16 {
    let list = u16::from(uses::count(uses).clamp(1, USES_MAX)) - 1;
    if uses::is_copy(uses) {
        list + u16::from(USES_MAX)
    } else {
        list
    }
}

/// Least recent use alone: what the others are measured by.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastRecent;

impl Policy for LeastRecent {
    const LISTS: u16 = 1;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        blobs.put(place, 0);
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, _counted: bool) {
        blobs.put(place, 0);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, _now: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |_| Some(()))
    }

    fn evicted(&mut self, _: &Blobs, _: Place) {}
}
