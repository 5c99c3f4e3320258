//! Writing a layout: into a directory, or into a tar archive whose bytes depend on nothing but the images.
//!
//! Everything is written under another name first, so that what has its final name is whole: each blob of a
//! directory, and an archive altogether.

#![expect(
    clippy::disallowed_methods,
    reason = "an export is not the store's: it is written where the user says"
)]

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::AirgapError;
use super::below::Root;
use super::layout::{BLOBS, INDEX, Index, LAYOUT, LAYOUT_TEXT, blob_path};
use crate::oci::{Digest, Hasher};

/// The unit of a tar archive (POSIX.1-2017, pax).
const RECORD_BYTES: u64 = 512;

/// Two records of zeros.
const END: [u8; 1024] = [0; 1024];

/// The name of an entry that holds the name of the next one.
const LONG_NAME: &str = "././@LongLink";

/// What a header has room for.
const SHORT_NAME_BYTES: usize = 100;

/// A larger index is none that images make.
const INDEX_BYTES_MAX: u64 = 4_500_000;

/// What is read at once of a file that is there already.
const READ_BYTES: usize = 1024 * 1024;

/// Where a layout is written to.
#[derive(Debug)]
pub(super) enum Target {
    /// A directory: its name for messages.
    Dir { path: PathBuf, root: Arc<Root> },
    /// An archive: its final name, and the file under its other one.
    Tar {
        path: PathBuf,
        part: PathBuf,
        file: File,
    },
}

/// A blob that is being written.
#[derive(Debug)]
pub(super) struct BlobFile {
    file: File,
    /// Where it begins in the file.
    start: u64,
    hasher: Hasher,
    digest: Digest,
    size: u64,
    written: u64,
    /// Its names in a directory, while it is written and after.
    names: Option<(Arc<Root>, String, String)>,
}

