//! Certificates and keys as files have them: PEM.

use crate::server::bind_error::BindError;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A PEM file above this size is refused: a long chain is some ten KiB, and anything much larger is
/// the wrong file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Marks of a file when it was looked at: a changed one has other marks. `None` where there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    /// Looks at a file, or at what a link leads to.
    pub(super) fn of(path: &Path) -> Self {
        let known = fs::metadata(path).ok();
        Self(known.map(|it| (it.dev(), it.ino(), it.len(), it.mtime(), it.mtime_nsec())))
    }
}

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

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, BindError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let why = if matches!(error, pem::Error::NoItemsFound) {
            "there is no private key in it".to_owned()
        } else {
            not_pem(&error)
        };
        unusable(path, why)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, BindError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|error| unusable(path, error.to_string()))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > PEM_BYTES_MAX {
        let why = format!("it is larger than {PEM_BYTES_MAX} bytes");
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
