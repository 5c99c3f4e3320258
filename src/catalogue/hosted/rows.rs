//! Keys and values, as they stand in the tables.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::Refused;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest, Repository};

/// When something was done, and by whom.
pub(super) struct Log<'a> {
    pub(super) at: Timestamp,
    pub(super) by: &'a str,
    /// The rule by which it is done.
    pub(super) rule: Option<&'a str>,
}

/// A change, as those who follow are told of it.
pub(super) struct Event<'a> {
    pub(super) kind: &'static str,
    pub(super) repository: &'a str,
    pub(super) tag: Option<&'a str>,
    pub(super) digest: Option<&'a Digest>,
}

impl Log<'_> {
    pub(super) fn ms(&self) -> i64 {
        ms(self.at)
    }

    /// Writes the one row of a change.
    pub(super) fn tell(&self, to: &Connection, event: &Event<'_>) -> rusqlite::Result<()> {
        let sql = "INSERT INTO hosted_changes (at_ms, kind, repository, tag, digest, by, rule) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let digest = event.digest.map(key);
        to.prepare_cached(sql)?.execute(params![
            self.ms(),
            event.kind,
            event.repository,
            event.tag,
            digest,
            self.by,
            self.rule,
        ])?;
        Ok(())
    }
}

/// A digest, as a key.
pub(super) fn key(digest: &Digest) -> Vec<u8> {
    let algorithm = match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    };
    let mut key = Vec::with_capacity(1 + digest.bytes().len());
    key.push(algorithm);
    key.extend_from_slice(digest.bytes());
    key
}

/// The digest of a key.
pub(super) fn digest(key: &[u8]) -> rusqlite::Result<Digest> {
    let (algorithm, bytes) = key.split_first().unwrap_or((&0, &[]));
    let algorithm = match algorithm {
        1 => Some(Algorithm::Sha256),
        2 => Some(Algorithm::Sha512),
        _ => None,
    };
    let digest = algorithm.and_then(|it| Digest::from_bytes(it, bytes));
    digest.ok_or_else(|| {
        let why = "a digest of the catalogue makes no sense".into();
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, why)
    })
}

pub(super) fn ms(at: Timestamp) -> i64 {
    whole(at.0)
}

/// A number as SQLite has them: what is beyond is as far as it goes.
pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(in crate::catalogue) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// The number of a repository, if it is there.
pub(super) fn repository(from: &Connection, path: &str) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT id FROM hosted_repositories WHERE path = ?1";
    let mut query = from.prepare_cached(sql)?;
    query.query_row([path], |row| row.get(0)).optional()
}

/// Until when the name of a repository is kept for one that was deleted, or for its namespace.
pub(super) fn kept(from: &Connection, path: &str) -> rusqlite::Result<Option<Refused>> {
    let namespace = path.split('/').next().unwrap_or_default();
    // A repository that was deleted with its namespace comes back with that alone.
    let sql = "SELECT was, until_ms FROM hosted_namespaces WHERE was = ?2
        UNION ALL SELECT was, until_ms FROM hosted_repositories WHERE was = ?1 LIMIT 1";
    let mut query = from.prepare_cached(sql)?;
    let found = query.query_row([path, namespace], |row| {
        Ok(Refused::Deleted {
            name: row.get(0)?,
            until: Timestamp(count(row.get(1)?)),
        })
    });
    found.optional()
}

