//! The writing side of a fill: `Partial → Verified → a stored blob`, three
//! types, so that only what was verified can be committed.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::coverage::Coverage;
use super::fill::{Opening, Phase, Progress, READ_BYTES, Shared};
use super::fs::FillRecord;
use super::{Blob, NoRoom, Store, StoreError, fs};
use crate::oci::{Digest, Hasher};

/// While nobody has said how large a blob is, room is reserved in steps of this.
const RESERVE_STEP_BYTES: u64 = 16 * 1024 * 1024;

/// A fill with an open file. Dropping it removes the file, gives back the
/// reservation, and ends the fill as vanished.
#[derive(Debug)]
pub struct Partial<E> {
    // Declared first: the file is gone before readers hear of the end, so that
    // a new fill of the same digest never meets the old one's file.
    sink: Arc<Sink>,
    sender: watch::Sender<Progress<E>>,
}

/// A fill whose bytes are all there and have the right digest. Its readers have
/// been told already: the tail is theirs.
#[derive(Debug)]
pub struct Verified<E> {
    sink: Arc<Sink>,
    size: u64,
    /// Kept so that the channel closes only when the commit is through.
    _sender: watch::Sender<Progress<E>>,
}

/// Why a fill is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Too few or too many bytes.
    #[error("{got} bytes came, {expected} were announced")]
    Size {
        /// The announced size.
        expected: u64,
        /// How many bytes came.
        got: u64,
    },
    /// The bytes hash to something else.
    #[error("the bytes have the digest {got}")]
    Digest {
        /// What they hash to.
        got: Digest,
    },
    /// The partial file could not be read back.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a fill holds on the disk: its file and its reservation.
#[derive(Debug)]
struct Room {
    store: Store,
    digest: Digest,
    reserved: Mutex<u64>,
    /// Whether the file goes when this is dropped.
    discard: AtomicBool,
}

/// Where bytes go: used by blocking tasks.
#[derive(Debug)]
struct Sink {
    room: Room,
    shared: Arc<Shared>,
    file: Arc<File>,
    verifier: Mutex<Verifier>,
}

/// Hashes the contiguous prefix as it grows.
struct Verifier {
    hasher: Hasher,
    hashed: u64,
}

impl<E: Clone + Send + Sync + 'static> Partial<E> {
    /// Opens the partial file, reserving `expected` bytes when they are known.
    /// What an earlier run left of it is taken up: re-hashed, never trusted.
    pub(super) fn open(
        store: &Store,
        opening: Opening<E>,
        expected: Option<u64>,
    ) -> Result<Self, (Opening<E>, StoreError)> {
        let digest = opening.shared.digest;
        let prepared = Room::reserve(store, digest, expected)
            .map_err(StoreError::from)
            .and_then(|room| Sink::open(room, &opening.shared));
        match prepared {
            Ok(sink) => Ok(Self {
                sink: Arc::new(sink),
                sender: opening.sender,
            }),
            Err(error) => Err((opening, error)),
        }
    }

    /// The blob.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.sink.room.digest
    }

    /// How many bytes are there from offset 0 without a gap: where one
    /// connection goes on.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.sink.shared.coverage().prefix()
    }

    /// How many readers follow.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.sink.shared.readers()
    }

    /// The source has answered: readers may start.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] when the blob does not fit.
    pub async fn start(&self, total: Option<u64>) -> Result<(), StoreError> {
        if let Some(total) = total {
            let sink = Arc::clone(&self.sink);
            blocking(self.digest(), "make room for", move || {
                Ok(sink.room.grow_to(total)?)
            })
            .await?;
        }
        self.sender.send_modify(|progress| {
            progress.phase = Phase::Streaming;
            progress.total = total;
        });
        Ok(())
    }

    /// Throws away what was taken up of an earlier run; only before [`Partial::start`].
    ///
    /// # Errors
    /// [`StoreError`]; the fill should be failed then.
    pub async fn restart(&self) -> Result<(), StoreError> {
        let sink = Arc::clone(&self.sink);
        blocking(self.digest(), "begin again", move || {
            sink.restart()?;
            Ok(())
        })
        .await
    }

    /// Writes bytes at `offset` and wakes the readers. Bytes past the total are
    /// an error of the caller's source and are refused.
    ///
    /// # Errors
    /// [`StoreError`]; the fill should be failed then.
    pub async fn write(&self, offset: u64, chunks: Vec<Bytes>) -> Result<(), StoreError> {
        let length: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let sink = Arc::clone(&self.sink);
        let sender = self.sender.clone();
        blocking(self.digest(), "write", move || {
            sink.room.grow_for(offset + length)?;
            sink.write(offset, &chunks)?;
            sender.send_modify(|_| ());
            // After the readers were woken: hashing is not in their way.
            Ok(sink.hash(offset, &chunks)?)
        })
        .await
    }

    /// Which bytes are there now.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.sink.shared.coverage().clone()
    }

    /// After a failed [`Partial::verify`]: some of the bytes are wrong. Only `keep` still counts as
    /// there; all else is to be written again, and readers wait for it. Where what is then written
    /// differs from what was there before, readers who may have been given that are broken; the
    /// others notice nothing.
    ///
    /// # Errors
    /// [`StoreError`]; the fill should be failed then.
    #[expect(clippy::unused_async, reason = "replaced by the real thing")]
    pub async fn doubt(&self, keep: Coverage) -> Result<(), StoreError> {
        drop(keep);
        Err(StoreError::from(io::Error::other("not yet")))
    }

    /// Checks size and digest. On success readers get the tail.
    ///
    /// # Errors
    /// What is wrong, and the fill as it was: its readers wait, and are to be told by
    /// [`Partial::fail`], or the bytes to be had again after [`Partial::doubt`].
    pub async fn verify(self) -> Result<Verified<E>, (Self, VerifyError)> {
        match self.check().await {
            Ok(size) => {
                self.sender.send_modify(|progress| {
                    progress.phase = Phase::Verified;
                    progress.total = Some(size);
                });
                Ok(Verified {
                    sink: self.sink,
                    size,
                    _sender: self.sender,
                })
            }
            Err(error) => Err((self, error)),
        }
    }

    /// Ends the fill: the file is removed, then the readers are told.
    pub fn fail(self, why: E) {
        let Self { sink, sender } = self;
        drop(sink);
        sender.send_modify(|progress| progress.phase = Phase::Failed(why));
    }

    /// Leaves the fill off so that a later run can take it up, and tells the readers.
    pub async fn suspend(self, why: E) {
        let Self { sink, sender } = self;
        let record = FillRecord {
            total: sender.borrow().total,
            coverage: sink.shared.coverage().clone(),
        };
        let digest = sink.room.digest;
        let bytes = record.coverage.bytes();
        let recorded = blocking(&digest, "record", move || {
            if bytes > 0 {
                let store = &sink.room.store;
                store.layout().record_part(&digest, &sink.file, &record)?;
                sink.room.keep();
                store.leave_off(digest, sink.room.hand_over(), bytes);
            }
            Ok(())
        });
        if let Err(error) = recorded.await {
            tracing::warn!(%digest, %error, "a partial download cannot be kept; it will start again");
        }
        sender.send_modify(|progress| progress.phase = Phase::Failed(why));
    }

    async fn check(&self) -> Result<u64, VerifyError> {
        let covered = self.prefix();
        let expected = self.sender.borrow().total.unwrap_or(covered);
        if covered != expected || self.sink.shared.coverage().bytes() != expected {
            return Err(VerifyError::Size {
                expected,
                got: covered,
            });
        }
        let sink = Arc::clone(&self.sink);
        let got = blocking(self.digest(), "read back", move || {
            Ok(sink.hash_to(covered)?)
        })
        .await?;
        if got == *self.digest() {
            Ok(expected)
        } else {
            Err(VerifyError::Digest { got })
        }
    }
}

