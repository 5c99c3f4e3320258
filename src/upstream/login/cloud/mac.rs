//! Keyed hashes, as the clouds' signatures need them.

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, Key, Tag, sign};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::oci::{Algorithm, Digest};

/// HMAC-SHA256 (RFC 2104, FIPS 180-4).
pub(super) fn hmac_sha256(key: &[u8], message: &str) -> Tag {
    sign(&Key::new(HMAC_SHA256, key), message.as_bytes())
}

/// HMAC-SHA1 in Base64. Alibaba's signatures know no better in the versions that their registries'
/// APIs are documented with; as a keyed hash it is not known to be broken.
pub(super) fn hmac_sha1_base64(key: &[u8], message: &str) -> String {
    let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    BASE64.encode(sign(&key, message.as_bytes()))
}

/// SHA-256 in lower-case hex.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).hex()
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}
