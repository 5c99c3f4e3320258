//! Headers of an upstream's answers, read with care.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, WARNING};

use crate::oci::{Digest, media_type};

/// `Content-Length`, when there is exactly one sane value.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    // `parse` alone would take a leading `+`.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    media_type::essence(value).map(str::to_owned)
}

pub(super) fn digest(headers: &HeaderMap) -> Option<Digest> {
    text(headers, &CONTENT_DIGEST).and_then(|text| Digest::parse(&text).ok())
}

/// `Warning: 299 …` (dist-spec, "Warnings").
pub(super) fn warnings(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(WARNING).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .filter(|value| value.starts_with("299 ") && value.len() <= HEADER_BYTES_MAX)
        .take(WARNINGS_MAX)
        .map(str::to_owned)
        .collect()
}

/// A strong entity tag (RFC 9110 section 8.8.3). A weak one says nothing of bytes.
pub(super) fn etag(headers: &HeaderMap) -> Option<String> {
    text(headers, &ETAG).filter(|tag| tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'))
}

/// A header's text, unless it is absurdly long.
pub(super) fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= HEADER_BYTES_MAX).then(|| value.to_owned())
}

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

pub(super) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Values that are kept or passed on: digests, media types, warnings are far shorter.
const HEADER_BYTES_MAX: usize = 1024;

/// Warnings passed on from one manifest.
const WARNINGS_MAX: usize = 8;
