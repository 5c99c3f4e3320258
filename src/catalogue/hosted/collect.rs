//! The garbage collector's reviews: nothing is scanned. Whatever may leave something without a use enters it into the
//! queue in its own transaction, and here it is looked at when it is due.
//!
//! A link goes when its lease is over and no manifest of the repository names the blob. A blob without any link is
//! condemned, and goes after the grace, if it has none still. A manifest goes when the time is over in which it could be
//! restored after it was deleted. A manifest that nobody has deleted stays, with or without a tag.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{self, Log};
use super::{Done, Refused, Reviewed, removal};
use crate::oci::{Digest, Repository};

/// Entries that are looked at in one transaction: some milliseconds, in which others wait.
const BATCH_MAX: i64 = 64;

/// A repository that is pushed to is looked at again so much later, in milliseconds.
const ACTIVE_WAIT_MS: i64 = 1_000;

/// A blob whose file could not be dropped is looked at again so much later, in milliseconds.
const AGAIN_MS: i64 = 60_000;

/// An entry of the queue.
pub(super) struct Entry {
    kind: i64,
    pub(super) place: i64,
    digest: Vec<u8>,
}

/// Looks at some of what is due.
pub(super) fn review(
    to: &Connection,
    log: &Log<'_>,
    (grace_ms, lease_ms): (u64, u64),
    active: &HashSet<String>,
) -> rusqlite::Result<Reviewed> {
    let now = log.ms();
    let sql = "SELECT kind, place, digest FROM hosted_reviews WHERE due_ms <= ?1 ORDER BY due_ms LIMIT ?2";
    let mut query = to.prepare_cached(sql)?;
    let due = query.query_map(params![now, BATCH_MAX], |row| {
        Ok(Entry {
            kind: row.get(0)?,
            place: row.get(1)?,
            digest: row.get(2)?,
        })
    })?;
    let due: Vec<Entry> = due.collect::<rusqlite::Result<_>>()?;
    let grace = rows::whole(grace_ms);
    let mut done = Reviewed {
        due: due.len(),
        ..Reviewed::default()
    };
    let mut steps = 0;
    for entry in &due {
        match entry.kind {
            rows::REPOSITORY => {
                // The others are due still.
                steps += 1;
                if steps <= removal::STEPS_MAX {
                    removal::review_repository(to, entry, log, grace)?;
                }
            }
            rows::NAMESPACE => removal::review_namespace(to, entry, log, &mut done)?,
            rows::LINK => link(to, entry, (now, grace), active, &mut done)?,
            rows::MANIFEST => manifest(to, entry, (now, rows::whole(lease_ms)), &mut done)?,
            _ => blob(to, entry, (now, grace), &mut done)?,
        }
    }
    Ok(done)
}

fn link(
    to: &Connection,
    entry: &Entry,
    (now, grace): (i64, i64),
    active: &HashSet<String>,
    done: &mut Reviewed,
) -> rusqlite::Result<()> {
    let Entry { place, digest, .. } = entry;
    let sql = "SELECT l.lease_ms, l.deleted_ms IS NOT NULL, r.path FROM hosted_links l JOIN hosted_repositories r ON r.id = l.repository
        WHERE l.repository = ?1 AND l.digest = ?2";
    let mut query = to.prepare_cached(sql)?;
    let found = query.query_row(params![place, digest], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, bool>(1)?,
            row.get::<_, String>(2)?,
        ))
    });
    let Some((lease, is_deleted, path)) = found.optional()? else {
        return forget(to, entry);
    };
    let sql =
        "SELECT 1 FROM hosted_references WHERE repository = ?1 AND digest = ?2 AND NOT is_manifest";
    if to.prepare_cached(sql)?.exists(params![place, digest])? {
        // When the manifest goes it is entered again.
        return forget(to, entry);
    }
    if !is_deleted && lease > now {
        return rows::review(to, rows::LINK, *place, digest, lease);
    }
    if !is_deleted && active.contains(&path) {
        let due = now.saturating_add(grace.max(ACTIVE_WAIT_MS));
        return rows::review(to, rows::LINK, *place, digest, due);
    }
    let sql = "DELETE FROM hosted_links WHERE repository = ?1 AND digest = ?2";
    to.prepare_cached(sql)?.execute(params![place, digest])?;
    forget(to, entry)?;
    done.changed.extend(Repository::parse(&path));
    condemn(to, digest, now, grace)
}

/// Has a blob that may have no link any more looked at after the grace.
pub(super) fn condemn(
    to: &Connection,
    digest: &[u8],
    now: i64,
    grace: i64,
) -> rusqlite::Result<()> {
    let sql = "UPDATE hosted_blobs SET condemned_ms = ?2 WHERE digest = ?1
        AND NOT EXISTS (SELECT 1 FROM hosted_links WHERE digest = ?1)";
    if to.prepare_cached(sql)?.execute(params![digest, now])? > 0 {
        rows::review(to, rows::BLOB, 0, digest, now.saturating_add(grace))?;
    }
    Ok(())
}

