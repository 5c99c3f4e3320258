//! HTTP, whatever the request is for: its context, conditions and ranges, errors, bodies, the access log.

use http::HeaderValue;

pub(super) mod access_log;
pub(super) mod account;
pub(super) mod body;
pub(super) mod conditions;
pub(super) mod context;
pub(super) mod error;
pub(super) mod forwarded;
pub(super) mod host;
pub(super) mod multipart;
pub(super) mod reason;
pub(super) mod request_id;
pub(super) mod request_span;
pub(super) mod whole;

/// The type of all JSON that is roadstead's own.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
