//! The policies that were not kept, as they would be in the store: same ledger, same trait.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};

use roadstead::clock::Timestamp;
use roadstead::oci::Digest;
use roadstead::store::evict::policy::cheapest;
use roadstead::store::evict::{Blobs, Place, Policy};

/// Sizes by powers of two: larger than 2^39 bytes is as large.
const SIZE_CLASSES: u16 = 40;

/// Uses told apart by the policies that weigh them with sizes.
const USE_CLASSES: u16 = 16;

/// Segmented LRU: what was used again is protected, until that is four fifths of everything.
#[derive(Debug, Default)]
pub(crate) struct Segmented;

impl Policy for Segmented {
    const LISTS: u16 = 2;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        let again = uses(blobs, place) > 1;
        self.used(blobs, place, again);
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, counted: bool) {
        let list = blobs.entry(place).map_or(0, |entry| entry.list);
        blobs.put(place, if counted { 1 } else { list });
        while blobs.list_bytes(1) > blobs.bytes() / 5 * 4 {
            let Some(oldest) = blobs.oldest(1) else { break };
            blobs.put(oldest, 0);
        }
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, _: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |place| Some(blobs.entry(place)?.list))
    }

    fn evicted(&mut self, _: &Blobs, _: Place) {}
}

/// S3-FIFO: a tenth for newcomers, who stay if they are used again; then a clock of two bits; a list
/// of what went lately, whose return is to the main queue.
#[derive(Debug, Default)]
pub(crate) struct S3Fifo {
    frequency: HashMap<Place, u8>,
    ghosts: HashSet<Digest>,
    ghost_order: VecDeque<Digest>,
}

impl S3Fifo {
    const SMALL: u16 = 0;
    const MAIN: u16 = 1;
    const OUT: u16 = 2;

    /// Moves the next to go to [`S3Fifo::OUT`]. Whether there was one.
    fn step(&mut self, blobs: &mut Blobs) -> bool {
        let small = blobs.evictable(blobs.oldest(Self::SMALL));
        let main = blobs.evictable(blobs.oldest(Self::MAIN));
        let over = blobs.list_bytes(Self::SMALL) > blobs.bytes() / 10;
        let Some(place) = (if over { small.or(main) } else { main.or(small) }) else {
            return false;
        };
        let frequency = self.frequency.entry(place).or_default();
        let from_small = Some(place) == small;
        if *frequency > 0 {
            *frequency = if from_small { 0 } else { *frequency - 1 };
            blobs.put(place, Self::MAIN);
        } else {
            if let Some(digest) = blobs.digest(place).filter(|_| from_small)
                && self.ghosts.insert(digest)
            {
                self.ghost_order.push_back(digest);
            }
            while self.ghost_order.len() > blobs.len() {
                let gone = self.ghost_order.pop_front();
                gone.map(|gone| self.ghosts.remove(&gone));
            }
            blobs.put(place, Self::OUT);
        }
        true
    }
}

impl Policy for S3Fifo {
    const LISTS: u16 = 3;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        self.frequency.insert(place, 0);
        let known = blobs
            .digest(place)
            .is_some_and(|digest| self.ghosts.contains(&digest));
        blobs.put(place, if known { Self::MAIN } else { Self::SMALL });
    }

    fn used(&mut self, _: &mut Blobs, place: Place, counted: bool) {
        let frequency = self.frequency.entry(place).or_default();
        *frequency = (*frequency + u8::from(counted)).min(3);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, _: Timestamp) -> Vec<Place> {
        while blobs.list_bytes(Self::OUT) < need && self.step(blobs) {}
        let mut out = Vec::new();
        let mut next = blobs.oldest(Self::OUT);
        while let Some(place) = next {
            out.push(place);
            next = blobs.newer(place);
        }
        out
    }

    fn evicted(&mut self, _: &Blobs, place: Place) {
        self.frequency.remove(&place);
    }
}

/// LFU with dynamic ageing, which is Greedy-Dual-Size-Frequency at a cost of the blob's bytes: worth
/// is the number of uses, and what the last victim was worth when it was used last.
#[derive(Debug, Default)]
pub(crate) struct LfuAging {
    age: u64,
    /// The age at the last use.
    marks: HashMap<Place, u64>,
}

