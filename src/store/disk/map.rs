//! Parts of files as memory, and whether the kernel has them in memory.
//!
//! All `unsafe` of this program is here.
#![allow(
    unsafe_code,
    reason = "a mapping of a file, and system calls that no library has in a safe form, cannot be had without"
)]

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd as _;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};
use rustix::fs::Advice as Advise;
use rustix::io::{Errno, ReadWriteFlags};

/// A part of a file of the store. Nothing of it is read yet: see [`is_cached`] and [`bring`].
///
/// **Nobody may look into it but the kernel.** The file may be one that is still being written: then the bytes may
/// change, and the file may be cut off.
///
/// # Errors
/// The operating system's: the file system cannot be mapped.
pub(in crate::store) fn map(file: &File, range: &Range<u64>) -> io::Result<Mmap> {
    let length = usize::try_from(range.end.saturating_sub(range.start));
    let length = length.map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut options = MmapOptions::new();
    options.offset(range.start).len(length);
    // SAFETY: a mapping is a `&[u8]` to whoever borrows it, so its bytes must not change, nor the file become shorter,
    // while code relies on them. None does: the mapping leaves this file as the `Bytes` of `bytes`, whose address and
    // length alone are used (`Windows`), until it is handed to the kernel, by `sendfile` from the file or as the
    // buffer of a `writev`; the kernel reads by itself, sees whatever the file has then, and answers with an error
    // where it has nothing. The HTTP library in between slices, counts and queues bytes, and copies only what it
    // flattens, which is chosen per connection (`writev(true)`, and no windows for TLS and HTTP/2). So it is sound
    // for a partial file, which is written to and may be cut off, as for a committed one. That what the kernel sends
    // is also the right bytes is another matter: see `windows.rs`.
    unsafe { options.map(file) }
}

/// Reads a part of a file from the disk into the kernel's cache, and waits for it: so that disk errors and waits
/// happen here, and not on whatever thread sends the bytes. Blocks.
///
/// # Errors
/// The operating system's: the file is shorter, the disk cannot read it, or the kernel is older than Linux 5.14
/// (`madvise(2)`, `MADV_POPULATE_READ`).
pub(in crate::store) fn bring(file: &File, range: &Range<u64>) -> io::Result<()> {
    let map = map(file, range)?;
    // All of it is asked for before any is waited for. Only advice: where it is not taken, reads are one after the
    // other.
    let mut at = range.start;
    while let Some(length) = NonZeroU64::new(range.end.saturating_sub(at).min(ASKED_BYTES)) {
        if rustix::fs::fadvise(file, at, Some(length), Advise::WillNeed).is_err() {
            break;
        }
        at += length.get();
    }
    // Through a mapping of its own, since one that has been looked through is slow to undo.
    map.advise(Advice::PopulateRead)
}

/// Bytes that are asked for at once: of more, Linux reads only as much as its readahead (128 KiB) or the device's
/// largest request is (`mm/readahead.c`, `force_page_cache_ra`).
const ASKED_BYTES: u64 = 128 * 1024;

/// The mapping as bytes, which are for the kernel's eyes alone: where the file turns out shorter, or the disk
/// fails when the kernel has dropped some of it from its cache since, the kernel says so by an error (`EFAULT`), but
/// whoever touches the bytes is killed by a signal.
pub(in crate::store) fn bytes(map: Mmap) -> Bytes {
    Bytes::from_owner(map)
}

/// True if the kernel has all of these bytes of a file in memory, so that sending them waits for no disk. Where it has
/// no `cachestat(2)` (before Linux 6.5), or refuses it (containers and services have filters of system calls that are
/// older), some bytes stand for all. No, where it cannot tell at all.
pub(in crate::store) fn is_cached(file: &File, range: &Range<u64>) -> bool {
    match cached_pages(file, range) {
        // What is still on its way from the disk counts among the pages, too. What was asked for last comes last, or
        // nearly so.
        Some(cached) => {
            let ends = [range.start, range.end.saturating_sub(1)];
            cached >= pages(range) && ends.iter().all(|at| has_come(file, *at) != Some(false))
        }
        None => is_cached_here_and_there(file, range),
    }
}

