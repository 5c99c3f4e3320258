//! The local authority of transparent mode, and the certificates that it signs.
//!
//! Its certificate has critical name constraints (RFC 5280 section 4.2.1.10): whoever steals the key can stand in for the
//! configured registries and for nobody else, and not for the token servers that users' passwords go to.

use crate::clock::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256,
};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Time from the first to the last instant of a minted certificate: a stolen one is of no use for long.
pub const LEAF_LIFETIME: Duration = Duration::from_hours(LEAF_HOURS);

/// The hours of a week.
const LEAF_HOURS: u64 = 7 * 24;

/// The part of it that lies before its minting, for clients whose clocks are behind.
const LEAF_BACKDATED: Duration = Duration::from_hours(1);

/// The part that lies behind it.
const LEAF_AHEAD: Duration = Duration::from_hours(LEAF_HOURS - 1);

/// The time before its end at which it is replaced: a weekend in which minting fails goes by unnoticed.
const RENEW_BEFORE_END: Duration = Duration::from_hours(3 * 24);

/// The wait after which minting is tried again, and the shortest time between two.
const RENEW_AGAIN: Duration = Duration::from_hours(1);

/// The lifetime of a new authority: it is installed at every client, and is as long there as they live.
const AUTHORITY_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// Clocks of clients may be behind by so much when it is installed.
const AUTHORITY_BACKDATED: Duration = Duration::from_hours(24);

/// The name of a new authority.
const AUTHORITY_NAME: &str = "roadstead transparent mode";

/// The longest common name (RFC 5280 appendix A.1, `ub-common-name`).
const COMMON_NAME_BYTES_MAX: usize = 64;

/// Reason why an authority cannot be made or used: one line, without the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthorityError(String);

impl AuthorityError {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    fn of(error: &rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// A new authority, to be written to files.
pub struct NewAuthority {
    /// The certificate, PEM.
    pub cert: String,
    /// The key, PEM.
    pub key: String,
}

/// Makes an authority for certificates of these hosts.
///
/// # Errors
/// There is no host, one cannot be in a certificate, or the system has no random numbers.
pub fn make(
    hosts: &[String],
    excluded: &[String],
    now: Timestamp,
) -> Result<NewAuthority, AuthorityError> {
    if hosts.is_empty() {
        return Err(AuthorityError::new("there is no host name to sign for"));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = DnType::CommonName;
    params.distinguished_name.push(name, AUTHORITY_NAME);
    params.not_before = date(now, AUTHORITY_BACKDATED, Duration::ZERO)?;
    params.not_after = date(now, Duration::ZERO, AUTHORITY_LIFETIME)?;
    // It signs for hosts alone, and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let dns = |names: &[String]| -> Vec<GeneralSubtree> {
        names.iter().cloned().map(GeneralSubtree::DnsName).collect()
    };
    // Permitted names say nothing about other kinds: those of addresses are excluded one and all.
    let addresses = [
        CidrSubnet::from_v4_prefix([0; 4], 0),
        CidrSubnet::from_v6_prefix([0; 16], 0),
    ];
    let mut excluded = dns(excluded);
    excluded.extend(addresses.map(GeneralSubtree::IpAddress));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: dns(hosts),
        excluded_subtrees: excluded,
    });
    let key = generate()?;
    let cert = params.self_signed(&key);
    Ok(NewAuthority {
        cert: cert.map_err(|error| AuthorityError::of(&error))?.pem(),
        key: key.serialize_pem(),
    })
}

/// An authority that certificates can be minted with.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The certificates that clients get with a minted one: all but a root.
    chain: Vec<CertificateDer<'static>>,
    /// The first certificate.
    certificate: CertificateDer<'static>,
    /// Names that it may sign for, and all below them; `None`: any.
    permitted: Option<Vec<String>>,
    excluded: Vec<String>,
    not_after: Timestamp,
}

