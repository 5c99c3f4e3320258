//! The log of a start: what runs, with what, and what of that is likely not meant.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::access::is_public;
use crate::config::Config;
use crate::format::{COMMIT, VERSION, size};
use crate::server::Asks;
use crate::store::{Amount, Store};
use crate::upstream::Visibility;

/// Says what is about to start. `file`: the configuration's, if there is one.
pub fn announce(config: &Config, file: Option<&Path>) {
    let names: Vec<&str> = config.upstreams.iter().map(|it| it.name.as_str()).collect();
    let file = file.map(|file| file.display().to_string());
    tracing::info!(
        version = VERSION,
        commit = COMMIT,
        configuration = file.as_deref().unwrap_or("built-in defaults"),
        cache_dir = %config.cache.dir.display(),
        state_dir = %config.state.dir.display(),
        max_size = %Shown(config.cache.max_size),
        upstreams = names.join(","),
        "starting"
    );
}

/// The warning of a mirror that anybody on the Internet can pull through: a client listener has a public address, and there
/// is no `[access]`. `addresses`: those of the listeners.
#[must_use]
pub fn exposure(config: &Config, addresses: &[SocketAddr]) -> Option<String> {
    if config.access.enabled {
        return None;
    }
    let interfaces = if addresses.iter().any(|it| it.ip().is_unspecified()) {
        let found = if_addrs::get_if_addrs().unwrap_or_default();
        found.iter().map(if_addrs::Interface::ip).collect()
    } else {
        Vec::new()
    };
    exposed(addresses, &interfaces)
}

/// Settings of a configuration that are likely not meant.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let listeners = config.server.listeners.iter();
    let addresses: Vec<SocketAddr> = listeners.map(|listener| listener.address).collect();
    Start::of(config, &addresses, config.server.admin_listen).warnings(None)
}

/// The warning, on a machine whose interfaces have these addresses.
fn exposed(addresses: &[SocketAddr], interfaces: &[IpAddr]) -> Option<String> {
    let (listener, public) = addresses.iter().find_map(|listener| {
        let own = [listener.ip()];
        // A listener of all IPv6 addresses takes IPv4 ones, too, as Linux has it by default.
        let takes = |it: &&IpAddr| listener.is_ipv6() || it.is_ipv4();
        let reached: &[IpAddr] = if listener.ip().is_unspecified() {
            interfaces
        } else {
            &own
        };
        let public = reached.iter().filter(takes).find(|it| is_public(**it));
        public.map(|public| (listener, *public))
    })?;
    let at = if listener.ip() == public {
        format!("the listener {listener} has a public address")
    } else {
        format!("the listener {listener} is reached at the public address {public} of this machine")
    };
    Some(format!(
        "{at}, and there are no rules of access: everybody on the Internet who reaches it can pull through this mirror, and reads what is cached. Write the networks of your clients in access.allow, such as allow = [\"10.0.0.0/8\"] under [access], or listen on a private address"
    ))
}

/// The facts of a configuration that are told when all is open.
#[derive(Debug)]
pub(super) struct Start {
    dir: PathBuf,
    max_size: Amount,
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
    /// Operators of other machines have to say who they are.
    asks_operators: bool,
    /// Upstreams that roadstead has a login for, of which clients without credentials get all that it can pull.
    opened: Vec<String>,
    /// Upstreams that clients send credentials of their own for.
    with_credentials: Vec<String>,
    /// The first listener that others on the wire can read.
    readable: Option<SocketAddr>,
    /// The warning of a mirror that is open to the Internet.
    exposure: Option<String>,
}

