//! Hashing what is stored: one blob, and the round that goes through them all in the background.
//!
//! A disk changes what it holds, and nobody notices before somebody reads it. The round reads everything once
//! in a configured time, in the order of the digests, which is that of nothing else: what is read together
//! is not what is used together. It notes how far it has come, so that a restart does not begin it anew.
//!
//! The pages that it brings into the page cache are given up again, so that the images in use stay there.
//! The kernel can be asked if a page was there before (`RWF_NOWAIT` reads only what is); those stay. Of them it is
//! the copy in memory that is hashed, which is also what clients are given.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::oci::{Digest, Hasher};
use crate::store::disk::DiskFile;
use crate::store::disk::layout;
use crate::store::disk::work::{Kind, Task, Work};
use crate::store::{Blob, HandOver, LookedAt, Store};

/// Bytes that one read takes: few, so that the disk's other readers wait little.
const READ_BYTES: usize = 128 * 1024;

/// Bytes hashed in one go on the blocking pool, between two looks at the pace: some milliseconds' work.
const STEP_BYTES: u64 = 1024 * 1024;

/// A blob is read faster than the round as a whole, because it cannot be evicted meanwhile: this many times.
const BURST: u64 = 4;

/// The slowest reading within a blob: a layer of 5 GB is held for 20 minutes.
const BURST_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// The fastest that the background ever reads, however large the store and short the time: what a single
/// hard disk gives beside its other work. A round that needs more takes longer.
const BURST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// While clients are served, reading is slower by this factor.
const BUSY_SLOWNESS: u32 = 4;

/// Time between two looks at whether the next blob's time has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// At least so long is between two notes, for each is a sync of the disk.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// Digests that are asked of the index at once.
const PAGE: usize = 256;

/// Time to wait when the index cannot be read.
const INDEX_WAIT: Duration = Duration::from_mins(1);

/// The result of a look at a stored blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is what its name says; its size in bytes.
    Sound(u64),
    /// The store does not have it.
    Absent,
    /// The store should have it, and there is no file.
    Missing,
    /// Its file has another length.
    WrongSize {
        /// Size of the file, in bytes.
        found: u64,
        /// Size that it had.
        expected: u64,
    },
    /// It hashes to something else, or the disk cannot read it: which of both.
    Damaged(String),
    /// It cannot be read now, for reasons that are not its own.
    Unreadable(String),
}

/// The pace at which a blob is read.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as it goes: somebody waits.
    Full,
    /// So many bytes a second, fewer while clients are served.
    Gentle(NonZeroU64),
}

/// The progress of a round: the note on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// The digest that was looked at last in this round.
    after: Option<String>,
    /// When this round began.
    began: Timestamp,
    /// Bytes that this round has read.
    bytes: u64,
    /// When the last round ended that went through everything.
    completed: Option<Timestamp>,
}

/// The round in the background.
struct Scrub {
    store: Store,
    period: Duration,
    progress: Progress,
    noted: Progress,
    noted_at: tokio::time::Instant,
}

impl Checked {
    /// The fault of the blob itself, in words; `None` where there is none.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Sound(_) | Self::Absent | Self::Unreadable(_) => None,
            Self::Missing => Some("its file is gone".to_owned()),
            Self::WrongSize { found, expected } => {
                Some(format!("the file has {found} bytes instead of {expected}"))
            }
            Self::Damaged(why) => Some(why.clone()),
        }
    }
}

/// Looks at stored blobs; none of it is a use.
#[derive(Clone, Copy, Debug)]
pub struct Audit<'a>(pub(in crate::store) &'a Store);

