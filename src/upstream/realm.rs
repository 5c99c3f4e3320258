//! Which hosts an upstream may send roadstead to.
//!
//! A registry names its token server (`realm`) and redirects as it likes. From inside a VPC, an
//! address of its choosing may be a metadata service or an internal host, so literal addresses are
//! checked here. Names are not: whoever runs roadstead trusts the resolver that it uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::FetchError;

/// Parses and checks the realm of a challenge that `endpoint` made.
///
/// It must be http or https without user info, must not leave https for http, and must not be a
/// literal address deeper inside than the endpoint's own. Credentials go to another host only over
/// https (as Docker Hub needs: `auth.docker.io`) or from loopback to loopback.
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
    let inside = matches!(from, Place::Loopback | Place::Private);
    match to {
        _ if same_host => {}
        Place::LinkLocal => return Err(refused("a link-local address")),
        Place::Loopback | Place::Private if !inside => {
            return Err(refused("a private address, named by a public endpoint"));
        }
        Place::Loopback | Place::Private | Place::Anywhere => {}
    }
    let both_loopback = from == Place::Loopback && to == Place::Loopback;
    if credentials && url.scheme() != "https" && !same_host && !both_loopback {
        return Err(refused("credentials would go to another host over http"));
    }
    Ok(url)
}

/// Whether a redirect may lead to `target`: to a link-local address only when the endpoint has it itself.
/// Private addresses are allowed, because registries inside a VPC redirect to object storage there.
pub(super) fn redirect_allowed(target: &Url, endpoint: &Url) -> bool {
    target.host() == endpoint.host() || Place::of(target) != Place::LinkLocal
}

/// Whether a URL carries a user name or password.
pub(super) fn has_user_info(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Where the host of a URL lies, as far as the URL alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
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
    fn of(url: &Url) -> Self {
        match url.host() {
            Some(Host::Ipv4(address)) => Self::of_address(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Self::of_address(IpAddr::V6(address)),
            Some(Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                // RFC 6761 section 6.3: these names are this machine.
                if name == "localhost" || name.ends_with(".localhost") {
                    Self::Loopback
                } else {
                    Self::Anywhere
                }
            }
            None => Self::Anywhere,
        }
    }

    fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() || v4.is_unspecified() => Self::Loopback,
            IpAddr::V4(v4) if v4.is_link_local() || v4 == ALIBABA_METADATA => Self::LinkLocal,
            IpAddr::V4(v4) if v4.is_private() || is_shared(v4) => Self::Private,
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => Self::Loopback,
            IpAddr::V6(v6) if v6.is_unicast_link_local() || v6 == AWS_METADATA => Self::LinkLocal,
            IpAddr::V6(v6) if v6.is_unique_local() => Self::Private,
            IpAddr::V4(_) | IpAddr::V6(_) => Self::Anywhere,
        }
    }
}

/// RFC 6598: 100.64.0.0/10, which clouds use inside.
fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && (64..128).contains(&second)
}

/// The metadata service of Alibaba Cloud, not in the link-local range.
const ALIBABA_METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
/// The metadata service of AWS over IPv6, not in the link-local range.
const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

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
            "https://r.example",
            "https://169.254.169.254/latest",
            false,
            false,
        ),
        (
            "http://127.0.0.1:5000",
            "http://169.254.169.254/latest",
            false,
            false,
        ),
        ("http://127.0.0.1:5000", "http://[fe80::1]/", false, false),
        (
            "http://10.0.0.1",
            "http://100.100.100.200/latest",
            false,
            false,
        ),
        (
            "http://10.0.0.1",
            "http://[fd00:ec2::254]/latest",
            false,
            false,
        ),
        (
            "http://r.example",
            "http://[::ffff:169.254.169.254]/",
            false,
            false,
        ),
        ("http://r.example", "http://2852039166/", false, false),
        ("https://r.example", "https://127.0.0.1/token", false, false),
        ("https://r.example", "https://localhost/token", false, false),
        ("https://r.example", "https://[::1]/token", false, false),
        ("https://r.example", "https://10.1.2.3/token", false, false),
        (
            "https://r.example",
            "https://192.168.1.1/token",
            false,
            false,
        ),
        (
            "https://r.example",
            "https://100.64.0.1/token",
            false,
            false,
        ),
        ("https://r.example", "https://0.0.0.0/token", false, false),
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

    #[test]
    fn redirects_may_go_inside_but_not_to_metadata() {
        let endpoint = Url::parse("https://r.example").unwrap();
        let allowed = |target| redirect_allowed(&Url::parse(target).unwrap(), &endpoint);
        assert!(allowed("https://cdn.example/x"));
        assert!(allowed("https://10.0.0.1/x"));
        assert!(!allowed("https://169.254.169.254/x"));
        assert!(!allowed("https://100.100.100.200/x"));
    }
}
