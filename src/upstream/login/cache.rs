//! Keeps what a provider gives: fetched once for all who wait, again before it expires, again when a
//! file changes or a registry refuses it, and not too often when it fails.
//!
//! The state is small and behind one mutex; [`State::step`] decides, the [`CredentialCache`] acts. A fetch and a
//! look at the files are tasks of their own, so that a caller who leaves takes nothing with it.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::issued::{Issued, Login};
use crate::net::Deadline;
use crate::oci::UpstreamName;
use crate::stamp::Stamp;
use crate::upstream::FetchError;

/// A source of logins.
pub(super) trait Provider: Send + Sync + 'static {
    /// Fetches a login again. It ends within a time of its own, or by itself; nobody drops it.
    fn fetch(&self) -> impl Future<Output = Result<Issued, FetchError>> + Send;

    /// The name for errors and logs: its kind, and its file, program or service. No secret.
    fn name(&self) -> &str;

    /// The files whose change makes what was given out of date.
    fn inputs(&self) -> &[PathBuf];
}

/// A provider and what it gave last.
pub(super) struct CredentialCache<P> {
    provider: P,
    /// For the log.
    upstream: UpstreamName,
    state: Mutex<State>,
    /// Told at the end of each fetch and look; the state says what came of it.
    ended: watch::Sender<()>,
}

impl<P: Provider> CredentialCache<P> {
    /// Nothing fetched yet.
    pub(super) fn new(provider: P, upstream: UpstreamName) -> Self {
        Self {
            provider,
            upstream,
            state: Mutex::new(State::default()),
            ended: watch::Sender::new(()),
        }
    }

    /// The login, fresh. Waits for a fetch only where there is none that still works.
    ///
    /// # Errors
    /// Those of [`super::Source::login`].
    pub(super) async fn login(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Result<Option<Arc<Login>>, FetchError> {
        loop {
            // Before the state is looked at, so that no ending is missed in between.
            let mut ended = self.ended.subscribe();
            let wait = match self.next() {
                Step::Give(login) => return Ok(login),
                Step::Fail(error) => return Err(error),
                Step::Wait => deadline,
                Step::WaitFor(time) => deadline.at_most(time),
            };
            // The sender cannot be gone: it is in `self`.
            let waited = wait.run("a login", ended.changed()).await;
            if deadline.passed() {
                waited.map(drop)?;
            }
        }
    }

    /// Somebody did not take this login.
    pub(super) fn refused(&self, login: &Arc<Login>) {
        let now = Instant::now();
        let mut state = self.state();
        let current = state
            .cached
            .as_ref()
            .and_then(|cached| cached.login.as_ref());
        let known = state.refusal.as_ref();
        let known = known.is_some_and(|old| old.login == *login && old.until > now);
        // A late word about a login that has been replaced changes nothing.
        if current != Some(login) || known {
            return;
        }
        tracing::warn!(
            upstream = %self.upstream,
            "login refused: {} will not be used for a minute, unless it changes",
            self.provider.name(),
        );
        state.refusal = Some(Refusal {
            login: Arc::clone(login),
            until: now + REFUSED_FOR,
            refetch: state.refetch_again.is_none_or(|at| at <= now),
        });
        // Perhaps a file has changed since the last look.
        state.looked = None;
    }

    /// The step that a caller should take now; starts the task that this needs.
    fn next(self: &Arc<Self>) -> Step {
        let now = Instant::now();
        // Tasks are started after the lock is given back: a runtime that shuts down drops them at once,
        // and their guards lock the state.
        let (step, inputs) = {
            let mut state = self.state();
            if let Some((step, start)) = self.files(&mut state, now) {
                drop(state);
                if start {
                    self.start_look();
                }
                return step;
            }
            let (step, fetch) = state.step(self.provider.name(), now);
            let start = fetch && !state.fetching;
            state.fetching |= start;
            (step, start.then_some(state.inputs))
        };
        if let Some(inputs) = inputs {
            self.start_fetch(inputs, now);
        }
        step
    }

    /// The step that a caller should take about the files first, if any, and if a look is to be started.
    fn files(&self, state: &mut State, now: Instant) -> Option<(Step, bool)> {
        if self.provider.inputs().is_empty() {
            return None;
        }
        if let Some(since) = state.looking {
            let left = LOOK_WAIT.saturating_sub(now.saturating_duration_since(since));
            // No time left: the disk is stuck. Go on with what is there.
            return (left > Duration::ZERO).then_some((Step::WaitFor(left), false));
        }
        if state.looked.is_some_and(|at| at + LOOK_EVERY > now) {
            return None;
        }
        state.looking = Some(now);
        Some((Step::WaitFor(LOOK_WAIT), true))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it holds nothing that a drain must wait for, and ends with the runtime"
    )]
    fn start_look(self: &Arc<Self>) {
        let guard = LookGuard(Arc::clone(self));
        tokio::spawn(async move {
            let inputs = guard.0.provider.inputs().to_vec();
            let look = move || inputs.iter().map(|path| Stamp::look(path)).collect();
            let stamps: Option<Vec<_>> = tokio::task::spawn_blocking(look).await.ok();
            guard.0.state().saw(stamps);
        });
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it holds nothing that a drain must wait for, and ends with the runtime"
    )]
    fn start_fetch(self: &Arc<Self>, inputs: u64, begun: Instant) {
        let guard = FetchGuard {
            cache: Arc::clone(self),
            inputs,
            begun,
            result: None,
        };
        tokio::spawn(async move {
            let result = guard.cache.provider.fetch().await;
            guard.finish(result);
        });
    }

    /// Takes the end of a fetch into the state, and into the log where it is news.
    fn end(&self, begun: Instant, inputs: u64, result: Result<Issued, FetchError>) {
        let mut state = self.state();
        let (name, upstream) = (self.provider.name(), &self.upstream);
        let failed_before = state.failure.is_some();
        match result {
            Ok(issued) => {
                state.give(issued, begun, Instant::now());
                if failed_before {
                    tracing::info!(%upstream, "{name} is available again");
                }
            }
            Err(error) => {
                let error = if matches!(error, FetchError::Login(_)) {
                    error
                } else {
                    FetchError::Login(format!("{name}: {error}"))
                };
                if !failed_before {
                    let still = state.cached.is_some();
                    tracing::warn!(%upstream, %error, still, "{name} is not available now");
                }
                state.fail(error, Instant::now());
            }
        }
        state.fetched_inputs = inputs;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Provider> fmt::Debug for CredentialCache<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CredentialCache")
            .field(&self.provider.name())
            .finish()
    }
}

