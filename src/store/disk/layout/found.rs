//! Content that is found on the disk: committed blobs, and the directories that they are in.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};

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
    pub(super) algorithm: Algorithm,
    pub(super) path: PathBuf,
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
