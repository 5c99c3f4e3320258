//! Redirects (RFC 9110 section 15.4): where an answer that lies elsewhere is fetched from.
//!
//! `Authorization` never leaves the endpoint's own scheme, host and port (dist-spec, "Pulling blobs";
//! S3 answers 400 to a second kind of authorization). Targets are signed URLs that expire: they are
//! used once, never kept, and never named in an error.

use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use url::Url;

use super::{FetchError, realm};

/// Redirects followed for one request. Registries use one or two; containerd and curl allow 10 and 50.
pub(super) const REDIRECTS_MAX: usize = 8;

/// Where an answer to a GET or HEAD of the last of `visited` points; `None` when it is no redirect.
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
    let location = headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| wrong("no Location"))?;
    let mut next = current.join(location).map_err(|_| wrong("not a URL"))?;
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
    if !realm::redirect_allowed(&next, endpoint) {
        return Err(wrong("to a link-local address"));
    }
    if visited.contains(&next) {
        return Err(wrong("in a circle"));
    }
    if visited.len() > REDIRECTS_MAX {
        return Err(wrong("too many"));
    }
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn follow(endpoint: &str, location: &str) -> Result<Option<String>, FetchError> {
        let endpoint = Url::parse(endpoint).unwrap();
        let visited = [endpoint.join("/v2/a/blobs/x?y=1").unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(location).unwrap());
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
    fn bad_targets_are_refused_without_naming_them() {
        for bad in [
            "http://cdn.example/secret",
            "ftp://cdn.example/secret",
            "https://u:secret@cdn.example/",
            "https://169.254.169.254/secret",
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