/// Ends a look, however it ends.
struct LookGuard<P: Provider>(Arc<CredentialCache<P>>);

impl<P: Provider> Drop for LookGuard<P> {
    fn drop(&mut self) {
        self.0.state().looking = None;
        self.0.ended.send_replace(());
    }
}

/// Ends a fetch, however it ends.
struct FetchGuard<P: Provider> {
    cache: Arc<CredentialCache<P>>,
    /// The state of the files that it may have seen.
    inputs: u64,
    begun: Instant,
    result: Option<Result<Issued, FetchError>>,
}

impl<P: Provider> FetchGuard<P> {
    fn finish(mut self, result: Result<Issued, FetchError>) {
        self.result = Some(result);
    }
}

impl<P: Provider> Drop for FetchGuard<P> {
    fn drop(&mut self) {
        let ended_early = || Err(FetchError::Login("the fetch was broken off".to_owned()));
        let result = self.result.take().unwrap_or_else(ended_early);
        self.cache.end(self.begun, self.inputs, result);
        self.cache.ended.send_replace(());
    }
}

/// A step of a caller.
enum Step {
    Give(Option<Arc<Login>>),
    Fail(FetchError),
    /// Until a task ends.
    Wait,
    /// Until a task ends, at most so long.
    WaitFor(Duration),
}

#[derive(Default)]
struct State {
    /// The last login that was had.
    cached: Option<Cached>,
    /// The failure of the last fetch; gone once one succeeds or a file changes.
    failure: Option<Failure>,
    /// The last login that was refused.
    refusal: Option<Refusal>,
    /// Before this, a refusal does not make the provider asked again.
    refetch_again: Option<Instant>,
    fetching: bool,
    /// Since when a look at the files is under way.
    looking: Option<Instant>,
    /// When the files were looked at last.
    looked: Option<Instant>,
    stamps: Vec<Option<Stamp>>,
    /// Counts the changes of the files.
    inputs: u64,
    /// The value of `inputs` when the last fetch began.
    fetched_inputs: u64,
}

struct Cached {
    login: Option<Arc<Login>>,
    /// When it is fetched again, and when it is of no more use; `None`: when a file changes.
    life: Option<(Instant, Instant)>,
}

