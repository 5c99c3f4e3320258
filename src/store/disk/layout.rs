//! The files: the only code that creates, renames or deletes any.
//!
//! ```text
//! blobs/<alg>/<aa>/<hex>      committed: hashed in full before it got this name
//! fills/<alg>/<hex>@<u>.part  partial, from the upstream whose name's hash begins so, and
//! fills/<alg>/<hex>@<u>.cov   which ranges of it are durably there
//! damaged/<alg>-<hex>         could not be read: kept, some of them, so that bad sectors are not used again
//! index.redb                  what can be rebuilt or asked again
//! journal.0, journal.1        which blobs the index has not caught up with
//! uploads/<id>.part, .json    content whose digest is not known yet, and what it is
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
mod directory;
mod found;
mod index_file;
mod journal;
mod lock;
mod part;
mod regular;
pub(in crate::store) mod relocate;
mod upload;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use blob_files::BlobFiles;
use claim::{DIRECTORIES, is_one_file_system};
pub(in crate::store) use claim::{claim, see};
use directory::Directory;
pub(in crate::store) use found::Shard;
use index_file::IndexFile;
pub(in crate::store) use journal::Journal;
pub(in crate::store) use lock::Lock;
pub(in crate::store) use part::FillRecord;
use part::PartFiles;
pub use regular::Space;
use regular::open_regular;
pub(in crate::store) use regular::{means_damage, space};
pub use upload::LeftUpload;
use upload::UploadFiles;

use crate::oci::Digest;
use crate::store::StoreError;
use crate::store::disk::health::{self, Health, Part};
use crate::store::disk::ownership::Ownership;
use crate::store::disk::work::Work;
use crate::store::disk::{Disk, DiskOp as Op};

/// The version of the layout, as it stands in `VERSION`.
const LAYOUT_VERSION: &str = "1";

/// The reason why nothing is stored while another process takes the store over.
pub(in crate::store) const HANDED_OVER: &str = "another process takes the cache over";

/// A note above this size is not ours: it has a digest and three numbers.
const SCRUB_NOTE_BYTES_MAX: u64 = 4096;

/// The directory of a store.
#[derive(Debug)]
pub(in crate::store) struct Layout {
    directory: Directory,
}

impl Layout {
    /// Makes the directories and sees whether they can be written. A disk that is full, read-only or
    /// fails is no error where there is a store: its blobs can be served, and its health knows.
    ///
    /// # Errors
    /// The operating system's, or `InvalidData` for a layout of another version.
    pub(in crate::store) fn open(root: &Path, disk: Disk) -> io::Result<Self> {
        let layout = Self {
            directory: Directory::new(root, disk),
        };
        let version = root.join("VERSION");
        let read = || fs::read_to_string(&version);
        match layout.directory.disk.run(Op::Read, &version, read) {
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
                layout
                    .directory
                    .write_durably(&version, format!("{LAYOUT_VERSION}\n").as_bytes())?;
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
                layout.directory.sync_directory(&root.join(sub))?;
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
        Journal::open(&self.directory.root, &self.directory.disk)
    }

    /// Makes the directories that are missing.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn make_directories(&self) -> io::Result<()> {
        let mut were_missing = false;
        for directory in DIRECTORIES {
            let path = self.directory.root.join(directory);
            if !path.is_dir() {
                let make = || fs::create_dir_all(&path);
                self.directory.disk.run(Op::Create, &path, make)?;
                were_missing = true;
            }
        }
        if were_missing {
            for directory in ["", "blobs", "fills"] {
                self.directory
                    .sync_directory(&self.directory.root.join(directory))?;
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
            self.directory.root.join("fills/.probe"),
            self.directory.root.join("fills/.probed"),
        );
        let mut done = self.directory.write_new(&probe, &vec![0; bytes], durable);
        if durable && done.is_ok() {
            done = self.directory.rename(&probe, &named);
            done = done.and_then(|()| {
                self.directory
                    .sync_directory(&self.directory.root.join("fills"))
            });
        }
        let removed = self
            .directory
            .remove(&probe)
            .and(self.directory.remove(&named));
        done.and(removed)
    }

    /// The files of blobs.
    pub(in crate::store) fn blobs(&self) -> BlobFiles<'_> {
        BlobFiles(&self.directory)
    }

    /// The partial files of fills.
    pub(in crate::store) fn parts(&self) -> PartFiles<'_> {
        PartFiles(&self.directory)
    }

    /// The files of uploads.
    pub(in crate::store) fn uploads(&self) -> UploadFiles<'_> {
        UploadFiles(&self.directory)
    }

    /// The index's file.
    pub(in crate::store) fn index(&self) -> IndexFile<'_> {
        IndexFile(&self.directory)
    }

    /// Deletes what could not be deleted before; says whether nothing of it is left.
    pub(in crate::store) fn sweep_strays(&self) -> bool {
        self.directory.sweep_strays()
    }

    /// Bytes of the files that should have been deleted and could not be.
    #[must_use]
    pub(in crate::store) fn stray_bytes(&self) -> u64 {
        self.directory.stray_bytes()
    }

    /// True if nothing of it may be changed.
    #[must_use]
    pub(in crate::store) fn is_for_looking(&self) -> bool {
        self.directory.is_for_looking()
    }

    /// The threads for work on the disk that blocks.
    #[must_use]
    pub(in crate::store) fn work(&self) -> &Arc<Work> {
        self.directory.disk.work()
    }

    /// The disk's health.
    #[must_use]
    pub(in crate::store) fn health(&self) -> &Health {
        self.directory.disk.health()
    }

    /// The right of this process to change anything.
    #[must_use]
    pub(in crate::store) fn ownership(&self) -> &Arc<Ownership> {
        self.directory.disk.ownership()
    }

    /// An error while another process takes the store over.
    pub(in crate::store) fn refuse_if_handed_over(&self) -> Result<(), StoreError> {
        if self.ownership().is_ending() {
            return Err(StoreError::Failing(HANDED_OVER.to_owned()));
        }
        Ok(())
    }

    /// An error while the disk fails: then nothing is tried for the sake of a request.
    pub(in crate::store) fn refuse_if_failing(&self) -> Result<(), StoreError> {
        self.refuse_if_handed_over()?;
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
        let path = self.directory.root.join("scrub.json");
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
        self.directory
            .write_durably(&self.directory.root.join("scrub.json"), note)
    }
}
