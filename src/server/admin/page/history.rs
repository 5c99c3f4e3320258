//! The last hour and the last week in figures: samples in memory, which begin with the process.

use crate::clock::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// Points of a chart: more could not be told apart on a screen.
const POINTS_MAX: usize = 120;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) pulls: u64,
    pub(super) hits: u64,
    pub(super) client_bytes: u64,
    pub(super) upstream_bytes: u64,
    pub(super) used_bytes: u64,
    pub(super) evicted_bytes: u64,
}

/// Time that a chart shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Window {
    /// The last hour.
    #[default]
    Hour,
    /// The last seven days.
    Week,
}

impl Window {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Hour, Self::Week];

    /// As it stands in a query.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Week => "week",
        }
    }

    /// Time between two samples.
    pub(super) fn every(self) -> Duration {
        match self {
            Self::Hour => Duration::from_secs(10),
            Self::Week => Duration::from_mins(10),
        }
    }

    /// Samples that are kept: of its whole length, and the one before.
    fn samples_max(self) -> usize {
        match self {
            Self::Hour => 6 * 60 + 1,
            Self::Week => 6 * 24 * 7 + 1,
        }
    }
}

/// The change between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) pulls: u64,
    pub(super) hits: u64,
    pub(super) client_bytes: u64,
    pub(super) upstream_bytes: u64,
    pub(super) evicted_bytes: u64,
    /// Bytes on disk at its end.
    pub(super) used_bytes: u64,
    pub(super) lasted: Duration,
}

/// The samples.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    hour: VecDeque<Sample>,
    week: VecDeque<Sample>,
}

impl History {
    /// Takes in a sample, if it is time for one.
    pub(super) fn take(&mut self, sample: Sample) {
        for window in Window::ALL {
            let samples = match window {
                Window::Hour => &mut self.hour,
                Window::Week => &mut self.week,
            };
            // A clock that was set back would keep it waiting.
            let is_due = samples.back().is_none_or(|last| {
                sample.at < last.at || sample.at.since(last.at) >= window.every()
            });
            if !is_due {
                continue;
            }
            if samples.len() >= window.samples_max() {
                samples.pop_front();
            }
            samples.push_back(sample);
        }
    }

    /// The changes within a window, oldest first, at most [`POINTS_MAX`].
    pub(super) fn steps(&self, window: Window) -> Vec<Step> {
        let samples = self.samples(window);
        let stride = samples.len().saturating_sub(1).div_ceil(POINTS_MAX).max(1);
        // Counted from the newest, so that the last one is always there.
        let mut chosen: Vec<&Sample> = samples.iter().rev().step_by(stride).collect();
        chosen.reverse();
        let pairs = chosen.iter().zip(chosen.iter().skip(1));
        pairs.map(|(from, to)| Step::between(from, to)).collect()
    }

    /// The change over the whole window.
    pub(super) fn sum(&self, window: Window) -> Step {
        let samples = self.samples(window);
        let ends = samples.front().zip(samples.back());
        ends.map_or_else(Step::default, |(from, to)| Step::between(from, to))
    }

    fn samples(&self, window: Window) -> &VecDeque<Sample> {
        match window {
            Window::Hour => &self.hour,
            Window::Week => &self.week,
        }
    }
}

impl Step {
    /// An upstream that is no longer configured takes its counts away, and then the change is nothing.
    fn between(from: &Sample, to: &Sample) -> Self {
        Self {
            pulls: to.pulls.saturating_sub(from.pulls),
            hits: to.hits.saturating_sub(from.hits),
            client_bytes: to.client_bytes.saturating_sub(from.client_bytes),
            upstream_bytes: to.upstream_bytes.saturating_sub(from.upstream_bytes),
            evicted_bytes: to.evicted_bytes.saturating_sub(from.evicted_bytes),
            used_bytes: to.used_bytes,
            lasted: to.at.since(from.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: u64) -> Sample {
        Sample {
            at: Timestamp(seconds * 1000),
            pulls: seconds,
            client_bytes: 2 * seconds,
            used_bytes: 7,
            ..Sample::default()
        }
    }

    #[test]
    fn an_hour_and_a_week_are_kept_and_no_more() {
        let mut history = History::default();
        assert_eq!(history.steps(Window::Hour), []);
        assert_eq!(history.sum(Window::Week), Step::default());
        for second in 0..8 * 24 * 3600 {
            history.take(sample(second));
        }
        for (window, lasted) in [(Window::Hour, 3600), (Window::Week, 7 * 24 * 3600)] {
            assert_eq!(history.samples(window).len(), window.samples_max());
            let sum = history.sum(window);
            assert_eq!(sum.lasted.as_secs(), lasted);
            assert_eq!((sum.pulls, sum.client_bytes), (lasted, 2 * lasted));
            let steps = history.steps(window);
            assert!((100..=POINTS_MAX).contains(&steps.len()), "{}", steps.len());
            let whole: u64 = steps.iter().map(|step| step.pulls).sum();
            assert!(whole <= lasted && whole > lasted * 9 / 10, "{whole}");
        }
    }

    #[test]
    fn counts_that_go_away_and_clocks_that_go_back_do_no_harm() {
        let mut history = History::default();
        history.take(sample(1000));
        history.take(sample(5));
        assert_eq!(history.samples(Window::Hour).len(), 2);
        assert_eq!(history.sum(Window::Hour).pulls, 0);
        assert_eq!(history.sum(Window::Hour).lasted, Duration::ZERO);
    }
}
