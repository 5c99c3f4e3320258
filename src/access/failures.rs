//! Failed logins, by user and address together: somebody who guesses is held up, and cannot lock anybody else out.

use crate::clock::Timestamp;
use crate::net::Address;
use aws_lc_rs::digest::{SHA256, digest};
use moka::sync::Cache;
use std::net::IpAddr;
use std::time::Duration;

/// So many in a row are free.
const FREE: u32 = 10;

/// Time after the last of them until the next is looked at.
const PAUSE: Duration = Duration::from_secs(30);

/// Pairs that are remembered, some 100 bytes each.
const PAIRS_MAX: u64 = 20_000;

/// Failed logins.
#[derive(Debug)]
pub(super) struct Failures(Cache<Pair, (u32, Timestamp)>);

/// The hash of a user's name, which may be long, and the address that is given to one client.
type Pair = ([u8; 32], Address);

impl Default for Failures {
    fn default() -> Self {
        let pairs = Cache::builder()
            .max_capacity(PAIRS_MAX)
            .time_to_live(10 * PAUSE)
            .build();
        Self(pairs)
    }
}

impl Failures {
    /// Time that this user has to wait at this address before his password is looked at again.
    pub(super) fn wait(&self, user: &str, source: IpAddr, now: Timestamp) -> Option<Duration> {
        let (count, last) = self.0.get(&key(user, source))?;
        let passed = now.since(last);
        (count >= FREE && passed < PAUSE).then(|| PAUSE.saturating_sub(passed))
    }

    /// A login has failed.
    pub(super) fn count(&self, user: &str, source: IpAddr, now: Timestamp) {
        let entry = self.0.entry(key(user, source));
        entry.and_upsert_with(|known| {
            let count = known.map_or(0, |known| known.into_value().0);
            (count.saturating_add(1), now)
        });
    }

    /// A login has not failed.
    pub(super) fn forgive(&self, user: &str, source: IpAddr) {
        self.0.invalidate(&key(user, source));
    }
}

fn key(user: &str, source: IpAddr) -> Pair {
    let mut name = [0; 32];
    // As many bytes as SHA-256 has.
    name.copy_from_slice(digest(&SHA256, user.as_bytes()).as_ref());
    (name, Address::of(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_waits_and_nobody_else() {
        let failures = Failures::default();
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let now = Timestamp(1_000_000);
        for _ in 0..FREE {
            assert_eq!(failures.wait("alice", one, now), None);
            failures.count("alice", one, now);
        }
        assert_eq!(failures.wait("alice", one, now), Some(PAUSE));
        assert_eq!(failures.wait("alice", other, now), None);
        assert_eq!(failures.wait("bob", one, now), None);
        assert_eq!(failures.wait("alice", one, now.plus(PAUSE)), None);
        failures.forgive("alice", one);
        assert_eq!(failures.wait("alice", one, now), None);
    }

    #[test]
    fn names_are_told_apart_to_their_end_and_addresses_by_whom_they_are_given_to() {
        let failures = Failures::default();
        let now = Timestamp(1_000_000);
        let address = |last: u16| -> IpAddr { [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into() };
        for number in 0..FREE {
            let last = u16::try_from(number).unwrap();
            failures.count("service-account-one", address(last), now);
        }
        let wait = |user: &str| failures.wait(user, address(99), now);
        assert_eq!(wait("service-account-one"), Some(PAUSE));
        assert_eq!(wait("service-account-two"), None);
        let elsewhere = [0x2001, 0xdb8, 0, 1, 0, 0, 0, 1].into();
        assert_eq!(failures.wait("service-account-one", elsewhere, now), None);
    }
}
