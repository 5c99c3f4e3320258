//! The division of a blob among connections: its missing ranges, given out lowest first, or where a reader
//! waits. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::Coverage;

/// The bytes that nobody has, and who fetches which.
#[derive(Debug)]
pub(super) struct Plan {
    /// Ranges that nobody fetches. Sorted, apart from each other, none empty.
    missing: Vec<Range<u64>>,
    /// Ranges that are being fetched: from the next byte on. Apart from each other and from `missing`.
    active: BTreeMap<u64, Range<u64>>,
    next: u64,
    pieces: Pieces,
}

/// A piece to fetch. Its end may come nearer while it is fetched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    id: Option<u64>,
    /// As it was given out.
    pub(super) range: Range<u64>,
}

impl Piece {
    /// One that no plan gave out.
    pub(super) const fn unplanned(range: Range<u64>) -> Self {
        Self { id: None, range }
    }
}

/// The division of a blob among connections.
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
    /// A plan for what is missing of a blob of `total` bytes.
    pub(super) fn new(have: &Coverage, total: u64, pieces: Pieces) -> Self {
        Self {
            missing: have.gaps(0..total).collect(),
            active: BTreeMap::new(),
            next: 0,
            pieces,
        }
    }

    /// The lowest piece. Readers go from the front to the back, so what they need next comes first; but what can be had
    /// `elsewhere` comes last.
    pub(super) fn take(&mut self, elsewhere: &Coverage) -> Option<Piece> {
        let missing = self.missing.iter().map(|gap| gap.end - gap.start).sum();
        let size = self.pieces.next(missing);
        let mut gaps = self.missing.iter();
        let only_here = gaps.find_map(|gap| elsewhere.next_gap(gap.start, gap.end));
        let Range { start, end } = match only_here {
            Some(gap) => gap,
            None => self.missing.first()?.clone(),
        };
        Some(self.give(start..end.min(start.saturating_add(size))))
    }

    /// A piece that begins where a reader waits, and ends where it wants no more. `None` when the byte
    /// is there, or comes soon: somebody fetches it, or what is at most `near` bytes before it.
    ///
    /// If somebody is on the way to it from further away, that one's piece ends there now. How far
    /// everybody is, `have` knows before they say so.
    pub(super) fn take_at(
        &mut self,
        wanted: Range<u64>,
        have: &Coverage,
        near: u64,
    ) -> Option<Piece> {
        let at = wanted.start;
        if wanted.is_empty() {
            return None;
        }
        let holder = self.active.values_mut().find(|range| range.contains(&at));
        if let Some(range) = holder {
            if at.saturating_sub(have.run_end(range.start)) <= near {
                return None;
            }
            let rest = at..range.end;
            range.end = at;
            self.insert(rest);
        }
        let end = wanted.end.min(at.saturating_add(self.pieces.segment));
        let missing = self.missing.iter().any(|gap| gap.contains(&at));
        missing.then(|| self.give(at..end))
    }

    /// Somebody has come to `position` of a piece: where it ends now.
    pub(super) fn advance(&mut self, piece: &Piece, position: u64) -> u64 {
        let Some(range) = piece.id.and_then(|id| self.active.get_mut(&id)) else {
            return piece.range.end;
        };
        range.start = position.clamp(range.start, range.end);
        range.end
    }

    /// Nobody fetches a piece any more: what is missing of it can be taken again.
    pub(super) fn done(&mut self, piece: &Piece, have: &Coverage) {
        let Some(id) = piece.id else { return };
        let Some(range) = self.active.remove(&id) else {
            return;
        };
        let start = piece.range.start.min(range.start);
        for gap in have.gaps(start..range.end).collect::<Vec<_>>() {
            self.insert(gap);
        }
    }

    /// Gives out the beginning of `range`, whose first byte is missing, up to the end of the gap.
    fn give(&mut self, range: Range<u64>) -> Piece {
        let mut given = range.start..range.start;
        let gaps = std::mem::take(&mut self.missing);
        for gap in gaps {
            if !gap.contains(&range.start) {
                self.missing.push(gap);
                continue;
            }
            given.end = range.end.min(gap.end);
            let parts = [gap.start..given.start, given.end..gap.end];
            self.missing
                .extend(parts.into_iter().filter(|part| !part.is_empty()));
        }
        let id = self.next;
        self.next += 1;
        self.active.insert(id, given.clone());
        Piece {
            id: Some(id),
            range: given,
        }
    }

    fn insert(&mut self, rest: Range<u64>) {
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

    fn covers(ranges: &[(u64, u64)]) -> Coverage {
        Coverage::from(ranges.to_vec())
    }

    #[test]
    fn pieces_come_lowest_first_and_come_back_whole() {
        let have = covers(&[(0, 10), (30, 40)]);
        let mut plan = Plan::new(&have, 100, pieces(4, 15));
        let first = plan.take(&Coverage::default()).unwrap();
        let second = plan.take(&Coverage::default()).unwrap();
        let third = plan.take(&Coverage::default()).unwrap();
        assert_eq!(first.range, 10..25);
        assert_eq!(second.range, 25..30);
        assert_eq!(third.range, 40..55);
        let have = covers(&[(0, 12), (30, 55)]);
        plan.done(&first, &have);
        plan.done(&second, &have);
        plan.done(&third, &have);
        assert_eq!(
            plan.take(&Coverage::default()).unwrap().range,
            12..27,
            "what came back is whole again"
        );
        assert_eq!(plan.take(&Coverage::default()).unwrap().range, 27..30);
        assert_eq!(plan.take(&Coverage::default()).unwrap().range, 55..70);
    }

    #[test]
    fn every_connection_gets_a_piece_and_the_last_ones_are_small() {
        let mib = 1024 * 1024;
        let sizes = |total, connections, segment| {
            let nothing = Coverage::default();
            let mut plan = Plan::new(&nothing, total, pieces(connections, segment));
            std::iter::from_fn(move || plan.take(&Coverage::default()))
                .map(|piece| piece.range.end - piece.range.start)
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

    #[test]
    fn where_a_reader_waits_a_piece_begins() {
        let nothing = Coverage::default();
        let mut plan = Plan::new(&nothing, 1000, Pieces::WHOLE);
        let first = plan.take(&Coverage::default()).unwrap();
        assert_eq!(first.range, 0..1000);
        assert_eq!(plan.advance(&first, 50), 1000);
        assert_eq!(plan.take_at(60..70, &nothing, 10), None, "it comes soon");
        let there = covers(&[(0, 590)]);
        let soon = plan.take_at(600..700, &there, 10);
        assert_eq!(soon, None, "it comes soon, though nobody has said so");
        let scout = plan.take_at(600..700, &nothing, 10).unwrap();
        assert_eq!(scout.range, 600..700);
        assert_eq!(
            plan.take_at(600..700, &nothing, 10),
            None,
            "somebody fetches it"
        );
        assert_eq!(plan.advance(&first, 80), 600, "the first one stops there");
        plan.done(&first, &covers(&[(0, 600)]));
        assert_eq!(plan.take(&Coverage::default()).unwrap().range, 700..1000);
        plan.done(&scout, &covers(&[(0, 600), (600, 650)]));
        assert_eq!(plan.take(&Coverage::default()).unwrap().range, 650..700);
        assert_eq!(plan.take(&Coverage::default()), None);
        assert_eq!(plan.take_at(10..20, &nothing, 5), None, "it is there");
    }

    proptest! {
        #[test]
        fn every_missing_byte_is_given_out_once(
            have in prop::collection::vec((0_u64..200, 0_u64..200), 0..8),
            total in 0_u64..200,
            segment in 1_u64..50,
            steps in prop::collection::vec((0_u64..60, prop::option::of(0_u64..200)), 0..60),
        ) {
            let mut coverage = Coverage::from(have);
            coverage.remove(total..u64::MAX);
            let at_first = coverage.clone();
            let mut plan = Plan::new(&coverage, total, pieces(4, segment));
            let mut fetched = BTreeSet::new();
            let mut steps = steps.into_iter();
            let mut under_way: Vec<Piece> = Vec::new();
            loop {
                let (kept, wanted) = steps.next().unwrap_or((u64::MAX, None));
                let piece = wanted.and_then(|at| plan.take_at(at..total, &coverage, 7)).or_else(|| plan.take(&Coverage::default()));
                under_way.extend(piece);
                // The oldest gets on, and some break after a few bytes.
                if under_way.len() > 3 || wanted.is_none() {
                    if under_way.is_empty() { break; }
                    let piece = under_way.remove(0);
                    let end = plan.advance(&piece, piece.range.start);
                    let done = end.min(piece.range.start.saturating_add(kept));
                    for byte in piece.range.start..done {
                        prop_assert!(fetched.insert(byte), "{byte} was fetched twice");
                    }
                    coverage.insert(piece.range.start..done);
                    plan.advance(&piece, done);
                    plan.done(&piece, &coverage);
                }
            }
            let missing: BTreeSet<u64> = (0..total).filter(|b| at_first.run_end(*b) == *b).collect();
            prop_assert_eq!(fetched, missing);
        }
    }
}
