//! Writing a layout: into a directory, or into a tar archive whose bytes depend on nothing but the images.
//!
//! Everything is written under another name first, so that what has its final name is whole: each blob of a
//! directory, and an archive altogether.

#![expect(
    clippy::disallowed_methods,
    reason = "an export is not the store's: it is written where the user says"
)]

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::AirgapError;
use super::archive::{Coding, Form, Out, Sink, unfinished};
use super::below::Root;
use super::layout::{BLOBS, INDEX, INDEX_BYTES_MAX, Index, LAYOUT, LAYOUT_TEXT, blob_path};
use crate::oci::{Digest, Hasher};

/// The unit of a tar archive (POSIX.1-2017, pax).
const RECORD_BYTES: u64 = 512;

/// Two records of zeros.
const END: [u8; 1024] = [0; 1024];

/// The name of an entry that holds the name of the next one.
const LONG_NAME: &str = "././@LongLink";

/// The bytes of a name that a header has room for.
const SHORT_NAME_BYTES: usize = 100;

/// Bytes that are read at once of a file that is there already.
const READ_BYTES: usize = 1024 * 1024;

/// The place that a layout is written to.
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
    /// An archive in which nothing can be written a second time, for it is compressed or goes through a pipe.
    Stream {
        /// For messages.
        name: String,
        /// Its final name and its other one, unless it goes to standard output.
        names: Option<(PathBuf, PathBuf)>,
        sink: Arc<Mutex<Sink>>,
    },
}

/// A blob that is being written.
#[derive(Debug)]
pub(super) struct BlobFile {
    place: Writing,
    hasher: Hasher,
    digest: Digest,
    size: u64,
    /// Bytes that have come, in this try.
    come: u64,
}

/// The place that a blob is written to.
#[derive(Debug)]
enum Writing {
    File {
        file: File,
        /// Its first byte in the file.
        start: u64,
        /// Its names in a directory, while it is written and after.
        names: Option<(Arc<Root>, String, String)>,
    },
    Stream {
        sink: Arc<Mutex<Sink>>,
        /// Bytes that are written for good. What comes again of them in another try is passed over: both tries are
        /// hashed as one, so that a difference between them is found at the end.
        written: u64,
    },
}

impl Target {
    /// Opens or makes the target.
    pub(super) fn open(path: &Path, form: &Form) -> Result<Self, AirgapError> {
        let failed = |error: io::Error| AirgapError::of(path.display(), error);
        let coding = match *form {
            Form::Directory => return Self::directory(path),
            Form::Stream => {
                let sink = Sink::new(Out::Stdout, Coding::Plain).map_err(failed)?;
                return Ok(Self::Stream {
                    name: "standard output".to_owned(),
                    names: None,
                    sink: Arc::new(Mutex::new(sink)),
                });
            }
            Form::Archive(coding) => coding,
        };
        let part = unfinished(path);
        // A file that an export before left, or a link that somebody has put there: neither is written through.
        let file = ignore_missing(fs::remove_file(&part)).and_then(|()| File::create_new(&part));
        let file = file.map_err(|error| AirgapError::of(part.display(), error))?;
        let path = path.to_path_buf();
        if coding == Coding::Plain {
            return Ok(Self::Tar { path, part, file });
        }
        let sink = Sink::new(Out::File(file), coding);
        let sink = sink.map_err(|error| AirgapError::of(part.display(), error))?;
        Ok(Self::Stream {
            name: path.display().to_string(),
            names: Some((path, part)),
            sink: Arc::new(Mutex::new(sink)),
        })
    }

    fn directory(path: &Path) -> Result<Self, AirgapError> {
        let failed = |error: io::Error| AirgapError::of(path.display(), error);
        fs::create_dir_all(path).map_err(failed)?;
        let root = Root::open(path).map_err(failed)?;
        root.make_folder(BLOBS)
            .map_err(|error| AirgapError::of(path.join(BLOBS).display(), error))?;
        Ok(Self::Dir {
            path: path.to_path_buf(),
            root: Arc::new(root),
        })
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
        file.take(INDEX_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(error.to_string()))?;
        if bytes.len() > INDEX_BYTES_MAX {
            return Err(failed(format!("has more than {INDEX_BYTES_MAX} bytes")));
        }
        serde_json::from_slice(&bytes).map_err(|error| failed(format!("is no index: {error}")))
    }

