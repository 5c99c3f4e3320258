//! Telling that blobs and manifests cannot be stored: now and then, not for each request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{MirrorError, Source};
use crate::clock::{Clock, Timestamp};
use crate::oci::Digest;
use crate::store::Store;

/// Time between two log lines that blobs cannot be stored.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// The log of what cannot be stored.
#[derive(Debug)]
pub(super) struct NotStored {
    store: Store,
    clock: Arc<dyn Clock>,
    seldom: Seldom,
}

/// When something was last said, and how often it was not since then.
#[derive(Debug, Default)]
struct Seldom(Mutex<(Option<Timestamp>, u64)>);

impl NotStored {
    pub(super) fn new(store: &Store, clock: &Arc<dyn Clock>) -> Self {
        Self {
            store: store.clone(),
            clock: Arc::clone(clock),
            seldom: Seldom::default(),
        }
    }

    /// Says, not too often, that something cannot be stored. Of a disk that fails the store has told, once.
    pub(super) fn note(&self, source: &Source, digest: &Digest, error: &MirrorError) {
        let room = matches!(error, MirrorError::NotStored { room: true, .. });
        if !room && self.store.trouble().is_some() {
            tracing::debug!(
                upstream = %source.upstream, repository = %source.repository, %digest, %error,
                "not stored, because the disk fails"
            );
            return;
        }
        let Some(others) = self.seldom.due(self.clock.now()) else {
            return;
        };
        let advice = if room {
            "raise cache.max_size, lower cache.min_free, or make room on the disk"
        } else {
            "is the disk full, read-only or failing?"
        };
        tracing::error!(
            upstream = %source.upstream, repository = %source.repository, %digest, %error,
            others_since_last_told = others, advice,
            "a blob or manifest cannot be stored; each client gets it straight from upstream"
        );
    }
}

impl Seldom {
    /// Number of times that it was not said, if it is time to say it again.
    fn due(&self, now: Timestamp) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, others) = &mut *state;
        if last.is_some_and(|last| now.since(last) < SAID_EVERY) {
            *others += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_minute_and_how_often_it_was_not() {
        let seldom = Seldom::default();
        let at = |seconds: u64| Timestamp(seconds * 1000);
        assert_eq!(seldom.due(at(100)), Some(0));
        assert_eq!(seldom.due(at(101)), None);
        assert_eq!(seldom.due(at(159)), None);
        assert_eq!(seldom.due(at(160)), Some(2));
        assert_eq!(seldom.due(at(161)), None);
        assert_eq!(seldom.due(at(300)), Some(1));
    }
}
