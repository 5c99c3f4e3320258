//! `NO_PROXY`: hosts that are reached straight. There is no standard; this takes what curl and Go take.

use std::net::IpAddr;

/// The rules of one `NO_PROXY`, none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NoProxy(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    hosts: Hosts,
    /// Only this port; `None`: any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// `*`
    All,
    /// The domain and all below it; without a leading dot, in lower case.
    Domain(String),
    /// Addresses whose first so many bits are these.
    Network(IpAddr, u8),
}

impl NoProxy {
    /// Reads entries separated by commas or spaces: `*`; a domain, with or without `.` or `*.` in
    /// front, which stands for itself and all below it; an address; a network (`10.0.0.0/8`). Domains and
    /// addresses may have a port. What is none of these matches nothing.
    pub(super) fn parse(text: &str) -> Self {
        let entries = text.split(|c: char| c == ',' || c.is_whitespace());
        let entries = entries.filter(|entry| !entry.is_empty());
        Self(
            entries
                .map(|entry| Rule::parse(&entry.to_ascii_lowercase()))
                .collect(),
        )
    }

    /// True if `host` (an address without brackets) at `port` is reached straight.
    pub(super) fn contains(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        self.0.iter().any(|rule| {
            rule.port.is_none_or(|only| only == port) && rule.hosts.contains(&host, address)
        })
    }
}

impl Rule {
    fn parse(entry: &str) -> Self {
        let whole = |hosts| Self { hosts, port: None };
        if entry == "*" {
            return whole(Hosts::All);
        }
        if let Some(network) = network(entry) {
            return whole(network);
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => (entry, None),
            },
            None => (entry, None),
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let hosts = network(bare.unwrap_or(host)).unwrap_or_else(|| {
            let domain = host.strip_prefix('*').unwrap_or(host);
            let domain = domain.strip_prefix('.').unwrap_or(domain);
            Hosts::Domain(domain.strip_suffix('.').unwrap_or(domain).to_owned())
        });
        Self { hosts, port }
    }
}

/// An address, or one and its prefix length.
fn network(text: &str) -> Option<Hosts> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(width);
    (bits <= width).then_some(Hosts::Network(address, bits))
}

impl Hosts {
    fn contains(&self, host: &str, address: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            // `example.com` also stands for `a.example.com`, but not for `an-example.com`.
            Self::Domain(domain) => {
                address.is_none()
                    && host
                        .strip_suffix(domain.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Network(network, bits) => {
                address.is_some_and(|address| same_prefix(address, *network, *bits))
            }
        }
    }
}

fn same_prefix(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let difference = match (one.to_canonical(), other.to_canonical()) {
        // Moved to the left, so that both families count bits from the same end.
        (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(one.to_bits() ^ other.to_bits()) << 96,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    difference.leading_zeros() >= u32::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (`NO_PROXY`, host, port, straight)
    const RULES: &[(&str, &str, u16, bool)] = &[
        ("", "r.example", 443, false),
        ("*", "r.example", 443, true),
        ("*", "10.0.0.1", 443, true),
        ("r.example", "r.example", 443, true),
        ("r.example", "R.Example.", 443, true),
        ("R.EXAMPLE", "r.example", 443, true),
        ("r.example", "a.b.r.example", 443, true),
        ("r.example", "other-r.example", 443, false),
        ("r.example", "example", 443, false),
        (".r.example", "a.r.example", 443, true),
        (".r.example", "r.example", 443, true),
        (".r.example", "xr.example", 443, false),
        ("*.r.example", "a.r.example", 443, true),
        ("*.r.example", "xr.example", 443, false),
        ("a.example, r.example", "r.example", 443, true),
        ("a.example r.example", "r.example", 443, true),
        (",, ,", "r.example", 443, false),
        ("r.example:5000", "r.example", 5000, true),
        ("r.example:5000", "r.example", 443, false),
        ("10.1.2.3", "10.1.2.3", 80, true),
        ("10.1.2.3", "10.1.2.4", 80, false),
        ("10.1.2.3:80", "10.1.2.3", 80, true),
        ("10.1.2.3:80", "10.1.2.3", 81, false),
        ("10.0.0.0/8", "10.255.0.1", 443, true),
        ("10.0.0.0/8", "11.0.0.1", 443, false),
        ("10.1.2.128/25", "10.1.2.200", 443, true),
        ("10.1.2.128/25", "10.1.2.100", 443, false),
        ("0.0.0.0/0", "192.0.2.1", 443, true),
        ("0.0.0.0/0", "2001:db8::1", 443, false),
        ("10.0.0.0/33", "10.0.0.1", 443, false),
        ("10.0.0.0/8", "10.example", 443, false),
        ("2001:db8::/32", "2001:db8:1::2", 443, true),
        ("2001:db8::/32", "2001:db9::2", 443, false),
        ("2001:db8::1", "2001:db8::1", 443, true),
        ("[2001:db8::1]:443", "2001:db8::1", 443, true),
        ("[2001:db8::1]:444", "2001:db8::1", 443, false),
        ("3", "10.0.0.3", 443, false),
    ];

    #[test]
    fn the_usual_rules() {
        for (text, host, port, straight) in RULES {
            let found = NoProxy::parse(text).contains(host, *port);
            assert_eq!(found, *straight, "{text:?} {host} {port}");
        }
    }
}
