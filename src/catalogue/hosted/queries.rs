//! Reads of hosted repositories.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    Act, Deleted, DeletedRow, Done, HostedAct, Namespace, NamespaceWanted, Refused, TagPush,
    Visibility,
};
use super::{expire, removal, rows};
use crate::catalogue::changes::Change;
use crate::catalogue::shared::Watch;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, Repository};

/// Namespaces that are known by heart.
const NAMESPACES_MAX: i64 = 20_000;

/// The most entries of any page.
const PAGE_MAX: usize = 1_000;

/// Something in a repository, if the repository is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// There is no such repository.
    NoRepository,
    /// It was deleted, or its namespace, and can be restored.
    Deleted(Refused),
    /// It has no such thing.
    Nothing,
    /// It.
    This(T),
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRow {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// It.
    pub bytes: Bytes,
}

/// A blob of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// Its size in bytes.
    pub size: u64,
    /// It stays so long without a manifest.
    pub lease: Timestamp,
    /// A manifest names it.
    pub is_used: bool,
}

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrerRow {
    /// Its number, for the next page.
    pub id: i64,
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// The type of artifact that it is.
    pub artifact_type: Option<String>,
    /// Its annotations, as JSON.
    pub annotations: Option<String>,
}

impl Catalogue {
    /// Does an act on hosted repositories, and returns when it is durable.
    ///
    /// # Errors
    /// [`CatalogueError`]; nothing has changed, unless the disk did not answer in time.
    pub async fn act(&self, act: HostedAct) -> Result<Result<Done, Refused>, CatalogueError> {
        let applied = self.submit(Change::Hosted(act)).await?;
        Ok(applied.unwrap_or(Ok(Done::Unchanged)))
    }

    /// Has somebody be told of each act that is durable, before whoever asked for it is: that one may have gone. Only the
    /// first counts.
    pub fn watch_hosted(&self, watch: impl Fn(&Act) + Send + Sync + 'static) {
        let watch = Watch(Box::new(watch));
        self.inner.shared.watch.set(watch).ok();
    }

