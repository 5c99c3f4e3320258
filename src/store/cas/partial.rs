//! The writing side of a fill: `Partial → Verified → a stored blob`, three
//! types, so that only what was verified can be committed.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::oci::Digest;
use crate::store::cas::Cas;
use crate::store::cas::coverage::Coverage;
use crate::store::cas::fill::{Opening, Phase, Progress};
use crate::store::cas::ingest::Sink;
use crate::store::cas::publish::Published;
use crate::store::disk::work::{Kind, Task, Work};
use crate::store::{Blob, FillKey, StoreError};

/// A fill with an open file. Dropping it removes the file, gives back the
/// reservation, and ends the fill as vanished.
#[derive(Debug)]
pub struct Partial<E> {
    // Declared first: the file is gone before readers hear of the end, unless a
    // write that nobody awaits still has it: the next fill waits for that.
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

/// The reason why a fill is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Too few or too many bytes.
    #[error("{got} bytes came, {expected} were announced")]
    Size {
        /// The announced size.
        expected: u64,
        /// Number of bytes that came.
        got: u64,
    },
    /// The bytes hash to something else.
    #[error("the bytes have the digest {got}")]
    Digest {
        /// Digest of the bytes.
        got: Digest,
    },
    /// The partial file could not be read back.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<E: Clone + Send + Sync + 'static> Partial<E> {
    /// Opens the partial file, unless there cannot be room for `expected` bytes.
    /// Bytes that an earlier run left of it are resumed: re-hashed, never trusted.
    pub(in crate::store) async fn open(
        cas: &Cas,
        opening: Opening<E>,
        expected: Option<u64>,
    ) -> Result<Self, (Opening<E>, StoreError)> {
        let (own, shared) = (cas.clone(), Arc::clone(&opening.shared));
        let digest = *shared.key.digest();
        // The opening stays here: where the disk does not answer, its readers are told all the same.
        let prepared = cas.contents().layout().work().run(
            Kind::Write,
            Task::of("make room for", &digest),
            move || Sink::prepare(&own, &shared, expected),
        );
        match prepared.await.map_err(StoreError::from).flatten() {
            Ok(sink) => Ok(Self {
                sink: Arc::new(sink),
                sender: opening.sender,
            }),
            Err(error) => Err((opening, error)),
        }
    }

    fn work(&self) -> &Arc<Work> {
        self.sink.room.cas.contents().layout().work()
    }

    /// The identity of the fill.
    #[must_use]
    pub fn key(&self) -> &FillKey {
        &self.sink.room.key
    }

