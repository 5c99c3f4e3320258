//! The ledger of sizes, which decides what is kept and what goes. Pure: it names victims,
//! the store deletes them.
//!
//! | file | what |
//! | --- | --- |
//! | `slots`, `blobs` | entries in lists |
//! | `policy` | which blob goes first |
//! | `order` | the blobs as a policy has them, without those that are kept |
//! | `expected`, `owners`, `stored` | their uses, and whose they are |
//! | `ages` | how long they are kept without a use |
//! | `promised` | the size of the store, and what of it is promised |
//!
//! `benches/eviction` replays access logs through this very code; docs/eviction.md has what came of it.

mod ages;
pub mod blobs;
mod expected;
pub mod order;
mod owners;
pub mod policy;
mod promised;
mod slots;
pub mod stored;
#[cfg(test)]
mod tests;
pub(in crate::store) mod uses;

use crate::clock::Timestamp;
use crate::oci::Digest;
pub use ages::Ages;
pub use blobs::{Blobs, Entry, Place};
pub use order::Order;
pub use owners::OwnerId;
pub use policy::{IdleByUses, Policy};
use promised::Promised;
pub use stored::Stored;

/// The stored blobs, and the bytes that they and reservations take.
///
/// `stored + reserved <= max` holds after every call. A reservation is made
/// before the first byte of a fill and is settled into an entry or released.
#[derive(Debug)]
pub struct Ledger<P = IdleByUses> {
    stored: Stored<P>,
    promised: Promised,
}

/// Facts about a blob's use that the index should know.
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
    /// The blob.
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
    /// Bytes that were asked for.
    pub wanted: u64,
    /// Bytes that cannot be freed now.
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
    /// An empty ledger with another policy: for comparisons.
    #[must_use]
    pub fn with_policy(max: u64, policy: P) -> Self {
        Self {
            stored: Stored::new(policy),
            promised: Promised::new(max),
        }
    }

    /// The stored blobs and their uses.
    #[must_use]
    pub fn stored(&self) -> &Stored<P> {
        &self.stored
    }

    /// The stored blobs and their uses.
    pub fn stored_mut(&mut self) -> &mut Stored<P> {
        &mut self.stored
    }

    /// The stored blobs, and the order in which they go.
    #[must_use]
    pub fn order(&self) -> &Order<P> {
        self.stored.order()
    }

    /// The stored blobs, and the order in which they go.
    pub fn order_mut(&mut self) -> &mut Order<P> {
        self.stored.order_mut()
    }

    /// Reserves `bytes`, naming what must be deleted for it.
    ///
    /// # Errors
    /// [`NoRoom`]; then nothing was evicted.
    pub fn admit(&mut self, bytes: u64) -> Result<Vec<Victim>, NoRoom> {
        let need = self.promised.missing(self.order().bytes(), bytes);
        let mut victims = self.stored.victims(need, None);
        let freed = bytes_of(&victims);
        if freed < need {
            return Err(self.no_room(bytes, freed));
        }
        self.evict(&victims);
        self.promised.reserve(bytes);
        // Of many small ones the entries and files take more than their bytes.
        while self.order().len() >= self.promised.blobs_max() {
            let more = self.stored.victims(1, None);
            if more.is_empty() {
                break;
            }
            self.evict(&more);
            victims.extend(more);
        }
        Ok(victims)
    }

    /// Checks that [`Ledger::admit`] could reserve `bytes`, if `spare` of what is reserved went too; nothing goes.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn could_admit(&mut self, bytes: u64, spare: u64) -> Result<(), NoRoom> {
        let need = self.promised.missing(self.order().bytes(), bytes);
        let freed = self.could_free(need);
        if bytes > self.max() || freed.saturating_add(spare) < need {
            return Err(self.no_room(bytes, freed));
        }
        Ok(())
    }

    /// Part of `need` bytes that would come free if everything went that may.
    pub fn could_free(&mut self, need: u64) -> u64 {
        bytes_of(&self.stored.victims(need, None))
    }

    /// Names what must go so that `need` bytes come free, or as much of it as there is; nothing when that is less
    /// than `least`. For what makes room before it is needed, and for a file system that is short of it.
    pub fn free(&mut self, need: u64, least: u64) -> Vec<Victim> {
        let victims = self.stored.victims(need, None);
        if bytes_of(&victims) < least {
            return Vec::new();
        }
        self.evict(&victims);
        victims
    }

    /// Names what must go of an upstream's blobs so that `need` bytes come free, or as much of it as may.
    /// Goes through all blobs until that is found.
    pub fn free_of(&mut self, owner: OwnerId, need: u64) -> Vec<Victim> {
        let victims = self.stored.victims(need, Some(owner));
        self.evict(&victims);
        victims
    }

    /// Names at most `count` blobs that nobody has used for longer than they are kept: they must go.
    pub fn aged(&mut self, ages: &Ages, now: Timestamp, count: usize) -> Vec<Victim> {
        let victims = self.stored.aged(ages, now, count);
        self.evict(&victims);
        victims
    }

    /// Names what must go at start-up when the store has been made smaller.
    pub fn shrink(&mut self) -> Vec<Victim> {
        let over = self.promised.missing(self.order().bytes(), 0);
        self.free(over, 0)
    }

    /// Gives back a reservation.
    pub fn release(&mut self, bytes: u64) {
        self.promised.release(bytes);
    }

    /// Makes a reservation something else's, which is no longer a part of this.
    pub fn give_away(&mut self, reserved: u64) {
        self.promised.give_away(reserved);
        // Else what is waited for would keep a store that was made smaller above its size.
        self.stored.expect_less(self.promised.max());
    }

    /// Takes back some of what was given away.
    pub fn have_back(&mut self, bytes: u64) {
        self.promised.have_back(bytes);
    }

    /// Turns a reservation into a stored blob of `size` (at most `reserved`) bytes.
    pub fn settle(&mut self, digest: Digest, reserved: u64, size: u64, now: Timestamp) {
        self.release(reserved);
        self.stored.load(digest, size, now, 1);
    }

    /// Makes a blob no victim for some minutes: a manifest was given to somebody who may now ask for what it names.
    pub fn expect(&mut self, digest: &Digest, now: Timestamp) {
        let max = self.max();
        self.stored.expect(digest, max, now);
    }

    /// Bytes stored and promised.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.promised.taken(self.order().bytes())
    }

    /// Size of the store, in bytes.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.promised.max()
    }

    fn no_room(&self, wanted: u64, freed: u64) -> NoRoom {
        NoRoom {
            wanted,
            kept: self.bytes() - freed,
            max: self.max(),
        }
    }

    fn evict(&mut self, victims: &[Victim]) {
        for victim in victims {
            self.stored.evict(&victim.digest);
        }
    }
}

fn bytes_of(victims: &[Victim]) -> u64 {
    victims.iter().map(|victim| victim.size).sum()
}
