//! Admission of browsers to the admin API, whoever it is that asks (`operator`). A web page in a browser on the same machine reaches it, too,
//! and must not: neither by a form or script of another site, nor by a name of its own that it has
//! resolved to this address (DNS rebinding).

use crate::server::http::host;
use http::{HeaderMap, HeaderName, Method, header, request};
use std::net::{IpAddr, Ipv6Addr};

/// The header that a request which changes something must bring, unless it is JSON. A page in a browser cannot send it
/// to another site without being asked first (CORS preflight), which is always refused here.
const DELIBERATE: HeaderName = HeaderName::from_static("x-roadstead-admin");

/// The answer to a host that may be a web page's own name for this address.
const HOST_REFUSED: &str =
    "ask the admin API by an IP address, as localhost, or by a name of server.admin_hosts";

/// Reason why a request is refused; none: it may pass. `hosts`: names that are the listener's own.
pub(super) fn refusal(request: &request::Parts, hosts: &[String]) -> Option<&'static str> {
    let headers = &request.headers;
    if headers.contains_key(header::ORIGIN) || is_of_another_site(headers) {
        return Some("the admin API does not answer web pages; ask it with roadstead or curl");
    }
    if !is_known_host(request, hosts) {
        return Some(HOST_REFUSED);
    }
    // A form can send neither that header nor JSON, and a script of another site not without asking first
    // (fetch.spec.whatwg.org, "CORS-safelisted request-header").
    let changes = !matches!(request.method, Method::GET | Method::HEAD);
    if changes && !is_deliberate(headers) && !is_json(headers) {
        return Some("a request that changes something needs the header X-Roadstead-Admin: 1");
    }
    None
}

/// Reason why a request for a page is refused. A link of another site may lead here: the page reads, that site does not
/// see it, and cannot frame it. Everything else of another site is refused, as by the API.
pub(super) fn refusal_of_page(request: &request::Parts, hosts: &[String]) -> Option<&'static str> {
    let headers = &request.headers;
    let is_foreign = headers.contains_key(header::ORIGIN) || is_of_another_site(headers);
    if is_foreign && !is_followed_link(headers) {
        return Some("another site cannot ask for this: open it yourself");
    }
    (!is_known_host(request, hosts)).then_some(HOST_REFUSED)
}

/// True if a browser says that a person goes to a page, in a window of its own.
fn is_followed_link(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
    is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
        && !headers.contains_key(header::ORIGIN)
}

fn is_known_host(request: &request::Parts, hosts: &[String]) -> bool {
    host::of(request).is_some_and(|host| is_address(host) || is_one_of(host, hosts))
}

fn is_deliberate(headers: &HeaderMap) -> bool {
    headers.get(DELIBERATE).is_some_and(|value| value == "1")
}

/// True if a browser says that another site caused the request (W3C Fetch Metadata). `none`: the user
/// typed the address.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| !matches!(site.as_bytes(), b"none" | b"same-origin"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok());
    let essence = content_type.map(|it| it.split(';').next().unwrap_or(it).trim());
    essence.is_some_and(|it| it.eq_ignore_ascii_case("application/json"))
}

/// True if a host with or without a port is one that no name server can give away.
fn is_address(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, _port) = rest.split_once(']').unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// True if a host with or without a port is one of these names.
fn is_one_of(host: &str, names: &[String]) -> bool {
    let name = host.split_once(':').map_or(host, |(name, _port)| name);
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const ADMIN_HEADER: &str = "x-roadstead-admin";

    fn refusal(request: &request::Parts) -> Option<&'static str> {
        super::refusal(request, &[])
    }

    fn parts(method: Method, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().method(method).uri("/api/v1/status");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn tools_pass() {
        for host in [
            "127.0.0.1:5001",
            "localhost",
            "LOCALHOST:1",
            "[::1]:5001",
            "10.0.0.7",
        ] {
            assert_eq!(
                refusal(&parts(Method::GET, &[("host", host)])),
                None,
                "{host}"
            );
            let changing = [("host", host), (ADMIN_HEADER, "1")];
            assert_eq!(refusal(&parts(Method::DELETE, &changing)), None);
        }
        let json = [
            ("host", "[::1]"),
            ("content-type", "application/json; charset=utf-8"),
        ];
        assert_eq!(refusal(&parts(Method::POST, &json)), None);
        let typed = [("host", "localhost"), ("sec-fetch-site", "none")];
        assert_eq!(refusal(&parts(Method::GET, &typed)), None);
    }

    #[test]
    fn links_of_other_sites_lead_to_pages_and_nothing_else_does() {
        let refused =
            |headers: &[(&str, &str)]| refusal_of_page(&parts(Method::GET, headers), &[]).is_some();
        let (host, cross) = (("host", "localhost:5001"), ("sec-fetch-site", "cross-site"));
        let (navigate, document) = (
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        );
        assert!(!refused(&[host]));
        assert!(!refused(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(!refused(&[host, cross, navigate, document]));
        assert!(refused(&[host, cross]));
        assert!(refused(&[
            host,
            cross,
            navigate,
            ("sec-fetch-dest", "iframe")
        ]));
        assert!(refused(&[
            host,
            cross,
            ("sec-fetch-mode", "cors"),
            document
        ]));
        assert!(refused(&[
            host,
            cross,
            navigate,
            document,
            ("origin", "null")
        ]));
        assert!(refused(&[("host", "evil.example"), navigate, document]));
        assert!(refused(&[]));
    }

    #[test]
    fn names_of_the_listener_are_known() {
        let names = ["mirror.corp".to_owned()];
        for (host, passes) in [
            ("mirror.corp", true),
            ("Mirror.Corp:5001", true),
            ("mirror.corp.evil.example", false),
            ("a.mirror.corp", false),
            ("", false),
        ] {
            let head = parts(Method::GET, &[("host", host)]);
            assert_eq!(super::refusal(&head, &names).is_none(), passes, "{host}");
        }
    }

    #[test]
    fn web_pages_do_not() {
        let refused = |method: Method, headers: &[(&str, &str)]| {
            assert!(refusal(&parts(method, headers)).is_some(), "{headers:?}");
        };
        for site in ["cross-site", "same-site", "nonsense"] {
            refused(
                Method::GET,
                &[("host", "localhost"), ("sec-fetch-site", site)],
            );
        }
        for origin in ["https://evil.example", "null", "http://localhost:5001"] {
            refused(Method::GET, &[("host", "localhost"), ("origin", origin)]);
        }
        for host in [
            "evil.example:5001",
            "localhost.evil.example",
            "",
            "[evil]",
            "1.2.3.4.evil.example",
        ] {
            refused(Method::GET, &[("host", host)]);
        }
        refused(Method::GET, &[]);
        refused(Method::POST, &[("host", "localhost")]);
        refused(
            Method::DELETE,
            &[("host", "localhost"), (ADMIN_HEADER, "0")],
        );
        let form = "application/x-www-form-urlencoded";
        refused(
            Method::POST,
            &[("host", "localhost"), ("content-type", form)],
        );
        refused(
            Method::POST,
            &[("host", "localhost"), ("content-type", "text/plain")],
        );
    }
}
