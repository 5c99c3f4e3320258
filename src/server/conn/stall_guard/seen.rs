//! Observations of a connection, and the time since which they hold.

use std::time::Duration;
use tokio::time::Instant;

/// Over so long it is looked at how fast a client takes what it is sent.
const RATE_SPAN: Duration = Duration::from_secs(10);

/// A client that takes back more requests a second than this before they are answered does nothing else (CVE-2023-44487).
/// One that closes a page or gives up a pull takes back all it has, once: 128 at most.
const WITHDRAWN_PER_SECOND_MAX: u64 = 200;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The client has not said all of what it wants.
    Head,
    /// Everything is answered.
    Idle,
    /// Something is being answered.
    Busy,
}

/// Reason why a connection, or one of its bodies, was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// No head in time.
    Head,
    /// No byte taken in time.
    Stall,
    /// Too few bytes taken, where there was no room for others.
    Rate,
    /// Requests were taken back faster than anybody needs.
    Resets,
}

/// The standing of a connection among others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) phase: Phase,
    pub(crate) since: Instant,
    /// True if its client takes less than the least rate.
    pub(crate) is_slow: bool,
}

/// Observations of a connection.
#[derive(Debug)]
pub(super) struct Seen {
    phase: Phase,
    mark: u64,
    pub(super) since: Instant,
    pub(super) rate: Rate,
    pub(super) are_flows_slow: bool,
    withdrawn: (u64, Instant),
}

impl Seen {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Head,
            mark: 0,
            since: now,
            rate: Rate::default(),
            are_flows_slow: false,
            withdrawn: (0, now),
        }
    }

    /// Something is so now. A busy connection stands still only while the client must take something.
    pub(super) fn note(&mut self, now: Instant, phase: Phase, mark: u64, is_blocked: bool) {
        let moves = phase == Phase::Busy && !is_blocked;
        if moves || phase != self.phase || mark != self.mark {
            (self.phase, self.mark, self.since) = (phase, mark, now);
        }
    }

    /// True if requests were taken back faster than is allowed, since it was last asked.
    pub(super) fn withdraws_too_much(&mut self, now: Instant, withdrawn: u64) -> bool {
        let (before, at) = self.withdrawn;
        let span = now.saturating_duration_since(at);
        if span < Duration::from_secs(1) {
            return false;
        }
        self.withdrawn = (withdrawn, now);
        let withdrawn = u128::from(withdrawn.saturating_sub(before));
        withdrawn * 1000 > u128::from(WITHDRAWN_PER_SECOND_MAX) * span.as_millis()
    }
}

/// Observations of one body of HTTP/2.
#[derive(Debug, Default)]
pub(super) struct FlowSeen {
    mark: u64,
    /// Since when nothing of it has moved; none while it does not wait for the client.
    since: Option<Instant>,
    pub(super) rate: Rate,
}

impl FlowSeen {
    pub(super) fn note(&mut self, now: Instant, mark: u64, waits: bool) {
        if !waits {
            self.since = None;
        } else if mark != self.mark || self.since.is_none() {
            self.since = Some(now);
        }
        self.mark = mark;
    }

    /// Time for which nothing of it has moved.
    pub(super) fn stood(&self, now: Instant) -> Duration {
        let since = self.since.unwrap_or(now);
        now.saturating_duration_since(since)
    }
}

/// The rate at which a client takes what waits for it.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// The beginning of the span.
    began: Option<(Instant, u64)>,
    is_slow: bool,
}

impl Rate {
    /// So much has been taken. A span counts only if something waited for the client each time that it was looked at.
    pub(super) fn note(&mut self, now: Instant, taken: u64, waits: bool, least: u64) {
        if !waits {
            *self = Self::default();
            return;
        }
        let (at, before) = *self.began.get_or_insert((now, taken));
        let span = now.saturating_duration_since(at);
        if span < RATE_SPAN {
            return;
        }
        let expected = least.saturating_mul(span.as_secs());
        self.is_slow = taken.wrapping_sub(before) < expected;
        self.began = Some((now, taken));
    }

    /// True if it was too slow over the last whole span.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }
}
