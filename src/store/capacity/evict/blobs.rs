//! The stored blobs in lists: what a [`Policy`](super::Policy) orders.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::slots::{NONE, Slots, first_half};
use super::uses;
use crate::clock::Timestamp;
use crate::oci::Digest;

/// The place of a blob. Good until the blob is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    /// A number below that of the most blobs there ever were at once.
    #[must_use]
    pub fn number(self) -> usize {
        self.0 as usize
    }
}

/// Facts about a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its size in bytes.
    pub size: u64,
    /// The last use that was counted.
    pub used: Timestamp,
    /// In how many different minutes it was used, and whether it is a copy: see `uses`.
    pub uses: u8,
    /// Open readers; while there are any the blob is no victim.
    pub pins: u32,
    /// The list it is in.
    pub list: u16,
    /// Whose it is, in one byte; 0: nobody's.
    pub owner: u8,
}

/// Blobs by digest, each in one of several lists, newest first. All is O(1), 64 bytes a blob and
/// five to ten for the table.
#[derive(Debug)]
pub struct Blobs {
    slots: Slots,
    by_digest: HashTable<u32>,
    hasher: RandomState,
    lists: Vec<List>,
    used: u64,
    /// Only these are evictable for the moment.
    only: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
struct List {
    newest: u32,
    oldest: u32,
    bytes: u64,
}

impl Blobs {
    /// No blobs, in this many lists and the one of those that are kept.
    #[must_use]
    pub fn new(lists: u16) -> Self {
        let empty = List {
            newest: NONE,
            oldest: NONE,
            bytes: 0,
        };
        Self {
            slots: Slots::default(),
            by_digest: HashTable::new(),
            hasher: RandomState::new(),
            lists: vec![empty; usize::from(lists) + 1],
            used: 0,
            only: None,
        }
    }

    /// Has room for so many more, at once: growing step by step would hash all again each time.
    pub(super) fn reserve(&mut self, more: usize) {
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_digest.reserve(more, |other| {
            slots
                .get(*other)
                .map_or(0, |slot| hasher.hash_one(slot.key))
        });
        self.slots.reserve(more);
    }

    /// Number of blobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// The bytes of all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.used
    }

    /// The bytes of one list.
    #[must_use]
    pub fn list_bytes(&self, list: u16) -> u64 {
        self.lists.get(usize::from(list)).map_or(0, |l| l.bytes)
    }

    /// Number of lists for a policy.
    #[must_use]
    pub fn lists(&self) -> u16 {
        u16::try_from(self.lists.len() - 1).unwrap_or(u16::MAX)
    }

    /// The list behind those of the policy: blobs that are kept whatever happens. No policy looks into
    /// it, so that they cost an eviction nothing, however many they are.
    #[must_use]
    pub fn kept_list(&self) -> u16 {
        self.lists()
    }

