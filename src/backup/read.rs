//! Reads a backup, piece by piece, in the order in which it is restored: the catalogue, then the blobs.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::take::{self, read_manifest};
use super::{
    BLOBS, BackupError, MANIFEST, MANIFEST_BYTES_MAX, Manifest, PAGE, Place, READ_BYTES, STATE,
    blob_path, cannot, digest_at, files,
};
use crate::catalogue::DATABASE;
use crate::oci::Digest;

/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 4;

/// A piece of a backup.
#[derive(Debug)]
pub(super) enum Piece {
    /// The catalogue follows.
    Catalogue,
    /// A blob follows.
    Blob(Digest, u64),
    /// Some bytes of it.
    Bytes(Bytes),
    /// All of its bytes have come.
    End,
    /// A blob that should be there cannot be read: why.
    Missing(Digest, String),
    /// The manifest. In an archive it comes last.
    Manifest(Box<Manifest>),
    /// It cannot be read.
    Failed(BackupError),
}

/// Reads a backup. The last piece is a failure, or all has come when there are no more.
pub(super) fn pieces(place: &Place) -> mpsc::Receiver<Piece> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let place = place.clone();
    tokio::task::spawn_blocking(move || {
        let reading = Reading(&sender);
        let read = match &place {
            Place::Directory(dir) => reading.directory(dir),
            Place::Archive(file) => reading.archive(file),
        };
        match read {
            Ok(()) | Err(Stop::Unheard) => {}
            Err(Stop::Failed(error)) => {
                // Nobody may listen any more.
                sender.blocking_send(Piece::Failed(error)).ok();
            }
        }
    });
    receiver
}

/// That a backup has no manifest, and what that means.
fn is_torn(shown: &Path) -> BackupError {
    BackupError(format!(
        "{} has no {MANIFEST}: it is no backup, or one that was cut short before its end; take another one",
        shown.display()
    ))
}

enum Stop {
    /// Nobody listens.
    Unheard,
    Failed(BackupError),
}

impl From<BackupError> for Stop {
    fn from(error: BackupError) -> Self {
        Self::Failed(error)
    }
}

struct Reading<'a>(&'a mpsc::Sender<Piece>);

impl Reading<'_> {
    fn directory(&self, dir: &Path) -> Result<(), Stop> {
        let manifest = read_manifest(dir)?.ok_or_else(|| is_torn(dir))?;
        let state = dir.join(&manifest.state);
        self.send(Piece::Manifest(Box::new(manifest)))?;
        let database = state.join(DATABASE);
        let failed = |error: io::Error| cannot("read", &database, &error);
        let file = File::open(&database).map_err(failed)?;
        self.send(Piece::Catalogue)?;
        self.bytes(file, &database, None)?;
        let copied = take::open(&state)?;
        let mut after = None;
        loop {
            let page = copied.blobs_after(after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (digest, size) in page {
                let path = dir.join(BLOBS).join(blob_path(&digest));
                match files::open_regular(&path) {
                    Ok(file) => {
                        self.send(Piece::Blob(digest, size))?;
                        self.bytes(file, &path, None)?;
                    }
                    Err(error) => {
                        let why = format!("{}: {error}", path.display());
                        self.send(Piece::Missing(digest, why))?;
                    }
                }
            }
        }
    }

    fn archive(&self, path: &Path) -> Result<(), Stop> {
        let failed = |error: io::Error| {
            BackupError(format!(
                "{} cannot be read to its end: {error}; take another backup",
                path.display()
            ))
        };
        let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
        let mut archive = tar::Archive::new(io::BufReader::with_capacity(READ_BYTES, file));
        let mut is_whole = false;
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let name = entry.path().map_err(failed)?.into_owned();
            let size = entry.size();
            if name == Path::new(MANIFEST) {
                let mut bytes = Vec::new();
                let read = (&mut entry)
                    .take(MANIFEST_BYTES_MAX)
                    .read_to_end(&mut bytes);
                read.map_err(failed)?;
                let manifest = Manifest::parse(&bytes, path)?;
                self.send(Piece::Manifest(Box::new(manifest)))?;
                is_whole = true;
            } else if name == Path::new(STATE).join(DATABASE) {
                self.send(Piece::Catalogue)?;
                self.bytes(entry, path, Some(size))?;
            } else if let Some(digest) = name.strip_prefix(BLOBS).ok().and_then(digest_at) {
                self.send(Piece::Blob(digest, size))?;
                self.bytes(entry, path, Some(size))?;
            } else {
                let why = format!("{} is no backup: it has {}", path.display(), name.display());
                return Err(BackupError(why).into());
            }
        }
        if is_whole {
            Ok(())
        } else {
            Err(is_torn(path).into())
        }
    }

    /// Sends all bytes of something. `size`: as many as there must be, in an archive: one that was cut short ends like one
    /// that is whole.
    fn bytes(&self, mut from: impl Read, shown: &Path, size: Option<u64>) -> Result<(), Stop> {
        let mut length = 0;
        loop {
            let mut bytes = Vec::with_capacity(READ_BYTES);
            let read = (&mut from).take(READ_BYTES as u64).read_to_end(&mut bytes);
            read.map_err(|error| cannot("read", shown, &error))?;
            length += bytes.len() as u64;
            if !bytes.is_empty() {
                self.send(Piece::Bytes(bytes.into()))?;
                continue;
            }
            if size.is_some_and(|size| size != length) {
                return Err(is_torn(shown).into());
            }
            return self.send(Piece::End);
        }
    }

    fn send(&self, piece: Piece) -> Result<(), Stop> {
        self.0.blocking_send(piece).map_err(|_| Stop::Unheard)
    }
}
