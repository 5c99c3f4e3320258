//! Parts of a stored blob's file as memory: the kernel copies them from its cache of the file into the socket,
//! and nothing is copied, or even touched, in between.
//!
//! All `unsafe` of this program is here.
#![allow(unsafe_code, reason = "a mapping of a file cannot be had without")]

use std::fs::File;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use memmap2::{Advice, MmapOptions};

/// What a reader is given at once, when it has been given as much before: large enough that the mapping costs
/// little beside the copy, and small enough that a thousand slow readers are no burden.
pub(super) const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// What it is given first: it is here sooner, and many ask for no more.
pub(super) const FIRST_WINDOW_BYTES: u64 = 256 * 1024;

/// A part of a file, which must be one that nobody writes to: a committed blob. All of it is in the kernel's
/// cache when this returns. Blocks.
///
/// For those alone who hand the bytes to the kernel: where the file turns out shorter, or the disk fails, when the
/// kernel has dropped some of it from its cache since, the kernel says so by an error (`EFAULT`), but whoever
/// touches the bytes is killed by a signal.
///
/// # Errors
/// The operating system's: the file system cannot be mapped, the file is shorter, the disk cannot read it, or the
/// kernel is older than Linux 5.14 (`madvise(2)`, `MADV_POPULATE_READ`). It can be tried with a read then.
pub(super) fn window(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start));
    let length = length.map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut options = MmapOptions::new();
    options.offset(range.start).len(length);
    // SAFETY: the bytes of a mapping must not change, nor the file become shorter, while they are borrowed. A blob
    // is committed under its name when all of it has been written, and from then on this program only opens it for
    // reading, renames or deletes it, of which a mapping notices nothing. Somebody else who writes to the file in
    // the cache directory, which is ours alone, changes bytes that no code of ours depends on: they go to the socket.
    let map = unsafe { options.map(file) }?;
    // Disk errors and waits happen here, and not on whatever thread sends the bytes.
    map.advise(Advice::PopulateRead)?;
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_window_is_that_part_of_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..251).cycle().take(300_000).collect();
        file.write_all(&content).unwrap();
        for range in [
            0..300_000,
            0..1,
            4096..8192,
            5000..299_999,
            299_999..300_000,
        ] {
            let bytes = window(&file, range.start as u64..range.end as u64).unwrap();
            assert_eq!(bytes, content[range]);
        }
    }

    #[test]
    fn what_the_file_does_not_have_is_an_error_and_no_signal() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        assert!(window(&file, 0..50_000).is_err());
        assert!(window(&file, 8192..9000).is_err());
        assert!(window(&file, 0..u64::MAX).is_err());
    }
}
