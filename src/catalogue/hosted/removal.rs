//! Repositories and namespaces that are deleted as a whole, and restored. One that is deleted gives its path away in one
//! transaction, whatever it has: nothing is found by its name any more, and nobody else gets that name until its time to be
//! restored is over. Then what it had goes, a little at a time.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::collect::{Entry, condemn, forget};
use super::rows::{self, Event, Log};
use super::{Done, Refused, Removal, Reviewed};
use crate::clock::Timestamp;
use crate::oci::Repository;

type Acted = rusqlite::Result<Result<Done, Refused>>;

/// Manifests, links and entries of the history that go in one step: some milliseconds, in which others wait.
const MANIFESTS_MAX: usize = 32;
const LINKS_MAX: usize = 64;
const HISTORY_MAX: usize = 500;

/// Repositories of which something goes in one review.
pub(super) const STEPS_MAX: usize = 2;

/// A namespace whose repositories are not gone yet is looked at again so much later, in milliseconds.
const AGAIN_MS: i64 = 1_000;

/// Deletes a repository, or ends the time in which one that was deleted can be restored.
pub(super) fn repository(
    to: &Connection,
    path: &Repository,
    removal: &Removal,
    log: &Log<'_>,
) -> Acted {
    let live = rows::repository(to, path.as_str())?;
    let id = match (live, removal.until) {
        (Some(id), _) => {
            if let Some(refused) = protected(to, "r.id = ?1", id, &removal.kept)? {
                return Ok(Err(refused));
            }
            let sql = "UPDATE hosted_repositories SET was = path, path = '#' || id, deleted_ms = ?2, until_ms = ?3, with_namespace = 0 WHERE id = ?1";
            let until = removal.until.unwrap_or(log.at);
            let row = params![id, log.ms(), rows::ms(until)];
            to.prepare_cached(sql)?.execute(row)?;
            let due = rows::ms(until);
            rows::review(to, rows::REPOSITORY, id, rows::NO_DIGEST, due)?;
            tell(to, log, "repository.deleted", path.as_str())?;
            id
        }
        (None, None) => match deleted(to, "hosted_repositories", path.as_str())? {
            Some(id) => id,
            None => return Ok(Err(Refused::NoRepository)),
        },
        (None, Some(_)) => return Ok(Err(Refused::NoRepository)),
    };
    if removal.until.is_none() {
        give_up(to, id, log)?;
    }
    Ok(Ok(Done::Changed))
}

/// Has a repository that was deleted be there again, as it was.
pub(super) fn restore_repository(to: &Connection, path: &Repository, log: &Log<'_>) -> Acted {
    let Some(id) = deleted(to, "hosted_repositories", path.as_str())? else {
        return Ok(Err(match rows::kept(to, path.as_str())? {
            Some(refused) => refused,
            None => Refused::NoRepository,
        }));
    };
    let namespace = path.as_str().split('/').next().unwrap_or_default();
    if deleted(to, "hosted_namespaces", namespace)?.is_some() {
        let why = format!("the namespace {namespace}, which is deleted: restore that first; it");
        return Ok(Err(Refused::InUse(why)));
    }
    let sql = "UPDATE hosted_repositories SET path = was, was = NULL, deleted_ms = NULL, until_ms = NULL WHERE id = ?1";
    to.prepare_cached(sql)?.execute([id])?;
    unreview(to, rows::REPOSITORY, id)?;
    tell(to, log, "repository.restored", path.as_str())?;
    Ok(Ok(Done::Changed))
}

