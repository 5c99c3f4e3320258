//! What is kept and what goes: the ledger of sizes. Pure: it names victims,
//! the store deletes them.

use std::time::Duration;

use lru::LruCache;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// Uses closer together than this are one for the index: order in memory is
/// exact, and what is written only has to be good enough after a restart.
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// What the store holds, in order of last use, and what it has promised.
///
/// `used + reserved <= max` holds after every call. A reservation is made
/// before the first byte of a fill and is settled into an entry or released.
#[derive(Debug)]
pub struct Ledger {
    entries: LruCache<Digest, Entry>,
    used: u64,
    reserved: u64,
    max: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    /// Open readers; while there are any the blob is no victim.
    pins: u32,
    /// The last use that was handed to the index.
    noted: Timestamp,
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
#[error("{wanted} bytes do not fit: of {max} bytes {kept} are in use by open blobs and fills")]
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
        Self {
            entries: LruCache::unbounded(),
            used: 0,
            reserved: 0,
            max,
        }
    }

    /// Takes in a blob found on disk at start-up; call in order of last use,
    /// oldest first.
    pub fn load(&mut self, digest: Digest, size: u64, noted: Timestamp) {
        let entry = Entry {
            size,
            pins: 0,
            noted,
        };
        if let Some(old) = self.entries.put(digest, entry) {
            self.used -= old.size;
        }
        self.used += size;
    }

    /// Reserves `bytes`, naming what must be deleted for it.
    ///
    /// # Errors
    /// [`NoRoom`]; then nothing was evicted.
    pub fn admit(&mut self, bytes: u64) -> Result<Vec<Victim>, NoRoom> {
        let need = self
            .used
            .saturating_add(self.reserved)
            .saturating_add(bytes)
            .saturating_sub(self.max);
        let victims = self.victims(need);
        let freed: u64 = victims.iter().map(|v| v.size).sum();
        if freed < need {
            return Err(NoRoom {
                wanted: bytes,
                kept: self.used + self.reserved - freed,
                max: self.max,
            });
        }
        for victim in &victims {
            self.forget(&victim.digest);
        }
        self.reserved += bytes;
        Ok(victims)
    }

    /// What must go at start-up when the store has been made smaller.
    pub fn shrink(&mut self) -> Vec<Victim> {
        let over = (self.used + self.reserved).saturating_sub(self.max);
        let victims = self.victims(over);
        for victim in &victims {
            self.forget(&victim.digest);
        }
        victims
    }

    /// Gives back a reservation.
    pub fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Turns a reservation into a stored blob of `size` (at most `reserved`) bytes.
    pub fn settle(&mut self, digest: Digest, reserved: u64, size: u64, now: Timestamp) {
        self.release(reserved);
        let pins = self.entries.peek(&digest).map_or(0, |e| e.pins);
        let entry = Entry {
            size,
            pins,
            noted: now,
        };
        if let Some(old) = self.entries.put(digest, entry) {
            self.used -= old.size;
        }
        self.used += size;
    }

    /// The size of a blob, if the store has it.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.entries.peek(digest).map(|e| e.size)
    }

    /// Marks a blob as used just now. Its size when the index should hear of it.
    pub fn touch(&mut self, digest: &Digest, now: Timestamp) -> Option<u64> {
        let entry = self.entries.get_mut(digest)?;
        let due = now.since(entry.noted) >= NOTE_EVERY;
        if due {
            entry.noted = now;
        }
        due.then_some(entry.size)
    }

    /// Marks a blob as open: its size, if the store has it.
    pub fn pin(&mut self, digest: &Digest) -> Option<u64> {
        let entry = self.entries.get_mut(digest)?;
        entry.pins += 1;
        Some(entry.size)
    }

    /// Undoes one [`Ledger::pin`].
    pub fn unpin(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.peek_mut(digest) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Forgets a blob, whoever reads it: it is gone or damaged. Its size.
    pub fn forget(&mut self, digest: &Digest) -> Option<u64> {
        let entry = self.entries.pop(digest)?;
        self.used -= entry.size;
        Some(entry.size)
    }

    /// Bytes stored and promised.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.used + self.reserved
    }

    /// How many blobs are stored.
    #[must_use]
    pub fn blobs(&self) -> usize {
        self.entries.len()
    }

    /// The size of the store.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The least recently used blobs that nobody reads, until `need` bytes are found.
    fn victims(&self, need: u64) -> Vec<Victim> {
        let mut found = 0;
        let mut victims = Vec::new();
        for (digest, entry) in self.entries.iter().rev() {
            if found >= need {
                break;
            }
            if entry.pins == 0 && entry.size > 0 {
                found += entry.size;
                victims.push(Victim {
                    digest: *digest,
                    size: entry.size,
                });
            }
        }
        victims
    }
}

