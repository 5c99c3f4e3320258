//! A circuit breaker: a directory that has failed some times in a row is left alone for a while, so that logins do not
//! wait for it one after another.

use crate::clock::Timestamp;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many failures in a row open it.
const FAILURES_MAX: u32 = 3;

/// The time for which it stays open. Then one login tries whether the directory answers.
const OPEN: Duration = Duration::from_secs(10);

/// The breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    failed: Timestamp,
    is_tried: bool,
}

/// A login that may ask the directory. Dropped without a word on it, it says nothing: its client has left.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

impl Breaker {
    /// Lets a login through; `None`: not now.
    pub(super) fn admit(&self, now: Timestamp) -> Option<Pass<'_>> {
        let mut state = self.state();
        let is_trial = state.failures >= FAILURES_MAX;
        if is_trial {
            if state.is_tried || now.since(state.failed) < OPEN {
                return None;
            }
            state.is_tried = true;
        }
        Some(Pass {
            breaker: self,
            is_trial,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The directory has answered.
    pub(super) fn succeeded(self) {
        self.breaker.state().failures = 0;
    }

    /// It has not. True if it is left alone from now on.
    pub(super) fn failed(self, now: Timestamp) -> bool {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        state.failed = now;
        state.failures >= FAILURES_MAX
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.breaker.state().is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tries_it_after_a_while_and_the_others_wait() {
        let breaker = Breaker::default();
        let now = Timestamp(1_000_000);
        for number in 1..=FAILURES_MAX {
            let pass = breaker.admit(now).expect("closed");
            assert_eq!(pass.failed(now), number == FAILURES_MAX);
        }
        assert!(breaker.admit(now).is_none());
        let later = now.plus(OPEN);
        let trial = breaker.admit(later).expect("a trial");
        assert!(breaker.admit(later).is_none(), "one at a time");
        drop(trial);
        let trial = breaker.admit(later).expect("another one");
        assert!(trial.failed(later));
        assert!(breaker.admit(later).is_none());
        let later = later.plus(OPEN);
        breaker.admit(later).expect("a trial").succeeded();
        let both = (breaker.admit(later), breaker.admit(later));
        assert!(both.0.is_some() && both.1.is_some());
    }

    #[test]
    fn failures_that_are_not_in_a_row_open_nothing() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            let now = Timestamp(0);
            assert!(!breaker.admit(now).unwrap().failed(now));
            breaker.admit(now).unwrap().succeeded();
        }
    }
}