    /// The blob.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        self.sink.room.key.digest()
    }

    /// Number of bytes there from offset 0 without a gap: where one
    /// connection goes on.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.sink.shared.prefix()
    }

    /// Number of readers that follow.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.sink.shared.readers()
    }

    /// Ranges that waiting readers wait for, lowest first; the end is `u64::MAX` for
    /// who reads on to the blob's end.
    #[must_use]
    pub fn wanted(&self) -> Vec<Range<u64>> {
        self.sink.shared.wants.all()
    }

    /// True if a reader came who needs the whole blob.
    #[must_use]
    pub fn whole_is_wanted(&self) -> bool {
        self.sink.shared.wants.is_everything()
    }

    /// True if nobody holds the fill but one, who keeps it to be found by others.
    #[must_use]
    pub fn is_left_alone(&self) -> bool {
        self.sender.receiver_count() <= 1
    }

    /// Waits until a reader waits for something that it did not wait for before.
    pub async fn want_changes(&self) {
        self.sink.shared.wants.changed().await;
    }

    /// The source has answered: readers may start. When the total is known, it is seen whether there can be
    /// room for all of it, and what an earlier run left behind it is dropped.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] when the blob could not fit.
    pub async fn start(&self, total: Option<u64>) -> Result<(), StoreError> {
        if let Some(total) = total {
            let sink = Arc::clone(&self.sink);
            let first = matches!(self.sender.borrow().phase, Phase::Starting);
            blocking(&self.sink, "make room for", move || {
                if first {
                    sink.clip(total)?;
                }
                sink.room.expect(total)
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
        blocking(&self.sink, "begin again", move || {
            sink.restart()?;
            Ok(())
        })
        .await
    }

    /// Writes bytes at `offset` and wakes the readers. Several may write at once, anywhere if the
    /// total is known, else in order only. What is there already, or is just being written by
    /// another, stays as it is: whoever came first is believed. What was written, then, is returned.
    /// Bytes past the total are an error of the caller's source and are refused.
    ///
    /// A write that nobody awaits any more may still take place, but not after a
    /// [`Partial::doubt`], [`Partial::restart`] or [`Partial::suspend`].
    ///
    /// # Errors
    /// [`StoreError`]; the fill should be failed then.
    pub async fn write(
        &self,
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> Result<Vec<Range<u64>>, StoreError> {
        let length: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let end = offset.checked_add(length);
        let total = self.sender.borrow().total.unwrap_or(u64::MAX);
        let fits = end.is_some_and(|end| end <= total);
        let sink = Arc::clone(&self.sink);
        let sender = self.sender.clone();
        let turn = sink.turn();
        let written = blocking(&self.sink, "write", move || {
            if !fits {
                let why = format!("{length} bytes at {offset} do not fit in {total}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why).into());
            }
            sink.write(turn, offset, &chunks, || sender.send_modify(|_| ()))
        })
        .await;
        if self.sink.recorder.due() {
            let sink = Arc::clone(&self.sink);
            let total = self.sender.borrow().total;
            // Nobody waits for the disk here; the file stays this fill's until it is done.
            let task = Task::of("record", self.digest());
            drop(
                self.work()
                    .begin(Kind::Keep, task, move || sink.record(total)),
            );
        }
        written
    }

    /// The bytes that are there now.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.sink.shared.coverage()
    }

    /// After a failed [`Partial::verify`]: some of the bytes are wrong. Only `keep` still counts as
    /// there; all else is to be written again, and readers who have been given some of it wait for
    /// it. Where what is then written differs from what was there before, readers who may have been
    /// given that are broken ([`crate::store::Ended::Altered`]); the others notice nothing.
    ///
    /// Can be called again, when those bytes were wrong too. To be awaited to its end.
    ///
    /// # Errors
    /// [`StoreError`], also after too many calls; the fill should be failed then.
    pub async fn doubt(&self, keep: Coverage) -> Result<(), StoreError> {
        let sink = Arc::clone(&self.sink);
        blocking(&self.sink, "doubt", move || Ok(sink.doubt(&keep)?)).await
    }

    /// Checks size and digest. On success readers get the tail.
    ///
    /// # Errors
    /// The fault, and the fill as it was: its readers wait, and are to be told by
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

    /// Ends the fill: the file is removed, then the readers are told. A write that nobody awaits any
    /// more keeps the file until it is done.
    pub fn fail(self, why: E) {
        let Self { sink, sender } = self;
        drop(sink);
        sender.send_modify(|progress| progress.phase = Phase::Failed(why));
    }

    /// Leaves the fill off so that a later run can take it up, and tells the readers.
    pub async fn suspend(self, why: E) {
        let Self { sink, sender } = self;
        let digest = *sink.room.key.digest();
        let total = sender.borrow().total;
        // The sink is dropped there, before the readers hear of the end.
        let work = Arc::clone(sink.room.cas.contents().layout().work());
        let task = Task::of("record", &digest);
        let recorded = work.run(Kind::Keep, task, move || sink.leave_off(total));
        if let Err(error) = recorded.await.flatten() {
            tracing::warn!(%digest, %error, "a partial download cannot be kept; it will start again");
        }
        sender.send_modify(|progress| progress.phase = Phase::Failed(why));
    }

    async fn check(&self) -> Result<u64, VerifyError> {
        let coverage = self.coverage();
        let covered = coverage.prefix();
        let expected = self.sender.borrow().total.unwrap_or(covered);
        if covered != expected || coverage.bytes() != expected {
            return Err(VerifyError::Size {
                expected,
                got: covered,
            });
        }
        let sink = Arc::clone(&self.sink);
        let got = blocking(&self.sink, "read back", move || Ok(sink.hash_to(covered)?)).await?;
        if got == *self.digest() {
            Ok(expected)
        } else {
            Err(VerifyError::Digest { got })
        }
    }
}

impl<E> Verified<E> {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob durable under its digest: fsync, rename, fsync of the
    /// directory; then it counts as stored. If it has been stored meanwhile,
    /// from another upstream, that file stays and this one goes.
    ///
    /// # Errors
    /// [`StoreError`]; readers are not disturbed, for what they read is right.
    pub async fn commit(self) -> Result<Blob, StoreError> {
        let Self {
            sink,
            size,
            _sender,
        } = self;
        let (key, digest) = (sink.room.key, *sink.room.key.digest());
        let work = Arc::clone(sink.room.cas.contents().layout().work());
        let committed = work.run(Kind::Keep, Task::of("commit", &digest), move || {
            // Wrong bytes that were there before may have been more.
            sink.recorder.close();
            sink.file.cut(size)?;
            sink.file.sync()?;
            let cas = &sink.room.cas;
            let reserved = sink.room.hand_over();
            let published = cas.publish(&digest, reserved, size, key.owner(), |layout, _| {
                layout.parts().publish(&key)
            });
            let pin = match published.inspect_err(|_| sink.room.take_back(reserved))? {
                Published::Now(pin) => {
                    sink.room.keep();
                    pin
                }
                // Its file goes with the room, and what it takes with the last who reads it.
                Published::Before(pin, spare) => {
                    drop(sink.shared.spare.set(spare));
                    pin
                }
            };
            // Fails only if it was set: then the blob is pinned already.
            drop(sink.shared.pin.set(pin.clone()));
            Ok(Blob::new(size, Arc::clone(&sink.file), pin))
        });
        let committed: io::Result<Blob> = committed.await.flatten();
        committed.map_err(|error| StoreError::from(error).during("commit", &digest))
    }
}

/// Does what the readers of a fill wait for; errors say what was done to which blob.
async fn blocking<T: Send + 'static>(
    sink: &Arc<Sink>,
    what: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (cas, digest) = (&sink.room.cas, sink.room.key.digest());
    let done = cas
        .contents()
        .layout()
        .work()
        .run(Kind::Write, Task::of(what, digest), work);
    done.await
        .map_err(StoreError::from)
        .flatten()
        .map_err(|error| error.during(what, digest))
}
