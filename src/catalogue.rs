//! State that nobody can be asked for again: names and links of imported images, pins that were made by hand, users and
//! tokens, repositories that were seen to be public. A database (SQLite) in the state directory, a file of its own beside
//! the cache, which may be deleted at any time.
//!
//! A change is answered after it is durable, and not before: one thread writes, takes what waits as one transaction
//! (group commit), and then answers each caller. Readers have connections of their own, and block: they run off the
//! async threads. Nothing here is asked on the way of a hit.
//!
//! A catalogue that cannot be opened is never begun anew. It is *degraded* then: nothing can be changed, what it holds is
//! not known, and [`Catalogue::trouble`] says in one line why, and what to do.
//!
//! | file | what |
//! | --- | --- |
//! | `files` | the directory, its lock, and its files: what is looked at before SQLite opens any |
//! | `connection` | connections to write, to read, and to look without a trace |
//! | `schema` | tables, and how those of earlier versions become those of this |
//! | `writer` | the thread that writes |
//! | `changes` | what is written |
//! | `queries` | what is read |
//! | `records`, `people` | users and tokens: as values, and what is read of them |
//! | `hosted` | hosted repositories: their tables, acts on them, and what is read of them |
//! | `shared` | the state that the writer and those who ask have between them |
//! | `backup` | a copy while the server runs, and what is read of a copy |
//! | `hold` | keeps the files of hosted blobs while somebody copies them |

mod backup;
mod changes;
mod connection;
mod error;
mod files;
mod gate;
mod hold;
pub mod hosted;
pub mod people;
mod queries;
mod records;
mod schema;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use backup::{Backup, BackupError, Copied, Stopped, backup};
use changes::Applied;
pub use changes::{Change, HandPin, ImportedLink, ImportedTag, Legacy, Link, Name};
pub use error::CatalogueError;
use files::Files;
pub use files::{DATABASE, RESTORING};
pub use gate::Gate;
pub use hold::Hold;
pub use records::{PeopleChange, Token, TokenKind, User};
use rusqlite::Connection;
use shared::{Repositories, Shared};
use tokio::sync::{Semaphore, oneshot};
use writer::{Job, Writer, Writing};

use crate::oci::directory::Source;
use crate::telemetry::Metrics;

/// Connections that read at the same time; more wait. Each has a page cache of its own.
const READERS_MAX: usize = 4;

/// Bytes that changes take in memory that wait to be written: an image with all its platforms has some
/// hundred kilobytes.
const QUEUE_BYTES_MAX: u32 = 32 * 1024 * 1024;

/// Time that a caller waits for a change to be durable. An operator's command waits longer than that for its answer.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(20);

/// Time that a caller waits for an answer: a client's request may have waited for upstream before, and has 30 s in all.
const READ_WAIT_MAX: Duration = Duration::from_secs(2);

/// Time that the end of the thread is waited for: it may be at a disk that does not answer.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);

/// The place of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The state directory; made if missing.
    pub dir: PathBuf,
    /// Asked before each commit and each read.
    pub gate: Gate,
}

/// The catalogue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Catalogue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// The queue of changes; nothing where there is no writer.
    jobs: Mutex<Option<Writing>>,
    queue: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    /// Connections that nobody uses now.
    idle: Mutex<Vec<Connection>>,
    contents: Contents,
    gate: Gate,
    shared: Arc<Shared>,
}

/// The knowledge of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    /// It can be asked.
    Known,
    /// It can be asked without leaving a trace.
    Looked,
    /// There is no database, and none is made: nothing is in it.
    Nothing,
    /// It could not be opened.
    Unknown,
}

impl Config {
    /// The catalogue of a state directory.
    #[must_use]
    pub fn of(dir: PathBuf) -> Self {
        Self {
            dir,
            gate: Gate::default(),
        }
    }
}

impl Catalogue {
    /// Opens the catalogue of a state directory, or makes it where there is none. One that cannot be opened is
    /// degraded, and told of. Blocks: not for async code.
    #[must_use]
    pub fn open(config: &Config, metrics: Metrics) -> Self {
        let shared = Arc::new(Shared::new(metrics));
        let opened = Files::claim(&config.dir).and_then(|files| {
            let writer = Writer::open(files, config.gate.clone(), &shared)?;
            let started = writer.start();
            started.map_err(|error| format!("cannot start a thread: {error}"))
        });
        let (writing, contents) = match opened {
            Ok(writing) => (Some(writing), Contents::Known),
            Err(why) => {
                let why = format!("{why}; then restart roadstead");
                tracing::error!(state_dir = %config.dir.display(), error = why, "the catalogue cannot be opened: pulls go on from the cache and from upstream, but nothing is evicted, and imports, pins and removals are refused until it can");
                shared.set_trouble(Some(why));
                (None, Contents::Unknown)
            }
        };
        Self::with(config, writing, contents, shared)
    }

    /// Opens the catalogue of a state directory to look at it, beside a server or without one, and changes no file. No
    /// catalogue is one without anything in it. Blocks: not for async code.
    #[must_use]
    pub fn look_into(config: &Config, metrics: Metrics) -> Self {
        let shared = Arc::new(Shared::new(metrics));
        let contents = match connection::look(&config.dir) {
            Ok(Some(connection)) => match shared.learn(&connection) {
                Ok(()) => Contents::Looked,
                Err(error) => {
                    shared.set_trouble(Some(files::describe(&config.dir, &error)));
                    Contents::Unknown
                }
            },
            Ok(None) => Contents::Nothing,
            Err(why) => {
                shared.set_trouble(Some(why));
                Contents::Unknown
            }
        };
        Self::with(config, None, contents, shared)
    }

