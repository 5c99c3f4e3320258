//! Decides which addresses are dialled for which purpose.
//!
//! A registry redirects and names token servers as it likes. From inside a network, an address of its choosing may
//! be a metadata service, somebody's admin interface or this mirror. What is checked is the address that is
//! dialled, so that a name which is looked up again and lies elsewhere by then (DNS rebinding) gains nothing.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use url::Url;

use super::place::{Network, OwnListeners, Place, plain};
use super::{Error, Peer};

/// The purpose of a connection to another host than the endpoint's own. Requests of different errands never share
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// A configured destination, which is no registry's choice.
    Configured,
    /// Content that its digest checks: it may lie inside, as the object storage of registries does.
    Content,
    /// The rest: tags, lists, tokens, heads. It must not lie further inside than the endpoint does.
    Unchecked,
}

/// The rules of one endpoint.
#[derive(Debug)]
pub(super) struct Gate {
    /// The endpoint's own host, without brackets, and port.
    home: Option<(String, u16)>,
    /// `redirect_networks`.
    networks: Vec<Network>,
    own: OwnListeners,
    /// The address of the endpoint's own host: as it is written, configured, or was dialled last.
    address: Mutex<Option<IpAddr>>,
}

impl Gate {
    /// For an endpoint, and what it sends us to.
    pub(super) fn new(endpoint: &Peer<'_>, own: OwnListeners) -> Self {
        let home = host_and_port(endpoint.url);
        let address = endpoint.resolve.first().copied();
        let address = address.or_else(|| home.as_ref()?.0.parse().ok());
        Self {
            home,
            networks: endpoint.redirect_networks.to_vec(),
            own,
            address: Mutex::new(address),
        }
    }

    /// For what is configured alone.
    pub(super) fn without_home(own: OwnListeners) -> Self {
        Self {
            home: None,
            networks: Vec::new(),
            own,
            address: Mutex::new(None),
        }
    }

    /// Checks that `host`, which is reached at `address`, may be dialled.
    ///
    /// # Errors
    /// [`Error::Ourselves`], [`Error::Inside`].
    pub(super) fn admit(
        &self,
        errand: Errand,
        host: &str,
        port: u16,
        address: IpAddr,
    ) -> Result<(), Error> {
        if self.own.contain(address, port) || self.own.contain(plain(address), port) {
            return Err(Error::Ourselves(named(host, port)));
        }
        let mut both = [address, plain(address)].into_iter();
        if self.is_home(host, port)
            || both.any(|one| self.networks.iter().any(|network| network.contains(one)))
            || *self.address() == Some(address)
        {
            return Ok(());
        }
        let place = Place::of_address(address);
        if self.place_allowed(errand, place) {
            return Ok(());
        }
        let what = if host.parse::<IpAddr>().is_ok() {
            named(host, port)
        } else {
            format!("{} at {address}", named(host, port))
        };
        Err(Error::Inside(format!("{what} ({place})")))
    }

    /// The same where a proxy dials, and hides the address of a name.
    ///
    /// # Errors
    /// As for [`Gate::admit`].
    pub(super) fn admit_unseen(&self, errand: Errand, host: &str, port: u16) -> Result<(), Error> {
        if let Ok(address) = host.parse() {
            return self.admit(errand, host, port, address);
        }
        let place = Place::of_host(host);
        if self.is_home(host, port) || self.place_allowed(errand, place) {
            return Ok(());
        }
        Err(Error::Inside(format!("{} ({place})", named(host, port))))
    }

    /// The host was reached there.
    pub(super) fn reached(&self, host: &str, port: u16, address: IpAddr) {
        if self.is_home(host, port) {
            *self.address() = Some(address);
        }
    }

    fn place_allowed(&self, errand: Errand, place: Place) -> bool {
        let home = || match (*self.address(), &self.home) {
            (Some(address), _) => Place::of_address(address),
            (None, Some((host, _))) => Place::of_host(host),
            (None, None) => Place::Anywhere,
        };
        match (place, errand) {
            (_, Errand::Configured)
            | (Place::Anywhere, _)
            | (Place::Private | Place::Loopback, Errand::Content) => true,
            (Place::Private, Errand::Unchecked) => home() == Place::Private,
            (Place::Loopback, Errand::Unchecked) => home() == Place::Loopback,
            // That the endpoint has such an address does not make all of them its own.
            (Place::LinkLocal, Errand::Content | Errand::Unchecked) => false,
        }
    }

    fn is_home(&self, host: &str, port: u16) -> bool {
        let home = self.home.as_ref();
        home.is_some_and(|(own, at)| *at == port && own.eq_ignore_ascii_case(host))
    }

    fn address(&self) -> std::sync::MutexGuard<'_, Option<IpAddr>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn host_and_port(url: &Url) -> Option<(String, u16)> {
    let host = url.host_str()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), url.port_or_known_default()?))
}

