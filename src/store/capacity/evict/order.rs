//! The stored blobs in the order of a policy. Those that are kept are in none, and are never named.

use std::collections::HashSet;
use std::time::Duration;

use super::blobs::{Blobs, Entry, Place};
use super::{IdleByUses, Policy, Victim};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Stored blobs and the order in which they go. A blob that is kept is in the list that no policy looks into.
#[derive(Debug)]
pub struct Order<P = IdleByUses> {
    blobs: Blobs,
    policy: P,
    /// Digests that are no victims, stored or not: the parts of pinned images.
    kept: HashSet<Digest>,
    /// True while nothing is a victim.
    keeps_all: bool,
}

impl<P: Policy> Order<P> {
    pub(super) fn new(policy: P) -> Self {
        Self {
            blobs: Blobs::new(P::LISTS),
            policy,
            kept: HashSet::new(),
            keeps_all: false,
        }
    }

    /// Makes room for that many more blobs, which are about to be loaded.
    pub fn reserve(&mut self, blobs: usize) {
        self.blobs.reserve(blobs);
    }

    /// Puts all blobs into the order of their last counted use: for those loaded in another one.
    pub fn arrange(&mut self) {
        for place in self.blobs.by_last_use() {
            if !self.is_kept(place) {
                self.policy.entered(&mut self.blobs, place);
            }
        }
    }

    /// Place of a blob, if the store has it; good until it is removed.
    #[must_use]
    pub fn place(&self, digest: &Digest) -> Option<Place> {
        self.blobs.find(digest)
    }

    /// The blobs in `count` places from the `first` on, with their places, to go through all of
    /// them in steps; nothing past the last place.
    #[must_use]
    pub fn step(&self, first: usize, count: usize) -> Option<Vec<(Place, Digest)>> {
        let places = self.blobs.places(first, count)?.into_iter();
        Some(
            places
                .filter_map(|place| Some((place, self.blobs.digest(place)?)))
                .collect(),
        )
    }

    /// The entry of a blob, if the store has it.
    #[must_use]
    pub fn entry(&self, digest: &Digest) -> Option<&Entry> {
        self.blobs.entry(self.blobs.find(digest)?)
    }

