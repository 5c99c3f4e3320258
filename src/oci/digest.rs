//! Content digests: `algorithm:hex` (image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, SHA512};

use super::error::shorten;

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
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
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

/// Reason why a text is no usable digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It does not follow the grammar, or the hex is of the wrong length or case.
    #[error("not a digest")]
    Malformed,
    /// It follows the grammar, but names an algorithm that roadstead cannot check.
    /// Holds the algorithm's name, shortened to 100 characters.
    #[error("digest algorithm {0:?} is not supported")]
    Unsupported(String),
}

impl Digest {
    /// Parses `algorithm:hex`. The hex must be lower case: image-spec allows no other for the
    /// registered algorithms, and two spellings of one digest would be two cache entries.
    ///
    /// # Errors
    /// [`DigestError`].
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::Malformed)?;
        match algorithm {
            "sha256" => decode_hex(encoded).map(Self::Sha256),
            "sha512" => decode_hex(encoded).map(Self::Sha512),
            other if is_algorithm(other) && is_encoded(encoded) => {
                return Err(DigestError::Unsupported(shorten(other)));
            }
            _ => None,
        }
        .ok_or(DigestError::Malformed)
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The bytes of the digest: 32 or 64.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// Rebuilds a digest from its bytes; `None` when the length does not fit.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => bytes.try_into().ok().map(Self::Sha256),
            Algorithm::Sha512 => bytes.try_into().ok().map(Self::Sha512),
        }
    }

    /// The lower-case hex after the colon.
    #[must_use]
    pub fn hex(&self) -> String {
        self.with_hex(str::to_owned)
    }

    /// Writes its text.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(self.algorithm().name())?;
        out.write_str(":")?;
        self.with_hex(|hex| out.write_str(hex))
    }

    /// Gives the hex to `take` without an allocation: every answer has it several times.
    fn with_hex<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        let mut hex = [[0; 2]; 64];
        let bytes = self.bytes();
        for (pair, byte) in hex.iter_mut().zip(bytes) {
            *pair = HEX.get(usize::from(*byte)).copied().unwrap_or_default();
        }
        // Nothing but the digits below, and at most 64 bytes.
        let digits = hex.get(..bytes.len()).unwrap_or_default();
        take(str::from_utf8(digits.as_flattened()).unwrap_or_default())
    }

    /// Computes the digest of `content`.
    #[must_use]
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
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
///
/// AWS-LC's, which TLS brings along anyway: on processors without SHA
/// instructions its vector code is twice as fast as portable code, and every
/// byte that comes from upstream goes through here.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl Hasher {
    /// A fresh hash.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { algorithm, context }
    }
    /// Takes in more content.
    pub fn update(&mut self, content: &[u8]) {
        self.context.update(content);
    }
    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let output = self.context.finish();
        #[expect(
            clippy::expect_used,
            clippy::missing_panics_doc,
            reason = "SHA-256 gives 32 bytes and SHA-512 gives 64: what `from_bytes` takes"
        )]
        Digest::from_bytes(self.algorithm, output.as_ref())
            .expect("the output has its algorithm's length")
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// Each byte in lower-case hex.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < table.len() {
        #[expect(clippy::indexing_slicing, reason = "the compiler has run it")]
        {
            table[byte] = [digits[byte >> 4], digits[byte & 0xf]];
        }
        byte += 1;
    }
    table
};

/// Value of each character in lower-case hex, or [`NO_DIGIT`].
const NIBBLES: [u8; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < digits.len() {
        #[expect(clippy::indexing_slicing, reason = "the compiler has run it")]
        #[expect(clippy::cast_possible_truncation, reason = "at most 15")]
        {
            table[digits[value] as usize] = value as u8;
        }
        value += 1;
    }
    table
};

const NO_DIGIT: u8 = 0xff;

/// Exactly `N` bytes of lower-case hex.
fn decode_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    if hex.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = (nibble(high)? << 4) | nibble(low)?;
    }
    Some(bytes)
}

fn nibble(character: u8) -> Option<u8> {
    let value = NIBBLES.get(usize::from(character)).copied()?;
    (value != NO_DIGIT).then_some(value)
}