impl<E> Verified<E> {
    /// Makes the blob durable under its digest: fsync, rename, fsync of the
    /// directory; then it counts as stored.
    ///
    /// # Errors
    /// [`StoreError`]; readers are not disturbed, for what they read is right.
    pub async fn commit(self) -> Result<Blob, StoreError> {
        let Self {
            sink,
            size,
            _sender,
        } = self;
        let digest = sink.room.digest;
        blocking(&digest, "commit", move || {
            sink.file.sync_all()?;
            let store = &sink.room.store;
            let reserved = sink.room.hand_over();
            let published = store.publish(&digest, reserved, size, |layout| {
                layout.publish_part(&digest)
            });
            let pin = published.inspect_err(|_| sink.room.take_back(reserved))?;
            sink.room.keep();
            // Fails only if it was set: then the blob is pinned already.
            drop(sink.shared.pin.set(pin.clone()));
            Ok(Blob::new(size, Arc::clone(&sink.file), pin))
        })
        .await
    }
}

impl Room {
    fn reserve(store: &Store, digest: Digest, expected: Option<u64>) -> Result<Self, NoRoom> {
        // From here on the file is this room's, and goes with it.
        let room = Self {
            store: store.clone(),
            digest,
            reserved: Mutex::new(store.take_up(&digest)),
            discard: AtomicBool::new(true),
        };
        room.grow_to(expected.unwrap_or(0))?;
        Ok(room)
    }

    /// Makes sure that `bytes` are reserved.
    fn grow_to(&self, bytes: u64) -> Result<(), NoRoom> {
        let mut reserved = self.reserved();
        let more = bytes.saturating_sub(*reserved);
        if more > 0 {
            self.store.reserve(more)?;
            *reserved = bytes;
        }
        Ok(())
    }

    /// The same for bytes that are about to be written, some steps ahead if there is room.
    fn grow_for(&self, bytes: u64) -> Result<(), NoRoom> {
        let reserved = *self.reserved();
        if bytes <= reserved {
            return Ok(());
        }
        let ahead = reserved.saturating_add(RESERVE_STEP_BYTES.min(reserved));
        self.grow_to(bytes.max(ahead))
            .or_else(|_| self.grow_to(bytes))
    }

    /// The file stays when this is dropped.
    fn keep(&self) {
        self.discard.store(false, Ordering::Release);
    }

