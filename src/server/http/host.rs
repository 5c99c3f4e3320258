//! The host that a request names (RFC 9110 section 7.2).

use http::{Uri, Version, header, request};
use std::net::Ipv6Addr;

/// Reason why a request is refused with 400; none: it names one host, or may name none.
///
/// Different programs on a request's way must not take it for one to different hosts: it names one by which an upstream
/// may be chosen (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
pub(crate) fn refusal(request: &request::Parts) -> Option<&'static str> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Some("a request has one Host header");
    }
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    if authority.is_some_and(|it| !is_host(it)) {
        return Some("the target's authority is not a host");
    }
    let Some(host) = host else {
        return match request.version {
            // HTTP/2 has it in `:authority`.
            Version::HTTP_2 if authority.is_some() => None,
            Version::HTTP_09 | Version::HTTP_10 => None,
            _ => Some("a request names its host"),
        };
    };
    let Ok(host) = host.to_str() else {
        return Some("the Host header is not a host");
    };
    if !is_host(host) {
        return Some("the Host header is not a host");
    }
    // HTTP/1.1 ignores it where the target is absolute (RFC 9112 section 3.2.2).
    let is_http2 = request.version == Version::HTTP_2;
    if is_http2 && authority.is_some_and(|it| !is_same(it, host, &request.uri)) {
        return Some("the Host header and :authority name different hosts");
    }
    None
}

/// The host that a request was sent to: `:authority` of HTTP/2 and that of an absolute target go before the `Host` header
/// (RFC 9112 section 3.2.2).
pub(crate) fn of(request: &request::Parts) -> Option<&str> {
    match request.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers.get(header::HOST)?.to_str().ok(),
    }
}

/// `uri-host [ ":" port ]` (RFC 3986 section 3.2.2). An empty one says that there is none to name.
fn is_host(text: &str) -> bool {
    let (host, rest) = if let Some(inner) = text.strip_prefix('[') {
        let Some((address, rest)) = inner.split_once(']') else {
            return false;
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return false;
        }
        ("", rest)
    } else {
        text.split_at(text.find(':').unwrap_or(text.len()))
    };
    is_name(host) && is_port(rest)
}

fn is_port(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(':') else {
        return text.is_empty();
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain && (digits.is_empty() || digits.parse::<u16>().is_ok())
}

/// `reg-name`: letters, digits, and some marks.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_right = match byte {
            b'%' => {
                let mut hex = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                hex() && hex()
            }
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !is_right {
            return false;
        }
    }
    true
}

/// True if both name one host and port; the scheme's own may be left out.
fn is_same(one: &str, other: &str, uri: &Uri) -> bool {
    let own = match uri.scheme_str() {
        Some("https") => ":443",
        _ => ":80",
    };
    let bare = |text: &str| {
        let text = text.strip_suffix(own).unwrap_or(text);
        text.trim_end_matches(':').to_ascii_lowercase()
    };
    bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn answer(version: Version, uri: &str, hosts: &[&str]) -> Option<&'static str> {
        let mut request = Request::get(uri).version(version);
        for host in hosts {
            let value = http::HeaderValue::from_bytes(host.as_bytes()).unwrap();
            request = request.header(header::HOST, value);
        }
        refusal(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn http_1_1_names_one_host() {
        let one = |hosts: &[&str]| answer(Version::HTTP_11, "/v2/", hosts).is_none();
        for host in [
            "a",
            "a.b-c_d.example",
            "A.EXAMPLE:5000",
            "127.0.0.1",
            "127.0.0.1:0",
            "[::1]",
            "[2001:db8::1]:443",
            "a:",
            "%41",
            "",
        ] {
            assert!(one(&[host]), "{host:?}");
        }
        for host in [
            "a b", "a/b", "http://a", "user@a", "a:65536", "a:b", "a:1:2", "::1", "[::1", "[a]",
            "[::1]x", "%4", "%zz", "a\\b", "a?b", "a#b", "\u{e4}", "a\"", "<a>",
        ] {
            assert!(!one(&[host]), "{host:?}");
        }
        assert!(!one(&[]));
        assert!(!one(&["a", "a"]));
        assert!(!one(&["a", "b"]));
    }

    #[test]
    fn http_1_0_may_name_none() {
        let one = |hosts: &[&str]| answer(Version::HTTP_10, "/v2/", hosts).is_none();
        assert!(one(&[]));
        assert!(one(&["a"]));
        assert!(!one(&["a", "a"]));
        assert!(!one(&["a b"]));
    }

    #[test]
    fn http_2_does_not_contradict_itself() {
        let http2 = |uri, hosts: &[&str]| answer(Version::HTTP_2, uri, hosts).is_none();
        assert!(http2("https://a/v2/", &[]));
        assert!(http2("https://a/v2/", &["A"]));
        assert!(http2("https://a/v2/", &["a:443"]));
        assert!(http2("http://a:80/v2/", &["a"]));
        assert!(http2("/v2/", &["a"]));
        assert!(!http2("https://a/v2/", &["b"]));
        assert!(!http2("https://a/v2/", &["a:80"]));
        assert!(!http2("https://a/v2/", &["a", "a"]));
        assert!(!http2("/v2/", &[]));
        assert!(!http2("https://user@a/v2/", &[]));
    }

    #[test]
    fn an_absolute_target_goes_before_the_header() {
        let one = |hosts: &[&str]| answer(Version::HTTP_11, "http://a/v2/", hosts).is_none();
        assert!(one(&["b"]));
        assert!(!one(&[]));
        assert!(!one(&["b c"]));
    }
}
