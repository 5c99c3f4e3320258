//! Tokens of this server: `rst_<id>_<secret><checksum>`. The beginning is for programs that look for secrets in places
//! where they should not be, and the checksum keeps them from crying for nothing.

use crate::catalogue::Token;
use crate::net::Secret;
use aws_lc_rs::constant_time;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use std::fmt::Write as _;

/// The beginning of all of them.
pub(super) const BEGINNING: &str = "rst_";

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
const CHECKSUM_DIGITS: usize = 8;

/// A token that was made a moment ago.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) id: String,
    /// The text that its bearer is given, this once.
    pub(super) text: Secret,
    /// The hash that is kept.
    pub(super) hash: [u8; 32],
}

/// A token as somebody sends it.
#[derive(Debug)]
pub(super) struct Sent<'t> {
    pub(super) id: &'t str,
    secret: &'t str,
}

impl Fresh {
    /// Makes one; `None` without random numbers.
    pub(super) fn make() -> Option<Self> {
        let mut bytes = [0; ID_BYTES + SECRET_BYTES];
        rand::fill(&mut bytes).ok()?;
        let (id, secret) = bytes.split_at(ID_BYTES);
        let (id, secret) = (hex(id), hex(secret));
        let hash = hash(&secret);
        let body = format!("{BEGINNING}{id}_{secret}");
        let checksum = crc32fast::hash(body.as_bytes());
        Some(Self {
            id,
            text: Secret::new(format!("{body}{checksum:08x}")),
            hash,
        })
    }
}

impl<'t> Sent<'t> {
    /// Reads one; `None` where it is none, or was copied with an error.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let body = text.get(..text.len().checked_sub(CHECKSUM_DIGITS)?)?;
        let checksum = u32::from_str_radix(text.get(body.len()..)?, 16).ok()?;
        let (id, secret) = body.strip_prefix(BEGINNING)?.split_once('_')?;
        let is_whole = id.len() == 2 * ID_BYTES
            && secret.len() == 2 * SECRET_BYTES
            && checksum == crc32fast::hash(body.as_bytes());
        is_whole.then_some(Self { id, secret })
    }

    /// True if it is this one. The time that takes tells nothing of the secret.
    pub(super) fn is(&self, token: &Token) -> bool {
        constant_time::verify_slices_are_equal(&hash(self.secret), &token.secret).is_ok()
    }
}

/// 256 bits cannot be guessed, and so need no slow hash.
fn hash(secret: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    let hash = digest(&SHA256, secret.as_bytes());
    bytes.copy_from_slice(hash.as_ref().get(..32).unwrap_or(&[0; 32]));
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a string does not fail.
            write!(text, "{byte:02x}").ok();
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::TokenKind;
    use crate::clock::Timestamp;

    #[test]
    fn a_token_is_known_again_and_no_other() {
        let fresh = Fresh::make().unwrap();
        let text = fresh.text.expose().to_owned();
        assert!(text.starts_with("rst_"), "{text}");
        let sent = Sent::parse(&text).expect("a token");
        assert_eq!(sent.id, fresh.id);
        let kept = |secret| Token {
            id: fresh.id.clone(),
            secret,
            kind: TokenKind::Token,
            owner: "alice".to_owned(),
            policies: Vec::new(),
            note: String::new(),
            created: Timestamp(0),
            expires: None,
            used: None,
        };
        assert!(sent.is(&kept(fresh.hash)));
        assert!(!sent.is(&kept(Fresh::make().unwrap().hash)));
        for at in 4..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(Sent::parse(&wrong).is_none(), "{at}: {wrong}");
        }
        for wrong in ["", "rst_", "rst_a_b", "ghp_x"] {
            assert!(Sent::parse(wrong).is_none(), "{wrong}");
        }
    }
}
