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

mod key;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::watch;

use crate::oci::Hasher;
use crate::store::cas::demand::Want;
use crate::store::cas::fill_state::{Altered, Shared, Span};
use crate::store::disk::DiskFile;
use crate::store::disk::windows::{self, Kept, WINDOW_BYTES, WINDOW_BYTES_MIN, Windows};
use crate::store::disk::work::{Kind, Task};
pub use key::FillKey;

/// The end of a blob that is kept from its readers until the digest has
/// been checked: so no client can have received a complete wrong blob.
pub const HELD_BACK_BYTES: u64 = 64 * 1024;

/// Bytes that one read takes from the file: large enough that the cost of a hop
/// to the blocking pool does not show, small enough for a thousand readers.
pub(in crate::store) const READ_BYTES: usize = 128 * 1024;

/// Makes both sides of a fill. Nothing is on disk yet.
#[must_use]
pub fn fill<E: Clone>(key: FillKey) -> (Opening<E>, Fill<E>) {
    let (sender, progress) = watch::channel(Progress {
        phase: Phase::Starting,
        total: None,
    });
    let shared = Arc::new(Shared::new(key));
    let opening = Opening {
        sender,
        shared: Arc::clone(&shared),
    };
    (opening, Fill { shared, progress })
}

/// The state that is broadcast to every reader.
#[derive(Clone, Debug)]
pub(in crate::store) struct Progress<E> {
    pub(in crate::store) phase: Phase<E>,
    pub(in crate::store) total: Option<u64>,
}

#[derive(Clone, Debug)]
pub(in crate::store) enum Phase<E> {
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
    pub(in crate::store) sender: watch::Sender<Progress<E>>,
    pub(in crate::store) shared: Arc<Shared>,
}

/// The end of a fill without a whole blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended<E> {
    /// It failed, and said why.
    Failed(E),
    /// Its writer went away without a word.
    Vanished,
    /// The local file could not be read.
    Unreadable(String),
    /// A part that was handed out was wrong: the same part came differently later.
    Altered,
}

/// The progress of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillState {
    /// The size of the blob in bytes, once it is known.
    pub total: Option<u64>,
    /// Number of bytes that are there.
    pub covered: u64,
    /// Number of readers.
    pub readers: usize,
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
    span: Span,
    /// Offset to stop at; `None`: at the total, once that is known.
    end: Option<u64>,
    /// True if the tail is kept from this reader until the digest is checked.
    held: bool,
    /// Registers its windows, if it is given any.
    windows: Option<Windows>,
    /// The most that is copied from the file at once.
    piece_max: usize,
    want: Want,
    attendance: Attendance,
}

/// Counts a reader while it lives.
#[derive(Debug)]
struct Attendance(Arc<Shared>);

/// The next thing that a reader can do.
enum Step {
    Read {
        range: Range<u64>,
        /// True if it may be given before it has left: see [`Reader::take`].
        early: bool,
    },
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
    /// The end of the fill, if it never began.
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

    /// Waits for its end: then the blob is stored, or could not be kept.
    ///
    /// # Errors
    /// The end of the fill, if that was no whole blob.
    pub async fn over(&self) -> Result<(), Ended<E>> {
        let mut progress = self.progress.clone();
        loop {
            if let Phase::Failed(why) = &progress.borrow_and_update().phase {
                return Err(Ended::Failed(why.clone()));
            }
            // The writer keeps the channel until the commit is through.
            if progress.changed().await.is_err() {
                break;
            }
        }
        match &progress.borrow().phase {
            Phase::Verified => Ok(()),
            Phase::Failed(why) => Err(Ended::Failed(why.clone())),
            Phase::Starting | Phase::Streaming => Err(Ended::Vanished),
        }
    }

    /// True if it has ended in failure: a new fill may take its place.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let progress = self.progress.borrow();
        match progress.phase {
            Phase::Failed(_) => true,
            Phase::Starting | Phase::Streaming => self.progress.has_changed().is_err(),
            Phase::Verified => false,
        }
    }

    /// True if it resumed what an earlier transfer left. Known once it has started.
    #[must_use]
    pub fn was_taken_up(&self) -> bool {
        self.shared.taken_up.load(Ordering::Relaxed)
    }

    /// Its progress.
    #[must_use]
    pub fn state(&self) -> FillState {
        FillState {
            total: self.progress.borrow().total,
            covered: self.shared.coverage().bytes(),
            readers: self.shared.readers(),
        }
    }

    /// The number of bytes of `range` that are there.
    #[must_use]
    pub fn covered_within(&self, range: Range<u64>) -> u64 {
        let coverage = self.shared.coverage();
        let lengths = coverage.within(range).map(|it| it.end - it.start);
        lengths.sum()
    }

    /// The end of what is there without a gap from an offset on; the offset itself, where that is missing.
    #[must_use]
    pub fn run_end(&self, offset: u64) -> u64 {
        self.shared.coverage().run_end(offset)
    }

    /// A reader of `range`, of everything when `None`. One that reaches the end completes a download,
    /// be it one that was broken off: the end is held back.
    #[must_use]
    pub fn reader(&self, range: Option<Range<u64>>) -> Reader<E> {
        let total = self.progress.borrow().total;
        let (start, end) = range.map_or((0, None), |r| (r.start, Some(r.end)));
        self.read(start, end, end.is_none() || end == total)
    }

    /// A reader of a part, wherever it ends: it completes nothing, and nothing is held back from it.
    #[must_use]
    pub fn part_reader(&self, range: Range<u64>) -> Reader<E> {
        self.read(range.start, Some(range.end), false)
    }

    fn read(&self, start: u64, end: Option<u64>, held: bool) -> Reader<E> {
        self.shared.reader_comes();
        if held {
            self.shared.wants.everything();
        }
        Reader {
            progress: self.progress.clone(),
            span: Span::new(start),
            end,
            held,
            windows: None,
            piece_max: READ_BYTES,
            want: Want::new(Arc::clone(&self.shared.wants)),
            attendance: Attendance(Arc::clone(&self.shared)),
        }
    }
}

