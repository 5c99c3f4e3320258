//! What is known about the files and cannot be read from them: a small
//! key-value store (redb) behind an overlay of unwritten changes.
//!
//! Losing it costs requests to upstream, never bytes: blobs are found again by
//! their names, media types by looking into them, links and tags by asking.
//! So nobody waits for a write. Changes are visible at once in the overlay and
//! are written together, twice a second.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase as _, TableDefinition};

/// More unwritten changes than this mean that the disk does not keep up; later
/// ones are dropped until it does. About 20 MB.
const OVERLAY_ENTRIES_MAX: usize = 100_000;

/// What redb may keep of the file in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The tables. Keys and values are bytes; `records` gives them meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Table {
    /// digest → media type of a manifest.
    MediaTypes,
    /// digest → size and last use.
    Blobs,
    /// upstream, repository, digest → link.
    Links,
    /// upstream, repository, tag → what it named.
    Tags,
    /// upstream, repository → nothing.
    Repositories,
    /// upstream, repository, tag or digest → what a pinned image has.
    Pins,
}

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
/// A new value, or a deletion.
type Change = Option<Vec<u8>>;
type Changes = HashMap<(Table, Vec<u8>), Change>;

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// The index of a store.
#[derive(Debug)]
pub(super) struct Index {
    database: Database,
    overlay: Mutex<Overlay>,
    /// Held through a write, so that `Overlay::writing` is that of one write.
    flushing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Overlay {
    /// Not written yet.
    waiting: Changes,
    /// Being written now: still answers reads.
    writing: Arc<Changes>,
    /// Changes dropped since the last successful write.
    dropped: usize,
}

/// Why the index cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// Another process has it open.
    #[error("another roadstead is using this directory")]
    InUse,
    /// It is damaged or of another format.
    #[error("{0}")]
    Unreadable(redb::Error),
}

impl Table {
    const ALL: [Self; 6] = [
        Self::MediaTypes,
        Self::Blobs,
        Self::Links,
        Self::Tags,
        Self::Repositories,
        Self::Pins,
    ];

    const fn definition(self) -> Definition {
        TableDefinition::new(match self {
            Self::MediaTypes => "media_types",
            Self::Blobs => "blobs",
            Self::Links => "links",
            Self::Tags => "tags",
            Self::Repositories => "repositories",
            Self::Pins => "pins",
        })
    }
}

