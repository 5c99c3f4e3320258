//! A copy of the catalogue while a server uses it, and what is read of a copy.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::files::{self, DATABASE, Files};
use super::hosted::rows;
use super::hosted::tags_at::{self, TagThen};
use super::{connection, schema};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// The version of the schema since which there are hosted repositories.
const HOSTED_SINCE: i64 = 3;

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The catalogue.
    pub of: PathBuf,
    /// Its schema's version.
    pub schema: i64,
    /// The copy's size.
    pub bytes: u64,
}

/// The reason why there is no copy: one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackupError(pub(crate) String);

/// Copies the catalogue of a state directory, whether a server uses it or not, into a file that is not there yet. The
/// copy is as of one moment, is checked, and durable when this returns. Blocks.
///
/// # Errors
/// [`BackupError`]; then there is no such file.
pub fn backup(dir: &Path, to: &Path) -> Result<Backup, BackupError> {
    let of = dir.join(DATABASE);
    if files::has_log(dir).map_err(BackupError)?.is_none() {
        let why = format!("there is no catalogue in {}", dir.display());
        return Err(BackupError(why));
    }
    if to.exists() {
        let why = format!("{} is there already; name another file", to.display());
        return Err(BackupError(why));
    }
    let looking = connection::look(dir).map_err(BackupError)?;
    let gone = || BackupError(format!("{} is gone", of.display()));
    let connection = looking.ok_or_else(gone)?;
    let mut new = to.to_owned().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    files::discard(&new);
    let copied = copy_to(&connection, &new);
    let copied = copied.map_err(|error| files::describe(dir, &error));
    let published = copied.and_then(|version| {
        let published = files::publish(&new, to);
        published.map_err(|error| format!("cannot write {}: {error}", to.display()))?;
        Ok(version)
    });
    match published {
        Ok(schema) => Ok(Backup {
            of,
            schema,
            bytes: to.metadata().map(|found| found.len()).unwrap_or_default(),
        }),
        Err(why) => {
            files::discard(&new);
            Err(BackupError(why))
        }
    }
}

/// Copies a database into a new file that its owner alone may read, and checks the copy; its version.
pub(super) fn copy_to(connection: &Connection, new: &Path) -> rusqlite::Result<i64> {
    let cannot = |error: std::io::Error| {
        let why = format!("cannot make {}: {error}", new.display());
        rusqlite::Error::ToSqlConversionFailure(why.into())
    };
    files::private()
        .create_new(true)
        .open(new)
        .map_err(cannot)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(new, flags)?;
    {
        let backup = rusqlite::backup::Backup::new(connection, &mut copy)?;
        // All at once: as of one moment, and never begun again because somebody writes.
        backup.step(-1)?;
    }
    let found: String = copy.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if found != "ok" {
        return Err(rusqlite::Error::ToSqlConversionFailure(found.into()));
    }
    // A file of its own, without a log beside it.
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    let version = schema::version_of(&copy)?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(version)
}

/// A catalogue that nobody writes to, or that is only looked at.
#[derive(Debug)]
pub struct Copied {
    connection: Connection,
    dir: PathBuf,
    has_hosted: bool,
}

/// The right to a state directory that no server uses.
#[derive(Debug)]
pub struct Stopped(Files);

impl Copied {
    /// Opens the catalogue of a directory without changing any file; `None` where there is none. Blocks.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn open(dir: &Path) -> Result<Option<Self>, BackupError> {
        let Some(connection) = connection::look(dir).map_err(BackupError)? else {
            return Ok(None);
        };
        let version = schema::version_of(&connection);
        let version = version.map_err(|error| BackupError(files::describe(dir, &error)))?;
        Ok(Some(Self {
            connection,
            dir: dir.to_owned(),
            has_hosted: version >= HOSTED_SINCE,
        }))
    }

    /// The hosted blobs after `after`, sorted, with their sizes, at most `limit`.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn blobs_after(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, BackupError> {
        self.read(Vec::new(), |from| rows::blobs_after(from, after, limit))
    }

    /// Number and bytes of all hosted blobs.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn totals(&self) -> Result<(u64, u64), BackupError> {
        self.read((0, 0), |from| {
            let sql = "SELECT count(*), coalesce(sum(size), 0) FROM hosted_blobs";
            from.query_row(sql, [], |row| {
                Ok((rows::count(row.get(0)?), rows::count(row.get(1)?)))
            })
        })
    }

    /// The size of a hosted blob, if there is one of this digest.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<u64>, BackupError> {
        self.read(None, |from| rows::blob(from, digest))
    }

    /// Some of the repositories that have a blob.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn holders(&self, digest: &Digest) -> Result<Vec<String>, BackupError> {
        self.read(Vec::new(), |from| {
            rows::holders(from, digest, rows::NAMED_MAX)
        })
    }

    /// The tags that named something else at a time than they do now.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn tags_at(&self, at: Timestamp) -> Result<Vec<TagThen>, BackupError> {
        self.read(Vec::new(), |from| tags_at::plan(from, at))
    }

    fn read<T>(
        &self,
        nothing: T,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, BackupError> {
        if !self.has_hosted {
            return Ok(nothing);
        }
        question(&self.connection).map_err(|error| BackupError(files::describe(&self.dir, &error)))
    }
}

impl Stopped {
    /// Takes a state directory; makes it if missing, and nothing in it. Blocks.
    ///
    /// # Errors
    /// [`BackupError`]: a server uses it.
    pub fn claim(dir: &Path) -> Result<Self, BackupError> {
        Files::alone(dir).map(Self).map_err(BackupError)
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.0.dir()
    }

    /// Has the tags of the catalogue in `dir`, this directory or one in it, name what they named at a time; those that
    /// did not. All of them or none. Blocks.
    ///
    /// # Errors
    /// [`BackupError`]; nothing has changed.
    pub fn put_tags_back(
        &self,
        dir: &Path,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<TagThen>, BackupError> {
        let described = |error: rusqlite::Error| BackupError(files::describe(dir, &error));
        if files::has_log(dir).map_err(BackupError)?.is_none() {
            let why = format!("there is no catalogue in {}", dir.display());
            return Err(BackupError(why));
        }
        let mut connection = connection::write(dir, schema::STEPS).map_err(BackupError)?;
        let transaction = connection.transaction().map_err(described)?;
        let moves = tags_at::plan(&transaction, at).map_err(described)?;
        tags_at::put_back(&transaction, &moves, now, "restore").map_err(described)?;
        transaction.commit().map_err(described)?;
        let closed = connection.close().map_err(|(_, error)| error);
        closed.map_err(described)?;
        Ok(moves)
    }
}
