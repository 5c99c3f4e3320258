//! Times for which things are waited for, avoided or remembered, in one place, so that tests can be quick.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The times and counts that nobody configures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timings {
    /// Failures in a row that open the breaker of an endpoint.
    pub(super) breaker_failures: u32,
    /// Time for which it stays open the first time.
    pub(super) breaker_first: Duration,
    /// The most that it stays open, after doubling.
    pub(super) breaker_longest: Duration,
    /// Time for which an endpoint that gave wrong bytes is avoided for that digest.
    pub(super) distrusted: Duration,
    /// Time for which no Range is tried at an endpoint that ignored one.
    pub(super) rangeless: Duration,
    /// Time for which a measured speed says something.
    pub(super) measured: Duration,
    /// The pause before every endpoint is asked once more, doubling.
    pub(super) round_pause: Duration,
    /// Time for which a login is not used after a 429 that names none, the first time.
    pub(super) limited_first: Duration,
    /// The same, at most, after doubling.
    pub(super) limited_longest: Duration,
    /// The least that a login is not used after a 429, the first time, whatever it says.
    pub(super) limited_least: Duration,
    /// Those who waited for the end of a limit come back within this time of it.
    pub(super) limited_jitter: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            // One or two are chance, and a pull's layers fail together.
            breaker_failures: 5,
            // As long as a pull can well wait, and short enough to notice that a restart is over.
            breaker_first: Duration::from_secs(1),
            // An endpoint that is down for an hour costs two requests a minute.
            breaker_longest: Duration::from_secs(30),
            // A CDN's bad copy is often repaired by then, and asking again costs one blob.
            distrusted: Duration::from_mins(10),
            // The answer may have come from one of several servers.
            rangeless: Duration::from_mins(10),
            // Routes change by the hour; asking again costs one request.
            measured: Duration::from_mins(5),
            // A server behind a load balancer is taken out within about a second.
            round_pause: Duration::from_millis(250),
            limited_first: Duration::from_secs(1),
            // Docker Hub's window slides, so that a pull may be free at any minute.
            limited_longest: Duration::from_mins(1),
            // GHCR says microseconds, to each of hundreds of requests.
            limited_least: Duration::from_millis(50),
            limited_jitter: Duration::from_millis(200),
        }
    }
}

impl Timings {
    /// Times for which a breaker stays open.
    pub(super) fn breaker_pauses(&self) -> ExponentialBackoff {
        with_jitter(self.breaker_first, self.breaker_longest)
    }

    /// The pauses between rounds of one request.
    pub(super) fn round_pauses(&self) -> ExponentialBackoff {
        with_jitter(self.round_pause, self.round_pause * 8)
    }

    /// Times for which a login is not used when nobody names one.
    pub(super) fn limited_guesses(&self) -> ExponentialBackoff {
        doubling(self.limited_first, self.limited_longest)
    }

    /// The least that it is not used.
    pub(super) fn limited_floors(&self) -> ExponentialBackoff {
        doubling(self.limited_least, self.limited_first)
    }

    /// Waits after the end of a limit.
    pub(super) fn limited_jitter(&self) -> ExponentialBackoff {
        with_jitter(self.limited_jitter, self.limited_jitter)
    }
}

/// Doubles from `first` to `longest`; of each pause the second half is left to chance, so that those who
/// failed together do not come back together.
fn with_jitter(first: Duration, longest: Duration) -> ExponentialBackoff {
    // backon adds to each pause up to as much again.
    builder(first / 2, longest / 2).with_jitter().build()
}

fn doubling(first: Duration, longest: Duration) -> ExponentialBackoff {
    builder(first, longest).build()
}

fn builder(first: Duration, longest: Duration) -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
}
