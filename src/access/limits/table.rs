//! The buckets of one limit: bounded, and fair where there are no more.

use super::super::{Kind, Principal};
use super::bucket::{Bucket, REST};
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The most buckets of one limit, some 200 bytes each: more identities and addresses than a fleet has at work at once.
pub(super) const BUCKETS_MAX: usize = 16 * 1024;

/// Buckets that are shared by clients for whom there is no other.
const SHARED: u64 = 256;

/// Whose bucket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// An identity, by the hash of its name under a secret of this process.
    Identity(Kind, u64),
    V4([u8; 4]),
    /// The network that one host may choose its addresses from.
    V6([u8; 8]),
    /// Several that have none of their own.
    Shared(u64),
}

/// The buckets.
#[derive(Debug, Default)]
pub(super) struct Table {
    hash: RandomState,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_key: HashMap<Key, Arc<Bucket>>,
    /// When those at rest were last looked for: all are looked at, and not for each client of a flood.
    swept: Option<Duration>,
}

impl Key {
    /// Of an address.
    pub(super) fn of_address(source: IpAddr) -> Self {
        match source.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let network = (address.to_bits() >> 64) as u64;
                Self::V6(network.to_be_bytes())
            }
        }
    }

    /// The network that somebody is likely to have who has many such keys: its first half.
    fn network(self) -> Self {
        match self {
            Self::V4([a, b, ..]) => Self::V4([a, b, 0, 0]),
            Self::V6([a, b, c, d, ..]) => Self::V6([a, b, c, d, 0, 0, 0, 0]),
            Self::Identity(..) | Self::Shared(_) => self,
        }
    }
}

impl Table {
    /// The key of an identity.
    pub(super) fn key_of(&self, who: &Principal) -> Key {
        Key::Identity(who.kind, self.hash.hash_one(&*who.name))
    }

    /// The bucket of a key.
    pub(super) fn bucket(
        &self,
        key: Key,
        now: Duration,
        today: u64,
        make: impl Fn() -> Bucket,
    ) -> Arc<Bucket> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.by_key.get(&key) {
            return Arc::clone(bucket);
        }
        let is_due = buckets.swept.is_none_or(|swept| now >= swept + REST);
        if buckets.by_key.len() >= BUCKETS_MAX && is_due {
            buckets.swept = Some(now);
            // What somebody holds is in use.
            let is_idle =
                |it: &Arc<Bucket>| Arc::strong_count(it) == 1 && it.is_at_rest(now, today);
            buckets.by_key.retain(|_, bucket| !is_idle(bucket));
        }
        let key = if buckets.by_key.len() < BUCKETS_MAX {
            key
        } else {
            Key::Shared(self.hash.hash_one(key.network()) % SHARED)
        };
        let bucket = buckets
            .by_key
            .entry(key)
            .or_insert_with(|| Arc::new(make()));
        Arc::clone(bucket)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buckets.lock().unwrap().by_key.len()
    }
}
