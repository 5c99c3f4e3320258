//! The stored blobs: their order, who reads them or is expected to, and whose they are.

use std::time::Duration;

use super::blobs::Entry;
use super::expected::Expected;
use super::order::Order;
use super::owners::{OwnerId, Owners};
use super::{Ages, IdleByUses, Noted, Policy, Victim, uses};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Uses closer together than this are one, for the count and for the index: a client's ranges and
/// a fleet's rollout are one use of a blob, and order in memory is exact within a list anyway.
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// Stored blobs and their uses. The bytes of each owner are those of its blobs, and each expected blob is pinned once
/// for that.
#[derive(Debug)]
pub struct Stored<P = IdleByUses> {
    order: Order<P>,
    expected: Expected,
    owners: Owners,
    /// The latest time that anything was used at: the present of an eviction.
    now: Timestamp,
}

impl<P: Policy> Stored<P> {
    pub(super) fn new(policy: P) -> Self {
        Self {
            order: Order::new(policy),
            expected: Expected::default(),
            owners: Owners::default(),
            now: Timestamp::default(),
        }
    }

    pub(super) fn order(&self) -> &Order<P> {
        &self.order
    }

    pub(super) fn order_mut(&mut self) -> &mut Order<P> {
        &mut self.order
    }

    /// Takes in a blob found on disk; call in order of last use, oldest first, or
    /// [`Order::arrange`] afterwards. `uses` is what the index has, 1 where it does not say.
    pub fn load(&mut self, digest: Digest, size: u64, noted: Timestamp, uses: u8) {
        self.load_of(digest, size, noted, uses, 0);
    }

    /// Takes in a blob found on disk, of an upstream; 0 where that is not known. One of the same name is replaced: whoever
    /// reads it goes on reading.
    pub fn load_of(
        &mut self,
        digest: Digest,
        size: u64,
        noted: Timestamp,
        uses: u8,
        owner: OwnerId,
    ) {
        let owner = self.owners.short(owner);
        self.now = self.now.max(noted);
        let old = self.order.remove(&digest);
        if let Some(old) = old {
            self.owners.take(old.owner, old.size);
        }
        let owner = old.map_or(0, |old| old.owner).max(owner);
        self.owners.add(owner, size);
        let entry = Entry {
            size,
            used: noted,
            uses: old.map_or(uses, |old| uses::united(old.uses, uses)),
            pins: old.map_or(0, |old| old.pins),
            list: 0,
            owner,
        };
        self.order.insert(&digest, entry);
    }

    /// Forgets a blob, whoever reads it: it is gone or damaged. Returns its size.
    pub fn forget(&mut self, digest: &Digest) -> Option<u64> {
        let gone = self.order.remove(digest);
        self.forgotten(digest, gone)
    }

    pub(super) fn evict(&mut self, digest: &Digest) {
        let gone = self.order.evict(digest);
        self.forgotten(digest, gone);
    }

    fn forgotten(&mut self, digest: &Digest, gone: Option<Entry>) -> Option<u64> {
        self.expected.forget(digest);
        let gone = gone?;
        self.owners.take(gone.owner, gone.size);
        Some(gone.size)
    }

    /// Marks a blob as used just now. Returns what the index should hear of it, if anything.
    pub fn touch(&mut self, digest: &Digest, now: Timestamp) -> Option<Noted> {
        self.now = self.now.max(now);
        let last = self.order.entry(digest)?.used;
        let counted = (now.since(last) >= NOTE_EVERY).then_some(now);
        let entry = *self.order.used(self.order.place(digest)?, counted)?;
        counted.map(|_| Noted {
            size: entry.size,
            uses: entry.uses,
            owner: self.owners.id(entry.owner),
        })
    }

    /// Marks a blob as open: its size, if the store has it.
    pub fn pin(&mut self, digest: &Digest) -> Option<u64> {
        let place = self.order.place(digest)?;
        self.order.change(place, |entry| entry.pins += 1);
        self.order.used(place, None).map(|entry| entry.size)
    }

    /// Marks a blob as open without using it, so that the order of use stays as it is: its size, if the store has it.
    pub fn hold(&mut self, digest: &Digest) -> Option<u64> {
        let place = self.order.place(digest)?;
        self.order.change(place, |entry| entry.pins += 1);
        self.order.size(digest)
    }

    /// Undoes one [`Stored::pin`] or [`Stored::hold`].
    pub fn unpin(&mut self, digest: &Digest) {
        if let Some(place) = self.order.place(digest) {
            self.order
                .change(place, |entry| entry.pins = entry.pins.saturating_sub(1));
        }
    }

