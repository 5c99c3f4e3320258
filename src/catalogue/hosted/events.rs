//! Changes, for those who follow: one row for each, in the transaction of the change. They are kept up to a number of them,
//! whoever has read them; whoever comes too late is told how many he has missed.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows;
use super::{Done, Refused};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::clock::Timestamp;
use crate::oci::{Digest, Repository, Tag};

/// Changes that go in one transaction, where there are too many.
const TRIM_MAX: i64 = 1_000;

/// Those who follow with a place of their own.
const CONSUMERS_MAX: i64 = 100;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Its number: one more than that of the change before.
    pub seq: i64,
    /// When it was made.
    pub at: Timestamp,
    /// The kind of change: `tag.moved` and so on.
    pub kind: String,
    /// The repository or namespace.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<Digest>,
    /// Whoever has made it.
    pub by: String,
    /// The rule by which it was made.
    pub rule: Option<String>,
}

/// Changes behind a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// They.
    pub events: Vec<EventRow>,
    /// The number before the first that is kept.
    pub before_first: i64,
    /// The number of the last that was made.
    pub last: i64,
}

/// An entry of the history of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagMove {
    /// Its number.
    pub seq: i64,
    /// What the tag named before.
    pub from: Option<Digest>,
    /// What it named then.
    pub to: Option<Digest>,
    /// When.
    pub at: Timestamp,
    /// Who has made it.
    pub by: String,
}

impl Catalogue {
    /// Changes behind a number, the oldest first.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_events(&self, after: i64, limit: usize) -> Result<Events, CatalogueError> {
        self.ask(move |from| {
            let transaction = from.unchecked_transaction()?;
            let (before_first, last) = bounds(&transaction)?;
            let sql = "SELECT seq, at_ms, kind, repository, tag, digest, by, rule FROM hosted_changes WHERE seq > ?1 ORDER BY seq LIMIT ?2";
            let mut query = transaction.prepare_cached(sql)?;
            let key = params![after, super::queries::page(limit)];
            let events = query.query_map(key, event)?;
            let events = events.collect::<rusqlite::Result<_>>()?;
            Ok(Events { events, before_first, last })
        })
        .await
    }

    /// The number of the last change before a time.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_events_before(&self, at: Timestamp) -> Result<i64, CatalogueError> {
        self.ask(move |from| {
            let (_, last) = bounds(from)?;
            let sql = "SELECT min(seq) - 1 FROM hosted_changes WHERE at_ms >= ?1";
            let mut query = from.prepare_cached(sql)?;
            let before: Option<i64> = query.query_row([rows::ms(at)], |row| row.get(0))?;
            Ok(before.unwrap_or(last))
        })
        .await
    }

    /// The number before the first change that is kept, and that of the last.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_event_bounds(&self) -> Result<(i64, i64), CatalogueError> {
        self.ask(bounds).await
    }

    /// How far somebody has come who follows, and how many changes he has missed.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_cursor(
        &self,
        consumer: &'static str,
    ) -> Result<Option<(i64, u64)>, CatalogueError> {
        self.ask(move |from| {
            let sql = "SELECT seq, missed FROM hosted_cursors WHERE consumer = ?1";
            let mut query = from.prepare_cached(sql)?;
            let found = query.query_row([consumer], |row| {
                Ok((row.get(0)?, rows::count(row.get(1)?)))
            });
            found.optional()
        })
        .await
    }

    /// The history of a tag, the latest first, before the entry of this number. Nothing: there is no such repository.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn hosted_history(
        &self,
        repository: &Repository,
        tag: &Tag,
        before: Option<i64>,
        limit: usize,
    ) -> Result<super::Found<Vec<TagMove>>, CatalogueError> {
        let (repository, tag) = (repository.clone(), tag.clone());
        self.ask(move |from| {
            super::queries::in_repository(from, &repository, |id| {
                let sql = "SELECT seq, before, after, at_ms, by FROM hosted_tag_history
                    WHERE repository = ?1 AND name = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4";
                let mut query = from.prepare_cached(sql)?;
                let before = before.unwrap_or(i64::MAX);
                let key = params![id, tag.as_str(), before, super::queries::page(limit)];
                let moves = query.query_map(key, |row| {
                    let digest = |key: Option<Vec<u8>>| key.map(|it| rows::digest(&it)).transpose();
                    Ok(TagMove {
                        seq: row.get(0)?,
                        from: digest(row.get(1)?)?,
                        to: digest(row.get(2)?)?,
                        at: Timestamp(rows::count(row.get(3)?)),
                        by: row.get(4)?,
                    })
                })?;
                moves.collect::<rusqlite::Result<Vec<_>>>().map(Some)
            })
        })
        .await
    }
}

/// The number before the first change that is kept, and that of the last that was made.
fn bounds(from: &Connection) -> rusqlite::Result<(i64, i64)> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'hosted_changes'";
    let mut query = from.prepare_cached(sql)?;
    let last: Option<i64> = query.query_row([], |row| row.get(0)).optional()?;
    let last = last.unwrap_or_default();
    let sql = "SELECT min(seq) - 1 FROM hosted_changes";
    let first: Option<i64> = from.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok((first.unwrap_or(last), last))
}

fn event(row: &rusqlite::Row<'_>) -> rusqlite::Result<EventRow> {
    let digest: Option<Vec<u8>> = row.get(5)?;
    Ok(EventRow {
        seq: row.get(0)?,
        at: Timestamp(rows::count(row.get(1)?)),
        kind: row.get(2)?,
        repository: row.get(3)?,
        tag: row.get(4)?,
        digest: digest.map(|key| rows::digest(&key)).transpose()?,
        by: row.get(6)?,
        rule: row.get(7)?,
    })
}

/// Drops some of the oldest changes, where there are more than these.
pub(super) fn trim(to: &Connection, keep: i64) -> rusqlite::Result<Result<Done, Refused>> {
    let (_, last) = bounds(to)?;
    let sql = "DELETE FROM hosted_changes WHERE seq IN (SELECT seq FROM hosted_changes WHERE seq <= ?1 ORDER BY seq LIMIT ?2)";
    let gone = to
        .prepare_cached(sql)?
        .execute(params![last.saturating_sub(keep), TRIM_MAX])?;
    Ok(Ok(if gone > 0 {
        Done::Changed
    } else {
        Done::Unchanged
    }))
}

/// Notes how far somebody has come who follows.
pub(super) fn advance(
    to: &Connection,
    consumer: &str,
    (seq, missed): (i64, u64),
) -> rusqlite::Result<Result<Done, Refused>> {
    let sql = "INSERT INTO hosted_cursors (consumer, seq, missed)
        SELECT ?1, ?2, ?3 WHERE (SELECT count(*) FROM hosted_cursors WHERE consumer <> ?1) < ?4
        ON CONFLICT DO UPDATE SET seq = excluded.seq, missed = missed + excluded.missed";
    let row = params![consumer, seq, rows::whole(missed), CONSUMERS_MAX];
    let changed = to.prepare_cached(sql)?.execute(row)?;
    Ok(Ok(if changed > 0 {
        Done::Changed
    } else {
        Done::Unchanged
    }))
}