/// The bytes that a reader was given, when it goes on without the fill.
#[derive(Debug)]
pub struct Handed {
    /// First byte of its range.
    pub start: u64,
    /// The next byte that it is to be given.
    pub position: u64,
    /// The end of its range; `None`: the blob's.
    pub end: Option<u64>,
    /// The size of the blob, if it is known.
    pub total: Option<u64>,
    /// The file that has what it was given, open also after it was deleted.
    pub(in crate::store) file: Option<Arc<DiskFile>>,
}

impl Handed {
    /// Of nothing yet; `range` is to be given (everything when `None`).
    #[must_use]
    pub fn nothing(range: Option<Range<u64>>) -> Self {
        let (start, end) = range.map_or((0, None), |range| (range.start, Some(range.end)));
        Self {
            start,
            position: start,
            end,
            total: None,
            file: None,
        }
    }

    /// Takes into `hasher` all bytes before [`Handed::position`], as the file has them.
    ///
    /// # Errors
    /// The operating system's; `UnexpectedEof` when there are fewer.
    pub async fn hash(self, mut hasher: Hasher) -> io::Result<Hasher> {
        if self.position == 0 {
            return Ok(hasher);
        }
        let none = || io::Error::other("no file was open");
        let file = self.file.ok_or_else(none)?;
        let work = Arc::clone(file.work());
        let hashing = work.run(Kind::Read, Task::new("read back a transfer"), move || {
            let mut at = 0;
            while at < self.position {
                let left = usize::try_from(self.position - at).unwrap_or(READ_BYTES);
                let bytes = file.read_at(at, left.min(READ_BYTES))?;
                hasher.update(&bytes);
                at += bytes.len() as u64;
            }
            Ok(hasher)
        });
        hashing.await.flatten()
    }
}

impl<E: Clone> Reader<E> {
    /// Gives what is worth it as windows of the file, which only the kernel may look into: for a socket without TLS.
    #[must_use]
    pub fn in_windows(self, windows: Windows) -> Self {
        let windows = Some(windows);
        Self { windows, ..self }
    }

    /// Bounds the pieces of what is copied from the file, from now on.
    pub fn set_piece_max(&mut self, bytes: usize) {
        self.piece_max = bytes.clamp(1, READ_BYTES);
    }

    /// Hands over what it was given, so that somebody else can give it the rest.
    ///
    /// # Errors
    /// [`Ended::Altered`]: something of that was wrong.
    pub fn hand_over(&mut self) -> Result<Handed, Ended<E>> {
        let shared = &self.attendance.0;
        shared
            .look(&mut self.span)
            .map_err(|Altered| Ended::Altered)?;
        Ok(Handed {
            start: self.span.start(),
            position: self.span.position(),
            end: self.end,
            total: self.progress.borrow().total,
            file: shared.file.get().cloned(),
        })
    }

    /// Says that it will wait for its bytes, before it does.
    pub fn announce(&mut self) {
        let position = self.span.position();
        let end = self.end.unwrap_or(u64::MAX);
        if self
            .attendance
            .0
            .coverage()
            .next_gap(position, end)
            .is_some()
        {
            self.want.wait(position..end);
        }
    }

