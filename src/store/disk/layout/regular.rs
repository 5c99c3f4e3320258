//! Files are opened in one way: never what is none, and never so that opening could wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file, if it is one: neither what lies elsewhere (a symbolic link), nor what could keep whoever opens or
/// reads it waiting (a pipe, a device).
pub(in crate::store) fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    open_with(path, options, OFlags::NOFOLLOW | OFlags::NONBLOCK)
}

/// The same, which may lie elsewhere.
pub(in crate::store) fn open_unwaiting(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    open_with(path, options, OFlags::NONBLOCK)
}

fn open_with(path: &Path, options: &mut OpenOptions, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = options.custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    let why = "it is no regular file";
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// True if an error says that a file itself is bad, rather than that the
/// system lacks something for now.
#[must_use]
pub(in crate::store) fn means_damage(error: &io::Error) -> bool {
    let kind = error.kind();
    // A symbolic link, a socket, a file without an owner's right to read it: none of ours.
    let of_the_file = matches!(
        Errno::from_io_error(error),
        Some(
            Errno::IO
                | Errno::ACCESS
                | Errno::PERM
                | Errno::ISDIR
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::NXIO
                | Errno::NODEV
                | Errno::INVAL
                | Errno::STALE
                | Errno::BADMSG
                | Errno::UCLEAN
        )
    );
    of_the_file
        || kind == io::ErrorKind::NotFound
        || kind == io::ErrorKind::UnexpectedEof
        || kind == io::ErrorKind::InvalidData
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free for whoever is not root.
    pub free: u64,
}

/// Measures the file system of `dir`.
///
/// # Errors
/// The operating system's.
pub(in crate::store) fn space(dir: &Path) -> io::Result<Space> {
    let said = rustix::fs::statvfs(dir)?;
    Ok(Space {
        total: said.f_blocks.saturating_mul(said.f_frsize),
        free: said.f_bavail.saturating_mul(said.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_lacks_for_now_is_no_fault_of_the_file() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::INTR,
            Errno::AGAIN,
        ] {
            assert!(!means_damage(&errno.into()), "{errno}");
        }
        assert!(!means_damage(&io::ErrorKind::TimedOut.into()));
        for errno in [Errno::IO, Errno::LOOP, Errno::ACCESS, Errno::NOTDIR] {
            assert!(means_damage(&errno.into()), "{errno}");
        }
    }
}
