//! The files: the only code that creates, renames or deletes any.
//!
//! ```text
//! blobs/<alg>/<aa>/<hex>      committed: hashed in full before it got this name
//! fills/<alg>/<hex>.part      partial, and
//! fills/<alg>/<hex>.cov       which ranges of it are there (written when a fill is left off)
//! index.redb                  what can be rebuilt or asked again
//! scrub.json                  how far the scrub has come
//! VERSION                     of this layout
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "this file is where the rule sends them"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::Space;
use super::coverage::Coverage;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};

/// The version of the layout, as it stands in `VERSION`.
const LAYOUT_VERSION: &str = "1";

/// A coverage record above this size is not ours.
const COVERAGE_RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// A note above this size is not ours: it has a digest and three numbers.
const SCRUB_NOTE_BYTES_MAX: u64 = 4096;

/// The unit in which files are said to take space, whatever the file system's blocks are (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// The directory of a store.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// A committed blob found on disk.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Which.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When its file was last changed: stands in for the last use where the index does not know it.
    pub modified: Timestamp,
}

/// What is recorded beside a partial file that is left off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillRecord {
    /// The size of the whole blob, if it was known.
    pub total: Option<u64>,
    /// The ranges that are durably in the file.
    pub coverage: Coverage,
}

impl Layout {
    /// Makes the directories and proves that they can be written.
    ///
    /// # Errors
    /// The operating system's, or `InvalidData` for a layout of another version.
    pub fn open(root: &Path) -> io::Result<Self> {
        for sub in [
            "blobs/sha256",
            "blobs/sha512",
            "fills/sha256",
            "fills/sha512",
        ] {
            fs::create_dir_all(root.join(sub))?;
        }
        let layout = Self {
            root: root.to_path_buf(),
        };
        let version = root.join("VERSION");
        match fs::read_to_string(&version) {
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
                write_durably(&version, format!("{LAYOUT_VERSION}\n").as_bytes())?;
            }
            Err(error) => return Err(error),
        }
        layout.probe()?;
        Ok(layout)
    }

    /// Proves that a file can be made here.
    ///
    /// # Errors
    /// The operating system's.
    pub fn probe(&self) -> io::Result<()> {
        let probe = self.root.join("fills/.probe");
        File::create(&probe)?.write_all(b"probe")?;
        // Another probe at the same moment may have taken it away.
        ignore_missing(fs::remove_file(&probe))
    }

    /// Where the index is.
    #[must_use]
    pub fn index_path(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    /// What the index takes on disk, one that was set aside included, in bytes. Its file may be longer:
    /// redb makes it larger ahead of time, and the file system gives space to what is written.
    ///
    /// # Errors
    /// The operating system's.
    pub fn index_bytes(&self) -> io::Result<u64> {
        let taken = |path: &Path| match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.blocks().saturating_mul(BLOCK_BYTES)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        };
        Ok(taken(&self.index_path())?.saturating_add(taken(&self.index_aside())?))
    }

    fn index_aside(&self) -> PathBuf {
        self.root.join("index.redb.unreadable")
    }

    /// Moves an index that cannot be read out of the way; returns where it went.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_index_aside(&self) -> io::Result<PathBuf> {
        let aside = self.index_aside();
        fs::rename(self.index_path(), &aside)?;
        Ok(aside)
    }

    /// What the scrub noted last; `None` when there is nothing usable.
    #[must_use]
    pub fn scrub_note(&self) -> Option<Vec<u8>> {
        let path = self.root.join("scrub.json");
        let usable = fs::metadata(&path).is_ok_and(|m| m.len() <= SCRUB_NOTE_BYTES_MAX);
        usable.then(|| fs::read(&path).ok()).flatten()
    }

    /// Notes how far the scrub has come.
    ///
    /// # Errors
    /// The operating system's.
    pub fn note_scrub(&self, note: &[u8]) -> io::Result<()> {
        write_durably(&self.root.join("scrub.json"), note)
    }

    /// Opens a committed blob.
    ///
    /// # Errors
    /// The operating system's; see [`means_damage`].
    pub fn open_blob(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.blob_path(digest))
    }

    /// Deletes a committed blob; nothing when it is gone already.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove_blob(&self, digest: &Digest) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.blob_path(digest)))
    }

    /// Makes (or takes up) the partial file of a fill.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open_part(&self, digest: &Digest) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.fill_path(digest, "part"))
    }

    /// Deletes a partial file and its record.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove_part(&self, digest: &Digest) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.fill_path(digest, "cov")))?;
        ignore_missing(fs::remove_file(self.fill_path(digest, "part")))
    }

    /// Records how far a partial file has come. The file is made durable first,
    /// so that the record never promises more than the disk has.
    ///
    /// # Errors
    /// The operating system's.
    pub fn record_part(&self, digest: &Digest, part: &File, record: &FillRecord) -> io::Result<()> {
        part.sync_data()?;
        write_durably(&self.fill_path(digest, "cov"), &serde_json::to_vec(record)?)
    }

    /// Takes the record of a partial file off the disk; `None` when there is no usable one.
    /// It is deleted, because the file moves on from here.
    #[must_use]
    pub fn take_part_record(&self, digest: &Digest) -> Option<FillRecord> {
        let path = self.fill_path(digest, "cov");
        let usable = fs::metadata(&path).is_ok_and(|m| m.len() <= COVERAGE_RECORD_BYTES_MAX);
        let record = usable.then(|| fs::read(&path).ok()).flatten();
        ignore_missing(fs::remove_file(&path)).ok()?;
        serde_json::from_slice(&record?).ok()
    }

    /// Gives a partial file, verified and made durable, its final name.
    ///
    /// # Errors
    /// The operating system's; the blob is not committed then.
    pub fn publish_part(&self, digest: &Digest) -> io::Result<()> {
        self.publish(&self.fill_path(digest, "part"), digest)
    }

    /// Writes and commits small content whose digest has been computed from these bytes.
    ///
    /// # Errors
    /// The operating system's.
    pub fn commit_bytes(&self, digest: &Digest, bytes: &[u8], unique: u64) -> io::Result<()> {
        let temporary = self.fill_path(digest, &format!("{unique}.tmp"));
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let published = written.and_then(|()| self.publish(&temporary, digest));
        if published.is_err() {
            // The first error is the one to tell; a leftover is swept at the next start.
            drop(fs::remove_file(&temporary));
        }
        published
    }

    /// Every committed blob, in no order. Files with other names are left alone and skipped.
    ///
    /// # Errors
    /// The operating system's.
    pub fn blobs(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for shard in fs::read_dir(self.root.join("blobs").join(algorithm.name()))? {
                let shard = shard?;
                if shard.file_type()?.is_dir() {
                    for file in fs::read_dir(shard.path())? {
                        found.extend(found_blob(algorithm, &file?));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Deletes what an earlier run left in `fills/`, but for partial files that
    /// have a record: they can be taken up again. Returns the digests and sizes of those.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sweep_fills(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut kept = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for file in fs::read_dir(self.root.join("fills").join(algorithm.name()))? {
                let path = file?.path();
                let digest = path.file_stem().and_then(|stem| {
                    Digest::parse(&format!("{}:{}", algorithm.name(), stem.to_str()?)).ok()
                });
                let extension = path.extension().and_then(|e| e.to_str());
                match (digest, extension) {
                    (Some(digest), Some("part")) if self.fill_path(&digest, "cov").exists() => {
                        kept.push((digest, fs::metadata(&path)?.len()));
                    }
                    (Some(digest), Some("cov")) if self.fill_path(&digest, "part").exists() => {}
                    _ => ignore_missing(fs::remove_file(&path))?,
                }
            }
        }
        Ok(kept)
    }

    fn publish(&self, from: &Path, digest: &Digest) -> io::Result<()> {
        let to = self.blob_path(digest);
        let shard = to.parent().unwrap_or(&self.root);
        if !shard.exists() {
            fs::create_dir_all(shard)?;
            if let Some(above) = shard.parent() {
                File::open(above)?.sync_all()?;
            }
        }
        fs::rename(from, &to)?;
        File::open(shard)?.sync_all()
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let shard = hex.get(..2).unwrap_or_default();
        let mut path = self.root.join("blobs");
        path.extend([digest.algorithm().name(), shard, &hex]);
        path
    }

    fn fill_path(&self, digest: &Digest, extension: &str) -> PathBuf {
        let mut path = self.root.join("fills");
        path.extend([
            digest.algorithm().name(),
            &format!("{}.{extension}", digest.hex()),
        ]);
        path
    }
}

