//! `Range` requests (RFC 9110, section 14).

use std::ops::Range;

/// One range of bytes as a client asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=a-`
    From(u64),
    /// `bytes=a-b`, both included; `a <= b`.
    Between(u64, u64),
    /// `bytes=-n`: the last n bytes.
    Suffix(u64),
}

/// The range lies outside the content: 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("range not satisfiable")]
pub struct Unsatisfiable;

impl ByteRange {
    /// Parses a `Range` header with one range; `None` for anything else. A number above `u64::MAX` is read as
    /// `u64::MAX`: it is past the end of any content, and stays so.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut specs = Self::each(header)?;
        let spec = specs.next()?;
        if specs.next().is_some() {
            return None;
        }
        Self::parse_one(spec)
    }

    /// The ranges of a `Range` header, not parsed; `None` if their unit is another than bytes.
    pub(super) fn each(header: &str) -> Option<impl Iterator<Item = &str>> {
        let (unit, set) = header.split_once('=')?;
        // Range units compare without case (RFC 9110, section 14.1).
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        // A list may hold empty elements, which do not count (RFC 9110, section 5.6.1.2).
        Some(set.split(',').map(str::trim).filter(|s| !s.is_empty()))
    }

    /// Parses one range of a set.
    pub(super) fn parse_one(spec: &str) -> Option<Self> {
        match spec.split_once('-')? {
            ("", last) => number(last).map(Self::Suffix),
            (first, "") => number(first).map(Self::From),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Between(first, last))
            }
        }
    }

    /// True if a `Range` header names one range that ends before it begins.
    #[must_use]
    pub fn is_inverted(header: &str) -> bool {
        let mut specs = Self::each(header).into_iter().flatten();
        let (Some(spec), None) = (specs.next(), specs.next()) else {
            return false;
        };
        let ends = spec.split_once('-');
        let ends = ends.and_then(|(first, last)| number(first).zip(number(last)));
        ends.is_some_and(|(first, last)| first > last)
    }

    /// True if all that comes after its beginning is asked for, as those do who go on with a download
    /// that broke off. Who reads here and there names an end, or asks for so many of the last bytes.
    #[must_use]
    pub const fn completes(self) -> bool {
        matches!(self, Self::From(_))
    }

    /// The bytes meant in content of `total` bytes (never empty).
    ///
    /// # Errors
    /// [`Unsatisfiable`] when no byte of it exists.
    pub fn resolve(self, total: u64) -> Result<Range<u64>, Unsatisfiable> {
        let range = match self {
            Self::From(first) => first..total,
            Self::Between(first, last) => first..last.saturating_add(1).min(total),
            Self::Suffix(length) => total.saturating_sub(length)..total,
        };
        if range.is_empty() {
            return Err(Unsatisfiable);
        }
        Ok(range)
    }
}

/// Parses `Content-Range: bytes a-b/total` (total `None` for `*`); the range is half open.
/// `None` for anything that is not exactly that, such as the `bytes */total` of a 416.
#[must_use]
pub fn parse_content_range(header: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = header.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = rest.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, end) = (exact(first)?, exact(last)?.checked_add(1)?);
    let total = match total {
        "*" => None,
        total => Some(exact(total)?),
    };
    if first >= end || total.is_some_and(|total| end > total) {
        return None;
    }
    Some((first..end, total))
}

/// `1*DIGIT`, saturating.
fn number(text: &str) -> Option<u64> {
    is_digits(text).then(|| text.parse().unwrap_or(u64::MAX))
}

/// `1*DIGIT` that fits: what an upstream claims to send must be meant literally.
fn exact(text: &str) -> Option<u64> {
    is_digits(text).then(|| text.parse().ok()).flatten()
}

