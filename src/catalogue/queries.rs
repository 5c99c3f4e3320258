//! Reads. An entry that makes no sense to this version is left out, with a warning.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::changes::{ADOPTED, HandPin, ImportedLink, ImportedTag, Link, NODE};
use super::shared::source_in;
use super::{Catalogue, CatalogueError, Contents};
use crate::clock::Timestamp;
use crate::oci::directory::Source;
use crate::oci::{Digest, Reference, Tag};

/// Entries read at once: some hundred kilobytes.
const PAGE_MAX: i64 = 2_000;

/// Verdicts that are read; more are not remembered.
const PUBLIC_MAX: i64 = 50_000;

/// Pins that are read; more cannot be made.
const PINS_MAX: i64 = 20_000;

impl Catalogue {
    /// The import of a tag.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn imported_tag(
        &self,
        source: &Source,
        tag: &Tag,
    ) -> Result<Option<ImportedTag>, CatalogueError> {
        if !self.may_have(source) {
            return Ok(None);
        }
        let (source, tag) = (source.clone(), tag.clone());
        self.ask(move |from| {
            let sql = "SELECT digest, media_type, imported_ms FROM imported_tags WHERE upstream = ?1 AND repository = ?2 AND tag = ?3";
            let key = params![source.upstream.as_str(), source.repository.as_str(), tag.as_str()];
            let found = from.prepare_cached(sql)?.query_row(key, |row| tag_in(row, 0));
            Ok(found.optional()?.flatten())
        })
        .await
    }

    /// The link of a repository to a digest, by an import.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn imported_link(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<Option<Link>, CatalogueError> {
        if !self.may_have(source) {
            return Ok(None);
        }
        let (source, digest) = (source.clone(), digest.to_string());
        self.ask(move |from| {
            let sql = "SELECT digest, manifest, blob, given, size FROM imported_links WHERE upstream = ?1 AND repository = ?2 AND digest = ?3";
            let key = params![source.upstream.as_str(), source.repository.as_str(), digest];
            let found = from.prepare_cached(sql)?.query_row(key, |row| link_in(row, 0));
            Ok(found.optional()?.flatten().map(|found| found.link))
        })
        .await
    }

    /// Imported tags after `after`, sorted; empty at the end.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn tag_page(
        &self,
        after: Option<&(Source, Tag)>,
    ) -> Result<Vec<(Source, Tag, ImportedTag)>, CatalogueError> {
        let after = after.map(|(source, tag)| (source.clone(), tag.to_string()));
        self.page(after, |from, after| {
            let sql = "SELECT upstream, repository, tag, digest, media_type, imported_ms FROM imported_tags
                WHERE (upstream, repository, tag) > (?1, ?2, ?3) ORDER BY upstream, repository, tag LIMIT ?4";
            rows(from, sql, after, |row| {
                let tag: String = row.get(2)?;
                let entry = (source_in(row)?, Tag::parse(&tag).ok(), tag_in(row, 3)?);
                Ok(match entry {
                    (Some(source), Some(tag), Some(imported)) => Some((source, tag, imported)),
                    _ => None,
                })
            })
        })
        .await
    }

    /// Imported links after `after`, sorted; empty at the end.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn link_page(
        &self,
        after: Option<&(Source, Digest)>,
    ) -> Result<Vec<(Source, ImportedLink)>, CatalogueError> {
        let after = after.map(|(source, digest)| (source.clone(), digest.to_string()));
        self.page(after, |from, after| {
            let sql = "SELECT upstream, repository, digest, manifest, blob, given, size FROM imported_links
                WHERE (upstream, repository, digest) > (?1, ?2, ?3) ORDER BY upstream, repository, digest LIMIT ?4";
            rows(from, sql, after, |row| Ok(source_in(row)?.zip(link_in(row, 2)?)))
        })
        .await
    }

    /// The pins that were made by hand.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn pins(&self) -> Result<Vec<HandPin>, CatalogueError> {
        let none = (self.inner.contents == Contents::Nothing).then(Vec::new);
        match none {
            Some(none) => Ok(none),
            None => self.ask(pins).await,
        }
    }

    /// Repositories that were seen to be public, the latest first.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn public_repositories(&self) -> Result<Vec<(Source, Timestamp)>, CatalogueError> {
        if self.inner.contents == Contents::Nothing {
            return Ok(Vec::new());
        }
        self.ask(|from| {
            let sql = "SELECT upstream, repository, seen_ms FROM public_repositories ORDER BY seen_ms DESC LIMIT ?1";
            let mut statement = from.prepare_cached(sql)?;
            let rows = statement.query_map([PUBLIC_MAX], |row| {
                let seen = Timestamp(count(row.get(2)?));
                Ok(source_in(row)?.map(|source| (source, seen)))
            })?;
            rows.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Waits until the pins can be read, for as long as the disk takes.
    ///
    /// # Errors
    /// [`CatalogueError`], but not that it takes long.
    pub async fn wait_for_pins(&self) -> Result<(), CatalogueError> {
        if self.inner.contents != Contents::Nothing {
            self.ask_at_leisure(pins).await?;
        }
        Ok(())
    }

    /// True if caches of earlier versions were looked through.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn has_adopted(&self) -> Result<bool, CatalogueError> {
        self.ask(|from| {
            let sql = "SELECT 1 FROM facts WHERE key = ?1";
            from.prepare_cached(sql)?.exists(params![ADOPTED])
        })
        .await
    }

    /// The name of this node among those of a cluster, if it was given one.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn node(&self) -> Result<Option<String>, CatalogueError> {
        self.ask(|from| {
            let sql = "SELECT value FROM facts WHERE key = ?1";
            let mut query = from.prepare_cached(sql)?;
            query.query_row(params![NODE], |row| row.get(0)).optional()
        })
        .await
    }

    async fn page<T: Send + 'static>(
        &self,
        after: Option<(Source, String)>,
        read: impl FnOnce(&Connection, [String; 3]) -> rusqlite::Result<Vec<T>> + Send + 'static,
    ) -> Result<Vec<T>, CatalogueError> {
        if self.inner.contents == Contents::Nothing {
            return Ok(Vec::new());
        }
        // No name is empty: all of them come after this.
        let after = after.map_or_else(Default::default, |(source, last)| {
            [
                source.upstream.to_string(),
                source.repository.to_string(),
                last,
            ]
        });
        self.ask(move |from| read(from, after)).await
    }
}

