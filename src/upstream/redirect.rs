//! Redirects (RFC 9110 section 15.4): where an answer that lies elsewhere is fetched from.
//!
//! `Authorization` never leaves the endpoint's own scheme, host and port (dist-spec, "Pulling blobs";
//! S3 answers 400 to a second kind of authorization). Targets are signed URLs that expire: they are
//! used once, never kept, and never named in an error. Where they lie is looked at when they are dialled
//! (`client/gate`).

use http::header::LOCATION;
use http::{HeaderMap, StatusCode, Uri};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode, utf8_percent_encode};
use url::Url;

use super::{FetchError, realm};

/// Redirects followed for one request. Registries use one or two; containerd and curl allow 10 and 50.
pub(super) const REDIRECTS_MAX: usize = 8;

/// The URL to which an answer to a GET or HEAD of the last of `visited` points; `None` when it is no redirect.
///
/// # Errors
/// [`FetchError::Protocol`] when the target is missing, no place to go, or one where we have been.
pub(super) fn target(
    status: StatusCode,
    headers: &HeaderMap,
    visited: &[Url],
    endpoint: &Url,
) -> Result<Option<Url>, FetchError> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let wrong = |why: &str| FetchError::Protocol(format!("bad redirect: {why}"));
    let current = visited.last().unwrap_or(endpoint);
    let location = headers.get(LOCATION).ok_or_else(|| wrong("no Location"))?;
    // What is not ASCII is sent as it is written, byte by byte, as curl and Go's clients do.
    let location = percent_encode(location.as_bytes(), NOT_ASCII).to_string();
    let mut next = current.join(&location).map_err(|_| wrong("not a URL"))?;
    next.set_fragment(None);
    match next.scheme() {
        "https" => {}
        // The bytes are checked by digest, but a tag's manifest is not, and a URL's signature would be read.
        "http" if endpoint.scheme() == "http" => {}
        "http" => return Err(wrong("from https to http")),
        _ => return Err(wrong("neither http nor https")),
    }
    if realm::has_user_info(&next) {
        return Err(wrong("it holds user info"));
    }
    if visited.contains(&next) {
        return Err(wrong("in a circle"));
    }
    if visited.len() > REDIRECTS_MAX {
        return Err(wrong("too many"));
    }
    Ok(Some(next))
}

/// A URL as it is sent: some characters that a URL may hold, a request may not.
///
/// # Errors
/// [`FetchError::Protocol`].
pub(super) fn uri(url: &Url) -> Result<Uri, FetchError> {
    Uri::try_from(url.as_str())
        .or_else(|_| Uri::try_from(utf8_percent_encode(url.as_str(), UNSENDABLE).to_string()))
        .map_err(|_| FetchError::Protocol("bad redirect: not a URI".to_owned()))
}

/// No more than this: all else is encoded already where it must be, or means something. The bytes above ASCII
/// are always encoded.
const NOT_ASCII: &AsciiSet = &AsciiSet::EMPTY;
/// Characters that RFC 3986 leaves to no URI, less the brackets of an address.
const UNSENDABLE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn follow(endpoint: &str, location: impl AsRef<[u8]>) -> Result<Option<String>, FetchError> {
        let location = location.as_ref();
        let endpoint = Url::parse(endpoint).unwrap();
        let visited = [endpoint.join("/v2/a/blobs/x?y=1").unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_bytes(location).unwrap());
        let next = target(StatusCode::FOUND, &headers, &visited, &endpoint)?;
        Ok(next.map(String::from))
    }

    #[test]
    fn locations_are_resolved_against_the_current_url() {
        let from = "https://r.example:8443";
        let cases = [
            ("/b?c=d%2Fe", "https://r.example:8443/b?c=d%2Fe"),
            ("z", "https://r.example:8443/v2/a/blobs/z"),
            ("//cdn.example/b", "https://cdn.example/b"),
            (
                "https://cdn.example/b?sig=%2B%3D#f",
                "https://cdn.example/b?sig=%2B%3D",
            ),
        ];
        for (location, next) in cases {
            assert_eq!(
                follow(from, location),
                Ok(Some(next.to_owned())),
                "{location}"
            );
        }
        assert!(follow("http://r.example", "http://cdn.example/").is_ok());
        assert!(follow("http://r.example", "https://cdn.example/").is_ok());
    }

    #[test]
    fn what_no_url_may_hold_is_encoded_and_followed() {
        let cases: [(&[u8], &str); 6] = [
            ("/b/é?c=ü".as_bytes(), "/b/%C3%A9?c=%C3%BC"),
            // Latin-1, as it is
            (b"/b/\xe9", "/b/%E9"),
            (b"/a b?c d", "/a%20b?c%20d"),
            (b"/%C3%A9/%2F", "/%C3%A9/%2F"),
            (b"/a|b^c?d|e^f{g}`h", "/a|b^c?d|e^f{g}`h"),
            (
                "https://bücher.example/ä".as_bytes(),
                "https://xn--bcher-kva.example/%C3%A4",
            ),
        ];
        for (location, next) in cases {
            let followed = follow("https://r.example", location).unwrap().unwrap();
            let followed = followed
                .strip_prefix("https://r.example")
                .unwrap_or(&followed);
            assert_eq!(followed, next, "{}", String::from_utf8_lossy(location));
        }
        // Whatever printable character there is, it can be asked for.
        for character in ' '..='~' {
            for location in [format!("/a{character}b"), format!("/a?b{character}c")] {
                let next = follow("https://r.example", &location).unwrap().unwrap();
                let uri = uri(&Url::parse(&next).unwrap());
                assert!(uri.is_ok(), "{location}: {next}");
            }
        }
    }

    #[test]
    fn bad_targets_are_refused_without_naming_them() {
        for bad in [
            "http://cdn.example/secret",
            "ftp://cdn.example/secret",
            "https://u:secret@cdn.example/",
            "https://[/secret",
            "/v2/a/blobs/x?y=1",
        ] {
            let error = follow("https://r.example", bad).unwrap_err();
            assert!(matches!(error, FetchError::Protocol(_)), "{bad}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn only_the_five_statuses_are_redirects() {
        let endpoint = Url::parse("https://r.example").unwrap();
        for status in [200, 206, 300, 304, 305, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(target(status, &HeaderMap::new(), &[], &endpoint), Ok(None));
        }
        for status in [301, 302, 303, 307, 308] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(target(status, &HeaderMap::new(), &[], &endpoint).is_err());
        }
    }
}
