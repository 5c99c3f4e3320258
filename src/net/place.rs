//! The place of an address: on this machine, in a private network, at a metadata service, or anywhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use url::{Host, Url};

/// The place of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This machine.
    Loopback,
    /// An address for private networks.
    Private,
    /// A link-local address, or another one at which a cloud keeps its metadata service.
    LinkLocal,
    /// A public address, or any name.
    Anywhere,
}

impl Place {
    /// As far as the URL alone tells.
    pub(crate) fn of(url: &Url) -> Self {
        match url.host() {
            Some(Host::Ipv4(address)) => Self::of_address(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Self::of_address(IpAddr::V6(address)),
            Some(Host::Domain(name)) => Self::of_name(name),
            None => Self::Anywhere,
        }
    }

    /// As far as a host (a name, or an address without brackets) alone tells.
    pub(crate) fn of_host(host: &str) -> Self {
        match host.parse() {
            Ok(address) => Self::of_address(address),
            Err(_) => Self::of_name(host),
        }
    }

    fn of_name(name: &str) -> Self {
        // RFC 6761 section 6.3: these names are this machine.
        if is_at_or_below(name, "localhost") {
            Self::Loopback
        } else if METADATA_NAMES.iter().any(|host| is_at_or_below(name, host)) {
            Self::LinkLocal
        } else {
            Self::Anywhere
        }
    }

    pub(super) fn of_address(address: IpAddr) -> Self {
        match plain(address) {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => Self::Loopback,
            IpAddr::V6(v6) if v6.is_unicast_link_local() || METADATA_V6.contains(&v6) => {
                Self::LinkLocal
            }
            // Site-local addresses (RFC 3879), and translation prefixes whose inner address only the
            // network knows (RFC 8215), lie inside as unique local ones do.
            IpAddr::V6(v6)
                if v6.is_unique_local()
                    || v6.is_multicast()
                    || SITE_LOCAL.contains(IpAddr::V6(v6))
                    || NAT64_LOCAL.contains(IpAddr::V6(v6)) =>
            {
                Self::Private
            }
            IpAddr::V6(_) => Self::Anywhere,
        }
    }

    fn of_v4(v4: Ipv4Addr) -> Self {
        let [first, second, ..] = v4.octets();
        // Linux takes 0.0.0.0 for this machine; the rest of 0.0.0.0/8 is nobody's (RFC 6890).
        if v4.is_loopback() || first == 0 {
            Self::Loopback
        } else if v4.is_link_local() || METADATA_V4.contains(&v4) {
            Self::LinkLocal
        } else if v4.is_private()
            // RFC 6598: 100.64.0.0/10, which clouds use inside.
            || (first == 100 && (64..128).contains(&second))
            || v4.is_multicast()
            || v4.is_broadcast()
        {
            Self::Private
        } else {
            Self::Anywhere
        }
    }
}

/// As a message names it: "10.1.2.3, a private address".
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address or that of a metadata service",
            Self::Anywhere => "a public address",
        })
    }
}

/// The IPv4 address that an IPv6 one stands for, where it does: mapped and compatible ones (RFC 4291 section
/// 2.5.5), those of NAT64 (RFC 6052), 6to4 (RFC 3056) and Teredo (RFC 4380). Else the address itself.
pub(super) fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if v6.is_loopback() || v6.is_unspecified() {
        return address;
    }
    let inner = |high: u16, low: u16| {
        let bits = (u32::from(high) << 16) | u32::from(low);
        IpAddr::V4(Ipv4Addr::from_bits(bits))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => inner(high, low),
        [0x2001, 0, _, _, _, _, high, low] => inner(!high, !low),
        _ => address,
    }
}

/// The length of the prefix of IPv4-mapped addresses (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Addresses whose first so many bits are these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// True if an address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let difference = match (self.address, address) {
            // Moved to the left, so that both families count bits from the same end.
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                u128::from(one.to_bits() ^ other.to_bits()) << 96
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        difference.leading_zeros() >= u32::from(self.bits)
    }
}

impl FromStr for Network {
    type Err = String;

    /// An address, or one and the length of the prefix: `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network like 10.0.0.0/8 or fd00::/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = match bits {
            Some(bits) => bits.parse().map_err(|_| wrong())?,
            None => width,
        };
        if bits > width {
            return Err(wrong());
        }
        // Clients' addresses are looked at as the IPv4 ones that they stand for.
        if let IpAddr::V6(v6) = address
            && let (Some(v4), Some(bits)) = (v6.to_ipv4_mapped(), bits.checked_sub(MAPPED_BITS))
        {
            let address = IpAddr::V4(v4);
            return Ok(Self { address, bits });
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// True if an address is one of the public Internet: none of this machine, a link or a private network.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    Place::of_address(address) == Place::Anywhere
}

/// The addresses at which this process listens, once they are known. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OwnListeners(Arc<OnceLock<Vec<SocketAddr>>>);

impl OwnListeners {
    /// Says which they are; nothing changes them afterwards.
    pub fn are(&self, addresses: Vec<SocketAddr>) {
        let _first_said = self.0.get_or_init(|| addresses);
    }

