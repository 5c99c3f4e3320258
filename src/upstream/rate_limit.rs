//! Rate limits: what registries say of them, and until when a login is not used because of one.
//!
//! Sources: Docker Hub, "Pull usage and limits" (`ratelimit-limit`, `ratelimit-remaining`,
//! `docker-ratelimit-source`); RFC 9110 section 10.2.3 (`Retry-After`); GHCR's answers, whose message says
//! `retry-after: 880.092µs, allowed: 44000/minute`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::ExponentialBackoff;
use http::HeaderMap;
use tokio::time::Instant;

use super::timings::Timings;

/// An endpoint's rate limit for one login.
#[derive(Debug)]
pub(super) struct Limit {
    timings: Timings,
    state: Mutex<State>,
}

/// A longer wait is cut to this. Docker Hub's window is 6 hours.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// The cost of a request. A registry that counts pulls (Docker Hub: GETs of manifests) refuses those when
/// the allowance is used up, and goes on to give blobs and HEADs, which count nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// GET of a manifest.
    Pull,
    /// Anything else. Who is refused that is refused everything.
    Nothing,
}

/// The right to use a login once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is not limited.
    Usual,
    /// It is limited for long, and this request is to find out whether that still holds.
    Probe,
}

#[derive(Debug)]
struct State {
    /// Refusals that keep everything from being asked.
    all: Refusals,
    /// Refusals that keep pulls from being asked.
    pulls: Refusals,
    /// The rest of the allowance, and the time until which that says something.
    remaining: Option<(u64, Instant)>,
    source: Option<String>,
}

/// The refusals of what costs the same.
#[derive(Debug)]
struct Refusals {
    /// Until when nothing is asked.
    until: Option<Instant>,
    /// When one request is let through before that: then, if the limit is a long one.
    probe: Option<Instant>,
    /// Times for which the login is not used when nobody names one, and at least.
    guesses: ExponentialBackoff,
    floors: ExponentialBackoff,
    /// True if the last answer was a 429: the next one waits longer.
    again: bool,
}

/// The limit as the headers of an answer say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RateLimitHeaders {
    /// Requests allowed in a window.
    pub(super) limit: Option<u64>,
    /// Those that are left.
    pub(super) remaining: Option<u64>,
    /// The length of the window.
    pub(super) window: Option<Duration>,
    /// Whom the limit counts: an address, or an account's id.
    pub(super) source: Option<String>,
}

impl RateLimitHeaders {
    /// Reads the headers; what makes no sense is as if it were not there.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let limit = text("ratelimit-limit").and_then(counted);
        let remaining = text("ratelimit-remaining").and_then(counted);
        let window = |(_, window): (u64, Option<Duration>)| window;
        Self {
            limit: limit.map(|(count, _)| count),
            remaining: remaining.map(|(count, _)| count),
            window: remaining.and_then(window).or(limit.and_then(window)),
            source: text("docker-ratelimit-source")
                .filter(|source| source.len() <= SOURCE_BYTES_MAX)
                .map(str::to_owned),
        }
    }
}

impl Limit {
    /// Nothing is known yet.
    pub(super) fn new(timings: Timings) -> Self {
        Self {
            timings,
            state: Mutex::new(State {
                all: Refusals::none(timings),
                pulls: Refusals::none(timings),
                remaining: None,
                source: None,
            }),
        }
    }

    /// Takes in what an answer says of the allowance. That nothing remains is no limit yet: at Docker Hub
    /// only GETs of manifests count, and only a 429 says that one was refused.
    pub(super) fn note(&self, said: &RateLimitHeaders, now: Instant) {
        if let Some(remaining) = said.remaining {
            let window = said.window.unwrap_or(WINDOW).min(RETRY_AFTER_MAX);
            self.state().remaining = Some((remaining, now + window));
        }
        if said.source.is_some() {
            self.state().source.clone_from(&said.source);
        }
    }