    /// True if somebody reads a blob, rather than being expected to.
    #[must_use]
    pub fn is_open(&self, digest: &Digest) -> bool {
        let pins = self.order.entry(digest).map_or(0, |entry| entry.pins);
        pins > u32::from(self.expected.contains(digest))
    }

    /// Makes a blob no victim for some minutes, in a store of `max` bytes: a manifest was given to somebody who may now ask
    /// for what it names.
    pub fn expect(&mut self, digest: &Digest, max: u64, now: Timestamp) {
        self.now = self.now.max(now);
        self.end_expectations();
        let Some(size) = self.order.size(digest) else {
            return;
        };
        let (gone, is_new) = self.expected.add(digest, size, max, now);
        for digest in gone {
            self.unpin(&digest);
        }
        if is_new {
            self.hold(digest);
        }
    }

    /// Of a store that has `max` bytes now, no more than a part is kept in expectation.
    pub(super) fn expect_less(&mut self, max: u64) {
        for digest in self.expected.shrink(max) {
            self.unpin(&digest);
        }
    }

    fn end_expectations(&mut self) {
        for digest in self.expected.expire(self.now) {
            self.unpin(&digest);
        }
    }

    /// Makes a blob an upstream's, if it is nobody's yet: its last use, and what the index should hear of it.
    pub fn belongs(&mut self, digest: &Digest, owner: OwnerId) -> Option<(Timestamp, Noted)> {
        let place = self.order.place(digest)?;
        let entry = *self.order.entry(digest)?;
        if entry.owner != 0 {
            return None;
        }
        let short = self.owners.short(owner);
        self.owners.take(0, entry.size);
        self.owners.add(short, entry.size);
        self.order.change(place, |entry| entry.owner = short);
        let noted = Noted {
            size: entry.size,
            uses: entry.uses,
            owner,
        };
        Some((entry.used, noted))
    }

    /// Marks a blob as a copy that another node of a cluster has, or as none: its last use, and what the index should hear
    /// of it.
    pub fn copied(&mut self, digest: &Digest, is_copy: bool) -> Option<(Timestamp, Noted)> {
        let place = self.order.place(digest)?;
        let entry = *self.order.entry(digest)?;
        if uses::is_copy(entry.uses) == is_copy {
            return None;
        }
        let marked = uses::marked(entry.uses, is_copy);
        self.order.change(place, |entry| entry.uses = marked);
        // It goes earlier now, or later.
        self.order.used(place, None);
        let noted = Noted {
            size: entry.size,
            uses: marked,
            owner: self.owners.id(entry.owner),
        };
        Some((entry.used, noted))
    }

    /// Owner of a blob, if the store has it.
    #[must_use]
    pub fn owner(&self, digest: &Digest) -> Option<OwnerId> {
        let entry = self.order.entry(digest);
        entry.map(|entry| self.owners.id(entry.owner))
    }

    /// Bytes of the blobs of an upstream.
    pub fn bytes_of(&mut self, owner: OwnerId) -> u64 {
        let short = self.owners.short(owner);
        self.owners.bytes(short)
    }

    /// The blobs that go first, until `need` bytes are found; of one upstream alone, if one is given.
    pub(super) fn victims(&mut self, need: u64, owner: Option<OwnerId>) -> Vec<Victim> {
        self.end_expectations();
        let owner = owner.map(|owner| self.owners.short(owner));
        self.order.victims(need, self.now, owner)
    }

    /// At most `count` blobs that nobody has used for longer than they are kept.
    pub(super) fn aged(&mut self, ages: &Ages, now: Timestamp, count: usize) -> Vec<Victim> {
        let Some(least) = ages.least() else {
            return Vec::new();
        };
        self.end_expectations();
        let is_over = |entry: &Entry| {
            let kept = ages.of(self.owners.id(entry.owner));
            kept.is_some_and(|kept| now.since(entry.used) >= kept)
        };
        self.order.idle(least, now, count, is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_open_while_somebody_reads_it_and_not_while_one_is_expected_to() {
        let digest = Digest::Sha256([1; 32]);
        let mut stored = Stored::new(IdleByUses);
        stored.load(digest, 10, Timestamp(1), 1);
        stored.expect(&digest, 100, Timestamp(1));
        assert!(!stored.is_open(&digest));
        assert_eq!(stored.victims(10, None), [], "it is waited for");
        assert_eq!(stored.hold(&digest), Some(10));
        assert!(stored.is_open(&digest));
        stored.unpin(&digest);
        assert!(!stored.is_open(&digest));
        assert_eq!(
            stored
                .touch(&digest, Timestamp(3_600_000))
                .map(|it| it.uses),
            Some(2)
        );
        assert_eq!(stored.victims(10, None).len(), 1, "nobody came");
        assert_eq!(stored.forget(&digest), Some(10));
        assert!(stored.order().is_empty());
    }
}
