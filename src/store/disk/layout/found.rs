//! What is found on the disk: committed blobs, and what is left of fills.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::Layout;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};
use crate::store::FillKey;
use crate::store::disk::DiskOp as Op;

/// A committed blob found on disk.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Found {
    /// Its size in bytes.
    pub(in crate::store) size: u64,
    /// When its file was last changed: stands in for the last use where the index does not know it.
    pub(in crate::store) modified: Timestamp,
}

/// A directory of committed blobs: those whose digests begin alike.
#[derive(Clone, Debug)]
pub(in crate::store) struct Shard {
    algorithm: Algorithm,
    path: PathBuf,
}

impl Shard {
    /// The digests that its files are named by, in no order. Files with other names are left alone
    /// and skipped, and so are those that are in the wrong directory: nobody would look there.
    ///
    /// # Errors
    /// The operating system's, at the beginning or on the way.
    pub(in crate::store) fn digests(&self) -> io::Result<impl Iterator<Item = io::Result<Digest>>> {
        let (algorithm, shard) = (self.algorithm, self.path.file_name().map(ToOwned::to_owned));
        let named = move |name: &str| {
            let digest = Digest::parse(&format!("{}:{name}", algorithm.name())).ok()?;
            let right = shard.as_deref()?.to_str()? == name.get(..2)?;
            right.then_some(digest)
        };
        Ok(
            fs::read_dir(&self.path)?.filter_map(move |entry| match entry {
                Ok(entry) => named(entry.file_name().to_str()?).map(Ok),
                Err(error) => Some(Err(error)),
            }),
        )
    }
}

impl Layout {
    /// All directories that have committed blobs; none in a new store.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::store) fn shards(&self) -> io::Result<Vec<Shard>> {
        let mut shards = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let blobs = self.root.join("blobs").join(algorithm.name());
            for entry in self.disk.run(Op::Read, &blobs, || fs::read_dir(&blobs))? {
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
        let mut path = self.blob_path(digest);
        path.pop();
        path
    }

    /// Looks for a committed blob.
    ///
    /// # Errors
    /// The operating system's, other than that there is none.
    pub(in crate::store) fn find_blob(&self, digest: &Digest) -> io::Result<Option<Found>> {
        let path = self.blob_path(digest);
        if self.strays().contains_key(&path) {
            // It should have been deleted.
            return Ok(None);
        }
        let look = || match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            looked => looked.map(Some),
        };
        let Some(metadata) = self.disk.run(Op::Read, &path, look)? else {
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
    pub(in crate::store) fn damaged(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        let files = match fs::read_dir(self.root.join("damaged")) {
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
                None => self.remove_or_remember(&file.path()),
            }
        }
        Ok(found)
    }

    /// Deletes what an earlier process left in `fills/`, but for partial files of which a record says
    /// what they have: they can be taken up again, and are cut to that. Returns those fills, and
    /// how many bytes they have. What cannot be deleted is deleted later.
    ///
    /// # Errors
    /// The operating system's, where the directory cannot be read.
    pub(in crate::store) fn sweep_fills(&self) -> io::Result<Vec<(FillKey, u64)>> {
        let mut kept = HashMap::new();
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let fills = self.root.join("fills").join(algorithm.name());
            for file in self.disk.run(Op::Read, &fills, || fs::read_dir(&fills))? {
                let path = file?.path();
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                let key = stem.and_then(|stem| FillKey::parse_stem(algorithm, stem));
                let extension = path.extension().and_then(|e| e.to_str());
                if extension == Some("part")
                    && let Some(key) = key
                    && let Some(length) = self.cut_to_record(&key, &path)
                {
                    kept.insert(key, length);
                }
                found.push((path, key));
            }
        }
        for (path, key) in found {
            let extension = path.extension().and_then(|e| e.to_str());
            let of_a_fill = matches!(extension, Some("part" | "cov"));
            if of_a_fill && key.is_some_and(|key| kept.contains_key(&key)) {
                continue;
            }
            self.remove_or_remember(&path);
        }
        Ok(kept.into_iter().collect())
    }

    /// Deletes an index that was set aside.
    pub(in crate::store) fn discard_index_aside(&self) {
        let aside = self.index_aside();
        if aside.exists() {
            self.remove_or_remember(&aside);
        }
    }

    /// Cuts a partial file to what its record says; how many bytes it has then, or nothing if there is
    /// nothing to go on from.
    fn cut_to_record(&self, key: &FillKey, path: &Path) -> Option<u64> {
        let mut coverage = self.part_record(key)?.coverage;
        let bytes = fs::metadata(path).ok()?.len();
        coverage.remove(bytes..u64::MAX);
        let length = coverage.end();
        if length == 0 {
            return None;
        }
        if length < bytes && !self.is_for_looking() {
            let open = || OpenOptions::new().write(true).open(path);
            let file = self.disk.run(Op::Write, path, open).ok()?;
            let cut = || file.set_len(length);
            self.disk.run(Op::Truncate, path, cut).ok()?;
        }
        // What lies in gaps takes nothing.
        Some(coverage.bytes())
    }
}
