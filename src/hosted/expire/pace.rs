//! When the rules run. Pure: the time comes in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Time between two runs.
const EVERY: Duration = Duration::from_hours(1);

/// Time after a start before the first run: whoever has changed the rules meanwhile can look at what they would do.
const START_WAIT: Duration = Duration::from_mins(10);

/// A clock that was not looked at for longer has leapt, or the server was off.
const LEAP: Duration = Duration::from_hours(24);

/// Time for which no tag goes then.
const HOLD: Duration = Duration::from_hours(24);

/// How far the rules have come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    /// The clock when it was looked at last.
    looked: Timestamp,
    /// The last run; the next one is so much later.
    ran: Timestamp,
    /// No run before this.
    held: Option<Timestamp>,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// A run is due, and counts as done.
    pub(super) runs: bool,
    /// The clock has leapt forward since it was looked at last.
    pub(super) leapt: bool,
}

impl Pace {
    /// How far an earlier process has come, if it has said so.
    pub(super) fn opened(noted: Option<&str>, now: Timestamp) -> Self {
        let noted = noted.and_then(|text| serde_json::from_str(text).ok());
        let mut pace: Self = noted.unwrap_or(Self {
            looked: now,
            ran: now,
            held: None,
        });
        pace.ran = pace.ran.max(now.before(EVERY.saturating_sub(START_WAIT)));
        pace
    }

    /// In the words of [`Self::opened`].
    pub(super) fn noted(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The next run is as far off as after a run.
    pub(super) fn wait_again(&mut self, now: Timestamp) {
        self.ran = now;
    }

    /// Looks at the clock.
    pub(super) fn look(&mut self, now: Timestamp) -> Step {
        let leapt = now.since(self.looked) > LEAP;
        if leapt {
            self.held = Some(now.plus(HOLD));
        }
        self.looked = now;
        // Set back: what was to come later than it ever could from here is forgotten.
        self.ran = self.ran.min(now);
        self.held = self.held_until(now);
        let runs = self.held.is_none() && now.since(self.ran) >= EVERY;
        if runs {
            self.ran = now;
        }
        Step { runs, leapt }
    }

    /// Until when no tag goes since the clock has leapt.
    pub(super) fn held_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.held.filter(|it| *it > now && *it <= now.plus(HOLD))
    }

    /// The time of the next run.
    pub(super) fn next(&self, now: Timestamp) -> Timestamp {
        let next = self.ran.min(now).plus(EVERY).max(now);
        self.held_until(now).map_or(next, |held| next.max(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const YEAR: Duration = Duration::from_hours(365 * 24);

    fn start() -> (Pace, Timestamp) {
        let now = Timestamp(1_790_000_000_000);
        (Pace::opened(None, now), now)
    }

    /// Looks each minute for so long; the number of runs.
    fn pass(pace: &mut Pace, now: &mut Timestamp, passed: Duration) -> usize {
        let until = now.plus(passed);
        let mut runs = 0;
        while *now < until {
            *now = now.plus(MINUTE);
            runs += usize::from(pace.look(*now).runs);
        }
        runs
    }

    #[test]
    fn a_run_each_hour() {
        let (mut pace, mut now) = start();
        assert_eq!(pass(&mut pace, &mut now, 59 * MINUTE), 0);
        assert_eq!(pace.next(now), now.plus(MINUTE));
        assert_eq!(pass(&mut pace, &mut now, MINUTE), 1);
        assert_eq!(pass(&mut pace, &mut now, 10 * EVERY), 10);
        pace.wait_again(now);
        assert_eq!(pass(&mut pace, &mut now, 59 * MINUTE), 0);
    }

    #[test]
    fn a_leap_forward_holds_for_a_day() {
        let (mut pace, mut now) = start();
        now = now.plus(3 * YEAR);
        let step = pace.look(now);
        assert!(step.leapt && !step.runs);
        assert_eq!(pace.next(now), now.plus(HOLD));
        assert_eq!(pass(&mut pace, &mut now, HOLD.saturating_sub(MINUTE)), 0);
        assert_eq!(pass(&mut pace, &mut now, EVERY), 1);
    }

    #[test]
    fn a_clock_that_comes_back_holds_no_longer_and_runs_no_earlier() {
        let (mut pace, before) = start();
        let mut now = before.plus(3 * YEAR);
        pace.look(now);
        assert!(pass(&mut pace, &mut now, 2 * HOLD) > 0);
        now = before;
        assert!(!pace.look(now).runs);
        assert_eq!(pace.next(now), now.plus(EVERY));
        assert_eq!(pass(&mut pace, &mut now, EVERY), 1);
    }

    #[test]
    fn a_start_goes_on_and_not_at_once() {
        let (mut pace, mut now) = start();
        pass(&mut pace, &mut now, EVERY + 30 * MINUTE);
        let noted = pace.noted();
        let mut pace = Pace::opened(Some(&noted), now);
        assert_eq!(pass(&mut pace, &mut now, 29 * MINUTE), 0);
        assert_eq!(pass(&mut pace, &mut now, MINUTE), 1);
        now = now.plus(5 * EVERY);
        let mut pace = Pace::opened(Some(&noted), now);
        assert_eq!(
            pass(&mut pace, &mut now, START_WAIT.saturating_sub(MINUTE)),
            0
        );
        assert_eq!(pass(&mut pace, &mut now, MINUTE), 1);
        // Off for longer, or a clock that was set meanwhile.
        now = now.plus(30 * HOLD);
        let mut pace = Pace::opened(Some(&noted), now);
        assert!(pace.look(now).leapt);
        assert_eq!(pass(&mut pace, &mut now, HOLD.saturating_sub(MINUTE)), 0);
        for nonsense in ["", "{}", "{\"looked\":\"x\"}"] {
            assert!(!Pace::opened(Some(nonsense), now).look(now).runs);
        }
    }
}
