//! What the answers of the admin API have in common.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;

/// The body of an answer: at hand, or coming.
pub(crate) type AdminBody = UnsyncBoxBody<Bytes, Infallible>;

/// What a request that changes something must bring. A page in a browser cannot send it to another site
/// without being asked first (CORS preflight), which is always refused here.
const DELIBERATE: HeaderName = HeaderName::from_static("x-roadstead-admin");

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An error, for whoever reads it.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

/// An answer that is an error, in a box because it is large.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Box<Response<AdminBody>>);

impl Refused {
    /// Why not, in words.
    pub(crate) fn new(status: StatusCode, why: &str) -> Self {
        Self(Box::new(refusal(status, why)))
    }
}

/// Whether a request brings it.
pub(crate) fn is_deliberate(headers: &HeaderMap) -> bool {
    headers.get(DELIBERATE).is_some_and(|value| value == "1")
}

/// What the value of a parameter says that is given or not; none: it says neither.
pub(crate) fn flag(value: &str) -> Option<bool> {
    match value {
        "false" | "0" => Some(false),
        "true" | "1" | "" => Some(true),
        _ => None,
    }
}

/// The refusal of a request that changes something and may be a browser's.
pub(crate) fn unless_deliberate(headers: &HeaderMap) -> Result<(), Refused> {
    if is_deliberate(headers) {
        return Ok(());
    }
    let why = "what changes something needs the header X-Roadstead-Admin: 1";
    Err(Refused::new(StatusCode::FORBIDDEN, why))
}

/// An error, as JSON.
pub(crate) fn refusal(status: StatusCode, error: &str) -> Response<AdminBody> {
    json(status, &Refusal { error })
}

/// Anything, as JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<AdminBody> {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = full(Response::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer whose body is at hand.
pub(crate) fn full(response: Response<Full<Bytes>>) -> Response<AdminBody> {
    response.map(BodyExt::boxed_unsync)
}
