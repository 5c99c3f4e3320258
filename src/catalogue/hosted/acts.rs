//! Namespaces, links and leases.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{self, Event, Log};
use super::{Done, NamespaceWanted, Refused, Visibility};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository};

type Acted = rusqlite::Result<Result<Done, Refused>>;

/// The name of a visibility in the table.
pub(super) fn visibility_name(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Public => "public",
        Visibility::Private => "private",
    }
}

pub(super) fn put_namespace(
    to: &Connection,
    wanted: &NamespaceWanted,
    only_new: bool,
    log: &Log<'_>,
) -> Acted {
    if let Some(refused) = rows::kept(to, &wanted.name)? {
        return Ok(Err(refused));
    }
    let sql = "INSERT INTO hosted_namespaces (name, visibility, quota, sparse, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (name) DO UPDATE SET visibility = excluded.visibility, quota = excluded.quota, sparse = excluded.sparse
            WHERE NOT ?6 AND (visibility, quota, sparse) IS NOT (excluded.visibility, excluded.quota, excluded.sparse)";
    let changed = to.prepare_cached(sql)?.execute(params![
        wanted.name,
        visibility_name(wanted.visibility),
        wanted.quota.map(rows::whole),
        wanted.sparse,
        log.ms(),
        only_new,
    ])?;
    if changed == 0 {
        return Ok(Ok(Done::Unchanged));
    }
    tell(to, log, "namespace.changed", &wanted.name, None)?;
    Ok(Ok(Done::Changed))
}

/// A repository has a blob from now on. One that it had before is leased anew; one that was to go stays.
pub(super) fn link(
    to: &Connection,
    repository: &Repository,
    digest: &Digest,
    size: Option<u64>,
    until: Timestamp,
    log: &Log<'_>,
) -> Acted {
    let id = match rows::made(to, repository, log)? {
        Ok(id) => id,
        Err(refused) => return Ok(Err(refused)),
    };
    let key = rows::key(digest);
    if let Some(size) = size {
        let sql = "INSERT INTO hosted_blobs (digest, size, created_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        let row = params![key, rows::whole(size), log.ms()];
        to.prepare_cached(sql)?.execute(row)?;
        let sql = "DELETE FROM hosted_doomed WHERE digest = ?1";
        to.prepare_cached(sql)?.execute([&key])?;
    }
    let sql = "UPDATE hosted_blobs SET condemned_ms = NULL WHERE digest = ?1 RETURNING size";
    let mut query = to.prepare_cached(sql)?;
    let Some(size) = query
        .query_row([&key], |row| row.get::<_, i64>(0))
        .optional()?
    else {
        return Ok(Err(Refused::NoBlob));
    };
    drop(query);
    let sql = "SELECT deleted_ms FROM hosted_links WHERE repository = ?1 AND digest = ?2";
    let mut query = to.prepare_cached(sql)?;
    let before = query.query_row(params![id, key], |row| row.get::<_, Option<i64>>(0));
    let before = before.optional()?;
    drop(query);
    let sql = "INSERT INTO hosted_links (repository, digest, lease_ms) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET lease_ms = max(lease_ms, excluded.lease_ms), deleted_ms = NULL";
    to.prepare_cached(sql)?
        .execute(params![id, key, rows::ms(until)])?;
    if before.is_some() {
        rows::review(to, rows::LINK, id, &key, rows::ms(until))?;
    } else if let Err(refused) = rows::within_quota(to, id, rows::count(size))? {
        return Ok(Err(refused));
    }
    if before == Some(None) {
        return Ok(Ok(Done::Unchanged));
    }
    tell(to, log, "blob.pushed", repository.as_str(), Some(digest))?;
    Ok(Ok(Done::Changed))
}

/// A blob that somebody was told of stays, also where no manifest names it yet.
pub(super) fn lease(
    to: &Connection,
    repository: &Repository,
    digest: &Digest,
    until: Timestamp,
) -> Acted {
    let key = rows::key(digest);
    let sql = "UPDATE hosted_links SET lease_ms = max(lease_ms, ?3)
        WHERE repository = (SELECT id FROM hosted_repositories WHERE path = ?1) AND digest = ?2 AND deleted_ms IS NULL
        RETURNING repository";
    let row = params![repository.as_str(), key, rows::ms(until)];
    let mut query = to.prepare_cached(sql)?;
    let Some(id) = query
        .query_row(row, |row| row.get::<_, i64>(0))
        .optional()?
    else {
        return Ok(Err(Refused::NoBlob));
    };
    drop(query);
    rows::review(to, rows::LINK, id, &key, rows::ms(until))?;
    Ok(Ok(Done::Changed))
}

fn tell(
    to: &Connection,
    log: &Log<'_>,
    kind: &'static str,
    repository: &str,
    digest: Option<&Digest>,
) -> rusqlite::Result<()> {
    log.tell(
        to,
        &Event {
            kind,
            repository,
            tag: None,
            digest,
        },
    )
}
