//! Blobs that are likely to be asked for in a moment: somebody has just been given the manifest that
//! names them. Until then they are no victims, or a pull would lose its last layer to its first.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// Time after its manifest that a blob is waited for. dockerd takes three layers at a time, and a node
/// that starts dozens of pods has others to fetch first.
const EXPECTED_FOR: Duration = Duration::from_mins(5);

/// Only so much of a store is kept in expectation, in percent: what is fetched now must find room, or
/// each client would get it from upstream by itself.
const EXPECTED_PERCENT_MAX: u64 = 50;

/// So many blobs at most, at about 100 bytes each.
const EXPECTED_MAX: usize = 50_000;

/// The blobs that are expected to be read.
#[derive(Debug, Default)]
pub(super) struct Expected {
    waits: HashMap<Digest, Wait>,
    /// Each of them once, in the order of when they are looked at again.
    queue: VecDeque<(Timestamp, Digest)>,
    bytes: u64,
}

#[derive(Debug)]
struct Wait {
    until: Timestamp,
    size: u64,
}

impl Expected {
    /// A stored blob will be read, in a store of `max` bytes. Which ones are expected no more instead,
    /// and whether this one is newly expected.
    pub(super) fn add(
        &mut self,
        digest: &Digest,
        size: u64,
        max: u64,
        now: Timestamp,
    ) -> (Vec<Digest>, bool) {
        let until = now.plus(EXPECTED_FOR);
        if let Some(wait) = self.waits.get_mut(digest) {
            wait.until = until;
            return (Vec::new(), false);
        }
        let bytes_max = max / 100 * EXPECTED_PERCENT_MAX;
        if size > bytes_max {
            return (Vec::new(), false);
        }
        let mut gone = Vec::new();
        while self.bytes + size > bytes_max || self.waits.len() >= EXPECTED_MAX {
            let Some((_, oldest)) = self.queue.pop_front() else {
                break;
            };
            gone.extend(self.forget(&oldest).then_some(oldest));
        }
        self.bytes += size;
        self.waits.insert(*digest, Wait { until, size });
        self.queue.push_back((until, *digest));
        (gone, true)
    }

    /// Those that are expected no more in a store of `max` bytes, the oldest first.
    pub(super) fn shrink(&mut self, max: u64) -> Vec<Digest> {
        let bytes_max = max / 100 * EXPECTED_PERCENT_MAX;
        let mut gone = Vec::new();
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.queue.pop_front() else {
                break;
            };
            gone.extend(self.forget(&oldest).then_some(oldest));
        }
        gone
    }

    /// Those that nobody has to wait for any more.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<Digest> {
        let mut gone = Vec::new();
        while self.queue.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, digest)) = self.queue.pop_front() else {
                break;
            };
            match self.waits.get(&digest) {
                Some(wait) if wait.until > now => self.queue.push_back((wait.until, digest)),
                Some(_) => gone.extend(self.forget(&digest).then_some(digest)),
                None => {}
            }
        }
        gone
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.waits.contains_key(digest)
    }

    /// It is expected no more; whether it was.
    pub(super) fn forget(&mut self, digest: &Digest) -> bool {
        let gone = self.waits.remove(digest);
        self.bytes -= gone.as_ref().map_or(0, |wait| wait.size);
        gone.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_store_keeps_less_in_expectation() {
        let mut expected = Expected::default();
        for n in 0..4 {
            expected.add(&digest(n), 100, 1000, at(n.into()));
        }
        assert_eq!(expected.shrink(1000), []);
        assert_eq!(expected.shrink(500), [digest(0), digest(1)]);
        assert!(expected.contains(&digest(2)) && expected.bytes == 200);
        assert_eq!(expected.expire(at(10_000)), [digest(2), digest(3)]);
    }

    fn digest(n: u8) -> Digest {
        Digest::Sha256([n; 32])
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn who_is_named_again_is_waited_for_longer() {
        let mut expected = Expected::default();
        assert_eq!(expected.add(&digest(1), 10, 1000, at(0)), (vec![], true));
        assert_eq!(expected.add(&digest(2), 10, 1000, at(1)), (vec![], true));
        assert_eq!(expected.add(&digest(1), 10, 1000, at(100)), (vec![], false));
        assert_eq!(expected.expire(at(300)), []);
        assert_eq!(expected.expire(at(301)), [digest(2)]);
        assert_eq!(expected.expire(at(399)), []);
        assert_eq!(expected.expire(at(400)), [digest(1)]);
        assert_eq!(expected.bytes, 0);
        assert!(expected.queue.is_empty());
    }

    #[test]
    fn no_more_than_half_of_the_store_is_waited_for() {
        let mut expected = Expected::default();
        for n in 0..5 {
            assert_eq!(expected.add(&digest(n), 100, 1000, at(0)), (vec![], true));
        }
        assert_eq!(
            expected.add(&digest(5), 150, 1000, at(1)),
            (vec![digest(0), digest(1)], true)
        );
        assert_eq!(expected.add(&digest(6), 501, 1000, at(1)), (vec![], false));
        assert!(expected.forget(&digest(2)) && !expected.forget(&digest(2)));
        assert_eq!(expected.add(&digest(0), 100, 1000, at(2)), (vec![], true));
        // One that was forgotten and came again is in the queue twice, and goes when it is time.
        assert_eq!(expected.add(&digest(2), 50, 1000, at(100)), (vec![], true));
        assert_eq!(expected.expire(at(399)).len(), 4);
        assert_eq!(expected.expire(at(400)), [digest(2)]);
    }
}