impl Start {
    pub(super) fn of(config: &Config, addresses: &[SocketAddr], admin: SocketAddr) -> Self {
        let opened = config.upstreams.iter();
        let opened = opened.filter(|it| it.has_secrets() && it.visibility == Visibility::Anyone);
        let with_credentials = config.upstreams.iter();
        let with_credentials = with_credentials.filter(|it| it.visibility == Visibility::Upstream);
        let mut listeners = addresses.iter().zip(&config.server.listeners);
        let readable = listeners.find(|(at, listener)| {
            !at.ip().is_loopback() && !listener.tls && listener.asks == Asks::Everybody
        });
        Self {
            dir: config.cache.dir.clone(),
            max_size: config.cache.max_size,
            addresses: addresses.to_vec(),
            admin,
            asks_operators: config.access.enabled,
            opened: opened.map(|it| it.name.to_string()).collect(),
            with_credentials: with_credentials.map(|it| it.name.to_string()).collect(),
            readable: readable.map(|(at, _)| *at),
            exposure: exposure(config, addresses),
        }
    }

    /// Says what the cache has, and warns.
    pub(super) async fn tell(&self, store: &Store) {
        let figures = store.contents().figures_async().await;
        tracing::info!(
            dir = %self.dir.display(), blobs = figures.blobs, used = size(figures.used),
            max_size = size(figures.max), free = figures.free.map(size),
            "the cache is open"
        );
        for warning in self.warnings(figures.disk) {
            tracing::warn!("{warning}");
        }
    }

    /// Settings that are likely not meant; `disk`: how large the file system is, if it says.
    fn warnings(&self, disk: Option<u64>) -> Vec<String> {
        let mut warnings: Vec<String> = self.exposure.iter().cloned().collect();
        if !self.admin.ip().is_loopback() && !self.asks_operators {
            warnings.push(format!(
                "the admin listener {} is open to other machines: everybody who reaches it sees what is pulled and can remove it. Listen on 127.0.0.1, or let only operators and Prometheus reach it",
                self.admin
            ));
        }
        let open = self
            .addresses
            .iter()
            .find(|address| !address.ip().is_loopback());
        if let Some(open) = open.filter(|_| !self.opened.is_empty()) {
            warnings.push(format!(
                "there are logins for {}, visibility = \"anyone\", and the listener {} is open to other machines: clients without credentials can pull what these logins can, unless [access] denies it. Set visibility = \"public\", or let only those reach the listener who may have that",
                self.opened.join(", "),
                open
            ));
        }
        if let Some(readable) = self.readable.filter(|_| !self.with_credentials.is_empty()) {
            warnings.push(format!(
                "clients send their own credentials for {}, and the listener {readable} has no TLS: others on the network can read them. Give it server.tls, or put it behind a proxy that has",
                self.with_credentials.join(", "),
            ));
        }
        if let (Amount::Bytes(max), Some(disk)) = (self.max_size, disk)
            && max > disk
        {
            warnings.push(format!(
                "cache.max_size ({}) is more than the file system of {} has in all ({}): the disk is full before the cache is. Lower it, or say \"80%\"",
                size(max),
                self.dir.display(),
                size(disk)
            ));
        }
        warnings
    }
}

