//! Files below a root directory, and nowhere else.
//!
//! Symbolic links lead where they would if the root were `/`: an absolute one begins at the root, and `..` does not lead
//! out of it. So the files of a node can be written through a mount of its file system, and a link that somebody has
//! planted there leads to nothing outside. Each component is opened by itself, so that none can be exchanged between
//! the look and the change.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fsync, mkdirat, openat, readlinkat,
    renameat, unlinkat,
};
use rustix::io::Errno;

/// A file of a client is far below this.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Links to links: as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// Files and directories that were not there: for everybody to read, as packages install them.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A root directory, open.
#[derive(Debug)]
pub(in crate::commands) struct Root {
    folder: OwnedFd,
    shown: String,
}

/// The place of a file: the directory that it is in or will be in, and its name.
#[derive(Debug)]
pub(in crate::commands) struct Place {
    folder: OwnedFd,
    /// Directories below `folder` that are not there yet.
    missing: Vec<String>,
    name: String,
    /// The path, links resolved, as the user sees it.
    pub(super) shown: String,
}

/// A file's content, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Content {
    pub(in crate::commands) text: String,
    pub(super) owner: Owner,
}

/// Mode and owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Owner {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Root {
    /// Opens it.
    ///
    /// # Errors
    /// The operating system's.
    pub(in crate::commands) fn open(path: &Path) -> io::Result<Self> {
        // The user named it, links and all.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty())?;
        let shown = path.display().to_string();
        let shown = shown.trim_end_matches('/').to_owned();
        Ok(Self { folder, shown })
    }

    /// Finds a file, or the place where it would be.
    ///
    /// # Errors
    /// The operating system's; `InvalidInput` for what is in the way.
    pub(in crate::commands) fn place(&self, path: &str) -> io::Result<Place> {
        let mut walk = Walk {
            folders: vec![(self.folder.as_fd().try_clone_to_owned()?, String::new())],
            left: parts(path).collect(),
            missing: Vec::new(),
            links: 0,
        };
        let name = walk.run(path)?;
        let Some((folder, _)) = walk.folders.last() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let there = walk.folders.iter().skip(1).map(|(_, name)| name.as_str());
        let parts = there.chain(walk.missing.iter().map(String::as_str));
        let parts: Vec<&str> = parts.chain([name.as_str()]).collect();
        Ok(Place {
            folder: folder.as_fd().try_clone_to_owned()?,
            shown: format!("{}/{}", self.shown, parts.join("/")),
            missing: walk.missing,
            name,
        })
    }
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = String> {
    let parts = path.split('/').filter(|it| !matches!(*it, "" | "."));
    parts.map(str::to_owned)
}

/// A way through directories and links, from the root.
struct Walk {
    /// The directories on the way, each with its name; the first is the root.
    folders: Vec<(OwnedFd, String)>,
    left: VecDeque<String>,
    missing: Vec<String>,
    links: usize,
}

impl Walk {
    /// Walks to the end; the name of the file there.
    fn run(&mut self, path: &str) -> io::Result<String> {
        while let Some(part) = self.left.pop_front() {
            if part == ".." {
                if !self.missing.is_empty() {
                    return Err(io::ErrorKind::NotFound.into());
                }
                if self.folders.len() > 1 {
                    self.folders.pop();
                }
                continue;
            }
            if !self.missing.is_empty() {
                if self.left.is_empty() {
                    return Ok(part);
                }
                self.missing.push(part);
                continue;
            }
            let Some((folder, _)) = self.folders.last() else {
                break;
            };
            match readlinkat(folder, &part, Vec::new()) {
                Ok(target) => self.follow(&target.to_string_lossy())?,
                Err(Errno::INVAL | Errno::NOENT) if self.left.is_empty() => return Ok(part),
                Err(Errno::NOENT) => self.missing.push(part),
                Err(Errno::INVAL) => {
                    let inner = openat(folder, &part, FOLDER, Mode::empty());
                    self.folders.push((inner?, part));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let why = format!("{path} leads to a directory");
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }

    fn follow(&mut self, target: &str) -> io::Result<()> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if target.starts_with('/') {
            self.folders.truncate(1);
        }
        for part in parts(target).rev() {
            self.left.push_front(part);
        }
        Ok(())
    }
}

impl Place {
    /// The file that belongs to this one, named for it.
    pub(super) fn beside(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.name)
    }

    /// The file's own name.
    pub(in crate::commands) fn name(&self) -> &str {
        &self.name
    }

    /// Directories that have to be made.
    pub(super) fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Reads a file of the directory; `None`: there is none.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` for what is no plain file, too long, or no text.
    pub(in crate::commands) fn read(&self, name: &str) -> io::Result<Option<Content>> {
        if !self.missing.is_empty() {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(invalid("is a symbolic link")),
            Err(error) => return Err(error.into()),
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(invalid("is no plain file"));
        }
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if read as u64 > FILE_BYTES_MAX {
            return Err(invalid("has more than 4 MiB, which no such file has"));
        }
        let owner = Owner {
            mode: about.mode() & 0o7777,
            uid: about.uid(),
            gid: about.gid(),
        };
        Ok(Some(Content { text, owner }))
    }

    /// Writes a file of the directory: it is there as a whole, or as it was. Directories are made.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn write(&mut self, name: &str, text: &str, owner: Option<Owner>) -> io::Result<()> {
        self.make_folders()?;
        let fresh = format!(".{name}.roadstead-new");
        self.remove(&fresh)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, &fresh, flags, Mode::from_raw_mode(0o600))?;
        let written = fill(File::from(file), text, owner).and_then(|()| {
            renameat(&self.folder, &fresh, &self.folder, name)?;
            Ok(fsync(&self.folder)?)
        });
        if written.is_err() {
            // The first error is the one to tell.
            self.remove(&fresh).ok();
        }
        written
    }

    /// Gives a file of the directory another name.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        renameat(&self.folder, from, &self.folder, to)?;
        Ok(fsync(&self.folder)?)
    }

    /// Removes a file of the directory, if it is there.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn make_folders(&mut self) -> io::Result<()> {
        for part in std::mem::take(&mut self.missing) {
            let made = mkdirat(&self.folder, &part, Mode::from_raw_mode(FOLDER_MODE));
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            self.folder = openat(&self.folder, &part, FOLDER, Mode::empty())?;
            if made.is_ok() {
                // The mask of this process does not count: clients of other users read what is in it.
                fchmod(&self.folder, Mode::from_raw_mode(FOLDER_MODE))?;
            }
        }
        Ok(())
    }
}

impl Root {
    /// Removes directories above a file, as many as were made for it, as long as nothing is in them.
    pub(super) fn remove_folders(&self, path: &str, mut count: usize) {
        let mut path = path;
        while let Some((above, _)) = path.rsplit_once('/').filter(|_| count > 0) {
            let Ok(place) = self.place(above) else {
                return;
            };
            if unlinkat(&place.folder, &place.name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
            path = above;
            count -= 1;
        }
    }
}

fn fill(mut file: File, text: &str, owner: Option<Owner>) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    let mut mode = FILE_MODE;
    if let Some(owner) = owner {
        let about = file.metadata()?;
        if (about.uid(), about.gid()) != (owner.uid, owner.gid) {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            fchown(&file, Some(uid), Some(gid))?;
        }
        mode = owner.mode;
    }
    // Behind the owner, whose change may take bits away.
    fchmod(&file, Mode::from_raw_mode(mode))?;
    file.sync_all()
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
