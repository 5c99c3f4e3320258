//! A stored blob, open.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::fill::READ_BYTES;
use super::{Store, fs};
use crate::oci::{Digest, Hasher};

/// Keeps a stored blob from being evicted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pin(Arc<Pinned>);

#[derive(Debug)]
struct Pinned {
    store: Store,
    digest: Digest,
}

/// A stored blob: its open file, pinned as long as this lives.
#[derive(Clone, Debug)]
pub struct Blob {
    size: u64,
    file: Arc<File>,
    pin: Pin,
}

/// Reads a stored blob.
#[derive(Debug)]
pub struct StoredReader {
    blob: Blob,
    range: Range<u64>,
}

impl Pin {
    /// The guard of a pin that the ledger has counted already.
    pub(super) fn of_pinned(store: Store, digest: Digest) -> Self {
        Self(Arc::new(Pinned { store, digest }))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.store.ledger().unpin(&self.digest);
    }
}

impl Blob {
    pub(super) fn new(size: u64, file: Arc<File>, pin: Pin) -> Self {
        Self { size, file, pin }
    }

    /// Which it is.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.pin.0.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A reader of `range`, of everything when `None`.
    #[must_use]
    pub fn reader(self, range: Option<Range<u64>>) -> StoredReader {
        let range = range.unwrap_or(0..self.size);
        StoredReader { blob: self, range }
    }

    /// The digest of what the file holds. Blocks: not for async code.
    pub(super) fn hash(&self) -> io::Result<Digest> {
        let mut hasher = Hasher::new(self.digest().algorithm());
        let mut position = 0;
        while position < self.size {
            let bytes = fs::read_at(&self.file, position, READ_BYTES)?;
            position += bytes.len() as u64;
            hasher.update(&bytes);
        }
        Ok(hasher.finish())
    }

    /// All of its `size` bytes. Blocks: not for async code.
    pub(super) fn bytes(&self, size: usize) -> io::Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(size);
        while whole.len() < size {
            let left = size - whole.len();
            whole.extend(fs::read_at(&self.file, whole.len() as u64, left)?);
        }
        Ok(whole)
    }

    /// All of it, if it is no larger than `limit`: for manifests. A file that
    /// cannot be read is set aside.
    pub async fn read_all(self, limit: usize) -> Option<Bytes> {
        let size = usize::try_from(self.size)
            .ok()
            .filter(|size| *size <= limit)?;
        let mut whole = Vec::with_capacity(size);
        let mut reader = self.reader(None);
        while let Some(bytes) = reader.next().await.ok()? {
            whole.extend_from_slice(&bytes);
        }
        Some(whole.into())
    }
}

impl StoredReader {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was: says why. The blob
    /// has been set aside then, and the client's connection must be broken.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let Range { start, end } = self.range.clone();
        if start >= end {
            return Ok(None);
        }
        let file = Arc::clone(&self.blob.file);
        let limit = usize::try_from(end - start)
            .unwrap_or(READ_BYTES)
            .min(READ_BYTES);
        let read = tokio::task::spawn_blocking(move || fs::read_at(&file, start, limit)).await;
        match read.map_err(io::Error::other).flatten() {
            Ok(bytes) => {
                self.range.start += bytes.len() as u64;
                Ok(Some(bytes.into()))
            }
            Err(error) => {
                let pinned = &self.blob.pin.0;
                pinned.store.unreadable(&pinned.digest, &error).await;
                Err(error.to_string())
            }
        }
    }
}
