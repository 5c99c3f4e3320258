//! Identities in client certificates.

use crate::access::{Kind, Principal};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The longest name that is taken, in bytes: a SPIFFE ID is at most 2,048, and is far shorter.
const NAME_BYTES_MAX: usize = 2048;

/// Claims of a certificate.
const SUBJECT: &str = "cert.subject";
const SAN: &str = "cert.san";

/// The identity in a certificate that was accepted: the first URI, DNS name or e-mail address among its alternative names, or
/// else the common name of its subject. One without any is an anonymous client with a certificate.
pub(super) fn principal(certificate: &CertificateDer<'_>) -> Principal {
    let nobody = Principal {
        certificate: true,
        ..Principal::anonymous()
    };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return nobody;
    };
    let san = alternative_name(&certificate);
    let Some(name) = san.clone().or_else(|| common_name(&certificate)) else {
        return nobody;
    };
    let mut principal = Principal {
        certificate: true,
        ..Principal::of(Kind::Certificate, &name)
    };
    let subject = certificate.subject().to_string();
    let claims = [(SUBJECT, plain(&subject)), (SAN, san)];
    let claims = claims.into_iter();
    let claims = claims.filter_map(|(claim, value)| Some((claim.to_owned(), value?)));
    principal.claims.extend(claims);
    principal
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        if let GeneralName::URI(name) | GeneralName::DNSName(name) | GeneralName::RFC822Name(name) =
            name
        {
            return plain(name);
        }
        None
    })
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut names = certificate.subject().iter_common_name();
    names.find_map(|name| plain(name.as_str().ok()?))
}

/// Text that can stand in a log line, a policy and an answer.
fn plain(text: &str) -> Option<String> {
    let is_plain =
        !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
    is_plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn who(name: &str, sans: Vec<SanType>) -> Principal {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = sans;
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        principal(made.der())
    }

    fn san(kind: fn(rcgen::string::Ia5String) -> SanType, text: &str) -> SanType {
        kind(text.try_into().unwrap())
    }

    #[test]
    fn the_first_alternative_name_is_who_it_is() {
        let uri = || san(SanType::URI, "spiffe://corp/ns/ci/sa/builder");
        let dns = || san(SanType::DnsName, "node-7.corp");
        let mail = || san(SanType::Rfc822Name, "ci@corp.example");
        let address = || SanType::IpAddress([10, 0, 0, 7].into());
        for (name, sans, expected) in [
            ("node", vec![uri(), dns()], "spiffe://corp/ns/ci/sa/builder"),
            ("node", vec![dns(), uri()], "node-7.corp"),
            ("node", vec![address(), mail()], "ci@corp.example"),
            ("node", vec![address()], "node"),
            ("node", vec![], "node"),
        ] {
            let who = who(name, sans);
            assert_eq!((who.kind, &*who.name), (Kind::Certificate, expected));
            assert!(who.certificate);
            assert_eq!(who.claims["cert.subject"], "CN=node");
            let san = who.claims.get("cert.san").map(String::as_str);
            assert_eq!(san, (expected != "node").then_some(expected));
        }
    }

    #[test]
    fn one_without_a_plain_name_is_anonymous() {
        for (name, sans) in [
            ("", vec![]),
            ("a\nb", vec![]),
            ("", vec![san(SanType::DnsName, "a\nb")]),
        ] {
            let who = who(name, sans);
            assert!(who.is_anonymous() && who.certificate, "{name:?}");
        }
    }
}