fn named(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(_)) => format!("[{host}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(endpoint: &str, networks: &[&str]) -> Gate {
        let networks: Vec<_> = networks.iter().map(|one| one.parse().unwrap()).collect();
        gate_beside(endpoint, &networks, OwnListeners::default())
    }

    fn gate_beside(endpoint: &str, networks: &[Network], own: OwnListeners) -> Gate {
        let peer = Peer {
            url: &Url::parse(endpoint).unwrap(),
            ca_file: None,
            client_certificate: None,
            insecure_skip_verify: false,
            proxy: &crate::net::ProxyConfig::Direct,
            resolve: &[],
            redirect_networks: networks,
        };
        Gate::new(&peer, own)
    }

    fn admits(gate: &Gate, errand: Errand, target: &str) -> bool {
        let (host, port) = host_and_port(&Url::parse(target).unwrap()).unwrap();
        gate.admit_unseen(errand, &host, port).is_ok()
    }

    /// (endpoint, target, allowed for content, allowed for the rest)
    const RULES: &[(&str, &str, bool, bool)] = &[
        ("https://r.example", "https://auth.example/", true, true),
        ("https://8.8.8.8", "https://8.8.4.4/", true, true),
        ("https://r.example", "https://10.1.2.3/", true, false),
        ("https://r.example", "https://192.168.1.1/", true, false),
        ("https://r.example", "https://100.64.0.1/", true, false),
        ("https://r.example", "https://[fd12::1]/", true, false),
        ("https://r.example", "https://127.0.0.1/", true, false),
        ("https://r.example", "https://localhost/", true, false),
        ("https://r.example", "https://[::1]/", true, false),
        ("https://r.example", "https://0.0.0.0/", true, false),
        ("https://r.example", "http://2130706433/", true, false),
        (
            "https://r.example",
            "https://169.254.169.254/",
            false,
            false,
        ),
        (
            "http://r.example",
            "http://[::ffff:169.254.169.254]/",
            false,
            false,
        ),
        (
            "http://r.example",
            "http://[64:ff9b::a9fe:a9fe]/",
            false,
            false,
        ),
        ("http://r.example", "http://2852039166/", false, false),
        (
            "http://r.example",
            "http://metadata.google.internal/",
            false,
            false,
        ),
        (
            "http://127.0.0.1:5000",
            "http://127.0.0.1:5001/",
            true,
            true,
        ),
        (
            "http://localhost:5000",
            "http://127.0.0.1:5001/",
            true,
            true,
        ),
        ("http://127.0.0.1:5000", "http://10.0.0.1/", true, false),
        (
            "http://127.0.0.1:5000",
            "http://169.254.169.254/",
            false,
            false,
        ),
        ("http://127.0.0.1:5000", "http://[fe80::1]/", false, false),
        ("http://10.0.0.1:5000", "http://10.0.0.2/", true, true),
        ("http://10.0.0.1:5000", "http://192.168.0.2/", true, true),
        ("http://10.0.0.1:5000", "http://127.0.0.1/", true, false),
        ("http://10.0.0.1", "http://100.100.100.200/", false, false),
        ("http://10.0.0.1", "http://[fd00:ec2::254]/", false, false),
        (
            "http://169.254.7.7:5000",
            "http://169.254.7.7:5001/",
            true,
            true,
        ),
        (
            "http://169.254.7.7:5000",
            "http://169.254.169.254/",
            false,
            false,
        ),
    ];

    #[test]
    fn targets_are_dialled_by_the_table() {
        for &(endpoint, target, content, rest) in RULES {
            let gate = gate(endpoint, &[]);
            for (errand, allowed) in [(Errand::Content, content), (Errand::Unchecked, rest)] {
                let admitted = admits(&gate, errand, target);
                assert_eq!(admitted, allowed, "{endpoint} -> {target}, {errand:?}");
            }
        }
    }

    #[test]
    fn a_network_that_is_named_is_open() {
        let gate = gate("https://r.example", &["10.0.0.0/8", "169.254.169.254"]);
        assert!(admits(&gate, Errand::Unchecked, "http://10.9.9.9/"));
        assert!(admits(
            &gate,
            Errand::Unchecked,
            "http://[::ffff:10.9.9.9]/"
        ));
        assert!(admits(&gate, Errand::Content, "http://169.254.169.254/"));
        assert!(!admits(&gate, Errand::Unchecked, "http://192.168.0.1/"));
    }

    #[test]
    fn the_address_counts_and_not_the_name() {
        let gate = gate("https://r.example", &[]);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let admit = |host: &str, text: &str| {
            let errand = Errand::Unchecked;
            gate.admit(errand, host, 443, address(text))
        };
        let refused = admit("rebind.example", "10.0.0.9").unwrap_err();
        let told = "rebind.example:443 at 10.0.0.9 (a private address)";
        assert_eq!(refused, Error::Inside(told.to_owned()));
        assert!(
            admit("r.example", "10.0.0.9").is_ok(),
            "the endpoint is configured"
        );
        // An endpoint that lies there itself may lead there.
        gate.reached("r.example", 443, address("10.0.0.1"));
        assert!(admit("rebind.example", "10.0.0.9").is_ok());
        gate.reached("other.example", 443, address("127.0.0.1"));
        assert!(admit("rebind.example", "127.0.0.1").is_err());
    }

    #[test]
    fn ourselves_are_never_dialled() {
        let own = OwnListeners::default();
        own.are(vec!["0.0.0.0:5001".parse().unwrap()]);
        let networks = ["0.0.0.0/0".parse().unwrap()];
        let gate = gate_beside("http://127.0.0.1:5001", &networks, own);
        for errand in [Errand::Configured, Errand::Content, Errand::Unchecked] {
            for host in ["127.0.0.1", "127.1.1.1", "0.0.0.0", "::ffff:7f00:1"] {
                let error = gate.admit_unseen(errand, host, 5001).unwrap_err();
                assert!(matches!(error, Error::Ourselves(_)), "{host}: {error}");
            }
            assert!(gate.admit_unseen(errand, "127.0.0.1", 5002).is_ok());
        }
    }
}
