//! Parts of a stored blob's file as memory, and whether the kernel has them in memory.
//!
//! All `unsafe` of this program is here.
#![allow(
    unsafe_code,
    reason = "a mapping of a file, and a system call that no library has yet, cannot be had without"
)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

/// A part of a file, which must be one that nobody writes to: a committed blob. Nothing of it is read yet: see
/// [`is_cached`] and [`bring`].
///
/// # Errors
/// The operating system's: the file system cannot be mapped.
pub(super) fn map(file: &File, range: &Range<u64>) -> io::Result<Mmap> {
    let length = usize::try_from(range.end.saturating_sub(range.start));
    let length = length.map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut options = MmapOptions::new();
    options.offset(range.start).len(length);
    // SAFETY: the bytes of a mapping must not change, nor the file become shorter, while they are borrowed. A blob
    // is committed under its name when all of it has been written, and from then on this program only opens it for
    // reading, renames or deletes it, of which a mapping notices nothing. Somebody else who writes to the file in
    // the cache directory, which is ours alone, changes bytes that no code of ours looks at: the kernel sends them.
    unsafe { options.map(file) }
}

/// Reads all of a mapping from the disk into the kernel's cache, and waits for it: so that disk errors and waits
/// happen here, and not on whatever thread sends the bytes. Blocks.
///
/// # Errors
/// The operating system's: the file is shorter, the disk cannot read it, or the kernel is older than Linux 5.14
/// (`madvise(2)`, `MADV_POPULATE_READ`).
pub(super) fn bring(map: &Mmap) -> io::Result<()> {
    map.advise(Advice::PopulateRead)
}

/// The mapping as bytes, which are for the kernel's eyes alone: where the file turns out shorter, or the disk
/// fails when the kernel has dropped some of it from its cache since, the kernel says so by an error (`EFAULT`), but
/// whoever touches the bytes is killed by a signal.
pub(super) fn bytes(map: Mmap) -> Bytes {
    Bytes::from_owner(map)
}

/// Whether the kernel has all of these bytes of a file in memory, so that sending them waits for no disk. No, too,
/// where it cannot tell: before Linux 6.5 (`cachestat(2)`), or when the file is somebody else's.
pub(super) fn is_cached(file: &File, range: &Range<u64>) -> bool {
    let asked = CachestatRange {
        start: range.start,
        length: range.end.saturating_sub(range.start),
    };
    let mut said = Cachestat::default();
    // SAFETY: the system call reads a `struct cachestat_range` and writes a `struct cachestat` (linux/mman.h), whose
    // layouts are those of the two types here; both live on this stack, for longer than the call.
    let done = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            &raw const asked,
            &raw mut said,
            0_u32,
        )
    };
    done == 0 && said.pages >= pages(range)
}

/// The number of the system call, the same on every architecture (Linux, `scripts/syscall.tbl`).
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`.
#[repr(C)]
struct CachestatRange {
    start: u64,
    length: u64,
}

/// `struct cachestat`, which counts pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    /// Those in memory.
    pages: u64,
    dirty: u64,
    written: u64,
    evicted: u64,
    evicted_lately: u64,
}

/// How many pages a range of bytes lies in.
fn pages(range: &Range<u64>) -> u64 {
    let size = rustix::param::page_size() as u64;
    if range.is_empty() {
        return 0;
    }
    (range.end - 1) / size - range.start / size + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_mapping_is_that_part_of_the_file() {
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
            let map = map(&file, &(range.start as u64..range.end as u64)).unwrap();
            bring(&map).unwrap();
            assert_eq!(bytes(map), content[range]);
        }
    }

    #[test]
    fn what_the_file_does_not_have_is_an_error_and_no_signal() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        for range in [0..50_000, 8192..9000, 0..u64::MAX] {
            let brought = map(&file, &range).and_then(|map| bring(&map));
            assert!(brought.is_err(), "{range:?}");
            assert!(!is_cached(&file, &range), "{range:?}");
        }
    }

    #[test]
    fn what_was_just_written_is_in_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        let can_tell = is_cached(&file, &(0..1));
        // An older kernel says no to all.
        for range in [0..100_000, 4095..4097, 99_999..100_000] {
            assert_eq!(is_cached(&file, &range), can_tell, "{range:?}");
        }
    }

    #[test]
    fn pages_are_counted_with_those_that_are_touched_only() {
        let size = rustix::param::page_size() as u64;
        assert_eq!(pages(&(0..0)), 0);
        assert_eq!(pages(&(0..1)), 1);
        assert_eq!(pages(&(size - 1..size + 1)), 2);
        assert_eq!(pages(&(0..size)), 1);
        assert_eq!(pages(&(1..3 * size)), 3);
    }
}
