//! Makes a backup.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{self, Came};
use super::{
    BLOBS, BackupError, FORMAT, Hold, LOST_MAX, Lost, MANIFEST, MANIFEST_BYTES_MAX, Manifest, PAGE,
    Place, Progress, STATE, Taken, archive, blob_path, cannot, digest_at,
};
use crate::catalogue::{self, Copied, DATABASE};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest, Hasher};

/// Makes a backup of a state directory, whether a server uses it or not; in a directory that has one already, of what is
/// new. It is durable when this returns. Blocks.
///
/// # Errors
/// [`BackupError`]; there is no backup then, and one that was there is as it was.
pub fn take(
    state_dir: &Path,
    place: &Place,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Taken, BackupError> {
    // Before the catalogue is copied, and until all is: see the proof in this module's documentation.
    let hold = Hold::keep(state_dir).map_err(|error| cannot("lock", state_dir, &error))?;
    let without_lock = hold.is_none();
    let mut taken = match place {
        Place::Directory(dir) => into_directory(state_dir, dir, now, progress)?,
        Place::Archive(file) => archive::take(state_dir, file, now, progress)?,
    };
    drop(hold);
    taken.without_lock = without_lock;
    Ok(taken)
}

/// The blobs that are being copied.
pub(super) struct Copying<'a> {
    pub(super) copied: &'a Copied,
    pub(super) taken: Taken,
    pub(super) done: u64,
    pub(super) progress: Progress<'a>,
}

impl<'a> Copying<'a> {
    pub(super) fn new(
        copied: &'a Copied,
        schema: i64,
        progress: Progress<'a>,
    ) -> Result<Self, BackupError> {
        let (blobs, bytes) = copied.totals()?;
        Ok(Self {
            copied,
            taken: Taken {
                blobs,
                bytes,
                new_blobs: 0,
                new_bytes: 0,
                schema,
                lost: Vec::new(),
                without_lock: false,
            },
            done: 0,
            progress,
        })
    }

    /// Goes through all blobs that the catalogue names.
    pub(super) fn each(
        &mut self,
        mut copy: impl FnMut(&mut Self, &Digest, u64) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let mut after = None;
        loop {
            let page = self.copied.blobs_after(after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (digest, size) in page {
                copy(self, &digest, size)?;
                self.done += size;
                (self.progress)(self.done, self.taken.bytes);
            }
        }
    }

    /// A blob was copied.
    pub(super) fn count(&mut self, size: u64) {
        self.taken.new_blobs += 1;
        self.taken.new_bytes += size;
    }

    /// A blob cannot be had.
    pub(super) fn lose(&mut self, digest: &Digest, why: String) -> Result<(), BackupError> {
        if self.taken.lost.len() == LOST_MAX {
            return Err(BackupError(format!(
                "more than {LOST_MAX} blobs are missing or damaged: look at the disk with `roadstead verify`"
            )));
        }
        self.taken.lost.push(Lost {
            digest: digest.to_string(),
            why,
            repositories: self.copied.holders(digest)?,
        });
        Ok(())
    }

    /// The manifest.
    pub(super) fn manifest(&self, state: &str, catalogue: &Digest, now: Timestamp) -> Manifest {
        let lost = self.taken.lost.iter().map(|it| it.digest.clone());
        Manifest {
            format: FORMAT,
            roadstead: env!("CARGO_PKG_VERSION").to_owned(),
            created: now,
            state: state.to_owned(),
            catalogue: catalogue.to_string(),
            schema: self.taken.schema,
            blobs: self.taken.blobs,
            bytes: self.taken.bytes,
            lost: lost.collect(),
        }
    }
}

/// The file of a hosted blob.
pub(super) fn hosted_path(state_dir: &Path, digest: &Digest) -> PathBuf {
    state_dir.join("hosted").join(BLOBS).join(blob_path(digest))
}

/// The digest of a file.
pub(super) fn hash(path: &Path) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; super::READ_BYTES];
    loop {
        let read = io::Read::read(&mut file, &mut buffer)?;
        match buffer.get(..read).filter(|it| !it.is_empty()) {
            Some(bytes) => hasher.update(bytes),
            None => return Ok(hasher.finish()),
        }
    }
}

/// Opens a catalogue that was copied a moment ago.
pub(super) fn open(dir: &Path) -> Result<Copied, BackupError> {
    let opened = Copied::open(dir)?;
    opened.ok_or_else(|| {
        BackupError(format!(
            "the copy of the catalogue in {} is gone",
            dir.display()
        ))
    })
}

