//! The files of uploads: content whose digest is not known before its end. The length of a file is how much has come.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::blob_files::BlobFiles;
use super::directory::Directory;
use super::regular::open_regular;
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::store::disk::{DiskFile, DiskOp as Op};

/// The directory of uploads.
const UPLOADS: &str = "uploads";

/// A note above this size is not ours.
const NOTE_BYTES_MAX: u64 = 16 * 1024;

/// Uploads that are found at a start; more are somebody's flood, and left.
const FOUND_MAX: usize = 20_000;

/// The files of uploads.
#[derive(Debug)]
pub(in crate::store) struct UploadFiles<'a>(pub(super) &'a Directory);

/// An upload that an earlier process has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftUpload {
    /// Its name.
    pub id: String,
    /// Bytes that have come.
    pub length: u64,
    /// When the last of them came.
    pub modified: Timestamp,
    /// The note beside it.
    pub note: Vec<u8>,
}

impl UploadFiles<'_> {
    /// Makes the directory.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn prepare(&self) -> io::Result<()> {
        let path = self.0.root.join(UPLOADS);
        if path.is_dir() {
            return Ok(());
        }
        self.0
            .disk
            .run(Op::Create, &path, || fs::create_dir_all(&path))?;
        self.0.sync_directory(&self.0.root)
    }

    /// Makes the file of a new upload, and the note beside it.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn make(&self, id: &str, note: &[u8]) -> io::Result<DiskFile> {
        self.prepare()?;
        let path = self.path(id, "part");
        // First: a file without a note is nobody's.
        self.0.write_new(&self.path(id, "json"), note, false)?;
        let make = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true);
            open_regular(&path, &mut options)
        };
        let created = self.0.disk.run(Op::Create, &path, make);
        let file = created.inspect_err(|_| self.remove(id))?;
        Ok(self.0.disk.file(file, path))
    }

    /// Opens the file of an upload that was left.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn open(&self, id: &str) -> io::Result<DiskFile> {
        let path = self.path(id, "part");
        let open = || open_regular(&path, OpenOptions::new().read(true).write(true));
        let file = self.0.disk.run(Op::Read, &path, open)?;
        Ok(self.0.disk.file(file, path))
    }

    /// Has the file of a stored blob, of this store or another, under the name of an upload too, or a copy of it. It is
    /// only read.
    ///
    /// # Errors
    /// The operating system's; another file may have taken the place of the one that was looked at.
    pub(in crate::store) fn link(&self, id: &str, from: &DiskFile) -> io::Result<DiskFile> {
        self.prepare()?;
        let path = self.path(id, "part");
        let link = || {
            fs::hard_link(from.path(), &path).or_else(|_| {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true);
                let mut copy = open_regular(&path, &mut options)?;
                let mut source = open_regular(from.path(), OpenOptions::new().read(true))?;
                io::copy(&mut source, &mut copy).map(drop)
            })
        };
        self.0.disk.run(Op::Create, &path, link)?;
        let open = || open_regular(&path, OpenOptions::new().read(true));
        let file = self.0.disk.run(Op::Read, &path, open);
        let file = file.inspect_err(|_| self.remove(id))?;
        Ok(self.0.disk.file(file, path))
    }

    /// Deletes an upload. If that cannot be, it is done later.
    pub(in crate::store) fn remove(&self, id: &str) {
        self.0.remove_or_remember(&self.path(id, "part"));
        self.0.remove_or_remember(&self.path(id, "json"));
    }

    /// Gives the file of an upload, verified and made durable, its final name.
    ///
    /// # Errors
    /// The operating system's; the blob is not committed then.
    pub(in crate::store) fn publish(&self, id: &str, digest: &Digest) -> io::Result<()> {
        BlobFiles(self.0).publish(&self.path(id, "part"), digest)?;
        self.0.remove_or_remember(&self.path(id, "json"));
        Ok(())
    }

    /// Puts the file of an upload, verified and made durable, in the place of the same content.
    ///
    /// # Errors
    /// The operating system's; the one or the other is there.
    pub(in crate::store) fn replace(&self, id: &str, digest: &Digest) -> io::Result<()> {
        BlobFiles(self.0).replace(&self.path(id, "part"), digest)?;
        self.0.remove_or_remember(&self.path(id, "json"));
        Ok(())
    }

    /// The uploads that an earlier process has left. What is no upload is deleted.
    ///
    /// # Errors
    /// The operating system's, where the directory cannot be read.
    pub(in crate::store) fn left(&self) -> io::Result<Vec<LeftUpload>> {
        let directory = self.0.root.join(UPLOADS);
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let mut left = Vec::new();
        let entries = || fs::read_dir(&directory);
        for entry in self
            .0
            .disk
            .run(Op::Read, &directory, entries)?
            .take(2 * FOUND_MAX)
        {
            let path = entry?.path();
            let name = |part: Option<&std::ffi::OsStr>| {
                part.and_then(|it| it.to_str())
                    .unwrap_or_default()
                    .to_owned()
            };
            let (id, kind) = (name(path.file_stem()), name(path.extension()));
            match (kind.as_str(), self.note(&id)) {
                ("json", Some(_)) if self.path(&id, "part").is_file() => {}
                ("part", Some(note)) => left.extend(found(&path, id, note)),
                _ => self.0.remove_or_remember(&path),
            }
        }
        Ok(left)
    }

    fn note(&self, id: &str) -> Option<Vec<u8>> {
        let file = open_regular(&self.path(id, "json"), OpenOptions::new().read(true)).ok()?;
        let mut note = Vec::new();
        file.take(NOTE_BYTES_MAX + 1).read_to_end(&mut note).ok()?;
        (!note.is_empty() && note.len() as u64 <= NOTE_BYTES_MAX).then_some(note)
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        let uploads = self.0.root.join(UPLOADS);
        uploads.join(format!("{id}.{extension}"))
    }
}

fn found(path: &Path, id: String, note: Vec<u8>) -> Option<LeftUpload> {
    let metadata = fs::metadata(path).ok()?;
    let modified = metadata.modified().ok();
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Some(LeftUpload {
        id,
        length: metadata.len(),
        modified: Timestamp::default().plus(modified.unwrap_or_default()),
        note,
    })
}
