//! Facts in the bucket, which its cluster's key has sealed. A digest proves bytes, and nothing proves a tag: whoever can
//! write to the bucket must not be able to move one, or to open what a repository does not have.
//!
//! Somebody who writes there can bring back what was true once. So a tag counts for as long as one that a node has seen
//! itself would, and only as long as the upstream does not answer.

use std::fmt;
use std::path::Path;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::net::SharedSecrets;

/// The purpose of the key. Fixed: what is sealed stays.
const PURPOSE: &[u8] = b"bucket facts 1";

/// Bytes of a seal, in hexadecimal.
const SEAL_BYTES: usize = 64;

/// Seals and checks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seal {
    /// The one in use first.
    keys: Vec<hmac::Key>,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// The seal of the secrets in a file. Blocks.
    ///
    /// # Errors
    /// The reason, without the name of the file.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        Self::of(&SharedSecrets::read(path)?.seeds(PURPOSE)?)
    }

    fn of(seeds: &[[u8; 32]]) -> Result<Self, String> {
        if seeds.is_empty() {
            return Err("there is no secret".to_owned());
        }
        let key = |seed: &[u8; 32]| hmac::Key::new(HMAC_SHA256, seed);
        let keys = seeds.iter().map(key).collect();
        Ok(Self { keys })
    }

    /// A fact and its seal.
    pub(super) fn seal<T: Serialize>(&self, fact: &T) -> Option<Vec<u8>> {
        let mut text = serde_json::to_vec(fact).ok()?;
        let tag = hmac::sign(self.keys.first()?, &text);
        text.push(b'\n');
        for byte in tag.as_ref() {
            text.extend(format!("{byte:02x}").bytes());
        }
        Some(text)
    }

    /// A fact, if its seal is whole.
    pub(super) fn open<T: DeserializeOwned>(&self, sealed: &[u8]) -> Option<T> {
        let (text, seal) = sealed.split_at_checked(sealed.len().checked_sub(SEAL_BYTES)?)?;
        let text = text.strip_suffix(b"\n")?;
        let seal = unhex(seal)?;
        let is_whole = |key: &hmac::Key| hmac::verify(key, text, &seal).is_ok();
        if !self.keys.iter().any(is_whole) {
            return None;
        }
        serde_json::from_slice(text).ok()
    }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digits = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    text.chunks(2).map(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_that_somebody_else_has_written_or_changed_is_none() {
        let ours = Seal::of(&[[1; 32]]).unwrap();
        let sealed = ours.seal(&("tag", "v1")).unwrap();
        let read = |seal: &Seal, text: &[u8]| seal.open::<(String, String)>(text);
        assert_eq!(
            read(&ours, &sealed),
            Some(("tag".to_owned(), "v1".to_owned()))
        );
        assert_eq!(read(&Seal::of(&[[2; 32]]).unwrap(), &sealed), None);
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert_eq!(read(&ours, &other), None, "byte {at}");
            assert_eq!(read(&ours, &sealed[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn while_the_secret_is_replaced_both_are_good() {
        let before = Seal::of(&[[1; 32]]).unwrap();
        let both = Seal::of(&[[2; 32], [1; 32]]).unwrap();
        let old = before.seal(&7).unwrap();
        assert_eq!(both.open::<u8>(&old), Some(7));
        let new = both.seal(&7).unwrap();
        assert_eq!(before.open::<u8>(&new), None);
    }
}
