//! Uploads: content that comes in order, whose digest is known at its end. It is hashed as it comes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::cas::Cas;
use crate::store::cas::fill::READ_BYTES;
use crate::store::cas::pin::Pin;
use crate::store::cas::publish::{Place, Published};
use crate::store::disk::DiskFile;
use crate::store::disk::health;
use crate::store::disk::layout::LeftUpload;
use crate::store::disk::work::{Kind, Task};
use crate::store::{Blob, Store, StoreError};

/// Room is reserved so far ahead of the bytes, and never further ahead than what has come.
const RESERVE_STEP_BYTES: u64 = 16 * 1024 * 1024;

/// The uploads of a store.
#[derive(Clone, Debug)]
pub struct Uploads {
    cas: Cas,
}

/// An upload. The caller sees to it that there is one writer.
#[derive(Debug)]
pub struct Upload {
    cas: Cas,
    id: String,
    file: Arc<DiskFile>,
    /// Bytes that have come.
    length: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    hasher: Hasher,
    algorithm: Algorithm,
    hashed: u64,
    reserved: u64,
    /// Bytes that are durably in the file.
    durable: Option<u64>,
    /// It was published, or is gone: nothing is to be given back.
    is_over: bool,
}

/// A blob that was published.
#[derive(Debug)]
pub struct Stored {
    /// Its size in bytes.
    pub size: u64,
    _pin: Pin,
}

/// The reason why an upload is no blob.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// It has another digest.
    #[error("the content has the digest {0}")]
    Digest(Digest),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The uploads.
    #[must_use]
    pub fn uploads(&self) -> Uploads {
        let cas = self.cas().clone();
        Uploads { cas }
    }
}

impl Uploads {
    /// Begins an upload. `note`: written beside it, so that a later process knows what it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin(
        &self,
        id: &str,
        note: Vec<u8>,
        algorithm: Algorithm,
    ) -> Result<Upload, StoreError> {
        let name = id.to_owned();
        self.run("begin an upload", move |uploads| {
            uploads.cas.contents().layout().refuse_if_failing()?;
            let file = uploads
                .cas
                .contents()
                .layout()
                .uploads()
                .make(&name, &note)?;
            Ok(Upload::of(uploads, name, file, 0, 0, algorithm))
        })
        .await
    }

    /// Takes up an upload that an earlier process has left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_up(&self, id: &str, algorithm: Algorithm) -> Result<Upload, StoreError> {
        let name = id.to_owned();
        self.run("take up an upload", move |uploads| {
            let file = uploads.cas.contents().layout().uploads().open(&name)?;
            let length = file.length()?;
            uploads.cas.capacity().reserve(length)?;
            uploads.cas.contents().bounds.unwritten_changes(length, 0);
            Ok(Upload::of(uploads, name, file, length, length, algorithm))
        })
        .await
    }

    /// The uploads that an earlier process has left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn left(&self) -> Result<Vec<LeftUpload>, StoreError> {
        self.run("look for uploads", |uploads| {
            Ok(uploads.cas.contents().layout().uploads().left()?)
        })
        .await
    }

    /// Deletes an upload that an earlier process has left.
    pub async fn discard(&self, id: &str) {
        let name = id.to_owned();
        let discard = move |uploads: &Self| {
            uploads.cas.contents().layout().uploads().remove(&name);
            Ok(())
        };
        // What cannot be deleted now is deleted later.
        drop(self.run("discard an upload", discard).await);
    }

    /// Makes a stored blob of another store one of this one, after its bytes were hashed again. The file is shared where
    /// both are on one file system.
    ///
    /// # Errors
    /// [`FinishError`].
    pub async fn adopt(&self, id: &str, blob: Blob) -> Result<Stored, FinishError> {
        let (name, digest) = (id.to_owned(), *blob.digest());
        let linked = self.run("take over a blob", move |uploads| {
            uploads.cas.contents().layout().refuse_if_failing()?;
            let size = blob.size();
            uploads.cas.capacity().reserve(size)?;
            let files = uploads.cas.contents().layout().uploads();
            let linked = files.link(&name, blob.file());
            uploads.cas.contents().bounds.unwritten_changes(size, 0);
            let file = linked.inspect_err(|_| uploads.cas.contents().release(size))?;
            Ok(Upload::of(
                uploads,
                name,
                file,
                size,
                size,
                blob.digest().algorithm(),
            ))
        });
        let upload = Arc::new(linked.await?);
        let stored = upload.finish(digest).await;
        if stored.is_err() {
            upload.discard().await;
        }
        stored
    }

    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let uploads = self.clone();
        let on = Arc::clone(self.cas.contents().layout().work());
        on.run(Kind::Write, Task::new(what), move || work(&uploads))
            .await?
    }
}

