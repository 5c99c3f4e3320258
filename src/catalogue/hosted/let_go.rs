//! Deleted content that goes at once, because an operator says so: it cannot be restored any more. What a manifest names
//! stays, and so does what a client may count on: a lease is kept to, and who was told of a blob while a manifest named it
//! has as long, from the delete of that manifest, as a lease lasts.

use rusqlite::{Connection, params};

use super::collect::purge;
use super::rows;
use super::{Done, Refused};
use crate::clock::Timestamp;
use crate::oci::Repository;

/// Manifests that go in one transaction: some milliseconds, in which others wait.
const BATCH_MAX: i64 = 128;

/// Content that is deleted, or that nothing needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Deleted manifests that can be restored.
    pub manifests: u64,
    /// Blobs that nothing holds any more.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that no manifest names, and that a client may count on still.
    pub leased_blobs: u64,
    /// Their bytes.
    pub leased_bytes: u64,
    /// When the last of these leases is over.
    pub leased_until: Option<Timestamp>,
}

/// Lets some deleted manifests go, and has their blobs looked at when their leases are over.
pub(super) fn deleted(
    to: &Connection,
    at: Timestamp,
    lease_ms: u64,
) -> rusqlite::Result<Result<Done, Refused>> {
    let lease = rows::whole(lease_ms);
    let sql = "SELECT m.id, m.digest, m.deleted_ms, r.path FROM hosted_manifests m JOIN hosted_repositories r ON r.id = m.repository
        WHERE m.id IN (SELECT place FROM hosted_reviews WHERE kind = ?1) AND m.deleted_ms IS NOT NULL LIMIT ?2";
    let mut query = to.prepare_cached(sql)?;
    let found = query.query_map(params![rows::MANIFEST, BATCH_MAX], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, Vec<u8>>(1)?,
            row.get::<_, i64>(2)?,
            row.get::<_, String>(3)?,
        ))
    })?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    let mut repositories = Vec::new();
    for (id, digest, deleted, path) in &found {
        purge(to, *id, digest, deleted.saturating_add(lease))?;
        repositories.extend(Repository::parse(path));
    }
    if !found.is_empty() {
        return Ok(Ok(Done::LetGo(repositories)));
    }
    // Blobs that were deleted themselves: none of them sooner than its lease is over, and none later than before.
    let sql = "UPDATE hosted_reviews SET due_ms = min(due_ms, max(?1, l.lease_ms, l.deleted_ms + ?2)) FROM hosted_links l
        WHERE kind = ?3 AND place = l.repository AND hosted_reviews.digest = l.digest AND l.deleted_ms IS NOT NULL";
    to.prepare_cached(sql)?
        .execute(params![rows::ms(at), lease, rows::LINK])?;
    Ok(Ok(Done::Unchanged))
}

/// Blobs without any link need not wait for the grace.
pub(super) fn condemned(to: &Connection, at: Timestamp) -> rusqlite::Result<Result<Done, Refused>> {
    let sql = "UPDATE hosted_blobs SET condemned_ms = 0 WHERE condemned_ms > 0 AND digest IN (SELECT digest FROM hosted_reviews WHERE kind = ?1)";
    to.prepare_cached(sql)?.execute([rows::BLOB])?;
    let sql = "UPDATE hosted_reviews SET due_ms = min(due_ms, ?2) WHERE kind = ?1";
    let changed = to
        .prepare_cached(sql)?
        .execute(params![rows::BLOB, rows::ms(at)])?;
    Ok(Ok(if changed > 0 {
        Done::Changed
    } else {
        Done::Unchanged
    }))
}

/// What could go.
pub(super) fn look(from: &Connection, at: Timestamp, lease_ms: u64) -> rusqlite::Result<Deleted> {
    let sql = "SELECT count(*) FROM hosted_manifests WHERE deleted_ms IS NOT NULL";
    let manifests = from.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let sql = "WITH links AS (
            SELECT l.digest AS digest,
                EXISTS (SELECT 1 FROM hosted_references f JOIN hosted_manifests m ON m.id = f.manifest
                    WHERE f.repository = l.repository AND f.digest = l.digest AND NOT f.is_manifest AND m.deleted_ms IS NULL) AS used,
                max(l.lease_ms, coalesce(l.deleted_ms + ?2, 0),
                    coalesce((SELECT max(m.deleted_ms) + ?2 FROM hosted_references f JOIN hosted_manifests m ON m.id = f.manifest
                        WHERE f.repository = l.repository AND f.digest = l.digest AND NOT f.is_manifest), 0)) AS lease
            FROM hosted_links l),
        held AS (SELECT digest, max(used) AS used, max(lease) AS lease FROM links GROUP BY digest),
        free AS (SELECT b.size AS size, coalesce(h.lease, 0) AS lease FROM hosted_blobs b LEFT JOIN held h ON h.digest = b.digest
            WHERE coalesce(h.used, 0) = 0)
        SELECT count(*) FILTER (WHERE lease <= ?1), coalesce(sum(size) FILTER (WHERE lease <= ?1), 0),
            count(*) FILTER (WHERE lease > ?1), coalesce(sum(size) FILTER (WHERE lease > ?1), 0),
            max(lease) FILTER (WHERE lease > ?1) FROM free";
    let row = params![rows::ms(at), rows::whole(lease_ms)];
    from.prepare_cached(sql)?.query_row(row, |row| {
        Ok(Deleted {
            manifests: rows::count(manifests),
            blobs: rows::count(row.get(0)?),
            bytes: rows::count(row.get(1)?),
            leased_blobs: rows::count(row.get(2)?),
            leased_bytes: rows::count(row.get(3)?),
            leased_until: row
                .get::<_, Option<i64>>(4)?
                .map(|it| Timestamp(rows::count(it))),
        })
    })
}