impl Audit<'_> {
    /// Hashes a stored blob, and says which file it was, if it could be opened. Neither counts as a use nor
    /// changes anything. `read` hears of bytes as they are read.
    pub async fn check(
        self,
        digest: &Digest,
        pace: Pace,
        read: &(dyn Fn(u64) + Send + Sync),
    ) -> (Checked, LookedAt) {
        let Some(size) = self.0.contents().ledger().stored_mut().hold(digest) else {
            return (Checked::Absent, LookedAt::default());
        };
        let _pin = self.0.cas().guard(*digest);
        let (store, wanted) = (self.0.clone(), *digest);
        let opened = blocking(self.0.contents().layout().work(), "open", move || {
            let file = store.contents().layout().blobs().open(&wanted)?;
            let length = file.length()?;
            Ok((file, length))
        });
        let (file, found) = match opened.await {
            Ok((file, length)) => (Arc::new(file), length),
            Err(error) => return (Checked::of_opening(&error), LookedAt::default()),
        };
        let looked_at = LookedAt(Some(Arc::clone(&file)));
        if found != size {
            let expected = size;
            return (Checked::WrongSize { found, expected }, looked_at);
        }
        let hashing = Hashing::new(file, digest, size);
        let checked = match self.hash(hashing, pace, read).await {
            Ok(found) if found == *digest => Checked::Sound(size),
            Ok(found) => Checked::Damaged(format!("its content hashes to {found}")),
            Err(error) => Checked::of_error(&error),
        };
        (checked, looked_at)
    }

    async fn hash(
        self,
        mut hashing: Hashing,
        pace: Pace,
        read: &(dyn Fn(u64) + Send + Sync),
    ) -> io::Result<Digest> {
        let size = hashing.size;
        while hashing.at < size {
            let before = hashing.at;
            let step = blocking(
                self.0.contents().layout().work(),
                "hash a blob",
                move || {
                    hashing.step()?;
                    Ok(hashing)
                },
            );
            hashing = step.await?;
            let bytes = hashing.at - before;
            read(bytes);
            self.pause(pace, bytes).await;
        }
        Ok(hashing.hasher.finish())
    }

    /// A small blob as it is on disk, unless it is larger than `limit` or cannot be read. Neither counts as a
    /// use nor changes anything.
    pub async fn peek(self, digest: &Digest, limit: usize) -> Option<bytes::Bytes> {
        let size = self.0.contents().ledger().stored_mut().hold(digest)?;
        let pin = self.0.cas().guard(*digest);
        let size_in_memory = usize::try_from(size).ok().filter(|size| *size <= limit)?;
        let (store, wanted) = (self.0.clone(), *digest);
        let read = blocking(
            self.0.contents().layout().work(),
            "read a manifest",
            move || {
                let blob = Blob::new(
                    size,
                    Arc::new(store.contents().layout().blobs().open(&wanted)?),
                    pin,
                );
                blob.bytes(size_in_memory)
            },
        );
        read.await.ok().map(Into::into)
    }

    async fn pause(self, pace: Pace, bytes: u64) {
        let Pace::Gentle(rate) = pace else { return };
        let micros = bytes.saturating_mul(1_000_000) / rate;
        let mut pause = Duration::from_micros(micros);
        if self.0.contents().metrics.so_far().is_serving() {
            pause = pause.saturating_mul(BUSY_SLOWNESS);
        }
        tokio::time::sleep(pause).await;
    }
}

impl Store {
    /// Goes through the store for ever, in `period` each time, until `stop`. Blobs that are damaged are set
    /// aside, which [`Event::BlobDamaged`](crate::store::Event) tells.
    pub async fn scrub(self, period: Duration, stop: CancellationToken) {
        let store = self.clone();
        let read = move || Ok(store.contents().layout().scrub_note());
        let note = blocking(
            self.contents().layout().work(),
            "read the scrub's note",
            read,
        )
        .await;
        let noted = note.ok().flatten();
        let noted = noted.and_then(|note| serde_json::from_slice::<Progress>(&note).ok());
        let now = self.contents().clock.now();
        let mut progress = noted.unwrap_or_default();
        // Nothing was noted, or the clock was set back: a round that begins now.
        if progress.began > now.plus(period) || progress.began == Timestamp::default() {
            progress = Progress {
                began: now,
                completed: progress.completed,
                ..Progress::default()
            };
        }
        if let Some(completed) = progress.completed {
            self.contents()
                .metrics
                .scrub()
                .completed(completed.0 / 1000);
        }
        let mut scrub = Scrub {
            store: self,
            period,
            noted: progress.clone(),
            progress,
            noted_at: tokio::time::Instant::now(),
        };
        stop.run_until_cancelled(scrub.rounds()).await;
        scrub.note().await;
    }
}

impl Checked {
    fn of_opening(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            return Self::Missing;
        }
        Self::of_error(error)
    }

    fn of_error(error: &io::Error) -> Self {
        if layout::means_damage(error) {
            Self::Damaged(format!("it cannot be read: {error}"))
        } else {
            Self::Unreadable(error.to_string())
        }
    }
}

impl Scrub {
    async fn rounds(&mut self) {
        loop {
            let after = self.progress.after.as_deref();
            let after = after.and_then(|text| Digest::parse(text).ok());
            let page = match self.store.pages().stored_after(after, PAGE).await {
                Ok(page) => page,
                // The store is another process's: what there is to look at is that one's.
                Err(_) if HandOver(self.store.contents()).refusal().is_some() => return,
                Err(error) => {
                    tracing::warn!(%error, "the scrub cannot go on; it tries again");
                    tokio::time::sleep(INDEX_WAIT).await;
                    continue;
                }
            };
            if page.is_empty() {
                self.next_round().await;
            }
            for digest in page {
                self.wait_for_turn().await;
                self.look_at(digest).await;
                self.progress.after = Some(digest.to_string());
                if self.noted_at.elapsed() >= NOTE_EVERY {
                    self.note().await;
                }
            }
        }
    }

    /// Everything has been looked at.
    async fn next_round(&mut self) {
        let now = self.store.contents().clock.now();
        if self.progress.after.take().is_none() {
            // Nothing is stored yet, so that the round has not begun either.
            self.progress.began = now;
            tokio::time::sleep(LOOK_EVERY).await;
            return;
        }
        tracing::info!(
            bytes = self.progress.bytes,
            hours = now.since(self.progress.began).as_secs() / 3600,
            "the scrub has read all that is stored"
        );
        self.progress.completed = Some(now);
        self.store
            .contents()
            .metrics
            .scrub()
            .completed(now.0 / 1000);
        self.progress.began = self.progress.began.plus(self.period).max(now);
        self.progress.bytes = 0;
        self.note().await;
    }

