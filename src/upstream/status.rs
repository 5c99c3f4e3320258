//! The meaning of an answer that is no success.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_ENCODING, DATE, HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::body::BlobBody;
use super::rate_limit::RETRY_AFTER_MAX;
use super::{FetchError, coding, rate_limit};
use crate::clock::{Clock, SystemClock};
use crate::net::Deadline;
use crate::net::HttpClient;

/// Turns an answer that is no success into an error. Its body is read, within a bound, for the error
/// code alone and so that the connection can be used again; it is never content.
///
/// `home`: the endpoint itself answered, not a host that it redirected to. What another host says of
/// permissions is about a signature that expired, not about us; that it is busy says nothing of the
/// endpoint, nor of a login there.
pub(super) async fn refusal(
    client: &HttpClient,
    response: Response<Incoming>,
    home: bool,
    deadline: Deadline,
) -> FetchError {
    let status = response.status();
    let said = retry_after(response.headers());
    let headers = response.headers().clone();
    let body = drain(client, response, deadline).await;
    let body = coding::plain("an error", &headers, body, ERROR_BODY_BYTES_MAX).await;
    let body = &*body.unwrap_or_default();
    match status {
        StatusCode::NOT_FOUND => FetchError::NotFound {
            code: error_code(body),
        },
        StatusCode::UNAUTHORIZED if home => FetchError::Unauthorized,
        StatusCode::FORBIDDEN if home => FetchError::Denied,
        StatusCode::TOO_MANY_REQUESTS if home => FetchError::RateLimited {
            retry_after: said.or_else(|| retry_after_text(body)),
        },
        // Overloaded, and it says for how long (RFC 9110 section 15.6.4): asking earlier is no use.
        StatusCode::SERVICE_UNAVAILABLE if home => match said {
            Some(wait) if wait > Duration::ZERO => FetchError::Unavailable {
                retry_after: wait.min(UNAVAILABLE_MAX),
            },
            Some(_) | None => FetchError::Status(status.as_u16()),
        },
        StatusCode::RANGE_NOT_SATISFIABLE => FetchError::RangeNotSatisfiable,
        other => FetchError::Status(other.as_u16()),
    }
}

/// Reads what is left of an answer that is not needed, within a bound: hyper closes a connection whose
/// answer was not read to its end, and the next request would pay for a new one.
pub(super) async fn drain(
    client: &HttpClient,
    response: Response<Incoming>,
    deadline: Deadline,
) -> bytes::Bytes {
    BlobBody::new(client, response, DRAIN_TIMEOUT)
        .whole(
            "an error",
            ERROR_BODY_BYTES_MAX,
            deadline.at_most(DRAIN_TIMEOUT),
        )
        .await
        .unwrap_or_default()
}

/// Refuses an answer in an encoding that was not asked for: its digest and size are not the content's.
///
/// # Errors
/// [`FetchError::Protocol`].
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), FetchError> {
    let identity = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|value| value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if identity {
        Ok(())
    } else {
        let why = "a Content-Encoding, though identity was asked for";
        Err(FetchError::Protocol(why.to_owned()))
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date. A date is compared with the answer's own
/// `Date`, if there is one, so that a wrong clock here does no harm.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let then = httpdate::parse_http_date(text).ok()?;
    let now = date(headers)
        .unwrap_or_else(|| std::time::UNIX_EPOCH + Duration::from_millis(SystemClock.now().0));
    let wait = then.duration_since(now).unwrap_or_default();
    Some(wait.min(RETRY_AFTER_MAX))
}

/// When the answer was made, by its own clock.
pub(super) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok()
}

/// The code of the first error in the spec's envelope (dist-spec, "Error codes").
fn error_code(body: &[u8]) -> Option<String> {
    let envelope: serde_json::Value = serde_json::from_slice(body).ok()?;
    let code = envelope.get("errors")?.get(0)?.get("code")?.as_str()?;
    let sane = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let fits = !code.is_empty() && code.len() <= ERROR_CODE_BYTES_MAX;
    (fits && code.bytes().all(sane)).then(|| code.to_owned())
}

/// The wait that an error's text names (GHCR).
pub(super) fn retry_after_text(body: &[u8]) -> Option<Duration> {
    // As JSON the text may hold `\u00b5`; some proxies give the bare text.
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|envelope| {
            let message = envelope.get("errors")?.get(0)?.get("message")?;
            message.as_str().map(str::to_owned)
        });
    match message {
        Some(message) => rate_limit::retry_after_in(&message),
        None => rate_limit::retry_after_in(std::str::from_utf8(body).ok()?),
    }
}

/// An envelope is a few hundred bytes; HTML error pages are larger, and only read past.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest time that an unneeded body may hold up the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest code in the specification has 25 characters.
const ERROR_CODE_BYTES_MAX: usize = 64;
/// An overloaded server is backed off from no longer than this, whatever it says: a page of a balancer that
/// is being worked on often says a day, and comes while one of many servers is away.
const UNAVAILABLE_MAX: Duration = Duration::from_mins(1);
#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn retry_after_comes_in_two_forms() {
        let date = |value| (DATE, value);
        let after = |value| (RETRY_AFTER, value);
        let cases = [
            (headers(&[after("120")]), Some(120)),
            (headers(&[after("0")]), Some(0)),
            (headers(&[after("99999999999")]), Some(24 * 3600)),
            (
                headers(&[
                    after("Wed, 21 Oct 2015 07:28:30 GMT"),
                    date("Wed, 21 Oct 2015 07:28:00 GMT"),
                ]),
                Some(30),
            ),
            // Long past, by our own clock.
            (headers(&[after("Wed, 21 Oct 2015 07:28:30 GMT")]), Some(0)),
            (headers(&[after("soon")]), None),
            (headers(&[]), None),
        ];
        for (headers, seconds) in cases {
            assert_eq!(
                retry_after(&headers),
                seconds.map(Duration::from_secs),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn only_identity_is_taken() {
        assert!(check_encoding(&headers(&[])).is_ok());
        assert!(check_encoding(&headers(&[(CONTENT_ENCODING, "Identity")])).is_ok());
        for other in ["gzip", "zstd", "identity, gzip"] {
            assert!(check_encoding(&headers(&[(CONTENT_ENCODING, other)])).is_err());
        }
    }

    #[test]
    fn the_error_code_is_taken_from_an_envelope_only() {
        let code = |text: &str| error_code(text.as_bytes());
        let envelope = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"x"},{"code":"B"}]}"#;
        assert_eq!(code(envelope).as_deref(), Some("NAME_UNKNOWN"));
        for other in [
            "",
            "<html>",
            "{}",
            r#"{"errors":[]}"#,
            r#"{"errors":[{"code":"a b"}]}"#,
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }
}
