//! What is kept and what goes: the ledger of sizes. Pure: it names victims,
//! the store deletes them.
//!
//! `blobs` holds the entries in lists, `policy` says which goes first. `benches/eviction` replays
//! access logs through this very code; docs/eviction.md has what came of it.

pub mod blobs;
mod expected;
mod owners;
pub mod policy;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::store::capacity::quota::Ages;
pub use blobs::{Blobs, Entry, Place};
use expected::Expected;
pub use owners::OwnerId;
use owners::Owners;
pub use policy::{IdleByUses, Policy};

/// Uses closer together than this are one, for the count and for the index: a client's ranges and
/// a fleet's rollout are one use of a blob, and order in memory is exact within a list anyway.
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// A file takes whole blocks of the disk, whatever its length: there are no more blobs than the store would have
/// blocks.
const BLOCK_BYTES: u64 = 4096;

/// But so many in the smallest of stores.
const BLOBS_LEAST: usize = 1024;

/// And in the largest: their entries take some 300 MB of memory.
const BLOBS_MAX: usize = 4 * 1024 * 1024;

/// What the store holds, in the order of a policy, and what it has promised.
///
/// `used + reserved <= max` holds after every call. A reservation is made
/// before the first byte of a fill and is settled into an entry or released.
#[derive(Debug)]
pub struct Ledger<P = IdleByUses> {
    blobs: Blobs,
    policy: P,
    /// Each of these is pinned once for it.
    expected: Expected,
    /// What is no victim, whether it is stored or not: what belongs to pinned images.
    kept: HashSet<Digest>,
    owners: Owners,
    reserved: u64,
    max: u64,
    /// The latest time that anything was used at: what "now" is for an eviction.
    now: Timestamp,
    /// Nothing is a victim.
    keeps_all: bool,
}

/// What the index should know of a blob's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The blob's size in bytes.
    pub size: u64,
    /// In how many different minutes it was used, this one included; stays at 255.
    pub uses: u8,
    /// Whose it is.
    pub owner: OwnerId,
}

/// A blob that must be deleted now. The ledger has forgotten it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Which.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// The bytes cannot be had, even if everything evictable went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} bytes do not fit: of {max} bytes {kept} are in use by open blobs, fills and pinned images"
)]
pub struct NoRoom {
    /// What was asked for.
    pub wanted: u64,
    /// What cannot be freed now.
    pub kept: u64,
    /// The size of the store.
    pub max: u64,
}

impl Ledger {
    /// An empty ledger for a store of `max` bytes.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self::with_policy(max, IdleByUses)
    }
}

impl<P: Policy> Ledger<P> {
    /// The same with another policy: for comparisons.
    #[must_use]
    pub fn with_policy(max: u64, policy: P) -> Self {
        Self {
            blobs: Blobs::new(P::LISTS),
            policy,
            expected: Expected::default(),
            kept: HashSet::new(),
            owners: Owners::default(),
            reserved: 0,
            max,
            now: Timestamp::default(),
            keeps_all: false,
        }
    }

    /// Makes nothing a victim from now on, while it is not known what must stay; or ends that.
    pub fn keep_all(&mut self, keeps_all: bool) {
        self.keeps_all = keeps_all;
    }

