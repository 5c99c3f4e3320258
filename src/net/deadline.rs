//! One time limit for everything a request needs before its answer begins.

use std::future::Future;
use std::time::Duration;

use futures_util::TryFutureExt;
use tokio::time::Instant;

use super::Error;

/// The moment after which nobody waits any more. Copied, not renewed, by every step (token,
/// redirect, repeat), so that steps cannot add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The deadline that lies `time` ahead.
    pub(crate) fn after(time: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(time).unwrap_or_else(|| now + FAR))
    }

    /// The earlier of this deadline and `time` from now.
    pub(crate) fn at_most(self, time: Duration) -> Self {
        self.min(Self::after(time))
    }

    /// The deadline of the first of `parts` attempts that share the time left equally: an endpoint
    /// that is silent must leave time for the next one.
    pub(crate) fn share(self, parts: usize) -> Self {
        let parts = u32::try_from(parts.max(1)).unwrap_or(u32::MAX);
        Self::after(self.left() / parts)
    }

    /// The time left.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// True if it has passed.
    pub(crate) fn passed(self) -> bool {
        self.0 <= Instant::now()
    }

    /// Waits for `future`, or fails with [`Error::Timeout`] naming `what`.
    pub(crate) fn run<T>(
        self,
        what: &'static str,
        future: impl Future<Output = T>,
    ) -> impl Future<Output = Result<T, Error>> {
        // No async function, which would hold `future` twice.
        let timed = tokio::time::timeout_at(self.0, future);
        timed.map_err(move |_elapsed| Error::Timeout(what))
    }
}

/// Replaces a time limit too long to add to a clock.
const FAR: Duration = Duration::from_hours(24 * 365);
