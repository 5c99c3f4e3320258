//! Secrets that all nodes of a cluster share, and keys that are derived from them. They are never sent.

use std::fmt;
use std::fs;
use std::path::Path;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

/// The shortest secret, in bytes: the derivation is fast, and whoever connects can try secrets.
const SECRET_BYTES_MIN: usize = 32;

/// Secrets in a file: the one in use, and those that are accepted while it is replaced.
const SECRETS_MAX: usize = 4;

/// A file of secrets that is longer is another one.
const SECRET_FILE_BYTES_MAX: u64 = 16 * 1024;

/// The derivation: other words make other keys. Fixed, since nodes of several versions have to agree.
const SALT: &[u8] = b"roadstead cluster";

/// The secrets of a file, the one in use first.
pub(crate) struct SharedSecrets(Vec<Vec<u8>>);

impl fmt::Debug for SharedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl SharedSecrets {
    /// Reads the secrets of a file, a line each. Blocks.
    ///
    /// # Errors
    /// The reason, without the name of the file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
        if size > SECRET_FILE_BYTES_MAX {
            return Err(format!("is larger than {SECRET_FILE_BYTES_MAX} bytes"));
        }
        let text = fs::read(path).map_err(|error| error.to_string())?;
        let lines = text.split(|byte| *byte == b'\n');
        let secrets: Vec<Vec<u8>> = lines
            .map(|line| line.trim_ascii().to_vec())
            .filter(|line| !line.is_empty())
            .collect();
        if secrets.is_empty() {
            return Err("is empty".to_owned());
        }
        if secrets.len() > SECRETS_MAX {
            return Err(format!(
                "has more than {SECRETS_MAX} lines: it is one secret a line, the one in use first"
            ));
        }
        if let Some(at) = secrets
            .iter()
            .position(|secret| secret.len() < SECRET_BYTES_MIN)
        {
            let line = at + 1;
            return Err(format!(
                "the secret in line {line} is shorter than {SECRET_BYTES_MIN} characters: make one with `openssl rand -hex 32`"
            ));
        }
        Ok(Self(secrets))
    }

    /// A seed for a purpose of each secret (HKDF, RFC 5869).
    ///
    /// # Errors
    /// One line.
    pub(crate) fn seeds(&self, purpose: &[u8]) -> Result<Vec<[u8; 32]>, String> {
        let seed = |secret: &Vec<u8>| {
            let mut seed = [0; 32];
            let extracted = Salt::new(HKDF_SHA256, SALT).extract(secret);
            extracted
                .expand(&[purpose], HKDF_SHA256)
                .and_then(|expanded| expanded.fill(&mut seed))
                .map_err(|_unspecified| "a key cannot be derived from the secret".to_owned())?;
            Ok(seed)
        };
        self.0.iter().map(seed).collect()
    }
}