    fn with(
        config: &Config,
        writing: Option<Writing>,
        contents: Contents,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                dir: config.dir.clone(),
                jobs: Mutex::new(writing),
                queue: Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize)),
                readers: Arc::new(Semaphore::new(READERS_MAX)),
                idle: Mutex::default(),
                contents,
                gate: config.gate.clone(),
                shared,
            }),
        }
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The trouble, in one line that says what to do; `None` when all is well. Waits for nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.inner.shared.trouble().clone()
    }

    /// True if it is known what the catalogue holds. While it is not, nothing may be evicted: it may be pinned.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.inner.contents != Contents::Unknown
    }

    /// Refuses what would have to be written, if nothing can be. Waits for nothing.
    ///
    /// # Errors
    /// [`CatalogueError::Unavailable`].
    pub fn must_be_writable(&self) -> Result<(), CatalogueError> {
        match self.trouble() {
            Some(why) => Err(self.unavailable(&why)),
            None if self.writing().is_none() => {
                Err(self.unavailable("it is open to be read alone"))
            }
            None => Ok(()),
        }
    }

    /// Makes a change, and returns when it is durable.
    ///
    /// # Errors
    /// [`CatalogueError`]; nothing has changed, unless the disk did not answer in time.
    pub async fn commit(&self, change: Change) -> Result<(), CatalogueError> {
        self.submit(change).await.map(drop)
    }

    /// Makes a change, and returns what came of it when that is durable.
    async fn submit(&self, change: Change) -> Result<Applied, CatalogueError> {
        let weight = change.weight();
        if weight > QUEUE_BYTES_MAX || !change.is_bounded() {
            return Err(CatalogueError::TooLarge);
        }
        let committed = async {
            let place = Arc::clone(&self.inner.queue).acquire_many_owned(weight);
            let place = place.await.map_err(|_closed| CatalogueError::Busy)?;
            let (answer, answered) = oneshot::channel();
            let job = Job {
                change,
                answer,
                _place: place,
            };
            let sent = match &*self.writing() {
                Some(writing) => writing.jobs.send(job).is_ok(),
                None => false,
            };
            let stopped = || {
                let why = self.trouble();
                self.unavailable(why.as_deref().unwrap_or("it is closed"))
            };
            if !sent {
                return Err(stopped());
            }
            answered.await.map_err(|_dropped| stopped())?
        };
        match tokio::time::timeout(COMMIT_WAIT_MAX, committed).await {
            Ok(committed) => committed,
            Err(_elapsed) => {
                Err(self.unavailable("the disk did not answer in time; look at the disk"))
            }
        }
    }

    /// True if anything may have been imported into a repository: a request about others need not wait.
    #[must_use]
    pub fn may_have(&self, source: &Source) -> bool {
        let repositories = self.inner.shared.repositories.read();
        match &*repositories.unwrap_or_else(PoisonError::into_inner) {
            Repositories::These(these) => these.contains(source),
            Repositories::Any => self.inner.contents != Contents::Nothing,
        }
    }

    /// Ends the thread that writes, after what waits, and lets go of the directory.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        // Without a thread to wait in there is nothing that would not end with the process.
        drop(tokio::task::spawn_blocking(move || inner.end()).await);
    }

    /// Runs a question on a connection of its own, off the async threads.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogueError> {
        let asked = tokio::time::timeout(READ_WAIT_MAX, self.ask_at_leisure(question)).await;
        asked.unwrap_or(Err(CatalogueError::Busy))
    }

    /// Runs a question like [`Self::ask`], and waits for as long as the disk takes.
    async fn ask_at_leisure<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogueError> {
        let inner = Arc::clone(&self.inner);
        let place = Arc::clone(&inner.readers).acquire_owned().await;
        let asked = tokio::task::spawn_blocking(move || {
            // Held until the disk has answered, whoever waits for that: else threads would pile up.
            let _place = place;
            inner.read(question)
        });
        asked.await.unwrap_or(Err(CatalogueError::Busy))
    }

    fn unavailable(&self, why: &str) -> CatalogueError {
        let dir = self.inner.dir.display();
        CatalogueError::Unavailable(format!("the catalogue in {dir} cannot be written: {why}"))
    }

    fn writing(&self) -> MutexGuard<'_, Option<Writing>> {
        let jobs = self.inner.jobs.lock();
        jobs.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogueError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |why: String| {
            CatalogueError::Unavailable(format!(
                "the catalogue in {} cannot be read: {why}",
                self.dir.display()
            ))
        };
        let opened = match (self.contents, idle().pop()) {
            (Contents::Unknown, _) => {
                let why = self.shared.trouble().clone();
                return Err(failed(why.unwrap_or_default()));
            }
            (_, Some(connection)) => Ok(Some(connection)),
            (Contents::Nothing, None) => Err("there is none".to_owned()),
            (Contents::Known, None) => connection::read(&self.dir).map(Some),
            (Contents::Looked, None) => connection::look(&self.dir),
        };
        let Some(connection) = opened.map_err(failed)? else {
            return Err(failed("it is gone".to_owned()));
        };
        self.gate.pass_read();
        match question(&connection) {
            Ok(answer) => {
                idle().push(connection);
                Ok(answer)
            }
            Err(error) => {
                let why = files::describe(&self.dir, &error);
                tracing::error!(error = why, "the catalogue cannot be read");
                Err(failed(why))
            }
        }
    }

    /// Blocks until the thread that writes has ended.
    fn end(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        let writing = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Writing { jobs, ended }) = writing {
            drop(jobs);
            // Disconnected is what is waited for; a thread that does not end holds nobody up for long.
            ended.recv_timeout(CLOSE_WAIT_MAX).ok();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}
