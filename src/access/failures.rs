//! Failed logins, by user and address together: somebody who guesses is held up, and cannot lock anybody else out.

use crate::clock::Timestamp;
use moka::sync::Cache;
use std::net::IpAddr;
use std::time::Duration;

/// So many in a row are free.
const FREE: u32 = 10;

/// Time after the last of them until the next is looked at.
const PAUSE: Duration = Duration::from_secs(30);

/// Pairs that are remembered, some 100 bytes each.
const PAIRS_MAX: u64 = 20_000;

/// The longest part of a user name that tells one from another here.
const USER_BYTES_MAX: usize = 64;

/// Failed logins.
#[derive(Debug)]
pub(super) struct Failures(Cache<(String, IpAddr), (u32, Timestamp)>);

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

fn key(user: &str, source: IpAddr) -> (String, IpAddr) {
    let user = user.chars().take(USER_BYTES_MAX / 4).collect();
    (user, source.to_canonical())
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
}
