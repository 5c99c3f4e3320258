//! A blob on its way: one partial file, one coverage, any number of readers.
//!
//! ```text
//! fill() ─▶ Opening ─begin─▶ Partial ─verify─▶ Verified ─commit─▶ (a stored blob)
//!    └────▶ Fill ─reader─▶ Reader …                     each may end as Failed
//! ```
//!
//! The writing side is owned by one task; dropping it at any point ends the
//! fill as *vanished*, which readers take as a failure. The reading side is
//! cheap to clone. Nothing here knows where bytes come from.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::coverage::Coverage;
use super::{Pin, fs};
use crate::oci::Digest;

/// How much of the end of a blob is kept from its readers until the digest has
/// been checked: so no client can have received a complete wrong blob.
pub const HELD_BACK_BYTES: u64 = 64 * 1024;

/// How much one read takes from the file: large enough that the cost of a hop
/// to the blocking pool does not show, small enough for a thousand readers.
pub(super) const READ_BYTES: usize = 128 * 1024;

/// How many of the bytes written last a fill keeps in memory: readers that keep
/// up take them from there, without a copy or a hop to the blocking pool. One
/// large write and a half, so that whoever was woken by a write still finds it.
const RECENT_BYTES_MAX: usize = 1536 * 1024;

/// And in how many pieces: an upstream may send a byte at a time, and each
/// piece costs more than that to remember.
const RECENT_CHUNKS_MAX: usize = 2048;

/// Makes both sides of a fill. Nothing is on disk yet.
#[must_use]
pub fn fill<E: Clone>(digest: Digest) -> (Opening<E>, Fill<E>) {
    let (sender, progress) = watch::channel(Progress {
        phase: Phase::Starting,
        total: None,
    });
    let shared = Arc::new(Shared {
        digest,
        file: OnceLock::new(),
        coverage: Mutex::default(),
        recent: Mutex::default(),
        readers: AtomicUsize::new(0),
        pin: OnceLock::new(),
    });
    let opening = Opening {
        sender,
        shared: Arc::clone(&shared),
    };
    (opening, Fill { shared, progress })
}

/// What both sides share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) digest: Digest,
    /// Set once when the partial file is opened; after the commit it is the
    /// blob's file, because a rename does not move an open file.
    pub(super) file: OnceLock<Arc<File>>,
    pub(super) coverage: Mutex<Coverage>,
    /// What was written last: bytes that are in the file, and covered.
    recent: Mutex<Recent>,
    readers: AtomicUsize,
    /// Set at the commit: the blob stays open as long as anybody holds the fill.
    pub(super) pin: OnceLock<Pin>,
}

/// The chunks written last, with their offsets, oldest first.
#[derive(Debug, Default)]
struct Recent {
    chunks: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// What is broadcast to every reader.
#[derive(Clone, Debug)]
pub(super) struct Progress<E> {
    pub(super) phase: Phase<E>,
    pub(super) total: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) enum Phase<E> {
    /// The source has not answered yet.
    Starting,
    /// Bytes are arriving.
    Streaming,
    /// All bytes are there and their digest is right.
    Verified,
    /// It ended, and no byte of it may be relied on.
    Failed(E),
}

/// The writing side before a file is open: dropping it ends the fill.
#[derive(Debug)]
pub struct Opening<E> {
    pub(super) sender: watch::Sender<Progress<E>>,
    pub(super) shared: Arc<Shared>,
}

/// How a fill ended without a whole blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended<E> {
    /// It failed, and said why.
    Failed(E),
    /// Its writer went away without a word.
    Vanished,
    /// The local file could not be read.
    Unreadable(String),
}

/// The reading side of a fill. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fill<E> {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress<E>>,
}

/// One reader of a fill, at its own speed.
#[derive(Debug)]
pub struct Reader<E> {
    progress: watch::Receiver<Progress<E>>,
    position: u64,
    /// Where to stop; `None`: at the total, once that is known.
    end: Option<u64>,
    /// Whether the tail is kept from this reader until the digest is checked.
    held: bool,
    attendance: Attendance,
}

/// Counts a reader while it lives.
#[derive(Debug)]
struct Attendance(Arc<Shared>);

/// What a reader can do now.
enum Step {
    Read(Range<u64>),
    End,
    Wait,
}

impl<E> Opening<E> {
    /// Ends the fill before it has begun.
    pub fn fail(self, why: E) {
        self.sender
            .send_modify(|progress| progress.phase = Phase::Failed(why));
    }
}

impl<E: Clone> Fill<E> {
    /// Waits for the source's answer: the total, if it is known.
    ///
    /// # Errors
    /// How the fill ended, if it never began.
    pub async fn started(&self) -> Result<Option<u64>, Ended<E>> {
        let mut progress = self.progress.clone();
        let seen = progress
            .wait_for(|p| !matches!(p.phase, Phase::Starting))
            .await;
        match seen {
            Ok(progress) => match &progress.phase {
                Phase::Failed(why) => Err(Ended::Failed(why.clone())),
                Phase::Starting | Phase::Streaming | Phase::Verified => Ok(progress.total),
            },
            Err(_) => Err(Ended::Vanished),
        }
    }

