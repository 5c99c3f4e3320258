//! The object store, as an operator is told of it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The object store of this process.
pub trait ThisTier: fmt::Debug + Send + Sync {
    /// The state of it.
    fn report(&self) -> TierStatus;
}

/// The state of the object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierStatus {
    /// The bucket, as it is configured.
    pub bucket: String,
    /// `ok`, `resting` (it did not answer, and is left alone for some seconds), `refused` (it does not let us write) or
    /// `unknown` (it has not answered yet).
    pub state: String,
    /// The reason, where it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Blobs that wait to be written.
    pub pending_blobs: usize,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Tags and links that wait to be written.
    pub pending_facts: usize,
}