struct Failure {
    error: FetchError,
    retry_at: Instant,
    pause: Duration,
}

struct Refusal {
    login: Arc<Login>,
    until: Instant,
    /// True if the provider is to be asked once more before the minute is waited.
    refetch: bool,
}

impl State {
    /// The step that a caller should take now, and if a fetch is due.
    fn step(&self, name: &str, now: Instant) -> (Step, bool) {
        let may_fetch = self.failure.as_ref().is_none_or(|it| it.retry_at <= now);
        let usable = |cached: &&Cached| cached.life.is_none_or(|(_, end)| end > now);
        let up_to_date = self.fetched_inputs == self.inputs;
        let Some(cached) = self.cached.as_ref().filter(usable).filter(|_| up_to_date) else {
            return match &self.failure {
                Some(failure) if !may_fetch && !self.fetching => {
                    (Step::Fail(failure.error.clone()), false)
                }
                Some(_) | None => (Step::Wait, true),
            };
        };
        let due = cached
            .life
            .is_some_and(|(fresh_until, _)| fresh_until <= now);
        let fetch = may_fetch && (due || self.failure.is_some());
        let refusal = self
            .refusal
            .as_ref()
            .filter(|refusal| refusal.until > now && cached.login.as_ref() == Some(&refusal.login));
        match refusal {
            None => (Step::Give(cached.login.clone()), fetch),
            // Only what expires may be another one when it is fetched again.
            Some(refusal)
                if refusal.refetch && cached.life.is_some() && (may_fetch || self.fetching) =>
            {
                (Step::Wait, true)
            }
            Some(_) => {
                let text = format!("the registry refused {name} less than a minute ago");
                (Step::Fail(FetchError::LoginRefused(text)), fetch)
            }
        }
    }

    /// A look at the files has ended: `None` when it could not be done.
    fn saw(&mut self, stamps: Option<Vec<Option<Stamp>>>) {
        self.looked = Some(Instant::now());
        if let Some(stamps) = stamps
            && stamps != self.stamps
        {
            self.stamps = stamps;
            self.inputs += 1;
            self.failure = None;
        }
    }

    fn give(&mut self, issued: Issued, begun: Instant, now: Instant) {
        self.fetch_ended(now);
        self.failure = None;
        let life = issued.good_for.map(|life| {
            let life = life.min(LIFE_MAX);
            let margin = (life / 5).min(MARGIN_MAX);
            // Counted from before the fetch, as what was issued may be as old as that; but fetches
            // that take longer than their result lives must not follow each other without end.
            let end = (begun + life).max(now + LIFE_MIN);
            (begun + life.saturating_sub(margin), end)
        });
        let login = issued.login.map(Arc::new);
        self.cached = Some(Cached { login, life });
    }

    fn fail(&mut self, error: FetchError, now: Instant) {
        self.fetch_ended(now);
        let before = self.failure.as_ref().map(|failure| failure.pause);
        let pause = before.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
        self.failure = Some(Failure {
            error,
            retry_at: now + pause,
            pause,
        });
    }

    fn fetch_ended(&mut self, now: Instant) {
        self.fetching = false;
        if let Some(refusal) = &mut self.refusal
            && refusal.refetch
        {
            refusal.refetch = false;
            self.refetch_again = Some(now + REFUSED_FOR);
        }
    }
}

/// Time between looks at the files while the login is in use.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest time that a look at the files may hold up a caller: longer, and the disk is stuck.
const LOOK_WAIT: Duration = Duration::from_secs(1);
/// Time for which a login that was refused is not used. Registries lock an account after some failures in a
/// row; a password that was wrong for a moment should work again soon.
const REFUSED_FOR: Duration = Duration::from_mins(1);
/// A failure is told to everybody for this long at first, before the provider is asked again …
const PAUSE_MIN: Duration = Duration::from_secs(10);
/// … and for twice as long each time, up to this.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// A login is fetched again in the last fifth of its life, at most this long before its end: time for
/// several tries.
const MARGIN_MAX: Duration = Duration::from_mins(5);
/// A login is used at least this long, whatever is said of its life.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// Longer lives are cut to this. The longest there are, of cloud tokens, last a day.
const LIFE_MAX: Duration = Duration::from_hours(24 * 30);

#[cfg(test)]
mod tests;