    /// The beginning: in an archive the small files come first.
    pub(super) fn begin(&mut self, index: &Index) -> Result<(), AirgapError> {
        let bytes = index.to_bytes();
        let (name, written) = match self {
            Self::Dir { .. } => return Ok(()),
            Self::Tar { part, file, .. } => (part.display().to_string(), begin(file, &bytes)),
            Self::Stream { name, sink, .. } => (name.clone(), begin(&mut *lock(sink), &bytes)),
        };
        written.map_err(|error| AirgapError::of(name, error))
    }

    /// True if a directory has a blob, whole, from an export before. One that is not is written again.
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
                root.create(&part).map(|file| Writing::File {
                    file,
                    start: 0,
                    names: Some((Arc::clone(root), part, name.clone())),
                })
            }
            Self::Tar { file, .. } => write_header(file, &name, size).and_then(|()| {
                Ok(Writing::File {
                    file: file.try_clone()?,
                    start: file.stream_position()?,
                    names: None,
                })
            }),
            Self::Stream { sink, .. } => {
                write_header(&mut *lock(sink), &name, size).map(|()| Writing::Stream {
                    sink: Arc::clone(sink),
                    written: 0,
                })
            }
        };
        Ok(BlobFile {
            place: opened.map_err(|error| AirgapError::of(&name, error))?,
            hasher: Hasher::new(digest.algorithm()),
            digest: *digest,
            size,
            come: 0,
        })
    }

    /// The end: from now on it is a layout. An archive that cannot be ended is not left behind.
    pub(super) fn finish(self, index: &Index) -> Result<(), AirgapError> {
        let part = self.part();
        let ended = self.end(index);
        if ended.is_err() {
            discard(part);
        }
        ended
    }

    fn end(self, index: &Index) -> Result<(), AirgapError> {
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
            Self::Stream { name, names, sink } => {
                let close = || {
                    let sink = Arc::into_inner(sink).map(Mutex::into_inner);
                    // Nobody writes a blob any more.
                    let sink = sink.ok_or_else(|| io::Error::other("a blob is still written"))?;
                    let mut sink = sink.unwrap_or_else(PoisonError::into_inner);
                    sink.write_all(&END)?;
                    sink.finish()?;
                    match names {
                        Some((path, part)) => fs::rename(part, path),
                        None => Ok(()),
                    }
                };
                close().map_err(|error| AirgapError::of(name, error))
            }
        }
    }

    /// Leaves no unfinished archive behind. What is in a directory already is used by the next try.
    pub(super) fn give_up(self) {
        discard(self.part());
    }

    /// The file of an archive under its other name.
    fn part(&self) -> Option<PathBuf> {
        match self {
            Self::Tar { part, .. } => Some(part.clone()),
            Self::Stream { names, .. } => names.as_ref().map(|(_, part)| part.clone()),
            Self::Dir { .. } => None,
        }
    }
}

fn discard(part: Option<PathBuf>) {
    if let Some(part) = part {
        // The first error is the one to tell.
        fs::remove_file(part).ok();
    }
}

