//! A copy of the catalogue while a server uses it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::files::{self, DATABASE};
use super::{connection, schema};

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
pub struct BackupError(String);

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