/// For what makes room before it is needed, and for a file system that is short of it.
impl Ledger {
    /// What must go so that `need` bytes come free, or as much of it as there is; nothing when that
    /// is less than `least`.
    pub fn free(&mut self, need: u64, least: u64) -> Vec<Victim> {
        let victims = self.victims(need);
        let freed: u64 = victims.iter().map(|v| v.size).sum();
        if freed < least {
            return Vec::new();
        }
        for victim in &victims {
            self.forget(&victim.digest);
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    fn filled(max: u64, sizes: &[u64]) -> Ledger {
        let mut ledger = Ledger::new(max);
        for (n, size) in (0_u8..).zip(sizes) {
            ledger.load(digest(n), *size, Timestamp::default());
        }
        ledger
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut ledger = filled(100, &[40, 30, 30]);
        ledger.touch(&digest(0), Timestamp::default());
        let victims = ledger.admit(20).unwrap();
        assert_eq!(
            victims,
            [Victim {
                digest: digest(1),
                size: 30
            }]
        );
        assert_eq!(ledger.bytes(), 90);
    }

    #[test]
    fn an_open_blob_is_never_a_victim() {
        let mut ledger = filled(100, &[40, 30, 30]);
        ledger.pin(&digest(0)).unwrap();
        ledger.pin(&digest(1)).unwrap();
        assert_eq!(
            ledger.admit(40),
            Err(NoRoom {
                wanted: 40,
                kept: 70,
                max: 100
            })
        );
        assert_eq!(ledger.blobs(), 3, "a refusal evicts nothing");
        ledger.unpin(&digest(0));
        let victims = ledger.admit(40).unwrap();
        let gone: Vec<_> = victims.iter().map(|v| v.digest).collect();
        assert_eq!(gone, [digest(2), digest(0)], "opening is a use");
    }

    #[test]
    fn a_reservation_counts_until_it_is_settled_or_released() {
        let mut ledger = Ledger::new(100);
        ledger.admit(80).unwrap();
        assert!(ledger.admit(30).is_err());
        ledger.settle(digest(1), 80, 10, Timestamp::default());
        assert_eq!(ledger.bytes(), 10);
        ledger.admit(90).unwrap();
        ledger.release(90);
        assert_eq!(ledger.bytes(), 10);
    }

    #[test]
    fn a_smaller_store_sheds_at_start() {
        let mut ledger = filled(50, &[40, 30, 30]);
        let gone: Vec<_> = ledger.shrink().iter().map(|v| v.digest).collect();
        assert_eq!(gone, [digest(0), digest(1)]);
        assert_eq!(ledger.bytes(), 30);
    }

    #[test]
    fn bytes_come_free_or_nothing_goes() {
        let mut ledger = filled(200, &[40, 30, 30]);
        ledger.pin(&digest(2)).unwrap();
        assert_eq!(ledger.free(80, 80), [], "two of them have only 70");
        assert_eq!(ledger.bytes(), 100);
        let gone: Vec<_> = ledger.free(41, 41).iter().map(|v| v.digest).collect();
        assert_eq!(gone, [digest(0), digest(1)]);
        assert_eq!(ledger.free(5, 0), [], "what is open stays");
        assert_eq!(ledger.bytes(), 30);
    }

    proptest! {
        #[test]
        fn never_over_the_bound_nor_over_a_pin(
            steps in prop::collection::vec((0_u8..4, 0_u8..16, 0_u64..60), 0..200)
        ) {
            let mut ledger = Ledger::new(100);
            let mut pinned = std::collections::HashMap::<Digest, u32>::new();
            for (step, n, bytes) in steps {
                let digest = digest(n);
                match step {
                    0 | 1 => if let Ok(victims) = ledger.admit(bytes) {
                        for victim in victims {
                            prop_assert_eq!(pinned.get(&victim.digest).copied().unwrap_or(0), 0);
                        }
                        ledger.settle(digest, bytes, bytes, Timestamp::default());
                    },
                    2 => if ledger.pin(&digest).is_some() { *pinned.entry(digest).or_default() += 1; },
                    _ => if let Some(count) = pinned.get_mut(&digest).filter(|c| **c > 0) {
                        *count -= 1;
                        ledger.unpin(&digest);
                    },
                }
                prop_assert!(ledger.bytes() <= ledger.max());
            }
        }
    }
}
