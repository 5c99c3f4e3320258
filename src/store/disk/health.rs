//! The health of the store's disk, learnt from what is done to it.
//!
//! Two things can be in trouble. While the *files* are, nothing new is stored: whoever wants it gets it
//! past the store, without waiting for a disk that fails. While the *index* is, changes wait in memory,
//! and everything else goes on. Each is told of once when it begins and once when it ends, and tried
//! again by the store's own task, less and less often. A file that cannot be *read* is no trouble of the
//! disk's as a whole: that blob is set aside.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Resource;
use tokio::time::Instant;

use crate::telemetry::Metrics;
use crate::telemetry::metrics::DiskOp;

/// Time until a disk that fails is tried again: what passes in a moment shall cost no more than that.
const RETRY_WAIT_MIN: Duration = Duration::from_secs(1);

/// Each time in vain it doubles, up to this: space that comes back is used within half a minute.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Time between two attempts to write to the disk while nobody does: as often as orchestrators ask
/// whether a process is ready.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Trouble that begins again within this is the same trouble: the waits go on from where they were, so
/// that a disk which fails every other time is neither tried nor told of each second.
const CALM: Duration = Duration::from_mins(2);

/// The parts that can be in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Part {
    /// Blobs, partial files, names.
    Files,
    /// The index.
    Index,
}

/// The health of a store's disk.
#[derive(Debug)]
pub(in crate::store) struct Health {
    state: Mutex<State>,
    /// True if the files are in trouble: each request asks.
    files_fail: AtomicBool,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    files: Course,
    index: Course,
    /// The reason why nothing can be stored on a disk that works.
    room: Option<String>,
    looked: Instant,
    hang: Option<Hang>,
    /// When it was first said that the disk does not answer.
    hangs_since: Option<Instant>,
    /// True: the store is another process's, and this one stores nothing more.
    is_given_away: bool,
}

/// The job that the disk has not answered for the longest time.
#[derive(Clone, Debug)]
pub(in crate::store) struct Hang {
    pub(in crate::store) what: String,
    pub(in crate::store) since: Instant,
}

/// The health of one part.
#[derive(Debug, Default)]
struct Course {
    trouble: Option<Trouble>,
    /// The last wait, and when the last trouble ended.
    before: Option<(Duration, Instant)>,
}

#[derive(Debug)]
struct Trouble {
    why: String,
    since: Instant,
    errors: u64,
    wait: Duration,
    retry_at: Instant,
}

impl Health {
    pub(in crate::store) fn new(metrics: Metrics) -> Self {
        Self {
            state: Mutex::new(State {
                files: Course::default(),
                index: Course::default(),
                room: None,
                looked: Instant::now(),
                hang: None,
                hangs_since: None,
                is_given_away: false,
            }),
            files_fail: AtomicBool::new(false),
            metrics,
        }
    }

    /// An operation failed.
    pub(in crate::store) fn failed(&self, op: DiskOp, error: &io::Error) {
        if op == DiskOp::Read && is_of_the_file(error) {
            return;
        }
        self.metrics.disk().failed(op);
        // The index says itself whether it could go on all the same.
        if op != DiskOp::Read && !op.is_index() && !is_lack(error) {
            let why = format!("{}: {error}", what(op));
            self.begin(Part::Files, why, advice(error));
        }
    }

    /// The store is another process's from now on. As long as that one serves nobody looks here; where it has failed, the
    /// operator is to hear that nothing is stored.
    pub(in crate::store) fn is_given_away(&self) {
        let mut state = self.state();
        state.is_given_away = true;
        self.publish(&state);
    }

