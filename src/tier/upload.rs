//! One blob on its way to the bucket. It is hashed while it is read: what has rotted on the disk does not get there.

use std::sync::LazyLock;

use bytes::Bytes;
use object_store::PutPayload;
use object_store::multipart::PartId;
use object_store::path::Path;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::BucketError;
use super::handle::Tier;
use super::notes::{self, Upload};
use super::queue::Waiting;
use crate::oci::{Digest, Hasher};
use crate::store::{Blob, StoredReader};

/// Larger blobs are written in parts.
const AT_ONCE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of a part: all but the last have the same, as some stores demand.
const PART_BYTES: u64 = 16 * 1024 * 1024;

/// Parts that an object may have.
const PARTS_MAX: u64 = 10_000;

/// Parts after which it is noted how far an upload has come.
const NOTE_EACH: usize = 4;

/// Memory for blobs and parts that are on their way, in units of [`UNIT_BYTES`].
const UNITS: u32 = 64;
const UNIT_BYTES: u64 = 1024 * 1024;

/// The media type of what has none.
const BYTES_TYPE: &str = "application/octet-stream";

static MEMORY: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(UNITS as usize));

/// The outcome for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there, and was not before.
    New,
    /// It was there already.
    Before,
    /// It is not stored here any more, or damaged.
    NotHere,
}

/// Takes room for so many bytes.
async fn room(bytes: u64) -> Option<SemaphorePermit<'static>> {
    let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(UNITS);
    MEMORY.acquire_many(units.clamp(1, UNITS)).await.ok()
}