impl Target {
    /// Opens or makes the target: an archive if the name ends in `.tar`, unless that is a directory.
    pub(super) fn open(path: &Path) -> Result<Self, AirgapError> {
        let failed = |error: io::Error| AirgapError::of(path.display(), error);
        let is_tar = path.extension().is_some_and(|it| it == "tar") && !path.is_dir();
        if !is_tar {
            fs::create_dir_all(path).map_err(failed)?;
            let root = Root::open(path).map_err(failed)?;
            root.make_folder(BLOBS)
                .map_err(|error| AirgapError::of(path.join(BLOBS).display(), error))?;
            return Ok(Self::Dir {
                path: path.to_path_buf(),
                root: Arc::new(root),
            });
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        // What an export before left, or a link that somebody has put there: neither is written through.
        let file = ignore_missing(fs::remove_file(&part)).and_then(|()| File::create_new(&part));
        let file = file.map_err(|error| AirgapError::of(part.display(), error))?;
        let path = path.to_path_buf();
        Ok(Self::Tar { path, part, file })
    }

    /// The index of what is in a directory already.
    pub(super) fn index(&self) -> Result<Index, AirgapError> {
        let Self::Dir { path, root } = self else {
            return Ok(Index::empty());
        };
        let failed = |why: String| AirgapError::of(path.join(INDEX).display(), why);
        let file = root
            .file(INDEX)
            .map_err(|error| failed(error.to_string()))?;
        let Some(file) = file else {
            return Ok(Index::empty());
        };
        let mut bytes = Vec::new();
        file.take(INDEX_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > INDEX_BYTES_MAX {
            return Err(failed(format!("has more than {INDEX_BYTES_MAX} bytes")));
        }
        serde_json::from_slice(&bytes).map_err(|error| failed(format!("is no index: {error}")))
    }

    /// The beginning: in an archive the small files come first.
    pub(super) fn begin(&mut self, index: &Index) -> Result<(), AirgapError> {
        if let Self::Tar { part, file, .. } = self {
            let bytes = index.to_bytes();
            let mut write = || {
                write_entry(file, LAYOUT, LAYOUT_TEXT)?;
                write_entry(file, INDEX, &bytes)
            };
            write().map_err(|error| AirgapError::of(part.display(), error))?;
        }
        Ok(())
    }

    /// Whether a directory has a blob, whole, from an export before. One that is not is written again.
    pub(super) fn has(&self, digest: &Digest, size: u64) -> Result<bool, AirgapError> {
        let Self::Dir { path, root } = self else {
            return Ok(false);
        };
        let name = blob_path(digest);
        let Ok(Some(mut file)) = root.file(&name) else {
            return Ok(false);
        };
        let mut hash = || -> io::Result<bool> {
            if file.metadata()?.len() != size {
                return Ok(false);
            }
            let mut hasher = Hasher::new(digest.algorithm());
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let count = io::Read::read(&mut file, &mut buffer)?;
                if count == 0 {
                    return Ok(hasher.finish() == *digest);
                }
                hasher.update(buffer.get(..count).unwrap_or_default());
            }
        };
        hash().map_err(|error| AirgapError::of(path.join(&name).display(), error))
    }

    /// Begins a blob of `size` bytes.
    pub(super) fn blob(&mut self, digest: &Digest, size: u64) -> Result<BlobFile, AirgapError> {
        let name = blob_path(digest);
        let opened = match self {
            Self::Dir { root, .. } => {
                let part = format!("{name}.part");
                let names = |file| {
                    (
                        file,
                        0,
                        Some((Arc::clone(root), part.clone(), name.clone())),
                    )
                };
                root.create(&part).map(names)
            }
            Self::Tar { file, .. } => write_header(file, &name, size)
                .and_then(|()| Ok((file.try_clone()?, file.stream_position()?, None))),
        };
        let (file, start, names) = opened.map_err(|error| AirgapError::of(&name, error))?;
        Ok(BlobFile {
            file,
            start,
            hasher: Hasher::new(digest.algorithm()),
            digest: *digest,
            size,
            written: 0,
            names,
        })
    }

    /// The end: from now on it is a layout.
    pub(super) fn finish(self, index: &Index) -> Result<(), AirgapError> {
        match self {
            Self::Dir { path, root } => {
                let write = || {
                    write_durably(&root, LAYOUT, LAYOUT_TEXT)?;
                    write_durably(&root, INDEX, &index.to_bytes())
                };
                write().map_err(|error| AirgapError::of(path.display(), error))
            }
            Self::Tar {
                path,
                part,
                mut file,
            } => {
                let mut close = || {
                    file.write_all(&END)?;
                    file.sync_all()?;
                    fs::rename(&part, &path)
                };
                close().map_err(|error| AirgapError::of(path.display(), error))
            }
        }
    }

    /// Leaves no unfinished archive behind. What is in a directory already is used by the next try.
    pub(super) fn give_up(self) {
        if let Self::Tar { part, .. } = self {
            // The first error is the one to tell.
            fs::remove_file(part).ok();
        }
    }
}

impl BlobFile {
    /// More of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.written += bytes.len() as u64;
        if self.written > self.size {
            return Err(format!("more than {} bytes came", self.size));
        }
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|error| error.to_string())
    }

    /// Begins again.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(self.start)?;
        self.file.seek(SeekFrom::Start(self.start))?;
        self.written = 0;
        self.hasher = Hasher::new(self.digest.algorithm());
        Ok(())
    }

    /// All of it has come: it is what it should be, or has to be written again.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        if self.written != self.size {
            return Err(format!("{} bytes came of {}", self.written, self.size));
        }
        let empty = Hasher::new(self.digest.algorithm());
        let found = std::mem::replace(&mut self.hasher, empty).finish();
        if found != self.digest {
            return Err(format!("the bytes have the digest {found}"));
        }
        let closed = match &self.names {
            Some((root, part, name)) => {
                let synced = self.file.sync_all();
                synced.and_then(|()| root.rename(part, name))
            }
            None => pad(&mut self.file, self.size),
        };
        closed.map_err(|error| error.to_string())
    }
}