fn into_directory(
    state_dir: &Path,
    dir: &Path,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Taken, BackupError> {
    files::make_directory(dir).map_err(|error| cannot("make", dir, &error))?;
    let locked = files::lock(dir);
    let _locked = locked.map_err(|error| {
        if error.kind() == io::ErrorKind::ResourceBusy {
            return BackupError(format!("another backup is being made in {}", dir.display()));
        }
        cannot("lock", dir, &error)
    })?;
    before(dir)?;
    let state = name_after(dir, now);
    let copy = dir.join(&state);
    files::make_directory(&copy).map_err(|error| cannot("make", &copy, &error))?;
    let file = copy.join(DATABASE);
    let made = catalogue::backup(state_dir, &file)?;
    let failed = |error: io::Error| cannot("write to", dir, &error);
    let mut folders = BTreeSet::new();
    let copied = open(&copy)?;
    let mut copying = Copying::new(&copied, made.schema, progress)?;
    copying.each(|copying, digest, size| {
        let to = dir.join(BLOBS).join(blob_path(digest));
        // It was whole before it got that name.
        if fs::metadata(&to).is_ok_and(|it| it.len() == size) {
            return Ok(());
        }
        let Some(folder) = to.parent() else {
            return Ok(());
        };
        files::make_directory(folder).map_err(failed)?;
        folders.insert(folder.to_owned());
        let part = dir.join(BLOBS).join("part");
        match files::bring(&hosted_path(state_dir, digest), &part, &to, digest, size) {
            Ok(Came::Whole) => copying.count(size),
            Ok(Came::Damaged(got)) => copying.lose(digest, damage(got))?,
            Err(error) if is_of_the_source(&error) => copying.lose(digest, error.to_string())?,
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    })?;
    let above = folders
        .iter()
        .filter_map(|it| it.parent())
        .map(Path::to_owned);
    let above: BTreeSet<_> = above
        .chain([dir.join(BLOBS), copy.clone(), dir.to_owned()])
        .collect();
    for folder in folders.iter().chain(&above).filter(|it| it.is_dir()) {
        files::sync_directory(folder).map_err(failed)?;
    }
    let digest = hash(&file).map_err(failed)?;
    let manifest = serde_json::to_vec_pretty(&copying.manifest(&state, &digest, now));
    let manifest = manifest.map_err(|error| failed(error.into()))?;
    files::replace(&dir.join(MANIFEST), &manifest).map_err(failed)?;
    let taken = copying.taken;
    // The backup is made. What is left of the one before takes room, and harms nobody.
    if let Err(error) = clean(dir, &state, &copied) {
        tracing::warn!(%error, dir = %dir.display(), "files of an earlier backup cannot be removed");
    }
    Ok(taken)
}

/// The reason why a blob is damaged, in words.
pub(super) fn damage(got: Option<Digest>) -> String {
    got.map_or_else(
        || "its file has another length".to_owned(),
        |got| format!("its content hashes to {got}"),
    )
}

/// True if a failure says something of the blob that was to be copied: its file is not there, or cannot be read.
pub(super) fn is_of_the_source(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// The manifest of the backup that a directory has. Refuses a directory that is something else.
fn before(dir: &Path) -> Result<Option<Manifest>, BackupError> {
    let failed = |error: io::Error| cannot("read", dir, &error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(MANIFEST) || name == BLOBS || name.starts_with(STATE);
        if !is_ours && name != "lost+found" {
            return Err(BackupError(format!(
                "{} is not empty, and no backup: it has {name:?}; name a directory that is empty or not there",
                dir.display()
            )));
        }
    }
    read_manifest(dir)
}

/// The manifest in a directory, if there is one.
pub(super) fn read_manifest(dir: &Path) -> Result<Option<Manifest>, BackupError> {
    let path = dir.join(MANIFEST);
    let length = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| cannot("read", &path, &error))?.len(),
    };
    if length > MANIFEST_BYTES_MAX {
        return Err(BackupError(format!(
            "{} is no manifest of a backup",
            path.display()
        )));
    }
    let bytes = fs::read(&path).map_err(|error| cannot("read", &path, &error))?;
    Manifest::parse(&bytes, &path).map(Some)
}

/// A name for the catalogue that is not there yet.
fn name_after(dir: &Path, now: Timestamp) -> String {
    let mut number = now.0;
    loop {
        let name = format!("{STATE}-{number}");
        if !dir.join(&name).exists() {
            return name;
        }
        number += 1;
    }
}

/// Removes what this backup does not need.
fn clean(dir: &Path, state: &str, copied: &Copied) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(STATE) && name.to_str() != Some(state) {
            files::discard_directory(&entry.path())?;
        }
    }
    let blobs = dir.join(BLOBS);
    let mut left = vec![blobs.clone()];
    while let Some(folder) = left.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                left.push(path);
                continue;
            }
            let digest = path.strip_prefix(&blobs).ok().and_then(digest_at);
            let is_needed = match digest {
                Some(digest) => copied.blob(&digest).map_err(io::Error::other)?.is_some(),
                None => false,
            };
            if !is_needed {
                files::discard(&path)?;
            }
        }
    }
    Ok(())
}
