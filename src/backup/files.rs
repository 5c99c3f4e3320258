//! The files of backups: the only code here that creates, renames or deletes.

#![expect(
    clippy::disallowed_methods,
    reason = "a backup is no part of the store, and is changed here alone"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::READ_BYTES;
use crate::oci::{Digest, Hasher};

/// Permissions: a backup has users, tokens and private content.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The way in which a blob came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It is what its digest says, and durable under its name, but for the directory.
    Whole,
    /// Its content has another digest, or another length.
    Damaged(Option<Digest>),
}

/// Makes a directory and what leads to it, for its owner alone.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Makes a file that is not there yet, for its owner alone.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    options.open(path)
}

/// Brings a blob to `to` by way of `part`, with its digest checked on the way: a link to the file itself where that can
/// be, else a copy. A link is as good as a copy on the same disk: files of blobs are never written to again, only removed
/// or renamed.
pub(super) fn bring(
    from: &Path,
    part: &Path,
    to: &Path,
    digest: &Digest,
    size: u64,
) -> io::Result<Came> {
    discard(part)?;
    let is_link = fs::hard_link(from, part).is_ok();
    let mut source = File::open(if is_link { part } else { from })?;
    let mut copy = if is_link { None } else { Some(create(part)?) };
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; READ_BYTES];
    let mut length = 0;
    loop {
        let read = source.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|it| !it.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        length += bytes.len() as u64;
        if let Some(copy) = &mut copy {
            copy.write_all(bytes)?;
        }
    }
    let got = hasher.finish();
    if got != *digest || length != size {
        discard(part)?;
        return Ok(Came::Damaged(Some(got).filter(|got| got != digest)));
    }
    if let Some(copy) = copy {
        copy.sync_all()?;
    }
    fs::rename(part, to)?;
    Ok(Came::Whole)
}

/// Writes a small file durably, in the place of one of this name.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    discard(new)?;
    let mut file = BufWriter::new(create(new)?);
    file.write_all(bytes)?;
    file.into_inner()?.sync_all()?;
    rename(new, path)
}

/// Renames a file durably.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent().filter(|it| !it.as_os_str().is_empty()) {
        Some(parent) => sync_directory(parent),
        None => sync_directory(Path::new(".")),
    }
}

/// Makes names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file, if it is there.
pub(super) fn discard(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a directory and all in it, if it is there.
pub(super) fn discard_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Keeps others from writing to a directory, until the file is dropped.
///
/// # Errors
/// `ResourceBusy`: somebody does.
pub(super) fn lock(directory: &Path) -> io::Result<File> {
    let opened = File::open(directory)?;
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::ResourceBusy.into()),
        // A file system without locks has none.
        Ok(()) | Err(_) => Ok(opened),
    }
}

/// Opens a file to read it. What is none is refused: reading a pipe or a device would have no end.
///
/// # Errors
/// The operating system's; `InvalidInput`: it is no file.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"))
    }
}