    /// Gives the reservation to the ledger's entry.
    fn hand_over(&self) -> u64 {
        std::mem::take(&mut self.reserved())
    }

    fn take_back(&self, bytes: u64) {
        *self.reserved() = bytes;
    }

    fn reserved(&self) -> MutexGuard<'_, u64> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.discard.load(Ordering::Acquire)
            && let Err(error) = self.store.layout().remove_part(&self.digest)
        {
            tracing::warn!(digest = %self.digest, %error, "a partial file cannot be removed; it goes at the next start");
        }
        self.store.release(*self.reserved());
    }
}

/// Partial files between two fills: they take room, and go when nothing else can.
impl Store {
    /// Keeps, of what was reserved for a fill, what its file takes.
    fn leave_off(&self, digest: Digest, reserved: u64, bytes: u64) {
        let kept = bytes.min(reserved);
        self.left_off().insert(digest, kept);
        self.release(reserved - kept);
    }

    /// What is reserved for a partial file; the caller answers for it now.
    fn take_up(&self, digest: &Digest) -> u64 {
        self.left_off().remove(digest).unwrap_or(0)
    }

    /// Removes all partial files that nobody writes. Blocks.
    pub(super) fn discard_left_off(&self) {
        // Locked to the end: a new fill of one of them begins when its file is gone.
        let mut left_off = self.left_off();
        for (digest, bytes) in left_off.drain() {
            if let Err(error) = self.layout().remove_part(&digest) {
                tracing::warn!(%digest, %error, "a partial file cannot be removed; it goes at the next start");
            }
            self.ledger().release(bytes);
        }
    }
}

impl Sink {
    fn open(room: Room, shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let digest = shared.digest;
        let record = room.store.layout().take_part_record(&digest);
        let file = Arc::new(room.store.layout().open_part(&digest)?);
        drop(shared.file.set(Arc::clone(&file)));
        let sink = Self {
            room,
            shared: Arc::clone(shared),
            file,
            verifier: Mutex::new(Verifier::new(&digest)),
        };
        let recorded = record.map_or(0, |r| r.coverage.prefix());
        let kept = match sink.hash_to(recorded) {
            Ok(_) => recorded,
            Err(error) => {
                tracing::warn!(%digest, %error, "a partial download cannot be taken up; starting again");
                sink.restart()?;
                0
            }
        };
        // What is not taken up may not stay behind the blob's end: it would never be hashed.
        fs::cut(&sink.file, kept)?;
        if kept > 0 {
            sink.room.grow_to(kept)?;
            tracing::info!(%digest, bytes = kept, "taking up a download that an earlier run left off");
            shared.coverage().insert(0..kept);
        }
        Ok(sink)
    }

    fn restart(&self) -> io::Result<()> {
        *self.verifier() = Verifier::new(&self.shared.digest);
        *self.shared.coverage() = Coverage::default();
        fs::cut(&self.file, 0)
    }

    fn write(&self, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut at = offset;
        for chunk in chunks {
            fs::write_at(&self.file, chunk, at)?;
            at += chunk.len() as u64;
        }
        self.shared.remember(offset, chunks);
        self.shared.coverage().insert(offset..at);
        Ok(())
    }

    /// Takes in what was just written if it continues the hashed prefix, else
    /// catches up from the file.
    fn hash(&self, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        let mut verifier = self.verifier();
        if verifier.hashed == offset {
            for chunk in chunks {
                verifier.update(chunk);
            }
        }
        let prefix = self.shared.coverage().prefix();
        self.catch_up(&mut verifier, prefix)
    }

    /// The digest of the first `end` bytes.
    fn hash_to(&self, end: u64) -> io::Result<Digest> {
        let mut verifier = self.verifier();
        self.catch_up(&mut verifier, end)?;
        Ok(verifier.hasher.clone().finish())
    }

    fn catch_up(&self, verifier: &mut Verifier, end: u64) -> io::Result<()> {
        while verifier.hashed < end {
            let Range { start, end } = verifier.hashed..end;
            let limit = usize::try_from(end - start)
                .unwrap_or(READ_BYTES)
                .min(READ_BYTES);
            let bytes = fs::read_at(&self.file, start, limit)?;
            verifier.update(&bytes);
        }
        Ok(())
    }

    fn verifier(&self) -> MutexGuard<'_, Verifier> {
        // A panic in hashing would leave a wrong state, which can only fail the digest check.
        self.verifier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Readers may go on for hours; from here on they use the file.
        self.shared.forget_recent();
    }
}

impl Verifier {
    fn new(digest: &Digest) -> Self {
        Self {
            hasher: Hasher::new(digest.algorithm()),
            hashed: 0,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.hashed += bytes.len() as u64;
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("hashed", &self.hashed)
            .finish_non_exhaustive()
    }
}

/// Runs file work on the blocking pool; errors say what was done to which blob.
async fn blocking<T: Send + 'static>(
    digest: &Digest,
    what: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined
        .unwrap_or_else(|error| Err(io::Error::other(error).into()))
        .map_err(|error| error.during(what, digest))
}
