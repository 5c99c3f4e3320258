//! The retries of a fill, and the waits before them.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::upstream::FetchError;

/// Failures that a fill survives with little to show between them.
const RETRIES_MAX: u32 = 8;

/// So many bytes that arrived earn one more retry: a blob of many gigabytes over a bad line breaks more
/// often than a small one, and may. Some proxies end every connection after half a minute: what a slow
/// line brings in that time must be enough.
pub(super) const RETRY_EARNED_BYTES: u64 = 1024 * 1024;

/// A fill to which nothing came for this long, whatever was tried, is given up. Clients give up a
/// silent body after some minutes (containerd's `image_pull_progress_timeout`: 5).
const STALLED_MAX: Duration = Duration::from_mins(1);

/// The longest wait, in first ones: 5 s unless configured otherwise. An upstream that restarts is back
/// within that.
const DELAY_MAX: u32 = 50;

/// One fill's retries.
#[derive(Debug)]
pub(in crate::mirror) struct Budget {
    retries: u32,
    earned: u64,
    delay: Duration,
    delays: ExponentialBackoff,
    last_progress: Instant,
    /// Something failed, and has not been tried again.
    is_waiting: bool,
}

impl Budget {
    /// A fresh budget, whose first wait is `delay`.
    pub(in crate::mirror) fn new(delay: Duration) -> Self {
        Self {
            retries: RETRIES_MAX,
            earned: 0,
            delay,
            delays: delays(delay),
            last_progress: Instant::now(),
            is_waiting: false,
        }
    }

    /// Bytes have arrived.
    pub(in crate::mirror) fn progress(&mut self, bytes: u64) {
        self.last_progress = Instant::now();
        self.delays = delays(self.delay);
        self.earned += bytes;
        while self.earned >= RETRY_EARNED_BYTES {
            self.earned -= RETRY_EARNED_BYTES;
            self.retries = (self.retries + 1).min(RETRIES_MAX);
        }
    }

    /// Something failed: how long to wait before it is tried again, or `None` when it is not. Upstream
    /// may have said how long it wants not to be asked.
    pub(in crate::mirror) fn spend(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        let delay = self.delays.next().unwrap_or(self.delay * DELAY_MAX);
        let wait = delay.saturating_add(retry_after.unwrap_or_default());
        if self.last_progress.elapsed().saturating_add(wait) > STALLED_MAX {
            return None;
        }
        self.retries = self.retries.checked_sub(1)?;
        self.is_waiting = true;
        Some(wait)
    }

    /// True if what failed has not been tried again: another one who asks for the same has not waited.
    pub(in crate::mirror) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// The wait is over, and what failed is tried again.
    pub(in crate::mirror) fn tries_again(&mut self) {
        self.is_waiting = false;
    }
}

/// When upstream wants to be asked again.
pub(in crate::mirror) fn retry_after(error: &FetchError) -> Option<Duration> {
    if let FetchError::RateLimited { retry_after } = error {
        *retry_after
    } else if let FetchError::Unavailable { retry_after } = error {
        Some(*retry_after)
    } else {
        None
    }
}

/// Each twice as long as the one before, with jitter: a fleet's fills must not knock in step.
fn delays(first: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(first * DELAY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn a_fill_that_gets_nowhere_is_given_up_after_so_many_failures() {
        let mut budget = Budget::new(FIRST);
        let waits: Vec<_> = std::iter::from_fn(|| budget.spend(None)).collect();
        assert_eq!(waits.len(), 8);
        assert!(
            waits
                .iter()
                .all(|wait| *wait >= FIRST && *wait <= 2 * 50 * FIRST)
        );
        let sum: Duration = waits.iter().sum();
        assert!(sum > Duration::from_secs(5), "the waits grow: {waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrives_earns_retries_but_never_more_than_at_first() {
        let mut budget = Budget::new(FIRST);
        for _ in 0..8 {
            budget.spend(None).unwrap();
        }
        budget.progress(RETRY_EARNED_BYTES - 1);
        assert_eq!(budget.spend(None), None);
        budget.progress(1);
        assert!(
            budget.spend(None).unwrap() <= 2 * FIRST,
            "and the wait is short again"
        );
        assert_eq!(budget.spend(None), None);
        budget.progress(1000 * RETRY_EARNED_BYTES);
        assert_eq!(std::iter::from_fn(|| budget.spend(None)).count(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn what_upstream_wants_is_waited_for_if_it_is_not_too_long() {
        let mut budget = Budget::new(FIRST);
        let forty = Duration::from_secs(40);
        let wait = budget.spend(Some(forty)).unwrap();
        assert!(wait >= forty && wait < forty + 3 * FIRST, "{wait:?}");
        assert_eq!(budget.spend(Some(Duration::from_mins(1))), None);
    }

    /// Its time alone ended it: a reader's connection could ask just before the one that had waited, once more than the
    /// budget allows.
    #[tokio::test(start_paused = true)]
    async fn a_wait_lasts_until_what_failed_is_tried_again() {
        let mut budget = Budget::new(FIRST);
        assert!(!budget.is_waiting());
        let wait = budget.spend(None).unwrap();
        tokio::time::advance(2 * wait).await;
        assert!(budget.is_waiting());
        budget.tries_again();
        assert!(!budget.is_waiting());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_fill_however_few_failures_it_had() {
        let mut budget = Budget::new(FIRST);
        tokio::time::advance(STALLED_MAX + Duration::from_secs(1)).await;
        assert_eq!(budget.spend(None), None);
    }
}
