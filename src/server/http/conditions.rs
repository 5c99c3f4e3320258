//! Conditional and range requests (RFC 9110 sections 13 and 14). The only validator is the digest,
//! as a strong entity tag.

use crate::oci::{ByteRanges, Part};
use http::{HeaderMap, HeaderValue, header};

/// The part of some content with which a GET is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it: 200.
    Whole,
    /// These bytes: 206.
    Part(Part),
    /// These, each in its own part of the body: 206 with `multipart/byteranges`.
    Parts(Vec<Part>),
    /// None of what was asked for exists: 416.
    Unsatisfiable,
}

/// The conditional and range headers of a request.
#[derive(Debug)]
pub(crate) struct Conditions<'a> {
    /// The tags of `If-None-Match`, without marks of weakness: it compares weakly (RFC 9110 section 13.1.2).
    none_match: Vec<&'a str>,
    /// `Range`, if it is one of bytes.
    ranges: Option<ByteRanges>,
    /// `If-Range`.
    if_range: Option<&'a HeaderValue>,
}

impl<'a> Conditions<'a> {
    /// Those of a request.
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let none_match = headers.get_all(header::IF_NONE_MATCH).iter();
        let none_match = none_match
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
        let range = headers.get(header::RANGE);
        Self {
            none_match: none_match.collect(),
            ranges: range.and_then(|range| ByteRanges::parse(range.to_str().ok()?)),
            if_range: headers.get(header::IF_RANGE),
        }
    }

    /// True if the client has the content with this digest already (`If-None-Match`): 304.
    pub(crate) fn client_has(&self, digest: &str) -> bool {
        let mut tags = self.none_match.iter();
        tags.any(|tag| *tag == "*" || is_tag(tag, digest))
    }

    /// The ranges asked for, whatever comes of them when it is known how long the content is.
    pub(crate) fn ranges(&self) -> Option<&ByteRanges> {
        self.ranges.as_ref()
    }

    /// The part that `Range` and `If-Range` select of `total` bytes with this digest. Without a total there is no
    /// telling what a range means, and the whole is the right answer (RFC 9110 section 14.2: a server may ignore it).
    pub(crate) fn select(&self, digest: &str, total: Option<u64>) -> Selection {
        let (Some(total), Some(ranges)) = (total, &self.ranges) else {
            return Selection::Whole;
        };
        if let Some(condition) = self.if_range {
            // A weak tag or a date never matches: section 13.1.5 asks for the strong comparison, and no
            // answer carried a date.
            let same = condition.to_str().is_ok_and(|tag| is_tag(tag, digest));
            if !same {
                return Selection::Whole;
            }
        }
        match ranges.resolve(total) {
            Ok(mut parts) => match parts.pop() {
                Some(only) if parts.is_empty() => Selection::Part(only),
                Some(last) => {
                    parts.push(last);
                    Selection::Parts(parts)
                }
                None => Selection::Unsatisfiable,
            },
            Err(_) => Selection::Unsatisfiable,
        }
    }
}

/// True if this strong entity tag is the digest's. Some clients leave the quotes away, and
/// distribution takes that too.
fn is_tag(tag: &str, digest: &str) -> bool {
    let bare = tag
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(tag);
    bare == digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::ByteRange;
    use std::ops::Range;

    fn part(range: Range<u64>, asked: ByteRange) -> Selection {
        Selection::Part(Part { range, asked })
    }

    const DIGEST: &str = "sha256:aa";

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn if_none_match() {
        let cases = [
            ("\"sha256:aa\"", true),
            ("W/\"sha256:aa\"", true),
            ("sha256:aa", true),
            ("*", true),
            ("\"sha256:bb\", \"sha256:aa\"", true),
            ("\"sha256:bb\"", false),
            ("\"sha256:a\"", false),
            ("", false),
        ];
        for (tags, expected) in cases {
            let headers = headers(&[(header::IF_NONE_MATCH, tags)]);
            assert_eq!(
                Conditions::of(&headers).client_has(DIGEST),
                expected,
                "{tags}"
            );
        }
        assert!(!Conditions::of(&HeaderMap::new()).client_has(DIGEST));
    }

    #[test]
    fn ranges_of_a_known_total() {
        let cases = [
            ("bytes=0-9", part(0..10, ByteRange::Between(0, 9))),
            ("bytes=90-", part(90..100, ByteRange::From(90))),
            ("bytes=-5", part(95..100, ByteRange::Suffix(5))),
            ("bytes=90-1000", part(90..100, ByteRange::Between(90, 1000))),
            ("bytes=100-", Selection::Unsatisfiable),
            ("bytes=100-,200-", Selection::Unsatisfiable),
            ("bytes=0-1,200-", part(0..2, ByteRange::Between(0, 1))),
            ("bytes=0-1,5-2", Selection::Whole),
            ("items=0-1", Selection::Whole),
        ];
        for (range, expected) in cases {
            let headers = headers(&[(header::RANGE, range)]);
            assert_eq!(
                Conditions::of(&headers).select(DIGEST, Some(100)),
                expected,
                "{range}"
            );
        }
        assert_eq!(
            Conditions::of(&HeaderMap::new()).select(DIGEST, Some(100)),
            Selection::Whole
        );
    }

    #[test]
    fn a_range_of_an_unknown_total_is_ignored() {
        let headers = headers(&[(header::RANGE, "bytes=5-")]);
        assert_eq!(
            Conditions::of(&headers).select(DIGEST, None),
            Selection::Whole
        );
    }

    #[test]
    fn if_range_holds_only_for_the_same_strong_tag() {
        let cases = [
            ("\"sha256:aa\"", part(5..100, ByteRange::From(5))),
            ("\"sha256:bb\"", Selection::Whole),
            ("W/\"sha256:aa\"", Selection::Whole),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Selection::Whole),
        ];
        for (condition, expected) in cases {
            let headers = headers(&[(header::RANGE, "bytes=5-"), (header::IF_RANGE, condition)]);
            assert_eq!(
                Conditions::of(&headers).select(DIGEST, Some(100)),
                expected,
                "{condition}"
            );
        }
    }
}
