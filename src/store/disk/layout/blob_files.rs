//! The files of committed blobs, and of those that were set aside.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::directory::Directory;
use super::found::{Found, Shard};
use super::regular::open_regular;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};
use crate::store::disk::{DiskFile, DiskOp as Op};

/// The files of blobs.
#[derive(Debug)]
pub(in crate::store) struct BlobFiles<'a>(pub(super) &'a Directory);

impl BlobFiles<'_> {
    /// Opens a committed blob.
    ///
    /// # Errors
    /// The operating system's; see [`means_damage`].
    pub(in crate::store) fn open(&self, digest: &Digest) -> io::Result<DiskFile> {
        let path = self.path(digest);
        let open = || open_regular(&path, OpenOptions::new().read(true));
        let file = self.0.disk.run(Op::Read, &path, open)?;
        Ok(self.0.disk.file(file, path))
    }

    /// Deletes a committed blob; nothing when it is gone already.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn remove(&self, digest: &Digest) -> io::Result<()> {
        self.0.remove(&self.path(digest))
    }

    /// The same of a blob that is not one any more. If that cannot be, it is done later.
    pub(in crate::store) fn give_up(&self, digest: &Digest) {
        self.0.remove_or_remember(&self.path(digest));
    }

    /// True if a committed blob is this file, and not one that has taken its place; also where that
    /// cannot be told.
    #[must_use]
    pub(in crate::store) fn is(&self, digest: &Digest, file: &DiskFile) -> bool {
        let here = fs::symlink_metadata(self.path(digest));
        here.map_or(true, |here| file.is_inode(here.dev(), here.ino()))
    }

    /// Takes a committed blob that cannot be read out of the way. Returns what it takes there.
    ///
    /// # Errors
    /// The operating system's; `NotFound` when it is gone already.
    pub(in crate::store) fn set_aside(&self, digest: &Digest) -> io::Result<u64> {
        let (path, aside) = (self.path(digest), self.damaged_path(digest));
        let found = fs::symlink_metadata(&path)?;
        if !found.is_file() {
            // Nothing that could be read some day.
            let remove = || {
                if found.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                }
            };
            self.0.disk.run(Op::Remove, &path, remove)?;
            return Err(io::ErrorKind::NotFound.into());
        }
        let bytes = found.len();
        self.0.rename(&path, &aside)?;
        Ok(bytes)
    }

    /// Deletes a blob that was set aside. If that cannot be, it is done later.
    pub(in crate::store) fn remove_damaged(&self, digest: &Digest) {
        self.0.remove_or_remember(&self.damaged_path(digest));
    }

    /// Writes and commits small content whose digest has been computed from these bytes.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn commit_bytes(
        &self,
        digest: &Digest,
        bytes: &[u8],
        unique: u64,
    ) -> io::Result<()> {
        let algorithm = digest.algorithm().name();
        let temporary = self
            .0
            .fills(algorithm)
            .join(format!("{}.{unique}.tmp", digest.hex()));
        let written = self.0.write_new(&temporary, bytes, true);
        let published = written.and_then(|()| self.publish(&temporary, digest));
        if published.is_err() {
            // The first error is the one to tell.
            self.0.remove_or_remember(&temporary);
        }
        published
    }

    /// All directories that have committed blobs; none in a new store.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn shards(&self) -> io::Result<Vec<Shard>> {
        let mut shards = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let blobs = self.0.root.join("blobs").join(algorithm.name());
            for entry in self.0.disk.run(Op::Read, &blobs, || fs::read_dir(&blobs))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    let path = entry.path();
                    shards.push(Shard { algorithm, path });
                }
            }
        }
        Ok(shards)
    }

    /// The directory that a blob is in.
    #[must_use]
    pub(in crate::store) fn shard_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.path(digest);
        path.pop();
        path
    }

    /// Looks for a committed blob.
    ///
    /// # Errors
    /// The operating system's, other than that there is none.
    pub(in crate::store) fn find(&self, digest: &Digest) -> io::Result<Option<Found>> {
        let path = self.path(digest);
        if self.0.strays().contains_key(&path) {
            // It should have been deleted.
            return Ok(None);
        }
        let look = || match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            looked => looked.map(Some),
        };
        let Some(metadata) = self.0.disk.run(Op::Read, &path, look)? else {
            return Ok(None);
        };
        let modified = metadata.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(metadata.is_file().then(|| Found {
            size: metadata.len(),
            modified: Timestamp::default().plus(modified.unwrap_or_default()),
        }))
    }

    /// The blobs that were set aside, with their sizes.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn set_aside_before(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        let files = match fs::read_dir(self.0.root.join("damaged")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            files => files?,
        };
        for file in files {
            let file = file?;
            let name = file
                .file_name()
                .to_str()
                .map(|name| name.replacen('-', ":", 1));
            let digest = name.and_then(|name| Digest::parse(&name).ok());
            match digest {
                Some(digest) => found.push((digest, file.metadata()?.len())),
                None => self.0.remove_or_remember(&file.path()),
            }
        }
        Ok(found)
    }

    /// Gives a file that is durable the name of its digest. If it has that name, and the name cannot be
    /// made durable, it loses it again; where that is impossible too, the blob counts as committed, for
    /// it is there and whole.
    pub(super) fn publish(&self, from: &Path, digest: &Digest) -> io::Result<()> {
        let to = self.path(digest);
        let shard = to.parent().unwrap_or(&self.0.root);
        if !fs::symlink_metadata(shard).is_ok_and(|found| found.is_dir()) {
            // What else has the name is nobody's.
            self.0.remove(shard)?;
            let make = || fs::create_dir_all(shard);
            self.0.disk.run(Op::Create, shard, make)?;
            let synced = shard
                .parent()
                .map_or(Ok(()), |dir| self.0.sync_directory(dir));
            if synced.is_err() {
                // Whoever comes next would take its name for durable.
                drop(fs::remove_dir(shard));
            }
            synced?;
        }
        self.0.rename(from, &to)?;
        self.0.strays().remove(&to);
        let synced = self.0.sync_directory(shard);
        if synced.is_err() && self.0.remove(&to).is_err() {
            return Ok(());
        }
        synced
    }

    /// Puts a file in the place of one with the same content, which is there whatever fails.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn replace(&self, from: &Path, digest: &Digest) -> io::Result<()> {
        let to = self.path(digest);
        self.0.rename(from, &to)?;
        self.0.sync_directory(to.parent().unwrap_or(&self.0.root))
    }

    fn damaged_path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        self.0.root.join("damaged").join(name)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let shard = hex.get(..2).unwrap_or_default();
        let mut path = self.0.root.join("blobs");
        path.extend([digest.algorithm().name(), shard, &hex]);
        path
    }
}
