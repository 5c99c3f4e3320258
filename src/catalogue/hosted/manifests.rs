//! Manifests, their tags, and what they refer to.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{self, Event, Log};
use super::{Condition, Done, ManifestPut, Refused, TagPut};
use crate::oci::{Digest, Repository};

/// Missing digests that are named.
const MISSING_MAX: usize = 100;

/// The same push within so many milliseconds is not noted: a client that repeats itself costs no write.
const PUSHED_AGAIN_MS: i64 = 60_000;

/// Puts a manifest: it, what it refers to, and its tags; all of it or nothing.
pub(super) fn put(
    to: &Connection,
    put: &ManifestPut,
    log: &Log<'_>,
) -> rusqlite::Result<Result<Done, Refused>> {
    let repository = match rows::made(to, &put.repository, log)? {
        Ok(id) => id,
        Err(refused) => return Ok(Err(refused)),
    };
    let missing = missing(to, repository, put)?;
    if !missing.is_empty() {
        return Ok(Err(Refused::Missing(missing)));
    }
    let (manifest, is_new) = insert(to, repository, put, log)?;
    if is_new {
        let wanted = u64::try_from(put.bytes.len()).unwrap_or(u64::MAX);
        if let Err(refused) = rows::within_quota(to, repository, wanted)? {
            return Ok(Err(refused));
        }
        refer(to, repository, manifest, put)?;
        let event = Event {
            kind: "manifest.pushed",
            repository: put.repository.as_str(),
            tag: None,
            digest: Some(&put.digest),
        };
        log.tell(to, &event)?;
    }
    let mut changed = is_new;
    for (number, tag) in put.tags.iter().enumerate() {
        let condition = put.condition.as_ref().filter(|_| number == 0);
        match set_tag(
            to,
            (repository, &put.repository),
            tag,
            (manifest, &put.digest),
            condition,
            log,
        )? {
            Ok(moved) => changed |= moved,
            Err(refused) => return Ok(Err(refused)),
        }
    }
    Ok(Ok(if changed {
        Done::Changed
    } else {
        Done::Unchanged
    }))
}

/// The digests that the repository must have and has not.
fn missing(from: &Connection, repository: i64, put: &ManifestPut) -> rusqlite::Result<Vec<Digest>> {
    let sql = "SELECT n.sparse FROM hosted_namespaces n JOIN hosted_repositories r ON r.namespace = n.id WHERE r.id = ?1";
    let sparse: bool = from
        .prepare_cached(sql)?
        .query_row([repository], |row| row.get(0))?;
    if sparse {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    let sql =
        "SELECT 1 FROM hosted_links WHERE repository = ?1 AND digest = ?2 AND deleted_ms IS NULL";
    let mut link = from.prepare_cached(sql)?;
    for digest in &put.blobs {
        if !link.exists(params![repository, rows::key(digest)])? {
            missing.push(*digest);
        }
    }
    let sql = "SELECT 1 FROM hosted_manifests WHERE repository = ?1 AND digest = ?2 AND deleted_ms IS NULL";
    let mut manifest = from.prepare_cached(sql)?;
    for digest in &put.manifests {
        if !manifest.exists(params![repository, rows::key(digest)])? {
            missing.push(*digest);
        }
    }
    missing.truncate(MISSING_MAX);
    Ok(missing)
}

/// Enters a manifest; its number, and whether it is new. One that was deleted is there again.
fn insert(
    to: &Connection,
    repository: i64,
    put: &ManifestPut,
    log: &Log<'_>,
) -> rusqlite::Result<(i64, bool)> {
    let key = rows::key(&put.digest);
    let sql = "SELECT id, deleted_ms FROM hosted_manifests WHERE repository = ?1 AND digest = ?2";
    let mut query = to.prepare_cached(sql)?;
    let before = query.query_row(params![repository, key], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))
    });
    if let Some((id, deleted)) = before.optional()? {
        if deleted.is_none() {
            return Ok((id, false));
        }
        revive(to, id)?;
        let sql = "UPDATE hosted_manifests SET media_type = ?2, pushed_ms = ?3, pushed_by = ?4 WHERE id = ?1";
        let row = params![id, put.media_type, log.ms(), log.by];
        to.prepare_cached(sql)?.execute(row)?;
        return Ok((id, true));
    }
    let sql = "INSERT INTO hosted_bytes (digest, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    to.prepare_cached(sql)?
        .execute(params![key, &put.bytes[..]])?;
    let sql = "INSERT INTO hosted_manifests (repository, digest, media_type, artifact_type, subject, annotations, size, pushed_ms, pushed_by)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    to.prepare_cached(sql)?.execute(params![
        repository,
        key,
        put.media_type,
        put.artifact_type,
        put.subject.as_ref().map(rows::key),
        put.annotations,
        i64::try_from(put.bytes.len()).unwrap_or(i64::MAX),
        log.ms(),
        log.by,
    ])?;
    Ok((to.last_insert_rowid(), true))
}

