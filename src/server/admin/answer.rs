//! The answers of the operator's listener.

use crate::server::http::JSON;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use serde::Serialize;
use std::convert::Infallible;

/// The body of an answer: ready, or coming.
pub(crate) type AdminBody = UnsyncBoxBody<Bytes, Infallible>;

/// Anything, as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<AdminBody> {
    let text = serde_json::to_vec(value).unwrap_or_default();
    full(with_type(status, JSON, text))
}

/// An answer whose body is ready.
pub(super) fn full(response: Response<Full<Bytes>>) -> Response<AdminBody> {
    response.map(BodyExt::boxed_unsync)
}

/// The answer to HEAD: the same without its body, whose length stays in the head (RFC 9110 section 9.3.2).
pub(super) fn head_of(response: Response<AdminBody>) -> Response<AdminBody> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        let length = HeaderValue::from(length);
        head.headers.insert(header::CONTENT_LENGTH, length);
    }
    Response::from_parts(head, Empty::new().boxed_unsync())
}

/// An answer of this type.
pub(super) fn with_type(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    // Health, metrics and what is stored are of the moment.
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    response
}