    /// Waits until the round should have come this far: its bytes are spread evenly over its time.
    async fn wait_for_turn(&self) {
        loop {
            let bytes = u128::from(self.progress.bytes);
            let (_, total) = self.store.contents().totals();
            let total = u128::from(total).max(bytes).max(1);
            let share = bytes.saturating_mul(self.period.as_millis()) / total;
            let share = Duration::from_millis(u64::try_from(share).unwrap_or(u64::MAX));
            let due = self.progress.began.plus(share);
            let wait = due.since(self.store.contents().clock.now());
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait.min(LOOK_EVERY)).await;
        }
    }

    async fn look_at(&mut self, digest: Digest) {
        let metrics = &self.store.contents().metrics;
        let pace = Pace::Gentle(self.burst());
        let read = |bytes| metrics.scrub().read(bytes);
        let (checked, looked_at) = self.store.audit().check(&digest, pace, &read).await;
        let size = self.store.contents().contains(&digest).unwrap_or_default();
        self.progress.bytes = self.progress.bytes.saturating_add(size);
        if let Checked::Unreadable(why) = &checked {
            tracing::warn!(%digest, why, "the scrub cannot read a stored blob now; it is looked at again in the next round");
        }
        let Some(why) = checked.fault() else { return };
        metrics.scrub().damaged();
        self.store
            .quarantine()
            .damaged(&digest, &why, looked_at)
            .await;
    }

    /// Bytes that are read at full speed.
    fn burst(&self) -> NonZeroU64 {
        let (_, total) = self.store.contents().totals();
        let seconds = self.period.as_secs().max(1);
        let rate = (total / seconds).saturating_mul(BURST);
        let rate = rate.clamp(BURST_BYTES_MIN, BURST_BYTES_MAX);
        NonZeroU64::new(rate).unwrap_or(NonZeroU64::MIN)
    }

    /// Notes how far the round has come, if that has changed.
    async fn note(&mut self) {
        self.noted_at = tokio::time::Instant::now();
        if self.noted == self.progress {
            return;
        }
        let store = self.store.clone();
        let progress = self.progress.clone();
        let note = move || {
            store
                .contents()
                .layout()
                .note_scrub(&serde_json::to_vec(&progress)?)
        };
        let noted = blocking(
            self.store.contents().layout().work(),
            "note how far the scrub is",
            note,
        );
        match noted.await {
            Ok(()) => self.noted = self.progress.clone(),
            Err(_) if HandOver(self.store.contents()).refusal().is_some() => {}
            Err(error) => {
                tracing::warn!(%error, "how far the scrub has come cannot be noted. Is the disk full or read-only?");
            }
        }
    }
}

/// A blob that is being hashed.
struct Hashing {
    file: Arc<DiskFile>,
    hasher: Hasher,
    buffer: Vec<u8>,
    at: u64,
    size: u64,
}

impl Hashing {
    fn new(file: Arc<DiskFile>, digest: &Digest, size: u64) -> Self {
        // Without reading ahead, so that what was in memory before can be told from what this has brought
        // there. That the file is read once keeps its pages from pushing out others (since Linux 6.3).
        // Where the kernel will not hear of it, nothing is lost.
        fadvise(file.file(), 0, None, Advice::Random).ok();
        fadvise(file.file(), 0, None, Advice::NoReuse).ok();
        Self {
            file,
            hasher: Hasher::new(digest.algorithm()),
            buffer: vec![0; READ_BYTES],
            at: 0,
            size,
        }
    }

    /// Hashes the next part.
    fn step(&mut self) -> io::Result<()> {
        let end = self.size.min(self.at + STEP_BYTES);
        while self.at < end {
            let left = usize::try_from(end - self.at).unwrap_or(READ_BYTES);
            let buffer = self.buffer.get_mut(..left.min(READ_BYTES));
            let buffer = buffer.unwrap_or_default();
            let read = |file: &File| read_leaving_no_trace(file, buffer, self.at);
            let count = self.file.read_by(read)?;
            let read = self.buffer.get(..count).unwrap_or_default();
            self.hasher.update(read);
            self.at += count as u64;
        }
        Ok(())
    }
}

/// Reads some bytes, and leaves in the page cache what was there before.
fn read_leaving_no_trace(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = |flags| preadv2(file, &mut [IoSliceMut::new(buffer)], at, flags);
    match read(ReadWriteFlags::NOWAIT) {
        Ok(count) if count > 0 => return Ok(count),
        // Not in memory; or a file system that cannot tell.
        Ok(_) | Err(_) => {}
    }
    loop {
        match read(ReadWriteFlags::empty()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let length = NonZeroU64::new(count as u64);
                fadvise(file, at, length, Advice::DontNeed).ok();
                return Ok(count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn blocking<T: Send + 'static>(
    on: &Arc<Work>,
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    on.run(Kind::Keep, Task::new(what), work).await.flatten()
}
