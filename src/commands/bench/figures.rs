//! Statistics: what a list of samples comes to.

use serde::Serialize;

/// The spread of the samples of a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// Half are at most this.
    pub median: f64,
    /// The 95th percentile: 95 of a hundred are at most this.
    pub p95: f64,
    /// The most.
    pub max: f64,
}

/// One figure in several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// In the middle round; the mean of the two in the middle where the rounds are even.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// The spread of these samples, by nearest rank, so that each figure is one that was measured; `None` of none.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            // The least rank with so many percent of the samples at or below it.
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            samples.get(rank - 1).copied()
        };
        Some(Self {
            min: *samples.first()?,
            median: rank(50)?,
            p95: rank(95)?,
            max: *samples.last()?,
        })
    }
}

impl Range {
    /// The range of these; `None` of none.
    #[must_use]
    pub fn of(mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_by(f64::total_cmp);
        let upper = *rounds.get(rounds.len() / 2)?;
        let lower = *rounds.get(rounds.len().saturating_sub(1) / 2)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            min: *rounds.first()?,
            max: *rounds.last()?,
        })
    }
}

/// `of / to`; `None` where that says nothing.
pub(super) fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    let ratio = of? / to?;
    ratio.is_finite().then_some(ratio)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "bytes and requests of a run stay below 2^53, and a figure for people has three digits"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranks_are_the_nearest() {
        let of = |count: u32| Spread::of((1..=count).rev().map(f64::from).collect()).unwrap();
        let (ten, hundred) = (of(10), of(100));
        assert_eq!((ten.median, ten.p95, ten.max), (5.0, 10.0, 10.0));
        assert_eq!(
            (hundred.min, hundred.median, hundred.p95, hundred.max),
            (1.0, 50.0, 95.0, 100.0)
        );
        let one = of(1);
        assert_eq!(
            (one.min, one.median, one.p95, one.max),
            (1.0, 1.0, 1.0, 1.0)
        );
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn the_median_of_rounds_is_between_them() {
        let median = |rounds: &[f64]| Range::of(rounds.to_vec()).map(|it| it.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
    }

    #[test]
    fn a_ratio_that_says_nothing_is_none() {
        assert_eq!(ratio(Some(3.0), Some(2.0)), Some(1.5));
        assert_eq!(ratio(Some(3.0), Some(0.0)), None);
        assert_eq!(ratio(None, Some(2.0)), None);
    }

    proptest! {
        #[test]
        fn figures_are_in_order(samples in prop::collection::vec(0.0..1e9_f64, 1..200)) {
            let spread = Spread::of(samples.clone()).unwrap();
            prop_assert!(spread.min <= spread.median && spread.median <= spread.p95);
            prop_assert!(spread.p95 <= spread.max);
            let at_most = samples.iter().filter(|it| **it <= spread.p95).count();
            prop_assert!(at_most * 100 >= samples.len() * 95);
            let range = Range::of(samples).unwrap();
            prop_assert!(range.min <= range.median && range.median <= range.max);
        }
    }
}
