//! `Range` requests (RFC 9110, section 14).

use std::ops::Range;

/// One range of bytes as a client asks for it. Several ranges in one request are not supported
/// and are ignored, as RFC 9110 section 14.2 allows.
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
    /// Parses a `Range` header; `None` when it must be ignored (another unit, several ranges, not
    /// a range at all).
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        todo!()
    }

    /// The bytes meant in content of `total` bytes (never empty).
    ///
    /// # Errors
    /// [`Unsatisfiable`] when no byte of it exists.
    pub fn resolve(self, total: u64) -> Result<Range<u64>, Unsatisfiable> {
        todo!()
    }
}

/// Parses `Content-Range: bytes a-b/total` (total `None` for `*`); the range is half open.
#[must_use]
pub fn parse_content_range(header: &str) -> Option<(Range<u64>, Option<u64>)> {
    todo!()
}