/// Deletes a namespace with its repositories, or ends the time in which one that was deleted can be restored.
pub(super) fn namespace(to: &Connection, name: &str, removal: &Removal, log: &Log<'_>) -> Acted {
    let sql = "SELECT id FROM hosted_namespaces WHERE name = ?1";
    let mut query = to.prepare_cached(sql)?;
    let live = query.query_row([name], |row| row.get::<_, i64>(0));
    let id = match (live.optional()?, removal.until) {
        (Some(id), _) => {
            if let Some(refused) = in_use(to, id, removal)? {
                return Ok(Err(refused));
            }
            let until = rows::ms(removal.until.unwrap_or(log.at));
            let sql = "UPDATE hosted_repositories SET was = path, path = '#' || id, deleted_ms = ?2, until_ms = ?3, with_namespace = 1
                WHERE namespace = ?1 AND deleted_ms IS NULL";
            let row = params![id, log.ms(), until];
            to.prepare_cached(sql)?.execute(row)?;
            let sql = "UPDATE hosted_namespaces SET was = name, name = '#' || id, deleted_ms = ?2, until_ms = ?3 WHERE id = ?1";
            to.prepare_cached(sql)?.execute(row)?;
            rows::review(to, rows::NAMESPACE, id, rows::NO_DIGEST, until)?;
            tell(to, log, "namespace.deleted", name)?;
            id
        }
        (None, None) => match deleted(to, "hosted_namespaces", name)? {
            Some(id) => id,
            None => return Ok(Err(Refused::NoNamespace(name.to_owned()))),
        },
        (None, Some(_)) => return Ok(Err(Refused::NoNamespace(name.to_owned()))),
    };
    if removal.until.is_none() {
        give_up_namespace(to, id, log)?;
    }
    Ok(Ok(Done::Changed))
}

/// Has a namespace that was deleted be there again, with the repositories that were deleted with it.
pub(super) fn restore_namespace(to: &Connection, name: &str, log: &Log<'_>) -> Acted {
    let Some(id) = deleted(to, "hosted_namespaces", name)? else {
        return Ok(Err(Refused::NoNamespace(name.to_owned())));
    };
    let sql = "UPDATE hosted_namespaces SET name = was, was = NULL, deleted_ms = NULL, until_ms = NULL WHERE id = ?1";
    to.prepare_cached(sql)?.execute([id])?;
    let sql = "UPDATE hosted_repositories SET path = was, was = NULL, deleted_ms = NULL, until_ms = NULL, with_namespace = 0
        WHERE namespace = ?1 AND with_namespace = 1 AND was IS NOT NULL";
    to.prepare_cached(sql)?.execute([id])?;
    unreview(to, rows::NAMESPACE, id)?;
    tell(to, log, "namespace.restored", name)?;
    Ok(Ok(Done::Changed))
}

/// The reason why a namespace cannot go.
fn in_use(to: &Connection, id: i64, removal: &Removal) -> rusqlite::Result<Option<Refused>> {
    if !removal.content {
        let sql = "SELECT r.path FROM hosted_repositories r WHERE r.namespace = ?1 AND r.deleted_ms IS NULL
            AND EXISTS (SELECT 1 FROM hosted_manifests m WHERE m.repository = r.id AND m.deleted_ms IS NULL) LIMIT 1";
        let mut query = to.prepare_cached(sql)?;
        let found = query.query_row([id], |row| row.get::<_, String>(0));
        if let Some(path) = found.optional()? {
            return Ok(Some(Refused::InUse(format!("the repository {path}"))));
        }
    }
    protected(
        to,
        "r.namespace = ?1 AND r.deleted_ms IS NULL",
        id,
        &removal.kept,
    )
}

/// A tag that must not be deleted: each of these is a pattern of repositories, and one of tags.
fn protected(
    from: &Connection,
    place: &'static str,
    id: i64,
    kept: &[(String, String)],
) -> rusqlite::Result<Option<Refused>> {
    let sql = format!(
        "SELECT r.path || ':' || t.name, m.digest FROM hosted_repositories r JOIN hosted_tags t ON t.repository = r.id
        JOIN hosted_manifests m ON m.id = t.manifest WHERE {place} AND r.path GLOB ?2 AND t.name GLOB ?3 LIMIT 1"
    );
    for (repository, tag) in kept {
        let mut query = from.prepare_cached(&sql)?;
        let found = query.query_row(params![id, glob(repository), glob(tag)], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
        });
        if let Some((tag, key)) = found.optional()? {
            let digest = rows::digest(&key)?;
            return Ok(Some(Refused::Immutable { tag, digest }));
        }
    }
    Ok(None)
}

/// A pattern as SQLite has them, in which more than `*` means something.
fn glob(pattern: &str) -> String {
    pattern.replace('[', "[[]").replace('?', "[?]")
}