impl LfuAging {
    fn worth(&self, blobs: &Blobs, place: Place) -> Option<u64> {
        Some(self.marks.get(&place)? + u64::from(blobs.entry(place)?.uses))
    }
}

impl Policy for LfuAging {
    const LISTS: u16 = 256;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        self.marks.insert(place, self.age);
        blobs.put(place, u16::from(uses(blobs, place)));
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, _: bool) {
        self.entered(blobs, place);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, _: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |place| self.worth(blobs, place))
    }

    fn evicted(&mut self, blobs: &Blobs, place: Place) {
        self.age = self.age.max(self.worth(blobs, place).unwrap_or_default());
    }
}

/// Greedy-Dual-Size-Frequency at a cost of one a fetch: worth falls with the size. Sizes count by
/// powers of two, uses up to 16.
#[derive(Debug, Default)]
pub(crate) struct SizeFrequency {
    age: u64,
    marks: HashMap<Place, u64>,
}

impl SizeFrequency {
    fn worth(&self, blobs: &Blobs, place: Place) -> Option<u64> {
        let class = size_class(blobs, place);
        let weight = u64::from(use_class(blobs, place) + 1) << (SIZE_CLASSES - class);
        Some(self.marks.get(&place)? + weight)
    }
}

impl Policy for SizeFrequency {
    const LISTS: u16 = SIZE_CLASSES * USE_CLASSES;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        self.marks.insert(place, self.age);
        let list = use_class(blobs, place) * SIZE_CLASSES + size_class(blobs, place);
        blobs.put(place, list);
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, _: bool) {
        self.entered(blobs, place);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, _: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |place| self.worth(blobs, place))
    }

    fn evicted(&mut self, blobs: &Blobs, place: Place) {
        self.age = self.age.max(self.worth(blobs, place).unwrap_or_default());
    }
}

/// LRU weighted by size: the greatest product of idle time and size goes first.
#[derive(Debug, Default)]
pub(crate) struct SizeWeighted;

impl Policy for SizeWeighted {
    const LISTS: u16 = SIZE_CLASSES;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        blobs.put(place, size_class(blobs, place));
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, _: bool) {
        self.entered(blobs, place);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, now: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |place| {
            let product = idle(blobs, place, now) << size_class(blobs, place);
            Some(Reverse(product))
        })
    }

    fn evicted(&mut self, _: &Blobs, _: Place) {}
}

/// The policy kept, with another cap on the uses that count.
#[derive(Debug, Default)]
pub(crate) struct IdleBy<const USES_MAX: u16>;

impl<const USES_MAX: u16> Policy for IdleBy<USES_MAX> {
    const LISTS: u16 = USES_MAX;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        blobs.put(place, u16::from(uses(blobs, place)).clamp(1, USES_MAX) - 1);
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, _: bool) {
        self.entered(blobs, place);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, now: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |place| {
            let uses = u128::from(blobs.entry(place)?.list) + 1;
            Some(Reverse((idle(blobs, place, now) << 40) / uses))
        })
    }

    fn evicted(&mut self, _: &Blobs, _: Place) {}
}

fn uses(blobs: &Blobs, place: Place) -> u8 {
    blobs.entry(place).map_or(1, |entry| entry.uses)
}

fn use_class(blobs: &Blobs, place: Place) -> u16 {
    u16::from(uses(blobs, place)).clamp(1, USE_CLASSES) - 1
}

fn size_class(blobs: &Blobs, place: Place) -> u16 {
    let size = blobs.entry(place).map_or(1, |entry| entry.size.max(1));
    u16::try_from(size.ilog2())
        .unwrap_or(SIZE_CLASSES)
        .min(SIZE_CLASSES - 1)
}

fn idle(blobs: &Blobs, place: Place, now: Timestamp) -> u128 {
    let used = blobs.entry(place).map_or(0, |entry| entry.used.0);
    u128::from(now.0.saturating_sub(used)) + 1
}
