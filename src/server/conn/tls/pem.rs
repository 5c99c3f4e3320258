//! Certificates and keys as files have them: PEM.

use crate::clock::Timestamp;
use crate::server::bind_error::BindError;
use crate::server::transparent::Authority;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

/// A PEM file above this size is refused: a long chain is some ten KiB, and anything much larger is
/// the wrong file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// A file of revocation lists above this size is refused: the largest of public authorities have some ten MiB.
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Permissions that a key of an authority must not have: others read it, or write it.
const OTHERS_MAY: u32 = 0o066;

/// The first byte of a certificate or list in DER: a sequence (X.690 section 8.9).
const DER_SEQUENCE: u8 = 0x30;

/// A revocation list.
type List = CertificateRevocationListDer<'static>;

/// Reads a certificate chain and its key.
///
/// # Errors
/// [`BindError::Tls`], which names the file at fault.
pub(super) fn read_pair(
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, BindError> {
    let (chain, private) = (read_chain(cert)?, read_key(key)?);
    let pair = CertifiedKey::from_der(chain, private, provider);
    pair.map_err(|error| mismatch(cert, key, &error))
}

/// Reads the authority of transparent mode.
///
/// # Errors
/// [`BindError::Tls`], which names the file at fault.
pub(crate) fn read_authority(cert: &Path, key: &Path) -> Result<Authority, BindError> {
    for path in [cert, key] {
        if fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            let why =
                "it is not there: `roadstead ca init` makes the authority of transparent mode";
            return Err(unusable(path, why.to_owned()));
        }
    }
    let (chain, private) = (read_chain(cert)?, read_private_key(key)?);
    let authority = Authority::new(chain, &private);
    authority.map_err(|error| unusable(cert, error.to_string()))
}

/// Reads the authorities that clients' certificates may be of.
///
/// # Errors
/// [`BindError::Tls`], which names the file.
pub(super) fn read_authorities(path: &Path) -> Result<RootCertStore, BindError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| unusable(path, error.to_string()))?;
    }
    Ok(roots)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, BindError> {
    let text = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, not_pem(&error)))?;
    if chain.is_empty() {
        return Err(unusable(path, "there is no certificate in it".to_owned()));
    }
    Ok(chain)
}

/// Reads the key of an authority, which its owner alone may read and write.
///
/// # Errors
/// [`BindError::Tls`], which names the file: others may, or there is no key in it.
fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, BindError> {
    let open = || -> io::Result<(u32, Vec<u8>)> {
        let file = File::open(path)?;
        // The mode of the file that is read, and not of one that may have taken its name since.
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let mut text = Vec::new();
        file.take(PEM_BYTES_MAX).read_to_end(&mut text)?;
        Ok((mode, text))
    };
    let (mode, text) = open().map_err(|error| unusable(path, error.to_string()))?;
    if mode & OTHERS_MAY != 0 {
        let why = format!(
            "its mode is {mode:04o}, and others than its owner can read or change the key of the authority: run `chmod 600` on it, and `roadstead ca init` again if somebody may have"
        );
        return Err(unusable(path, why));
    }
    parse_key(path, &text)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, BindError> {
    parse_key(path, &read(path)?)
}

fn parse_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, BindError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        let why = if matches!(error, pem::Error::NoItemsFound) {
            "there is no private key in it".to_owned()
        } else {
            not_pem(&error)
        };
        unusable(path, why)
    })
}

/// Reads revocation lists: PEM, or one in DER as authorities publish them. Says, too, when the first of them should be
/// replaced.
///
/// # Errors
/// [`BindError::Tls`], which names the file.
pub(super) fn read_lists(path: &Path) -> Result<(Vec<List>, Option<Timestamp>), BindError> {
    let text = read_up_to(path, LIST_BYTES_MAX)?;
    let lists = if text.first() == Some(&DER_SEQUENCE) {
        vec![List::from(text)]
    } else {
        List::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(path, not_pem(&error)))?
    };
    if lists.is_empty() {
        let why = "there is no revocation list in it".to_owned();
        return Err(unusable(path, why));
    }
    let mut first: Option<Timestamp> = None;
    for list in &lists {
        let wrong = |_| unusable(path, "a revocation list in it cannot be read".to_owned());
        let (_, list) = x509_parser::parse_x509_crl(list).map_err(wrong)?;
        let next = list.next_update().map(|it| it.timestamp());
        let next = next.and_then(|it| u64::try_from(it).ok());
        let next = next.map(|seconds| Timestamp(seconds.saturating_mul(1000)));
        first = first.into_iter().chain(next).min();
    }
    Ok((lists, first))
}