    /// Place of a blob.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<Place> {
        let found = self
            .by_digest
            .find(self.hash(digest), |index| self.slots.is(*index, digest));
        found.map(|index| Place(*index))
    }

    /// Entry of a blob.
    #[must_use]
    pub fn entry(&self, place: Place) -> Option<&Entry> {
        self.slots.get(place.0).map(|slot| &slot.entry)
    }

    /// Digest of the blob in a place.
    #[must_use]
    pub fn digest(&self, place: Place) -> Option<Digest> {
        self.slots.digest(place.0)
    }

    /// The blob that was put into a list first.
    #[must_use]
    pub fn oldest(&self, list: u16) -> Option<Place> {
        let list = self.lists.get(usize::from(list))?;
        (list.oldest != NONE).then_some(Place(list.oldest))
    }

    /// The blob that was put into the same list next.
    #[must_use]
    pub fn newer(&self, place: Place) -> Option<Place> {
        let newer = self.slots.get(place.0)?.newer;
        (newer != NONE).then_some(Place(newer))
    }

    /// Only blobs of this owner are evictable from now on; of all, when `None`.
    pub(super) fn restrict(&mut self, owner: Option<u8>) {
        self.only = owner;
    }

    /// The oldest of a list, from `place` on towards the newer, that may go: nobody reads it, and
    /// its going frees something.
    #[must_use]
    pub fn evictable(&self, mut place: Option<Place>) -> Option<Place> {
        while let Some(at) = place {
            let entry = self.entry(at)?;
            let meant = self.only.is_none_or(|owner| owner == entry.owner);
            if meant && entry.pins == 0 && entry.size > 0 {
                return Some(at);
            }
            place = self.newer(at);
        }
        None
    }

    /// All places in use, in the order of their last counted use, and of digests where that is the
    /// same. Takes 16 bytes a blob meanwhile.
    pub(super) fn by_last_use(&self) -> impl Iterator<Item = Place> + use<> {
        let taken = self.slots.taken(0, usize::MAX);
        let taken = taken.into_iter().flatten();
        let mut order: Vec<(u64, u32)> = taken
            .map(|(index, slot)| (slot.entry.used.0, index))
            .collect();
        order.sort_unstable_by(|(used, index), (other_used, other)| {
            let key = |index: &u32| self.slots.get(*index).map(|slot| &slot.key);
            used.cmp(other_used)
                .then_with(|| key(index).cmp(&key(other)))
        });
        order.into_iter().map(|(_, index)| Place(index))
    }

    /// The places in use among `count` from `first` on; nothing past the last one.
    pub(super) fn places(&self, first: usize, count: usize) -> Option<Vec<Place>> {
        let taken = self.slots.taken(first, count)?;
        Some(taken.map(|(index, _)| Place(index)).collect())
    }

    /// Makes a blob the newest of a list.
    pub fn put(&mut self, place: Place, list: u16) {
        self.unlink(place.0);
        self.link(place.0, list);
    }

    /// Takes in a blob that is not there yet, as the newest of the list it names.
    pub(super) fn insert(&mut self, digest: &Digest, entry: Entry) -> Place {
        let index = self.slots.insert(digest, entry);
        let (hash, slots, hasher) = (self.hash(digest), &self.slots, &self.hasher);
        self.by_digest.insert_unique(hash, index, |other| {
            slots
                .get(*other)
                .map_or(0, |slot| hasher.hash_one(slot.key))
        });
        self.used += entry.size;
        self.link(index, entry.list);
        Place(index)
    }

    /// Forgets a blob. What was known of it.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let place = self.find(digest)?;
        self.unlink(place.0);
        let hash = self.hash(digest);
        if let Ok(found) = self.by_digest.find_entry(hash, |index| *index == place.0) {
            found.remove();
        }
        let entry = self.slots.remove(place.0)?;
        self.used -= entry.size;
        Some(entry)
    }

    /// Changes what a policy does not order by.
    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut Entry)) {
        if let Some(slot) = self.slots.get_mut(place.0) {
            let (size, list) = (slot.entry.size, slot.entry.list);
            change(&mut slot.entry);
            debug_assert_eq!((slot.entry.size, slot.entry.list), (size, list));
        }
    }

    /// Counts one more use at `now`.
    pub(super) fn count(&mut self, place: Place, now: Timestamp) {
        self.change(place, |entry| {
            entry.uses = uses::once_more(entry.uses);
            entry.used = now;
        });
    }

    fn hash(&self, digest: &Digest) -> u64 {
        self.hasher.hash_one(first_half(digest))
    }

    fn link(&mut self, index: u32, list: u16) {
        let Some(ends) = self.lists.get_mut(usize::from(list)) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        slot.entry.list = list;
        slot.newer = NONE;
        slot.older = ends.newest;
        ends.bytes += slot.entry.size;
        let old = std::mem::replace(&mut ends.newest, index);
        match self.slots.get_mut(old) {
            Some(old) => old.newer = index,
            None => ends.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let (entry, newer, older) = (slot.entry, slot.newer, slot.older);
        let Some(ends) = self.lists.get_mut(usize::from(entry.list)) else {
            return;
        };
        ends.bytes -= entry.size;
        match self.slots.get_mut(newer) {
            Some(slot) => slot.older = older,
            None => ends.newest = older,
        }
        match self.slots.get_mut(older) {
            Some(slot) => slot.newer = newer,
            None => ends.oldest = newer,
        }
    }
}