    /// The login was limited. Gives how long it is not used: as long as was said, or a guess that doubles;
    /// and whether that is news.
    pub(super) fn limited(
        &self,
        cost: Cost,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> (Duration, bool) {
        let mut state = self.state();
        // Questions that were under way together are one refusal, not many.
        let known = state.until(cost).filter(|until| now < *until);
        let refusals = match cost {
            Cost::Pull => &mut state.pulls,
            Cost::Nothing => &mut state.all,
        };
        refusals.again = true;
        let floor = match known {
            Some(_) => Duration::ZERO,
            None => (refusals.floors.next()).unwrap_or(self.timings.limited_first),
        };
        let wait = match (retry_after, known) {
            (Some(wait), _) => wait.clamp(floor, RETRY_AFTER_MAX),
            (None, Some(until)) => until.saturating_duration_since(now),
            (None, None) => (refusals.guesses.next()).unwrap_or(self.timings.limited_longest),
        };
        refusals.close(now + wait, now);
        (wait, known.is_none())
    }

    /// Lets a request use the login; not, where it is limited, but for one every few minutes of a long limit.
    pub(super) fn take(&self, cost: Cost, now: Instant) -> Option<Turn> {
        let mut state = self.state();
        if state.until(cost).is_some_and(|until| now < until) {
            return None;
        }
        let mut turn = Turn::Usual;
        for refusals in state.of(cost) {
            if refusals.until.is_some_and(|until| now < until) {
                refusals.probe = Some(now + PROBE_EVERY);
                turn = Turn::Probe;
            }
        }
        Some(turn)
    }

    /// The login was used for what costs so much, and not limited. That a blob is given says nothing of
    /// manifests. Gives whether a limit is over by that.
    pub(super) fn answered(&self, cost: Cost, turn: Turn) -> bool {
        let mut state = self.state();
        for refusals in state.of(cost) {
            refusals.answered(turn, self.timings);
        }
        turn == Turn::Probe
    }

    /// Until when the login is not used for what costs so much, if it is limited.
    pub(super) fn until(&self, cost: Cost, now: Instant) -> Option<Instant> {
        self.state().until(cost).filter(|until| now < *until)
    }

    /// Number of requests that are known to be left.
    pub(super) fn remaining(&self, now: Instant) -> Option<u64> {
        let (remaining, until) = self.state().remaining?;
        (now < until).then_some(remaining)
    }

    /// Whom the limit counts, if the registry says.
    pub(super) fn source(&self) -> Option<String> {
        self.state().source.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn until(&self, cost: Cost) -> Option<Instant> {
        match cost {
            Cost::Pull => self.all.opens().max(self.pulls.opens()),
            Cost::Nothing => self.all.opens(),
        }
    }

    /// Refusals that keep something of this cost from being asked.
    fn of(&mut self, cost: Cost) -> impl Iterator<Item = &mut Refusals> {
        let pulls = (cost == Cost::Pull).then_some(&mut self.pulls);
        std::iter::once(&mut self.all).chain(pulls)
    }
}

impl Refusals {
    fn none(timings: Timings) -> Self {
        Self {
            until: None,
            probe: None,
            guesses: timings.limited_guesses(),
            floors: timings.limited_floors(),
            again: false,
        }
    }

    /// When the next request is let through.
    fn opens(&self) -> Option<Instant> {
        let until = self.until?;
        Some(self.probe.map_or(until, |probe| probe.min(until)))
    }

    fn close(&mut self, until: Instant, now: Instant) {
        if self.until.is_none_or(|old| old <= now) {
            // What is left of an old limit.
            self.probe = None;
        }
        self.until = self.until.max(Some(until));
        if is_probed(until.saturating_duration_since(now))
            && self.probe.is_none_or(|probe| probe <= now)
        {
            self.probe = Some(now + PROBE_EVERY);
        }
    }

    fn answered(&mut self, turn: Turn, timings: Timings) {
        if turn == Turn::Probe {
            self.until = None;
            self.probe = None;
        }
        if std::mem::take(&mut self.again) {
            self.guesses = timings.limited_guesses();
            self.floors = timings.limited_floors();
        }
    }
}

/// True if a limit is so long that it is checked now and then.
pub(super) fn is_probed(wait: Duration) -> bool {
    wait > PROBED_ABOVE
}

/// `100;w=21600`: a count, and the seconds of its window.
fn counted(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';').map(str::trim);
    let count = parts.next()?.parse().ok()?;
    let window = parts
        .filter_map(|part| part.strip_prefix("w="))
        .find_map(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    Some((count, window))
}

/// The wait that the text of an error names: `…retry-after: 880.092µs, allowed: 44000/minute`.
pub(super) fn retry_after_in(text: &str) -> Option<Duration> {
    let begin = text.to_ascii_lowercase().find(RETRY_AFTER_TEXT)?;
    let rest = text.get(begin + RETRY_AFTER_TEXT.len()..)?.trim_start();
    let end = rest.find(|c: char| c == ',' || c == '"' || c.is_whitespace());
    go_duration(rest.get(..end.unwrap_or(rest.len()))?).map(|wait| wait.min(RETRY_AFTER_MAX))
}

/// A duration as Go prints and reads it (`time.ParseDuration`): `1h2m3.5s`, `880.092µs`. None is negative.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(number_end)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, next) = after.split_at_checked(unit_end.unwrap_or(after.len()))?;
        let seconds = match unit {
            "ns" => 1e-9,
            // The micro sign and the Greek letter.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

/// A limit of so long a time is a bound rather than the truth: Docker Hub's window slides, and an
/// account may be given more meanwhile.
const PROBED_ABOVE: Duration = Duration::from_mins(15);
/// One request in so long does no harm to who limits us, and is as long as one notices being left out.
const PROBE_EVERY: Duration = Duration::from_mins(5);
const RETRY_AFTER_TEXT: &str = "retry-after:";
/// Time for which a remaining count is valid when no window is named: Docker Hub's is 6 hours.
const WINDOW: Duration = Duration::from_hours(6);
/// An address or a UUID.
const SOURCE_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests;