/// The number of something that was deleted and can be restored.
fn deleted(from: &Connection, table: &'static str, was: &str) -> rusqlite::Result<Option<i64>> {
    let sql = format!("SELECT id FROM {table} WHERE was = ?1");
    let mut query = from.prepare_cached(&sql)?;
    query.query_row([was], |row| row.get(0)).optional()
}

/// The name of a repository is anybody's, and what it has goes.
fn give_up(to: &Connection, id: i64, log: &Log<'_>) -> rusqlite::Result<()> {
    let sql = "SELECT was FROM hosted_repositories WHERE id = ?1";
    let was: Option<String> = to.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
    let Some(was) = was else { return Ok(()) };
    let sql = "UPDATE hosted_repositories SET was = NULL, until_ms = NULL WHERE id = ?1";
    to.prepare_cached(sql)?.execute([id])?;
    rows::review(to, rows::REPOSITORY, id, rows::NO_DIGEST, log.ms())?;
    tell(to, log, "repository.purged", &was)
}

/// The same of a namespace, and of all that was in it.
fn give_up_namespace(to: &Connection, id: i64, log: &Log<'_>) -> rusqlite::Result<()> {
    let sql = "SELECT was FROM hosted_namespaces WHERE id = ?1";
    let was: Option<String> = to.prepare_cached(sql)?.query_row([id], |row| row.get(0))?;
    let Some(was) = was else { return Ok(()) };
    let sql = "UPDATE hosted_namespaces SET was = NULL, until_ms = NULL WHERE id = ?1";
    to.prepare_cached(sql)?.execute([id])?;
    let sql = "UPDATE hosted_repositories SET was = NULL, until_ms = NULL WHERE namespace = ?1";
    to.prepare_cached(sql)?.execute([id])?;
    let sql = "INSERT OR REPLACE INTO hosted_reviews (kind, place, digest, due_ms)
        SELECT ?2, id, ?3, ?4 FROM hosted_repositories WHERE namespace = ?1";
    let row = params![id, rows::REPOSITORY, rows::NO_DIGEST, log.ms()];
    to.prepare_cached(sql)?.execute(row)?;
    rows::review(to, rows::NAMESPACE, id, rows::NO_DIGEST, log.ms())?;
    tell(to, log, "namespace.purged", &was)
}

/// Looks at a namespace whose time to be restored is over.
pub(super) fn review_namespace(
    to: &Connection,
    entry: &Entry,
    log: &Log<'_>,
    done: &mut Reviewed,
) -> rusqlite::Result<()> {
    let sql =
        "SELECT was IS NOT NULL FROM hosted_namespaces WHERE id = ?1 AND deleted_ms IS NOT NULL";
    let mut query = to.prepare_cached(sql)?;
    let found = query.query_row([entry.place], |row| row.get::<_, bool>(0));
    let Some(is_kept) = found.optional()? else {
        return forget(to, entry);
    };
    if is_kept {
        done.renamed = true;
        give_up_namespace(to, entry.place, log)?;
    }
    let sql = "SELECT 1 FROM hosted_repositories WHERE namespace = ?1";
    if to.prepare_cached(sql)?.exists([entry.place])? {
        let due = log.ms().saturating_add(AGAIN_MS);
        return rows::review(to, rows::NAMESPACE, entry.place, rows::NO_DIGEST, due);
    }
    to.prepare_cached("DELETE FROM hosted_namespaces WHERE id = ?1")?
        .execute([entry.place])?;
    forget(to, entry)
}

/// Has some of what a repository had go, whose time to be restored is over.
pub(super) fn review_repository(
    to: &Connection,
    entry: &Entry,
    log: &Log<'_>,
    grace: i64,
) -> rusqlite::Result<()> {
    let id = entry.place;
    let sql = "SELECT 1 FROM hosted_repositories WHERE id = ?1 AND deleted_ms IS NOT NULL";
    if !to.prepare_cached(sql)?.exists([id])? {
        return forget(to, entry);
    }
    give_up(to, id, log)?;
    let is_gone =
        drop_manifests(to, id)? && drop_links(to, id, (log.ms(), grace))? && drop_history(to, id)?;
    if !is_gone {
        return rows::review(to, rows::REPOSITORY, id, rows::NO_DIGEST, log.ms());
    }
    to.prepare_cached("DELETE FROM hosted_repositories WHERE id = ?1")?
        .execute([id])?;
    forget(to, entry)
}

