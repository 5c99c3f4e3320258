//! Work on the disk, off the async threads: how much of it goes on at once, and how long it is waited for.
//!
//! A disk that hangs (a network mount whose server is gone, a controller that does not answer) says nothing, for ever.
//! Whoever waited for it took a thread of the blocking pool along, until there were none for anybody. So work comes in
//! [`Kind`]s, each with so many threads, of which enough are left for everything that is no work on this disk. A job
//! whose operation on the disk takes longer than it may is *late*: whoever waits gives up, as after an error, and when
//! several are late the rest is refused at once. What is late itself goes on, and is finished whenever the disk answers.
//! The time that a job takes as a whole does not matter.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::oci::Digest;
use crate::store::disk::health::{Hang, Health};

/// Time past the moment when it is late that a job is waited for: so that it counts as late then.
const LATE_SLACK: Duration = Duration::from_millis(100);

/// The kind of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// Opening and reading what is stored: a client waits.
    Read,
    /// Asking the index, for which a client waits too.
    Index,
    /// Making room, files and bytes of a fill: its readers wait.
    Write,
    /// Work that nobody waits for, or that takes as long as it takes: making durable, hashing, tidying up.
    Keep,
}

/// The bounds of a kind.
struct Rule {
    /// In so many threads.
    at_once: usize,
    /// It is late when it has not come on for so long.
    late_after: Duration,
    /// When so many are late, no more of them is begun.
    late_max: usize,
}

/// The work on one disk.
#[derive(Debug)]
pub(in crate::store) struct Work {
    lanes: [Lane; 4],
    running: Mutex<HashMap<u64, Job>>,
    next: AtomicU64,
    /// From when time is counted.
    began: Instant,
    health: Arc<Health>,
}

#[derive(Debug)]
struct Lane {
    permits: Arc<Semaphore>,
    late: AtomicUsize,
}

/// A job that is being done.
#[derive(Clone, Debug)]
struct Job {
    kind: Kind,
    task: Task,
    course: Arc<Course>,
    late: bool,
}

/// When a job came on last.
#[derive(Debug)]
struct Course {
    began: Instant,
    /// In milliseconds since.
    came_on: AtomicU64,
}

thread_local! {
    /// The job that this thread does.
    static CURRENT: RefCell<Option<Arc<Course>>> = const { RefCell::new(None) };
}

/// The job that this thread does has come on: an operation on the disk is over.
pub(in crate::store) fn comes_on() {
    CURRENT.with_borrow(|current| {
        if let Some(course) = current {
            course.comes_on();
        }
    });
}

/// A job to be done, for people.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Task {
    pub(in crate::store) what: &'static str,
    pub(in crate::store) digest: Option<Digest>,
}

/// Takes a job out when it is over.
struct Entered {
    work: Arc<Work>,
    number: u64,
    kind: Kind,
    task: Task,
    course: Arc<Course>,
}

/// A job that was begun, to be waited for, or not.
#[derive(Debug)]
pub(in crate::store) struct Begun<T> {
    done: JoinHandle<T>,
    work: Arc<Work>,
    kind: Kind,
    task: Task,
    course: Arc<Course>,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Read, Self::Index, Self::Write, Self::Keep];

    /// All threads together are some 350 of the 512 that tokio's pool has.
    fn rule(self) -> Rule {
        match self {
            Self::Read => Rule {
                at_once: 192,
                late_after: Duration::from_secs(8),
                late_max: 8,
            },
            // A request may ask it several times.
            Self::Index => Rule {
                at_once: 32,
                late_after: Duration::from_secs(4),
                late_max: 2,
            },
            Self::Write => Rule {
                at_once: 96,
                late_after: Duration::from_secs(12),
                late_max: 8,
            },
            // A large file takes a slow disk that long to make durable.
            Self::Keep => Rule {
                at_once: 32,
                late_after: Duration::from_mins(1),
                late_max: 8,
            },
        }
    }
}

