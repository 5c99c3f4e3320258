//! `[server.transparent]`: the authority, and the names that it signs for.

use std::net::IpAddr;
use std::path::Path as FilePath;

use super::error::Shown;
use super::keys;
use super::table::{Context, Given, List, Place, Values as _, name, table};
use super::values::{Host, Path};
use crate::oci::directory::hosts_of;
use crate::oci::{UpstreamName, name::split_port};
use crate::server::{self, TlsConfig};
use crate::upstream;
use server::transparent::{TransparentConfig, TransparentHost};

/// The certificate of the authority in the state directory.
const CA: &str = "ca.crt";
/// Its key.
const CA_KEY: &str = "ca.key";
/// The port that a registry's name means.
const HTTPS_PORT: u16 = 443;
/// A certificate is minted for each, once in four days.
const NAMES_MAX: usize = 1000;

table! {
    /// `[server.transparent]`.
    TransparentKey {
        /// The certificate of the local authority in PEM, which clients have to trust; `roadstead ca init` makes it. With `ca_key`, or neither; read again when it changes. Default: `ca.crt` in `state.dir`.
        ca: Path,
        /// Its private key in PEM. A key that others than its owner can read or write is refused. Default: `ca.key` in `state.dir`.
        ca_key: Path,
        /// The names at which it answers: names of configured upstreams or from their `hosts`. Default: the names of all upstreams; of Docker Hub `docker.io`, `registry-1.docker.io` and `index.docker.io`.
        names: List<Host>,
    }
}

/// Adds `[server.transparent]` to a server's TLS; without a certificate of its own, that is all it has.
pub(super) fn resolve(
    keys: &keys::Server,
    tls: Option<TlsConfig>,
    upstreams: &[upstream::Config],
    state_dir: &FilePath,
    context: &Context<'_>,
) -> Option<TlsConfig> {
    let Some(Given {
        value: given,
        place,
    }) = &keys.transparent
    else {
        return tls;
    };
    if let (Some(alone), None) | (None, Some(alone)) = (&given.ca, &given.ca_key) {
        let why = "a certificate and a key belong together: write `ca` and `ca_key`, or neither";
        context.wrong(&alone.place, why);
    }
    let hosts = match &given.names {
        Some(names) => named(&names.value, &names.place, upstreams, context),
        None => own(upstreams),
    };
    if hosts.is_empty() && given.names.is_none() {
        let why = "no upstream has a host name: certificates are for names and not for addresses";
        context.wrong(place, why);
    }
    let is_secure = |listener: &Given<super::listeners::ListenerKey>| {
        listener.value.tls.as_ref().is_none_or(|tls| tls.value)
    };
    let listeners = keys.listener.as_ref();
    if listeners.is_some_and(|given| !given.value.iter().any(is_secure)) {
        context.wrong(
            place,
            "needs a listener with TLS: no [[server.listener]] has it",
        );
    }
    let transparent = TransparentConfig {
        ca: given.ca.value().unwrap_or_else(|| state_dir.join(CA)),
        ca_key: given
            .ca_key
            .value()
            .unwrap_or_else(|| state_dir.join(CA_KEY)),
        hosts,
    };
    Some(TlsConfig {
        transparent: Some(transparent),
        ..tls.unwrap_or_else(TlsConfig::without_certificate)
    })
}

/// The names that clients connect to for these upstreams.
#[must_use]
pub(super) fn own(upstreams: &[upstream::Config]) -> Vec<TransparentHost> {
    let mut hosts: Vec<TransparentHost> = Vec::new();
    for upstream in upstreams {
        // One that is an upstream by itself is that one's.
        let is_others = |name: &str| {
            let mut others = upstreams.iter().filter(|it| it.name != upstream.name);
            others.any(|it| it.name.as_str() == name)
        };
        let names = hosts_of(&upstream.name).into_iter();
        let names = names.filter(|name| !is_others(name));
        hosts.extend(names.filter_map(|name| host(name, &upstream.name)));
    }
    hosts
}

/// The names that were written, each of which must be one of a configured upstream.
fn named(
    names: &[Given<UpstreamName>],
    place: &Place,
    upstreams: &[upstream::Config],
    context: &Context<'_>,
) -> Vec<TransparentHost> {
    if names.is_empty() {
        context.wrong(
            place,
            "is empty: leave it out to answer at the names of all upstreams",
        );
    }
    if names.len() > NAMES_MAX {
        context.wrong(place, format!("has more than {NAMES_MAX} names"));
    }
    let own = own(upstreams);
    let mut hosts: Vec<TransparentHost> = Vec::new();
    for Given {
        value: written,
        place,
    } in names
    {
        let text = written.as_str();
        let by_hosts = upstreams
            .iter()
            .find(|it| it.hosts.iter().any(|it| it == text));
        let found = own
            .iter()
            .find(|it| spelt(it) == text)
            .cloned()
            .or_else(|| host(text, &by_hosts?.name));
        match found {
            Some(found) if hosts.contains(&found) => {
                context.wrong(place, format!("{} is given twice", Shown(text)));
            }
            Some(found) => hosts.push(found),
            None => {
                let known: Vec<String> = own.iter().map(spelt).collect();
                context.wrong(
                    place,
                    format!(
                        "{} is no name of a configured upstream: it answers at {}, and names from their `hosts`",
                        Shown(text),
                        known.join(", ")
                    ),
                );
            }
        }
    }
    hosts
}

/// A name, unless it is an address.
fn host(name: &str, upstream: &UpstreamName) -> Option<TransparentHost> {
    let (host, port) = split_port(name);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return None;
    }
    let port = port.and_then(|port| port.parse().ok());
    Some(TransparentHost {
        host: host.to_ascii_lowercase(),
        port: port.filter(|port| *port != HTTPS_PORT),
        upstream: upstream.clone(),
    })
}

/// A name as it is written.
pub(super) fn spelt(host: &TransparentHost) -> String {
    match host.port {
        Some(port) => format!("{}:{port}", host.host),
        None => host.host.clone(),
    }
}
