//! Content digests: `algorithm:hex` (image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

/// A digest algorithm that roadstead can compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, which every registry uses.
    Sha256,
    /// `sha512`, registered and rare.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        todo!()
    }
}

/// The digest of some content, of an algorithm that can be checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// Why a text is no usable digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It does not follow the grammar, or the hex is of the wrong length or case.
    #[error("not a digest")]
    Malformed,
    /// It follows the grammar, but names an algorithm that roadstead cannot check.
    #[error("digest algorithm {0:?} is not supported")]
    Unsupported(String),
}

impl Digest {
    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    /// [`DigestError`].
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        todo!()
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        todo!()
    }

    /// The bytes of the digest: 32 or 64.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        todo!()
    }

    /// Rebuilds a digest from its bytes; `None` when the length does not fit.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        todo!()
    }

    /// The lower-case hex after the colon.
    #[must_use]
    pub fn hex(&self) -> String {
        todo!()
    }

    /// Computes the digest of `content`.
    #[must_use]
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        todo!()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(s: &str) -> Result<Self, DigestError> {
        Self::parse(s)
    }
}

/// A running hash.
#[derive(Clone)]
pub struct Hasher(/* enum of sha2 states, boxed where large */);

impl Hasher {
    /// A fresh hash.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        todo!()
    }
    /// Takes in more content.
    pub fn update(&mut self, content: &[u8]) {
        todo!()
    }
    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        todo!()
    }
}
