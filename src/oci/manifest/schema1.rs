//! The payload of a signed schema 1 manifest: the document without its signatures, whose digest is
//! the one the registry knows it by (distribution, manifest/schema1; docker/libtrust, jsonsign.go).

use crate::oci::{Algorithm, Digest, Hasher};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Contents of the signature's protected header about the payload: the first `formatLength` bytes of the
/// document, and then `formatTail`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

/// The digest of the payload; `None` when the header does not fit the document.
pub(super) fn payload_digest(protected: &str, document: &[u8]) -> Option<Digest> {
    let protected: Protected = serde_json::from_slice(&decode(protected)?).ok()?;
    let tail = decode(&protected.format_tail)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(document.get(..protected.format_length)?);
    hasher.update(&tail);
    Some(hasher.finish())
}

/// Base64 as libtrust reads it: the URL alphabet, padded or not, white space left out.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text: String = text.chars().filter(|c| !matches!(c, ' ' | '\n')).collect();
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}
