//! Reads for an operator's pages. Each looks at a bounded number of rows, whatever there is: what is beyond is told of
//! as more.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::queries::{in_repository, namespace};
use super::rows;
use super::{Found, Namespace};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository};

/// Names that one search looks at, some milliseconds: it goes on where it has stopped.
pub const LOOKED_AT_MAX: usize = 10_000;

/// Tags of a repository, and entries of the collector's queue, that are counted.
pub const COUNTED_MAX: u64 = 1_000;

/// Parts of an image whose sizes are added up.
const PARTS_MAX: i64 = 500;

/// A part of a list, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked<T> {
    /// What was found.
    pub rows: Vec<T>,
    /// The list goes on behind this name.
    pub next: Option<String>,
    /// Names that were looked at.
    pub looked_at: usize,
}

/// A name that is before those of all repositories and namespaces, which begin with a letter or a digit.
const FIRST: &str = "/";

/// A search in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// A part of the name, whatever its case; nothing: all.
    pub part: String,
    /// Names behind this one.
    pub after: String,
    /// The most that is wanted.
    pub limit: usize,
}

/// A number that is not counted to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtLeast {
    /// The number.
    pub number: u64,
    /// There may be more.
    pub more: bool,
}

/// A repository, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryRow {
    /// Its name.
    pub path: String,
    /// Its tags.
    pub tags: AtLeast,
    /// When it was made.
    pub created: Timestamp,
}

/// A tag, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRow {
    /// Its name.
    pub name: String,
    /// The manifest that it names.
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// Bytes of the manifest and the blobs that it names, those of an index's manifests with them.
    pub bytes: AtLeast,
    /// When it was pushed.
    pub pushed: Timestamp,
    /// By whom.
    pub by: String,
}

/// The garbage collector's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its entries.
    pub length: AtLeast,
    /// When the first of them is due.
    pub oldest_due: Option<Timestamp>,
    /// Bytes of blobs that nothing refers to and that wait for the end of the grace.
    pub bytes: AtLeast,
}

impl Search {
    fn behind(&self) -> &str {
        FIRST.max(&self.after)
    }

    fn finds(&self, name: &str) -> bool {
        let part = self.part.as_bytes();
        part.is_empty()
            || name
                .as_bytes()
                .windows(part.len())
                .any(|it| it.eq_ignore_ascii_case(part))
    }

    /// Looks through sorted names, as far as a page may.
    fn through(
        &self,
        mut names: rusqlite::MappedRows<
            '_,
            impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<String>,
        >,
    ) -> rusqlite::Result<Looked<String>> {
        let mut looked = Looked {
            rows: Vec::new(),
            next: None,
            looked_at: 0,
        };
        let mut last: Option<String> = None;
        for name in names.by_ref() {
            if looked.rows.len() >= self.limit || looked.looked_at >= LOOKED_AT_MAX {
                looked.next = last;
                return Ok(looked);
            }
            let name = name?;
            looked.looked_at += 1;
            if self.finds(&name) {
                looked.rows.push(name.clone());
            }
            last = Some(name);
        }
        Ok(looked)
    }
}

impl<T> Looked<T> {
    fn with<U>(
        self,
        read: impl FnMut(T) -> rusqlite::Result<Option<U>>,
    ) -> rusqlite::Result<Looked<U>> {
        let rows = self.rows.into_iter().map(read);
        Ok(Looked {
            rows: rows
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
            next: self.next,
            looked_at: self.looked_at,
        })
    }
}

