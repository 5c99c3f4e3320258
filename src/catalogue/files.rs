//! The state directory: its lock, and its files. What can be seen of a database without opening it is seen first: SQLite
//! would take an empty file for a new database, and a lost one for none.
//!
//! ```text
//! catalogue.db               the database; with catalogue.db-wal and catalogue.db-shm while it is open
//! catalogue.db.new           on its way to be one
//! catalogue.db.before-v1     as it was when a later version of roadstead found one of schema version 1
//! catalogue.lock             held by the one process that writes here; has its number
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "the state directory is no part of the store, and is changed here alone"
)]

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{connection, schema};

/// The database.
pub const DATABASE: &str = "catalogue.db";

/// Beside it while a backup is restored: there is no database until all of it is there.
pub const RESTORING: &str = "catalogue.db.restoring";

const NEW: &str = "catalogue.db.new";
const LOCK: &str = "catalogue.lock";

/// Permissions: later it holds keys and users.
const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// The first bytes of a database (SQLite file format, section 1.3), up to the last of them that is looked at.
const HEADER_BYTES: usize = 72;
const MAGIC: &[u8] = b"SQLite format 3\0";

/// A process number and some white space.
const PID_BYTES_MAX: u64 = 32;

/// The right to write to a state directory, and the database in it, as long as this lives.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    lock: File,
}

impl Drop for Files {
    fn drop(&mut self) {
        // Closing would not do: a child process that is being started has this file open too, until it executes its
        // program, and keeps the lock as long.
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::debug!(%error, "cannot unlock the state directory");
        }
    }
}

impl Files {
    /// Takes the directory; makes it, and the database in it, where neither has ever been.
    ///
    /// # Errors
    /// One line that says what to do.
    pub(super) fn claim(dir: &Path) -> Result<Self, String> {
        let files = Self::alone(dir)?;
        if exists(&dir.join(DATABASE))? {
            let header = header_of(&dir.join(DATABASE))?;
            let number = |at: usize| {
                let bytes = header
                    .get(at..at + 4)
                    .and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, i32::from_be_bytes)
            };
            // As it was at the last checkpoint; the connection looks again.
            let (version, id) = (i64::from(number(60)), number(68));
            is_ours(&dir.join(DATABASE), id, version, schema::STEPS.len())?;
        } else {
            files.make()?;
        }
        Ok(files)
    }

    /// Takes the directory, which is made if missing, and looks at no database.
    ///
    /// # Errors
    /// One line that says what to do.
    pub(super) fn alone(dir: &Path) -> Result<Self, String> {
        make_private(dir).map_err(|error| cannot("make the state directory", dir, &error))?;
        let lock = lock(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            lock,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the database under another name first: one that has its name is whole.
    fn make(&self) -> Result<(), String> {
        let new = self.dir.join(NEW);
        for entry in fs::read_dir(&self.dir).map_err(|error| cannot("read", &self.dir, &error))? {
            let entry = entry.map_err(|error| cannot("read", &self.dir, &error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW) {
                fs::remove_file(entry.path()).map_err(|error| cannot("remove", &new, &error))?;
            } else if name == RESTORING {
                return Err(format!(
                    "a restore into {} was cut short: begin it again",
                    self.dir.display()
                ));
            } else if name.starts_with(DATABASE) {
                return Err(format!(
                    "{} is gone, but {name} is beside it, so that there was one: put it back, or a backup of it; move {name} away to begin without what it held",
                    self.dir.join(DATABASE).display()
                ));
            }
        }
        let made = || -> io::Result<()> {
            private().create_new(true).open(&new)?;
            connection::create(&new).map_err(io::Error::other)?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, self.dir.join(DATABASE))?;
            File::open(&self.dir)?.sync_all()
        };
        made().map_err(|error| cannot("make", &self.dir.join(DATABASE), &error))?;
        tracing::info!(state_dir = %self.dir.display(), "a new catalogue was made");
        Ok(())
    }
}

/// Makes a directory that its owner alone may read, if there is none.
fn make_private(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE).create(dir)
}

/// Options for a file that its owner alone may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// Makes a copy durable, and gives it its name.
pub(super) fn publish(new: &Path, name: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, name)?;
    match name.parent().filter(|parent| *parent != OsStr::new("")) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Removes what is left of a copy that was not finished.
pub(super) fn discard(new: &Path) {
    // What cannot be removed is overwritten by the next copy.
    fs::remove_file(new).ok();
}

/// Keeps the database as it is before its schema is changed.
pub(super) fn copy_before(dir: &Path, connection: &Connection, version: i64) -> Result<(), String> {
    let copy = dir.join(format!("{DATABASE}.before-v{version}"));
    if exists(&copy)? {
        // One that was cut short in the middle of a migration has its copy already.
        return Ok(());
    }
    let new = dir.join(NEW);
    let made = || -> Result<(), String> {
        discard(&new);
        super::backup::copy_to(connection, &new).map_err(|error| describe(dir, &error))?;
        publish(&new, &copy).map_err(|error| cannot("make", &copy, &error))
    };
    made()
}

