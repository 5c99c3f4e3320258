//! Time comes in from outside, so that tests can drive it.

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Wall-clock time in milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Time since `earlier`; zero when it lies in the future, as after
    /// a clock was set back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved back by `by`, to the epoch at most.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(by))
    }

    /// A time of RFC 3339, with any offset.
    #[must_use]
    pub fn of_rfc3339(text: &str) -> Option<Self> {
        let text = text.trim();
        let (local, offset, east) = match text.len().checked_sub("+00:00".len()) {
            Some(at) if text.is_char_boundary(at) => match text.split_at(at) {
                (local, offset) if offset.starts_with('+') => (local, offset, true),
                (local, offset) if offset.starts_with('-') => (local, offset, false),
                _ => (text.strip_suffix(['Z', 'z'])?, "+00:00", true),
            },
            Some(_) | None => return None,
        };
        let (hours, minutes) = offset.get(1..)?.split_once(':')?;
        let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
        let utc = humantime::parse_rfc3339_weak(local).ok()?;
        let offset = Duration::from_secs(hours * 3600 + minutes * 60);
        let utc = if east {
            utc.checked_sub(offset)?
        } else {
            utc.checked_add(offset)?
        };
        let since = utc.duration_since(UNIX_EPOCH).ok()?;
        Some(Self(u64::try_from(since.as_millis()).ok()?))
    }

    /// This instant moved forward by `by`, saturating.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// The source of wall-clock time.
pub trait Clock: Send + Sync + Debug {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the system"
    )]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self(Mutex::new(start))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = now.plus(by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
