//! Guards of what the ledger has counted: a blob that is used, and room that is reserved.

use std::sync::Arc;

use crate::oci::Digest;
use crate::store::contents::Contents;
use crate::store::maintain::quarantine::Quarantine;

/// Keeps a stored blob from being evicted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pin(pub(super) Arc<Pinned>);

#[derive(Debug)]
pub(super) struct Pinned {
    contents: Arc<Contents>,
    /// For a blob that cannot be read.
    pub(super) quarantine: Arc<Quarantine>,
    digest: Digest,
}

/// A reservation for a file that has no name any more: given back with the last who reads it.
#[derive(Debug)]
pub(in crate::store) struct Spare {
    contents: Arc<Contents>,
    bytes: u64,
}

impl Pin {
    /// The guard of a pin that the ledger has counted already.
    pub(in crate::store) fn of_pinned(
        contents: Arc<Contents>,
        quarantine: Arc<Quarantine>,
        digest: Digest,
    ) -> Self {
        Self(Arc::new(Pinned {
            contents,
            quarantine,
            digest,
        }))
    }

    /// The digest of the blob.
    pub(in crate::store) fn digest(&self) -> &Digest {
        &self.0.digest
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut ledger = self.contents.ledger();
        ledger.stored_mut().unpin(&self.digest);
    }
}

impl Spare {
    /// The guard of `bytes` that are reserved already.
    pub(in crate::store) fn new(contents: Arc<Contents>, bytes: u64) -> Self {
        Self { contents, bytes }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.contents.release(self.bytes);
    }
}