impl Upload {
    fn of(
        uploads: &Uploads,
        id: String,
        file: DiskFile,
        length: u64,
        reserved: u64,
        algorithm: Algorithm,
    ) -> Self {
        Self {
            cas: uploads.cas.clone(),
            id,
            file: Arc::new(file),
            length: AtomicU64::new(length),
            state: Mutex::new(State {
                hasher: Hasher::new(algorithm),
                algorithm,
                hashed: 0,
                reserved,
                durable: None,
                is_over: false,
            }),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// True if it was published, or is gone: nothing can come any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// Bytes that have come.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Adds these bytes at its end. To be awaited to its end before the next.
    ///
    /// # Errors
    /// [`StoreError`]; then it is as long as before.
    pub async fn append(self: &Arc<Self>, chunks: Vec<Bytes>) -> Result<u64, StoreError> {
        let upload = Arc::clone(self);
        let work = Arc::clone(self.cas.contents().layout().work());
        let task = Task::new("write an upload");
        work.run(Kind::Write, task, move || upload.append_now(&chunks))
            .await?
    }

    fn append_now(&self, chunks: &[Bytes]) -> Result<u64, StoreError> {
        let mut state = self.state();
        if state.is_over {
            return Err(StoreError::Failing("the upload is over".to_owned()));
        }
        let before = self.length();
        let more: u64 = chunks.iter().map(|it| it.len() as u64).sum();
        let after = before.saturating_add(more);
        health::may_have(after)?;
        self.reserve_to(&mut state, after)?;
        let mut at = before;
        for chunk in chunks {
            if let Err(error) = self.file.write_at(chunk, at) {
                // Its length is how much has come: nothing may stay behind that.
                drop(self.file.cut(before));
                return Err(error.into());
            }
            at += chunk.len() as u64;
        }
        if state.hashed == before {
            for chunk in chunks {
                state.hasher.update(chunk);
            }
            state.hashed = after;
        }
        self.cas.contents().bounds.unwritten_changes(more, 0);
        self.length.store(after, Ordering::Release);
        Ok(after)
    }

    fn reserve_to(&self, state: &mut State, length: u64) -> Result<(), StoreError> {
        if length <= state.reserved {
            return Ok(());
        }
        let least = length - state.reserved;
        let ahead = least.saturating_add(RESERVE_STEP_BYTES.min(length));
        let capacity = self.cas.capacity();
        let reserved = match capacity.reserve(ahead) {
            Ok(()) => ahead,
            Err(_) => capacity.reserve(least).map(|()| least)?,
        };
        state.reserved += reserved;
        Ok(())
    }

    /// Sees whether it has this digest, and makes it durable unless the same is stored already: what takes long of
    /// [`Upload::finish`], ahead of it.
    ///
    /// # Errors
    /// [`FinishError`].
    pub async fn verify(self: &Arc<Self>, digest: Digest) -> Result<(), FinishError> {
        let upload = Arc::clone(self);
        let work = Arc::clone(self.cas.contents().layout().work());
        let task = Task::of("verify an upload of", &digest);
        let verified = work.run(Kind::Keep, task, move || {
            let mut state = upload.state();
            upload.verify_now(&mut state, &digest)
        });
        verified.await.map_err(StoreError::from)?
    }

    fn verify_now(&self, state: &mut State, digest: &Digest) -> Result<(), FinishError> {
        let failed = |error: io::Error| StoreError::from(error).during("commit", digest);
        if state.is_over {
            return Err(StoreError::Failing("the upload is over".to_owned()).into());
        }
        let size = self.length();
        let got = self.hash(state, digest.algorithm(), size).map_err(failed)?;
        if got != *digest {
            return Err(FinishError::Digest(got));
        }
        let is_stored = self.cas.contents().contains(digest) == Some(size);
        if !is_stored && state.durable != Some(size) {
            self.file.sync().map_err(failed)?;
            state.durable = Some(size);
        }
        Ok(())
    }

    /// Makes it a stored blob: size and digest checked, durable, under its final name. If the same is stored already,
    /// that stays. After an error it is as before.
    ///
    /// # Errors
    /// [`FinishError`].
    pub async fn finish(self: &Arc<Self>, digest: Digest) -> Result<Stored, FinishError> {
        let upload = Arc::clone(self);
        let work = Arc::clone(self.cas.contents().layout().work());
        let task = Task::of("commit an upload of", &digest);
        let finished = work.run(Kind::Keep, task, move || upload.finish_now(&digest));
        finished.await.map_err(StoreError::from)?
    }

    fn finish_now(&self, digest: &Digest) -> Result<Stored, FinishError> {
        let failed = |error: io::Error| StoreError::from(error).during("commit", digest);
        let mut state = self.state();
        self.verify_now(&mut state, digest)?;
        let (size, reserved) = (self.length(), state.reserved);
        let is_durable = state.durable == Some(size);
        let published = self
            .cas
            .publish(digest, reserved, size, 0, |layout, place| {
                if !is_durable {
                    // The same was stored, and its file is not there any more.
                    self.file.sync()?;
                }
                match place {
                    Place::Free => layout.uploads().publish(&self.id, digest),
                    Place::Taken => layout.uploads().replace(&self.id, digest),
                }
            });
        let published = published.map_err(failed)?;
        state.is_over = true;
        let unwritten = reserved.saturating_sub(size);
        self.cas.contents().bounds.unwritten_changes(unwritten, 0);
        let pin = match published {
            Published::Now(pin) => pin,
            Published::Before(pin, _spare) => {
                self.cas.contents().layout().uploads().remove(&self.id);
                pin
            }
        };
        Ok(Stored { size, _pin: pin })
    }

    /// The digest of all that has come.
    fn hash(&self, state: &mut State, algorithm: Algorithm, size: u64) -> io::Result<Digest> {
        if state.algorithm != algorithm {
            state.algorithm = algorithm;
            state.hasher = Hasher::new(algorithm);
            state.hashed = 0;
        }
        while state.hashed < size {
            let limit = usize::try_from(size - state.hashed).unwrap_or(READ_BYTES);
            let bytes = self.file.read_at(state.hashed, limit.min(READ_BYTES))?;
            state.hasher.update(&bytes);
            state.hashed += bytes.len() as u64;
        }
        Ok(state.hasher.clone().finish())
    }

    /// Deletes it, unless it was published.
    pub async fn discard(self: &Arc<Self>) {
        let upload = Arc::clone(self);
        let work = Arc::clone(self.cas.contents().layout().work());
        let discarded = work.run(Kind::Write, Task::new("discard an upload"), move || {
            let mut state = upload.state();
            if !state.is_over {
                state.is_over = true;
                upload.cas.contents().layout().uploads().remove(&upload.id);
                upload.give_back(&state);
            }
        });
        // What the disk does not take now is there after the next start, and expires.
        drop(discarded.await);
    }

    fn give_back(&self, state: &State) {
        let unwritten = state.reserved.saturating_sub(self.length());
        self.cas.contents().bounds.unwritten_changes(unwritten, 0);
        self.cas.contents().release(state.reserved);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in hashing would leave a wrong state, which can only fail the digest check.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let state = self.state();
        if !state.is_over {
            // Its file stays, and is taken up again.
            self.give_back(&state);
        }
    }
}
