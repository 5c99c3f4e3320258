//! Lists of what is hosted for an operator: images, and what repositories take.

use rusqlite::{Connection, params};

use super::rows;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository, Tag};

/// Images on a page, whatever is asked for: each costs some small reads.
const IMAGES_MAX: usize = 500;

/// Repositories of which it is told what they take.
const REPOSITORIES_MAX: usize = 100_000;

/// Images that are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesWanted {
    /// Of this repository and those below that name; of all.
    pub path: Option<Repository>,
    /// Of the repository of that name alone, the one with this tag.
    pub tag: Option<Tag>,
    /// Behind this repository and tag.
    pub after: Option<(String, String)>,
}

/// A tag, and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The manifest that it names.
    pub digest: Digest,
    /// The media type of that.
    pub media_type: String,
    /// Bytes of all that the manifest leads to, each digest once.
    pub bytes: u64,
    /// When the tag was last moved.
    pub moved: Timestamp,
    /// Whoever moved it.
    pub by: String,
}

/// The space that a repository takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryBytes {
    /// Its name.
    pub repository: String,
    /// Bytes of its blobs and manifests.
    pub bytes: u64,
    /// Those of blobs that no other repository has.
    pub alone: u64,
    /// Number of its blobs and manifests.
    pub count: u64,
}

/// The space that all takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllBytes {
    /// Bytes of blobs and manifests, each once, also of what is deleted and can be restored.
    pub bytes: u64,
    /// Number of them.
    pub count: u64,
    /// Repositories, sorted by name.
    pub repositories: Vec<RepositoryBytes>,
}

impl Catalogue {
    /// Tags, sorted by repository and name, at most `limit`; whether there are more.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_images(
        &self,
        wanted: ImagesWanted,
        limit: usize,
    ) -> Result<(Vec<ImageRow>, bool), CatalogueError> {
        let limit = limit.clamp(1, IMAGES_MAX);
        self.ask(move |from| {
            let mut found = images(from, &wanted, limit + 1)?;
            let more = found.len() > limit;
            found.truncate(limit);
            let mut rows = Vec::with_capacity(found.len());
            for (mut row, manifest) in found {
                row.bytes = bytes_of(from, manifest)?;
                rows.push(row);
            }
            Ok((rows, more))
        })
        .await
    }

    /// The space that hosted content takes.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_space(&self) -> Result<AllBytes, CatalogueError> {
        self.ask_at_leisure(|from| {
            let sql = "SELECT (SELECT coalesce(sum(size), 0) FROM hosted_blobs) + (SELECT coalesce(sum(length(bytes)), 0) FROM hosted_bytes),
                (SELECT count(*) FROM hosted_blobs) + (SELECT count(*) FROM hosted_bytes)";
            let mut query = from.prepare_cached(sql)?;
            let (bytes, count) = query.query_row([], |row| {
                Ok((rows::count(row.get(0)?), rows::count(row.get(1)?)))
            })?;
            Ok(AllBytes {
                bytes,
                count,
                repositories: repositories(from)?,
            })
        })
        .await
    }
}

/// Repositories that are deleted have names that begin with `#`.
fn images(
    from: &Connection,
    wanted: &ImagesWanted,
    limit: usize,
) -> rusqlite::Result<Vec<(ImageRow, i64)>> {
    let sql = "SELECT r.path, t.name, m.digest, m.media_type, t.moved_ms, t.moved_by, m.id
        FROM hosted_repositories r CROSS JOIN hosted_tags t ON t.repository = r.id CROSS JOIN hosted_manifests m ON m.id = t.manifest
        WHERE r.path >= ?1 AND NOT (r.path = ?1 AND t.name <= ?2) AND m.deleted_ms IS NULL
        AND substr(r.path, 1, 1) <> '#'
        AND (?3 IS NULL OR r.path = ?3 OR (?4 IS NULL AND substr(r.path, 1, length(?3) + 1) = ?3 || '/'))
        AND (?4 IS NULL OR t.name = ?4)
        ORDER BY r.path, t.name LIMIT ?5";
    let (path, tag) = wanted.after.clone().unwrap_or_default();
    let below = wanted.path.as_ref().map(Repository::as_str);
    // Nothing that sorts before the wanted name is below it.
    let path = match below {
        Some(below) if path.as_str() < below => below.to_owned(),
        Some(_) | None => path,
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let key = params![
        path,
        tag,
        below,
        wanted.tag.as_ref().map(Tag::as_str),
        limit
    ];
    let mut query = from.prepare_cached(sql)?;
    let found = query.query_map(key, |row| {
        let digest: Vec<u8> = row.get(2)?;
        let image = ImageRow {
            repository: row.get(0)?,
            tag: row.get(1)?,
            digest: rows::digest(&digest)?,
            media_type: row.get(3)?,
            bytes: 0,
            moved: Timestamp(rows::count(row.get(4)?)),
            by: row.get(5)?,
        };
        Ok((image, row.get(6)?))
    })?;
    found.collect()
}

/// Bytes of a manifest, of those that it leads to, and of their blobs, each once.
fn bytes_of(from: &Connection, manifest: i64) -> rusqlite::Result<u64> {
    let sql = "WITH RECURSIVE parts (id) AS (
            SELECT ?1 UNION
            SELECT c.id FROM parts p JOIN hosted_references f ON f.manifest = p.id AND f.is_manifest
                JOIN hosted_manifests c ON c.repository = f.repository AND c.digest = f.digest AND c.deleted_ms IS NULL)
        SELECT (SELECT coalesce(sum(m.size), 0) FROM parts p JOIN hosted_manifests m ON m.id = p.id)
            + (SELECT coalesce(sum(b.size), 0) FROM hosted_blobs b WHERE b.digest IN
                (SELECT f.digest FROM parts p JOIN hosted_references f ON f.manifest = p.id AND NOT f.is_manifest))";
    let mut query = from.prepare_cached(sql)?;
    query.query_row([manifest], |row| Ok(rows::count(row.get(0)?)))
}

fn repositories(from: &Connection) -> rusqlite::Result<Vec<RepositoryBytes>> {
    let sql = "SELECT r.path, coalesce(sum(u.size), 0), coalesce(sum(CASE WHEN u.others THEN 0 ELSE u.size END), 0), count(*)
        FROM hosted_repositories r JOIN (
            SELECT l.repository AS repository, b.size AS size, EXISTS (SELECT 1 FROM hosted_links o
                WHERE o.digest = l.digest AND o.repository <> l.repository AND o.deleted_ms IS NULL) AS others
                FROM hosted_links l JOIN hosted_blobs b ON b.digest = l.digest WHERE l.deleted_ms IS NULL
            UNION ALL
            SELECT m.repository, m.size, EXISTS (SELECT 1 FROM hosted_manifests o
                WHERE o.digest = m.digest AND o.repository <> m.repository AND o.deleted_ms IS NULL)
                FROM hosted_manifests m WHERE m.deleted_ms IS NULL
        ) u ON u.repository = r.id WHERE substr(r.path, 1, 1) <> '#' GROUP BY r.id ORDER BY r.path LIMIT ?1";
    let limit = i64::try_from(REPOSITORIES_MAX).unwrap_or(i64::MAX);
    let mut query = from.prepare_cached(sql)?;
    let found = query.query_map([limit], |row| {
        Ok(RepositoryBytes {
            repository: row.get(0)?,
            bytes: rows::count(row.get(1)?),
            alone: rows::count(row.get(2)?),
            count: rows::count(row.get(3)?),
        })
    })?;
    found.collect()
}
