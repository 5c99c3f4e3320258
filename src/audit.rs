//! The audit log: pulls, logins, denials and what operators do, a JSON object on each line of a file.
//!
//! Nobody waits for it. A record is put into a queue that is bounded in bytes, and a thread of its own writes the file,
//! rotates it and, when it cannot be written, tries again. What has no room meanwhile is dropped, counted
//! (`roadstead_audit_dropped_total`), and told of by a line of the file once it is written again.
//!
//! | file | what |
//! | --- | --- |
//! | `event` | records, and how they are written |
//! | `queue` | records that wait, and the thread that writes them |
//! | `file` | the file: opened, rotated, reopened |

mod event;
mod file;
mod queue;

pub use event::{Act, Asker, Change, Denial, Event, HostedRecord, Login, Pull, Who};

use crate::clock::Clock;
use crate::telemetry::Metrics;
use file::AuditFile;
use queue::Queue;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// `audit.max_size` where it is not given: a day of a busy mirror, and nothing that an editor cannot open.
pub const MAX_SIZE: u64 = 100_000_000;

/// `audit.keep` where it is not given.
pub const KEEP: usize = 5;

/// The end of the file that is looked through for what an earlier process has written.
const TAIL_BYTES: u64 = 1024 * 1024;

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file.
    pub path: PathBuf,
    /// The size at which it is rotated; 0: it is not.
    pub max_size: u64,
    /// Older files that are kept, under the file's name with `.1`, `.2` and so on.
    pub keep: usize,
}

/// Reason why the audit log cannot be opened: one line.
#[derive(Debug, thiserror::Error)]
#[error("audit.path: cannot open {}: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// Takes records. Cheap to clone.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    config: Config,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
}

impl Audit {
    /// Takes none.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Opens the file, and starts the thread that writes it.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(
        config: &Config,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, AuditError> {
        let failed = |source| AuditError {
            path: config.path.clone(),
            source,
        };
        let file = AuditFile::open(config.clone()).map_err(failed)?;
        let queue = Arc::new(Queue::new(metrics, Arc::clone(&clock)));
        let writer = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.write(file)).map_err(failed)?;
        let config = config.clone();
        Ok(Self(Some(Arc::new(Inner {
            config,
            queue,
            clock,
        }))))
    }

    /// True if records are taken.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes a record. Does not wait.
    pub fn record(&self, asker: &Asker<'_>, event: &Event<'_>) {
        if let Some(inner) = &self.0 {
            let line = event::line(inner.clock.now(), asker, event);
            inner.queue.push(event.weight(), &line);
        }
    }

    /// Takes changes of what is hosted, and how many are missing before them; their place, for [`Self::is_written`]. `None`: there
    /// is no room for them now, and none was taken.
    #[must_use]
    pub fn append(&self, missed: u64, records: &[HostedRecord<'_>]) -> Option<u64> {
        let inner = self.0.as_ref()?;
        let mut lines = String::new();
        if missed > 0 {
            lines.push_str(&event::missed(inner.clock.now(), missed));
        }
        for record in records {
            lines.push_str(&event::hosted_line(record));
        }
        inner.queue.append(&lines)
    }

    /// True when what was taken up to a place is on the disk, which is waited for, but no longer than this. Blocks.
    #[must_use]
    pub fn is_written(&self, place: u64, wait_max: Duration) -> bool {
        let inner = self.0.as_ref();
        inner.is_some_and(|inner| inner.queue.is_written(place, wait_max))
    }

    /// The numbers of the changes of what is hosted that the end of the file has. Blocks.
    #[must_use]
    pub fn last_hosted(&self) -> Vec<i64> {
        let Some(inner) = &self.0 else {
            return Vec::new();
        };
        let tail = file::tail(&inner.config, TAIL_BYTES);
        let lines = tail.split(|byte| *byte == b'\n');
        lines.filter_map(event::hosted_seq).collect()
    }

    /// Appends to the file as it is from now on: another process rotates it.
    pub fn leave_rotating_to_others(&self) {
        if let Some(inner) = &self.0 {
            inner.queue.leave_rotating_to_others();
        }
    }

    /// Opens the file again, which somebody may have renamed. Does not wait.
    pub fn reopen(&self) {
        if let Some(inner) = &self.0 {
            inner.queue.reopen();
        }
    }

    /// Waits until all is written, but no longer than this; records that come later are dropped. Blocks.
    pub fn close(&self, wait_max: Duration) {
        if let Some(inner) = &self.0 {
            inner.queue.close(wait_max);
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Audit").field(&self.is_on()).finish()
    }
}

#[cfg(test)]
mod tests;
