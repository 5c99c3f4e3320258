//! Content by its digest: stored blobs, and those on their way.

pub(super) mod blob;
pub mod coverage;
pub(super) mod demand;
pub mod fill;
pub(super) mod fill_state;
pub(super) mod ingest;
pub(super) mod open_files;
pub mod partial;
pub(super) mod pin;
pub(super) mod publish;
pub(super) mod record;
pub(super) mod upload;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::capacity::Capacity;
use super::contents::Contents;
use super::disk::work::{Kind, Task};
use super::maintain::quarantine::Quarantine;
use super::{Blob, Pin, StoreError};
use crate::oci::Digest;

/// The stored blobs and the fills, with all that they need: the blobs' files and ledger, room for more, and a place for
/// damaged ones. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Cas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quarantine: Arc<Quarantine>,
    capacity: Arc<Capacity>,
    contents: Arc<Contents>,
}

impl Cas {
    pub(super) fn new(
        contents: &Arc<Contents>,
        quarantine: &Arc<Quarantine>,
        capacity: &Arc<Capacity>,
    ) -> Self {
        Self(Arc::new(Inner {
            quarantine: Arc::clone(quarantine),
            capacity: Arc::clone(capacity),
            contents: Arc::clone(contents),
        }))
    }

    pub(super) fn contents(&self) -> &Arc<Contents> {
        &self.0.contents
    }

    pub(super) fn quarantine(&self) -> &Arc<Quarantine> {
        &self.0.quarantine
    }

    pub(super) fn capacity(&self) -> &Arc<Capacity> {
        &self.0.capacity
    }

    /// The guard of a pin that the ledger has counted already.
    pub(super) fn guard(&self, digest: Digest) -> Pin {
        Pin::of_pinned(
            Arc::clone(self.contents()),
            Arc::clone(self.quarantine()),
            digest,
        )
    }

    /// A stored blob whose file is open already, pinned. Waits for nothing.
    pub(super) fn open_blob(&self, digest: &Digest) -> Option<Blob> {
        let file = self.contents().open_files().get(digest).cloned()?;
        let size = self.contents().ledger().stored_mut().pin(digest)?;
        let pin = self.guard(*digest);
        self.contents().touch(digest);
        Some(Blob::new(size, file, pin))
    }

    /// Stores small content whose digest was computed from these bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), StoreError> {
        if self.contents().contains(digest).is_some() {
            return Ok(());
        }
        self.contents().layout().refuse_if_failing()?;
        let (cas, digest) = (self.clone(), *digest);
        let put = move || {
            let size = bytes.len() as u64;
            let unique = cas.contents().unique.fetch_add(1, Ordering::Relaxed);
            cas.capacity().reserve(size)?;
            let published = cas.publish(&digest, size, size, 0, |layout, _| {
                layout.blobs().commit_bytes(&digest, &bytes, unique)
            });
            cas.contents().bounds.unwritten_changes(size, 0);
            published.inspect_err(|_| cas.contents().release(size))?;
            Ok(())
        };
        let work = self.contents().layout().work();
        work.run(Kind::Write, Task::of("store", &digest), put)
            .await?
    }
}
