//! Deletes, and tags that are restored. What is deleted is not served any more at once, and stays for a while.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::manifests::{named, record, revive, set_tag};
use super::rows::{self, Event, Log};
use super::{Done, Refused, TagPut};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository, Tag};

type Acted = rusqlite::Result<Result<Done, Refused>>;

/// Tags of a manifest that are looked at for one delete.
const TAGS_MAX: i64 = 100_000;

/// Manifests that come back with one tag: what an index may name, and what refers to that.
const REVIVED_MAX: usize = 2 * super::REFERENCES_MAX;

/// Deletes a tag. The manifest that it names stays.
pub(super) fn tag(to: &Connection, repository: &Repository, tag: &Tag, log: &Log<'_>) -> Acted {
    let Some(id) = rows::repository(to, repository.as_str())? else {
        return Ok(Err(Refused::NoRepository));
    };
    let Some(before) = named(to, id, tag.as_str())? else {
        return Ok(Err(Refused::NoTag));
    };
    let sql = "DELETE FROM hosted_tags WHERE repository = ?1 AND name = ?2";
    to.prepare_cached(sql)?.execute(params![id, tag.as_str()])?;
    record(
        to,
        (id, repository),
        tag.as_str(),
        (Some(&before), None),
        log,
    )?;
    Ok(Ok(Done::Changed))
}

/// Deletes a manifest, and its tags.
pub(super) fn manifest(
    to: &Connection,
    repository: &Repository,
    digest: &Digest,
    until: Timestamp,
    known: &[String],
    log: &Log<'_>,
) -> Acted {
    let Some(id) = rows::repository(to, repository.as_str())? else {
        return Ok(Err(Refused::NoRepository));
    };
    let key = rows::key(digest);
    let sql = "SELECT id FROM hosted_manifests WHERE repository = ?1 AND digest = ?2 AND deleted_ms IS NULL";
    let mut query = to.prepare_cached(sql)?;
    let found = query.query_row(params![id, key], |row| row.get::<_, i64>(0));
    let Some(manifest) = found.optional()? else {
        return Ok(Err(Refused::NoManifest));
    };
    let sql = "SELECT p.digest FROM hosted_references f JOIN hosted_manifests p ON p.id = f.manifest
        WHERE f.repository = ?1 AND f.digest = ?2 AND f.is_manifest AND p.deleted_ms IS NULL LIMIT 1";
    let mut query = to.prepare_cached(sql)?;
    let parent = query.query_row(params![id, key], |row| row.get::<_, Vec<u8>>(0));
    if let Some(parent) = parent.optional()? {
        let index = rows::digest(&parent)?;
        return Ok(Err(Refused::InUse(format!("the index {index}"))));
    }
    let sql = "SELECT name FROM hosted_tags WHERE manifest = ?1 LIMIT ?2";
    let mut query = to.prepare_cached(sql)?;
    let tags = query.query_map(params![manifest, TAGS_MAX], |row| row.get(0))?;
    let tags: Vec<String> = tags.collect::<rusqlite::Result<_>>()?;
    let unknown: Vec<String> = tags
        .iter()
        .filter(|it| !known.contains(it))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Ok(Err(Refused::HasTags(unknown)));
    }
    for tag in &tags {
        record(to, (id, repository), tag, (Some(digest), None), log)?;
    }
    to.prepare_cached("DELETE FROM hosted_tags WHERE manifest = ?1")?
        .execute([manifest])?;
    to.prepare_cached("UPDATE hosted_manifests SET deleted_ms = ?2 WHERE id = ?1")?
        .execute(params![manifest, log.ms()])?;
    rows::review(to, rows::MANIFEST, manifest, &key, rows::ms(until))?;
    tell(to, log, "manifest.deleted", repository, digest)?;
    Ok(Ok(Done::Changed))
}

