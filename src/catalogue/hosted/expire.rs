//! Tags that go by a rule. Which ones is decided elsewhere, on what was read; here it is made sure that nothing has changed since
//! that the decision was about. A manifest that no tag names any more, and nothing else needs, is deleted with its tag,
//! and can be restored like any other.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::manifests::record;
use super::rows::{self, Event, Log};
use super::{Done, Expiry, Refused};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};

/// Manifests that are deleted with one tag: an index of all platforms and its signatures has some dozen. What is left stays.
const RELEASED_MAX: usize = 2_000;

/// A tag, and when somebody pushed it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPush {
    /// Its name.
    pub name: String,
    /// The manifest that it names.
    pub digest: Digest,
    /// When it was pushed last, the same content again, too.
    pub pushed: Timestamp,
    /// Its place in the order of pushes.
    pub seq: i64,
    /// It is named after a manifest that the repository has: a signature, or a list of what refers to that.
    pub follows: bool,
}

/// Lets tags go, as far as they are what they were.
pub(super) fn expire(
    to: &Connection,
    expiry: &Expiry,
    log: &Log<'_>,
) -> rusqlite::Result<Result<Done, Refused>> {
    let repository = &expiry.repository;
    let Some(id) = rows::repository(to, repository.as_str())? else {
        return Ok(Err(Refused::NoRepository));
    };
    // A tag that somebody has deleted meanwhile was one of the newest, perhaps.
    let sql = "SELECT count(*) FROM hosted_tag_history WHERE seq > ?1 AND repository = ?2 AND after IS NULL";
    let mut query = to.prepare_cached(sql)?;
    let deletes = query.query_row(params![expiry.seen, id], |row| row.get::<_, i64>(0))?;
    if deletes != expiry.gone {
        return Ok(Ok(Done::Unchanged));
    }
    let mut taken = 0;
    for (name, seq) in &expiry.tags {
        let sql =
            "SELECT m.id, m.digest FROM hosted_tags t JOIN hosted_manifests m ON m.id = t.manifest
            WHERE t.repository = ?1 AND t.name = ?2 AND t.pushed_seq = ?3";
        let mut query = to.prepare_cached(sql)?;
        let found = query.query_row(params![id, name, seq], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        });
        // Pushed again meanwhile.
        let Some((manifest, key)) = found.optional()? else {
            continue;
        };
        let before = rows::digest(&key)?;
        let sql = "DELETE FROM hosted_tags WHERE repository = ?1 AND name = ?2";
        to.prepare_cached(sql)?.execute(params![id, name])?;
        record(to, (id, repository), name, (Some(&before), None), log)?;
        release(to, (id, repository.as_str()), manifest, expiry.until, log)?;
        taken += 1;
    }
    Ok(Ok(Done::Expired(taken)))
}