    /// True if a connection to this address would reach one of them.
    pub(super) fn contain(&self, address: IpAddr, port: u16) -> bool {
        let own = self.0.get().map_or(&[][..], Vec::as_slice);
        let mut at_port = own.iter().filter(|own| own.port() == port).peekable();
        if at_port.peek().is_none() {
            return false;
        }
        let address = this_machine(address.to_canonical());
        at_port.any(|own| {
            let own = own.ip().to_canonical();
            // A listener of all IPv6 addresses takes IPv4 ones, too, as Linux has it by default.
            let all = own.is_unspecified() && (own.is_ipv6() || address.is_ipv4());
            own == address || (all && is_local(address))
        })
    }
}

/// The address at which this machine reaches a listener of its own.
pub(crate) fn near(mut listener: SocketAddr) -> SocketAddr {
    listener.set_ip(this_machine(listener.ip()));
    listener
}

/// Connecting to no address in particular connects to this machine.
fn this_machine(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

/// True if an interface of this machine has the address now: only such a one can be bound.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// True if a name is this one or below it.
pub(super) fn is_at_or_below(host: &str, name: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let rest = host.strip_suffix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Metadata services outside the link-local range: of Alibaba Cloud, of Azure's machines, of Oracle's old ones.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// Those of AWS and of Google over IPv6.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
/// Those of Google, Tencent and AWS by name.
const METADATA_NAMES: [&str; 4] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata.tencentyun.com",
    "instance-data.ec2.internal",
];
const SITE_LOCAL: Network = Network {
    address: IpAddr::V6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0)),
    bits: 10,
};
const NAT64_LOCAL: Network = Network {
    address: IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0)),
    bits: 48,
};

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &[(Place, &[&str])] = &[
        (
            Place::Loopback,
            &[
                "127.0.0.1",
                "127.255.0.9",
                "0.0.0.0",
                "0.1.2.3",
                "::1",
                "::",
                "::ffff:127.0.0.1",
                "::127.0.0.1",
                "::ffff:0:127.0.0.1",
                "64:ff9b::7f00:1",
                "2002:7f00:1::",
                "2001:0:1:2:3:4:80ff:fffe",
                "localhost",
                "LOCALHOST.",
                "a.localhost",
            ],
        ),
        (
            Place::LinkLocal,
            &[
                "169.254.169.254",
                "169.254.0.23",
                "100.100.100.200",
                "168.63.129.16",
                "192.0.0.192",
                "fe80::1",
                "fd00:ec2::254",
                "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "metadata.google.internal",
            ],
        ),
        (
            Place::Private,
            &[
                "10.0.0.1",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.0.1",
                "100.64.0.1",
                "100.127.255.255",
                "224.0.0.1",
                "255.255.255.255",
                "fc00::1",
                "fdff::1",
                "fec0::1",
                "ff02::1",
                "64:ff9b:1::1",
                "64:ff9b::a00:1",
                "::ffff:10.0.0.1",
                "::a00:1",
            ],
        ),
        (
            Place::Anywhere,
            &[
                "8.8.8.8",
                "172.32.0.1",
                "100.128.0.1",
                "2001:db8::1",
                "64:ff9b::808:808",
                "r.example",
                "notlocalhost",
            ],
        ),
    ];

    #[test]
    fn every_spelling_of_an_inside_address_lies_inside() {
        for (place, hosts) in CASES {
            for host in *hosts {
                assert_eq!(Place::of_host(host), *place, "{host}");
            }
        }
    }

    #[test]
    fn networks_are_read_and_hold_their_addresses() {
        let holds = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.1", "10.0.0.1"));
        assert!(holds("0.0.0.0/0", "8.8.8.8"));
        assert!(!holds("0.0.0.0/0", "::1"));
        assert!(holds("fd00::/8", "fd12::1"));
        for wrong in [
            "",
            "x",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "fd00::/129",
            "10.0.0.0/8/8",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn our_own_listeners_are_known_by_all_their_addresses() {
        let own = OwnListeners::default();
        let at = |address: &str| own.contain(address.parse().unwrap(), 5000);
        assert!(!at("127.0.0.1"), "nobody has said where we listen");
        own.are(vec!["0.0.0.0:5000".parse().unwrap()]);
        assert!(at("127.0.0.1") && at("127.9.9.9") && at("0.0.0.0") && at("::ffff:127.0.0.1"));
        assert!(!at("::1") && !at("192.0.2.7"));
        assert!(!own.contain("127.0.0.1".parse().unwrap(), 5001));

        let one = OwnListeners::default();
        one.are(vec!["127.0.0.2:5000".parse().unwrap()]);
        assert!(one.contain("127.0.0.2".parse().unwrap(), 5000));
        assert!(!one.contain("127.0.0.1".parse().unwrap(), 5000));

        let both = OwnListeners::default();
        both.are(vec!["[::]:5000".parse().unwrap()]);
        assert!(both.contain("127.0.0.1".parse().unwrap(), 5000));
        assert!(both.contain("::".parse().unwrap(), 5000));
    }

    #[test]
    fn a_listener_at_all_addresses_is_reached_at_this_machines_own() {
        let at = |text: &str| near(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:5001"), "127.0.0.1:5001");
        assert_eq!(at("[::]:5001"), "[::1]:5001");
        assert_eq!(at("10.1.2.3:5001"), "10.1.2.3:5001");
    }
}
