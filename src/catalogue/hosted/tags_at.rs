//! Tags as they were at a time: content is immutable, so that a time is only where tags pointed. The history of tags has
//! all of their moves.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::TagPut;
use super::deletes::revive_all;
use super::manifests::{named, record, set_tag};
use super::rows::{self, Log};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository, Tag};

/// Tags that are put back at once: some 200 bytes each.
const MOVES_MAX: usize = 1_000_000;

/// A tag that names something else than it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagThen {
    /// Its repository.
    pub repository: Repository,
    /// It.
    pub tag: Tag,
    /// What it names now.
    pub now: Option<Digest>,
    /// What it named then.
    pub then: Option<Digest>,
    /// What it named then is not there any more: it stays as it is.
    pub is_gone: bool,
}

/// The tags that named something else at a time than they do now, sorted by repository.
pub(in crate::catalogue) fn plan(
    from: &Connection,
    at: Timestamp,
) -> rusqlite::Result<Vec<TagThen>> {
    // The first move after that time says what the tag named before it. Repositories that are deleted have no name now.
    let sql = "SELECT h.repository, r.path, h.name, h.before FROM hosted_tag_history h JOIN hosted_repositories r ON r.id = h.repository
        WHERE r.deleted_ms IS NULL AND h.seq IN (SELECT min(seq) FROM hosted_tag_history WHERE at_ms > ?1 GROUP BY repository, name)
        ORDER BY r.path, h.name";
    let mut query = from.prepare(sql)?;
    let mut found = query.query([rows::ms(at)])?;
    let mut moves = Vec::new();
    while let Some(row) = found.next()? {
        let (id, path, name): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let then: Option<Vec<u8>> = row.get(3)?;
        let then = then.map(|key| rows::digest(&key)).transpose()?;
        let now = named(from, id, &name)?;
        // They were read when they came.
        let (Ok(repository), Ok(tag)) = (Repository::parse(&path), Tag::parse(&name)) else {
            continue;
        };
        if now == then {
            continue;
        }
        if moves.len() == MOVES_MAX {
            let why = format!("more than {MOVES_MAX} tags have moved since; name a later time");
            return Err(rusqlite::Error::ToSqlConversionFailure(why.into()));
        }
        let is_gone = match &then {
            Some(digest) => manifest(from, id, digest)?.is_none(),
            None => false,
        };
        moves.push(TagThen {
            repository,
            tag,
            now,
            then,
            is_gone,
        });
    }
    Ok(moves)
}

/// Puts tags back. Each is a move of its own in the history.
pub(in crate::catalogue) fn put_back(
    to: &Connection,
    moves: &[TagThen],
    at: Timestamp,
    by: &str,
) -> rusqlite::Result<()> {
    let log = Log { at, by, rule: None };
    for it in moves.iter().filter(|it| !it.is_gone) {
        let Some(id) = rows::repository(to, it.repository.as_str())? else {
            continue;
        };
        let Some(digest) = &it.then else {
            let sql = "DELETE FROM hosted_tags WHERE repository = ?1 AND name = ?2";
            to.prepare_cached(sql)?
                .execute(params![id, it.tag.as_str()])?;
            let change = (it.now.as_ref(), None);
            record(to, (id, &it.repository), it.tag.as_str(), change, &log)?;
            continue;
        };
        let Some(manifest) = manifest(to, id, digest)? else {
            continue;
        };
        revive_all(to, id, manifest)?;
        let put = TagPut {
            tag: it.tag.clone(),
            immutable: false,
        };
        // Without a rule and a condition nothing refuses it.
        drop(set_tag(
            to,
            (id, &it.repository),
            &put,
            (manifest, digest),
            None,
            &log,
        )?);
    }
    Ok(())
}

/// A manifest that is there with all that an index names, deleted or not; its number.
fn manifest(from: &Connection, repository: i64, digest: &Digest) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT m.id FROM hosted_manifests m WHERE m.repository = ?1 AND m.digest = ?2
        AND NOT EXISTS (SELECT 1 FROM hosted_references f WHERE f.manifest = m.id AND f.is_manifest
            AND NOT EXISTS (SELECT 1 FROM hosted_manifests c WHERE c.repository = m.repository AND c.digest = f.digest)
            AND NOT EXISTS (SELECT 1 FROM hosted_repositories r JOIN hosted_namespaces n ON n.id = r.namespace
                WHERE r.id = m.repository AND n.sparse))";
    let mut query = from.prepare_cached(sql)?;
    let row = params![repository, rows::key(digest)];
    query.query_row(row, |row| row.get(0)).optional()
}