impl Catalogue {
    /// Namespaces.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_namespace_page(
        &self,
        search: Search,
    ) -> Result<Looked<Namespace>, CatalogueError> {
        self.ask(move |from| {
            let sql = "SELECT name FROM hosted_namespaces WHERE name > ?1 ORDER BY name";
            let mut query = from.prepare_cached(sql)?;
            let names = search.through(query.query_map([search.behind()], |row| row.get(0))?)?;
            let sql = "SELECT name, visibility, quota, sparse, created_ms, bytes FROM hosted_namespaces WHERE name = ?1";
            let mut query = from.prepare_cached(sql)?;
            names.with(|name| query.query_row([name], namespace).optional())
        })
        .await
    }

    /// Repositories, also those that have no manifest any more.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_repository_page(
        &self,
        search: Search,
    ) -> Result<Looked<RepositoryRow>, CatalogueError> {
        self.ask(move |from| {
            let sql = "SELECT path FROM hosted_repositories WHERE path > ?1 ORDER BY path";
            let mut query = from.prepare_cached(sql)?;
            let names = search.through(query.query_map([search.behind()], |row| row.get(0))?)?;
            let sql = "SELECT created_ms, (SELECT count(*) FROM (SELECT 1 FROM hosted_tags WHERE repository = r.id LIMIT ?2))
                FROM hosted_repositories r WHERE path = ?1";
            let mut query = from.prepare_cached(sql)?;
            names.with(|path| {
                let key = params![path, rows::whole(COUNTED_MAX + 1)];
                let found = query.query_row(key, |row| Ok((row.get(0)?, row.get(1)?)));
                Ok(found.optional()?.map(|(created, tags)| RepositoryRow {
                    path,
                    tags: AtLeast::counted(tags),
                    created: Timestamp(rows::count(created)),
                }))
            })
        })
        .await
    }

    /// Tags of a repository, in the order of lists.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_tag_page(
        &self,
        repository: &Repository,
        search: Search,
    ) -> Result<Found<Looked<TagRow>>, CatalogueError> {
        let repository = repository.clone();
        self.ask(move |from| {
            in_repository(from, &repository, |id| {
                let sql = "SELECT name FROM hosted_tags WHERE repository = ?1 AND name >= ?2 COLLATE NOCASE
                    AND NOT (name = ?2 COLLATE NOCASE AND name <= ?2) ORDER BY name COLLATE NOCASE, name";
                let mut query = from.prepare_cached(sql)?;
                let key = params![id, search.after];
                let names = search.through(query.query_map(key, |row| row.get(0))?)?;
                names.with(|name| tag(from, id, &name)).map(Some)
            })
        })
        .await
    }

    /// The garbage collector's queue.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_queue_ahead(&self) -> Result<Queue, CatalogueError> {
        self.ask(|from| {
            let most = rows::whole(COUNTED_MAX + 1);
            let sql = "SELECT count(*) FROM (SELECT 1 FROM hosted_reviews LIMIT ?1)";
            let length = from.prepare_cached(sql)?.query_row([most], |row| row.get(0))?;
            let sql = "SELECT min(due_ms) FROM hosted_reviews";
            let due: Option<i64> = from.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            let sql = "SELECT b.size FROM hosted_reviews v JOIN hosted_blobs b ON b.digest = v.digest WHERE v.kind = ?1 LIMIT ?2";
            Ok(Queue {
                length: AtLeast::counted(length),
                oldest_due: due.map(|it| Timestamp(rows::count(it))),
                bytes: sum(from, sql, rows::BLOB, most)?,
            })
        })
        .await
    }
}

fn tag(from: &Connection, repository: i64, name: &str) -> rusqlite::Result<Option<TagRow>> {
    let sql = "SELECT m.id, m.digest, m.media_type, m.size, t.moved_ms, t.moved_by
        FROM hosted_tags t JOIN hosted_manifests m ON m.id = t.manifest WHERE t.repository = ?1 AND t.name = ?2";
    let mut query = from.prepare_cached(sql)?;
    let found = query.query_row(params![repository, name], |row| {
        let (id, size): (i64, i64) = (row.get(0)?, row.get(3)?);
        let key: Vec<u8> = row.get(1)?;
        let tag = TagRow {
            name: name.to_owned(),
            digest: rows::digest(&key)?,
            media_type: row.get(2)?,
            bytes: AtLeast {
                number: rows::count(size),
                more: false,
            },
            pushed: Timestamp(rows::count(row.get(4)?)),
            by: row.get(5)?,
        };
        Ok((id, tag))
    });
    let Some((id, mut tag)) = found.optional()? else {
        return Ok(None);
    };
    let blobs = "SELECT b.size FROM hosted_references f JOIN hosted_blobs b ON b.digest = f.digest
        WHERE f.manifest = ?1 AND NOT f.is_manifest LIMIT ?2";
    tag.bytes.add(sum(from, blobs, id, PARTS_MAX)?);
    let of_children = "SELECT b.size FROM hosted_references f
        JOIN hosted_manifests c ON c.repository = f.repository AND c.digest = f.digest
        JOIN hosted_references g ON g.manifest = c.id AND NOT g.is_manifest
        JOIN hosted_blobs b ON b.digest = g.digest WHERE f.manifest = ?1 AND f.is_manifest LIMIT ?2";
    tag.bytes.add(sum(from, of_children, id, PARTS_MAX)?);
    Ok(Some(tag))
}

/// Adds up at most so many sizes.
fn sum(from: &Connection, sql: &str, key: i64, most: i64) -> rusqlite::Result<AtLeast> {
    let mut query = from.prepare_cached(sql)?;
    let sizes = query.query_map(params![key, most], |row| row.get::<_, i64>(0))?;
    let (mut sum, mut summed) = (AtLeast::default(), 0_i64);
    for size in sizes {
        sum.number = sum.number.saturating_add(rows::count(size?));
        summed += 1;
    }
    sum.more = summed >= most;
    Ok(sum)
}

impl AtLeast {
    /// A count that ended behind [`COUNTED_MAX`].
    fn counted(found: i64) -> Self {
        let found = rows::count(found);
        Self {
            number: found.min(COUNTED_MAX),
            more: found > COUNTED_MAX,
        }
    }

    fn add(&mut self, other: Self) {
        self.number = self.number.saturating_add(other.number);
        self.more |= other.more;
    }
}
