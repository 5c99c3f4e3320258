//! The mirror as its clients reach it: address, registries, authority.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::{Host, Url};

use crate::config::Config;
use crate::server::{Asks, ListenerConfig};

/// The registry that dockerd's mirrors are for.
pub(in crate::commands) const HUB: &str = "docker.io";

/// The mirror that clients are led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Mirror {
    url: Url,
    /// The registries that it has, in the order of the configuration.
    pub(super) upstreams: Vec<String>,
    /// True if Docker Hub is the upstream of requests that name none.
    pub(super) has_hub: bool,
    /// The certificate of its authority, PEM, where clients need it.
    pub(super) ca: Option<String>,
    /// Facts that the user should know, a line each.
    pub(super) notes: Vec<String>,
}

impl Mirror {
    /// The mirror of a configuration, at this address or that of one of its listeners.
    ///
    /// # Errors
    /// One line: no address that clients can use is known.
    pub(super) fn of(
        config: &Config,
        server: Option<Url>,
        for_dockerd: bool,
    ) -> Result<Self, String> {
        let mut notes = Vec::new();
        let url = match server {
            Some(url) => url,
            None => derived(config, for_dockerd, &mut notes)?,
        };
        if url.path() != "/" {
            return Err(format!(
                "{url} has a path, which clients cannot use in a mirror's address"
            ));
        }
        if config.access.enabled {
            notes.extend(challenged(config, &url, for_dockerd));
        }
        let names = config.upstreams.iter();
        let hub = config.upstreams.iter().find(|it| it.default);
        Ok(Self {
            url,
            upstreams: names.map(|it| it.name.as_str().to_owned()).collect(),
            has_hub: hub.is_some_and(|it| it.name.as_str() == HUB),
            ca: None,
            notes,
        })
    }

    /// The mirror at an address of which nothing else is known.
    ///
    /// # Errors
    /// One line: clients cannot use the address.
    pub(in crate::commands) fn named(url: Url) -> Result<Self, String> {
        if url.path() != "/" {
            return Err(format!(
                "{url} has a path, which clients cannot use in a mirror's address"
            ));
        }
        Ok(Self {
            url,
            upstreams: Vec::new(),
            has_hub: true,
            ca: None,
            notes: Vec::new(),
        })
    }

    /// The mirror at another address, at which files were written before.
    pub(super) fn at(&self, url: &str) -> Option<Self> {
        let url = url.parse().ok()?;
        Some(Self {
            url,
            ..self.clone()
        })
    }

    /// The URL, without a slash behind it.
    pub(in crate::commands) fn url(&self) -> String {
        format!("{}://{}", self.url.scheme(), self.authority())
    }

    /// Host and port, as they stand in the name of an image.
    pub(in crate::commands) fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        // A name without a dot and a port would be taken for a part of a repository's name.
        let is_clear = host.contains(['.', ':']) || host == "localhost";
        match (self.url.port(), self.url.port_or_known_default()) {
            (Some(port), _) => format!("{host}:{port}"),
            (None, Some(port)) if !is_clear => format!("{host}:{port}"),
            (None, _) => host.to_owned(),
        }
    }

    /// True for HTTPS.
    pub(in crate::commands) fn has_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// True if the address is this machine's alone.
    pub(in crate::commands) fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }

    /// An image of an upstream, by the mirror's own name.
    pub(super) fn example(&self) -> String {
        let mut others = self.upstreams.iter();
        let other = others.find(|name| *name != HUB && fits_in_a_path(name));
        let other = other.map_or(HUB, String::as_str);
        format!("{}/{other}/org/app:1", self.authority())
    }
}

/// True if an image's name can have this one as a component: there is no `:` in one (distribution/reference, reference.go).
pub(super) fn fits_in_a_path(upstream: &str) -> bool {
    !upstream.contains(':')
}

/// The address of a listener, as clients on this machine reach it.
fn derived(config: &Config, for_dockerd: bool, notes: &mut Vec<String>) -> Result<Url, String> {
    let listeners = &config.server.listeners;
    let open = open(config).next();
    let chosen = open.filter(|_| for_dockerd && config.access.enabled);
    let first = config.server.first();
    let ListenerConfig { address, tls, .. } = chosen.unwrap_or(&first);
    if address.port() == 0 || listeners.is_empty() {
        return Err(format!(
            "the listener {address} has port 0, which is another one each time: name the mirror with --server"
        ));
    }
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // A listener of all IPv6 addresses takes IPv4 ones, too, as Linux has it by default.
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let scheme = if *tls { "https" } else { "http" };
    let reached = SocketAddr::new(without_zone(ip), address.port());
    let url = format!("{scheme}://{reached}");
    let url: Url = url
        .parse()
        .map_err(|error| format!("{url} is no URL ({error}): name the mirror with --server"))?;
    if ip.is_loopback() {
        notes.push(format!(
            "{scheme}://{reached} is the listener {address} as this machine reaches it: for other machines, and for clients in containers, name the mirror with --server"
        ));
    }
    if *tls {
        notes.push(format!(
            "the certificate must be valid for {}: name the mirror as the certificate does with --server",
            reached.ip()
        ));
    }
    Ok(url)
}

fn without_zone(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from(ip.octets()).into(),
    }
}

/// The listeners that ask nobody who he is.
fn open(config: &Config) -> impl Iterator<Item = &ListenerConfig> {
    let listeners = config.server.listeners.iter();
    listeners.filter(|it| it.asks == Asks::Nobody)
}

/// A note where rules of access meet clients without credentials.
fn challenged(config: &Config, url: &Url, for_dockerd: bool) -> Option<String> {
    let port = url.port_or_known_default();
    let is_open = |it: &ListenerConfig| Some(it.address.port()) == port;
    if open(config).any(is_open) {
        return None;
    }
    if !for_dockerd {
        let note = "there are rules of access ([access]): this client comes without credentials, and gets what the rules give anonymous clients";
        return Some(note.to_owned());
    }
    let known: Vec<String> = open(config).map(|it| it.address.to_string()).collect();
    let what = if known.is_empty() {
        "add a [[server.listener]] with access = \"open\", and name it with --server".to_owned()
    } else {
        format!(
            "lead it to {}, which has access = \"open\"",
            known.join(" or ")
        )
    };
    Some(format!(
        "warning: there are rules of access ([access]), and {url} may ask dockerd who it is: a dockerd that is logged in to Docker Hub sends its password there, others go to Docker Hub; {what}"
    ))
}
