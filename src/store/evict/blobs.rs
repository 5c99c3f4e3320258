//! The stored blobs in lists: what a [`Policy`](super::Policy) orders.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// Stands for "none" where a blob's place is stored: four bytes instead of eight, a million times.
const NONE: u32 = u32::MAX;

/// The place of a blob. Good until the blob is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u32);

/// What is known of a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its size in bytes.
    pub size: u64,
    /// The last use that was counted.
    pub used: Timestamp,
    /// In how many different minutes it was used; stays at 255.
    pub uses: u8,
    /// Open readers; while there are any the blob is no victim.
    pub pins: u32,
    /// The list it is in.
    pub list: u16,
}

/// Blobs by digest, each in one of several lists, newest first. All is O(1), 72 bytes a blob and
/// five for the table.
#[derive(Debug)]
pub struct Blobs {
    slots: Vec<Slot>,
    /// The first of the slots that hold nothing, chained by `older`.
    free: u32,
    by_digest: HashTable<u32>,
    hasher: RandomState,
    lists: Vec<List>,
    used: u64,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    entry: Entry,
    newer: u32,
    older: u32,
}

/// A million blobs are to fit, with all else, into 150 MB.
const _: () = assert!(size_of::<Slot>() <= 72);

/// A digest that takes no more room than the usual one needs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
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
            slots: Vec::new(),
            free: NONE,
            by_digest: HashTable::new(),
            hasher: RandomState::new(),
            lists: vec![empty; usize::from(lists) + 1],
            used: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// Whether there are none.
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

    /// How many lists there are for a policy.
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

    /// Where a blob is.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<Place> {
        let found = self.by_digest.find(self.hash(digest), |index| {
            self.slots
                .get(*index as usize)
                .is_some_and(|slot| slot.key.is(digest))
        });
        found.map(|index| Place(*index))
    }

    /// What is known of a blob.
    #[must_use]
    pub fn entry(&self, place: Place) -> Option<&Entry> {
        self.slot(place.0).map(|slot| &slot.entry)
    }

    /// Which blob it is.
    #[must_use]
    pub fn digest(&self, place: Place) -> Option<Digest> {
        self.slot(place.0).map(|slot| slot.key.digest())
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
        let newer = self.slot(place.0)?.newer;
        (newer != NONE).then_some(Place(newer))
    }

    /// The oldest of a list, from `place` on towards the newer, that may go: nobody reads it, and
    /// its going frees something.
    #[must_use]
    pub fn evictable(&self, mut place: Option<Place>) -> Option<Place> {
        while let Some(at) = place {
            let entry = self.entry(at)?;
            if entry.pins == 0 && entry.size > 0 {
                return Some(at);
            }
            place = self.newer(at);
        }
        None
    }

    /// Makes a blob the newest of a list.
    pub fn put(&mut self, place: Place, list: u16) {
        self.unlink(place.0);
        self.link(place.0, list);
    }

    /// Takes in a blob that is not there yet, as the newest of the list it names.
    pub(super) fn insert(&mut self, digest: &Digest, entry: Entry) -> Place {
        let slot = Slot {
            key: Key::of(digest),
            entry,
            newer: NONE,
            older: NONE,
        };
        let index = self.free;
        let index = if let Some(free) = self.slots.get_mut(index as usize) {
            self.free = free.older;
            *free = slot;
            index
        } else {
            self.slots.push(slot);
            // Four thousand million blobs are more than any file system holds.
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        };
        let (hash, slots, hasher) = (self.hash(digest), &self.slots, &self.hasher);
        self.by_digest.insert_unique(hash, index, |other| {
            slots
                .get(*other as usize)
                .map_or(0, |slot| hasher.hash_one(slot.key.bytes()))
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
        let free = self.free;
        let slot = self.slots.get_mut(place.0 as usize)?;
        slot.older = free;
        self.free = place.0;
        self.used -= slot.entry.size;
        Some(slot.entry)
    }

    /// Changes what a policy does not order by.
    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut Entry)) {
        if let Some(slot) = self.slots.get_mut(place.0 as usize) {
            let (size, list) = (slot.entry.size, slot.entry.list);
            change(&mut slot.entry);
            debug_assert_eq!((slot.entry.size, slot.entry.list), (size, list));
        }
    }

    /// Counts one more use at `now`.
    pub(super) fn count(&mut self, place: Place, now: Timestamp) {
        self.change(place, |entry| {
            entry.uses = entry.uses.saturating_add(1);
            entry.used = now;
        });
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }

    fn hash(&self, digest: &Digest) -> u64 {
        self.hasher.hash_one(digest.bytes())
    }

    fn link(&mut self, index: u32, list: u16) {
        let Some(ends) = self.lists.get_mut(usize::from(list)) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        slot.entry.list = list;
        slot.newer = NONE;
        slot.older = ends.newest;
        ends.bytes += slot.entry.size;
        let old = std::mem::replace(&mut ends.newest, index);
        match self.slots.get_mut(old as usize) {
            Some(old) => old.newer = index,
            None => ends.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Some(slot) = self.slots.get(index as usize) else {
            return;
        };
        let (entry, newer, older) = (slot.entry, slot.newer, slot.older);
        let Some(ends) = self.lists.get_mut(usize::from(entry.list)) else {
            return;
        };
        ends.bytes -= entry.size;
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => ends.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => ends.oldest = newer,
        }
    }
}

impl Key {
    fn of(digest: &Digest) -> Self {
        match digest {
            Digest::Sha256(bytes) => Self::Sha256(*bytes),
            Digest::Sha512(bytes) => Self::Sha512(Box::new(*bytes)),
        }
    }

    fn digest(&self) -> Digest {
        match self {
            Self::Sha256(bytes) => Digest::Sha256(*bytes),
            Self::Sha512(bytes) => Digest::Sha512(**bytes),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes.as_slice(),
        }
    }

    /// The algorithms' digests differ in length.
    fn is(&self, digest: &Digest) -> bool {
        self.bytes() == digest.bytes()
    }
}
