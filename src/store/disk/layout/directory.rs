//! The directory that all files are in, and the operations on them that leave nothing half done.

#![expect(
    clippy::disallowed_methods,
    reason = "this file is where the rule sends them"
)]

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::disk::{Disk, DiskOp as Op};

/// The directory of a store, and the disk that it is on.
#[derive(Debug)]
pub(in crate::store) struct Directory {
    pub(super) root: PathBuf,
    pub(super) disk: Disk,
    /// Files that should have been deleted and could not be, with their sizes.
    strays: Mutex<HashMap<PathBuf, u64>>,
    /// Partial files that a process which still runs may read: they stay as they are.
    shared: Mutex<HashSet<PathBuf>>,
}

impl Directory {
    pub(super) fn new(root: &Path, disk: Disk) -> Self {
        Self {
            root: root.to_path_buf(),
            disk,
            strays: Mutex::default(),
            shared: Mutex::default(),
        }
    }

    /// True if nothing of it may be changed.
    pub(super) fn is_for_looking(&self) -> bool {
        self.disk.is_for_looking()
    }

    /// Deletes what could not be deleted before; says whether nothing of it is left.
    pub(in crate::store) fn sweep_strays(&self) -> bool {
        let strays: Vec<PathBuf> = self.strays().keys().cloned().collect();
        for stray in strays {
            if self.remove(&stray).is_ok() {
                self.strays().remove(&stray);
            }
        }
        self.strays().is_empty()
    }

    /// Bytes of the files that should have been deleted and could not be.
    #[must_use]
    pub(in crate::store) fn stray_bytes(&self) -> u64 {
        self.strays().values().sum()
    }

    pub(super) fn strays(&self) -> MutexGuard<'_, HashMap<PathBuf, u64>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write_durably(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let written = self.write_new(&temporary, bytes, true);
        let named = written.and_then(|()| self.rename(&temporary, path));
        if named.is_err() {
            self.remove_or_remember(&temporary);
        }
        named?;
        path.parent().map_or(Ok(()), |dir| self.sync_directory(dir))
    }

    pub(super) fn write_new(&self, path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let mut file = self.disk.run(Op::Create, path, || File::create(path))?;
        let write = |bytes: &[u8]| file.write_all(bytes);
        self.disk.write(Op::Write, path, bytes, write)?;
        if durable {
            self.disk.run(Op::Sync, path, || file.sync_all())?;
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.run(Op::Rename, to, || fs::rename(from, to))
    }

    pub(super) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let sync = || File::open(path)?.sync_all();
        self.disk.run(Op::SyncDirectory, path, sync)
    }

    /// Deletes a file; nothing when it is gone already.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let remove = || match fs::remove_file(path) {
            // Below something that is no directory there is nothing.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
            removed => ignore_missing(removed),
        };
        self.disk.run(Op::Remove, path, remove)
    }

    /// The same, and if it cannot be done now, it is done later.
    pub(super) fn remove_or_remember(&self, path: &Path) {
        if !self.is_for_looking() && self.remove(path).is_err() {
            let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
            self.strays().insert(path.to_path_buf(), bytes);
        }
    }

    /// The partial files of blobs with this algorithm's digests.
    pub(super) fn fills(&self, algorithm: &str) -> PathBuf {
        self.root.join("fills").join(algorithm)
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