    /// All namespaces.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_namespaces(&self) -> Result<Vec<Namespace>, CatalogueError> {
        self.ask(|from| {
            let sql = "SELECT name, visibility, quota, sparse, created_ms, bytes FROM hosted_namespaces WHERE deleted_ms IS NULL ORDER BY name LIMIT ?1";
            let mut query = from.prepare_cached(sql)?;
            query.query_map([NAMESPACES_MAX], namespace)?.collect()
        })
        .await
    }

    /// A manifest of a repository.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Found<ManifestRow>, CatalogueError> {
        let (repository, reference) = (repository.clone(), reference.clone());
        self.ask(move |from| {
            in_repository(from, &repository, |id| match &reference {
                Reference::Tag(tag) => {
                    let sql = "SELECT m.digest, m.media_type, b.bytes FROM hosted_tags t JOIN hosted_manifests m ON m.id = t.manifest
                        JOIN hosted_bytes b ON b.digest = m.digest WHERE t.repository = ?1 AND t.name = ?2 AND m.deleted_ms IS NULL";
                    let mut query = from.prepare_cached(sql)?;
                    query.query_row(params![id, tag.as_str()], manifest).optional()
                }
                Reference::Digest(digest) => {
                    let sql = "SELECT m.digest, m.media_type, b.bytes FROM hosted_manifests m JOIN hosted_bytes b ON b.digest = m.digest
                        WHERE m.repository = ?1 AND m.digest = ?2 AND m.deleted_ms IS NULL";
                    let mut query = from.prepare_cached(sql)?;
                    query.query_row(params![id, rows::key(digest)], manifest).optional()
                }
            })
        })
        .await
    }

    /// A blob of a repository.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Found<LinkRow>, CatalogueError> {
        let (repository, digest) = (repository.clone(), *digest);
        self.ask(move |from| {
            in_repository(from, &repository, |id| {
                let sql = "SELECT b.size, l.lease_ms, EXISTS (SELECT 1 FROM hosted_references f JOIN hosted_manifests m ON m.id = f.manifest
                        WHERE f.repository = ?1 AND f.digest = ?2 AND NOT f.is_manifest AND m.deleted_ms IS NULL)
                    FROM hosted_links l JOIN hosted_blobs b ON b.digest = l.digest
                    WHERE l.repository = ?1 AND l.digest = ?2 AND l.deleted_ms IS NULL";
                let mut query = from.prepare_cached(sql)?;
                let found = query.query_row(params![id, rows::key(&digest)], |row| {
                    Ok(LinkRow {
                        size: rows::count(row.get(0)?),
                        lease: Timestamp(rows::count(row.get(1)?)),
                        is_used: row.get(2)?,
                    })
                });
                found.optional()
            })
        })
        .await
    }

    /// Tags of a repository after `after`, without regard to case.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_tags(
        &self,
        repository: &Repository,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Found<Vec<String>>, CatalogueError> {
        let (repository, after) = (repository.clone(), after.unwrap_or_default().to_owned());
        self.ask(move |from| {
            in_repository(from, &repository, |id| {
                let sql = "SELECT name FROM hosted_tags WHERE repository = ?1 AND name >= ?2 COLLATE NOCASE
                    AND NOT (name = ?2 COLLATE NOCASE AND name <= ?2) ORDER BY name COLLATE NOCASE, name LIMIT ?3";
                let mut query = from.prepare_cached(sql)?;
                let tags = query.query_map(params![id, after, page(limit)], |row| row.get(0))?;
                tags.collect::<rusqlite::Result<Vec<String>>>().map(Some)
            })
        })
        .await
    }

    /// Repositories that have a manifest, in these parts of the list of all: from a name to before another. The parts are
    /// sorted, and no two have a name in common.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_repositories_in(
        &self,
        parts: Vec<(String, String)>,
        limit: usize,
    ) -> Result<Vec<Repository>, CatalogueError> {
        self.ask(move |from| {
            let sql = "SELECT path FROM hosted_repositories r WHERE path >= ?1 AND path < ?2
                AND EXISTS (SELECT 1 FROM hosted_manifests m WHERE m.repository = r.id AND m.deleted_ms IS NULL)
                ORDER BY path LIMIT ?3";
            let mut query = from.prepare_cached(sql)?;
            let mut found = Vec::new();
            for (first, end) in parts {
                let left = page(limit.saturating_sub(found.len()));
                let paths = query.query_map(params![first, end, left], |row| row.get::<_, String>(0))?;
                for path in paths {
                    found.extend(Repository::parse(&path?).ok());
                }
                if found.len() >= limit {
                    break;
                }
            }
            Ok(found)
        })
        .await
    }

    /// Repositories after `after`, sorted by name.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_repositories(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Repository>, CatalogueError> {
        let after = after.unwrap_or_default().to_owned();
        self.ask(move |from| {
            let sql = "SELECT path FROM hosted_repositories r WHERE path > ?1 AND r.deleted_ms IS NULL
                AND EXISTS (SELECT 1 FROM hosted_manifests m WHERE m.repository = r.id AND m.deleted_ms IS NULL)
                ORDER BY path LIMIT ?2";
            let mut query = from.prepare_cached(sql)?;
            let paths = query.query_map(params![after, page(limit)], |row| row.get::<_, String>(0))?;
            let paths = paths.collect::<rusqlite::Result<Vec<String>>>()?;
            Ok(paths.iter().filter_map(|it| Repository::parse(it).ok()).collect())
        })
        .await
    }

    /// Manifests that refer to a digest, after the one with this number.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: i64,
        limit: usize,
    ) -> Result<Found<Vec<ReferrerRow>>, CatalogueError> {
        let (repository, subject) = (repository.clone(), *subject);
        let artifact_type = artifact_type.map(str::to_owned);
        self.ask(move |from| {
            in_repository(from, &repository, |id| {
                let sql = "SELECT id, digest, media_type, size, artifact_type, annotations FROM hosted_manifests
                    WHERE repository = ?1 AND subject = ?2 AND id > ?3 AND deleted_ms IS NULL
                    AND (?4 IS NULL OR artifact_type = ?4) ORDER BY id LIMIT ?5";
                let mut query = from.prepare_cached(sql)?;
                let key = params![id, rows::key(&subject), after, artifact_type, page(limit)];
                let found = query.query_map(key, referrer)?;
                found.collect::<rusqlite::Result<Vec<_>>>().map(Some)
            })
        })
        .await
    }

    /// Repositories that have a blob, at most `limit`.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_holders(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<Repository>, CatalogueError> {
        let digest = *digest;
        self.ask(move |from| {
            let paths = rows::holders(from, &digest, limit)?;
            Ok(paths
                .iter()
                .filter_map(|it| Repository::parse(it).ok())
                .collect())
        })
        .await
    }

    /// Blobs that were forgotten and whose files are there still, at most a page of them.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_doomed(&self) -> Result<Vec<Digest>, CatalogueError> {
        self.ask(|from| {
            let mut query = from.prepare_cached("SELECT digest FROM hosted_doomed LIMIT ?1")?;
            let keys = query.query_map([page(PAGE_MAX)], |row| row.get::<_, Vec<u8>>(0))?;
            keys.map(|key| rows::digest(&key?)).collect()
        })
        .await
    }

    /// True if a digest is that of a blob that is hosted.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosts(&self, digest: &Digest) -> Result<bool, CatalogueError> {
        let key = rows::key(digest);
        self.ask(move |from| {
            let sql = "SELECT 1 FROM hosted_blobs WHERE digest = ?1";
            from.prepare_cached(sql)?.exists([key])
        })
        .await
    }

    /// What can be restored as a whole, by name, behind this one.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_deleted(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<DeletedRow>, CatalogueError> {
        let after = after.to_owned();
        self.ask(move |from| removal::deleted_rows(from, &after, limit))
            .await
    }

    /// The refusal of a name that is kept for what was deleted.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_kept(
        &self,
        repository: &Repository,
    ) -> Result<Option<Refused>, CatalogueError> {
        let repository = repository.clone();
        self.ask(move |from| rows::kept(from, repository.as_str()))
            .await
    }

    /// Namespaces that were deleted and whose names are kept.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_kept_names(&self) -> Result<Vec<String>, CatalogueError> {
        self.ask(|from| {
            let sql = "SELECT was FROM hosted_namespaces WHERE was IS NOT NULL LIMIT ?1";
            let mut query = from.prepare_cached(sql)?;
            query
                .query_map([NAMESPACES_MAX], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Hands the tags of a repository over, the newest first, as long as the disk takes; and the number of the last entry of
    /// the history of tags.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_pushes<T: Send + 'static>(
        &self,
        repository: &Repository,
        take: impl FnOnce(&mut dyn Iterator<Item = TagPush>) -> T + Send + 'static,
    ) -> Result<Found<(i64, T)>, CatalogueError> {
        let repository = repository.clone();
        self.ask_at_leisure(move |from| {
            in_repository(from, &repository, |id| {
                let taken = expire::pushes(from, id, |rows| {
                    let mut failed = None;
                    let mut rows = rows.map_while(|row| row.map_err(|it| failed = Some(it)).ok());
                    let taken = take(&mut rows);
                    drop(rows);
                    failed.map_or(Ok(taken), Err)
                })?;
                Ok(Some(taken))
            })
        })
        .await
    }

    /// How far the rules have come by which tags go.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_pace(&self) -> Result<Option<String>, CatalogueError> {
        self.ask(|from| {
            let sql = "SELECT value FROM facts WHERE key = ?1";
            let mut query = from.prepare_cached(sql)?;
            query.query_row([super::PACE], |row| row.get(0)).optional()
        })
        .await
    }

    /// Deleted content that could go. Waits for as long as it takes.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_garbage(
        &self,
        at: Timestamp,
        lease_ms: u64,
    ) -> Result<Deleted, CatalogueError> {
        self.ask_at_leisure(move |from| super::let_go::look(from, at, lease_ms))
            .await
    }

    /// The length of the garbage collector's queue.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_queue(&self) -> Result<u64, CatalogueError> {
        self.ask(|from| {
            let sql = "SELECT count(*) FROM hosted_reviews";
            let length = from.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            Ok(rows::count(length))
        })
        .await
    }
}

