//! Facts about content that is not stored are forgotten some time after it was last heard of, so
//! that the index does not grow for ever: links, tags, media types, and repositories of which nothing
//! else is known. What it costs is one question to upstream when somebody wants it again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::store::contents::Contents;
use crate::store::disk::work::{Kind, Task};
use crate::store::metadata::facts::Facts;
use crate::store::metadata::index::{Pair, Table};
use crate::store::metadata::schema::{self, LinkRecord, TagRecord};
use crate::store::metadata::tiered;

/// Time that facts about content that is not stored are kept: longer than most things are not
/// pulled that are pulled again at all.
const KEEP_DAYS: u32 = 30;

/// Time between two rounds through the index.
const EACH: Duration = Duration::from_hours(24);

/// So many entries are looked at at once: some milliseconds.
const PAGE_ENTRIES: usize = 1000;

/// Between two pages: a million entries take a minute, and a few percent of a core.
const PAGE_REST: Duration = Duration::from_millis(50);

/// Repositories go last, when their links and tags are gone.
const TABLES: [Table; 5] = [
    Table::Links,
    Table::Tags,
    Table::MediaTypes,
    Table::Repositories,
    Table::Tiered,
];

/// Forgets what has expired.
#[derive(Debug)]
pub(in crate::store) struct Expiry {
    contents: Arc<Contents>,
    facts: Arc<Facts>,
}

impl Expiry {
    pub(in crate::store) fn new(contents: &Arc<Contents>, facts: &Arc<Facts>) -> Self {
        Self {
            contents: Arc::clone(contents),
            facts: Arc::clone(facts),
        }
    }

    #[cfg(test)]
    pub(in crate::store) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Goes through the index now and then, until `stop`.
    pub(in crate::store) async fn run(self: &Arc<Self>, stop: &CancellationToken) {
        loop {
            for table in TABLES {
                let mut after = None;
                loop {
                    let expiry = Arc::clone(self);
                    let from = after.take();
                    let task = Task::new("look through the index");
                    let page = self
                        .contents
                        .layout()
                        .work()
                        .run(Kind::Keep, task, move || {
                            expiry.page(table, from.as_deref())
                        });
                    let rest = tokio::time::timeout(PAGE_REST, stop.cancelled());
                    after = page.await.unwrap_or_default();
                    if rest.await.is_ok() {
                        return;
                    }
                    if after.is_none() {
                        break;
                    }
                }
            }
            if tokio::time::timeout(EACH, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Forgets what has expired among some entries behind `after`; the last key, if there may be more.
    /// Blocks.
    pub(in crate::store) fn page(&self, table: Table, after: Option<&[u8]>) -> Option<Vec<u8>> {
        let known = &self.facts;
        // The pages are those of the file.
        known.flush();
        let page = known.page_below(table, &[], after, PAGE_ENTRIES);
        let last = page.last().map(|(key, _)| key.clone());
        let whole = page.len() == PAGE_ENTRIES;
        let now = self.contents.clock.now();
        let expired: Vec<Pair> = page
            .into_iter()
            .filter(|entry| self.is_expired(table, entry, now))
            .collect();
        if !expired.is_empty() {
            let forgotten = known.forget_entries(table, &expired);
            tracing::debug!(
                ?table,
                forgotten,
                "forgot what is known of content that is not stored"
            );
        }
        last.filter(|_| whole)
    }

    fn is_expired(&self, table: Table, (key, value): &Pair, now: Timestamp) -> bool {
        let stored = |digest| self.contents.contains(&digest).is_some();
        match table {
            Table::Links => {
                let digest = schema::decode_link_key(key).map(|(_, digest)| digest);
                let day = LinkRecord::decode(value).map_or(0, |record| record.day);
                is_old(day, now) && !digest.is_some_and(stored)
            }
            Table::Tags => {
                let tags: Vec<TagRecord> = serde_json::from_slice(value).unwrap_or_default();
                tags.iter()
                    .all(|tag| is_old(schema::day(tag.checked), now) && !stored(tag.digest))
            }
            // Written with the manifest, and deleted with it, but for some crash.
            Table::MediaTypes => !schema::decode_digest(key).is_some_and(stored),
            Table::Repositories => !self.facts.has_any(key),
            Table::Tiered => is_old(tiered::day_of(value), now),
            Table::Blobs | Table::Pins => false,
        }
    }
}

fn is_old(day: u32, now: Timestamp) -> bool {
    schema::day(now).saturating_sub(day) >= KEEP_DAYS
}