/// Takes a blob out of a repository, unless a manifest there names it.
pub(super) fn blob(
    to: &Connection,
    repository: &Repository,
    digest: &Digest,
    until: Timestamp,
    log: &Log<'_>,
) -> Acted {
    let Some(id) = rows::repository(to, repository.as_str())? else {
        return Ok(Err(Refused::NoRepository));
    };
    let key = rows::key(digest);
    let sql = "SELECT m.digest FROM hosted_references f JOIN hosted_manifests m ON m.id = f.manifest
        WHERE f.repository = ?1 AND f.digest = ?2 AND NOT f.is_manifest AND m.deleted_ms IS NULL LIMIT 1";
    let mut query = to.prepare_cached(sql)?;
    let user = query.query_row(params![id, key], |row| row.get::<_, Vec<u8>>(0));
    if let Some(user) = user.optional()? {
        let manifest = rows::digest(&user)?;
        return Ok(Err(Refused::InUse(format!("the manifest {manifest}"))));
    }
    let sql = "UPDATE hosted_links SET deleted_ms = ?3 WHERE repository = ?1 AND digest = ?2 AND deleted_ms IS NULL";
    let row = params![id, key, log.ms()];
    if to.prepare_cached(sql)?.execute(row)? == 0 {
        return Ok(Err(Refused::NoBlob));
    }
    rows::review(to, rows::LINK, id, &key, rows::ms(until))?;
    tell(to, log, "blob.deleted", repository, digest)?;
    Ok(Ok(Done::Changed))
}

/// Has a tag name what it named before.
pub(super) fn restore(
    to: &Connection,
    repository: &Repository,
    tag: &Tag,
    digest: Option<Digest>,
    log: &Log<'_>,
) -> Acted {
    let Some(id) = rows::repository(to, repository.as_str())? else {
        return Ok(Err(Refused::NoRepository));
    };
    let sql = "SELECT before FROM hosted_tag_history WHERE repository = ?1 AND name = ?2 AND before IS NOT NULL ORDER BY seq DESC LIMIT 1";
    let digest = if let Some(digest) = digest {
        digest
    } else {
        let mut query = to.prepare_cached(sql)?;
        let row = params![id, tag.as_str()];
        let last = query.query_row(row, |row| row.get::<_, Vec<u8>>(0));
        match last.optional()? {
            Some(last) => rows::digest(&last)?,
            None => return Ok(Err(Refused::NoTag)),
        }
    };
    let sql = "SELECT id FROM hosted_manifests WHERE repository = ?1 AND digest = ?2";
    let mut query = to.prepare_cached(sql)?;
    let found = query.query_row(params![id, rows::key(&digest)], |row| row.get::<_, i64>(0));
    let Some(manifest) = found.optional()? else {
        return Ok(Err(Refused::NoManifest));
    };
    revive_all(to, id, manifest)?;
    let put = TagPut {
        tag: tag.clone(),
        immutable: false,
    };
    let set = set_tag(to, (id, repository), &put, (manifest, &digest), None, log)?;
    Ok(set.map(|moved| {
        if moved {
            Done::Changed
        } else {
            Done::Unchanged
        }
    }))
}

/// A manifest is there again, the manifests that it names, and those that refer to it and were deleted with it.
pub(super) fn revive_all(to: &Connection, repository: i64, manifest: i64) -> rusqlite::Result<()> {
    let mut waiting = vec![manifest];
    for _ in 0..REVIVED_MAX {
        let Some(manifest) = waiting.pop() else {
            return Ok(());
        };
        let sql = "SELECT digest, deleted_ms FROM hosted_manifests WHERE id = ?1";
        let mut query = to.prepare_cached(sql)?;
        let (key, deleted) = query.query_row([manifest], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<i64>>(1)?))
        })?;
        revive(to, manifest)?;
        let sql = "SELECT c.id FROM hosted_references f JOIN hosted_manifests c ON c.repository = f.repository AND c.digest = f.digest
                WHERE f.manifest = ?1 AND f.is_manifest AND f.repository = ?2 AND c.deleted_ms IS NOT NULL
            UNION SELECT id FROM hosted_manifests WHERE repository = ?2 AND subject = ?3 AND deleted_ms = ?4";
        let mut query = to.prepare_cached(sql)?;
        let more = query.query_map(params![manifest, repository, key, deleted], |row| {
            row.get(0)
        })?;
        for more in more {
            waiting.push(more?);
        }
    }
    Ok(())
}

fn tell(
    to: &Connection,
    log: &Log<'_>,
    kind: &'static str,
    repository: &Repository,
    digest: &Digest,
) -> rusqlite::Result<()> {
    let event = Event {
        kind,
        repository: repository.as_str(),
        tag: None,
        digest: Some(digest),
    };
    log.tell(to, &event)
}
