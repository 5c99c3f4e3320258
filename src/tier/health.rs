//! Whether the bucket is asked at all: after it was silent, or asked for patience, it is left alone for a moment, so that
//! clients do not wait for it one after the other.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Rest after silence, or errors in a row; each further one doubles it.
const REST: Duration = Duration::from_secs(5);

/// The longest such rest.
const REST_MAX: Duration = Duration::from_mins(1);

/// Rest after a store has asked for patience (503 `SlowDown`, 429), which is no failure; each further one doubles it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest such rest.
const PATIENCE_MAX: Duration = Duration::from_secs(16);

/// Answers with status 5xx in a row after which it rests: one may be about what was asked alone.
const ERRORS_MAX: u32 = 3;

/// An answer, as far as it tells of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It answers.
    Well,
    /// It asks for patience.
    Throttled,
    /// It has failed.
    Failed,
    /// It cannot be reached, or is silent.
    Silent,
}

/// The state of the store.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rests_until: Option<Instant>,
    rest: Option<Duration>,
    patience: Option<Duration>,
    errors: u32,
    why: Option<String>,
}

/// A change of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It does not answer any more.
    Down,
    /// It answers again.
    Up,
}

impl Health {
    /// The reason why it rests, or rested last.
    pub(super) fn why(&self) -> Option<String> {
        self.state().why.clone()
    }

    /// Time for which it is not asked.
    pub(super) fn rest(&self) -> Option<Duration> {
        let until = self.state().rests_until?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Notes an answer, and the reason where it is not well.
    pub(super) fn note(&self, seen: Seen, why: &dyn fmt::Display) -> Option<News> {
        let mut state = self.state();
        match seen {
            Seen::Well => {
                let before = std::mem::take(&mut *state);
                return before.rest.map(|_| News::Up);
            }
            Seen::Throttled => {
                let patience = state.patience.map_or(PATIENCE, |it| it * 2);
                state.rests(patience.min(PATIENCE_MAX));
                state.patience = Some(patience.min(PATIENCE_MAX));
            }
            Seen::Failed => {
                state.errors = state.errors.saturating_add(1);
                if state.errors >= ERRORS_MAX {
                    return state.rest_more(why);
                }
            }
            Seen::Silent => return state.rest_more(why),
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rests(&mut self, rest: Duration) {
        self.rests_until = Some(Instant::now() + rest);
    }

    fn rest_more(&mut self, why: &dyn fmt::Display) -> Option<News> {
        self.why = Some(why.to_string());
        let rest = self.rest.map_or(REST, |it| it * 2).min(REST_MAX);
        let is_news = self.rest.replace(rest).is_none();
        self.rests(rest);
        is_news.then_some(News::Down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_rest_that_grows_and_an_answer_ends_it() {
        let health = Health::default();
        assert_eq!(health.rest(), None);
        assert_eq!(
            health.note(Seen::Silent, &"a wall"),
            Some(News::Down),
            "it is news once"
        );
        assert_eq!(health.why().as_deref(), Some("a wall"));
        assert_eq!(health.rest(), Some(REST));
        tokio::time::advance(REST).await;
        assert_eq!(health.rest(), None);
        for _ in 0..9 {
            assert_eq!(health.note(Seen::Silent, &""), None);
        }
        assert_eq!(health.rest(), Some(REST_MAX));
        assert_eq!(health.note(Seen::Well, &""), Some(News::Up));
        assert_eq!(health.rest(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_short_and_no_failure() {
        let health = Health::default();
        assert_eq!(health.note(Seen::Throttled, &""), None);
        assert_eq!(health.rest(), Some(PATIENCE));
        for _ in 0..9 {
            assert_eq!(health.note(Seen::Throttled, &""), None);
        }
        assert_eq!(health.rest(), Some(PATIENCE_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn one_error_is_about_what_was_asked() {
        let health = Health::default();
        assert_eq!(health.note(Seen::Failed, &""), None);
        assert_eq!(health.note(Seen::Failed, &""), None);
        assert_eq!(health.rest(), None);
        assert_eq!(health.note(Seen::Failed, &""), Some(News::Down));
        assert_eq!(health.rest(), Some(REST));
    }
}
