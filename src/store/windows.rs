//! Stored bytes on their way to a socket, without a copy: windows of blobs' files, which the kernel sends from its
//! cache of the file.
//!
//! A window is a mapping, so that it can pass as `Bytes` through the HTTP library; what comes out at the other end is
//! found again by its address, and sent with `sendfile(2)` from the file. Where that cannot be, it is sent from
//! memory, with a copy: in either case by the kernel, and nobody here looks into it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;

use super::disk::DiskFile;

/// What a reader is given at once, when it has been given as much before: large enough that the mapping costs
/// little beside the sending, and small enough that a thousand slow readers are no burden.
pub(super) const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// What it is given first, where the disk must be waited for: it is here sooner, and many ask for no more.
pub(super) const FIRST_WINDOW_BYTES: u64 = 256 * 1024;

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
    /// Where in the file it begins.
    offset: u64,
}

impl Windows {
    /// Remembers where `bytes`, a mapping of `file` from `offset` on, come from.
    pub(super) fn remember(&self, bytes: Bytes, file: Arc<DiskFile>, offset: u64) {
        let mut windows = self.lock();
        if windows.len() >= WINDOWS_MAX {
            windows.pop_front();
        }
        windows.push_back(Window {
            bytes,
            file,
            offset,
        });
    }

    /// Whether `bytes` are part of a window.
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
    /// Where in it these bytes begin, if all of them are part of it.
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