pub(super) fn page(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) fn in_repository<T>(
    from: &Connection,
    repository: &Repository,
    read: impl FnOnce(i64) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<Found<T>> {
    Ok(match rows::repository(from, repository.as_str())? {
        None => match rows::kept(from, repository.as_str())? {
            Some(refused) => Found::Deleted(refused),
            None => Found::NoRepository,
        },
        Some(id) => read(id)?.map_or(Found::Nothing, Found::This),
    })
}

pub(super) fn namespace(row: &Row<'_>) -> rusqlite::Result<Namespace> {
    let visibility: String = row.get(1)?;
    let quota: Option<i64> = row.get(2)?;
    Ok(Namespace {
        wanted: NamespaceWanted {
            name: row.get(0)?,
            // A word of a later version shows nothing to nobody.
            visibility: if visibility == "public" {
                Visibility::Public
            } else {
                Visibility::Private
            },
            quota: quota.map(rows::count),
            sparse: row.get(3)?,
        },
        created: Timestamp(rows::count(row.get(4)?)),
        bytes: rows::count(row.get(5)?),
    })
}

fn manifest(row: &Row<'_>) -> rusqlite::Result<ManifestRow> {
    let key: Vec<u8> = row.get(0)?;
    let bytes: Vec<u8> = row.get(2)?;
    Ok(ManifestRow {
        digest: rows::digest(&key)?,
        media_type: row.get(1)?,
        bytes: bytes.into(),
    })
}

fn referrer(row: &Row<'_>) -> rusqlite::Result<ReferrerRow> {
    let key: Vec<u8> = row.get(1)?;
    Ok(ReferrerRow {
        id: row.get(0)?,
        digest: rows::digest(&key)?,
        media_type: row.get(2)?,
        size: rows::count(row.get(3)?),
        artifact_type: row.get(4)?,
        annotations: row.get(5)?,
    })
}
