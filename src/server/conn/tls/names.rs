//! Choice among several certificates: a client gets the one that names the host it asks for.

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;

/// Certificates by the host names in them (RFC 6066 section 3, RFC 9525 section 6.3).
#[derive(Debug)]
pub(super) struct ByName {
    /// Keys in the order in which they are configured.
    keys: Vec<Arc<CertifiedKey>>,
    /// Positions in `keys` by names in lower case; `*.` begins those of a wildcard.
    named: HashMap<String, Vec<usize>>,
    /// Minted certificates by their hosts.
    minted: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// Indexes these, of which the first is for clients that name no host, or another. A minted one is for its host alone,
    /// and goes behind those that were given for this host and before wildcards.
    pub(super) fn of(
        keys: Vec<Arc<CertifiedKey>>,
        minted: HashMap<String, Arc<CertifiedKey>>,
    ) -> Self {
        let mut named = HashMap::<String, Vec<usize>>::new();
        for (at, key) in keys.iter().enumerate() {
            for name in names_of(key) {
                named.entry(name).or_default().push(at);
            }
        }
        Self {
            keys,
            named,
            minted,
        }
    }

    /// The minted certificate of a host, unless one was given for it.
    fn minted_for(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        if self.minted.is_empty() {
            return None;
        }
        let host = host.to_ascii_lowercase();
        let minted = self.minted.get(&host)?;
        (!self.named.contains_key(&host)).then_some(minted)
    }

    /// The certificates of a host: those that name it, or else those with a wildcard for it.
    fn of_host(&self, host: &str) -> &[usize] {
        let host = host.to_ascii_lowercase();
        let exact = self.named.get(&host);
        let wildcard = || {
            let (_label, rest) = host.split_once('.')?;
            self.named.get(&format!("*.{rest}"))
        };
        exact.or_else(wildcard).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(minted) = hello.server_name().and_then(|host| self.minted_for(host)) {
            return Some(Arc::clone(minted));
        }
        let fitting = hello
            .server_name()
            .map_or(&[][..], |host| self.of_host(host));
        let mut fitting = fitting
            .iter()
            .filter_map(|at| self.keys.get(*at))
            .peekable();
        let first = fitting.peek().copied().or(self.keys.first());
        // One host may have an RSA and an ECDSA certificate, and old clients know one of them.
        let schemes = hello.signature_schemes();
        let usable = fitting.find(|it| it.key.choose_scheme(schemes).is_some());
        usable.or(first).cloned()
    }
}

/// The host names in a certificate. One without any that can be read has none, and is still found as the first.
fn names_of(key: &CertifiedKey) -> Vec<String> {
    let Ok(certificate) = key.end_entity_cert() else {
        return Vec::new();
    };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let hosts = names.filter_map(|name| {
        if let GeneralName::DNSName(host) = name {
            return Some(host.to_ascii_lowercase());
        }
        None
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::aws_lc_rs;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    fn key(names: &[&str]) -> Arc<CertifiedKey> {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = aws_lc_rs::default_provider();
        let chain = vec![CertificateDer::from(made.cert)];
        Arc::new(CertifiedKey::from_der(chain, key, &provider).unwrap())
    }

    #[test]
    fn exact_names_go_before_wildcards_of_one_label() {
        let names = ByName::of(
            vec![
                key(&["mirror.corp"]),
                key(&["*.mirror.corp", "*.corp"]),
                key(&["Ghcr.Mirror.corp", "mirror.corp"]),
                key(&["10.0.0.1"]),
            ],
            HashMap::new(),
        );
        for (host, expected) in [
            ("mirror.corp", &[0, 2][..]),
            ("MIRROR.corp", &[0, 2]),
            ("ghcr.mirror.corp", &[2]),
            ("quay.mirror.corp", &[1]),
            ("other.corp", &[1]),
            ("a.b.mirror.corp", &[]),
            ("corp", &[]),
            ("", &[]),
            ("*.corp", &[1]),
        ] {
            assert_eq!(names.of_host(host), expected, "{host:?}");
        }
    }

    #[test]
    fn a_minted_one_goes_before_wildcards_and_behind_what_was_given() {
        let minted = ["quay.io", "ghcr.io", "a.corp"];
        let minted = minted.map(|host| (host.to_owned(), key(&[host])));
        let names = ByName::of(
            vec![key(&["mirror.corp", "ghcr.io"]), key(&["*.corp"])],
            minted.into(),
        );
        for (host, expected) in [
            ("quay.io", true),
            ("QUAY.io", true),
            ("a.corp", true),
            ("b.corp", false),
            ("ghcr.io", false),
            ("x.quay.io", false),
            ("", false),
        ] {
            assert_eq!(names.minted_for(host).is_some(), expected, "{host:?}");
        }
    }
}
