//! Token servers (`realm`) that an upstream may name, and the credentials for them.
//!
//! Their address is checked when they are dialled (`client/gate`): they are not asked further inside than
//! the endpoint is.

use url::Url;

use super::FetchError;
use crate::net::Place;

/// Parses and checks the realm of a challenge that `endpoint` made.
///
/// It must be http or https without user info, and must not leave https for http. Credentials go to another host only
/// over https (as Docker Hub needs: `auth.docker.io`) or from loopback to loopback.
///
/// # Errors
/// [`FetchError::Protocol`], saying which rule was broken.
pub(super) fn check(realm: &str, endpoint: &Url, credentials: bool) -> Result<Url, FetchError> {
    let refused = |why: &str| FetchError::Protocol(format!("token realm refused: {why}"));
    let mut url = Url::parse(realm).map_err(|_| refused("not a URL"))?;
    url.set_fragment(None);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("neither http nor https"));
    }
    if has_user_info(&url) {
        return Err(refused("it holds user info"));
    }
    if endpoint.scheme() == "https" && url.scheme() != "https" {
        return Err(refused("http, named by an https endpoint"));
    }
    let same_host = url.host() == endpoint.host();
    let (from, to) = (Place::of(endpoint), Place::of(&url));
    let both_loopback = from == Place::Loopback && to == Place::Loopback;
    if credentials && url.scheme() != "https" && !same_host && !both_loopback {
        return Err(refused("credentials would go to another host over http"));
    }
    Ok(url)
}

/// True if a URL carries a user name or password.
pub(super) fn has_user_info(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (endpoint, realm, allowed without credentials, allowed with)
    const RULES: &[(&str, &str, bool, bool)] = &[
        (
            "https://registry-1.docker.io",
            "https://auth.docker.io/token",
            true,
            true,
        ),
        ("https://r.example", "http://r.example/token", false, false),
        (
            "https://r.example",
            "http://auth.example/token",
            false,
            false,
        ),
        ("https://r.example", "ftp://r.example/token", false, false),
        ("https://r.example", "file:///etc/passwd", false, false),
        ("https://r.example", "/token", false, false),
        ("https://r.example", "", false, false),
        (
            "https://r.example",
            "https://u:p@auth.example/token",
            false,
            false,
        ),
        (
            "https://r.example",
            "https://u@auth.example/token",
            false,
            false,
        ),
        (
            "http://r.example",
            "http://r.example:8081/token",
            true,
            true,
        ),
        ("http://r.example", "http://auth.example/token", true, false),
        ("http://r.example", "https://auth.example/token", true, true),
        (
            "http://127.0.0.1:5000",
            "http://127.0.0.1:5001/token",
            true,
            true,
        ),
        (
            "http://localhost:5000",
            "http://127.0.0.1:5001/token",
            true,
            true,
        ),
        ("http://10.0.0.1:5000", "http://10.0.0.2/token", true, false),
        ("http://10.0.0.1:5000", "https://10.0.0.2/token", true, true),
        ("https://10.0.0.1", "https://10.0.0.1/token", true, true),
        ("https://8.8.8.8", "https://8.8.4.4/token", true, true),
    ];

    #[test]
    fn realms_are_allowed_by_the_table() {
        for &(endpoint, realm, anonymous, with_credentials) in RULES {
            let base = Url::parse(endpoint).unwrap();
            for (credentials, allowed) in [(false, anonymous), (true, with_credentials)] {
                let result = check(realm, &base, credentials);
                assert_eq!(
                    result.is_ok(),
                    allowed,
                    "{endpoint} -> {realm}, credentials {credentials}: {result:?}"
                );
            }
        }
    }
}