    /// The next bytes, as soon as there are any; `None` at the end.
    ///
    /// # Errors
    /// The end of the fill. The client's connection must then be broken.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Ended<E>> {
        loop {
            let closed = self.progress.has_changed().is_err();
            match self.step()? {
                Step::End => return Ok(None),
                Step::Read { range, early } => match self.take(range, early).await {
                    Ok(Some(bytes)) => {
                        self.want.done();
                        return Ok(Some(bytes));
                    }
                    Ok(None) => {}
                    Err(error) => return Err(self.unreadable(&error).await),
                },
                Step::Wait if closed => return Err(Ended::Vanished),
                Step::Wait => {
                    let end = self.end.unwrap_or(u64::MAX);
                    self.want.wait(self.span.position()..end);
                    // The error is seen as `closed` in the next round.
                    drop(self.progress.changed().await);
                }
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
        // After the phase: once it is `Verified`, nothing is altered any more.
        let covered = match self.attendance.0.look(&mut self.span) {
            Ok(covered) => covered,
            Err(Altered) => return Err(Ended::Altered),
        };
        let position = self.span.position();
        if covered < position {
            // Something that was handed out is in doubt. It will be there again, or altered.
            return Ok(Step::Wait);
        }
        let end = self.end.or(progress.total);
        let free = if verified || !self.held {
            covered
        } else {
            let known_end = progress.total.unwrap_or(covered);
            covered.min(known_end.saturating_sub(HELD_BACK_BYTES))
        };
        let limit = end.map_or(free, |end| free.min(end));
        Ok(if limit > position {
            Step::Read {
                range: position..limit,
                early: verified || self.held,
            }
        } else if end == Some(position) && (verified || !self.held) {
            Step::End
        } else {
            Step::Wait
        })
    }

    /// Takes the beginning of `range`; `None` when a doubt came meanwhile.
    ///
    /// `early` allows a window, whose bytes leave later than they are given, as the file has them then. That is right
    /// for two kinds of readers. After `Verified` nothing is altered: the file is never written to again, not even
    /// if the commit fails (another fill of this digest begins with another file: `Layout::open_part`). Before that,
    /// for one from whom the tail is **held back**: a byte given in one round can only become another in a later
    /// one, which notes that before it writes; the tail is given only after `Verified`, and in the same step only if
    /// none of that was noted; then the file has had the same there all the time. Else the reader is broken, and the
    /// client knows that it lacks the tail. A reader of a **part** gets all of it before anything is verified, and
    /// the client takes it for good: it must be given what was there at one time, which is a copy.
    async fn take(&mut self, range: Range<u64>, early: bool) -> io::Result<Option<Bytes>> {
        // Few bytes are cheaper to copy; of many, those in memory too (one copy, to the socket, is three times the
        // price of none), and a slow client does not keep them there.
        let worth = early && range.end - range.start >= WINDOW_BYTES_MIN;
        if let Some(windows) = self.windows.clone().filter(|_| worth)
            && let Some(taken) = self.window(&windows, &range).await?
        {
            return Ok(taken);
        }
        let shared = &self.attendance.0;
        let recent = shared.give_recent(&mut self.span, &range);
        if recent.is_some() {
            return Ok(recent);
        }
        let file = self.file()?;
        let limit = usize::try_from(range.end - range.start)
            .unwrap_or(READ_BYTES)
            .min(self.piece_max);
        let (work, task) = (
            Arc::clone(file.work()),
            Task::of("read a transfer of", shared.key.digest()),
        );
        let read = work.run(Kind::Read, task, move || file.read_at(range.start, limit));
        match read.await.flatten() {
            Ok(bytes) => Ok(shared
                .give(&mut self.span, bytes.len())
                .then(|| bytes.into())),
            Err(error) if shared.is_current(&self.span) => Err(error),
            // It was doubted, and may have been cut off.
            Err(_) => Ok(None),
        }
    }

    /// The same as a window; nothing, if there can be none.
    async fn window(
        &mut self,
        windows: &Windows,
        range: &Range<u64>,
    ) -> io::Result<Option<Option<Bytes>>> {
        let Range { start, end } = range.clone();
        let range = start..end.min(start.saturating_add(WINDOW_BYTES));
        let file = self.file()?;
        let shared = &self.attendance.0;
        // What was written a moment ago is in memory.
        let window = match file.window_cached(&range)? {
            Some(bytes) => Some(bytes),
            None => windows::bring(&file, range).await?,
        };
        let Some(bytes) = window else {
            return Ok(None);
        };
        if !shared.give(&mut self.span, bytes.len()) {
            return Ok(Some(None));
        }
        // The blob is pinned by all who hold this when it is stored.
        let kept = Kept::by(Arc::clone(shared));
        windows.remember(bytes.clone(), file, start, kept);
        Ok(Some(Some(bytes)))
    }

    fn file(&self) -> io::Result<Arc<DiskFile>> {
        let file = self.attendance.0.file.get().cloned();
        file.ok_or_else(|| io::Error::other("no file is open"))
    }

    /// The local file could not be read. Somebody else may give the rest, and takes it from the file what was given
    /// before: that must not change any more, so the fill's end is waited for.
    async fn unreadable(&mut self, error: &io::Error) -> Ended<E> {
        loop {
            let closed = self.progress.has_changed().is_err();
            match &self.progress.borrow_and_update().phase {
                Phase::Failed(why) => return Ended::Failed(why.clone()),
                Phase::Starting | Phase::Streaming if closed => return Ended::Vanished,
                Phase::Starting | Phase::Streaming => {}
                Phase::Verified => return Ended::Unreadable(error.to_string()),
            }
            drop(self.progress.changed().await);
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.reader_goes();
    }
}
