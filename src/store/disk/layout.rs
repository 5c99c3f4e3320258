//! The files: the only code that creates, renames or deletes any.
//!
//! ```text
//! blobs/<alg>/<aa>/<hex>      committed: hashed in full before it got this name
//! fills/<alg>/<hex>@<u>.part  partial, from the upstream whose name's hash begins so, and
//! fills/<alg>/<hex>@<u>.cov   which ranges of it are durably there
//! damaged/<alg>-<hex>         could not be read: kept, some of them, so that bad sectors are not used again
//! index.redb                  what can be rebuilt or asked again
//! journal.0, journal.1        which blobs the index has not caught up with
//! scrub.json                  how far the scrub has come
//! LOCK                        held by the one process that writes here; has its number
//! VERSION                     of this layout
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "this file is where the rule sends them"
)]

mod blob_files;
mod claim;
mod found;
mod index_file;
mod journal;
mod lock;
mod part;
mod regular;
pub(in crate::store) mod relocate;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blob_files::BlobFiles;
use claim::is_one_file_system;
pub(in crate::store) use claim::{claim, see};
pub(in crate::store) use found::Shard;
use index_file::IndexFile;
pub(in crate::store) use journal::Journal;
pub(in crate::store) use lock::Lock;
pub(in crate::store) use part::FillRecord;
use part::PartFiles;
pub use regular::Space;
use regular::open_regular;
pub(in crate::store) use regular::{means_damage, space};

use crate::oci::Digest;
use crate::store::StoreError;
use crate::store::disk::health::{self, Health, Part};
use crate::store::disk::work::Work;
use crate::store::disk::{Disk, DiskOp as Op};

/// The version of the layout, as it stands in `VERSION`.
const LAYOUT_VERSION: &str = "1";

/// A note above this size is not ours: it has a digest and three numbers.
const SCRUB_NOTE_BYTES_MAX: u64 = 4096;

/// The directories that a store consists of.
const DIRECTORIES: [&str; 7] = [
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    "fills",
    "fills/sha256",
    "fills/sha512",
    "damaged",
];

/// The directory of a store.
#[derive(Debug)]
pub(in crate::store) struct Layout {
    root: PathBuf,
    disk: Disk,
    /// Files that should have been deleted and could not be, with their sizes.
    strays: Mutex<HashMap<PathBuf, u64>>,
}