/// An amount, for people.
struct Shown(Amount);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Amount::Bytes(bytes) => f.write_str(&size(bytes)),
            Amount::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn a_mirror_that_is_open_to_the_internet_says_so() {
        let interfaces = ["127.0.0.1", "10.0.0.7", "::1", "fe80::1", "fd00::7"];
        let private: Vec<IpAddr> = interfaces.iter().map(|it| it.parse().unwrap()).collect();
        let with = |more: &str| [&private[..], &[more.parse().unwrap()]].concat();
        let (v4, v6) = (with("203.0.113.7"), with("2001:db8::7"));
        for (listeners, interfaces, expected) in [
            (&["127.0.0.1:5000"][..], &v4, None),
            (
                &[
                    "10.0.0.7:5000",
                    "100.64.0.1:5000",
                    "[fd00::7]:5000",
                    "[fe80::1]:1",
                ],
                &v4,
                None,
            ),
            (&["0.0.0.0:5000", "[::]:5000"], &private, None),
            (&["0.0.0.0:5000"], &v6, None),
            (
                &["10.0.0.7:5000", "0.0.0.0:5001"],
                &v4,
                Some(("0.0.0.0:5001", "203.0.113.7")),
            ),
            (&["[::]:5000"], &v6, Some(("[::]:5000", "2001:db8::7"))),
            (&["[::]:5000"], &v4, Some(("[::]:5000", "203.0.113.7"))),
            (
                &["203.0.113.7:443"],
                &private,
                Some(("203.0.113.7:443", "has a public address")),
            ),
        ] {
            let listeners: Vec<SocketAddr> =
                listeners.iter().map(|it| it.parse().unwrap()).collect();
            let found = exposed(&listeners, interfaces);
            assert_eq!(
                found.is_some(),
                expected.is_some(),
                "{listeners:?}: {found:?}"
            );
            if let (Some(text), Some((listener, public))) = (found, expected) {
                assert!(text.contains(listener) && text.contains(public), "{text}");
                assert!(text.contains("access.allow"), "{text}");
            }
        }
    }

    #[test]
    fn what_is_likely_not_meant_is_said() {
        let start = |address: &str, admin: &str, max: u64, logins: &[&str]| Start {
            dir: "/cache".into(),
            max_size: Amount::Bytes(max),
            addresses: vec![address.parse().unwrap()],
            admin: admin.parse().unwrap(),
            asks_operators: false,
            opened: logins.iter().map(ToString::to_string).collect(),
            with_credentials: Vec::new(),
            readable: None,
            exposure: None,
        };
        let own = start("127.0.0.1:5000", "[::1]:5001", 10, &["ghcr.io"]);
        assert_eq!(own.warnings(Some(10)), [""; 0]);
        let quiet = start("0.0.0.0:5000", "127.0.0.1:5001", 10, &[]);
        assert_eq!(quiet.warnings(None), [""; 0]);
        let open = start("0.0.0.0:5000", "10.0.0.1:5001", 11, &["ghcr.io", "quay.io"]);
        let warnings = open.warnings(Some(10));
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].contains("admin listener 10.0.0.1:5001 is open"));
        assert!(
            warnings[1].contains("logins for ghcr.io, quay.io")
                && warnings[1].contains("0.0.0.0:5000")
        );
        assert!(warnings[2].contains("cache.max_size (11 B)") && warnings[2].contains("/cache"));
        let readable = Start {
            with_credentials: vec!["ghcr.io".to_owned()],
            readable: Some("10.0.0.1:5000".parse().unwrap()),
            ..start("127.0.0.1:5000", "127.0.0.1:5001", 10, &[])
        };
        let warnings = readable.warnings(None);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("ghcr.io, and the listener 10.0.0.1:5000 has no TLS"));
        let unused = Start {
            with_credentials: Vec::new(),
            ..readable
        };
        assert_eq!(unused.warnings(None), [""; 0]);
    }

    #[test]
    fn logins_open_nothing_unless_the_configuration_says_so() {
        let opened = |visibility: Option<&str>| {
            let mut variables = vec![
                // Not all addresses: what they are is another machine's matter.
                ("ROADSTEAD_SERVER__LISTEN", "10.0.0.1:5000"),
                ("ROADSTEAD_UPSTREAM__GHCR_IO__USERNAME", "u"),
                ("ROADSTEAD_UPSTREAM__GHCR_IO__PASSWORD", "p"),
                // Without a login it opens nothing, whatever it says.
                ("ROADSTEAD_UPSTREAM__QUAY_IO__VISIBILITY", "anyone"),
            ];
            let key = "ROADSTEAD_UPSTREAM__GHCR_IO__VISIBILITY";
            variables.extend(visibility.map(|it| (key, it)));
            let variables = variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()));
            let config = Config::from_layers(&Overrides::default(), variables, &[]).unwrap();
            let addresses = config.server.listeners.iter().map(|it| it.address);
            let addresses: Vec<SocketAddr> = addresses.collect();
            Start::of(&config, &addresses, config.server.admin_listen).warnings(None)
        };
        assert_eq!(opened(None), [""; 0], "the default is public");
        assert_eq!(opened(Some("public")), [""; 0]);
        let warnings = opened(Some("anyone"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("logins for ghcr.io, visibility = \"anyone\""));
    }
}
