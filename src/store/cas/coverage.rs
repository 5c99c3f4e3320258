//! The bytes of a blob that are on disk: a sorted set of ranges. Pure.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A set of byte offsets, kept as sorted half-open ranges that neither touch
/// nor overlap.
///
/// A fill by one connection is always one range. Parallel ranges and
/// lazy-pulling readers make more, but never more than fetchers have started,
/// so a sorted vector beats a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Coverage {
    ranges: Vec<Range<u64>>,
}

impl Coverage {
    /// Adds a range; what is covered already stays covered.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Everything that touches the new range is merged into it.
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let last = self.ranges.partition_point(|r| r.start <= range.end);
        let touched = self.ranges.get(first..last).unwrap_or_default();
        let start = touched
            .first()
            .map_or(range.start, |r| r.start.min(range.start));
        let end = touched.last().map_or(range.end, |r| r.end.max(range.end));
        self.ranges.splice(first..last, std::iter::once(start..end));
    }

    /// The end of the covered run that begins at or spans `offset`; `offset`
    /// itself when that byte is not covered.
    #[must_use]
    pub fn run_end(&self, offset: u64) -> u64 {
        let after = self.ranges.partition_point(|r| r.start <= offset);
        after
            .checked_sub(1)
            .and_then(|at| self.ranges.get(at))
            .map_or(offset, |r| r.end.max(offset))
    }

    /// Number of bytes covered from offset 0 without a gap.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.run_end(0)
    }

    /// Number of bytes covered in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start).sum()
    }

    /// The first uncovered range at or after `offset` and before `total`.
    #[must_use]
    pub fn next_gap(&self, offset: u64, total: u64) -> Option<Range<u64>> {
        let start = self.run_end(offset);
        if start >= total {
            return None;
        }
        let next = self.ranges.partition_point(|r| r.start <= start);
        let end = self.ranges.get(next).map_or(total, |r| r.start.min(total));
        Some(start..end)
    }

    /// Takes a range out; what is not covered already stays so.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let last = self.ranges.partition_point(|r| r.start < range.end);
        let touched = self.ranges.get(first..last).unwrap_or_default();
        let before = touched.first().map(|r| r.start..range.start);
        let after = touched.last().map(|r| range.end..r.end);
        let left = before.into_iter().chain(after).filter(|r| !r.is_empty());
        self.ranges.splice(first..last, left.collect::<Vec<_>>());
    }

    /// The parts of `range` that are covered, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let rest = self.ranges.get(first..).unwrap_or_default();
        rest.iter()
            .map(move |r| r.start.max(range.start)..r.end.min(range.end))
            .take_while(|r| !r.is_empty())
    }

    /// True if anything of `range` is covered.
    #[must_use]
    pub fn intersects(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_some()
    }

    /// The parts of `range` that are not covered, in order.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let gap = self.next_gap(at, range.end)?;
            at = gap.end;
            Some(gap)
        })
    }

    /// The bytes that both cover.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for range in self.ranges() {
            // In order and apart already, so that nothing is to be merged.
            both.ranges.extend(other.within(range));
        }
        both
    }

    /// The end of the last covered range; 0 when nothing is covered.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |r| r.end)
    }

    /// Closes gaps until there are at most `ranges_max` ranges (but one, if any is covered): for
    /// sets that may say too much, but may not take any amount of memory.
    pub fn coarsen(&mut self, ranges_max: usize) {
        while self.ranges.len() > ranges_max.max(1) {
            let pairs = self.ranges.chunks(2);
            let joined = pairs.filter_map(|pair| Some(pair.first()?.start..pair.last()?.end));
            self.ranges = joined.collect();
        }
    }

    /// The covered ranges, sorted.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().cloned()
    }
}

impl From<Vec<(u64, u64)>> for Coverage {
    /// Reads ranges in any order; empty and reversed ones are dropped.
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut coverage = Self::default();
        for (start, end) in pairs {
            coverage.insert(start..end);
        }
        coverage
    }
}

impl From<Coverage> for Vec<(u64, u64)> {
    fn from(coverage: Coverage) -> Self {
        coverage.ranges.iter().map(|r| (r.start, r.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(pairs: &[(u64, u64)]) -> Coverage {
        pairs.to_vec().into()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let coverage = of(&[(10, 20), (0, 10), (30, 40), (20, 30)]);
        assert_eq!(coverage, of(&[(0, 40)]));
        assert_eq!(coverage.prefix(), 40);
    }

    #[test]
    fn a_gap_ends_the_prefix() {
        let coverage = of(&[(0, 5), (6, 9)]);
        assert_eq!(coverage.prefix(), 5);
        assert_eq!(coverage.run_end(5), 5);
        assert_eq!(coverage.run_end(7), 9);
        assert_eq!(coverage.next_gap(0, 20), Some(5..6));
        assert_eq!(coverage.next_gap(6, 20), Some(9..20));
        assert_eq!(coverage.next_gap(0, 5), None);
    }

    #[test]
    fn reversed_and_empty_ranges_from_a_file_are_dropped() {
        assert_eq!(of(&[(9, 3), (4, 4), (1, 2)]), of(&[(1, 2)]));
    }

    #[test]
    fn coarsening_says_too_much_and_never_too_little() {
        let mut coverage = of(&[(0, 1), (4, 5), (8, 9), (20, 21), (30, 31)]);
        coverage.coarsen(5);
        assert_eq!(coverage.bytes(), 5, "it was small enough");
        coverage.coarsen(3);
        assert_eq!(coverage, of(&[(0, 5), (8, 21), (30, 31)]));
        coverage.coarsen(0);
        assert_eq!(coverage, of(&[(0, 31)]));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_offsets(pairs in prop::collection::vec((0_u64..64, 0_u64..64, any::<bool>()), 0..24),
                                            other in prop::collection::vec((0_u64..64, 0_u64..64), 0..8),
                                            part in (0_u64..64, 0_u64..64)) {
            let mut coverage = Coverage::default();
            let mut model = BTreeSet::new();
            for (a, b, remove) in pairs {
                if remove {
                    coverage.remove(a..b);
                    model.retain(|at| !(a..b).contains(at));
                } else {
                    coverage.insert(a..b);
                    model.extend(a..b);
                }
                prop_assert_eq!(coverage.bytes(), model.len() as u64);
            }
            prop_assert_eq!(coverage.end(), model.last().map_or(0, |last| last + 1));
            let part = part.0..part.1;
            let inside: Vec<u64> = coverage.within(part.clone()).flatten().collect();
            let outside: Vec<u64> = coverage.gaps(part.clone()).flatten().collect();
            let wanted = |covered| {
                let model = &model;
                part.clone().filter(move |at| model.contains(at) == covered).collect::<Vec<_>>()
            };
            prop_assert_eq!(inside, wanted(true));
            prop_assert_eq!(outside, wanted(false));
            let other = of(&other);
            let both: Vec<u64> = coverage.intersection(&other).ranges().flatten().collect();
            let expected: Vec<u64> = model.iter().copied().filter(|at| other.run_end(*at) > *at).collect();
            prop_assert_eq!(both, expected);
            for offset in 0..64 {
                let mut end = offset;
                while model.contains(&end) { end += 1; }
                prop_assert_eq!(coverage.run_end(offset), end);
            }
            let ranges: Vec<_> = coverage.ranges().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            let text = serde_json::to_string(&coverage).unwrap();
            prop_assert_eq!(serde_json::from_str::<Coverage>(&text).unwrap(), coverage);
        }
    }
}
