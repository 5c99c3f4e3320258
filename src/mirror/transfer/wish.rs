//! The part of a blob that is wanted first (pure).

use std::ops::Range;

use crate::oci::ByteRange;

/// So much is asked for at the place where the first reader wants to begin, while it is not known how
/// much there is. Then the rest can be planned.
const FIRST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The treatment of a blob of which a part was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FillOnRange {
    /// The rest is fetched too, behind it.
    #[default]
    Always,
    /// Only what is read is fetched.
    Never,
    /// The rest is fetched once more than this part of it is there, in percent.
    Over(u8),
}

impl FillOnRange {
    /// The piece to ask for first, of a blob of unknown size, for a reader of this range; `None`: all of it.
    pub(super) fn first_piece(self, range: Range<u64>) -> Option<Range<u64>> {
        if self == Self::Always && range.start == 0 {
            return None;
        }
        let enough = range.start.saturating_add(FIRST_BYTES_MAX);
        Some(range.start..range.end.min(enough))
    }
}

/// Facts about a blob before it is fetched, and the part of it that is wanted first.
pub(super) struct Wanted {
    /// Its size, as a manifest or the upstream said.
    pub(super) expected: Option<u64>,
    /// True if the upstream itself said that the repository has it.
    pub(super) given: bool,
    pub(super) first: First,
}

/// The wish of the reader for whom a fill is begun.
pub(super) struct First {
    /// The bytes, if not all of them; the end is `u64::MAX` where none is named.
    pub(super) part: Option<Range<u64>>,
    /// True if it takes the whole blob to give it those.
    pub(super) everything: bool,
}

impl First {
    /// The wish of a request that asks for this range of a blob of which a manifest has said the size, or
    /// not.
    pub(super) fn of(asked: Option<ByteRange>, total: Option<u64>) -> Self {
        let part = match (asked, total) {
            (Some(asked), Some(total)) => asked.resolve(total).ok(),
            (Some(ByteRange::From(first)), None) => Some(first..u64::MAX),
            (Some(ByteRange::Between(first, last)), None) => Some(first..last.saturating_add(1)),
            (Some(ByteRange::Suffix(_)) | None, None) | (None, Some(_)) => None,
        };
        let part = part.filter(|part| part.start > 0 || part.end < total.unwrap_or(u64::MAX));
        let everything = part.is_none() || asked.is_some_and(ByteRange::completes);
        Self { part, everything }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fill_is_begun_for() {
        let max = u64::MAX;
        let cases = [
            (None, Some(100), None, true),
            (None, None, None, true),
            (Some(ByteRange::From(0)), Some(100), None, true),
            (Some(ByteRange::From(7)), Some(100), Some(7..100), true),
            (Some(ByteRange::From(7)), None, Some(7..max), true),
            (Some(ByteRange::From(100)), Some(100), None, true),
            (Some(ByteRange::Between(0, 99)), Some(100), None, true),
            (
                Some(ByteRange::Between(0, 9)),
                Some(100),
                Some(0..10),
                false,
            ),
            (Some(ByteRange::Between(0, 9)), None, Some(0..10), false),
            (
                Some(ByteRange::Between(90, 200)),
                Some(100),
                Some(90..100),
                false,
            ),
            (Some(ByteRange::Suffix(5)), Some(100), Some(95..100), false),
            (Some(ByteRange::Suffix(200)), Some(100), None, true),
            (Some(ByteRange::Suffix(5)), None, None, true),
        ];
        for (asked, total, part, everything) in cases {
            let first = First::of(asked, total);
            assert_eq!(first.part, part, "{asked:?} of {total:?}");
            assert_eq!(first.everything, everything, "{asked:?} of {total:?}");
        }
    }
}
