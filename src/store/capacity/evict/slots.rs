//! Places of blobs in memory: a place that comes free is given to the next blob.

use std::collections::HashMap;

use super::blobs::Entry;
use crate::oci::Digest;

/// Stands for "none" where a blob's place is stored: four bytes instead of eight, a million times.
pub(super) const NONE: u32 = u32::MAX;

/// Stands for "in no list" in a slot that holds nothing.
const NO_LIST: u16 = u16::MAX;

/// Slots by number. Free ones are chained by `older`.
#[derive(Debug)]
pub(super) struct Slots {
    places: Vec<Slot>,
    /// The first of the free ones.
    free: u32,
    /// The digests that are longer than a slot's, by slot: hardly anybody has any.
    wide: HashMap<u32, Box<[u8; 64]>>,
}

#[derive(Debug)]
pub(super) struct Slot {
    /// The digest, or the first half of one that is wide.
    pub(super) key: [u8; 32],
    pub(super) entry: Entry,
    pub(super) newer: u32,
    pub(super) older: u32,
}

/// A million blobs are to fit, with all else, into 150 MB.
const _: () = assert!(size_of::<Slot>() <= 64);

impl Default for Slots {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: NONE,
            wide: HashMap::new(),
        }
    }
}

impl Slots {
    /// Makes room for that many more.
    pub(super) fn reserve(&mut self, more: usize) {
        self.places.reserve(more);
    }

    pub(super) fn get(&self, number: u32) -> Option<&Slot> {
        self.places.get(number as usize)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Slot> {
        self.places.get_mut(number as usize)
    }

    /// The slots that hold a blob among `count` from `first` on, with their numbers; nothing past the last slot.
    pub(super) fn taken(
        &self,
        first: usize,
        count: usize,
    ) -> Option<impl Iterator<Item = (u32, &Slot)>> {
        let end = first.saturating_add(count).min(self.places.len());
        let slots = self
            .places
            .get(first..end)
            .filter(|slots| !slots.is_empty())?;
        let taken = (first..).zip(slots).filter(|(_, slot)| slot.is_taken());
        Some(taken.filter_map(|(number, slot)| Some((u32::try_from(number).ok()?, slot))))
    }

    /// Gives a blob a slot that is in no chain: its number.
    pub(super) fn insert(&mut self, digest: &Digest, entry: Entry) -> u32 {
        let slot = Slot {
            key: first_half(digest),
            entry,
            newer: NONE,
            older: NONE,
        };
        let free = self.free;
        let number = if let Some(place) = self.places.get_mut(free as usize) {
            self.free = place.older;
            *place = slot;
            free
        } else {
            self.places.push(slot);
            // Four thousand million blobs are more than any file system holds.
            u32::try_from(self.places.len() - 1).unwrap_or(NONE)
        };
        if let Digest::Sha512(bytes) = digest {
            self.wide.insert(number, Box::new(*bytes));
        }
        number
    }

    /// Frees the slot of a blob that is in no chain any more, and returns its entry.
    pub(super) fn remove(&mut self, number: u32) -> Option<Entry> {
        let free = self.free;
        let slot = self.places.get_mut(number as usize)?;
        let entry = slot.entry;
        slot.older = free;
        slot.entry.list = NO_LIST;
        self.free = number;
        self.wide.remove(&number);
        Some(entry)
    }

    /// The digest of the blob in a slot.
    pub(super) fn digest(&self, number: u32) -> Option<Digest> {
        if let Some(wide) = self.wide.get(&number) {
            return Some(Digest::Sha512(**wide));
        }
        self.get(number).map(|slot| Digest::Sha256(slot.key))
    }

    /// True if a slot is that of a digest.
    pub(super) fn is(&self, number: u32, digest: &Digest) -> bool {
        let same_half = |slot: &Slot| slot.key == first_half(digest);
        let wide = self.wide.get(&number);
        self.get(number).is_some_and(same_half)
            && match digest {
                Digest::Sha256(_) => wide.is_none(),
                Digest::Sha512(bytes) => wide.is_some_and(|wide| **wide == *bytes),
            }
    }
}

impl Slot {
    fn is_taken(&self) -> bool {
        self.entry.list != NO_LIST
    }
}

/// The part of a digest that a slot holds, and that it is found by.
pub(super) fn first_half(digest: &Digest) -> [u8; 32] {
    match digest {
        Digest::Sha256(bytes) => *bytes,
        Digest::Sha512(bytes) => {
            let mut half = [0; 32];
            half.copy_from_slice(bytes.first_chunk::<32>().unwrap_or(&[0; 32]));
            half
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn entry(size: u64) -> Entry {
        Entry {
            size,
            used: Timestamp::default(),
            uses: 1,
            pins: 0,
            list: 0,
            owner: 0,
        }
    }

    #[test]
    fn a_place_that_comes_free_is_given_to_the_next_blob() {
        let mut slots = Slots::default();
        let [wide, other, more] = [
            Digest::Sha512([1; 64]),
            Digest::Sha256([2; 32]),
            Digest::Sha256([3; 32]),
        ];
        assert_eq!(slots.insert(&wide, entry(10)), 0);
        assert_eq!(slots.insert(&other, entry(20)), 1);
        assert_eq!(slots.digest(0), Some(wide));
        assert!(slots.is(0, &wide) && !slots.is(0, &Digest::Sha256([1; 32])));
        assert_eq!(slots.remove(0).map(|entry| entry.size), Some(10));
        let numbers = |slots: &Slots, first| {
            let taken = slots.taken(first, 9);
            taken.map(|taken| taken.map(|(number, _)| number).collect::<Vec<_>>())
        };
        assert_eq!(numbers(&slots, 0), Some(vec![1]));
        assert_eq!(slots.insert(&more, entry(30)), 0);
        assert_eq!(
            slots.digest(0),
            Some(more),
            "nothing is left of the wide one"
        );
        assert_eq!(numbers(&slots, 0), Some(vec![0, 1]));
        assert_eq!(numbers(&slots, 2), None);
        assert_eq!(slots.insert(&wide, entry(10)), 2);
    }
}