    /// Size of a blob, if the store has it.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.entry(digest).map(|entry| entry.size)
    }

    /// Number of stored blobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// True if no blob is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Bytes of the stored blobs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs.bytes()
    }

    /// Makes a blob no victim from now on, whether it is stored now or comes later.
    pub fn keep(&mut self, digest: &Digest) {
        self.kept.insert(*digest);
        if let Some(place) = self.blobs.find(digest) {
            self.blobs.put(place, self.blobs.kept_list());
        }
    }

    /// Undoes [`Order::keep`].
    pub fn let_go(&mut self, digest: &Digest) {
        if self.kept.remove(digest)
            && let Some(place) = self.blobs.find(digest)
        {
            self.policy.entered(&mut self.blobs, place);
        }
    }

    /// True if a blob is kept.
    #[must_use]
    pub fn keeps(&self, digest: &Digest) -> bool {
        self.kept.contains(digest)
    }

    /// Makes nothing a victim from now on, while it is not known what must stay; or ends that.
    pub fn keep_all(&mut self, keeps_all: bool) {
        self.keeps_all = keeps_all;
    }

    /// True while nothing is a victim.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.keeps_all
    }

    /// Bytes of the stored blobs that are kept.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.blobs.list_bytes(self.blobs.kept_list())
    }

    /// Takes in a blob that is not there.
    pub(super) fn insert(&mut self, digest: &Digest, entry: Entry) {
        let place = self.blobs.insert(digest, entry);
        if self.kept.contains(digest) {
            self.blobs.put(place, self.blobs.kept_list());
        } else {
            self.policy.entered(&mut self.blobs, place);
        }
    }

    /// Forgets a blob, and returns its entry.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        self.blobs.remove(digest)
    }

    /// Forgets a victim, of whose going the policy hears.
    pub(super) fn evict(&mut self, digest: &Digest) -> Option<Entry> {
        let place = self.blobs.find(digest)?;
        self.policy.evicted(&self.blobs, place);
        self.blobs.remove(digest)
    }

    /// Changes what the policy does not order by.
    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut Entry)) {
        self.blobs.change(place, change);
    }

    /// Tells the policy of a use, unless the blob is kept; a `counted` one is one more in its entry. Returns the entry.
    pub(super) fn used(&mut self, place: Place, counted: Option<Timestamp>) -> Option<&Entry> {
        if let Some(now) = counted {
            self.blobs.count(place, now);
        }
        if !self.is_kept(place) {
            self.policy.used(&mut self.blobs, place, counted.is_some());
        }
        self.blobs.entry(place)
    }

    /// The blobs that the policy gives up and nobody reads, until `need` bytes are found; of one owner alone, if one is
    /// given.
    pub(super) fn victims(&mut self, need: u64, now: Timestamp, owner: Option<u8>) -> Vec<Victim> {
        if self.keeps_all {
            return Vec::new();
        }
        self.blobs.restrict(owner);
        let places = self.policy.victims(&mut self.blobs, need, now);
        self.blobs.restrict(None);
        let named = places.into_iter().filter_map(|place| self.victim(place));
        named.collect()
    }

    /// At most `count` blobs that nobody reads, used last `least` before `now` or earlier, of which `is_over` says that
    /// their time is over.
    pub(super) fn idle(
        &self,
        least: Duration,
        now: Timestamp,
        count: usize,
        is_over: impl Fn(&Entry) -> bool,
    ) -> Vec<Victim> {
        let mut victims = Vec::new();
        if self.keeps_all {
            return victims;
        }
        for list in 0..self.blobs.lists() {
            // From the one that was used longest ago on: those behind were used later.
            let mut next = self.blobs.evictable(self.blobs.oldest(list));
            while let Some(place) = next
                && let Some(entry) = self.blobs.entry(place)
                && victims.len() < count
                && now.since(entry.used) >= least
            {
                if is_over(entry) {
                    victims.extend(self.victim(place));
                }
                next = self.blobs.evictable(self.blobs.newer(place));
            }
        }
        victims
    }

    fn victim(&self, place: Place) -> Option<Victim> {
        let size = self.blobs.entry(place)?.size;
        let digest = self.blobs.digest(place)?;
        Some(Victim { digest, size })
    }

    fn is_kept(&self, place: Place) -> bool {
        let list = self.blobs.entry(place).map(|entry| entry.list);
        list == Some(self.blobs.kept_list())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<P: Policy> Order<P> {
        /// Sum of the bytes of all lists.
        pub(in super::super) fn list_bytes(&self) -> u64 {
            let lists = 0..=self.blobs.kept_list();
            lists.map(|list| self.blobs.list_bytes(list)).sum()
        }
    }

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    fn order(sizes: &[u64]) -> Order {
        let mut order = Order::new(IdleByUses);
        for (n, size) in (0..).zip(sizes) {
            let entry = Entry {
                size: *size,
                used: Timestamp(u64::from(n)),
                uses: 1,
                pins: 0,
                list: 0,
                owner: n % 2,
            };
            order.insert(&digest(n), entry);
        }
        order
    }

    fn named(order: &mut Order, owner: Option<u8>) -> Vec<Digest> {
        let victims = order.victims(u64::MAX, Timestamp(100), owner);
        victims.iter().map(|victim| victim.digest).collect()
    }

    #[test]
    fn a_kept_blob_is_in_no_order_until_it_is_let_go() {
        let mut order = order(&[10, 20, 30]);
        order.keep(&digest(0));
        assert_eq!((order.kept_bytes(), order.list_bytes()), (10, 60));
        assert_eq!(named(&mut order, None), [digest(1), digest(2)]);
        assert_eq!(named(&mut order, Some(0)), [digest(2)]);
        order.arrange();
        assert_eq!(named(&mut order, None).len(), 2);
        order.let_go(&digest(0));
        assert_eq!(named(&mut order, None).len(), 3);
    }

    #[test]
    fn nothing_is_named_while_all_is_kept() {
        let mut order = order(&[10, 20]);
        let idle = |order: &Order| {
            order
                .idle(Duration::ZERO, Timestamp(100), 9, |_| true)
                .len()
        };
        assert_eq!(idle(&order), 2);
        order.keep_all(true);
        assert_eq!((named(&mut order, None).len(), idle(&order)), (0, 0));
        order.keep_all(false);
        assert_eq!((named(&mut order, None).len(), idle(&order)), (2, 2));
    }
}
