//! Several ranges in one request (RFC 9110, sections 14.2 and 15.3.7.2).

use std::ops::Range;

use super::range::{ByteRange, Unsatisfiable};

/// The most ranges that one request may name. Clients that pull zstd:chunked layers in part (podman, CRI-O, bootc) merge
/// what they lack until it is no more than this (containers/storage, `maxNumberMissingChunks`).
pub const RANGES_MAX: usize = 1024;

/// The ranges that a client asks for, in its order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteRanges(Vec<ByteRange>);

/// One part of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The bytes, never none.
    pub range: Range<u64>,
    /// The range as it was asked for.
    pub asked: ByteRange,
}

impl ByteRanges {
    /// Parses a `Range` header; `None` when it must be ignored: another unit, one that is not a range, more than
    /// [`RANGES_MAX`].
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let ranges: Option<Vec<ByteRange>> = ByteRange::each(header)?
            .take(RANGES_MAX + 1)
            .map(ByteRange::parse_one)
            .collect();
        let ranges = ranges.filter(|ranges| (1..=RANGES_MAX).contains(&ranges.len()))?;
        Some(Self(ranges))
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> Option<ByteRange> {
        self.0.first().copied()
    }

    /// The parts of content of `total` bytes, in the client's order. Those that overlap are one: nobody gets a byte
    /// twice, so that an answer is never larger than the content and its frame. Those that only touch are not:
    /// containers/image counts the parts, and takes nothing but as many as it asked for.
    ///
    /// # Errors
    /// [`Unsatisfiable`] when no byte of any exists.
    pub fn resolve(&self, total: u64) -> Result<Vec<Part>, Unsatisfiable> {
        let parts = self.0.iter().filter_map(|asked| {
            let range = asked.resolve(total).ok()?;
            let asked = *asked;
            Some(Part { range, asked })
        });
        let mut parts: Vec<(usize, Part)> = parts.enumerate().collect();
        parts.sort_by_key(|(_, part)| part.range.start);
        let mut merged: Vec<(usize, Part)> = Vec::with_capacity(parts.len());
        for (place, part) in parts {
            match merged.last_mut() {
                Some((first, before)) if part.range.start < before.range.end => {
                    *first = place.min(*first);
                    before.take_in(&part);
                }
                Some(_) | None => merged.push((place, part)),
            }
        }
        if merged.is_empty() {
            return Err(Unsatisfiable);
        }
        merged.sort_by_key(|(place, _)| *place);
        Ok(merged.into_iter().map(|(_, part)| part).collect())
    }
}

impl Part {
    /// Number of bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Becomes one with another that overlaps it, and begins no earlier.
    fn take_in(&mut self, other: &Self) {
        let end = other.range.end.max(self.range.end);
        self.range.end = end;
        let last = ByteRange::Between(self.range.start, end.saturating_sub(1));
        self.asked = match (self.asked, other.asked) {
            // Whoever wants all from somewhere on may complete a download with it.
            (ByteRange::From(_), _) | (_, ByteRange::From(_)) => ByteRange::From(self.range.start),
            (suffix @ ByteRange::Suffix(_), _) | (_, suffix @ ByteRange::Suffix(_)) => suffix,
            (ByteRange::Between(..), ByteRange::Between(..)) => last,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved(header: &str, total: u64) -> Option<Vec<Range<u64>>> {
        let parts = ByteRanges::parse(header)?.resolve(total).ok()?;
        Some(parts.into_iter().map(|part| part.range).collect())
    }

    #[allow(
        clippy::single_range_in_vec_init,
        reason = "a part is a range, and there may be one"
    )]
    #[test]
    fn parts_are_in_the_clients_order_and_those_that_overlap_are_one() {
        for (header, expected) in [
            ("bytes=0-1,5-9", Some(vec![0..2, 5..10])),
            ("bytes=5-9,0-1", Some(vec![5..10, 0..2])),
            ("bytes=0-4,5-9", Some(vec![0..5, 5..10])),
            ("bytes=0-5,5-9", Some(vec![0..10])),
            ("bytes=50-60,0-1,55-70", Some(vec![50..71, 0..2])),
            ("bytes=0-1,50-60,55-70,58-59", Some(vec![0..2, 50..71])),
            ("bytes=0-9,-10", Some(vec![0..10, 90..100])),
            ("bytes=-10,95-", Some(vec![90..100])),
            ("bytes=0-1,200-300", Some(vec![0..2])),
            ("bytes= 0-1 ,, 5-9 ,", Some(vec![0..2, 5..10])),
            ("bytes=0-1,7", None),
            ("bytes=0-1,9-5", None),
            ("bytes=100-,200-300", None),
            ("bytes=", None),
        ] {
            assert_eq!(resolved(header, 100), expected, "{header}");
        }
    }

    #[test]
    fn how_they_were_asked_for_outlives_a_merge() {
        let asked = |header: &str| {
            let parts = ByteRanges::parse(header).unwrap().resolve(100).unwrap();
            parts.first().unwrap().asked
        };
        assert_eq!(asked("bytes=0-50,40-60"), ByteRange::Between(0, 60));
        assert_eq!(asked("bytes=0-95,90-"), ByteRange::From(0));
        assert_eq!(asked("bytes=0-95,-10"), ByteRange::Suffix(10));
    }

    #[test]
    fn there_is_a_bound() {
        let header = |count: usize| {
            let ranges: Vec<String> = (0..count).map(|at| format!("{0}-{0}", at * 10)).collect();
            format!("bytes={}", ranges.join(","))
        };
        let most = resolved(&header(RANGES_MAX), 1 << 20).unwrap();
        assert_eq!(most.len(), RANGES_MAX);
        assert_eq!(ByteRanges::parse(&header(RANGES_MAX + 1)), None);
    }

    proptest! {
        #[test]
        fn each_byte_asked_for_is_given_once(
            asked in proptest::collection::vec((0u64..120, 0u64..40), 1..20),
        ) {
            let specs: Vec<String> = asked.iter().map(|(a, n)| format!("{a}-{}", a + n)).collect();
            let mut wanted = vec![0; 100];
            for (first, more) in &asked {
                for byte in *first..=(first + more) {
                    if let Some(wanted) = wanted.get_mut(usize::try_from(byte).unwrap()) {
                        *wanted = 1;
                    }
                }
            }
            let mut given = vec![0; 100];
            for range in resolved(&format!("bytes={}", specs.join(",")), 100).unwrap_or_default() {
                for byte in range {
                    given[usize::try_from(byte).unwrap()] += 1;
                }
            }
            prop_assert_eq!(given, wanted);
        }
    }
}