/// Deletes a manifest that nothing needs any more, and with it those that it alone has needed: what an index names, and what
/// refers to it.
fn release(
    to: &Connection,
    (id, path): (i64, &str),
    manifest: i64,
    until: Timestamp,
    log: &Log<'_>,
) -> rusqlite::Result<()> {
    let mut waiting = vec![manifest];
    for _ in 0..RELEASED_MAX {
        let Some(manifest) = waiting.pop() else {
            return Ok(());
        };
        let sql = "UPDATE hosted_manifests SET deleted_ms = ?2 WHERE id = ?1 AND deleted_ms IS NULL
            AND NOT EXISTS (SELECT 1 FROM hosted_tags WHERE manifest = ?1)
            AND NOT EXISTS (SELECT 1 FROM hosted_references f JOIN hosted_manifests p ON p.id = f.manifest
                WHERE f.repository = ?3 AND f.digest = hosted_manifests.digest AND f.is_manifest AND p.deleted_ms IS NULL)
            AND NOT EXISTS (SELECT 1 FROM hosted_manifests s WHERE s.repository = ?3 AND s.digest = hosted_manifests.subject
                AND s.deleted_ms IS NULL)
            RETURNING digest";
        let mut query = to.prepare_cached(sql)?;
        let released = query.query_row(params![manifest, log.ms(), id], |row| {
            row.get::<_, Vec<u8>>(0)
        });
        let Some(key) = released.optional()? else {
            continue;
        };
        drop(query);
        rows::review(to, rows::MANIFEST, manifest, &key, rows::ms(until))?;
        let digest = rows::digest(&key)?;
        let event = Event {
            kind: "manifest.deleted",
            repository: path,
            tag: None,
            digest: Some(&digest),
        };
        log.tell(to, &event)?;
        let sql = "SELECT c.id FROM hosted_references f JOIN hosted_manifests c ON c.repository = f.repository AND c.digest = f.digest
                WHERE f.manifest = ?1 AND f.is_manifest
            UNION SELECT id FROM hosted_manifests WHERE repository = ?2 AND subject = ?3 AND deleted_ms IS NULL LIMIT ?4";
        let mut query = to.prepare_cached(sql)?;
        let most = i64::try_from(RELEASED_MAX).unwrap_or(i64::MAX);
        let more = query.query_map(params![manifest, id, key, most], |row| row.get(0))?;
        for more in more {
            waiting.push(more?);
        }
    }
    Ok(())
}

/// Hands the tags of a repository over, the newest first, and the number of the last entry of the history before.
pub(super) fn pushes<T>(
    from: &Connection,
    id: i64,
    take: impl FnOnce(&mut dyn Iterator<Item = rusqlite::Result<TagPush>>) -> rusqlite::Result<T>,
) -> rusqlite::Result<(i64, T)> {
    // One snapshot for both.
    let transaction = from.unchecked_transaction()?;
    let sql = "SELECT coalesce(max(seq), 0) FROM hosted_tag_history";
    let seen = transaction
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    let sql = "SELECT t.name, m.digest, t.pushed_ms, t.pushed_seq FROM hosted_tags t JOIN hosted_manifests m ON m.id = t.manifest
        WHERE t.repository = ?1 ORDER BY t.pushed_seq DESC, t.pushed_ms DESC, t.name DESC";
    let mut query = transaction.prepare_cached(sql)?;
    let sql = "SELECT 1 FROM hosted_manifests WHERE repository = ?1 AND digest = ?2 AND deleted_ms IS NULL";
    let mut subject = transaction.prepare_cached(sql)?;
    let mut rows = query.query_map([id], |row| {
        let name: String = row.get(0)?;
        let follows = match named_after(&name) {
            Some(digest) => subject.exists(params![id, rows::key(&digest)])?,
            None => false,
        };
        Ok(TagPush {
            digest: rows::digest(&row.get::<_, Vec<u8>>(1)?)?,
            pushed: Timestamp(rows::count(row.get(2)?)),
            seq: row.get(3)?,
            follows,
            name,
        })
    })?;
    let taken = take(&mut rows)?;
    Ok((seen, taken))
}

/// The digest that a tag is named after: `sha256-…`, with more behind it or not.
fn named_after(tag: &str) -> Option<Digest> {
    let (name, rest) = tag.split_once('-')?;
    let algorithm = match name {
        "sha256" => Algorithm::Sha256,
        "sha512" => Algorithm::Sha512,
        _ => return None,
    };
    let hex = rest.split(['.', '-', '_']).next()?;
    Digest::parse(&format!("{}:{hex}", algorithm.name())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_signatures_are_named_after_what_they_are_about() {
        let hex = "a".repeat(64);
        for tag in [format!("sha256-{hex}"), format!("sha256-{hex}.sig")] {
            let digest = named_after(&tag).unwrap();
            assert_eq!(digest.to_string(), format!("sha256:{hex}"));
        }
        for tag in ["v1", "sha256-abc", "v1-rc", "md5-aa"] {
            assert_eq!(named_after(tag), None, "{tag}");
        }
    }
}
