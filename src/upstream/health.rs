//! Health of endpoints: those that are well, that are fast, that gave wrong bytes.
//!
//! All of it is learnt from real traffic: nothing is asked for the sake of asking. The time comes in from
//! outside; what changed is told to the caller, who logs it and counts.
//!
//! A *breaker* keeps an endpoint from being asked in vain: after some failures in a row it opens, and
//! nobody asks for a while; then one request is let through (*half-open*), which closes it again or
//! opens it for twice as long.
//!
//! Some failures come in answer to a request (5xx, nonsense, a body that breaks): they may be that request's own. Of each
//! [`Resource`] one counts, so that a single one that always fails closes nothing else.

mod report;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::ExponentialBackoff;
use lru::LruCache;
use tokio::time::Instant;

use super::timings::Timings;
use super::{EndpointId, FetchError, Strategy};
use crate::oci::Digest;

/// Knowledge about the endpoints of one upstream.
#[derive(Debug)]
pub(super) struct Health {
    strategy: Strategy,
    timings: Timings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    endpoints: Vec<Record>,
    /// Endpoints that gave wrong bytes for a digest, and the time.
    distrusted: LruCache<(EndpointId, Digest), Instant>,
    /// Counts requests, so that an endpoint whose speed is unknown gets every second one.
    turn: bool,
}

/// Knowledge about one endpoint.
#[derive(Debug)]
struct Record {
    breaker: Breaker,
    /// In a row, up to now.
    failures: u32,
    /// Resources that failed by an answer since the endpoint was well, the oldest first.
    failed: VecDeque<Resource>,
    /// When the last failure in mid-body was counted.
    body_failed: Option<Instant>,
    /// Times for which the breaker stays open, each time longer, until the endpoint is well again.
    pauses: ExponentialBackoff,
    /// The last of them.
    pause: Duration,
    /// Seconds from a request to the head of its answer.
    latency: Average,
    /// Seconds for each byte of a body.
    pace: Average,
    /// Until when no Range is tried.
    rangeless_until: Option<Instant>,
    /// The last request that was answered, by when it was sent.
    answered: Option<Instant>,
    rests: Rests,
}

/// Pauses that the endpoint has asked for: 503 with `Retry-After`.
#[derive(Debug, Default)]
struct Rests {
    /// Until when nothing is asked.
    everything: Option<Instant>,
    /// Repositories for which there was a pause, and until when nothing of them is asked; the latest last. Where one asks for
    /// a pause again, or others were answered a moment ago, it may be its own trouble, and only it is not asked for.
    own: VecDeque<(u64, Instant)>,
}

#[derive(Debug)]
enum Breaker {
    Closed,
    Open {
        /// Until then nobody asks; after it, one request may.
        until: Instant,
        /// The last failure.
        last: FetchError,
    },
    /// One request is under way.
    HalfOpen {
        last: FetchError,
    },
}

/// A change by an event that people should hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The breaker opened for so long.
    Opened(Duration),
    /// The probe failed: it stays open, for so long.
    StaysOpen(Duration),
    /// The endpoint is well again.
    Closed,
    /// The endpoint asked for a pause of so long.
    Rests(Duration),
}

/// The subject of a request, whatever its method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// A hash of its repository.
    pub(super) repository: u64,
    /// One of that and its path.
    pub(super) path: u64,
}

/// The subject of a request, as far as the order of the endpoints goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need<'a> {
    /// The digest of the content, where that is known.
    pub(super) digest: Option<&'a Digest>,
    /// True if the body may be long: throughput counts.
    pub(super) bytes: bool,
    /// True if an endpoint whose speed is unknown may be tried.
    pub(super) explore: bool,
}

/// The right to ask an endpoint. Dropped without a verdict, as when the client went away, it changes
/// nothing, except that the next request may be the probe.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    health: &'a Health,
    endpoint: EndpointId,
    admitted: Instant,
    probe: bool,
}