/// True if a list is of the authority with this name (the content of its DER).
pub(super) fn is_list_of(list: &List, subject: &[u8]) -> bool {
    let whole = sequence(subject);
    x509_parser::parse_x509_crl(list).is_ok_and(|(_, it)| it.issuer().as_raw() == whole)
}

/// A name of an authority (the content of its DER), as people read it.
pub(super) fn name_of(subject: &[u8]) -> String {
    let whole = sequence(subject);
    X509Name::from_der(&whole).map_or_else(|_| String::new(), |(_, name)| name.to_string())
}

/// The DER of a sequence with this content (X.690 section 8.1.3); empty for one that is longer than any name.
fn sequence(content: &[u8]) -> Vec<u8> {
    let Ok(length) = u16::try_from(content.len()) else {
        return Vec::new();
    };
    let [high, low] = length.to_be_bytes();
    let head: &[u8] = match length {
        0..0x80 => &[DER_SEQUENCE, low],
        0x80..0x100 => &[DER_SEQUENCE, 0x81, low],
        0x100.. => &[DER_SEQUENCE, 0x82, high, low],
    };
    [head, content].concat()
}

fn read(path: &Path) -> Result<Vec<u8>, BindError> {
    read_up_to(path, PEM_BYTES_MAX)
}

fn read_up_to(path: &Path, bytes_max: u64) -> Result<Vec<u8>, BindError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut text))
        .map_err(|error| unusable(path, error.to_string()))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > bytes_max {
        let why = format!("it is larger than {bytes_max} bytes");
        return Err(unusable(path, why));
    }
    Ok(text)
}

fn mismatch(cert: &Path, key: &Path, error: &rustls::Error) -> BindError {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        let why = format!("it is not the key of the certificate in {}", cert.display());
        return unusable(key, why);
    }
    if matches!(error, rustls::Error::InvalidCertificate(_)) {
        return unusable(cert, error.to_string());
    }
    unusable(key, error.to_string())
}

/// The parser's own text may quote the file, and a key must not get into a log.
fn not_pem(error: &pem::Error) -> String {
    let why = if matches!(error, pem::Error::MissingSectionEnd { .. }) {
        "a PEM section in it has no end"
    } else if matches!(error, pem::Error::IllegalSectionStart { .. }) {
        "a PEM section in it begins wrongly"
    } else if matches!(error, pem::Error::Base64Decode(_)) {
        "a PEM section in it is not base64"
    } else {
        "it is not PEM"
    };
    why.to_owned()
}

pub(super) fn unusable(path: &Path, why: String) -> BindError {
    BindError::Tls {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::PairConfig;
    use rustls::crypto::aws_lc_rs;
    use std::io::Write;

    struct Files {
        _dir: tempfile::TempDir,
        config: PairConfig,
    }

    fn files(cert: &str, key: &str) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .unwrap();
            path
        };
        let config = PairConfig {
            cert: write("tls.crt", cert),
            key: write("tls.key", key),
        };
        Files { _dir: dir, config }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn complaint(cert: &str, key: &str) -> String {
        load(&files(cert, key).config).unwrap_err().to_string()
    }

    fn load(config: &PairConfig) -> Result<CertifiedKey, BindError> {
        read_pair(&config.cert, &config.key, &aws_lc_rs::default_provider())
    }

    #[test]
    fn every_complaint_names_the_file_and_the_cause() {
        let (cert, key) = pair();
        let (_, other_key) = pair();
        let cases = [
            ("", key.as_str(), "tls.crt: there is no certificate in it"),
            (&cert, "", "tls.key: there is no private key in it"),
            (&cert, &cert, "tls.key: there is no private key in it"),
            (
                &cert,
                &other_key,
                "tls.key: it is not the key of the certificate",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA",
                &key,
                "tls.crt: a PEM section in it has no end",
            ),
        ];
        for (cert, key, expected) in cases {
            let text = complaint(cert, key);
            assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let (cert, key) = pair();
        let mut made = files(&cert, &key);
        made.config.cert.set_file_name("absent.crt");
        let text = load(&made.config).unwrap_err().to_string();
        assert!(text.contains("absent.crt"), "{text:?}");
        assert!(text.contains("No such file"), "{text:?}");
    }

    #[test]
    fn a_huge_file_is_not_read_whole() {
        let (_, key) = pair();
        let text = complaint(&"x".repeat(1024 * 1024 + 1), &key);
        assert!(text.contains("larger than 1048576 bytes"), "{text:?}");
    }
}
