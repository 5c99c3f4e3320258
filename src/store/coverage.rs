//! Which bytes of a blob are on disk: a sorted set of ranges. Pure.

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

    /// How many bytes are covered from offset 0 without a gap.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.run_end(0)
    }

    /// How many bytes are covered in all.
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

    proptest! {
        #[test]
        fn behaves_as_a_set_of_offsets(pairs in prop::collection::vec((0_u64..64, 0_u64..64), 0..24)) {
            let mut coverage = Coverage::default();
            let mut model = BTreeSet::new();
            for (a, b) in pairs {
                coverage.insert(a..b);
                model.extend(a..b);
                prop_assert_eq!(coverage.bytes(), model.len() as u64);
            }
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