impl Index {
    /// Opens or makes the index, and makes sure that every table can be read.
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| {
                if matches!(error, redb::DatabaseError::DatabaseAlreadyOpen) {
                    IndexError::InUse
                } else {
                    IndexError::Unreadable(error.into())
                }
            })?;
        create_tables(&database).map_err(IndexError::Unreadable)?;
        Ok(Self {
            database,
            overlay: Mutex::default(),
            flushing: Mutex::default(),
        })
    }

    /// The unwritten change of a key, if there is one.
    fn unwritten(&self, table: Table, key: &[u8]) -> Option<Change> {
        let overlay = self.overlay();
        let key = (table, key.to_vec());
        overlay
            .waiting
            .get(&key)
            .or_else(|| overlay.writing.get(&key))
            .cloned()
    }

    /// The value of a key. Reads the file: not for async code.
    pub(super) fn read(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(known) = self.unwritten(table, key) {
            return known;
        }
        let read = || -> Result<_, redb::Error> {
            let found = self
                .database
                .begin_read()?
                .open_table(table.definition())?
                .get(key)?;
            Ok(found.map(|value| value.value().to_vec()))
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the index; going on as if the entry were not there");
            None
        })
    }

    /// The entries of a table whose keys lie after `after`, at most `limit`. Reads the file: not for async code.
    pub(super) fn scan(&self, table: Table, after: Option<&[u8]>, limit: usize) -> Vec<Pair> {
        let read = || -> Result<Vec<Pair>, redb::Error> {
            let opened = self.database.begin_read()?.open_table(table.definition())?;
            let mut pairs = Vec::new();
            for pair in opened.range(after.unwrap_or_default()..)? {
                if pairs.len() >= limit {
                    break;
                }
                let (key, value) = pair?;
                if Some(key.value()) != after {
                    pairs.push((key.value().to_vec(), value.value().to_vec()));
                }
            }
            Ok(pairs)
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the index; the list is not complete");
            Vec::new()
        })
    }

    /// Changes an entry (`None` deletes it). Returns at once.
    pub(super) fn change(&self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let mut overlay = self.overlay();
        if overlay.waiting.len() >= OVERLAY_ENTRIES_MAX {
            overlay.dropped += 1;
            return;
        }
        overlay.waiting.insert((table, key), value);
    }

    /// Writes what is waiting, durably. Not for async code.
    pub(super) fn flush(&self) {
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let writing = {
            let mut overlay = self.overlay();
            if overlay.waiting.is_empty() {
                return;
            }
            overlay.writing = Arc::new(std::mem::take(&mut overlay.waiting));
            Arc::clone(&overlay.writing)
        };
        let written = self.write(&writing);
        let mut overlay = self.overlay();
        overlay.writing = Arc::default();
        match written {
            Ok(()) => {
                let dropped = std::mem::take(&mut overlay.dropped);
                if dropped > 0 {
                    tracing::warn!(
                        dropped,
                        "the index could not keep up; what was dropped will be asked of upstream again"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(%error, entries = writing.len(), "cannot write the index; trying again. Is the disk full or read-only?");
                for (key, value) in writing.iter() {
                    overlay
                        .waiting
                        .entry(key.clone())
                        .or_insert_with(|| value.clone());
                }
            }
        }
    }

    fn write(&self, changes: &Changes) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        for table in Table::ALL {
            let mut opened = transaction.open_table(table.definition())?;
            for ((_, key), value) in changes.iter().filter(|((of, _), _)| *of == table) {
                match value {
                    Some(value) => drop(opened.insert(key.as_slice(), value.as_slice())?),
                    None => drop(opened.remove(key.as_slice())?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn overlay(&self) -> MutexGuard<'_, Overlay> {
        // Each change is one insert: a panic elsewhere leaves nothing half done.
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(table.definition())?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> Pair {
        (key.into(), value.into())
    }

    #[test]
    fn a_change_is_seen_before_and_after_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.redb")).unwrap();
        index.change(Table::Tags, b"a".to_vec(), Some(b"1".to_vec()));
        assert_eq!(index.read(Table::Tags, b"a"), Some(b"1".to_vec()));
        index.flush();
        assert_eq!(
            index.unwritten(Table::Tags, b"a"),
            None,
            "it is in the file alone now"
        );
        assert_eq!(index.read(Table::Tags, b"a"), Some(b"1".to_vec()));
        index.change(Table::Tags, b"a".to_vec(), None);
        assert_eq!(
            index.read(Table::Tags, b"a"),
            None,
            "a deletion hides the file's entry"
        );
        assert_eq!(index.read(Table::Links, b"a"), None);
    }

    #[test]
    fn a_scan_goes_on_after_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.redb")).unwrap();
        for key in ["c", "a", "b", "d"] {
            index.change(Table::Repositories, key.into(), Some(key.into()));
        }
        index.flush();
        assert_eq!(
            index.scan(Table::Repositories, None, 2),
            [pair("a", "a"), pair("b", "b")]
        );
        assert_eq!(
            index.scan(Table::Repositories, Some(b"b"), 9),
            [pair("c", "c"), pair("d", "d")]
        );
    }

    #[test]
    fn a_second_process_is_told_apart_from_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let _index = Index::open(&path).unwrap();
        assert!(matches!(Index::open(&path), Err(IndexError::InUse)));
        let garbage = dir.path().join("garbage.redb");
        #[expect(clippy::disallowed_methods, reason = "the test plays a damaged disk")]
        std::fs::write(&garbage, vec![7; 5000]).unwrap();
        assert!(matches!(
            Index::open(&garbage),
            Err(IndexError::Unreadable(_))
        ));
    }
}