/// Number of pages of these bytes that the kernel has in memory, or is about to have. `None`: it does not say.
fn cached_pages(file: &File, range: &Range<u64>) -> Option<u64> {
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
    (done == 0).then_some(said.pages)
}

/// True if the kernel has one byte in each [`PROBE_BYTES`], and the last.
fn is_cached_here_and_there(file: &File, range: &Range<u64>) -> bool {
    let probes = range.clone().step_by(PROBE_BYTES);
    let mut probes = probes.chain(range.end.checked_sub(1));
    probes.all(|at| has_come(file, at) == Some(true))
}

/// Pages come and go by many at once, as they are read ahead: a page that is missing alone is rare, and costs whoever
/// sends it one read of the disk.
const PROBE_BYTES: usize = 64 * 1024;

/// True if a byte can be read without waiting. `None`: that cannot be asked.
fn has_come(file: &File, at: u64) -> Option<bool> {
    let mut byte = [0];
    let mut slices = [io::IoSliceMut::new(&mut byte)];
    match rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT) {
        Ok(read) => Some(read > 0),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => None,
        Err(_) => Some(false),
    }
}

/// Reads at `offset` into the room that `buffer` has left, if that waits for no disk (`preadv2(2)`, `RWF_NOWAIT`); says
/// how much.
///
/// # Errors
/// The operating system's: `EAGAIN` where it would wait, `EOPNOTSUPP` where the file system cannot tell.
pub(in crate::store) fn read_now(
    file: &File,
    offset: u64,
    buffer: &mut Vec<u8>,
) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    let room = buffer.spare_capacity_mut();
    let room_bytes = room.len();
    let slice = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room_bytes,
    };
    // SAFETY: the one slice is memory that belongs to the vector, is as long as is said, and is borrowed from it for
    // as long as the call takes.
    let read = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &raw const slice,
            1,
            offset,
            libc::RWF_NOWAIT,
        )
    };
    let Ok(read) = usize::try_from(read) else {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    };
    let length = buffer.len() + read.min(room_bytes);
    // SAFETY: the kernel has written so many bytes at the beginning of the room, and they are within the capacity.
    unsafe { buffer.set_len(length) };
    Ok(read)
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

/// Number of pages that a range of bytes lies in.
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
            let part = range.start as u64..range.end as u64;
            bring(&file, &part).unwrap();
            assert_eq!(bytes(map(&file, &part).unwrap()), content[range]);
        }
    }

    #[test]
    fn what_the_file_does_not_have_is_an_error_and_no_signal() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 5000]).unwrap();
        for range in [0..50_000, 8192..9000, 0..u64::MAX] {
            assert!(bring(&file, &range).is_err(), "{range:?}");
            assert!(!is_cached(&file, &range), "{range:?}");
            assert!(!is_cached_here_and_there(&file, &range), "{range:?}");
        }
    }

    #[test]
    fn what_was_just_written_is_in_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 100_000]).unwrap();
        // Of some file systems no kernel can tell.
        let can_tell = has_come(&file, 0) == Some(true);
        for range in [0..100_000, 4095..4097, 99_999..100_000] {
            assert!(is_cached(&file, &range) || !can_tell, "{range:?}");
            let probed = is_cached_here_and_there(&file, &range);
            assert_eq!(probed, can_tell, "{range:?}");
        }
    }

    #[test]
    fn what_can_be_read_now_is_added_to_what_is_there() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = Vec::with_capacity(8);
        buffer.extend_from_slice(b"ab");
        match read_now(&file, 3, &mut buffer) {
            Ok(read) => {
                assert_eq!(read, buffer.len() - 2);
                assert_eq!(buffer, b"ab3456789"[..buffer.len()]);
                assert!(buffer.len() > 2);
            }
            // Of a file system that knows no such reads.
            Err(error) => assert!(matches!(error, Errno::OPNOTSUPP | Errno::AGAIN), "{error}"),
        }
        assert_eq!(
            read_now(&file, 10, &mut Vec::with_capacity(1)).unwrap_or(0),
            0
        );
        let mut full = Vec::new();
        assert_eq!(read_now(&file, 0, &mut full).unwrap_or(0), 0);
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