fn write_entry(file: &mut File, name: &str, bytes: &[u8]) -> io::Result<()> {
    write_header(file, name, bytes.len() as u64)?;
    file.write_all(bytes)?;
    pad(file, bytes.len() as u64)
}

/// Nothing of when, where and by whom: the same images make the same archive.
fn write_header(file: &mut File, name: &str, size: u64) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    if header.set_path(name).is_err() {
        // The name of a sha512 has 141 bytes: it comes as the content of an entry before (GNU tar, "tar.h").
        let mut long = tar::Header::new_gnu();
        long.set_path(LONG_NAME)?;
        long.set_entry_type(tar::EntryType::GNULongName);
        let bytes = [name.as_bytes(), &[0]].concat();
        finish_header(file, &mut long, bytes.len() as u64)?;
        file.write_all(&bytes)?;
        pad(file, bytes.len() as u64)?;
        header.set_path(name.get(..SHORT_NAME_BYTES).unwrap_or_default())?;
    }
    header.set_entry_type(tar::EntryType::Regular);
    finish_header(file, &mut header, size)
}

fn finish_header(file: &mut File, header: &mut tar::Header, size: u64) -> io::Result<()> {
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    file.write_all(header.as_bytes())
}

fn pad(file: &mut File, size: u64) -> io::Result<()> {
    let over = size % RECORD_BYTES;
    if over == 0 {
        return Ok(());
    }
    let missing = usize::try_from(RECORD_BYTES - over).unwrap_or_default();
    file.write_all(&vec![0; missing])
}

fn write_durably(root: &Root, name: &str, bytes: &[u8]) -> io::Result<()> {
    let part = format!("{name}.part");
    let mut file = root.create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    root.rename(&part, name)
}

fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::airgap::reading::Layout;
    use crate::oci::Algorithm;

    #[test]
    fn an_archive_is_read_back_with_long_names_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut target = Target::open(&path).unwrap();
        target.begin(&Index::empty()).unwrap();
        let contents = [vec![7; 1000], vec![8; 512], Vec::new()];
        let mut digests = Vec::new();
        for content in &contents {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let digest = Digest::of(algorithm, content);
                let mut blob = target.blob(&digest, content.len() as u64).unwrap();
                blob.write(b"wrong").ok();
                blob.restart().unwrap();
                blob.write(content).unwrap();
                blob.finish().unwrap();
                digests.push((digest, content.clone()));
            }
        }
        assert!(!path.exists(), "it has its name when it is whole");
        target.finish(&Index::empty()).unwrap();
        let layout = Layout::open(&path).unwrap();
        for (digest, content) in digests {
            let blob = layout.blob(&digest).unwrap().unwrap();
            assert_eq!(blob.read_all(1000).unwrap(), content);
        }
        let mut tar = std::process::Command::new("tar");
        let Ok(listed) = tar.arg("tf").arg(&path).output() else {
            return;
        };
        assert!(listed.status.success(), "tar itself reads it");
        assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 8);
    }

    #[test]
    fn what_is_not_what_it_should_be_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = Target::open(dir.path()).unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"right");
        let mut blob = target.blob(&digest, 5).unwrap();
        blob.write(b"wrong").unwrap();
        let why = blob.finish().unwrap_err();
        assert!(why.contains("sha256:"), "{why}");
        assert!(!target.has(&digest, 5).unwrap());
        let mut blob = target.blob(&digest, 5).unwrap();
        assert!(blob.write(b"longer").unwrap_err().contains("more than 5"));
        let mut blob = target.blob(&digest, 5).unwrap();
        blob.write(b"right").unwrap();
        blob.finish().unwrap();
        assert!(target.has(&digest, 5).unwrap());
    }
}