/// `str::parse` alone would take `+1`.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_or_ignored() {
        let max = u64::MAX;
        for (header, expected) in [
            ("bytes=0-", Some(ByteRange::From(0))),
            ("bytes=7-", Some(ByteRange::From(7))),
            ("bytes=0-0", Some(ByteRange::Between(0, 0))),
            ("bytes=3-9", Some(ByteRange::Between(3, 9))),
            ("bytes=-5", Some(ByteRange::Suffix(5))),
            ("bytes=-0", Some(ByteRange::Suffix(0))),
            ("Bytes=1-2", Some(ByteRange::Between(1, 2))),
            ("bytes= 1-2 ", Some(ByteRange::Between(1, 2))),
            ("bytes=,1-2,", Some(ByteRange::Between(1, 2))),
            ("bytes=99999999999999999999-", Some(ByteRange::From(max))),
            (
                "bytes=5-99999999999999999999",
                Some(ByteRange::Between(5, max)),
            ),
            ("bytes=-99999999999999999999", Some(ByteRange::Suffix(max))),
            ("bytes=9-3", None),
            ("bytes=0-1,5-6", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=1-+2", None),
            ("bytes=1--2", None),
            ("bytes=--2", None),
            ("bytes=1", None),
            ("bytes=1 - 2", None),
            ("bytes=٣-٤", None),
            ("items=0-1", None),
            ("bytes 0-1", None),
            ("0-1", None),
            ("", None),
        ] {
            assert_eq!(ByteRange::parse(header), expected, "{header:?}");
        }
    }

    #[test]
    fn ranges_resolve_as_rfc_9110_says() {
        for (range, total, expected) in [
            (ByteRange::From(0), 10, Ok(0..10)),
            (ByteRange::From(9), 10, Ok(9..10)),
            (ByteRange::From(10), 10, Err(Unsatisfiable)),
            (ByteRange::From(0), 0, Err(Unsatisfiable)),
            (ByteRange::Between(2, 4), 10, Ok(2..5)),
            (ByteRange::Between(2, 9), 10, Ok(2..10)),
            (ByteRange::Between(2, 10), 10, Ok(2..10)),
            (ByteRange::Between(2, u64::MAX), 10, Ok(2..10)),
            (ByteRange::Between(10, 12), 10, Err(Unsatisfiable)),
            (ByteRange::Suffix(3), 10, Ok(7..10)),
            (ByteRange::Suffix(10), 10, Ok(0..10)),
            (ByteRange::Suffix(11), 10, Ok(0..10)),
            (ByteRange::Suffix(0), 10, Err(Unsatisfiable)),
            (ByteRange::Suffix(1), 0, Err(Unsatisfiable)),
        ] {
            assert_eq!(range.resolve(total), expected, "{range:?} of {total}");
        }
    }

    #[test]
    fn content_ranges_are_read_exactly() {
        for (header, expected) in [
            ("bytes 0-9/100", Some((0..10, Some(100)))),
            ("bytes 90-99/100", Some((90..100, Some(100)))),
            ("bytes 0-9/*", Some((0..10, None))),
            ("BYTES 0-0/1", Some((0..1, Some(1)))),
            ("bytes 0-100/100", None),
            ("bytes 9-0/100", None),
            ("bytes */100", None),
            ("bytes 0-/100", None),
            ("bytes -9/100", None),
            ("bytes 0-9", None),
            ("bytes=0-9/100", None),
            ("items 0-9/100", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-9/99999999999999999999", None),
            ("bytes +0-9/100", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(header), expected, "{header:?}");
        }
    }

    fn any_range() -> impl Strategy<Value = ByteRange> {
        let number = prop_oneof![0..40u64, any::<u64>()];
        prop_oneof![
            number.clone().prop_map(ByteRange::From),
            number.clone().prop_map(ByteRange::Suffix),
            (number.clone(), number).prop_map(|(a, b)| ByteRange::Between(a.min(b), a.max(b))),
        ]
    }

    /// True if the byte at `offset` is asked for: the definition that `resolve` must agree with.
    fn wants(range: ByteRange, offset: u64, total: u64) -> bool {
        match range {
            ByteRange::From(first) => offset >= first,
            ByteRange::Between(first, last) => (first..=last).contains(&offset),
            ByteRange::Suffix(length) => total - offset <= length,
        }
    }

    proptest! {
        #[test]
        fn a_resolved_range_is_within_the_content_and_not_empty(range in any_range(), total in any::<u64>()) {
            if let Ok(bytes) = range.resolve(total) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= total);
            }
        }

        #[test]
        fn exactly_the_bytes_asked_for_are_resolved(range in any_range(), total in 0..50u64) {
            let resolved = range.resolve(total).unwrap_or(0..0);
            for offset in 0..total {
                prop_assert_eq!(resolved.contains(&offset), wants(range, offset, total), "offset {}", offset);
            }
        }

        #[test]
        fn parse_reads_what_is_printed(range in any_range()) {
            let text = match range {
                ByteRange::From(first) => format!("bytes={first}-"),
                ByteRange::Between(first, last) => format!("bytes={first}-{last}"),
                ByteRange::Suffix(length) => format!("bytes=-{length}"),
            };
            prop_assert_eq!(ByteRange::parse(&text), Some(range));
        }

        #[test]
        fn a_content_range_lies_within_its_total(text in "bytes [0-9]{1,3}-[0-9]{1,3}/([0-9]{1,3}|\\*)") {
            if let Some((range, total)) = parse_content_range(&text) {
                prop_assert!(range.start < range.end);
                prop_assert!(total.is_none_or(|total| range.end <= total));
            }
        }
    }
}