impl Health {
    /// Nothing is known of `count` endpoints.
    pub(super) fn new(count: usize, strategy: Strategy, timings: Timings) -> Self {
        let endpoints = (0..count).map(|_| Record::new(timings)).collect();
        Self {
            strategy,
            timings,
            state: Mutex::new(State {
                endpoints,
                distrusted: LruCache::new(DISTRUSTED_MAX),
                turn: false,
            }),
        }
    }

    /// The endpoints in the order in which they should be asked. Never empty: those whose breaker is open
    /// come out, and those that gave wrong bytes for this digest, while there are others.
    pub(super) fn order(&self, need: Need<'_>, now: Instant) -> Vec<EndpointId> {
        let mut state = self.state();
        let distrusted = |state: &State, id| {
            let key = need.digest.map(|digest| (id, *digest));
            key.and_then(|key| state.distrusted.peek(&key))
                .is_some_and(|since| now < *since + self.timings.distrusted)
        };
        let all = || (0..state.endpoints.len()).map(EndpointId);
        let trusted: Vec<_> = all().filter(|id| !distrusted(&state, *id)).collect();
        let trusted = if trusted.is_empty() {
            all().collect()
        } else {
            trusted
        };
        let open = |id: &EndpointId| {
            let record = state.endpoints.get(id.0);
            record.is_none_or(|record| record.refusal(None, now).is_some())
        };
        let well: Vec<_> = trusted.iter().copied().filter(|id| !open(id)).collect();
        // With nobody else, one that gave wrong bytes may give the right ones now: the digest tells.
        let mut order = if well.is_empty() {
            let others: Vec<_> = all().filter(|id| !open(id)).collect();
            if others.is_empty() { trusted } else { others }
        } else {
            well
        };
        match self.strategy {
            Strategy::Ordered => {}
            Strategy::Fastest => state.fastest_first(&mut order, need, now, self.timings.measured),
        }
        order
    }