/// The number of a repository, which is made if its namespace is there, and the name is nobody's who was deleted.
pub(super) fn made(
    to: &Connection,
    path: &Repository,
    log: &Log<'_>,
) -> rusqlite::Result<Result<i64, Refused>> {
    if let Some(id) = repository(to, path.as_str())? {
        return Ok(Ok(id));
    }
    if let Some(refused) = kept(to, path.as_str())? {
        return Ok(Err(refused));
    }
    let namespace = path.as_str().split('/').next().unwrap_or_default();
    let sql = "SELECT id FROM hosted_namespaces WHERE name = ?1";
    let mut query = to.prepare_cached(sql)?;
    let Some(id) = query
        .query_row([namespace], |row| row.get::<_, i64>(0))
        .optional()?
    else {
        return Ok(Err(Refused::NoNamespace(namespace.to_owned())));
    };
    let sql = "INSERT INTO hosted_repositories (namespace, path, created_ms) VALUES (?1, ?2, ?3)";
    let row = params![id, path.as_str(), log.ms()];
    to.prepare_cached(sql)?.execute(row)?;
    let made = to.last_insert_rowid();
    let event = Event {
        kind: "repository.created",
        repository: path.as_str(),
        tag: None,
        digest: None,
    };
    log.tell(to, &event)?;
    Ok(Ok(made))
}

/// Has the garbage collector look at something.
pub(super) fn review(
    to: &Connection,
    kind: i64,
    place: i64,
    digest: &[u8],
    due_ms: i64,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO hosted_reviews VALUES (?1, ?2, ?3, ?4)";
    to.prepare_cached(sql)?
        .execute(params![kind, place, digest, due_ms])?;
    Ok(())
}

/// Kinds of reviews.
pub(super) const LINK: i64 = 1;
pub(super) const MANIFEST: i64 = 2;
pub(super) const BLOB: i64 = 3;
pub(super) const REPOSITORY: i64 = 4;
pub(super) const NAMESPACE: i64 = 5;

/// The digest of reviews that are about none.
pub(super) const NO_DIGEST: &[u8] = &[];

/// The bytes that a namespace may still take, after something has come into one of its repositories.
pub(super) fn within_quota(
    from: &Connection,
    repository: i64,
    wanted: u64,
) -> rusqlite::Result<Result<(), Refused>> {
    let sql = "SELECT n.name, n.bytes, n.quota FROM hosted_namespaces n JOIN hosted_repositories r ON r.namespace = n.id WHERE r.id = ?1";
    let row: (String, i64, Option<i64>) =
        from.prepare_cached(sql)?.query_row([repository], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let (namespace, bytes, quota) = row;
    Ok(match quota {
        Some(quota) if bytes > quota => Err(Refused::OverQuota {
            namespace,
            used: count(bytes).saturating_sub(wanted),
            quota: count(quota),
            wanted,
        }),
        Some(_) | None => Ok(()),
    })
}

/// The blobs after `after`, sorted by their keys, with their sizes.
pub(in crate::catalogue) fn blobs_after(
    from: &Connection,
    after: Option<&Digest>,
    limit: usize,
) -> rusqlite::Result<Vec<(Digest, u64)>> {
    let sql = "SELECT digest, size FROM hosted_blobs WHERE digest > ?1 ORDER BY digest LIMIT ?2";
    let mut query = from.prepare_cached(sql)?;
    let after = after.map(key).unwrap_or_default();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = query.query_map(params![after, limit], |row| {
        let key: Vec<u8> = row.get(0)?;
        Ok((digest(&key)?, count(row.get(1)?)))
    })?;
    found.collect()
}

/// The size of a blob.
pub(in crate::catalogue) fn blob(
    from: &Connection,
    digest: &Digest,
) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT size FROM hosted_blobs WHERE digest = ?1";
    let mut query = from.prepare_cached(sql)?;
    let size = query
        .query_row([key(digest)], |row| row.get(0))
        .optional()?;
    Ok(size.map(count))
}

/// Repositories that are named where something is wrong.
pub(in crate::catalogue) const NAMED_MAX: usize = 20;

/// The repositories that have a blob, at most `limit`.
pub(in crate::catalogue) fn holders(
    from: &Connection,
    digest: &Digest,
    limit: usize,
) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT r.path FROM hosted_links l JOIN hosted_repositories r ON r.id = l.repository
        WHERE l.digest = ?1 AND l.deleted_ms IS NULL AND r.deleted_ms IS NULL LIMIT ?2";
    let mut query = from.prepare_cached(sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let paths = query.query_map(params![key(digest), limit], |row| row.get(0))?;
    paths.collect()
}