impl Tier {
    /// Writes a blob, unless it is there.
    ///
    /// # Errors
    /// [`BucketError`]: it is to be tried again.
    pub(super) async fn write(&self, waiting: Waiting) -> Result<Written, BucketError> {
        let digest = waiting.digest;
        let Some(blob) = self.store.blob(&digest).await else {
            self.give_up(&digest).await;
            return Ok(Written::NotHere);
        };
        let key = self.keys.blob(&digest);
        let anew = waiting.anew || self.is_distrusted(&digest);
        if !anew && notes::has_blob(&self.store, &digest).await {
            return Ok(Written::Before);
        }
        if !anew {
            match self.bucket.size(&key).await {
                Ok(size) if size == blob.size() => return Ok(Written::Before),
                // Another size is a wrong object. A store may refuse to say that there is none.
                Ok(_) | Err(BucketError::Absent | BucketError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let media_type = self.store.metadata().media_type(&digest).await;
        let media_type = media_type.as_deref().unwrap_or(BYTES_TYPE);
        let size = blob.size();
        let is_whole = if size > AT_ONCE_BYTES_MAX {
            self.in_parts(blob, &key, media_type).await?
        } else {
            self.at_once(blob, &key, media_type).await?
        };
        if !is_whole {
            tracing::warn!(%digest, "a blob on disk is damaged, and was not written to the object store: roadstead verify repairs it");
            return Ok(Written::NotHere);
        }
        self.distrusted().pop(&digest);
        self.metrics.tier().written(size);
        Ok(Written::New)
    }

    /// Writes a small one; false if it is damaged.
    async fn at_once(&self, blob: Blob, key: &Path, media_type: &str) -> Result<bool, BucketError> {
        let (digest, size) = (*blob.digest(), blob.size());
        let _room = room(size).await;
        let mut reading = Reading::new(blob);
        let Some(pieces) = reading.part(size).await else {
            return Ok(false);
        };
        if reading.hasher.finish() != digest {
            return Ok(false);
        }
        self.bucket.put(key, pieces, media_type).await?;
        Ok(true)
    }

    /// Writes a large one, from where it was left; false if it is damaged.
    async fn in_parts(
        &self,
        blob: Blob,
        key: &Path,
        media_type: &str,
    ) -> Result<bool, BucketError> {
        let (digest, size) = (*blob.digest(), blob.size());
        let mut upload = match notes::upload(&self.store, &digest).await {
            Some(upload) if upload.part_bytes > 0 => upload,
            Some(_) | None => Upload {
                id: self.bucket.begin(key, media_type).await?,
                part_bytes: PART_BYTES.max(size.div_ceil(PARTS_MAX)),
                parts: Vec::new(),
            },
        };
        notes::note_upload(&self.store, &digest, &upload).await;
        let sent = self.send_parts(blob, key, &mut upload).await;
        let is_whole = match sent {
            Ok(is_whole) => is_whole,
            Err(error) => {
                if error == BucketError::Absent {
                    // The store has given it up: the next one begins anew.
                    self.store.tiered().forget(notes::upload_key(&digest)).await;
                } else {
                    notes::note_upload(&self.store, &digest, &upload).await;
                }
                return Err(error);
            }
        };
        if is_whole {
            let parts = upload.parts.iter().map(|part| PartId {
                content_id: part.clone(),
            });
            let completed = self.bucket.complete(key, &upload.id, parts.collect());
            let completed = completed.await;
            if let Err(error) = completed
                && error != BucketError::Rests
            {
                // Whatever it has of it may be wrong: it is begun anew, unless the object is there after all.
                self.give_up(&digest).await;
                return Err(error);
            }
            self.store.tiered().forget(notes::upload_key(&digest)).await;
        } else {
            self.give_up(&digest).await;
        }
        Ok(is_whole)
    }

    async fn send_parts(
        &self,
        blob: Blob,
        key: &Path,
        upload: &mut Upload,
    ) -> Result<bool, BucketError> {
        let (digest, size) = (*blob.digest(), blob.size());
        let mut reading = Reading::new(blob);
        let mut at = 0;
        let mut number = 0;
        while at < size {
            let bytes = upload.part_bytes.min(size - at);
            let _room = room(bytes).await;
            let Some(pieces) = reading.part(bytes).await else {
                return Ok(false);
            };
            // Those that the store has are read to be hashed.
            if number >= upload.parts.len() {
                let part = self
                    .bucket
                    .put_part(key, &upload.id, number, pieces)
                    .await?;
                upload.parts.push(part.content_id);
                if upload.parts.len().is_multiple_of(NOTE_EACH) {
                    notes::note_upload(&self.store, &digest, upload).await;
                }
            }
            at += bytes;
            number += 1;
        }
        Ok(reading.hasher.finish() == digest)
    }

    /// Gives up what was begun of a blob.
    async fn give_up(&self, digest: &Digest) {
        if let Some(upload) = notes::upload(&self.store, digest).await {
            let aborted = self.bucket.abort(&self.keys.blob(digest), &upload.id).await;
            if let Err(error) = aborted {
                tracing::debug!(%digest, %error, "an upload was not given up; it is found among the leftovers");
            }
            self.store.tiered().forget(notes::upload_key(digest)).await;
        }
    }
}

/// A blob that is read and hashed.
struct Reading {
    reader: StoredReader,
    hasher: Hasher,
    /// The rest of what was read last.
    rest: Bytes,
}

impl Reading {
    fn new(blob: Blob) -> Self {
        let hasher = Hasher::new(blob.digest().algorithm());
        Self {
            reader: blob.reader(None),
            hasher,
            rest: Bytes::new(),
        }
    }

    /// The next `bytes` bytes; `None` if there are not so many, or the disk does not give them.
    async fn part(&mut self, bytes: u64) -> Option<PutPayload> {
        let mut left = usize::try_from(bytes).ok()?;
        let mut pieces: Vec<Bytes> = Vec::new();
        while left > 0 {
            if self.rest.is_empty() {
                self.rest = self.reader.next().await.ok()??;
            }
            let piece = self.rest.split_to(left.min(self.rest.len()));
            self.hasher.update(&piece);
            left -= piece.len();
            pieces.push(piece);
        }
        Some(pieces.into_iter().collect())
    }
}