impl Layout {
    /// Makes the directories and sees whether they can be written. A disk that is full, read-only or
    /// fails is no error where there is a store: its blobs can be served, and its health knows.
    ///
    /// # Errors
    /// The operating system's, or `InvalidData` for a layout of another version.
    pub(in crate::store) fn open(root: &Path, disk: Disk) -> io::Result<Self> {
        let layout = Self {
            root: root.to_path_buf(),
            disk,
            strays: Mutex::default(),
        };
        let version = root.join("VERSION");
        let read = || fs::read_to_string(&version);
        match layout.disk.run(Op::Read, &version, read) {
            Ok(text) if text.trim() == LAYOUT_VERSION => {}
            Ok(text) => {
                let found = text.trim().chars().take(20).collect::<String>();
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "holds a store of layout version {found:?}, this program knows {LAYOUT_VERSION:?}"
                    ),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                layout.write_durably(&version, format!("{LAYOUT_VERSION}\n").as_bytes())?;
            }
            Err(error) => return Err(error),
        }
        if layout.is_for_looking() {
            return Ok(layout);
        }
        match layout.make_directories() {
            // A store that an earlier version made may lack one.
            Err(error) if health::is_of_the_disk(&error) => {}
            made => made?,
        }
        is_one_file_system(root)?;
        // Directories that an earlier process made and did not live to make durable, and those made
        // just now: from here on only the new ones of `publish` are to be seen to.
        let synced = || -> io::Result<()> {
            for sub in ["blobs/sha256", "blobs/sha512", "blobs", "fills", ""] {
                layout.sync_directory(&root.join(sub))?;
            }
            layout.probe(1, false)
        };
        match synced() {
            Err(error) if health::is_of_the_disk(&error) => {}
            probed => probed?,
        }
        Ok(layout)
    }

    /// The journal, and what an earlier process noted there.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn journal(&self) -> io::Result<(Journal, BTreeSet<Digest>)> {
        Journal::open(&self.root, &self.disk)
    }

    /// Makes the directories that are missing.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn make_directories(&self) -> io::Result<()> {
        let mut were_missing = false;
        for directory in DIRECTORIES {
            let path = self.root.join(directory);
            if !path.is_dir() {
                let make = || fs::create_dir_all(&path);
                self.disk.run(Op::Create, &path, make)?;
                were_missing = true;
            }
        }
        if were_missing {
            for directory in ["", "blobs", "fills"] {
                self.sync_directory(&self.root.join(directory))?;
            }
        }
        Ok(())
    }

    /// Does with a file of `bytes` bytes what is done with each blob; nothing of it stays. Only if it is
    /// to be `durable`, the disk is waited for.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn probe(&self, bytes: usize, durable: bool) -> io::Result<()> {
        let (probe, named) = (
            self.root.join("fills/.probe"),
            self.root.join("fills/.probed"),
        );
        let mut done = self.write_new(&probe, &vec![0; bytes], durable);
        if durable && done.is_ok() {
            done = self.rename(&probe, &named);
            done = done.and_then(|()| self.sync_directory(&self.root.join("fills")));
        }
        let removed = self.remove(&probe).and(self.remove(&named));
        done.and(removed)
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

    fn strays(&self) -> MutexGuard<'_, HashMap<PathBuf, u64>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of blobs.
    pub(in crate::store) fn blobs(&self) -> BlobFiles<'_> {
        BlobFiles(self)
    }

    /// The partial files of fills.
    pub(in crate::store) fn parts(&self) -> PartFiles<'_> {
        PartFiles(self)
    }

    /// The index's file.
    pub(in crate::store) fn index(&self) -> IndexFile<'_> {
        IndexFile(self)
    }

    /// True if nothing of it may be changed.
    #[must_use]
    pub(in crate::store) fn is_for_looking(&self) -> bool {
        self.disk.is_for_looking()
    }

    /// The threads for work on the disk that blocks.
    #[must_use]
    pub(in crate::store) fn work(&self) -> &Arc<Work> {
        self.disk.work()
    }

    /// The disk's health.
    #[must_use]
    pub(in crate::store) fn health(&self) -> &Health {
        self.disk.health()
    }

    /// An error while the disk fails: then nothing is tried for the sake of a request.
    pub(in crate::store) fn refuse_if_failing(&self) -> Result<(), StoreError> {
        let health = self.health();
        if !health.is_in_trouble(Part::Files) && !self.work().writes_are_late() {
            return Ok(());
        }
        let why = health.trouble();
        let why = why.unwrap_or_else(|| "the disk failed a moment ago".to_owned());
        Err(StoreError::Failing(why))
    }

    /// The last note of the scrub; `None` when there is nothing usable.
    #[must_use]
    pub(in crate::store) fn scrub_note(&self) -> Option<Vec<u8>> {
        let path = self.root.join("scrub.json");
        let mut note = Vec::new();
        open_regular(&path, OpenOptions::new().read(true))
            .and_then(|file| file.take(SCRUB_NOTE_BYTES_MAX + 1).read_to_end(&mut note))
            .ok()?;
        (note.len() as u64 <= SCRUB_NOTE_BYTES_MAX).then_some(note)
    }

    /// Notes how far the scrub has come.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn note_scrub(&self, note: &[u8]) -> io::Result<()> {
        self.write_durably(&self.root.join("scrub.json"), note)
    }

    fn write_durably(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let written = self.write_new(&temporary, bytes, true);
        let named = written.and_then(|()| self.rename(&temporary, path));
        if named.is_err() {
            self.remove_or_remember(&temporary);
        }
        named?;
        path.parent().map_or(Ok(()), |dir| self.sync_directory(dir))
    }

    fn write_new(&self, path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let mut file = self.disk.run(Op::Create, path, || File::create(path))?;
        let write = |bytes: &[u8]| file.write_all(bytes);
        self.disk.write(Op::Write, path, bytes, write)?;
        if durable {
            self.disk.run(Op::Sync, path, || file.sync_all())?;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.run(Op::Rename, to, || fs::rename(from, to))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let sync = || File::open(path)?.sync_all();
        self.disk.run(Op::SyncDirectory, path, sync)
    }

    /// Deletes a file; nothing when it is gone already.
    fn remove(&self, path: &Path) -> io::Result<()> {
        let remove = || match fs::remove_file(path) {
            // Below something that is no directory there is nothing.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
            removed => ignore_missing(removed),
        };
        self.disk.run(Op::Remove, path, remove)
    }

    /// The same, and if it cannot be done now, it is done later.
    fn remove_or_remember(&self, path: &Path) {
        if !self.is_for_looking() && self.remove(path).is_err() {
            let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
            self.strays().insert(path.to_path_buf(), bytes);
        }
    }

    fn fills(&self, algorithm: &str) -> PathBuf {
        self.root.join("fills").join(algorithm)
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
