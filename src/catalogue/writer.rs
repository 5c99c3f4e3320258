//! The thread that writes. It takes what waits as one transaction, and answers each caller when that is durable.
//!
//! After a failure the connection is dropped and opened anew: a file whose sync has failed once says nothing true of
//! what it holds (fsync(2) reports an error once). Until it works again, every change is refused.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::changes::{Applied, Change};
use super::error::CatalogueError;
use super::files::{self, Files};
use super::gate::Gate;
use super::shared::Shared;
use super::{connection, schema};

/// Changes in one transaction: more would keep the first of them waiting.
const GROUP_MAX: usize = 64;

/// Time between two attempts with a database that failed, while nobody asks.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// A change that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) change: Change,
    pub(super) answer: oneshot::Sender<Result<Applied, CatalogueError>>,
    /// The place that it takes of the queue.
    pub(super) _place: OwnedSemaphorePermit,
}

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) jobs: std::sync::mpsc::Sender<Job>,
    /// Disconnected when the thread has ended.
    pub(super) ended: Receiver<()>,
}

/// Owns the connection that writes, and the directory.
#[derive(Debug)]
pub(super) struct Writer {
    /// Declared first: it is closed before the directory is somebody else's.
    connection: Option<Connection>,
    files: Files,
    gate: Gate,
    shared: Arc<Shared>,
}

/// The reason why a whole transaction failed.
#[derive(Debug)]
struct Failed(String);

impl Writer {
    /// Opens the database, and learns what has to be known by heart.
    ///
    /// # Errors
    /// One line that says what to do.
    pub(super) fn open(files: Files, gate: Gate, shared: &Arc<Shared>) -> Result<Self, String> {
        let connection = connection::write(files.dir(), schema::STEPS)?;
        let learnt = shared.learn(&connection);
        learnt.map_err(|error| files::describe(files.dir(), &error))?;
        let mut writer = Self {
            connection: Some(connection),
            files,
            gate,
            shared: Arc::clone(shared),
        };
        // What it holds is known; that nothing can be added to it, on a full disk, is told.
        writer.probe();
        Ok(writer)
    }

    /// Starts the thread.
    pub(super) fn start(self) -> std::io::Result<Writing> {
        let (sender, jobs) = channel();
        let (alive, ended) = channel();
        let thread = std::thread::Builder::new().name("catalogue".to_owned());
        thread.spawn(move || {
            self.run(&jobs);
            drop(alive);
        })?;
        Ok(Writing {
            jobs: sender,
            ended,
        })
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = if self.shared.trouble().is_some() {
                jobs.recv_timeout(RETRY_EVERY)
            } else {
                jobs.recv().map_err(|_ended| RecvTimeoutError::Disconnected)
            };
            match first {
                Ok(first) => {
                    let mut group = vec![first];
                    group.extend(jobs.try_iter().take(GROUP_MAX - 1));
                    self.commit(group);
                }
                Err(RecvTimeoutError::Timeout) => self.probe(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Writes a group, and answers.
    fn commit(&mut self, group: Vec<Job>) {
        match self.write(&group) {
            Ok(results) => {
                self.shared.metrics.catalogue().changes(group.len(), true);
                self.works();
                for (job, result) in group.into_iter().zip(results) {
                    if result.is_ok() {
                        for source in job.change.imports_into() {
                            self.shared.has_one_more(source);
                        }
                        if let (Change::Hosted(act), Some(watch)) =
                            (&job.change, self.shared.watch.get())
                        {
                            (watch.0)(&act.act);
                        }
                    }
                    // Nobody may wait any more.
                    job.answer.send(result).ok();
                }
            }
            Err(Failed(why)) => {
                self.shared.metrics.catalogue().changes(group.len(), false);
                self.fails(&why);
                let dir = self.files.dir().display();
                let told = format!("the catalogue in {dir} cannot be written: {why}");
                for job in group {
                    let refused = CatalogueError::Unavailable(told.clone());
                    job.answer.send(Err(refused)).ok();
                }
            }
        }
    }

    /// Writes a group as one transaction, each change by itself. Returns a result for each.
    fn write(&mut self, group: &[Job]) -> Result<Vec<Result<Applied, CatalogueError>>, Failed> {
        let dir = self.files.dir().to_owned();
        self.transact(|transaction| {
            let mut results = Vec::with_capacity(group.len());
            for job in group {
                let savepoint = transaction.savepoint()?;
                match job.change.apply(&savepoint) {
                    Ok(refused @ Some(Err(_))) => {
                        // Dropped, it is undone.
                        drop(savepoint);
                        results.push(Ok(refused));
                    }
                    Ok(applied) => {
                        savepoint.commit()?;
                        results.push(Ok(applied));
                    }
                    Err(error) if is_of_the_file(&error) => return Err(error),
                    Err(error) => {
                        // Dropped, it is undone.
                        drop(savepoint);
                        let why = files::describe(&dir, &error);
                        tracing::error!(error = why, "a change of the catalogue was refused");
                        results.push(Err(CatalogueError::Unavailable(why)));
                    }
                }
            }
            Ok(results)
        })
    }

    /// Does this as one transaction, which is durable when this returns.
    fn transact<T>(
        &mut self,
        write: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Failed> {
        let dir = self.files.dir().to_owned();
        let failed = |error: rusqlite::Error| Failed(files::describe(&dir, &error));
        let gate = self.gate.clone();
        let connection = self.connection().map_err(Failed)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let mut transaction = transaction.map_err(failed)?;
        let written = write(&mut transaction).map_err(failed)?;
        gate.pass().map_err(|error| Failed(error.to_string()))?;
        transaction.commit().map_err(failed)?;
        Ok(written)
    }

    /// Sees whether something can be written.
    fn probe(&mut self) {
        match self.transact(|transaction| super::changes::note_writer(transaction)) {
            Ok(()) => self.works(),
            Err(Failed(why)) => self.fails(&why),
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, String> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::write(self.files.dir(), schema::STEPS)?,
        };
        Ok(self.connection.insert(connection))
    }

    fn works(&self) {
        if self.shared.trouble().is_some() {
            self.shared.set_trouble(None);
            tracing::info!(state_dir = %self.files.dir().display(), "the catalogue can be written again");
        }
    }

    fn fails(&mut self, why: &str) {
        self.connection = None;
        let news = self.shared.trouble().as_deref() != Some(why);
        if news {
            tracing::error!(state_dir = %self.files.dir().display(), error = why, "the catalogue cannot be written: imports, pins and removals are refused until it can; pulls go on");
            self.shared.set_trouble(Some(why.to_owned()));
        }
    }
}

/// True if an error says something of the file, and not of the change alone.
fn is_of_the_file(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}