impl Work {
    pub(in crate::store) fn new(health: Arc<Health>) -> Self {
        Self {
            lanes: Kind::ALL.map(|kind| Lane {
                permits: Arc::new(Semaphore::new(kind.rule().at_once)),
                late: AtomicUsize::new(0),
            }),
            running: Mutex::default(),
            next: AtomicU64::new(0),
            began: Instant::now(),
            health,
        }
    }

    /// Does something that blocks.
    ///
    /// # Errors
    /// `TimedOut`: the disk does not answer, or did not before.
    pub(in crate::store) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        kind: Kind,
        task: Task,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.refuse(kind, &task)?;
        let entered = self.enter(kind, task);
        let permit = Arc::clone(&self.lane(kind).permits).acquire_owned();
        let patience = kind.rule().late_after + LATE_SLACK;
        let Ok(permit) = tokio::time::timeout(patience, permit).await else {
            self.look();
            return Err(does_not_answer(&task));
        };
        let permit = permit.map_err(io::Error::other)?;
        entered.begin(permit, work).done().await
    }

    /// Begins something that blocks, if there is a thread for it now.
    pub(in crate::store) fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        kind: Kind,
        task: Task,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Begun<T>> {
        self.refuse(kind, &task).ok()?;
        let permit = Arc::clone(&self.lane(kind).permits).try_acquire_owned();
        Some(self.enter(kind, task).begin(permit.ok()?, work))
    }

    /// True if something that was to be written is late.
    pub(in crate::store) fn writes_are_late(&self) -> bool {
        [Kind::Write, Kind::Keep]
            .iter()
            .any(|kind| self.lane(*kind).late.load(Ordering::Relaxed) > 0)
    }

    /// Looks what is late, and has the health tell of it.
    pub(in crate::store) fn look(&self) {
        let mut hang: Option<Hang> = None;
        let mut late = [0; 4];
        // Held to the end: of two who look at once, the one who looked first must not have the last word.
        let mut running = self.running();
        let now = Instant::now();
        for job in running.values_mut() {
            let since = job.course.came_on();
            job.late = now.duration_since(since) >= job.kind.rule().late_after;
            if !job.late {
                continue;
            }
            for (count, kind) in late.iter_mut().zip(Kind::ALL) {
                *count += usize::from(kind == job.kind);
            }
            if hang.as_ref().is_none_or(|hang| since < hang.since) {
                let what = job.task.to_string();
                hang = Some(Hang { what, since });
            }
        }
        for (lane, count) in self.lanes.iter().zip(late) {
            lane.late.store(count, Ordering::Relaxed);
        }
        self.health.hangs(hang);
    }

    /// Nobody waits for what has no prospect.
    ///
    /// # Errors
    /// `TimedOut`.
    pub(in crate::store) fn refuse(&self, kind: Kind, task: &Task) -> io::Result<()> {
        let late = self.lane(kind).late.load(Ordering::Relaxed);
        if late == 0 {
            return Ok(());
        }
        let same = || {
            let running = self.running();
            let mut late = running.values().filter(|job| job.late && job.kind == kind);
            task.digest.is_some() && late.any(|job| job.task.digest == task.digest)
        };
        if late >= kind.rule().late_max || same() {
            return Err(does_not_answer(task));
        }
        Ok(())
    }

    fn enter(self: &Arc<Self>, kind: Kind, task: Task) -> Entered {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let course = Arc::new(Course {
            began: self.began,
            came_on: AtomicU64::new(0),
        });
        course.comes_on();
        let job = Job {
            kind,
            task,
            course: Arc::clone(&course),
            late: false,
        };
        self.running().insert(number, job);
        Entered {
            work: Arc::clone(self),
            number,
            kind,
            task,
            course,
        }
    }

    fn lane(&self, kind: Kind) -> &Lane {
        let [read, index, write, keep] = &self.lanes;
        match kind {
            Kind::Read => read,
            Kind::Index => index,
            Kind::Write => write,
            Kind::Keep => keep,
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Job>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    pub(in crate::store) fn new(what: &'static str) -> Self {
        Self { what, digest: None }
    }

    pub(in crate::store) fn of(what: &'static str, digest: &Digest) -> Self {
        Self {
            what,
            digest: Some(*digest),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        self.digest.map_or(Ok(()), |digest| write!(f, " {digest}"))
    }
}

impl Course {
    fn comes_on(&self) {
        let passed = Instant::now().duration_since(self.began).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.came_on.store(passed, Ordering::Relaxed);
    }

    fn came_on(&self) -> Instant {
        self.began + Duration::from_millis(self.came_on.load(Ordering::Relaxed))
    }
}

impl Entered {
    fn begin<T: Send + 'static>(
        self,
        permit: OwnedSemaphorePermit,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Begun<T> {
        let (all, kind, task) = (Arc::clone(&self.work), self.kind, self.task);
        let course = Arc::clone(&self.course);
        let done = tokio::task::spawn_blocking(move || {
            CURRENT.set(Some(Arc::clone(&self.course)));
            self.course.comes_on();
            let done = work();
            CURRENT.set(None);
            drop(permit);
            done
        });
        Begun {
            done,
            work: all,
            kind,
            task,
            course,
        }
    }
}

impl<T> Begun<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// `TimedOut`: the disk does not answer. The job goes on.
    pub(in crate::store) async fn done(mut self) -> io::Result<T> {
        let late_after = self.kind.rule().late_after;
        loop {
            let late = self.course.came_on() + late_after + LATE_SLACK;
            match tokio::time::timeout_at(late, &mut self.done).await {
                Ok(done) => return done.map_err(io::Error::other),
                Err(_) if self.course.came_on() + late_after > Instant::now() => {}
                Err(_) => {
                    self.work.look();
                    return Err(does_not_answer(&self.task));
                }
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let over = self.work.running().remove(&self.number);
        if over.is_some_and(|job| job.late) {
            self.work.look();
        }
    }
}

fn does_not_answer(task: &Task) -> io::Error {
    let why = format!("the disk does not answer: cannot {task}");
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::telemetry::Metrics;

    #[tokio::test(start_paused = true)]
    async fn what_is_late_is_given_up_and_no_more_of_it_begun_until_it_is_over() {
        let health = Arc::new(Health::new(Metrics::new(std::iter::empty())));
        let work = Arc::new(Work::new(Arc::clone(&health)));
        let read = |n: u8| Task::of("read", &Digest::Sha256([n; 32]));
        let mut answers = Vec::new();
        for n in 0..8 {
            let (answer, asked) = mpsc::channel::<()>();
            answers.push(answer);
            let (sign, seen) = mpsc::channel::<()>();
            let hung = work.run(Kind::Read, read(n), move || {
                sign.send(()).ok();
                // Until the sender is gone.
                asked.recv().ok();
            });
            // While a thread works the paused clock stands still.
            let (hung, ()) = tokio::join!(hung, async {
                tokio::task::yield_now().await;
                // A thread that begins after the clock was moved would not be late.
                seen.recv().ok();
                tokio::time::advance(Duration::from_secs(9)).await;
            });
            assert_eq!(hung.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(health.trouble().unwrap().contains("read sha256:0"));
            let again = work.run(Kind::Read, read(n), || ()).await;
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
            // Others go on, until too many are late.
            let other = work.run(Kind::Read, read(99), || 5).await;
            assert_eq!(other.is_ok(), n < 7, "{n}");
            assert!(work.run(Kind::Write, read(n), || ()).await.is_ok());
        }
        assert!(!work.writes_are_late());
        drop(answers);
        while work.run(Kind::Read, read(0), || ()).await.is_err() {
            tokio::task::yield_now().await;
        }
        while health.trouble().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
