//! The use that one identity or address has made of one limit.

use super::{Exceeded, Figure, Limit};
use crate::clock::Timestamp;
use governor::clock::{Clock, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A bucket that has not been used for so long has everything of a second again.
pub(super) const REST: Duration = Duration::from_secs(1);

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Of a day's bytes so small a part, one in so many, is forgotten where buckets run out.
const FORGOTTEN: u64 = 64;

const NANOS: u64 = 1_000_000_000;

/// Requests a second, by a clock that tests can pause.
type Requests = RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Duration>>;

/// Time since the limits were made.
#[derive(Clone, Copy, Debug)]
struct Ticks(Instant);

/// A bucket.
pub(super) struct Bucket {
    requests: Option<Requests>,
    rate: Option<u64>,
    connections_max: usize,
    bytes_per_day: Option<u64>,
    connections: AtomicUsize,
    /// When all bytes that were let through are paid for, in nanoseconds.
    paid: AtomicU64,
    /// When it was last used, in nanoseconds.
    used: AtomicU64,
    day: Mutex<Day>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Day {
    number: u64,
    bytes: u64,
}

/// The place of a connection in a bucket, for as long as it lives.
#[derive(Debug)]
pub(super) struct Seat(Arc<Bucket>);

impl Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Bucket {
    /// Nothing is used of it. `epoch`: where times are counted from.
    pub(super) fn new(limit: &Limit, epoch: Instant) -> Self {
        let quota = limit.requests.map(Quota::per_second);
        Self {
            requests: quota.map(|quota| RateLimiter::direct_with_clock(quota, Ticks(epoch))),
            rate: limit.bytes,
            connections_max: limit.connections.unwrap_or(usize::MAX),
            bytes_per_day: limit.bytes_per_day,
            connections: AtomicUsize::new(0),
            paid: AtomicU64::new(0),
            used: AtomicU64::new(nanos(epoch.elapsed())),
            day: Mutex::default(),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// There is nothing left.
    pub(super) fn admit(&self, now: Duration, wall: Timestamp) -> Result<(), Exceeded> {
        self.used.fetch_max(nanos(now), Ordering::Relaxed);
        if self
            .bytes_per_day
            .is_some_and(|max| self.used_on(day(wall)) >= max)
        {
            return Err(Exceeded {
                figure: Figure::BytesPerDay,
                wait: Duration::from_millis(DAY_MS - wall.0 % DAY_MS),
            });
        }
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        requests.check().map_err(|until| Exceeded {
            figure: Figure::Requests,
            wait: until.earliest_possible().duration_since(now).into(),
        })
    }

    /// True if bytes of bodies matter.
    pub(super) fn counts_bytes(&self) -> bool {
        self.rate.is_some() || self.bytes_per_day.is_some()
    }

    /// Bytes a second.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Lets bytes through, and says how long they are held back before. Bytes that come later wait for these: of many
    /// bodies at once none gets ahead. What was not used in the last second may be used at once.
    pub(super) fn pace(&self, bytes: usize, now: Duration) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let now = nanos(now);
        let bytes = u128::try_from(bytes).unwrap_or(u128::MAX);
        let cost = bytes.saturating_mul(NANOS.into()) / u128::from(rate.max(1));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let earliest = now.saturating_sub(nanos(REST));
        let take = |paid: u64| Some(paid.max(earliest).saturating_add(cost));
        let before = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let before = before.unwrap_or_else(|same| same);
        self.used.fetch_max(now, Ordering::Relaxed);
        Duration::from_nanos(before.saturating_sub(now))
    }

    /// Bytes of a body were sent.
    pub(super) fn spent(&self, bytes: usize, wall: Timestamp) {
        if self.bytes_per_day.is_none() {
            return;
        }
        let mut used = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        let today = day(wall);
        // A clock that is set back does not begin the day anew.
        if today > used.number {
            *used = Day {
                number: today,
                bytes: 0,
            };
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        used.bytes = used.bytes.saturating_add(bytes);
    }

    /// True if nothing is lost that matters when it is forgotten.
    pub(super) fn is_at_rest(&self, now: Duration, today: u64) -> bool {
        let of_day = self.bytes_per_day.map_or(0, |max| max / FORGOTTEN);
        let is_past =
            |it: &AtomicU64| it.load(Ordering::Relaxed).saturating_add(nanos(REST)) <= nanos(now);
        self.connections.load(Ordering::Relaxed) == 0
            && is_past(&self.used)
            && is_past(&self.paid)
            && self.used_on(today) <= of_day
    }

    fn used_on(&self, today: u64) -> u64 {
        let used = *self.day.lock().unwrap_or_else(PoisonError::into_inner);
        if today > used.number { 0 } else { used.bytes }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Seat {
    /// A place, if there is one.
    pub(super) fn take(bucket: Arc<Bucket>) -> Option<Self> {
        let more = |taken: usize| (taken < bucket.connections_max).then_some(taken + 1);
        let taken = bucket
            .connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        // Made only where it was taken: its end gives one back.
        taken.is_ok().then(|| Self(bucket))
    }

    /// The bucket.
    pub(super) fn bucket(&self) -> &Arc<Bucket> {
        &self.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The day of UTC.
pub(super) fn day(wall: Timestamp) -> u64 {
    wall.0 / DAY_MS
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
