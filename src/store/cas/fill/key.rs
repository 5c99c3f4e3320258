//! The identity of a fill: a blob on its way from one upstream. Bytes that are not checked yet are that upstream's
//! alone, and so its file, its record and its room are, too.

use crate::oci::{Algorithm, Digest, UpstreamName};
use crate::store::capacity::evict::OwnerId;

/// Part of the hash of an upstream's name that stands for it: nobody finds two names for one of these.
const UPSTREAM_BYTES: usize = 16;

/// Between the digest and the upstream in the name of a file; neither has it.
const SEPARATOR: char = '@';

/// A blob on its way from one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FillKey {
    digest: Digest,
    upstream: [u8; UPSTREAM_BYTES],
}

impl FillKey {
    /// Of this blob, from this upstream.
    #[must_use]
    pub fn new(upstream: &UpstreamName, digest: Digest) -> Self {
        let hash = Digest::of(Algorithm::Sha256, upstream.as_str().as_bytes());
        let upstream = hash.bytes().first_chunk().copied().unwrap_or_default();
        Self { digest, upstream }
    }

    /// The blob.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The number that stands for its upstream in the ledger.
    pub(in crate::store) fn owner(&self) -> OwnerId {
        let [a, b, c, d, ..] = self.upstream;
        OwnerId::from_be_bytes([a, b, c, d]).max(1)
    }

    /// Name of its files, before the dot.
    pub(in crate::store) fn stem(&self) -> String {
        let upstream = u128::from_be_bytes(self.upstream);
        format!("{}{SEPARATOR}{upstream:032x}", self.digest.hex())
    }

    /// Whose files are named so. Those of versions that did not tell upstreams apart are nobody's.
    pub(in crate::store) fn parse_stem(algorithm: Algorithm, stem: &str) -> Option<Self> {
        let (hex, upstream) = stem.split_once(SEPARATOR)?;
        let digest = Digest::parse(&format!("{}:{hex}", algorithm.name())).ok()?;
        let upstream = u128::from_str_radix(upstream, 16).ok()?.to_be_bytes();
        let key = Self { digest, upstream };
        // There is one name for each.
        (key.stem() == stem).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::capacity::quota::owner_id;

    #[test]
    fn a_files_name_says_whose_it_is() {
        let name = |text: &str| UpstreamName::parse(text).unwrap();
        for digest in [Digest::Sha256([7; 32]), Digest::Sha512([0; 64])] {
            let key = FillKey::new(&name("docker.io"), digest);
            let other = FillKey::new(&name("ghcr.io"), digest);
            assert_ne!(key, other);
            assert_ne!(key.stem(), other.stem());
            assert_eq!(key.owner(), owner_id(&name("docker.io")));
            let algorithm = digest.algorithm();
            for key in [key, other] {
                assert_eq!(FillKey::parse_stem(algorithm, &key.stem()), Some(key));
            }
            assert!(key.stem().len() + ".part".len() <= 255, "a file's name");
        }
    }

    #[test]
    fn other_names_are_nobodys() {
        let hex = "ab".repeat(32);
        let upstream = "0123456789abcdef".repeat(2);
        let parse = |stem: &str| FillKey::parse_stem(Algorithm::Sha256, stem);
        assert!(parse(&format!("{hex}@{upstream}")).is_some());
        for stem in [
            hex.clone(),
            format!("{hex}@"),
            format!("{hex}@{upstream}0"),
            format!("{hex}@+{}", &upstream[1..]),
            format!("{hex}@{}", upstream.to_uppercase()),
            format!("{hex}@{upstream}@"),
            format!("{}@{upstream}", &hex[1..]),
            String::new(),
        ] {
            assert_eq!(parse(&stem), None, "{stem}");
        }
    }
}
