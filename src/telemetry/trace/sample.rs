//! The requests that are traced.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::time::Instant;

use super::context::random;

/// Traces a second that clients make roadstead record with their `traceparent`: enough for every CI job of a big fleet,
/// and few enough that whoever sets the flag on each request costs the others nothing.
const OF_CLIENTS_A_SECOND_MAX: u32 = 100;

/// The unit of a [`Ratio`].
const BILLION: u32 = 1_000_000_000;

/// A part of all traces, from none to all, in billionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(u32);

impl Ratio {
    /// All.
    pub const ALL: Self = Self(BILLION);
    /// One of a hundred.
    pub const HUNDREDTH: Self = Self(BILLION / 100);

    /// The ratio of a number from 0 to 1.
    #[must_use]
    pub fn of(number: f64) -> Option<Self> {
        let is_ratio = (0.0..=1.0).contains(&number);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number from 0 to a billion"
        )]
        is_ratio.then(|| Self((number * f64::from(BILLION)).round() as u32))
    }

    /// True if this one, of all that there are, is among them.
    fn has(self, random: u64) -> bool {
        random % u64::from(BILLION) < u64::from(self.0)
    }
}

/// A number that TOML and people read.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = f64::from(self.0) / f64::from(BILLION);
        write!(f, "{number:?}")
    }
}

/// Decides which requests are traced.
#[derive(Debug)]
pub(super) struct Sampler {
    ratio: AtomicU32,
    began: Instant,
    /// The second since then, and the traces of clients in it, in 32 bits each.
    of_clients: AtomicU64,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self {
            ratio: AtomicU32::new(0),
            began: Instant::now(),
            of_clients: AtomicU64::new(0),
        }
    }

    pub(super) fn set(&self, ratio: Ratio) {
        self.ratio.store(ratio.0, Ordering::Relaxed);
    }

    /// True if a request that belongs to no trace begins one.
    pub(super) fn takes_new(&self) -> bool {
        Ratio(self.ratio.load(Ordering::Relaxed)).has(random())
    }

    /// True if a request is recorded whose client records it; not all are, if clients ask for many.
    pub(super) fn takes_of_client(&self) -> bool {
        self.takes_of_client_at(self.began.elapsed().as_secs())
    }

    fn takes_of_client_at(&self, second: u64) -> bool {
        let count = |seen: u64| {
            let so_far = if seen >> 32 == second {
                seen & u64::from(u32::MAX)
            } else {
                0
            };
            let is_room = so_far < u64::from(OF_CLIENTS_A_SECOND_MAX);
            is_room.then_some(second << 32 | (so_far + 1))
        };
        self.of_clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_numbers_from_none_to_all() {
        for (number, shown) in [
            (0.0, "0.0"),
            (0.01, "0.01"),
            (1.0, "1.0"),
            (0.000_1, "0.0001"),
        ] {
            assert_eq!(Ratio::of(number).unwrap().to_string(), shown);
        }
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::of(bad), None, "{bad}");
        }
        let taken = |ratio: Ratio| (0..10_000).filter(|_| ratio.has(random())).count();
        assert_eq!(taken(Ratio(0)), 0);
        assert_eq!(taken(Ratio::ALL), 10_000);
        // Ten standard deviations to each side.
        assert!((4500..5500).contains(&taken(Ratio::of(0.5).unwrap())));
    }

    #[test]
    fn clients_ask_for_so_many_a_second() {
        let sampler = Sampler::new();
        for second in [0, 1, 7] {
            let taken = (0..1000).filter(|_| sampler.takes_of_client_at(second));
            assert_eq!(taken.count(), OF_CLIENTS_A_SECOND_MAX as usize, "{second}");
        }
    }
}
