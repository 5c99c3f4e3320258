//! Tables, and how those of earlier versions become those of this. Forward only: a database of a later version is
//! refused, and left as it is.

use rusqlite::{Connection, TransactionBehavior};

use super::hosted::tables::{VERSION_3, VERSION_4};

/// Tells the file from other databases (SQLite file format, offset 68): `rdsc`.
pub(super) const APPLICATION_ID: i32 = 0x7264_7363;

/// Statements that make each version of the version before; the first makes the first of nothing. One that was released is never
/// changed.
pub(super) const STEPS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3, VERSION_4];

const VERSION_1: &str = "
    CREATE TABLE facts (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE imported_tags (
        upstream TEXT NOT NULL,
        repository TEXT NOT NULL,
        tag TEXT NOT NULL,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        imported_ms INTEGER NOT NULL,
        PRIMARY KEY (upstream, repository, tag)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE imported_links (
        upstream TEXT NOT NULL,
        repository TEXT NOT NULL,
        digest TEXT NOT NULL,
        manifest INTEGER NOT NULL,
        blob INTEGER NOT NULL,
        given INTEGER NOT NULL,
        size INTEGER,
        PRIMARY KEY (upstream, repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE pins (
        upstream TEXT NOT NULL,
        repository TEXT NOT NULL,
        reference TEXT NOT NULL,
        since_ms INTEGER NOT NULL,
        digests TEXT NOT NULL,
        PRIMARY KEY (upstream, repository, reference)
    ) STRICT, WITHOUT ROWID;
";

const VERSION_2: &str = "
    CREATE TABLE users (
        name TEXT PRIMARY KEY,
        hash TEXT NOT NULL,
        groups TEXT NOT NULL,
        created_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        secret BLOB NOT NULL,
        kind TEXT NOT NULL,
        owner TEXT NOT NULL,
        policies TEXT NOT NULL,
        note TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER,
        used_ms INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE public_repositories (
        upstream TEXT NOT NULL,
        repository TEXT NOT NULL,
        seen_ms INTEGER NOT NULL,
        PRIMARY KEY (upstream, repository)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tokens_by_owner ON tokens (owner);
";

/// The version of a database.
pub(super) fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Takes a database to the last of `steps`, each of them in one transaction.
pub(super) fn migrate(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    for (version, step) in (1_i64..).zip(steps) {
        if version_of(connection)? >= version {
            continue;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}
