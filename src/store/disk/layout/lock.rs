//! One process to a directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::regular::open_unwaiting;
use crate::store::disk::health;

/// A process number and some white space.
const PID_BYTES_MAX: u64 = 32;

/// The right to write to a directory, as long as this lives. The operating system takes it back from a
/// process that is killed.
#[derive(Debug)]
pub(in crate::store) struct Lock {
    file: Option<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.release();
    }
}

impl Lock {
    /// Gives the right back.
    pub(in crate::store) fn release(&self) {
        // Closing would not do: a child process that is being started has this file open too, until it executes its
        // program, and keeps the lock as long.
        if let Some(file) = &self.file
            && let Err(error) = flock(file, FlockOperation::Unlock)
        {
            tracing::debug!(%error, "cannot unlock the cache directory");
        }
    }

    /// Takes the right to look at `root` while nobody writes there. Changes nothing: where there is no such file,
    /// nobody has ever written.
    ///
    /// # Errors
    /// The operating system's; `ResourceBusy` names who writes.
    pub(in crate::store) fn look(root: &Path) -> io::Result<Self> {
        let lock = root.join("LOCK");
        let mut file = match open_unwaiting(&lock, OpenOptions::new().read(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { file: None });
            }
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Err(busy(&mut file)),
            // Without locks, or without the right to one, it is looked all the same.
            Ok(()) | Err(_) => Ok(Self { file: Some(file) }),
        }
    }

    /// Takes the right to `root`, which is there, and leaves this process's number there for whoever
    /// comes too late. On a file system that has no locks there is none (the index's own is left), and
    /// none either on one that is read-only and has no such file yet.
    ///
    /// # Errors
    /// The operating system's; `ResourceBusy` names who has it.
    pub(in crate::store) fn take(root: &Path) -> io::Result<Self> {
        let path = root.join("LOCK");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = match opened {
            // Whoever has it all the same is seen, and a store that is there can be served.
            Err(error) if health::is_of_the_disk(&error) => match File::open(&path) {
                Ok(file) => file,
                Err(_) => return Ok(Self { file: None }),
            },
            opened => opened?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(&mut file)),
            Err(error @ (Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK)) => {
                tracing::warn!(%error, dir = %root.display(), "the file system has no locks: make sure that no other process uses the cache directory");
            }
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = sign(&mut file) {
            tracing::debug!(%error, "this process's number is not in the lock file");
        }
        Ok(Self { file: Some(file) })
    }
}

fn busy(file: &mut File) -> io::Error {
    let who = process_in(file);
    let why = format!("another roadstead{who} is using this directory");
    io::Error::new(io::ErrorKind::ResourceBusy, why)
}

/// Leaves this process's number. A full disk may have no room for it.
fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// ` (process 1234)`, or nothing: in another container the number may be there and mean nothing here.
fn process_in(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(PID_BYTES_MAX).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!(" (process {pid})"),
        (Ok(_) | Err(_), _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        let first = Lock::take(&root).unwrap();
        let refused = Lock::take(&root).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        let who = format!(
            "another roadstead (process {}) is using this directory",
            std::process::id()
        );
        assert_eq!(refused.to_string(), who);
        // As in a child process between its fork and its exec.
        let copy = first.file.as_ref().unwrap().try_clone().unwrap();
        drop(first);
        std::fs::write(root.join("LOCK"), "99999999999999 who knows").unwrap();
        let third = Lock::take(&root).unwrap();
        drop(copy);
        std::fs::write(root.join("LOCK"), "").unwrap();
        let refused = Lock::take(&root).unwrap_err().to_string();
        assert_eq!(refused, "another roadstead is using this directory");
        drop(third);
    }
}