/// `algorithm ::= component ([+._-] component)*`, `component ::= [a-z0-9]+`.
fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-']).all(|component| {
        !component.is_empty()
            && component
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

/// `encoded ::= [a-zA-Z0-9=_-]+`.
fn is_encoded(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC_SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC_SHA512: &str = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                              2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn known_contents_have_their_known_digests() {
        let of = |algorithm, content: &[u8]| Digest::of(algorithm, content).to_string();
        assert_eq!(of(Algorithm::Sha256, b""), format!("sha256:{EMPTY_SHA256}"));
        assert_eq!(
            of(Algorithm::Sha256, b"abc"),
            format!("sha256:{ABC_SHA256}")
        );
        assert_eq!(
            of(Algorithm::Sha512, b"abc"),
            format!("sha512:{ABC_SHA512}")
        );
    }

    #[test]
    fn only_the_exact_spelling_is_a_digest() {
        let upper = ABC_SHA256.to_uppercase();
        let short = &ABC_SHA256[..63];
        for text in [
            String::new(),
            "sha256".to_owned(),
            "sha256:".to_owned(),
            format!("sha256:{upper}"),
            format!("SHA256:{ABC_SHA256}"),
            format!("sha256:{short}"),
            format!("sha256:{ABC_SHA256}0"),
            format!("sha256:{short}g"),
            format!("sha256:{}é", &ABC_SHA256[..62]),
            format!("sha512:{ABC_SHA256}"),
            format!("sha256:{ABC_SHA512}"),
            format!(" sha256:{ABC_SHA256}"),
            format!("sha256::{ABC_SHA256}"),
            format!(":{ABC_SHA256}"),
            "sha256+:ab".to_owned(),
            "+b64:ab".to_owned(),
            "Blake3:ab".to_owned(),
            "blake3:a/b".to_owned(),
            "blake3:".to_owned(),
        ] {
            assert_eq!(
                Digest::parse(&text),
                Err(DigestError::Malformed),
                "{text:?}"
            );
        }
    }

    #[test]
    fn other_algorithms_pass_the_grammar_and_are_named() {
        for (text, algorithm) in [
            ("blake3:af1349b9", "blake3"),
            (
                "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
                "multihash+base58",
            ),
            (
                "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
                "sha256+b64u",
            ),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", "md5"),
        ] {
            assert_eq!(
                Digest::parse(text),
                Err(DigestError::Unsupported(algorithm.to_owned())),
                "{text}"
            );
        }
        let long = format!("{}:00", "a".repeat(5000));
        let Err(DigestError::Unsupported(name)) = Digest::parse(&long) else {
            panic!("a long algorithm name still follows the grammar")
        };
        assert_eq!(name.len(), 100);
    }

    #[test]
    fn the_length_of_the_bytes_must_fit() {
        assert!(Digest::from_bytes(Algorithm::Sha256, &[0; 32]).is_some());
        assert_eq!(Digest::from_bytes(Algorithm::Sha256, &[0; 64]), None);
        assert_eq!(Digest::from_bytes(Algorithm::Sha512, &[0; 32]), None);
        assert_eq!(Digest::from_bytes(Algorithm::Sha512, &[]), None);
    }

    proptest! {
        #[test]
        fn parse_reads_what_display_prints(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let long: Vec<u8> = a.iter().chain(&b).copied().collect();
            for digest in [
                Digest::Sha256(a),
                Digest::from_bytes(Algorithm::Sha512, &long).unwrap(),
            ] {
                prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
                prop_assert_eq!(Digest::from_bytes(digest.algorithm(), digest.bytes()), Some(digest));
            }
        }

        #[test]
        fn any_text_parses_or_is_refused_and_prints_as_it_was(text in "(sha256|sha512|[a-z+.]{0,6})?:?[0-9a-fA-F=]{0,130}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn hashing_in_pieces_is_hashing_at_once(content in any::<Vec<u8>>(), cut in any::<prop::sample::Index>()) {
            let (head, tail) = content.split_at(cut.index(content.len() + 1));
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(head);
                hasher.update(tail);
                prop_assert_eq!(hasher.finish(), Digest::of(algorithm, &content));
            }
        }
    }
}
