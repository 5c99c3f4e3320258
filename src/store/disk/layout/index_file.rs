//! The file of the index.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;

use super::directory::Directory;
use super::regular::open_unwaiting;
use crate::store::disk::DiskOp as Op;
use crate::store::metadata::index::OnDisk;

/// The unit in which files are said to take space, whatever the file system's blocks are (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// The index's file.
#[derive(Debug)]
pub(in crate::store) struct IndexFile<'a>(pub(super) &'a Directory);

impl IndexFile<'_> {
    /// Path of the index.
    #[must_use]
    pub(in crate::store) fn path(&self) -> PathBuf {
        self.0.root.join("index.redb")
    }

    /// Bytes that the index takes on disk, one that was set aside included. Its file may be longer:
    /// redb makes it larger ahead of time, and the file system gives space to what is written.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn bytes(&self) -> io::Result<u64> {
        let taken = |path: &Path| match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.blocks().saturating_mul(BLOCK_BYTES)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        };
        Ok(taken(&self.path())?.saturating_add(taken(&self.aside())?))
    }

    fn aside(&self) -> PathBuf {
        self.0.root.join("index.redb.unreadable")
    }

    /// Moves an index that cannot be read out of the way; returns where it went.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.aside();
        self.0.rename(&self.path(), &aside)?;
        Ok(aside)
    }

    /// Opens the index's file, or makes it; to be read alone, it must be there.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn open(&self, to_write: bool) -> io::Result<File> {
        let path = self.path();
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(to_write).create(to_write);
            open_unwaiting(&path, options.truncate(false))
        };
        let op = if to_write {
            Op::WriteIndex
        } else {
            Op::ReadIndex
        };
        let made = to_write && !path.exists();
        let file = self.0.disk.run(op, &path, open)?;
        if made {
            self.0.sync_directory(&self.0.root)?;
        }
        Ok(file)
    }

    /// The index's file for redb, whose operations go through the disk.
    #[must_use]
    pub(in crate::store) fn on_disk(&self, file: FileBackend) -> OnDisk {
        OnDisk {
            file,
            path: self.path(),
            disk: self.0.disk.clone(),
        }
    }

    /// Deletes an index that was set aside.
    pub(in crate::store) fn discard_aside(&self) {
        let aside = self.aside();
        if aside.exists() {
            self.0.remove_or_remember(&aside);
        }
    }
}