fn pins(from: &Connection) -> rusqlite::Result<Vec<HandPin>> {
    let sql = "SELECT upstream, repository, reference, since_ms, digests FROM pins LIMIT ?1";
    let mut statement = from.prepare_cached(sql)?;
    let rows = statement.query_map([PINS_MAX], |row| {
        let (reference, digests): (String, String) = (row.get(2)?, row.get(4)?);
        let digests: Result<Vec<Digest>, _> = digests.lines().map(Digest::parse).collect();
        let entry = (
            source_in(row)?,
            Reference::parse(&reference).ok(),
            digests.ok(),
        );
        let (Some(source), Some(reference), Some(digests)) = entry else {
            return Ok(None);
        };
        Ok(Some(HandPin {
            source,
            reference,
            since: Timestamp(count(row.get(3)?)),
            digests,
        }))
    })?;
    sound(rows.collect::<rusqlite::Result<Vec<_>>>()?)
}

/// A page of rows. One in which nothing makes sense looks like the end: it is as good as none.
fn rows<T>(
    from: &Connection,
    sql: &str,
    [upstream, repository, last]: [String; 3],
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = from.prepare_cached(sql)?;
    let rows = statement.query_map(params![upstream, repository, last, PAGE_MAX], read)?;
    sound(rows.collect::<rusqlite::Result<Vec<_>>>()?)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the end of functions that return one"
)]
fn sound<T>(entries: Vec<Option<T>>) -> rusqlite::Result<Vec<T>> {
    let all = entries.len();
    let sound: Vec<T> = entries.into_iter().flatten().collect();
    if sound.len() < all {
        let left_out = all - sound.len();
        tracing::warn!(
            left_out,
            "entries of the catalogue make no sense to this version; they are left as they are"
        );
    }
    Ok(sound)
}

fn tag_in(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<ImportedTag>> {
    let digest: String = row.get(first)?;
    let Ok(digest) = Digest::parse(&digest) else {
        return Ok(None);
    };
    Ok(Some(ImportedTag {
        digest,
        media_type: row.get(first + 1)?,
        imported: Timestamp(count(row.get(first + 2)?)),
    }))
}

fn link_in(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<ImportedLink>> {
    let digest: String = row.get(first)?;
    let Ok(digest) = Digest::parse(&digest) else {
        return Ok(None);
    };
    let size: Option<i64> = row.get(first + 4)?;
    let link = Link {
        manifest: row.get(first + 1)?,
        blob: row.get(first + 2)?,
        given: row.get(first + 3)?,
        size: size.map(count),
    };
    Ok(Some(ImportedLink { digest, link }))
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