    /// Notes the job that the disk does not answer; nothing: it does.
    pub(in crate::store) fn hangs(&self, hang: Option<Hang>) {
        let now = Instant::now();
        let mut state = self.state();
        match (&hang, state.hangs_since) {
            (Some(hang), None) => {
                state.hangs_since = Some(now);
                tracing::error!(
                    waited_s = now.duration_since(hang.since).as_secs_f32(),
                    advice = "is a network mount gone, or does the disk fail? See the kernel's log",
                    "the disk does not answer: cannot {}. What it holds up comes from upstream until it does",
                    hang.what
                );
            }
            (None, Some(since)) => {
                state.hangs_since = None;
                let seconds = now.duration_since(since).as_secs_f32();
                tracing::warn!(seconds, "the disk answers again");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        state.hang = hang;
        self.publish(&state);
    }

    /// The index could not be written, or opened.
    pub(in crate::store) fn index_failed(&self, why: String) {
        let advice = "links, tags and last uses of blobs are kept in memory until then; is the disk full, read-only or failing?";
        self.begin(Part::Index, why, advice);
    }

    fn begin(&self, part: Part, why: String, advice: &'static str) {
        let now = Instant::now();
        let mut state = self.state();
        let course = state.of(part);
        if let Some(trouble) = &mut course.trouble {
            // What it began with tells more than what came of it.
            trouble.errors += 1;
            return;
        }
        let wait = match course.before {
            Some((wait, ended)) if now.duration_since(ended) < CALM => next_wait(wait),
            Some(_) | None => RETRY_WAIT_MIN,
        };
        match part {
            Part::Files => tracing::error!(
                error = %why, advice, retry_in_s = wait.as_secs_f32(),
                "the cache directory cannot be written: nothing new is stored, and clients get it straight from upstream until it can"
            ),
            Part::Index => tracing::error!(
                error = %why, advice, retry_in_s = wait.as_secs_f32(),
                "the index of the cache cannot be written; it is tried again"
            ),
        }
        course.trouble = Some(Trouble {
            why,
            since: now,
            errors: 1,
            wait,
            retry_at: now + wait,
        });
        self.publish(&state);
    }

    /// There is no room for anything, whatever goes, and why; or there is again.
    pub(in crate::store) fn lacks_room(&self, why: Option<String>) {
        let mut state = self.state();
        match (&state.room, &why) {
            (None, Some(why)) => tracing::error!(
                error = %why,
                advice = "raise cache.max_size, unpin images, or make room on the disk",
                "the cache has no room for anything: nothing new is stored, and clients get it straight from upstream until it has"
            ),
            (Some(_), None) => tracing::warn!("the cache has room again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        state.room = why;
        self.publish(&state);
    }

    /// A part was tried, and works.
    pub(in crate::store) fn works(&self, part: Part) {
        let now = Instant::now();
        let mut state = self.state();
        let course = state.of(part);
        let Some(trouble) = course.trouble.take() else {
            return;
        };
        course.before = Some((trouble.wait, now));
        let seconds = now.duration_since(trouble.since).as_secs_f32();
        let (errors, error) = (trouble.errors, trouble.why);
        match part {
            Part::Files => tracing::warn!(
                seconds,
                errors,
                %error,
                "the cache directory can be written again"
            ),
            Part::Index => tracing::warn!(
                seconds,
                errors,
                %error,
                "the index of the cache is written again"
            ),
        }
        self.publish(&state);
    }

    /// True if a part that is in trouble is to be tried again now. Then it is not for a while, longer
    /// each time.
    pub(in crate::store) fn retry_is_due(&self, part: Part) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let Some(trouble) = &mut state.of(part).trouble else {
            return false;
        };
        let due = trouble.retry_at <= now;
        if due {
            trouble.wait = next_wait(trouble.wait);
            trouble.retry_at = now + trouble.wait;
        }
        due
    }

    /// A part that is in trouble is due to be tried again: there will be no other time.
    pub(in crate::store) fn hurry(&self, part: Part) {
        let now = Instant::now();
        if let Some(trouble) = &mut self.state().of(part).trouble {
            trouble.retry_at = now;
        }
    }

    /// True if it is time to look at a disk that nobody has complained of.
    pub(in crate::store) fn look_is_due(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let due = now.duration_since(state.looked) >= LOOK_EVERY;
        if due {
            state.looked = now;
        }
        due
    }

    /// True if a part is in trouble.
    pub(in crate::store) fn is_in_trouble(&self, part: Part) -> bool {
        match part {
            Part::Files => self.files_fail.load(Ordering::Acquire),
            Part::Index => self.state().index.trouble.is_some(),
        }
    }

    /// The trouble and its reason, in one line; `None` when all is well.
    pub(in crate::store) fn trouble(&self) -> Option<String> {
        let state = self.state();
        let said = |course: &Course, what: &str| {
            let trouble = course.trouble.as_ref()?;
            Some(format!("{what} ({})", trouble.why))
        };
        let files = said(&state.files, "the cache directory cannot be written");
        let index = said(&state.index, "the index of the cache cannot be written");
        let hang = state.hang.as_ref().map(|Hang { what, since }| {
            let seconds = Instant::now().duration_since(*since).as_secs();
            format!("the disk does not answer (cannot {what}, for {seconds} s)")
        });
        let room = state.room.as_ref();
        let room = room.map(|why| format!("the cache has no room for anything ({why})"));
        let all: Vec<String> = hang
            .into_iter()
            .chain(files)
            .chain(index)
            .chain(room)
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn publish(&self, state: &State) {
        let (files, index) = (&state.files.trouble, &state.index.trouble);
        self.files_fail.store(files.is_some(), Ordering::Release);
        let degraded = files.is_some()
            || index.is_some()
            || state.hang.is_some()
            || state.room.is_some()
            || state.is_given_away;
        self.metrics.disk().degraded(degraded);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&mut self, part: Part) -> &mut Course {
        match part {
            Part::Files => &mut self.files,
            Part::Index => &mut self.index,
        }
    }
}

/// True if an error says that a disk cannot be written as it is, so that a store may begin without.
/// Anything else, such as a directory that is missing or somebody else's, is for whoever configures it.
pub(in crate::store) fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO)
    )
}

/// True if an error in reading says something of that file alone, which is told where it is read.
fn is_of_the_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
    )
}

