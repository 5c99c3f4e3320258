//! The results of looking at credentials: an identity, or the reason why it is not known.

use super::Principal;
use crate::clock::Timestamp;
use crate::telemetry::AuthResult;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::time::Duration;

/// An identity, and the credentials that show it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) principal: Principal,
    /// A stand-in for the credentials in tokens that are given for them.
    pub(super) credential: String,
    /// When they end.
    pub(super) until: Option<Timestamp>,
}

/// The reason why an identity is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// The credentials are wrong.
    #[error("the user name or password is wrong, or the token is not valid")]
    Invalid,
    /// Somebody has tried too often.
    #[error("too many failed logins")]
    Limited(Duration),
    /// They cannot be checked now.
    #[error("credentials cannot be checked: {0}")]
    Unavailable(String),
}

/// Stands for a hash, and does not tell it.
pub(super) fn fingerprint(hash: &str) -> String {
    let digest = digest(&SHA256, hash.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref().get(..12).unwrap_or_default())
}

/// The word for what came of credentials.
pub fn result_of<T>(found: &Result<T, IdentifyError>) -> AuthResult {
    match found {
        Ok(_) => AuthResult::Accepted,
        Err(IdentifyError::Invalid) => AuthResult::Rejected,
        Err(IdentifyError::Limited(_)) => AuthResult::Limited,
        Err(IdentifyError::Unavailable(_)) => AuthResult::Unavailable,
    }
}
