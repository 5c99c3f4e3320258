//! Files below a directory that a user named, and nowhere else: whoever else can write there may have planted symbolic
//! links, so that none is followed, in whichever component of a name, and what is no plain file is not opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// A directory, open.
#[derive(Debug)]
pub(in crate::commands) struct Root(OwnedFd);

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

impl Root {
    /// Opens a directory by the name that the user said, links and all.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::commands) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, FOLDER, Mode::empty())?))
    }

    /// Opens a file to be read; `None`: there is none.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` for what is no plain file, or lies behind a link.
    pub(in crate::commands) fn file(&self, name: &str) -> io::Result<Option<File>> {
        let opened = self.parent(name, false).and_then(|(folder, name)| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(openat(&folder, name, flags, Mode::empty())?)
        });
        let file = match opened {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(of_a_link(error)),
        };
        if file.metadata()?.is_file() {
            return Ok(Some(file));
        }
        Err(no_plain_file())
    }

    /// The names of folders in a folder, unsorted; none if there is no such folder. What is no text is passed over.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` for what lies behind a link; more than `most` of them.
    pub(in crate::commands) fn folders(&self, name: &str, most: usize) -> io::Result<Vec<String>> {
        let below = format!("{name}/x");
        let opened = self.parent(&below, false);
        let (folder, _) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(of_a_link(error)),
        };
        let mut found = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            // Some file systems do not say what an entry is; opening it does.
            let may_be = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if !may_be || matches!(name, "." | "..") {
                continue;
            }
            if found.len() >= most {
                let why = format!("has more than {most} folders");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            found.push(name.to_owned());
        }
        Ok(found)
    }

    /// Makes a file anew, and the folders that it lies in.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` where a link is in the way.
    pub(in crate::commands) fn create(&self, name: &str) -> io::Result<File> {
        let (folder, name) = self.parent(name, true).map_err(of_a_link)?;
        // A link that somebody has put there is not written through.
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, name, flags, Mode::from_raw_mode(0o666))?;
        Ok(file.into())
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` where a link is in the way.
    pub(in crate::commands) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (old, from) = self.parent(from, false).map_err(of_a_link)?;
        let (new, to) = self.parent(to, false).map_err(of_a_link)?;
        Ok(renameat(&old, from, &new, to)?)
    }

    /// Makes a folder, and those that it lies in.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` where a link is in the way.
    pub(in crate::commands) fn make_folder(&self, name: &str) -> io::Result<()> {
        self.parent(&format!("{name}/x"), true)
            .map(drop)
            .map_err(of_a_link)
    }

    /// The folder that a file is in, and the file's own name.
    fn parent<'a>(&self, name: &'a str, make: bool) -> io::Result<(OwnedFd, &'a str)> {
        let mut folder = self.0.as_fd().try_clone_to_owned()?;
        let mut parts = name.split('/');
        let own = parts.next_back().unwrap_or_default();
        for part in parts {
            if matches!(part, "" | "." | "..") {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            if make {
                match mkdirat(&folder, part, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            folder = openat(&folder, part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok((folder, own))
    }
}

/// Puts into words what the operating system says of a symbolic link, or of something else that is no folder.
fn of_a_link(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::MLINK) => no_plain_file(),
        Some(_) | None => error,
    }
}

fn no_plain_file() -> io::Error {
    let why = "is no plain file, or lies behind a symbolic link, which is not followed";
    io::Error::new(io::ErrorKind::InvalidData, why)
}