/// Whether an error says that a file itself is bad, rather than that the
/// system lacks something for now.
#[must_use]
pub fn means_damage(error: &io::Error) -> bool {
    let kind = error.kind();
    let bad_disk = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO);
    bad_disk
        || kind == io::ErrorKind::NotFound
        || kind == io::ErrorKind::UnexpectedEof
        || kind == io::ErrorKind::InvalidData
}

/// What the file system of `dir` has.
///
/// # Errors
/// The operating system's.
pub fn space(dir: &Path) -> io::Result<Space> {
    let said = rustix::fs::statvfs(dir)?;
    Ok(Space {
        total: said.f_blocks.saturating_mul(said.f_frsize),
        free: said.f_bavail.saturating_mul(said.f_frsize),
    })
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// The operating system's.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Cuts off what lies beyond `length`.
///
/// # Errors
/// The operating system's.
pub fn cut(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)
}

/// Reads at most `limit` bytes at `offset`, at least one; `UnexpectedEof` at the end of the file.
///
/// # Errors
/// The operating system's.
pub fn read_at(file: &File, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(limit);
    loop {
        // Reads into the vector's spare room: no time is spent on zeroing it first.
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), offset) {
            Ok(0) if limit > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(buffer),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn found_blob(algorithm: Algorithm, file: &fs::DirEntry) -> Option<Found> {
    let digest = Digest::parse(&format!(
        "{}:{}",
        algorithm.name(),
        file.file_name().to_str()?
    ))
    .ok()?;
    let metadata = file.metadata().ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    metadata.is_file().then(|| Found {
        digest,
        size: metadata.len(),
        modified: Timestamp::default().plus(modified),
    })
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