/// Writes what a manifest refers to, as far as the repository has it.
fn refer(
    to: &Connection,
    repository: i64,
    manifest: i64,
    put: &ManifestPut,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO hosted_references (manifest, repository, digest, is_manifest) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = to.prepare_cached(sql)?;
    let blobs = put.blobs.iter().chain(&put.foreign).map(|it| (it, false));
    for (digest, is_manifest) in blobs.chain(put.manifests.iter().map(|it| (it, true))) {
        insert.execute(params![
            manifest,
            repository,
            rows::key(digest),
            is_manifest
        ])?;
    }
    Ok(())
}

/// A manifest that was deleted is there again, and the blobs that it names.
pub(super) fn revive(to: &Connection, manifest: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE hosted_manifests SET deleted_ms = NULL WHERE id = ?1";
    to.prepare_cached(sql)?.execute([manifest])?;
    let sql = "UPDATE hosted_links SET deleted_ms = NULL
        WHERE repository = (SELECT repository FROM hosted_manifests WHERE id = ?1)
        AND digest IN (SELECT digest FROM hosted_references WHERE manifest = ?1)";
    to.prepare_cached(sql)?.execute([manifest])?;
    let sql = "DELETE FROM hosted_reviews WHERE kind = ?1 AND place = ?2";
    to.prepare_cached(sql)?
        .execute(params![rows::MANIFEST, manifest])?;
    Ok(())
}

/// The digest that a tag names.
pub(super) fn named(
    from: &Connection,
    repository: i64,
    tag: &str,
) -> rusqlite::Result<Option<Digest>> {
    let sql = "SELECT m.digest FROM hosted_tags t JOIN hosted_manifests m ON m.id = t.manifest WHERE t.repository = ?1 AND t.name = ?2";
    let mut query = from.prepare_cached(sql)?;
    let found = query.query_row(params![repository, tag], |row| row.get::<_, Vec<u8>>(0));
    found.optional()?.map(|key| rows::digest(&key)).transpose()
}

/// Has a tag name a manifest; whether that is new.
pub(super) fn set_tag(
    to: &Connection,
    (repository, path): (i64, &Repository),
    TagPut { tag, immutable }: &TagPut,
    (manifest, digest): (i64, &Digest),
    condition: Option<&Condition>,
    log: &Log<'_>,
) -> rusqlite::Result<Result<bool, Refused>> {
    let before = named(to, repository, tag.as_str())?;
    let holds = match condition {
        None => true,
        Some(Condition::Is(some)) => {
            before.is_some_and(|before| some.is_empty() || some.contains(&before))
        }
        Some(Condition::IsNot(some)) => {
            before.is_none_or(|before| !some.is_empty() && !some.contains(&before))
        }
    };
    if !holds {
        return Ok(Err(Refused::Condition(before)));
    }
    match before {
        Some(before) if before == *digest => {
            push_again(to, repository, tag.as_str(), log)?;
            return Ok(Ok(false));
        }
        Some(before) if *immutable => {
            return Ok(Err(Refused::Immutable {
                tag: tag.to_string(),
                digest: before,
            }));
        }
        Some(_) | None => {}
    }
    let moved = (before.as_ref(), Some(digest));
    record(to, (repository, path), tag.as_str(), moved, log)?;
    let sql = "INSERT OR REPLACE INTO hosted_tags (repository, name, manifest, moved_ms, moved_by, pushed_ms, pushed_seq)
        VALUES (?1, ?2, ?3, ?4, ?5, ?4, (SELECT max(seq) FROM hosted_tag_history))";
    to.prepare_cached(sql)?.execute(params![
        repository,
        tag.as_str(),
        manifest,
        log.ms(),
        log.by
    ])?;
    Ok(Ok(true))
}

/// A tag is pushed that names the same already: no change, but it is not as old any more.
fn push_again(to: &Connection, repository: i64, tag: &str, log: &Log<'_>) -> rusqlite::Result<()> {
    let sql = "UPDATE hosted_tags SET pushed_ms = ?3, pushed_seq = (SELECT max(seq) FROM hosted_tag_history)
        WHERE repository = ?1 AND name = ?2 AND abs(?3 - pushed_ms) >= ?4";
    let row = params![repository, tag, log.ms(), PUSHED_AGAIN_MS];
    to.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

/// Writes the history of a tag, and tells of it.
pub(super) fn record(
    to: &Connection,
    (repository, path): (i64, &Repository),
    tag: &str,
    (before, after): (Option<&Digest>, Option<&Digest>),
    log: &Log<'_>,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO hosted_tag_history (repository, name, before, after, at_ms, by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    to.prepare_cached(sql)?.execute(params![
        repository,
        tag,
        before.map(rows::key),
        after.map(rows::key),
        log.ms(),
        log.by
    ])?;
    let kind = if after.is_some() {
        "tag.moved"
    } else {
        "tag.deleted"
    };
    let event = Event {
        kind,
        repository: path.as_str(),
        tag: Some(tag),
        digest: after.or(before),
    };
    log.tell(to, &event)
}