/// True if a log is beside the database that may hold what the database does not; `None` where there is no database.
pub(super) fn has_log(dir: &Path) -> Result<Option<bool>, String> {
    let path = dir.join(DATABASE);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", &path, &error)),
        Ok(found) if found.len() == 0 => Err(empty(&path)),
        Ok(_) => Ok(Some(exists(&dir.join(format!("{DATABASE}-wal")))?)),
    }
}

fn exists(path: &Path) -> Result<bool, String> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

/// The first bytes of a database. Before SQLite has it open: who closes a file gives up all locks that his process
/// has on it (POSIX).
fn header_of(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| cannot("read", path, &error);
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(damaged(path, "it is no file"));
    }
    if found.len() == 0 {
        return Err(empty(path));
    }
    let mut header = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let read = file.take(HEADER_BYTES as u64).read_to_end(&mut header);
    read.map_err(failed)?;
    if header.len() < HEADER_BYTES || !header.starts_with(MAGIC) {
        return Err(damaged(path, "it is no database"));
    }
    Ok(header)
}

/// Refuses what is no catalogue, or one of a later version.
pub(super) fn is_ours(path: &Path, id: i32, version: i64, known: usize) -> Result<(), String> {
    if id != schema::APPLICATION_ID {
        return Err(format!(
            "{} is a database of another program; name another state.dir",
            path.display()
        ));
    }
    if usize::try_from(version).is_ok_and(|version| version > known) {
        return Err(format!(
            "{} has schema version {version}, and this roadstead knows no later one than {known}: run the version of roadstead that wrote it, or put back the copy {DATABASE}.before-v… that it made",
            path.display()
        ));
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, String> {
    let path = dir.join(LOCK);
    let mut options = private();
    let opened = options.create(true).truncate(false).open(&path);
    let mut file = opened.map_err(|error| cannot("write", &path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let who = process_in(&mut file);
            return Err(format!(
                "another roadstead{who} is using the state directory {}: stop it first, or give each a state.dir of its own",
                dir.display()
            ));
        }
        Err(error @ (Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK)) => {
            tracing::warn!(%error, dir = %dir.display(), "the file system has no locks: make sure that no other process uses the state directory");
        }
        Err(error) => return Err(cannot("lock", &path, &error.into())),
    }
    let mut sign = || -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    if let Err(error) = sign() {
        tracing::debug!(%error, "this process's number is not in the lock file");
    }
    Ok(file)
}

/// ` (process 1234)`, or nothing: in another container the number may mean nothing here.
fn process_in(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(PID_BYTES_MAX).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!(" (process {pid})"),
        (Ok(_) | Err(_), _) => String::new(),
    }
}

/// An error of SQLite, as somebody has to read it who can do something about it.
pub(super) fn describe(dir: &Path, error: &rusqlite::Error) -> String {
    describe_file(&dir.join(DATABASE), error)
}

pub(super) fn describe_file(path: &Path, error: &rusqlite::Error) -> String {
    let shown = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            damaged(path, &error.to_string())
        }
        Some(ErrorCode::DiskFull) => {
            format!("{shown}: the file system is full; make room on it")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => format!(
            "{shown}: {error}: the file or its file system is read-only, or belongs to another user{}; make the state directory writable",
            whose(path)
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("{shown}: another program has it locked; end that, or let it finish")
        }
        Some(ErrorCode::SystemIoFailure) => format!("{shown}: {error}; look at the disk"),
        _ => format!("{shown}: {error}"),
    }
}

/// That a database is damaged, and what to do.
pub(super) fn damaged(path: &Path, why: &str) -> String {
    format!(
        "{} is damaged ({why}): stop roadstead, keep a copy of the directory, and put a backup in its place; without a backup, move the file away to begin without what it held",
        path.display()
    )
}

fn empty(path: &Path) -> String {
    damaged(path, "it is empty")
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> String {
    let kind = error.kind();
    let advice = if kind == io::ErrorKind::PermissionDenied {
        format!(
            "{}; make it this process's, with chown, or name another state.dir",
            whose(path)
        )
    } else if kind == io::ErrorKind::ReadOnlyFilesystem {
        "; mount it writable, or name another state.dir".to_owned()
    } else if kind == io::ErrorKind::StorageFull || kind == io::ErrorKind::QuotaExceeded {
        "; make room on its file system".to_owned()
    } else {
        "; name another state.dir, or look at the disk".to_owned()
    };
    format!("cannot {what} {}: {error}{advice}", path.display())
}

/// ` (it is user 0's, and this process is user 998's)`, if that is so, of the first part of a path that is there.
pub(super) fn whose(path: &Path) -> String {
    let me = rustix::process::geteuid().as_raw();
    let found = path.ancestors().find_map(|path| fs::metadata(path).ok());
    match found {
        Some(found) if found.uid() != me => {
            format!(
                " (it is user {}'s, and this process is user {me}'s)",
                found.uid()
            )
        }
        Some(_) | None => String::new(),
    }
}