/// Some manifests go; whether those were the last.
fn drop_manifests(to: &Connection, id: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT id, digest FROM hosted_manifests WHERE repository = ?1 LIMIT ?2";
    let mut query = to.prepare_cached(sql)?;
    let found = query.query_map(params![id, limit(MANIFESTS_MAX)], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
    })?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    for (manifest, digest) in &found {
        to.prepare_cached("DELETE FROM hosted_tags WHERE manifest = ?1")?
            .execute([manifest])?;
        to.prepare_cached("DELETE FROM hosted_manifests WHERE id = ?1")?
            .execute([manifest])?;
        let sql = "DELETE FROM hosted_bytes WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM hosted_manifests WHERE digest = ?1)";
        to.prepare_cached(sql)?.execute([digest])?;
        unreview(to, rows::MANIFEST, *manifest)?;
    }
    Ok(found.len() < MANIFESTS_MAX)
}

/// Some links go, and blobs that have no other; whether those were the last.
fn drop_links(to: &Connection, id: i64, (now, grace): (i64, i64)) -> rusqlite::Result<bool> {
    let sql = "SELECT digest FROM hosted_links WHERE repository = ?1 LIMIT ?2";
    let mut query = to.prepare_cached(sql)?;
    let found = query.query_map(params![id, limit(LINKS_MAX)], |row| row.get(0))?;
    let found: Vec<Vec<u8>> = found.collect::<rusqlite::Result<_>>()?;
    for digest in &found {
        let sql = "DELETE FROM hosted_links WHERE repository = ?1 AND digest = ?2";
        to.prepare_cached(sql)?.execute(params![id, digest])?;
        let sql = "DELETE FROM hosted_reviews WHERE kind = ?1 AND place = ?2 AND digest = ?3";
        to.prepare_cached(sql)?
            .execute(params![rows::LINK, id, digest])?;
        condemn(to, digest, now, grace)?;
    }
    Ok(found.len() < LINKS_MAX)
}

/// Some of the history of its tags goes; whether that was the last.
fn drop_history(to: &Connection, id: i64) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM hosted_tag_history WHERE seq IN (SELECT seq FROM hosted_tag_history WHERE repository = ?1 LIMIT ?2)";
    let gone = to
        .prepare_cached(sql)?
        .execute(params![id, limit(HISTORY_MAX)])?;
    Ok(gone < HISTORY_MAX)
}

fn unreview(to: &Connection, kind: i64, place: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM hosted_reviews WHERE kind = ?1 AND place = ?2";
    to.prepare_cached(sql)?.execute(params![kind, place])?;
    Ok(())
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

fn tell(
    to: &Connection,
    log: &Log<'_>,
    kind: &'static str,
    repository: &str,
) -> rusqlite::Result<()> {
    log.tell(
        to,
        &Event {
            kind,
            repository,
            tag: None,
            digest: None,
        },
    )
}

/// Something that was deleted and can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedRow {
    /// Its name.
    pub name: String,
    /// It is a namespace.
    pub is_namespace: bool,
    /// When it was deleted.
    pub deleted: Timestamp,
    /// Until when it can be restored.
    pub until: Timestamp,
}

/// What can be restored, by name, behind this one.
pub(super) fn deleted_rows(
    from: &Connection,
    after: &str,
    most: usize,
) -> rusqlite::Result<Vec<DeletedRow>> {
    let sql = "SELECT was, 1, deleted_ms, until_ms FROM hosted_namespaces WHERE was > ?1
        UNION ALL SELECT was, 0, deleted_ms, until_ms FROM hosted_repositories WHERE was > ?1 AND NOT with_namespace
        ORDER BY 1 LIMIT ?2";
    let mut query = from.prepare_cached(sql)?;
    let found = query.query_map(params![after, limit(most)], |row| {
        Ok(DeletedRow {
            name: row.get(0)?,
            is_namespace: row.get(1)?,
            deleted: Timestamp(rows::count(row.get(2)?)),
            until: Timestamp(rows::count(row.get(3)?)),
        })
    })?;
    found.collect()
}
