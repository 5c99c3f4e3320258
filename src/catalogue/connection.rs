//! Connections: one to write, some to read, and one to look without leaving a trace.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::files::{self, DATABASE};
use super::schema;

/// Time that a lock of somebody else is waited for, an operator's own `sqlite3` for example.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// A database up to this size is checked as a whole at the start, which takes less than a second; of a larger one
/// what is read is.
const CHECKED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Size of a page, in bytes: digests of pinned images are long.
const PAGE_BYTES: i64 = 8192;

/// Statements that a connection keeps prepared.
const STATEMENTS_MAX: usize = 128;

const URI: OpenFlags = OpenFlags::SQLITE_OPEN_URI;
const NO_MUTEX: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX;

/// Makes a database in a file that is there and empty.
pub(super) fn create(path: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
    schema::migrate(&mut connection, schema::STEPS)?;
    connection.close().map_err(|(_, error)| error)
}

/// Opens the database to write. `steps` is what leads to the schema of this program.
///
/// # Errors
/// One line that says what to do.
pub(super) fn write(dir: &Path, steps: &[&str]) -> Result<Connection, String> {
    let path = dir.join(DATABASE);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | NO_MUTEX;
    let described = |error: rusqlite::Error| files::describe(dir, &error);
    let mut connection = Connection::open_with_flags(&path, flags).map_err(described)?;
    // Until it is known to be ours nothing of it may change.
    let untouched = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection
        .set_db_config(untouched, true)
        .map_err(described)?;
    harden(&connection).map_err(described)?;
    if connection.is_readonly("main").map_err(described)? {
        return Err(format!(
            "{} cannot be written: the file or its file system is read-only, or belongs to another user{}; make the state directory writable",
            path.display(),
            files::whose(&path)
        ));
    }
    let version = is_ours(dir, &connection, steps)?;
    is_whole(&path, &connection)?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(described)?;
    if mode != "wal" {
        return Err(format!(
            "the file system of {} does not take SQLite's write-ahead log (a network file system does not); put state.dir on a local disk",
            dir.display()
        ));
    }
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(described)?;
    connection
        .set_db_config(untouched, false)
        .map_err(described)?;
    let last = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if version < last {
        files::copy_before(dir, &connection, version)?;
        schema::migrate(&mut connection, steps).map_err(described)?;
        tracing::info!(
            from = version,
            to = last,
            "the catalogue's schema was migrated"
        );
    }
    Ok(connection)
}

/// Opens the database to read, beside the writer.
///
/// # Errors
/// One line that says what to do.
pub(super) fn read(dir: &Path) -> Result<Connection, String> {
    let path = dir.join(DATABASE);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let opened = opened.and_then(|connection| {
        harden(&connection)?;
        Ok(connection)
    });
    opened.map_err(|error| files::describe(dir, &error))
}

/// Opens the database to read it without changing any file, also one of a server that runs; `None` where there is
/// none.
///
/// # Errors
/// One line that says what to do.
pub(super) fn look(dir: &Path) -> Result<Option<Connection>, String> {
    let Some(log) = files::has_log(dir)? else {
        return Ok(None);
    };
    // With a log, its index (-shm) is read as well, and not written. Without one nobody has the database open, and
    // nothing is beside it that would have to be read.
    let how = if log {
        "mode=ro&readonly_shm=1"
    } else {
        "mode=ro&immutable=1"
    };
    let uri = format!("file:{}?{how}", encoded(&dir.join(DATABASE)));
    let described = |error: rusqlite::Error| files::describe(dir, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | URI | NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags).map_err(described)?;
    harden(&connection).map_err(described)?;
    is_ours(dir, &connection, schema::STEPS)?;
    Ok(Some(connection))
}

/// Nothing in the file is trusted (sqlite.org/security.html).
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// The version of a database that is a catalogue, and of no later version.
fn is_ours(dir: &Path, connection: &Connection, steps: &[&str]) -> Result<i64, String> {
    let described = |error: rusqlite::Error| files::describe(dir, &error);
    let id: i32 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(described)?;
    let version = schema::version_of(connection).map_err(described)?;
    files::is_ours(&dir.join(DATABASE), id, version, steps.len())?;
    Ok(version)
}

fn is_whole(path: &Path, connection: &Connection) -> Result<(), String> {
    let pages: i64 = connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .map_err(|error| files::describe_file(path, &error))?;
    if u64::try_from(pages * PAGE_BYTES).unwrap_or(u64::MAX) > CHECKED_BYTES_MAX {
        return Ok(());
    }
    let found: String = connection
        .pragma_query_value(None, "quick_check", |row| row.get(0))
        .map_err(|error| files::describe_file(path, &error))?;
    if found == "ok" {
        return Ok(());
    }
    let found = found.lines().next().unwrap_or_default();
    Err(files::damaged(path, found))
}

/// A path in a URI (RFC 3986).
fn encoded(path: &Path) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
    use std::os::unix::ffi::OsStrExt as _;
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'.')
        .remove(b'-')
        .remove(b'_');
    percent_encode(path.as_os_str().as_bytes(), ESCAPED).to_string()
}