impl BlobFile {
    /// More of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let before = self.come;
        self.come += bytes.len() as u64;
        if self.come > self.size {
            return Err(format!("more than {} bytes came", self.size));
        }
        let new = match &self.place {
            Writing::File { .. } => bytes,
            Writing::Stream { written, .. } => {
                let known = usize::try_from(written.saturating_sub(before));
                bytes.get(known.unwrap_or(usize::MAX)..).unwrap_or_default()
            }
        };
        self.hasher.update(new);
        let done = match &mut self.place {
            Writing::File { file, .. } => file.write_all(new),
            Writing::Stream { sink, written } => {
                *written += new.len() as u64;
                lock(sink).write_all(new)
            }
        };
        done.map_err(|error| error.to_string())
    }

    /// Begins again.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.come = 0;
        match &mut self.place {
            Writing::File { file, start, .. } => {
                file.set_len(*start)?;
                file.seek(SeekFrom::Start(*start))?;
                self.hasher = Hasher::new(self.digest.algorithm());
                Ok(())
            }
            Writing::Stream { written, .. } if *written >= self.size && self.size > 0 => {
                let why = "wrong bytes are in the archive already; export once more";
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
            Writing::Stream { .. } => Ok(()),
        }
    }

    /// All of it has come: it is what it should be, or has to be written again.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        if self.come != self.size {
            return Err(format!("{} bytes came of {}", self.come, self.size));
        }
        let empty = Hasher::new(self.digest.algorithm());
        let found = std::mem::replace(&mut self.hasher, empty).finish();
        if found != self.digest {
            return Err(format!("the bytes have the digest {found}"));
        }
        let closed = match &mut self.place {
            Writing::File {
                file,
                names: Some((root, part, name)),
                ..
            } => {
                let synced = file.sync_all();
                synced.and_then(|()| root.rename(part, name))
            }
            Writing::File {
                file, names: None, ..
            } => pad(file, self.size),
            Writing::Stream { sink, .. } => pad(&mut *lock(sink), self.size),
        };
        closed.map_err(|error| error.to_string())
    }
}

/// Locks a sink: the holder of the lock does nothing but write.
fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin(file: &mut impl Write, index: &[u8]) -> io::Result<()> {
    write_entry(file, LAYOUT, LAYOUT_TEXT)?;
    write_entry(file, INDEX, index)
}

fn write_entry(file: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    write_header(file, name, bytes.len() as u64)?;
    file.write_all(bytes)?;
    pad(file, bytes.len() as u64)
}

/// Nothing of when, where and by whom: the same images make the same archive.
fn write_header(file: &mut impl Write, name: &str, size: u64) -> io::Result<()> {
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

fn finish_header(file: &mut impl Write, header: &mut tar::Header, size: u64) -> io::Result<()> {
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    file.write_all(header.as_bytes())
}

fn pad(file: &mut impl Write, size: u64) -> io::Result<()> {
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

    fn open(path: &Path) -> Result<Target, AirgapError> {
        Target::open(path, &Form::of(path).unwrap())
    }

    #[test]
    fn an_archive_is_read_back_with_long_names_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut target = open(&path).unwrap();
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

    /// It stayed, as large as the disk had room for.
    #[test]
    fn an_archive_that_cannot_be_ended_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.tar", "a.tar.zst"] {
            let path = dir.path().join(name);
            let mut target = open(&path).unwrap();
            target.begin(&Index::empty()).unwrap();
            fs::create_dir(&path).unwrap();
            assert!(unfinished(&path).exists());
            target.finish(&Index::empty()).unwrap_err();
            assert!(!unfinished(&path).exists(), "{name}");
        }
    }

    #[test]
    fn a_blob_that_broke_off_goes_on_in_a_stream() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::of(Algorithm::Sha256, &content);
        for name in ["a.tar.gz", "a.tar.zst"] {
            let path = dir.path().join(name);
            let mut target = open(&path).unwrap();
            target.begin(&Index::empty()).unwrap();
            let mut blob = target.blob(&digest, content.len() as u64).unwrap();
            for tries in [5, 70_000, 20, 399_999, content.len()] {
                blob.restart().unwrap();
                content[..tries]
                    .chunks(999)
                    .for_each(|bytes| blob.write(bytes).unwrap());
            }
            blob.finish().unwrap();
            drop(blob);
            // Nothing can be taken back: wrong bytes are the end of it.
            let wrong = Digest::of(Algorithm::Sha256, b"right");
            let mut blob = target.blob(&wrong, 5).unwrap();
            blob.write(b"wrong").unwrap();
            assert!(blob.finish().is_err() && blob.restart().is_err());
            drop(blob);
            target.finish(&Index::empty()).unwrap();
            let layout = Layout::open(&path).unwrap();
            let blob = layout.blob(&digest).unwrap().unwrap();
            assert_eq!(blob.read_all(content.len()).unwrap(), content, "{name}");
        }
    }

    #[test]
    fn what_is_not_what_it_should_be_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = open(dir.path()).unwrap();
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
