//! The keys that tokens are signed with: Ed25519, in the state directory, readable by its owner alone. The key before
//! the last is kept, so that tokens that it has signed hold until they expire. Nodes of a cluster have keys that are derived
//! from its secret, so that each takes the tokens of the others.

#![expect(
    clippy::disallowed_methods,
    reason = "the state directory is no part of the store; the keys in it are changed here alone"
)]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

/// The key in use, and the one before it.
const FILES: [&str; 2] = ["token.key", "token.previous.key"];

/// After so long another key is made at a start.
const AGE_MAX: Duration = Duration::from_hours(90 * 24);

/// Bits of a file's mode that others than its owner must not have.
const OTHERS: u32 = 0o077;

/// The reason why there is no key: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// The keys.
#[derive(Debug)]
pub(super) struct Keys {
    current: Key,
    /// Those that what they have signed is taken of, too.
    others: Vec<Key>,
}

/// The seed of a key that several nodes have. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSeed([u8; 32]);

impl SigningSeed {
    /// A seed, as random as a key.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self(seed)
    }
}

impl fmt::Debug for SigningSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A key and its name.
#[derive(Debug)]
struct Key {
    pair: Ed25519KeyPair,
    id: String,
}

impl Keys {
    /// Keys that nobody else has, and that are gone with the process.
    ///
    /// # Errors
    /// There are no random numbers.
    pub(super) fn ephemeral() -> Result<Self, KeyError> {
        let failed = |_unspecified| KeyError("cannot make a key: no random numbers".to_owned());
        let pair = Ed25519KeyPair::generate().map_err(failed)?;
        Ok(Self {
            current: Key::of(pair),
            others: Vec::new(),
        })
    }

    /// The keys that all nodes of a cluster have: the first one signs. `None`: there are no seeds.
    ///
    /// # Errors
    /// A key cannot be made of one.
    pub(super) fn shared(seeds: &[SigningSeed]) -> Result<Option<Self>, KeyError> {
        let key = |SigningSeed(seed): &SigningSeed| {
            let pair = Ed25519KeyPair::from_seed_unchecked(seed);
            pair.map(Key::of)
                .map_err(|rejected| KeyError(format!("cannot make a key: {rejected}")))
        };
        let mut keys = seeds.iter().map(key);
        let Some(current) = keys.next().transpose()? else {
            return Ok(None);
        };
        let others = keys.collect::<Result<_, _>>()?;
        Ok(Some(Self { current, others }))
    }

    /// The keys of a directory; makes one where there is none, or none that is young. Blocks.
    ///
    /// # Errors
    /// A file cannot be read or written, is no key, or can be read by others.
    pub(super) fn open(dir: &Path) -> Result<Self, KeyError> {
        let [current, previous] = FILES.map(|name| dir.join(name));
        let is_old = match fs::metadata(&current) {
            Ok(metadata) => metadata
                .modified()
                .ok()
                .and_then(|at| at.elapsed().ok())
                .is_some_and(|age| age > AGE_MAX),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(dir, &current)?;
                false
            }
            Err(error) => return Err(cannot("read", &current, &error)),
        };
        if is_old {
            fs::rename(&current, &previous).map_err(|error| cannot("rename", &current, &error))?;
            make(dir, &current)?;
        }
        let before = match Key::read(&previous) {
            Ok(key) => Some(key),
            Err(_) if !previous.exists() => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            current: Key::read(&current)?,
            others: before.into_iter().collect(),
        })
    }

    /// The name of the key that signs.
    pub(super) fn id(&self) -> &str {
        &self.current.id
    }

    /// Signs.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.current.pair.sign(message).as_ref().to_vec()
    }

    /// True if the key of this name has signed it.
    pub(super) fn has_signed(&self, id: &str, message: &[u8], signed: &[u8]) -> bool {
        let mut keys = std::iter::once(&self.current).chain(&self.others);
        let key = keys.find(|key| key.id == id);
        key.is_some_and(|key| {
            let public = key.pair.public_key().as_ref();
            let public = UnparsedPublicKey::new(&signature::ED25519, public);
            public.verify(message, signed).is_ok()
        })
    }
}

impl Key {
    fn of(pair: Ed25519KeyPair) -> Self {
        let hash = digest(&SHA256, pair.public_key().as_ref());
        let mut id = String::with_capacity(16);
        for byte in hash.as_ref().iter().take(8) {
            // Writing to a string does not fail.
            write!(id, "{byte:02x}").ok();
        }
        Self { pair, id }
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let metadata = fs::metadata(path).map_err(|error| cannot("read", path, &error))?;
        if metadata.mode() & OTHERS != 0 {
            return Err(KeyError(format!(
                "{}: others than its owner can read it: chmod 600 it, or remove it, and all clients log in again",
                path.display()
            )));
        }
        let bytes = fs::read(path).map_err(|error| cannot("read", path, &error))?;
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_rejected| {
            KeyError(format!(
                "{}: is no key: remove it, and all clients log in again",
                path.display()
            ))
        })?;
        Ok(Self::of(pair))
    }
}

/// Makes a key: whole under its name, or not there.
fn make(dir: &Path, path: &Path) -> Result<(), KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new());
    let document = document
        .map_err(|_unspecified| KeyError("cannot make a key: no random numbers".to_owned()))?;
    let part = path.with_extension("part");
    let write = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(document.as_ref())?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> KeyError {
    KeyError(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_stay_and_others_have_no_part_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).expect("keys");
        let signed = keys.sign(b"message");
        let again = Keys::open(dir.path()).expect("the same");
        assert_eq!(again.id(), keys.id());
        assert!(again.has_signed(keys.id(), b"message", &signed));
        assert!(!again.has_signed(keys.id(), b"another", &signed));
        assert!(!again.has_signed("other", b"message", &signed));
        let other = Keys::ephemeral().expect("a key");
        assert!(!other.has_signed(other.id(), b"message", &signed));

        let path = dir.path().join("token.key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let why = Keys::open(dir.path())
            .expect_err("others can read it")
            .to_string();
        assert!(
            why.contains("token.key") && why.contains("chmod 600"),
            "{why}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense").unwrap();
        let why = Keys::open(dir.path()).expect_err("no key").to_string();
        assert!(why.contains("is no key"), "{why}");
    }

    #[test]
    fn an_old_key_is_replaced_and_still_believed() {
        let dir = tempfile::tempdir().unwrap();
        let old = Keys::open(dir.path()).expect("keys");
        let file = fs::File::open(dir.path().join("token.key")).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_hours(1);
        file.set_modified(long_ago).unwrap();
        let new = Keys::open(dir.path()).expect("keys");
        assert_ne!(new.id(), old.id());
        assert!(new.has_signed(old.id(), b"x", &old.sign(b"x")));
        assert!(new.has_signed(new.id(), b"x", &new.sign(b"x")));
    }
}