    /// Whether it has ended in failure: a new fill may take its place.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let progress = self.progress.borrow();
        match progress.phase {
            Phase::Failed(_) => true,
            Phase::Starting | Phase::Streaming => self.progress.has_changed().is_err(),
            Phase::Verified => false,
        }
    }

    /// A reader of `range`, of everything when `None`.
    #[must_use]
    pub fn reader(&self, range: Option<Range<u64>>) -> Reader<E> {
        let total = self.progress.borrow().total;
        let (position, end) = range.map_or((0, None), |r| (r.start, Some(r.end)));
        self.shared.readers.fetch_add(1, Ordering::Relaxed);
        Reader {
            progress: self.progress.clone(),
            position,
            end,
            // A range that reaches the end completes a download that was broken
            // off: it is held like a whole one.
            held: end.is_none() || end == total,
            attendance: Attendance(Arc::clone(&self.shared)),
        }
    }
}

impl<E: Clone> Reader<E> {
    /// The next bytes, as soon as there are any; `None` at the end.
    ///
    /// # Errors
    /// How the fill ended. The client's connection must then be broken.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Ended<E>> {
        loop {
            let closed = self.progress.has_changed().is_err();
            match self.step()? {
                Step::End => return Ok(None),
                Step::Read(range) => {
                    let recent = self.attendance.0.recent(&range);
                    let bytes = match recent {
                        Some(bytes) => bytes,
                        None => self.read(range).await?,
                    };
                    self.position += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Step::Wait if closed => return Err(Ended::Vanished),
                // The error is seen as `closed` in the next round.
                Step::Wait => drop(self.progress.changed().await),
            }
        }
    }

    fn step(&mut self) -> Result<Step, Ended<E>> {
        let progress = self.progress.borrow_and_update();
        let verified = match &progress.phase {
            Phase::Failed(why) => return Err(Ended::Failed(why.clone())),
            Phase::Starting | Phase::Streaming => false,
            Phase::Verified => true,
        };
        let covered = self.attendance.0.coverage().run_end(self.position);
        let end = self.end.or(progress.total);
        let free = if verified || !self.held {
            covered
        } else {
            let known_end = progress.total.unwrap_or(covered);
            covered.min(known_end.saturating_sub(HELD_BACK_BYTES))
        };
        let limit = end.map_or(free, |end| free.min(end));
        Ok(if limit > self.position {
            Step::Read(self.position..limit)
        } else if end == Some(self.position) && (verified || !self.held) {
            Step::End
        } else {
            Step::Wait
        })
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, Ended<E>> {
        let Some(file) = self.attendance.0.file.get().cloned() else {
            return Err(Ended::Unreadable("no file is open".to_owned()));
        };
        let limit = usize::try_from(range.end - range.start)
            .unwrap_or(READ_BYTES)
            .min(READ_BYTES);
        let read =
            tokio::task::spawn_blocking(move || fs::read_at(&file, range.start, limit)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(Ended::Unreadable(error.to_string())),
            Err(error) => return Err(Ended::Unreadable(error.to_string())),
        };
        Ok(bytes.into())
    }
}

impl Shared {
    pub(super) fn coverage(&self) -> MutexGuard<'_, Coverage> {
        // Coverage is changed by one call that cannot panic half-way.
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    /// Keeps what was just written at `offset` for readers that keep up.
    pub(super) fn remember(&self, offset: u64, chunks: &[Bytes]) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        for chunk in chunks {
            recent.chunks.push_back((at, chunk.clone()));
            recent.bytes += chunk.len();
            at += chunk.len() as u64;
        }
        while (recent.bytes > RECENT_BYTES_MAX || recent.chunks.len() > RECENT_CHUNKS_MAX)
            && let Some((_, oldest)) = recent.chunks.pop_front()
        {
            recent.bytes -= oldest.len();
        }
    }

    /// Forgets what was kept: nobody writes any more, and readers use the file.
    pub(super) fn forget_recent(&self) {
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = Recent::default();
    }

    /// The beginning of `range`, if it was written last.
    fn recent(&self, range: &Range<u64>) -> Option<Bytes> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // Newest first: readers that keep up want the end. Only what lies in
        // order before it is passed over.
        let holds = |(at, chunk): &&(u64, Bytes)| {
            *at <= range.start && range.start - *at < chunk.len() as u64
        };
        let (at, chunk) = recent.chunks.iter().rev().find(holds)?;
        // Both differences are less than the chunk's length.
        let from = usize::try_from(range.start - at).ok()?;
        let to = usize::try_from(range.end - at).map_or(chunk.len(), |to| to.min(chunk.len()));
        Some(chunk.slice(from..to))
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
