//! Backups of hosted repositories, and their restoration: the catalogue and the blobs that it names.
//!
//! A backup is a directory, which a later backup brings up to date, or a tar archive:
//!
//! ```text
//! backup.json             the manifest: which catalogue, and its digest; written last
//! state-<time>/catalogue.db   the catalogue as of one moment (in an archive first: state/catalogue.db)
//! blobs/<alg>/<aa>/<hex>  hosted blobs, under their digests
//! ```
//!
//! It is made beside the server, from the state directory alone. **Each blob that the copied catalogue names is in the
//! backup**, whatever is pushed, deleted and collected meanwhile:
//!
//! 1. A row of a blob is committed after its file is durable under its digest, and is removed before the file is
//!    (`hosted`, commit order). So at each moment a row means a file.
//! 2. A file of a blob that has, or has had, a row goes only in a section of the collector that has the state directory's
//!    lock exclusively, from before the row is removed until the file is gone ([`Hold::to_remove`]); the same lock is taken
//!    for files whose row was removed before.
//! 3. The backup has that lock shared ([`Hold::keep`]) from before it copies the catalogue until it has copied the last
//!    blob. So no row that the copy has is removed meanwhile with its file, and none of their files goes: by 1 they are
//!    there when the catalogue is copied, and by 2 they stay.
//! 4. What was acknowledged before the beginning was committed before the catalogue was copied, and is in the copy.
//!
//! Blobs are immutable, and have their names when they are whole, so that it does not matter when they are copied, and a
//! blob that an earlier backup has is not copied again. A blob whose file is not what its digest says is told of, and
//! everything else is copied.
//!
//! The manifest is written when everything else is durable: a directory or an archive without one was cut short. A backup
//! of a directory leaves the one before it as it is until then.
//!
//! | file | what |
//! | --- | --- |
//! | `files` | the only code here that creates, renames or deletes |
//! | `take` | makes a backup |
//! | `archive` | a backup as a tar archive |
//! | `read` | reads a backup, piece by piece |
//! | `restore` | makes a state directory of it |

mod archive;
mod files;
mod read;
mod restore;
mod take;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::catalogue::BackupError;
use crate::catalogue::Hold;
pub use crate::catalogue::hosted::TagThen;
use crate::clock::Timestamp;
use crate::oci::Digest;
pub use restore::{Restored, Wanted, put_tags_back, restore};
pub use take::take;

/// The manifest's name.
const MANIFEST: &str = "backup.json";

/// Where blobs are.
const BLOBS: &str = "blobs";

/// Where the catalogue is in an archive; in a directory the name goes on with a time.
const STATE: &str = "state";

/// The version of this form of a backup.
const FORMAT: u32 = 1;

/// Bytes of a manifest: it names damaged blobs.
const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Damaged blobs that a manifest names: with more of them there is something else to be done first.
const LOST_MAX: usize = 100_000;

/// Bytes that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// Blobs that are asked of a catalogue at once.
const PAGE: usize = 1_000;

/// A backup's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A tar archive.
    Archive(PathBuf),
}

/// The manifest of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// [`FORMAT`].
    format: u32,
    /// The version of the program that made it.
    roadstead: String,
    /// When it was begun.
    created: Timestamp,
    /// The directory of the catalogue.
    state: String,
    /// The digest of the catalogue's file.
    catalogue: String,
    /// The version of its schema.
    schema: i64,
    /// Blobs that the catalogue names.
    blobs: u64,
    /// Their bytes.
    bytes: u64,
    /// Those of them that were missing or damaged when they should have been copied.
    lost: Vec<String>,
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Blobs that the catalogue names.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were copied or linked now; the others were there.
    pub new_blobs: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// The version of the catalogue's schema.
    pub schema: i64,
    /// Blobs that are missing or damaged in the state directory.
    pub lost: Vec<Lost>,
    /// The file system has no locks: it is complete only if no server has run.
    pub without_lock: bool,
}

/// A blob that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Its digest.
    pub digest: String,
    /// The reason.
    pub why: String,
    /// Some of the repositories that have it.
    pub repositories: Vec<String>,
}

/// Hears how far it is: bytes done, of how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

impl Place {
    /// The place with a name: an archive if it ends with `.tar` and is no directory.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let is_archive = path.extension().is_some_and(|it| it == "tar") && !path.is_dir();
        if is_archive && !path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            Self::Archive(path.to_owned())
        } else {
            Self::Directory(path.to_owned())
        }
    }
}

impl Manifest {
    fn parse(bytes: &[u8], shown: &Path) -> Result<Self, BackupError> {
        let parsed: Result<Self, _> = serde_json::from_slice(bytes);
        let shown = shown.display();
        let manifest = parsed.map_err(|error| {
            BackupError(format!(
                "{shown} is no manifest of a backup: {error}; take another backup"
            ))
        })?;
        if manifest.format != FORMAT {
            let format = manifest.format;
            return Err(BackupError(format!(
                "{shown} has format {format}, and this roadstead knows format {FORMAT} alone: use the version that made it ({})",
                manifest.roadstead
            )));
        }
        // It becomes a part of a path.
        let is_name = |it: &str| {
            it.starts_with(STATE)
                && it
                    .bytes()
                    .all(|it| it.is_ascii_alphanumeric() || it == b'-')
        };
        if !is_name(&manifest.state) {
            return Err(BackupError(format!(
                "{shown} names {:?}, which is no place of a catalogue",
                manifest.state
            )));
        }
        Ok(manifest)
    }
}

/// The path of a blob below the directory of blobs.
fn blob_path(digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let shard = hex.get(..2).unwrap_or_default();
    [digest.algorithm().name(), shard, &hex].iter().collect()
}

/// The digest of a path below the directory of blobs.
fn digest_at(path: &Path) -> Option<Digest> {
    let algorithm = path.components().next()?.as_os_str().to_str()?;
    let hex = path.file_name()?.to_str()?;
    let digest = Digest::parse(&format!("{algorithm}:{hex}")).ok()?;
    (blob_path(&digest) == path).then_some(digest)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> BackupError {
    BackupError(format!("cannot {what} {}: {error}", path.display()))
}
