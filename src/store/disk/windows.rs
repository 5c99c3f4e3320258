//! Bytes of files on their way to a socket, without a copy: windows of them, which the kernel sends from its cache of
//! the file.
//!
//! A window is a mapping, so that it can pass as `Bytes` through the HTTP library; what comes out at the other end is
//! found again by its address, and sent with `sendfile(2)` from the file. Where that cannot be, it is sent from
//! memory, with a copy: in either case by the kernel, and nobody here looks into it.
//!
//! **A window's bytes leave later than they are given**, and even what `sendfile` has taken is a reference to the
//! kernel's page of the file until the client has it: whoever writes there meanwhile changes what the client gets. So
//! only bytes may be given as a window that nobody changes before the client is either broken or done. Those of a
//! committed blob never change. For those of a fill see `Reader::take` in `fill.rs`. A file that becomes shorter
//! breaks the connection.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;

use crate::store::disk::DiskFile;
use crate::store::disk::work::{Begun, Kind, Task};

/// Bytes that a reader is given at once, when it has been given as much before: large enough that the mapping costs
/// little beside the sending, and small enough that a thousand slow readers are no burden.
pub(in crate::store) const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes that it is given first, where the disk must be waited for: it is here sooner, and many ask for no more.
pub(in crate::store) const FIRST_WINDOW_BYTES: u64 = 256 * 1024;

/// Fewer bytes of a fill are given as they are: a mapping, a look whether they are in memory and a `sendfile` of their
/// own cost as much as copying some 16 KiB.
pub(in crate::store) const WINDOW_BYTES_MIN: u64 = 32 * 1024;

/// Number of windows that are waited for at the same time, by all readers together. More would make no disk faster; and a reader that
/// waits takes a thread of the blocking pool (512), where files are opened for everybody else too.
pub(in crate::store) const BROUGHT_AT_ONCE_MAX: usize = 64;

/// Time that a window waits for its turn: a disk that works brings thousands meanwhile.
const BROUGHT_WAIT_MAX: Duration = Duration::from_secs(8);

const BRING: Task = Task {
    what: "bring a part of a blob into memory",
    digest: None,
};

/// The most windows of one connection that are remembered. The HTTP library asks for more when it has handed
/// on most of what it has, so there are one or two; of more, the oldest is sent with a copy.
const WINDOWS_MAX: usize = 8;

/// The windows that a connection was given and has not sent yet. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Windows(Arc<Mutex<VecDeque<Window>>>);

/// A part of a file.
#[derive(Debug)]
struct Window {
    /// Its mapping. As long as this is here, nothing else can have its addresses.
    bytes: Bytes,
    file: Arc<DiskFile>,
    /// Offset of its first byte in the file.
    offset: u64,
    _kept: Kept,
}

/// Keeps a window's content from being evicted until it has been sent: its reader may be gone before.
#[derive(Debug)]
pub(in crate::store) struct Kept {
    _by: Arc<dyn fmt::Debug + Send + Sync>,
}

/// A window that is being brought from the disk while the one before it is sent.
#[derive(Debug)]
pub(in crate::store) struct Ahead(Begun<io::Result<Option<Bytes>>>);

/// Brings a part of a file into memory, and waits for it. `None`: as [`DiskFile::window`].
///
/// # Errors
/// The disk's.
pub(in crate::store) async fn bring(
    file: &Arc<DiskFile>,
    range: Range<u64>,
) -> io::Result<Option<Bytes>> {
    file.work().refuse(Kind::Read, &BRING)?;
    let permit = Arc::clone(file.bringing()).acquire_owned();
    let permit = tokio::time::timeout(BROUGHT_WAIT_MAX, permit).await?;
    let permit = permit.map_err(io::Error::other)?;
    let file = Arc::clone(file);
    let work = Arc::clone(file.work());
    let brought = work.run(Kind::Read, BRING, move || {
        let _permit = permit;
        file.window(&range)
    });
    brought.await.flatten()
}

impl Kept {
    /// Keeps it for as long as this lives.
    pub(in crate::store) fn by(guard: Arc<impl fmt::Debug + Send + Sync + 'static>) -> Self {
        Self { _by: guard }
    }
}

impl Ahead {
    /// Begins to bring a part of a file, unless so many do that its turn would not be now.
    pub(in crate::store) fn begin(file: &Arc<DiskFile>, range: Range<u64>) -> Option<Self> {
        let permit = Arc::clone(file.bringing()).try_acquire_owned().ok()?;
        let bringing = Arc::clone(file);
        let begun = file.work().begin(Kind::Read, BRING, move || {
            let _permit = permit;
            bringing.window(&range)
        });
        begun.map(Self)
    }

    /// Waits for it. As [`bring`].
    pub(in crate::store) async fn window(self) -> io::Result<Option<Bytes>> {
        self.0.done().await.flatten()
    }
}

impl Windows {
    /// Remembers where `bytes`, a mapping of `file` from `offset` on, come from.
    pub(in crate::store) fn remember(
        &self,
        bytes: Bytes,
        file: Arc<DiskFile>,
        offset: u64,
        kept: Kept,
    ) {
        let mut windows = self.lock();
        if windows.len() >= WINDOWS_MAX {
            windows.pop_front();
        }
        windows.push_back(Window {
            bytes,
            file,
            offset,
            _kept: kept,
        });
    }

    /// True if `bytes` are part of a window.
    #[must_use]
    pub fn hold(&self, bytes: &[u8]) -> bool {
        self.lock().iter().any(|window| window.at(bytes).is_some())
    }

    /// Sends the beginning of `bytes` to `socket` from the file that they are a window of; says how many. `None`:
    /// they are none's, or it cannot be sent in this way.
    ///
    /// # Errors
    /// The socket's, as of a write; or the file has become shorter than its window.
    pub fn send(&self, bytes: &[u8], socket: impl AsFd) -> Option<io::Result<usize>> {
        let mut windows = self.lock();
        let (index, at) = windows
            .iter()
            .enumerate()
            .find_map(|(index, window)| Some((index, window.at(bytes)?)))?;
        let window = windows.get(index)?;
        let end = at + bytes.len() == window.bytes.len();
        let mut offset = window.offset + at as u64;
        let sent = send_file(window.file.file(), &mut offset, bytes.len(), socket);
        match sent {
            // They are sent in order: what came before will not be asked for again.
            Ok(sent) if end && sent == bytes.len() => drop(windows.drain(..=index)),
            Ok(0) => return Some(Err(io::ErrorKind::UnexpectedEof.into())),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                windows.clear();
                return None;
            }
            Ok(_) | Err(_) => {}
        }
        Some(sent.map_err(io::Error::from))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Window>> {
        // No change of it can stop half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Offset of these bytes in it, if all of them are part of it.
    fn at(&self, bytes: &[u8]) -> Option<usize> {
        let own = self.bytes.as_ptr_range();
        let asked = bytes.as_ptr_range();
        let within = own.start <= asked.start && asked.end <= own.end && !bytes.is_empty();
        within.then(|| asked.start.addr() - own.start.addr())
    }
}

fn send_file(
    file: &File,
    offset: &mut u64,
    length: usize,
    socket: impl AsFd,
) -> Result<usize, Errno> {
    loop {
        match rustix::fs::sendfile(&socket, file, Some(offset), length) {
            Err(Errno::INTR) => {}
            said => return said,
        }
    }
}

#[cfg(test)]
mod tests;
