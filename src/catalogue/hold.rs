//! The hold on the files of hosted blobs: while somebody copies them, none of them goes.
//!
//! It is a lock (flock(2)) of the state directory itself, which is there and is changed by nobody: shared by those who
//! copy, exclusive for the collector while it forgets a blob and removes its file. The operating system takes it back
//! from a process that is killed.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A hold, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    dir: File,
}

impl Hold {
    /// Waits until nothing is being removed, and keeps everything from then on. `None`: the file system has no locks.
    /// Blocks.
    ///
    /// # Errors
    /// The operating system's: the directory is not there, for example.
    pub fn keep(state_dir: &Path) -> io::Result<Option<Self>> {
        let dir = File::open(state_dir)?;
        loop {
            match flock(&dir, FlockOperation::LockShared) {
                Ok(()) => return Ok(Some(Self { dir })),
                Err(Errno::INTR) => {}
                Err(error) if has_no_locks(error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The right to remove, if nobody copies; it waits for nobody. Blocks as long as the disk takes to open a directory.
    ///
    /// # Errors
    /// The operating system's; `ResourceBusy`: somebody copies.
    pub fn to_remove(state_dir: &Path) -> io::Result<Self> {
        let dir = File::open(state_dir)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir }),
            // Then nobody can hold anything either.
            Err(error) if has_no_locks(error) => Ok(Self { dir }),
            Err(Errno::WOULDBLOCK) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "a backup is being made",
            )),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Closing would not do: a child process that is being started has this file open too, until it executes its
        // program, and keeps the lock as long.
        if let Err(error) = flock(&self.dir, FlockOperation::Unlock) {
            tracing::debug!(%error, "cannot unlock the state directory");
        }
    }
}

fn has_no_locks(error: Errno) -> bool {
    matches!(error, Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_while_somebody_copies() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Hold::keep(dir.path()), Hold::keep(dir.path()));
        let kind = || {
            Hold::to_remove(dir.path())
                .map_err(|error| error.kind())
                .err()
        };
        assert_eq!(kind(), Some(io::ErrorKind::ResourceBusy));
        drop(one.unwrap());
        assert_eq!(kind(), Some(io::ErrorKind::ResourceBusy));
        drop(other.unwrap());
        assert_eq!(kind(), None);
    }
}