/// Minted certificates, and when others take their place.
#[derive(Debug)]
pub(crate) struct Minted {
    pub(crate) leaves: Vec<(String, Arc<CertifiedKey>)>,
    not_before: Timestamp,
    renew_at: Timestamp,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is not for anybody's eyes.
        f.debug_struct("Authority")
            .field("permitted", &self.permitted)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority of a certificate (with those above it) and its key.
    ///
    /// # Errors
    /// It is none, or the key is another one's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, AuthorityError> {
        let first = chain.first().cloned();
        let certificate =
            first.ok_or_else(|| AuthorityError::new("there is no certificate in it"))?;
        let unusable = |_| AuthorityError::new("it is no certificate that can be read");
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(unusable)?;
        if !parsed.is_ca() {
            let why = "it is the certificate of no authority: `roadstead ca init` makes one";
            return Err(AuthorityError::new(why));
        }
        let key = KeyPair::try_from(key).map_err(|error| AuthorityError::of(&error))?;
        if rcgen::PublicKeyData::subject_public_key_info(&key) != parsed.public_key().raw {
            let why = "its key is not the one of this certificate";
            return Err(AuthorityError::new(why));
        }
        let (permitted, excluded) = constraints(&parsed)?;
        let not_after = parsed.validity().not_after.timestamp();
        let not_after = u64::try_from(not_after).unwrap_or_default();
        let issuer = Issuer::from_ca_cert_der(&certificate, key);
        let chain = chain.into_iter().filter(|it| !is_root(it)).collect();
        Ok(Self {
            issuer: issuer.map_err(|error| AuthorityError::of(&error))?,
            chain,
            permitted,
            excluded,
            not_after: Timestamp(not_after.saturating_mul(1000)),
            certificate,
        })
    }

    /// True if its name constraints let it sign for a host.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let within = |names: &Vec<String>| names.iter().any(|name| is_within(host, name));
        self.permitted.as_ref().is_none_or(within) && !within(&self.excluded)
    }

    /// The names that it may sign for; `None`: any.
    #[must_use]
    pub fn permitted(&self) -> Option<&[String]> {
        self.permitted.as_deref()
    }

    /// The end of its validity.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Its certificate, as clients install it.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Mints certificates of these hosts, but for those that it may not sign for.
    ///
    /// # Errors
    /// Its time is over, or the system has no random numbers.
    pub(crate) fn mint(
        &self,
        hosts: &[String],
        now: Timestamp,
        provider: &CryptoProvider,
    ) -> Result<Minted, AuthorityError> {
        if now >= self.not_after {
            let end = humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + Duration::from_millis(self.not_after.0),
            );
            return Err(AuthorityError::new(format!(
                "its time was over at {end}: run `roadstead ca init` again"
            )));
        }
        let end = now.plus(LEAF_AHEAD).min(self.not_after);
        let covered = hosts.iter().filter(|host| self.covers(host));
        let leaves = covered.map(|host| Ok((host.clone(), self.leaf(host, now, end, provider)?)));
        let soonest = now.plus(RENEW_AGAIN);
        let latest = end.0.saturating_sub(millis(RENEW_BEFORE_END));
        Ok(Minted {
            leaves: leaves.collect::<Result<_, AuthorityError>>()?,
            not_before: Timestamp(now.0.saturating_sub(millis(LEAF_BACKDATED))),
            renew_at: soonest.max(Timestamp(latest)),
        })
    }

    fn leaf(
        &self,
        host: &str,
        now: Timestamp,
        end: Timestamp,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let wrong = |error: rcgen::Error| AuthorityError(format!("{host}: {error}"));
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(wrong)?;
        params.distinguished_name = DistinguishedName::new();
        let name = if host.len() <= COMMON_NAME_BYTES_MAX {
            host
        } else {
            AUTHORITY_NAME
        };
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date(now, LEAF_BACKDATED, Duration::ZERO)?;
        params.not_after = date(end, Duration::ZERO, Duration::ZERO)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = generate()?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.iter().cloned());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let pair = CertifiedKey::from_der(chain, key, provider);
        let pair = pair.map_err(|error| AuthorityError(format!("{host}: {error}")))?;
        Ok(Arc::new(pair))
    }
}

impl Minted {
    /// True if it is time for others: these end soon, or the clock was set back to before they begin.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at || now < self.not_before
    }

    /// Puts off the next attempt.
    pub(crate) fn try_later(&mut self, now: Timestamp) {
        self.renew_at = now.plus(RENEW_AGAIN);
        self.not_before = self.not_before.min(now);
    }
}

fn generate() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| AuthorityError::of(&error))
}

/// The permitted and the excluded host names of an authority.
fn constraints(
    certificate: &X509Certificate<'_>,
) -> Result<(Option<Vec<String>>, Vec<String>), AuthorityError> {
    let wrong = |_| AuthorityError::new("its name constraints cannot be read");
    let Some(found) = certificate.name_constraints().map_err(wrong)? else {
        return Ok((None, Vec::new()));
    };
    let dns = |names: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
        let names = names.iter().flatten();
        let names = names.filter_map(|it| {
            if let GeneralName::DNSName(name) = it.base {
                return Some(name.to_ascii_lowercase());
            }
            None
        });
        names.collect::<Vec<String>>()
    };
    let permitted = dns(&found.value.permitted_subtrees);
    // No subtree of a kind permits all of that kind (RFC 5280 section 4.2.1.10).
    let permitted = (!permitted.is_empty()).then_some(permitted);
    Ok((permitted, dns(&found.value.excluded_subtrees)))
}

/// True if a host is in the subtree of a name: it, or one below it.
fn is_within(host: &str, name: &str) -> bool {
    let rest = host.strip_suffix(name.strip_prefix('.').unwrap_or(name));
    let is_below = |rest: &str| rest.ends_with('.');
    rest.is_some_and(|rest| {
        is_below(rest) || name.is_empty() || (rest.is_empty() && !name.starts_with('.'))
    })
}

fn is_root(certificate: &CertificateDer<'_>) -> bool {
    x509_parser::parse_x509_certificate(certificate)
        .is_ok_and(|(_, it)| it.subject().as_raw() == it.issuer().as_raw())
}

fn date(
    at: Timestamp,
    before: Duration,
    after: Duration,
) -> Result<OffsetDateTime, AuthorityError> {
    let millis = at.plus(after).0.saturating_sub(millis(before));
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let wrong = |_| AuthorityError::new("the system's clock is wrong");
    OffsetDateTime::from_unix_timestamp(seconds).map_err(wrong)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