/// True if an error says that the process or the system lacks something for now, or that the process may not make
/// so large a file. The disk is well.
fn is_lack(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::FBIG)
    )
}

/// Size of the largest file that this process may make (`ulimit -f`), where that is bounded.
pub(in crate::store) fn file_bytes_max() -> Option<u64> {
    rustix::process::getrlimit(Resource::Fsize).current
}

/// Checks that a file may have so many bytes: else a write to it would fail on the way.
///
/// # Errors
/// The error that such a write would fail with.
pub(in crate::store) fn may_have(bytes: u64) -> io::Result<()> {
    match file_bytes_max() {
        Some(limit) if bytes > limit => Err(Errno::FBIG.into()),
        Some(_) | None => Ok(()),
    }
}

fn next_wait(wait: Duration) -> Duration {
    (wait * 2).min(RETRY_WAIT_MAX)
}

/// The operation that was tried, for people.
fn what(op: DiskOp) -> &'static str {
    match op {
        DiskOp::Create => "cannot make a file",
        DiskOp::Read | DiskOp::ReadIndex => "cannot read",
        DiskOp::Write | DiskOp::WriteIndex => "cannot write",
        DiskOp::Truncate => "cannot cut off a file",
        DiskOp::Sync | DiskOp::SyncIndex => "cannot make a file durable",
        DiskOp::Rename => "cannot give a file its name",
        DiskOp::SyncDirectory => "cannot make a directory durable",
        DiskOp::Remove => "cannot delete a file",
    }
}

/// Advice about an error.
fn advice(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            "make room on the disk, or lower cache.max_size; cache.min_free keeps some of it free"
        }
        Some(Errno::ROFS) => {
            "the file system is read-only, as the kernel makes it after errors: see its log, check the disk, mount it read-write"
        }
        Some(Errno::IO) => "the disk fails: see the kernel's log, and replace it",
        Some(Errno::FBIG) => {
            "raise the process's limit on the size of files: ulimit -f, or LimitFSIZE= of systemd"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "give the directory and what is in it to roadstead's user"
        }
        Some(Errno::NOENT) => "the directory has gone: was it deleted, or its disk unmounted?",
        Some(_) | None => "see the kernel's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(Metrics::new(std::iter::empty()))
    }

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_tried_again_less_and_less_often() {
        let health = health();
        assert!(!health.retry_is_due(Part::Files));
        health.failed(DiskOp::Sync, &error(Errno::IO));
        assert!(health.is_in_trouble(Part::Files));
        assert!(health.trouble().unwrap().contains("durable"));
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let just_before = seconds * 1000 - 1;
            tokio::time::advance(Duration::from_millis(just_before)).await;
            assert!(!health.retry_is_due(Part::Files), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(health.retry_is_due(Part::Files), "{seconds}");
            assert!(!health.retry_is_due(Part::Files), "once");
        }
        health.works(Part::Files);
        assert_eq!(health.trouble(), None);
        assert!(!health.is_in_trouble(Part::Files));
        // It was not over.
        health.failed(DiskOp::Write, &error(Errno::NOSPC));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!health.retry_is_due(Part::Files));
        health.works(Part::Files);
        tokio::time::advance(CALM).await;
        health.failed(DiskOp::Write, &error(Errno::NOSPC));
        tokio::time::advance(RETRY_WAIT_MIN).await;
        assert!(health.retry_is_due(Part::Files), "this is another one");
    }

    #[tokio::test]
    async fn not_every_error_is_the_disks() {
        let health = health();
        health.failed(DiskOp::Read, &error(Errno::IO));
        health.failed(DiskOp::Read, &error(Errno::NOENT));
        health.failed(DiskOp::Create, &error(Errno::MFILE));
        health.failed(DiskOp::Write, &error(Errno::FBIG));
        health.failed(DiskOp::SyncIndex, &error(Errno::IO));
        assert_eq!(health.trouble(), None);
        let text = health.metrics.render();
        for (op, count) in [("read", 1), ("create", 1), ("sync_index", 1), ("write", 1)] {
            let line = format!("roadstead_store_errors_total{{op=\"{op}\"}} {count}\n");
            assert!(text.contains(&line), "{line}");
        }
        assert!(text.contains("roadstead_store_degraded 0\n"));
    }

    #[tokio::test]
    async fn the_index_is_a_trouble_of_its_own() {
        let health = health();
        health.index_failed("no space".to_owned());
        assert!(!health.is_in_trouble(Part::Files));
        assert!(health.is_in_trouble(Part::Index));
        let said = health.trouble().unwrap();
        assert!(
            said.contains("index") && said.contains("no space"),
            "{said}"
        );
        assert!(
            health
                .metrics
                .render()
                .contains("roadstead_store_degraded 1\n")
        );
        health.works(Part::Index);
        assert_eq!(health.trouble(), None);
    }
}
