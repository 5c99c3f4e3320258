//! A backup as a tar archive: the catalogue first, then the blobs, and the manifest last.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};

use super::take::{self, Copying, damage, hosted_path};
use super::{BLOBS, BackupError, MANIFEST, Progress, STATE, Taken, blob_path, cannot, files};
use crate::catalogue::{self, DATABASE};
use crate::clock::Timestamp;
use crate::oci::{Digest, Hasher};

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1024 * 1024;

const FILE_MODE: u32 = 0o600;

type Archive = tar::Builder<BufWriter<File>>;

/// Writes a backup into a file that is not there yet.
pub(super) fn take(
    state_dir: &Path,
    file: &Path,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Taken, BackupError> {
    if file.exists() {
        let why = format!("{} is there already; name another file", file.display());
        return Err(BackupError(why));
    }
    let (part, beside) = (beside(file, ".part"), beside(file, ".state"));
    let failed = |error: io::Error| cannot("write", file, &error);
    files::make_directory(&beside).map_err(failed)?;
    let _alone = files::lock(&beside).map_err(|error| {
        if error.kind() == io::ErrorKind::ResourceBusy {
            let shown = file.display();
            let why = format!("another backup is being written to {shown}; name another file");
            return BackupError(why);
        }
        failed(error)
    })?;
    files::discard(&part).map_err(failed)?;
    files::discard(&beside.join(DATABASE)).map_err(failed)?;
    let written = write(state_dir, (&part, &beside), now, progress);
    let published = written.and_then(|taken| {
        files::rename(&part, file).map_err(failed)?;
        Ok(taken)
    });
    // They take room, and harm nobody.
    for left in [files::discard(&part), files::discard_directory(&beside)] {
        if let Err(error) = left {
            tracing::warn!(%error, "a file beside the backup cannot be removed");
        }
    }
    published
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn write(
    state_dir: &Path,
    (part, beside): (&Path, &Path),
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Taken, BackupError> {
    let failed = |error: io::Error| cannot("write", part, &error);
    let database = beside.join(DATABASE);
    let made = catalogue::backup(state_dir, &database)?;
    let out = files::create(part).map_err(failed)?;
    let mut archive = tar::Builder::new(BufWriter::with_capacity(BUFFER_BYTES, out));
    let digest = take::hash(&database).map_err(failed)?;
    let opened = File::open(&database).map_err(failed)?;
    let name = Path::new(STATE).join(DATABASE);
    append(&mut archive, &name, made.bytes, now, opened).map_err(failed)?;
    let copied = take::open(beside)?;
    let mut copying = Copying::new(&copied, made.schema, progress)?;
    copying.each(|copying, digest, size| {
        let opened = File::open(hosted_path(state_dir, digest));
        let source = match opened.and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((length, file)) if length == size => file,
            Ok(_) => return copying.lose(digest, damage(None)),
            Err(error) => return copying.lose(digest, error.to_string()),
        };
        let mut source = Source {
            file: source,
            hasher: Hasher::new(digest.algorithm()),
            left: size,
            failed: None,
        };
        let name = Path::new(BLOBS).join(blob_path(digest));
        append(&mut archive, &name, size, now, &mut source).map_err(failed)?;
        match source.outcome(digest) {
            Ok(()) => copying.count(size),
            Err(why) => copying.lose(digest, why)?,
        }
        Ok(())
    })?;
    let manifest = serde_json::to_vec_pretty(&copying.manifest(STATE, &digest, now));
    let manifest = manifest.map_err(|error| failed(error.into()))?;
    let size = manifest.len() as u64;
    append(&mut archive, Path::new(MANIFEST), size, now, &manifest[..]).map_err(failed)?;
    let out = archive.into_inner().map_err(failed)?;
    let out = out
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    out.sync_all().map_err(failed)?;
    Ok(copying.taken)
}

fn append(
    archive: &mut Archive,
    name: &Path,
    size: u64,
    now: Timestamp,
    from: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(FILE_MODE);
    header.set_mtime(now.0 / 1000);
    archive.append_data(&mut header, name, from)
}

/// A blob that is hashed as it is read. Whatever cannot be read is zeros: an archive has as many bytes as it has said, and
/// what is wrong with one blob must not cost the others.
struct Source {
    file: File,
    hasher: Hasher,
    /// Bytes that are to come.
    left: u64,
    failed: Option<io::Error>,
}

impl Source {
    fn outcome(self, digest: &Digest) -> Result<(), String> {
        if let Some(error) = self.failed {
            return Err(error.to_string());
        }
        let got = self.hasher.finish();
        if got == *digest {
            Ok(())
        } else {
            Err(damage(Some(got)))
        }
    }
}

impl Read for &mut Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|it| !it.is_empty()) else {
            return Ok(0);
        };
        let mut read = most;
        if self.failed.is_none() {
            match self.file.read(buffer) {
                Ok(0) => self.failed = Some(io::ErrorKind::UnexpectedEof.into()),
                Ok(some) => {
                    read = some;
                    if let Some(bytes) = buffer.get(..read) {
                        self.hasher.update(bytes);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => self.failed = Some(error),
            }
        }
        if self.failed.is_some() {
            buffer.fill(0);
        }
        self.left -= read as u64;
        Ok(read)
    }
}
