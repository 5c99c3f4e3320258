//! `tls-certificate`, `tls-chain`: what the listeners show to clients.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::finding::Finding;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::commands::cache::screen::span;
use crate::net::is_known_authority;
use crate::server::{self, Config, TlsConfig};

/// A certificate that is renewed by a program has a third of its 90 days left by then, or the program has failed.
pub(super) const SOON: Duration = Duration::from_hours(14 * 24);
/// Names that are shown.
const NAMES_MAX: usize = 3;

/// Checks the certificates of all listeners. Blocks.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let now = SystemClock.now();
    let both = [
        ("tls", "server.tls", config.tls.as_ref()),
        ("admin-tls", "server.admin_tls", config.admin_tls.as_ref()),
    ];
    let given: Vec<_> = both
        .into_iter()
        .filter_map(|(id, key, tls)| Some((id, key, tls?)))
        .collect();
    if given.is_empty() {
        let why = "no listener speaks TLS (server.tls)";
        return vec![Finding::skipped("tls-certificate", why)];
    }
    let checked = given.into_iter();
    checked
        .flat_map(|(id, key, tls)| {
            let mut findings = vec![certificate(&format!("{id}-certificate"), key, tls, now)];
            findings.extend(chain(&format!("{id}-chain"), tls, now));
            findings
        })
        .collect()
}

/// The files can be used, and their time has come and is not over.
fn certificate(id: &str, key: &str, tls: &TlsConfig, now: Timestamp) -> Finding {
    if let Err(error) = server::check_tls(tls, Arc::new(SystemClock)) {
        let advice = format!(
            "{key}.cert and {key}.key name a certificate and the key that belongs to it (PEM), readable for the service's user"
        );
        return Finding::fail(id, error.to_string(), advice);
    }
    let mut shown = Vec::new();
    let mut soon = None;
    for pair in &tls.pairs {
        let path = pair.cert.display().to_string();
        let der = certificates(&pair.cert);
        let Some(parsed) = der.first().and_then(|der| parse(der)) else {
            continue;
        };
        let validity = parsed.validity();
        let begin = time(validity.not_before.timestamp());
        let end = time(validity.not_after.timestamp());
        if end <= now {
            let summary = format!("{path} expired {} ago", span(now.since(end)));
            let advice = format!(
                "renew it, and write the new one to {key}.cert: it is taken over within two seconds; or set the clock"
            );
            return Finding::fail(id, summary, advice);
        }
        if begin > now {
            let summary = format!("{path} begins in {}", span(begin.since(now)));
            return Finding::fail(id, summary, "set the clock, or use the one from before");
        }
        let left = end.since(now);
        if left < SOON {
            soon = Some(format!("{path} expires in {}", span(left)));
        }
        shown.push(format!(
            "{path} for {}, {} left",
            names(&parsed),
            span(left)
        ));
    }
    if let Some(soon) = soon {
        let advice = "renew it; a program that does this by itself has failed to";
        return Finding::warn(id, soon, advice);
    }
    if shown.is_empty() {
        shown.push("minted for transparent mode".to_owned());
    }
    Finding::ok(id, shown.join("; "))
}

/// Each certificate of a file is followed by that of its issuer.
fn chain(id: &str, tls: &TlsConfig, now: Timestamp) -> Option<Finding> {
    let mut shown = Vec::new();
    for pair in &tls.pairs {
        let path = pair.cert.display().to_string();
        let der = certificates(&pair.cert);
        let parsed: Vec<_> = der.iter().filter_map(parse).collect();
        for (number, two) in parsed.windows(2).enumerate() {
            let [one, next] = two else { continue };
            if one.issuer().as_raw() != next.subject().as_raw() {
                let summary = format!(
                    "{path}: certificate {} is of {}, which did not sign the one before: that was {}",
                    number + 2,
                    next.subject(),
                    one.issuer()
                );
                let advice = "order the file: the server's certificate first, then that of its issuer, and so on";
                return Some(Finding::fail(id, summary, advice));
            }
            if time(next.validity().not_after.timestamp()) <= now {
                let summary = format!("{path}: the certificate of {} has expired", next.subject());
                let advice = "take the issuer's new certificate, which comes with the renewed one";
                return Some(Finding::fail(id, summary, advice));
            }
        }
        let last = parsed.last()?;
        let issuer = last.issuer();
        shown.push(if is_known_authority(issuer.as_raw()) {
            format!("{path}: {issuer}, which this machine knows")
        } else if issuer.as_raw() == last.subject().as_raw() {
            format!("{path}: {issuer}, which clients need as their CA (client-config --ca)")
        } else {
            format!("{path}: {issuer}, which is not in the file and not known here: clients need it as their CA")
        });
    }
    (!shown.is_empty()).then(|| Finding::ok(id, shown.join("; ")))
}

/// The times from which and until which the first certificate of a file is valid.
pub(super) fn validity(path: &Path) -> Option<(Timestamp, Timestamp)> {
    let der = certificates(path);
    let parsed = der.first().and_then(parse)?;
    let validity = parsed.validity();
    let (begin, end) = (validity.not_before, validity.not_after);
    Some((time(begin.timestamp()), time(end.timestamp())))
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path);
    found.into_iter().flatten().flatten().collect()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(parsed)
}

fn time(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// The names that a certificate is for.
fn names(certificate: &X509Certificate<'_>) -> String {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|it| &it.value.general_names[..]);
    let mut names = names.unwrap_or_default().iter().filter_map(name);
    let shown: Vec<String> = names.by_ref().take(NAMES_MAX).collect();
    match (shown.is_empty(), names.count()) {
        (true, _) => "no name".to_owned(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else {
        return None;
    };
    let v4 = <[u8; 4]>::try_from(*bytes).map(|it| std::net::Ipv4Addr::from(it).to_string());
    let v6 = <[u8; 16]>::try_from(*bytes).map(|it| std::net::Ipv6Addr::from(it).to_string());
    v4.or(v6).ok()
}
