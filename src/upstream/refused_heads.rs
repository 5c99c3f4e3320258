//! Repositories where HEAD is refused, and GET answered.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::oci::Repository;
use crate::telemetry::Kind;

/// Repositories where HEAD was refused, and the time.
#[derive(Debug)]
pub(super) struct Heads(Mutex<LruCache<(Kind, Repository), Instant>>);

impl Default for Heads {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REPOSITORIES_MAX)))
    }
}

impl Heads {
    /// True if it is no use to ask with HEAD.
    pub(super) fn are_refused(&self, kind: Kind, repository: &Repository, now: Instant) -> bool {
        let mut refused = self.refused();
        let since = refused.get(&(kind, repository.clone()));
        since.is_some_and(|since| now.saturating_duration_since(*since) < REFUSED_FOR)
    }

    /// HEAD was refused, and GET answered.
    pub(super) fn refuse(&self, kind: Kind, repository: &Repository, now: Instant) {
        let mut refused = self.refused();
        refused.put((kind, repository.clone()), now);
    }

    fn refused(&self) -> MutexGuard<'_, LruCache<(Kind, Repository), Instant>> {
        // Each change is one insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Repositories of one upstream that are remembered, each with its name of at most 255 bytes.
const REPOSITORIES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Time for which that counts: a proxy's rules are changed now and then, and HEAD costs no quota.
const REFUSED_FOR: Duration = Duration::from_mins(10);
