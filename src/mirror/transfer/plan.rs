//! Who fetches which bytes: the missing ranges of a blob, given out lowest first. Pure.

use std::ops::Range;

use crate::store::Coverage;

/// The bytes that nobody has and nobody fetches.
#[derive(Debug)]
pub(super) struct Plan {
    /// Sorted, apart from each other, none empty.
    missing: Vec<Range<u64>>,
    /// Who fetches, and how much at once.
    pieces: Pieces,
}

/// How a blob is divided among connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    pub(super) connections: u64,
    /// The most that one request asks for.
    pub(super) segment: u64,
}

impl Pieces {
    /// All that is missing in a row, at once.
    pub(super) const WHOLE: Self = Self {
        connections: 1,
        segment: u64::MAX,
    };

    /// The size of the next piece when so much is missing: a connection's share, so that all have
    /// something to do; smaller and smaller towards the end, so that nobody waits long for the slowest
    /// connection, nor for the hash of what came out of turn.
    fn next(self, missing: u64) -> u64 {
        let share = missing.div_ceil(self.connections.max(1));
        share.max(PIECE_BYTES_MIN).min(self.segment).max(1)
    }
}

impl Plan {
    /// What is missing of a blob of `total` bytes.
    pub(super) fn new(have: &Coverage, total: u64, pieces: Pieces) -> Self {
        let mut missing = Vec::new();
        let mut at = 0;
        while let Some(gap) = have.next_gap(at, total) {
            at = gap.end;
            missing.push(gap);
        }
        Self { missing, pieces }
    }

    /// The lowest piece. Readers go from the front to the back, so what they need next comes first.
    pub(super) fn take(&mut self) -> Option<Range<u64>> {
        let missing = self.missing.iter().map(|gap| gap.end - gap.start).sum();
        let lowest = self.missing.first_mut()?;
        let size = self.pieces.next(missing);
        let end = lowest.start.saturating_add(size).min(lowest.end);
        let piece = lowest.start..end;
        if end == lowest.end {
            self.missing.remove(0);
        } else {
            lowest.start = end;
        }
        Some(piece)
    }

    /// Takes back what was not fetched of a piece.
    pub(super) fn give_back(&mut self, rest: Range<u64>) {
        if rest.is_empty() {
            return;
        }
        let at = self.missing.partition_point(|gap| gap.start < rest.start);
        self.missing.insert(at, rest);
        // A piece was cut out of a range: given back whole, it joins its neighbour again.
        let touching = |a: &Range<u64>, b: &Range<u64>| a.end >= b.start;
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(self.missing.len());
        for gap in self.missing.drain(..) {
            match merged.last_mut() {
                Some(last) if touching(last, &gap) => last.end = last.end.max(gap.end),
                Some(_) | None => merged.push(gap),
            }
        }
        self.missing = merged;
    }
}

/// A smaller piece costs more in requests than another connection gains.
const PIECE_BYTES_MIN: u64 = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pieces(connections: u64, segment: u64) -> Pieces {
        Pieces {
            connections,
            segment,
        }
    }

    #[test]
    fn pieces_come_lowest_first_and_come_back_whole() {
        let have = Coverage::from(vec![(0, 10), (30, 40)]);
        let mut plan = Plan::new(&have, 100, pieces(4, 15));
        assert_eq!(plan.take(), Some(10..25));
        assert_eq!(plan.take(), Some(25..30));
        assert_eq!(plan.take(), Some(40..55));
        plan.give_back(12..25);
        plan.give_back(25..30);
        assert_eq!(plan.take(), Some(12..27), "what came back is whole again");
        plan.give_back(27..27);
        assert_eq!(plan.take(), Some(27..30));
        assert_eq!(plan.take(), Some(55..70));
    }

    #[test]
    fn every_connection_gets_a_piece_and_the_last_ones_are_small() {
        let mib = 1024 * 1024;
        let sizes = |total, connections, segment| {
            let nothing = Coverage::default();
            let mut plan = Plan::new(&nothing, total, pieces(connections, segment));
            std::iter::from_fn(move || plan.take())
                .map(|piece| piece.end - piece.start)
                .collect::<Vec<_>>()
        };
        let of_20 = sizes(20 * mib, 4, 16 * mib);
        assert_eq!(of_20[0], 5 * mib);
        assert!(of_20.is_sorted_by(|a, b| a >= b), "{of_20:?}");
        assert!(of_20.iter().rev().skip(1).all(|size| *size >= 2 * mib));
        assert_eq!(of_20.iter().sum::<u64>(), 20 * mib);
        let of_256 = sizes(256 * mib, 4, 16 * mib);
        assert_eq!(of_256[..12], [16 * mib; 12]);
        assert!(of_256.len() < 32, "{}", of_256.len());
        assert_eq!(sizes(4 * mib, 4, mib), [mib; 4]);
        assert_eq!(sizes(2 * mib, 0, 16 * mib), [2 * mib]);
    }

    proptest! {
        #[test]
        fn every_missing_byte_is_given_out_once(
            have in prop::collection::vec((0_u64..200, 0_u64..200), 0..8),
            total in 0_u64..200,
            segment in 1_u64..50,
            kept in prop::collection::vec(0_u64..60, 0..40),
        ) {
            let coverage = Coverage::from(have);
            let mut plan = Plan::new(&coverage, total, pieces(4, segment));
            let mut fetched = BTreeSet::new();
            let mut kept = kept.into_iter();
            while let Some(piece) = plan.take() {
                prop_assert!(piece.end - piece.start <= segment);
                // Some connections break after a few bytes; later ones do not.
                let done = kept.next().map_or(piece.end, |k| piece.end.min(piece.start + k));
                for byte in piece.start..done {
                    prop_assert!(fetched.insert(byte), "{byte} was fetched twice");
                }
                plan.give_back(done..piece.end);
            }
            let missing: BTreeSet<u64> = (0..total).filter(|b| coverage.run_end(*b) == *b).collect();
            prop_assert_eq!(fetched, missing);
        }
    }
}
