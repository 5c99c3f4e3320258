//! The part of a blob that an answer holds, compared with the part that was asked for.

use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderMap};

use super::FetchError;
use super::headers::content_length;
use crate::oci::range::parse_content_range;

/// The part of a blob that an answer holds.
pub(super) struct Extent {
    /// Of the first byte.
    pub(super) offset: u64,
    /// The size of the whole blob.
    pub(super) total: Option<u64>,
    /// True if it is the part that was asked for. A 200 to a Range is the whole.
    pub(super) ranged: bool,
}

/// The part that an answer holds to a request for these bytes, or for all.
///
/// # Errors
/// [`FetchError::Protocol`]: it is neither what was asked for nor the whole, or contradicts itself.
pub(super) fn extent(
    status: StatusCode,
    headers: &HeaderMap,
    asked: Option<(u64, Option<u64>)>,
) -> Result<Extent, FetchError> {
    // RFC 9110 section 14.2: a server may ignore Range.
    if status == StatusCode::OK {
        return Ok(Extent {
            offset: 0,
            total: content_length(headers),
            ranged: false,
        });
    }
    let (range, total) = headers
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(parse_content_range)
        .ok_or_else(|| nonsense("status 206 without a usable Content-Range"))?;
    let Some((start, _)) = asked
        .filter(|(start, end)| range.start == *start && end.is_none_or(|end| range.end <= end))
    else {
        return Err(nonsense("another range than the one asked for"));
    };
    let length = range.end.saturating_sub(range.start);
    if content_length(headers).is_some_and(|said| said != length) {
        return Err(nonsense("Content-Length and Content-Range do not agree"));
    }
    Ok(Extent {
        offset: start,
        total,
        ranged: true,
    })
}

/// The answer makes no sense.
pub(super) fn nonsense(why: &str) -> FetchError {
    FetchError::Protocol(why.to_owned())
}