    /// Lets a request through to the endpoint, or says why not: as the last failure, so that what is
    /// done when an upstream cannot answer is done now, without asking it again.
    ///
    /// # Errors
    /// The last failure, where the breaker is open or another request is the probe.
    pub(super) fn admit(&self, endpoint: EndpointId, now: Instant) -> Result<Pass<'_>, FetchError> {
        let mut state = self.state();
        let mut probe = false;
        if let Some(record) = state.endpoints.get_mut(endpoint.0) {
            if let Some(error) = record.refusal(None, now) {
                return Err(error);
            }
            if let Breaker::Open { last, .. } = &record.breaker {
                let last = last.clone();
                record.breaker = Breaker::HalfOpen { last };
                probe = true;
            }
        }
        Ok(Pass {
            health: self,
            endpoint,
            admitted: now,
            probe,
        })
    }

    /// Reason why a request about `resource` would not be let through now, if so. Takes no probe's place.
    pub(super) fn refusal(
        &self,
        endpoint: EndpointId,
        resource: Resource,
        now: Instant,
    ) -> Option<FetchError> {
        let state = self.state();
        let record = state.endpoints.get(endpoint.0)?;
        record.refusal(Some(resource), now)
    }

    /// A body ended well, after so many bytes in so long.
    pub(super) fn body_ended(
        &self,
        endpoint: EndpointId,
        bytes: u64,
        took: Duration,
        now: Instant,
    ) {
        let mut state = self.state();
        let Some(record) = state.endpoints.get_mut(endpoint.0) else {
            return;
        };
        if matches!(record.breaker, Breaker::Closed) {
            record.well(self.timings);
        }
        if bytes >= MEASURED_BYTES_MIN {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let pace = took.as_secs_f64() / bytes as f64;
            record.pace.add(pace, now);
        }
    }

    /// A body that began at `began` broke at `now`. Of bodies that break together, as when a cable is pulled, one
    /// counts: their requests are all repeated at once, which an open breaker would forbid.
    pub(super) fn body_failed(
        &self,
        endpoint: EndpointId,
        error: &FetchError,
        resource: Resource,
        (began, now): (Instant, Instant),
    ) -> Option<Change> {
        let mut state = self.state();
        let record = state.endpoints.get_mut(endpoint.0)?;
        if record.body_failed.is_some_and(|counted| began <= counted) {
            return None;
        }
        record.body_failed = Some(now);
        record.failed(error, Some(resource), false, self.timings, now)
    }

    /// The head of an answer came after this time.
    pub(super) fn head(&self, endpoint: EndpointId, took: Duration, now: Instant) {
        if let Some(record) = self.state().endpoints.get_mut(endpoint.0) {
            record.latency.add(took.as_secs_f64(), now);
        }
    }

    /// The endpoint gave wrong bytes for `digest`.
    pub(super) fn distrust(&self, endpoint: EndpointId, digest: &Digest, now: Instant) {
        self.state().distrusted.put((endpoint, *digest), now);
    }

    /// The endpoint does not honour Range, or lies about it.
    pub(super) fn ignores_range(&self, endpoint: EndpointId, now: Instant) {
        if let Some(record) = self.state().endpoints.get_mut(endpoint.0) {
            record.rangeless_until = Some(now + self.timings.rangeless);
        }
    }

    /// True if a Range may be tried at the endpoint.
    pub(super) fn honours_range(&self, endpoint: EndpointId, now: Instant) -> bool {
        let state = self.state();
        let record = state.endpoints.get(endpoint.0);
        let until = record.and_then(|record| record.rangeless_until);
        until.is_none_or(|until| until <= now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The endpoint answered: with content, or with a reason why not. `whole`: nothing of the answer is
    /// still to come. A body that is still to come may break yet: then one more failure opens the
    /// breaker again, and an endpoint that gives heads only is not well.
    pub(super) fn answered(mut self, whole: bool) -> Option<Change> {
        let mut state = self.health.state();
        let record = state.endpoints.get_mut(self.endpoint.0)?;
        record.answered = record.answered.max(Some(self.admitted));
        let closed = self.probe.then_some(Change::Closed);
        if self.probe {
            record.breaker = Breaker::Closed;
            record.failures = self.health.timings.breaker_failures.saturating_sub(1);
        }
        if whole && matches!(record.breaker, Breaker::Closed) {
            record.well(self.health.timings);
        }
        self.probe = false;
        closed
    }

    /// The endpoint failed, asked for `resource`.
    pub(super) fn failed(
        mut self,
        error: &FetchError,
        resource: Resource,
        now: Instant,
    ) -> Option<Change> {
        let probe = std::mem::take(&mut self.probe);
        let mut state = self.health.state();
        let record = state.endpoints.get_mut(self.endpoint.0)?;
        let told = error.traits().is_answer.then_some(resource);
        let rests = record.rest(error, resource, now);
        record
            .failed(error, told, probe, self.health.timings, now)
            .or(rests)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.probe {
            return;
        }
        let mut state = self.health.state();
        if let Some(record) = state.endpoints.get_mut(self.endpoint.0)
            && let Breaker::HalfOpen { last } = &record.breaker
        {
            record.breaker = Breaker::Open {
                until: self.admitted,
                last: last.clone(),
            };
        }
    }
}

impl State {
    /// Sorts by expected time. One whose speed is not known goes last, but first at every second request,
    /// so that it soon is.
    fn fastest_first(
        &mut self,
        order: &mut [EndpointId],
        need: Need<'_>,
        now: Instant,
        measured: Duration,
    ) {
        self.turn ^= need.explore;
        let unknown = if need.explore && !self.turn {
            0.0
        } else {
            f64::MAX
        };
        let expected = |id: &EndpointId| {
            let record = self.endpoints.get(id.0);
            record
                .and_then(|record| record.expected_seconds(need.bytes, now, measured))
                .unwrap_or(unknown)
        };
        order.sort_by(|a, b| expected(a).total_cmp(&expected(b)));
    }
}

impl Record {
    fn new(timings: Timings) -> Self {
        Self {
            breaker: Breaker::Closed,
            failures: 0,
            failed: VecDeque::new(),
            body_failed: None,
            pauses: timings.breaker_pauses(),
            pause: timings.breaker_first,
            latency: Average::default(),
            pace: Average::default(),
            rangeless_until: None,
            answered: None,
            rests: Rests::default(),
        }
    }

    /// Reason why no request is let through; none about `resource`, where that is given.
    fn refusal(&self, resource: Option<Resource>, now: Instant) -> Option<FetchError> {
        let open = match &self.breaker {
            Breaker::Closed => None,
            Breaker::Open { until, last } => {
                let wait = until.saturating_duration_since(now);
                (wait > Duration::ZERO).then(|| not_asked(last, wait))
            }
            // The probe's answer decides, whenever it comes.
            Breaker::HalfOpen { last } => Some(not_asked(last, Duration::ZERO)),
        };
        let rests = || {
            let until = self.rests.until(resource).filter(|until| now < *until)?;
            let retry_after = until.saturating_duration_since(now);
            Some(FetchError::Unavailable { retry_after })
        };
        open.or_else(rests)
    }

    /// Leaves the endpoint alone, where it asks for that; gives for how long, where that is news.
    fn rest(&mut self, error: &FetchError, resource: Resource, now: Instant) -> Option<Change> {
        let FetchError::Unavailable { retry_after } = error else {
            return None;
        };
        let until = now + *retry_after;
        let closed = self.rests.everything.is_some_and(|until| now < until);
        let others_are_well = self
            .answered
            .is_some_and(|at| now.saturating_duration_since(at) < LATELY);
        let is_news = self.rests.note(resource, until);
        let everything = closed || (is_news && !others_are_well);
        if everything {
            self.rests.everything = Some(until);
        }
        (everything && !closed).then_some(Change::Rests(*retry_after))
    }

    fn well(&mut self, timings: Timings) {
        if self.failures > 0 {
            self.failures = 0;
            self.failed.clear();
            self.pauses = timings.breaker_pauses();
        }
    }

    /// `told`: what was asked for, where the failure may be its own. `probe`: the failure is that of the
    /// one request let through.
    fn failed(
        &mut self,
        error: &FetchError,
        told: Option<Resource>,
        probe: bool,
        timings: Timings,
        now: Instant,
    ) -> Option<Change> {
        match (&self.breaker, probe) {
            (Breaker::HalfOpen { .. }, true) | (Breaker::Closed, _) => {}
            // It was asked before the breaker opened: nothing new.
            (Breaker::HalfOpen { .. } | Breaker::Open { .. }, _) => return None,
        }
        let news = told.is_none_or(|resource| self.is_first_of(resource));
        if !probe {
            self.failures = self.failures.saturating_add(u32::from(news));
            if !news || self.failures < timings.breaker_failures {
                return None;
            }
        }
        // That what failed before fails again does not say that the rest will take longer.
        if news {
            self.pause = self.pauses.next().unwrap_or(timings.breaker_longest);
        }
        let pause = self.pause;
        self.breaker = Breaker::Open {
            until: now + pause,
            last: error.clone(),
        };
        Some(if probe {
            Change::StaysOpen(pause)
        } else {
            Change::Opened(pause)
        })
    }

    /// Keeps in mind that `resource` failed; whether it had not yet.
    fn is_first_of(&mut self, resource: Resource) -> bool {
        if self.failed.contains(&resource) {
            return false;
        }
        if self.failed.len() >= FAILED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back(resource);
        true
    }

    /// Expected time of an answer, if that is known: a failure makes an endpoint look slower, and a
    /// throughput that nobody has measured is worth a try.
    fn expected_seconds(&self, bytes: bool, now: Instant, measured: Duration) -> Option<f64> {
        let latency = self.latency.value(now, measured)?;
        let pace = self.pace.value(now, measured).filter(|_| bytes);
        let body = pace.map_or(0.0, |pace| pace * TYPICAL_BLOB_BYTES);
        Some((latency + body) * f64::from(self.failures.saturating_add(1)))
    }
}

impl Rests {
    /// Until when a resource is not asked for; nothing at all where none is given.
    fn until(&self, resource: Option<Resource>) -> Option<Instant> {
        let own = resource.and_then(|resource| {
            let mut own = self.own.iter();
            own.find(|(repository, _)| *repository == resource.repository)
        });
        self.everything.max(own.map(|(_, until)| *until))
    }

    /// A repository rests; true if it has not before, as far as is remembered.
    fn note(&mut self, resource: Resource, until: Instant) -> bool {
        let known = self.own.len();
        self.own
            .retain(|(repository, _)| *repository != resource.repository);
        let is_news = self.own.len() == known;
        if self.own.len() >= RESTS_MAX {
            self.own.pop_front();
        }
        self.own.push_back((resource.repository, until));
        is_news
    }
}

/// A moving average of seconds: the newer half of what it knows are the last two or three values.
#[derive(Debug, Default)]
struct Average(Option<(f64, Instant)>);

impl Average {
    fn add(&mut self, value: f64, now: Instant) {
        let mixed = self.0.map_or(value, |(old, _)| {
            old.mul_add(1.0 - NEW_WEIGHT, value * NEW_WEIGHT)
        });
        self.0 = Some((mixed, now));
    }

    /// The average, unless it is too old to say anything.
    fn value(&self, now: Instant, measured: Duration) -> Option<f64> {
        let (value, at) = self.0?;
        (now < at + measured).then_some(value)
    }
}

/// The last failure, told again to a request that was not let through.
fn not_asked(last: &FetchError, wait: Duration) -> FetchError {
    let told = |why: &str| format!("{why} (not asked again for {:.1} s)", wait.as_secs_f64());
    match last {
        FetchError::Connect(why) => FetchError::Connect(told(why)),
        FetchError::Broken(why) => FetchError::Broken(told(why)),
        FetchError::Protocol(why) => FetchError::Protocol(told(why)),
        FetchError::Unavailable { .. } => FetchError::Unavailable { retry_after: wait },
        FetchError::NotFound { .. }
        | FetchError::Unauthorized
        | FetchError::Challenged(_)
        | FetchError::Denied
        | FetchError::RateLimited { .. }
        | FetchError::RangeNotSatisfiable
        | FetchError::Status(_)
        | FetchError::Timeout(_)
        | FetchError::TooLarge { .. }
        | FetchError::Loop(_)
        | FetchError::Inside(_)
        | FetchError::Ourselves(_)
        | FetchError::Login(_)
        | FetchError::LoginRefused(_)
        | FetchError::Busy
        | FetchError::Limited
        | FetchError::Token(_) => last.clone(),
    }
}

/// An endpoint that has answered within this is not down as a whole.
const LATELY: Duration = Duration::from_secs(10);
/// Repositories whose pauses are remembered of an endpoint: few have any.
const RESTS_MAX: usize = 32;
/// Weight of the newest value in a moving average.
const NEW_WEIGHT: f64 = 0.3;
/// The size for which latency and throughput are compared: a layer of middling size.
const TYPICAL_BLOB_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
/// The time of a smaller body is that of the round trips, not of the line.
const MEASURED_BYTES_MIN: u64 = 256 * 1024;
/// Failed resources that are remembered of an endpoint: more than open its breaker, and few to look through.
const FAILED_MAX: usize = 32;
/// Pairs of endpoint and digest that are remembered: wrong bytes are rare (some 100 bytes each).
const DISTRUSTED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

#[cfg(test)]
mod tests;
