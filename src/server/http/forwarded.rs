//! Clients behind proxies: `X-Forwarded-For`, `Forwarded` (RFC 7239), `X-Forwarded-Proto`.
//!
//! Anybody can send these headers. They count where the connection comes from a trusted proxy, and of the addresses in
//! them the last one that is no trusted proxy itself: a client can put any others before it.

use crate::access::Network;
use http::{HeaderMap, HeaderName, header};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The most addresses that are looked at, from the last one: nobody has as many proxies in a row.
const HOPS_MAX: usize = 32;

/// An address is no longer than this: IPv6 in brackets, with a port and quotes.
const ADDRESS_BYTES_MAX: usize = 64;

/// The proxies that are believed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Arc<[Network]>);

impl Proxies {
    /// Proxies in these networks.
    pub(crate) fn new(networks: Vec<Network>) -> Self {
        Self(networks.into())
    }

    /// True if what comes from this address is believed.
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// The client that a trusted proxy has made a request for; none if it speaks for itself.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        if headers.contains_key(X_FORWARDED_FOR) {
            let values = headers.get_all(X_FORWARDED_FOR).iter().rev();
            let values = values.map(|value| value.to_str().unwrap_or_default());
            return self.last_of(values.flat_map(|value| value.rsplit(',')).map(address));
        }
        let values = headers.get_all(header::FORWARDED).iter().rev();
        let values = values.map(|value| value.to_str().unwrap_or_default());
        let hops = values.flat_map(|value| value.rsplit(','));
        self.last_of(hops.map(|hop| address(parameter(hop, "for")?)))
    }

    /// The last one that is no proxy; behind one that cannot be read, nothing is believed.
    fn last_of(&self, hops: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        let mut last = None;
        for hop in hops.take(HOPS_MAX) {
            let Some(hop) = hop else {
                return last;
            };
            last = Some(hop);
            if !self.trust(hop) {
                return last;
            }
        }
        last
    }

    /// True if the client of a trusted proxy has asked it by HTTPS; none if the proxy does not say.
    pub(crate) fn is_secure(headers: &HeaderMap) -> Option<bool> {
        let by_own = || {
            let value = headers.get_all(X_FORWARDED_PROTO).iter().next_back()?;
            value.to_str().ok()?.split(',').next()
        };
        let by_standard = || {
            let value = headers.get_all(header::FORWARDED).iter().next_back()?;
            parameter(value.to_str().ok()?.split(',').next()?, "proto")
        };
        let scheme = by_own().or_else(by_standard)?.trim();
        let is = |name: &str| scheme.eq_ignore_ascii_case(name);
        (is("https") || is("http")).then(|| is("https"))
    }
}

/// An address with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|it| it.ip());
    let address = text.parse().ok().or_else(with_port).or_else(in_brackets)?;
    Some(IpAddr::to_canonical(&address))
}

/// A parameter of one hop of `Forwarded`, without quotes.
fn parameter<'h>(hop: &'h str, name: &str) -> Option<&'h str> {
    hop.split(';').find_map(|pair| {
        let (known, value) = pair.split_once('=')?;
        let value = value.trim();
        let bare = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        known
            .trim()
            .eq_ignore_ascii_case(name)
            .then(|| bare.unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn proxies() -> Proxies {
        Proxies::new(vec![
            "10.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse().unwrap(),
        ])
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn client(lines: &[(&'static str, &str)]) -> Option<String> {
        proxies().client(&headers(lines)).map(|it| it.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_proxy_counts() {
        for (value, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1 ,10.1.2.3,  fd00::7", "192.0.2.1"),
            ("192.0.2.1:4711, 10.1.2.3:80", "192.0.2.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:192.0.2.1, ::ffff:10.0.0.1", "192.0.2.1"),
            ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
            ("6.6.6.6, unknown, 10.0.0.8", "10.0.0.8"),
        ] {
            assert_eq!(
                client(&[("x-forwarded-for", value)]).as_deref(),
                Some(expected),
                "{value}"
            );
        }
        for value in ["", "unknown", "6.6.6.6, ", "6.6.6.6, x"] {
            assert_eq!(client(&[("x-forwarded-for", value)]), None, "{value}");
        }
        let long = format!("6.6.6.6,{}", " ".repeat(10) + &"1".repeat(100));
        assert_eq!(client(&[("x-forwarded-for", &long)]), None);
        let two = [
            ("x-forwarded-for", "6.6.6.6, 192.0.2.1"),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        assert_eq!(client(&two).as_deref(), Some("192.0.2.1"));
        assert_eq!(client(&[]), None);
    }

    #[test]
    fn no_more_hops_are_looked_at_than_there_can_be() {
        let many = format!("192.0.2.1{}", ", 10.0.0.1".repeat(HOPS_MAX));
        assert_eq!(
            client(&[("x-forwarded-for", &many)]).as_deref(),
            Some("10.0.0.1")
        );
        let some = format!("192.0.2.1{}", ", 10.0.0.1".repeat(HOPS_MAX - 1));
        assert_eq!(
            client(&[("x-forwarded-for", &some)]).as_deref(),
            Some("192.0.2.1")
        );
    }

    #[test]
    fn the_standard_header_counts_where_the_other_is_not() {
        for (value, expected) in [
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                Some("192.0.2.60"),
            ),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                Some("2001:db8:cafe::17"),
            ),
            (
                "for=6.6.6.6, for=192.0.2.1;proto=https, for=10.0.0.1",
                Some("192.0.2.1"),
            ),
            ("for=_hidden, for=10.0.0.1", Some("10.0.0.1")),
            ("for=_hidden", None),
            ("proto=https", None),
        ] {
            assert_eq!(
                client(&[("forwarded", value)]).as_deref(),
                expected,
                "{value}"
            );
        }
        let both = [
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        assert_eq!(client(&both).as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn the_scheme_is_the_clients() {
        for (lines, expected) in [
            (&[("x-forwarded-proto", "https")][..], Some(true)),
            (&[("x-forwarded-proto", "HTTPS, http")], Some(true)),
            (&[("x-forwarded-proto", "http")], Some(false)),
            (&[("x-forwarded-proto", "gopher")], None),
            (&[("forwarded", "for=192.0.2.1;proto=https")], Some(true)),
            (&[], None),
        ] {
            assert_eq!(Proxies::is_secure(&headers(lines)), expected, "{lines:?}");
        }
    }
}