fn manifest(
    to: &Connection,
    entry: &Entry,
    (now, lease): (i64, i64),
    done: &mut Reviewed,
) -> rusqlite::Result<()> {
    let sql = "SELECT r.path FROM hosted_manifests m JOIN hosted_repositories r ON r.id = m.repository WHERE m.id = ?1 AND m.deleted_ms IS NOT NULL";
    let mut query = to.prepare_cached(sql)?;
    let path = query.query_row([entry.place], |row| row.get::<_, String>(0));
    let Some(path) = path.optional()? else {
        return forget(to, entry);
    };
    purge(to, entry.place, &entry.digest, now.saturating_add(lease))?;
    done.changed.extend(Repository::parse(&path));
    Ok(())
}

/// A manifest that was deleted goes for good. Its blobs are looked at at `due`: who was told a moment ago that one of them
/// is there has time to use it.
pub(super) fn purge(
    to: &Connection,
    manifest: i64,
    digest: &[u8],
    due: i64,
) -> rusqlite::Result<()> {
    let sql = "UPDATE hosted_links SET lease_ms = max(lease_ms, ?2)
        WHERE repository = (SELECT repository FROM hosted_manifests WHERE id = ?1)
        AND digest IN (SELECT digest FROM hosted_references WHERE manifest = ?1 AND NOT is_manifest)";
    to.prepare_cached(sql)?.execute(params![manifest, due])?;
    let sql = "INSERT OR REPLACE INTO hosted_reviews (kind, place, digest, due_ms)
        SELECT ?2, repository, digest, ?3 FROM hosted_references WHERE manifest = ?1 AND NOT is_manifest";
    to.prepare_cached(sql)?
        .execute(params![manifest, rows::LINK, due])?;
    to.prepare_cached("DELETE FROM hosted_manifests WHERE id = ?1")?
        .execute([manifest])?;
    let sql = "DELETE FROM hosted_bytes WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM hosted_manifests WHERE digest = ?1)";
    to.prepare_cached(sql)?.execute([digest])?;
    let sql = "DELETE FROM hosted_reviews WHERE kind = ?1 AND place = ?2 AND digest = ?3";
    to.prepare_cached(sql)?
        .execute(params![rows::MANIFEST, manifest, digest])?;
    Ok(())
}

fn blob(
    to: &Connection,
    entry: &Entry,
    (now, grace): (i64, i64),
    done: &mut Reviewed,
) -> rusqlite::Result<()> {
    let digest = &entry.digest;
    let sql = "SELECT condemned_ms FROM hosted_blobs WHERE digest = ?1";
    let mut query = to.prepare_cached(sql)?;
    let condemned = query.query_row([digest], |row| row.get::<_, Option<i64>>(0));
    match condemned.optional()? {
        // A link has come meanwhile, or it is gone.
        None | Some(None) => forget(to, entry),
        Some(Some(since)) if since.saturating_add(grace) > now => {
            rows::review(to, rows::BLOB, 0, digest, since.saturating_add(grace))
        }
        Some(Some(_)) => {
            done.ready.push(rows::digest(digest)?);
            rows::review(to, rows::BLOB, 0, digest, now.saturating_add(AGAIN_MS))
        }
    }
}

pub(super) fn forget(to: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let sql = "DELETE FROM hosted_reviews WHERE kind = ?1 AND place = ?2 AND digest = ?3";
    to.prepare_cached(sql)?
        .execute(params![entry.kind, entry.place, entry.digest])?;
    Ok(())
}

/// Forgets a blob that has no link; its file is to go. Nothing changes where it has one again.
pub(super) fn drop_blob(
    to: &Connection,
    digest: &Digest,
) -> rusqlite::Result<Result<Done, Refused>> {
    let key = rows::key(digest);
    let sql = "DELETE FROM hosted_blobs WHERE digest = ?1 AND condemned_ms IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM hosted_links WHERE digest = ?1)";
    if to.prepare_cached(sql)?.execute([&key])? == 0 {
        return Ok(Ok(Done::Unchanged));
    }
    let sql = "INSERT OR IGNORE INTO hosted_doomed (digest) VALUES (?1)";
    to.prepare_cached(sql)?.execute([&key])?;
    let sql = "DELETE FROM hosted_reviews WHERE kind = ?1 AND digest = ?2";
    to.prepare_cached(sql)?.execute(params![rows::BLOB, key])?;
    Ok(Ok(Done::Changed))
}

/// The file of a blob is gone.
pub(super) fn dropped(to: &Connection, digest: &Digest) -> rusqlite::Result<Result<Done, Refused>> {
    let sql = "DELETE FROM hosted_doomed WHERE digest = ?1";
    let gone = to.prepare_cached(sql)?.execute([rows::key(digest)])?;
    Ok(Ok(if gone > 0 {
        Done::Changed
    } else {
        Done::Unchanged
    }))
}
