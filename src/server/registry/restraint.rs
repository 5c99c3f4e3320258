//! Clients that ask for more than their share are refused: each time a little late, for they ask again at once
//! (containerd repeats what was answered with 429 five times without a pause), counted, and told of now and then.

use crate::server::http::access_log::Exchange;
use crate::telemetry::{Limit, Metrics};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Delay of a refusal.
const DELAY: Duration = Duration::from_millis(500);

/// Refusals that are late at the same time, each with what its request takes in memory. Further ones come at once.
const DELAYED_MAX: usize = 1024;

/// Time between log lines.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// Holds back those who ask for too much.
#[derive(Debug)]
pub(crate) struct Restraint {
    delays: Semaphore,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// Refusals since then.
    others: u64,
}

impl Restraint {
    /// Nobody has been refused yet.
    pub(crate) fn new() -> Self {
        Self {
            delays: Semaphore::new(DELAYED_MAX),
            told: Mutex::default(),
        }
    }

    /// A request is about to be refused for this reason: returns when it may be.
    pub(crate) async fn refuse(&self, limit: Limit, exchange: &Exchange, metrics: &Metrics) {
        metrics.limits().met(limit);
        let is_of_access = matches!(
            limit,
            Limit::AccessRequests | Limit::AccessConnections | Limit::AccessBytesPerDay
        );
        let others = self.due(Instant::now());
        let client = exchange.client_id().address;
        if let (Some(others), true) = (others, is_of_access) {
            tracing::warn!(
                %client, user = exchange.account.name().as_deref(),
                limit = limit.label(), others_since_last_told = others,
                "a client has met a limit of [[access.limit]]: further requests get 429 with Retry-After"
            );
        } else if let Some(others) = others {
            tracing::warn!(
                %client, upstream = exchange.upstream().map(tracing::field::display),
                limit = limit.label(), others_since_last_told = others,
                "a client asks for more than its share of what goes to upstreams at once: further requests get 429; \
                 others are served. Is it many clients behind one connection, or is the upstream slow? \
                 upstream.max_connections is how much it is asked at once"
            );
        }
        if let Ok(_delayed) = self.delays.try_acquire() {
            tokio::time::sleep(DELAY).await;
        }
    }

    /// Number of refusals that were not told, if it is time to tell.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| now < last + SAID_EVERY) {
            told.others += 1;
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::testing;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_late_unless_there_are_too_many() {
        let (restraint, metrics) = (Restraint::new(), testing::metrics());
        let exchange = testing::exchange(&metrics);
        let begin = Instant::now();
        let refuse = || restraint.refuse(Limit::Questions, &exchange, &metrics);
        let mut late: Vec<_> = (0..DELAYED_MAX).map(|_| Box::pin(refuse())).collect();
        for refused in &mut late {
            assert!(futures_util::poll!(refused).is_pending());
        }
        refuse().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        futures_util::future::join_all(late).await;
        assert_eq!(begin.elapsed(), DELAY);
        refuse().await;
        assert_eq!(begin.elapsed(), 2 * DELAY);
        let told = || restraint.due(Instant::now());
        assert_eq!(told(), None);
        tokio::time::advance(SAID_EVERY).await;
        assert_eq!(told(), Some(DELAYED_MAX as u64 + 2));
    }
}
