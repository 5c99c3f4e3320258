//! A stored blob, open.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::oci::Digest;
use crate::store::LookedAt;
use crate::store::cas::fill::{Handed, READ_BYTES};
use crate::store::cas::pin::Pin;
use crate::store::disk::DiskFile;
use crate::store::disk::windows::{self, Ahead, FIRST_WINDOW_BYTES, Kept, WINDOW_BYTES, Windows};
use crate::store::disk::work::{Kind, Task};

/// A stored blob: its open file, pinned as long as this lives.
#[derive(Clone, Debug)]
pub struct Blob {
    size: u64,
    file: Arc<DiskFile>,
    pin: Pin,
}

/// Reads a stored blob.
#[derive(Debug)]
pub struct StoredReader {
    blob: Blob,
    /// First byte of the range.
    start: u64,
    /// The rest of it.
    range: Range<u64>,
    /// Registers its windows, if it is read in windows.
    windows: Option<Windows>,
    /// Nothing has been read yet.
    fresh: bool,
    /// The next window, if the disk must be waited for and has been asked already.
    ahead: Option<Ahead>,
    /// The most that is copied at once.
    piece_max: usize,
}

impl Blob {
    pub(in crate::store) fn new(size: u64, file: Arc<DiskFile>, pin: Pin) -> Self {
        Self { size, file, pin }
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        self.pin.digest()
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A reader of `range`, of everything when `None`.
    #[must_use]
    pub fn reader(self, range: Option<Range<u64>>) -> StoredReader {
        let range = range.unwrap_or(0..self.size);
        StoredReader {
            blob: self,
            start: range.start,
            range,
            windows: None,
            fresh: true,
            ahead: None,
            piece_max: READ_BYTES,
        }
    }

    /// Its file, for who finds out that it is damaged.
    #[must_use]
    pub fn looked_at(&self) -> LookedAt {
        LookedAt(Some(Arc::clone(&self.file)))
    }

    /// These bytes, if the kernel has them in memory: waits for no disk. `None`: read them otherwise.
    #[must_use]
    pub fn cached(&self, range: Range<u64>) -> Option<Bytes> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
        let read = self.file.read_cached(range.start, length).ok().flatten()?;
        (read.len() == length).then(|| read.into())
    }

    /// The open file.
    pub(in crate::store) fn file(&self) -> &DiskFile {
        &self.file
    }

    /// All of its `size` bytes. Blocks: not for async code.
    pub(in crate::store) fn bytes(&self, size: usize) -> io::Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(size);
        while whole.len() < size {
            let left = size - whole.len();
            whole.extend(self.file.read_at(whole.len() as u64, left)?);
        }
        Ok(whole)
    }

    /// All of it, if it is no larger than `limit`: for manifests. A file that
    /// cannot be read is set aside.
    pub async fn read_all(self, limit: usize) -> Option<Bytes> {
        let size = usize::try_from(self.size)
            .ok()
            .filter(|size| *size <= limit)?;
        let mut whole = Vec::with_capacity(size);
        let mut reader = self.reader(None);
        while let Some(bytes) = reader.next().await.ok()? {
            whole.extend_from_slice(&bytes);
        }
        Some(whole.into())
    }
}

impl StoredReader {
    /// Gives its bytes as windows of the file, which only the kernel may look into: for a socket without TLS.
    #[must_use]
    pub fn in_windows(self, windows: Windows) -> Self {
        let windows = Some(windows);
        Self { windows, ..self }
    }

    /// Bounds the pieces of what is copied, from now on.
    pub fn set_piece_max(&mut self, bytes: usize) {
        self.piece_max = bytes.clamp(1, READ_BYTES);
    }

    /// Hands over what it was given, so that somebody else can give it the rest.
    #[must_use]
    pub fn hand_over(&self) -> Handed {
        Handed {
            start: self.start,
            position: self.range.start,
            end: Some(self.range.end),
            total: Some(self.blob.size),
            file: Some(Arc::clone(&self.blob.file)),
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was: says why. The blob has been set aside then.
    /// The client's connection must be broken, unless the rest is had elsewhere.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let read = match self.windows.clone() {
            Some(windows) => self.window(&windows).await,
            None => self.read().await,
        };
        match read {
            Ok(bytes) => {
                self.fresh = false;
                self.range.start += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Err(error) => {
                let pin = &self.blob.pin;
                let unreadable =
                    pin.0
                        .quarantine
                        .unreadable(pin.digest(), &error, self.blob.looked_at());
                unreadable.await;
                Err(error.to_string())
            }
        }
    }

    /// The next bytes, copied.
    async fn read(&self) -> io::Result<Bytes> {
        let Range { start, end } = self.range.clone();
        let limit = usize::try_from(end.saturating_sub(start));
        let limit = limit.unwrap_or(READ_BYTES).min(self.piece_max);
        let file = &self.blob.file;
        if let Some(bytes) = file.read_cached(start, limit)? {
            return Ok(bytes.into());
        }
        let reading = Arc::clone(file);
        let task = Task::of("read", self.blob.digest());
        let read = file
            .work()
            .run(Kind::Read, task, move || reading.read_at(start, limit));
        Ok(read.await??.into())
    }

    /// The next bytes, as a window.
    async fn window(&mut self, windows: &Windows) -> io::Result<Bytes> {
        let Range { start, end } = self.range.clone();
        let within = |start: u64, bytes: u64| start..end.min(start.saturating_add(bytes));
        let file = &self.blob.file;
        let (window, from_disk) = if let Some(ahead) = self.ahead.take() {
            (ahead.window().await?, true)
        } else if let Some(bytes) = file.window_cached(&within(start, WINDOW_BYTES))? {
            (Some(bytes), false)
        } else {
            let length = if self.fresh {
                FIRST_WINDOW_BYTES
            } else {
                WINDOW_BYTES
            };
            (windows::bring(file, within(start, length)).await?, true)
        };
        let Some(bytes) = window else {
            return self.read().await;
        };
        let next = within(start + bytes.len() as u64, WINDOW_BYTES);
        // One page that was missing does not send all that follow through the blocking pool.
        if from_disk && !next.is_empty() && !file.is_cached(&next) {
            self.ahead = Ahead::begin(file, next);
        }
        let kept = Kept::by(Arc::clone(&self.blob.pin.0));
        windows.remember(bytes.clone(), Arc::clone(file), start, kept);
        Ok(bytes)
    }
}