    /// True if nothing is a victim.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.keeps_all
    }

    /// Takes in a blob found on disk; call in order of last use, oldest first, or
    /// [`Ledger::arrange`] afterwards. `uses` is what the index has, 1 where it does not say.
    pub fn load(&mut self, digest: Digest, size: u64, noted: Timestamp, uses: u8) {
        self.load_of(digest, size, noted, uses, 0);
    }

    /// The same, of an upstream; 0 where that is not known.
    pub fn load_of(
        &mut self,
        digest: Digest,
        size: u64,
        noted: Timestamp,
        uses: u8,
        owner: OwnerId,
    ) {
        let owner = self.owners.short(owner);
        self.enter(&digest, size, noted, uses, owner);
    }

    /// Has room for so many more blobs, which are about to be loaded.
    pub fn make_room_for(&mut self, blobs: usize) {
        self.blobs.reserve(blobs);
    }

    /// Puts all blobs into the order of their last counted use: for those loaded in another one.
    pub fn arrange(&mut self) {
        for place in self.blobs.by_last_use() {
            // What is pinned is in no order.
            let list = self.blobs.entry(place).map(|entry| entry.list);
            if list != Some(self.blobs.kept_list()) {
                self.policy.entered(&mut self.blobs, place);
            }
        }
    }

    /// Where a blob is, if the store has it; good until it is removed.
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

    /// Reserves `bytes`, naming what must be deleted for it.
    ///
    /// # Errors
    /// [`NoRoom`]; then nothing was evicted.
    pub fn admit(&mut self, bytes: u64) -> Result<Vec<Victim>, NoRoom> {
        let need = self.bytes().saturating_add(bytes).saturating_sub(self.max);
        let victims = self.victims(need);
        let freed: u64 = victims.iter().map(|v| v.size).sum();
        if freed < need {
            return Err(NoRoom {
                wanted: bytes,
                kept: self.bytes() - freed,
                max: self.max,
            });
        }
        self.evict(&victims);
        self.reserved += bytes;
        let mut victims = victims;
        // Of many small ones the entries and files take more than their bytes.
        while self.blobs.len() >= self.blobs_max() {
            let more = self.victims(1);
            if more.is_empty() {
                break;
            }
            self.evict(&more);
            victims.extend(more);
        }
        Ok(victims)
    }

    fn blobs_max(&self) -> usize {
        let blobs = usize::try_from(self.max / BLOCK_BYTES).unwrap_or(usize::MAX);
        blobs.clamp(BLOBS_LEAST, BLOBS_MAX)
    }

    /// Whether [`Ledger::admit`] could reserve `bytes`, if `spare` of what is reserved went too; nothing goes.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn could_admit(&mut self, bytes: u64, spare: u64) -> Result<(), NoRoom> {
        let need = self.bytes().saturating_add(bytes).saturating_sub(self.max);
        let freed = self.could_free(need);
        if bytes > self.max || freed.saturating_add(spare) < need {
            return Err(NoRoom {
                wanted: bytes,
                kept: self.bytes() - freed,
                max: self.max,
            });
        }
        Ok(())
    }

    /// How much of `need` bytes would come free if everything went that may.
    pub fn could_free(&mut self, need: u64) -> u64 {
        self.victims(need).iter().map(|victim| victim.size).sum()
    }

    /// For what makes room before it is needed, and for a file system that is short of it: what must
    /// go so that `need` bytes come free, or as much of it as there is; nothing when that is less
    /// than `least`.
    pub fn free(&mut self, need: u64, least: u64) -> Vec<Victim> {
        let victims = self.victims(need);
        let freed: u64 = victims.iter().map(|v| v.size).sum();
        if freed < least {
            return Vec::new();
        }
        self.evict(&victims);
        victims
    }

    /// What must go at start-up when the store has been made smaller.
    pub fn shrink(&mut self) -> Vec<Victim> {
        let over = self.bytes().saturating_sub(self.max);
        let victims = self.victims(over);
        self.evict(&victims);
        victims
    }

    /// Gives back a reservation.
    pub fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// A reservation is for something else from now on, and no longer a part of this.
    pub fn give_away(&mut self, reserved: u64) {
        self.release(reserved);
        self.max = self.max.saturating_sub(reserved);
    }

    /// Some of what was given away is a part of this again.
    pub fn have_back(&mut self, bytes: u64) {
        self.max = self.max.saturating_add(bytes);
    }

    /// Turns a reservation into a stored blob of `size` (at most `reserved`) bytes.
    pub fn settle(&mut self, digest: Digest, reserved: u64, size: u64, now: Timestamp) {
        self.release(reserved);
        self.enter(&digest, size, now, 1, 0);
    }

    /// The size of a blob, if the store has it.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.entry(digest).map(|entry| entry.size)
    }

    /// Marks a blob as used just now. What the index should hear of it, if anything.
    pub fn touch(&mut self, digest: &Digest, now: Timestamp) -> Option<Noted> {
        self.now = self.now.max(now);
        let place = self.blobs.find(digest)?;
        let last = self.blobs.entry(place)?.used;
        let due = now.since(last) >= NOTE_EVERY;
        if due {
            self.blobs.count(place, now);
        }
        self.used(place, due);
        let entry = self.blobs.entry(place)?;
        due.then_some(Noted {
            size: entry.size,
            uses: entry.uses,
            owner: self.owners.id(entry.owner),
        })
    }

    /// Marks a blob as open: its size, if the store has it.
    pub fn pin(&mut self, digest: &Digest) -> Option<u64> {
        let place = self.blobs.find(digest)?;
        self.blobs.change(place, |entry| entry.pins += 1);
        self.used(place, false);
        self.blobs.entry(place).map(|entry| entry.size)
    }

    /// The same for who looks without using it: the order of use stays as it is.
    pub fn hold(&mut self, digest: &Digest) -> Option<u64> {
        let place = self.blobs.find(digest)?;
        self.blobs.change(place, |entry| entry.pins += 1);
        self.blobs.entry(place).map(|entry| entry.size)
    }

    /// Whether somebody reads a blob, rather than being expected to.
    #[must_use]
    pub fn is_open(&self, digest: &Digest) -> bool {
        let pins = self.entry(digest).map_or(0, |entry| entry.pins);
        pins > u32::from(self.expected.contains(digest))
    }

    /// A manifest was given to somebody who may now ask for what it names: for some minutes this is no
    /// victim.
    pub fn expect(&mut self, digest: &Digest, now: Timestamp) {
        self.now = self.now.max(now);
        self.end_expectations();
        let Some(size) = self.size(digest) else {
            return;
        };
        let (gone, is_new) = self.expected.add(digest, size, self.max, now);
        for digest in gone {
            self.unpin(&digest);
        }
        if is_new && let Some(place) = self.blobs.find(digest) {
            self.blobs.change(place, |entry| entry.pins += 1);
        }
    }

    fn end_expectations(&mut self) {
        for digest in self.expected.expire(self.now) {
            self.unpin(&digest);
        }
    }

    /// Undoes one [`Ledger::pin`].
    pub fn unpin(&mut self, digest: &Digest) {
        if let Some(place) = self.blobs.find(digest) {
            self.blobs
                .change(place, |entry| entry.pins = entry.pins.saturating_sub(1));
        }
    }

    /// From now on a blob is no victim, whether it is stored now or comes later.
    pub fn keep(&mut self, digest: &Digest) {
        self.kept.insert(*digest);
        if let Some(place) = self.blobs.find(digest) {
            self.blobs.put(place, self.blobs.kept_list());
        }
    }

    /// Undoes [`Ledger::keep`].
    pub fn let_go(&mut self, digest: &Digest) {
        if self.kept.remove(digest)
            && let Some(place) = self.blobs.find(digest)
        {
            self.policy.entered(&mut self.blobs, place);
        }
    }

    /// Whether a blob is kept.
    #[must_use]
    pub fn keeps(&self, digest: &Digest) -> bool {
        self.kept.contains(digest)
    }

    /// The bytes of the stored blobs that are kept.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.blobs.list_bytes(self.blobs.kept_list())
    }

    /// The bytes of the stored blobs.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.bytes()
    }

    /// Forgets a blob, whoever reads it: it is gone or damaged. Its size.
    pub fn forget(&mut self, digest: &Digest) -> Option<u64> {
        self.expected.forget(digest);
        let gone = self.blobs.remove(digest)?;
        self.owners.take(gone.owner, gone.size);
        Some(gone.size)
    }

    /// A blob is an upstream's, if it is nobody's yet: then when it was used last, and what the index
    /// should hear of it.
    pub fn belongs(&mut self, digest: &Digest, owner: OwnerId) -> Option<(Timestamp, Noted)> {
        let place = self.blobs.find(digest)?;
        let entry = *self.blobs.entry(place)?;
        if entry.owner != 0 {
            return None;
        }
        let short = self.owners.short(owner);
        self.owners.take(0, entry.size);
        self.owners.add(short, entry.size);
        self.blobs.change(place, |entry| entry.owner = short);
        let noted = Noted {
            size: entry.size,
            uses: entry.uses,
            owner,
        };
        Some((entry.used, noted))
    }

    /// Whose a blob is, if the store has it.
    #[must_use]
    pub fn owner(&self, digest: &Digest) -> Option<OwnerId> {
        self.entry(digest).map(|entry| self.owners.id(entry.owner))
    }

    /// What the blobs of an upstream take, in bytes.
    pub fn bytes_of(&mut self, owner: OwnerId) -> u64 {
        let short = self.owners.short(owner);
        self.owners.bytes(short)
    }

    /// What must go of an upstream's blobs so that `need` bytes come free, or as much of it as may.
    /// Goes through all blobs until that is found.
    pub fn free_of(&mut self, owner: OwnerId, need: u64) -> Vec<Victim> {
        let short = self.owners.short(owner);
        self.blobs.restrict(Some(short));
        let victims = self.free(need, 0);
        self.blobs.restrict(None);
        victims
    }

    /// At most `count` blobs that nobody has used for longer than they are kept: they must go.
    pub fn aged(&mut self, ages: &Ages, now: Timestamp, count: usize) -> Vec<Victim> {
        let Some(least) = ages.least().filter(|_| !self.keeps_all) else {
            return Vec::new();
        };
        self.end_expectations();
        let mut victims = Vec::new();
        for list in 0..self.blobs.lists() {
            // From the one that was used longest ago on: those behind were used later.
            let mut next = self.blobs.evictable(self.blobs.oldest(list));
            while let Some(place) = next
                && let Some(entry) = self.blobs.entry(place)
                && victims.len() < count
            {
                let idle = now.since(entry.used);
                if idle < least {
                    break;
                }
                let kept = ages.of(self.owners.id(entry.owner));
                if kept.is_some_and(|kept| idle >= kept)
                    && let Some(digest) = self.blobs.digest(place)
                {
                    let size = entry.size;
                    victims.push(Victim { digest, size });
                }
                next = self.blobs.evictable(self.blobs.newer(place));
            }
        }
        self.evict(&victims);
        victims
    }

    /// What is known of a blob, if the store has it.
    #[must_use]
    pub fn entry(&self, digest: &Digest) -> Option<&Entry> {
        self.blobs.entry(self.blobs.find(digest)?)
    }

    /// Bytes stored and promised.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs.bytes().saturating_add(self.reserved)
    }

    /// How many blobs are stored.
    #[must_use]
    pub fn blobs(&self) -> usize {
        self.blobs.len()
    }

    /// The size of the store.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Enters a blob, or one of the same name anew: who reads it goes on reading.
    fn enter(&mut self, digest: &Digest, size: u64, last: Timestamp, uses: u8, owner: u8) {
        self.now = self.now.max(last);
        let old = self.blobs.remove(digest);
        if let Some(old) = old {
            self.owners.take(old.owner, old.size);
        }
        let owner = old.map_or(0, |old| old.owner).max(owner);
        self.owners.add(owner, size);
        let entry = Entry {
            size,
            used: last,
            uses: old.map_or(uses, |old| old.uses.max(uses)),
            pins: old.map_or(0, |old| old.pins),
            list: 0,
            owner,
        };
        let place = self.blobs.insert(digest, entry);
        if self.kept.contains(digest) {
            self.blobs.put(place, self.blobs.kept_list());
        } else {
            self.policy.entered(&mut self.blobs, place);
        }
    }

    /// Tells the policy of a use, unless the blob is none of its.
    fn used(&mut self, place: Place, counted: bool) {
        let list = self.blobs.entry(place).map(|entry| entry.list);
        if list != Some(self.blobs.kept_list()) {
            self.policy.used(&mut self.blobs, place, counted);
        }
    }

    /// The blobs that the policy gives up and nobody reads, until `need` bytes are found.
    fn victims(&mut self, need: u64) -> Vec<Victim> {
        self.end_expectations();
        if self.keeps_all {
            return Vec::new();
        }
        let places = self.policy.victims(&mut self.blobs, need, self.now);
        let named = places.into_iter().filter_map(|place| {
            let size = self.blobs.entry(place)?.size;
            let digest = self.blobs.digest(place)?;
            Some(Victim { digest, size })
        });
        named.collect()
    }

    fn evict(&mut self, victims: &[Victim]) {
        for victim in victims {
            if let Some(place) = self.blobs.find(&victim.digest) {
                self.policy.evicted(&self.blobs, place);
            }
            self.forget(&victim.digest);
        }
    }
}
