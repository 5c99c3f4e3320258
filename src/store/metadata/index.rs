//! Facts about the files that cannot be read from them: a small key-value store (redb) behind an overlay of unwritten
//! changes.
//!
//! Losing it costs requests to upstream, never bytes: blobs are found again by their names, media types by looking into
//! them, links and tags by asking. So nobody waits for a write. Changes are visible at once in the overlay and are
//! written together, twice a second.
//!
//! redb gives up a file for good when an operation on it fails. It is opened again then, at growing
//! intervals, and until that succeeds a copy of it is read that cannot be written.

mod backend;
mod bound;
mod looking;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadableDatabase as _, ReadableTableMetadata as _,
    StorageError,
};

use self::backend::Copy;
pub(in crate::store) use self::backend::OnDisk;
pub(in crate::store) use self::table::Table;
use crate::store::disk::health::{self, Part};
use crate::store::disk::layout::Layout;

/// More unwritten changes than this, in bytes, mean that the disk does not keep up; later ones are dropped
/// until it does.
const OVERLAY_BYTES_MAX: usize = 20 * 1024 * 1024;

/// The same for which blobs there are, which cannot be asked of anybody: some hours of a busy mirror whose
/// index fails. Beyond it the next start looks for them.
const OVERLAY_BLOBS_BYTES_MAX: usize = 4 * OVERLAY_BYTES_MAX;

/// Bytes that a change takes beside its key and value.
const CHANGE_BYTES: usize = 120;

/// So often in a row an index that could be read once cannot be opened again, for other reasons than a disk
/// that is full or read-only: then it is damaged, and begun anew.
const REOPENED_IN_VAIN_MAX: u32 = 5;

/// Bytes of the file that redb may keep in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

type Entries = ReadOnlyTable<&'static [u8], &'static [u8]>;
/// A new value, or a deletion.
type Change = Option<Vec<u8>>;
type Changes = HashMap<(Table, Vec<u8>), Change>;

/// A key and its value.
pub(in crate::store) type Pair = (Vec<u8>, Vec<u8>);

/// The index of a store.
#[derive(Debug)]
pub(in crate::store) struct Index {
    layout: Arc<Layout>,
    database: RwLock<Opened>,
    /// Set when the database could not be read: it has given up then.
    unreadable: AtomicBool,
    /// Set when the file is another process's: it is not opened again.
    is_closed: AtomicBool,
    /// Number of times it turned out damaged when it was read, though it can be opened.
    damages: AtomicU32,
    overlay: Mutex<Overlay>,
    /// Held through a write, so that `Overlay::writing` is that of one write. How often in a row it was
    /// opened again in vain.
    flushing: Mutex<u32>,
}

/// The index's file, as far as it can be used.
#[derive(Debug)]
enum Opened {
    Database(Database),
    /// It cannot be written, and can be read all the same.
    Copy(Database),
    Nothing,
}

#[derive(Debug, Default)]
struct Overlay {
    /// Not written yet.
    waiting: Changes,
    /// Bytes that these take in memory.
    weight: usize,
    /// Being written now: still answers reads.
    writing: Arc<Changes>,
    /// Changes dropped since the last successful write.
    dropped: usize,
}

/// The reason why the index cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum IndexError {
    /// Another process has it open.
    #[error("another roadstead is using this directory")]
    InUse,
    /// It is damaged or of another format.
    #[error("{0}")]
    Unreadable(redb::Error),
    /// The disk is full, read-only or fails.
    #[error("{0}")]
    Disk(redb::Error),
}

impl Index {
    /// Opens or makes the index, and makes sure that every table can be read. On a disk that is full or
    /// read-only it goes on with what can be read.
    pub(in crate::store) fn open(layout: &Arc<Layout>) -> Result<Self, IndexError> {
        if layout.is_for_looking() {
            return looking::open(layout).map(|copy| Self::of(layout, Opened::Database(copy)));
        }
        let opened = match open(layout) {
            Ok(database) => Opened::Database(database),
            Err(IndexError::Disk(error)) => {
                let copy = open_copy(layout);
                if is_damage(&error) && copy.database().is_none() {
                    return Err(IndexError::Unreadable(error));
                }
                layout.health().index_failed(error.to_string());
                copy
            }
            Err(error @ (IndexError::InUse | IndexError::Unreadable(_))) => return Err(error),
        };
        Ok(Self::of(layout, opened))
    }

    /// Goes on without the file, which can neither be read nor moved out of the way now.
    pub(in crate::store) fn without(layout: &Arc<Layout>, why: String) -> Self {
        layout.health().index_failed(why);
        Self::of(layout, Opened::Nothing)
    }

    fn of(layout: &Arc<Layout>, opened: Opened) -> Self {
        Self {
            layout: Arc::clone(layout),
            database: RwLock::new(opened),
            unreadable: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            damages: AtomicU32::new(0),
            overlay: Mutex::default(),
            flushing: Mutex::new(0),
        }
    }

    /// The unwritten change of a key, if there is one.
    pub(in crate::store) fn unwritten(&self, table: Table, key: &[u8]) -> Option<Change> {
        let overlay = self.overlay();
        let key = (table, key.to_vec());
        overlay
            .waiting
            .get(&key)
            .or_else(|| overlay.writing.get(&key))
            .cloned()
    }

    /// The value of a key. Reads the file: not for async code.
    pub(in crate::store) fn read(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(known) = self.unwritten(table, key) {
            return known;
        }
        let read = |entries: &Entries| Ok(entries.get(key)?.map(|value| value.value().to_vec()));
        let read = self.ask(table, read).unwrap_or_else(|error| {
            self.cannot_read(&error);
            None
        });
        read.flatten()
    }

    /// Reads a table of the file; nothing where it is not open.
    fn ask<T>(
        &self,
        table: Table,
        ask: impl FnOnce(&Entries) -> Result<T, redb::Error>,
    ) -> Result<Option<T>, redb::Error> {
        unless_panicking(|| {
            let opened = self.opened();
            let Some(database) = opened.database() else {
                return Ok(None);
            };
            let entries = database.begin_read()?.open_table(table.definition())?;
            ask(&entries).map(Some)
        })
    }

    /// Says it once: it is opened again soon.
    fn cannot_read(&self, error: &redb::Error) {
        if !self.unreadable.swap(true, Ordering::AcqRel) {
            if is_damage(error) {
                self.damages.fetch_add(1, Ordering::AcqRel);
            }
            tracing::warn!(%error, "cannot read the index; going on as if what is wanted were not there");
        }
    }

    /// The entries of a table whose keys lie after `after`, at most `limit`. Reads the file: not for async code.
    pub(in crate::store) fn scan(
        &self,
        table: Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Pair> {
        self.page(table, after, limit).unwrap_or_else(|error| {
            self.cannot_read(&error);
            Vec::new()
        })
    }

    /// The same, for who must know whether that is all.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(in crate::store) fn page(
        &self,
        table: Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, redb::Error> {
        let page = self.ask(table, |entries| {
            let mut pairs = Vec::new();
            for pair in entries.range(after.unwrap_or_default()..)? {
                if pairs.len() >= limit {
                    break;
                }
                let (key, value) = pair?;
                if Some(key.value()) != after {
                    pairs.push((key.value().to_vec(), value.value().to_vec()));
                }
            }
            Ok(pairs)
        })?;
        page.ok_or_else(|| io::Error::other("it is not open").into())
    }

    /// Number of entries that a table has in the file, as far as it can be read. Not for async code.
    pub(in crate::store) fn entries(&self, table: Table) -> u64 {
        let count = self.ask(table, |entries| Ok(entries.len()?));
        count.ok().flatten().unwrap_or_default()
    }

    /// Gives every entry of a table in the file to `each`, in order; false if it cannot be read to the
    /// end. Not for async code.
    pub(in crate::store) fn each(&self, table: Table, mut each: impl FnMut(&[u8], &[u8])) -> bool {
        let read = self.ask(table, |entries| {
            for pair in entries.range::<&[u8]>(..)? {
                let (key, value) = pair?;
                each(key.value(), value.value());
            }
            Ok(())
        });
        read.unwrap_or_else(|error| {
            self.cannot_read(&error);
            None
        })
        .is_some()
    }

    /// True if what is read from it is all that was written.
    pub(in crate::store) fn is_sound(&self) -> bool {
        let failed = self.unreadable.load(Ordering::Acquire);
        !failed && matches!(&*self.opened(), Opened::Database(_))
    }

    /// Changes an entry (`None` deletes it). Returns at once.
    pub(in crate::store) fn change(&self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let most = match table {
            Table::Blobs => OVERLAY_BLOBS_BYTES_MAX,
            Table::MediaTypes
            | Table::Links
            | Table::Tags
            | Table::Repositories
            | Table::Pins
            | Table::Tiered => OVERLAY_BYTES_MAX,
        };
        self.change_within(most, table, key, value);
    }

    fn change_within(&self, most: usize, table: Table, key: Vec<u8>, value: Change) {
        let mut overlay = self.overlay();
        let key = (table, key);
        // One that replaces another is not to be hidden by it.
        if overlay.weight < most || overlay.waiting.contains_key(&key) {
            return overlay.put(key, value);
        }
        overlay.dropped += 1;
        if table == Table::Blobs {
            let incomplete = (table, crate::store::metadata::records::INCOMPLETE.to_vec());
            overlay.put(incomplete, Some(Vec::new()));
        }
    }

    /// Writes what is waiting, durably; whether all of it is in the file. After a failure nothing happens
    /// until it is due to be tried again. Not for async code.
    pub(in crate::store) fn flush(&self) -> bool {
        let mut in_vain = self.flushing_alone();
        if self.is_closed.load(Ordering::Acquire) {
            return false;
        }
        let health = self.layout.health();
        if self.unreadable.load(Ordering::Acquire) && !health.is_in_trouble(Part::Index) {
            self.give_up("it cannot be read".to_owned());
        }
        if health.is_in_trouble(Part::Index) {
            if !health.retry_is_due(Part::Index) {
                return false;
            }
            if let Err(error) = self.reopen(&mut in_vain) {
                health.index_failed(error);
                return false;
            }
        }
        let writing = {
            let mut overlay = self.overlay();
            overlay.writing = Arc::new(std::mem::take(&mut overlay.waiting));
            overlay.weight = 0;
            Arc::clone(&overlay.writing)
        };
        let written = if writing.is_empty() && !health.is_in_trouble(Part::Index) {
            Ok(())
        } else {
            unless_panicking(|| self.write(&writing))
        };
        let mut overlay = self.overlay();
        overlay.writing = Arc::default();
        let Err(error) = written else {
            let dropped = std::mem::take(&mut overlay.dropped);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "the index could not keep up; what was dropped will be asked of upstream again"
                );
            }
            drop(overlay);
            *in_vain = 0;
            health.works(Part::Index);
            return dropped == 0;
        };
        for (key, value) in writing.iter() {
            if !overlay.waiting.contains_key(key) {
                overlay.put(key.clone(), value.clone());
            }
        }
        drop(overlay);
        self.give_up(error.to_string());
        false
    }

    /// Lets go of the file for good: another process has it from now on. What was not written yet can still be read.
    pub(in crate::store) fn close(&self) {
        let _alone = self.flushing_alone();
        self.is_closed.store(true, Ordering::Release);
        self.opened_to_change().close();
    }

    /// The database has failed: from now on a copy of it is read.
    fn give_up(&self, why: String) {
        self.layout.health().index_failed(why);
        let mut opened = self.opened_to_change();
        // First, because it has the file locked.
        opened.close();
        if !self.is_closed.load(Ordering::Acquire) {
            *opened = open_copy(&self.layout);
        }
        self.unreadable.store(false, Ordering::Release);
    }

    /// Opens the file again. If it cannot be read any more, a new one is begun.
    fn reopen(&self, in_vain: &mut u32) -> Result<(), String> {
        let mut opened = self.opened_to_change();
        opened.close();
        let worn = self.damages.load(Ordering::Acquire) >= REOPENED_IN_VAIN_MAX;
        let error = match open(&self.layout) {
            Ok(database) if worn => {
                drop(database);
                IndexError::Unreadable(io::Error::from(io::ErrorKind::InvalidData).into())
            }
            Ok(database) => {
                *opened = Opened::Database(database);
                self.unreadable.store(false, Ordering::Release);
                return Ok(());
            }
            Err(error) => error,
        };
        *opened = open_copy(&self.layout);
        let damaged = match &error {
            IndexError::Unreadable(_) => true,
            IndexError::Disk(error) => is_damage(error) && opened.database().is_none(),
            IndexError::InUse => false,
        };
        *in_vain = if damaged { *in_vain + 1 } else { 0 };
        if worn || *in_vain >= REOPENED_IN_VAIN_MAX {
            *in_vain = 0;
            self.damages.store(0, Ordering::Release);
            opened.close();
            set_aside(&self.layout, &error.to_string()).map_err(|error| error.to_string())?;
            let anew = open(&self.layout).map_err(|error| error.to_string())?;
            *opened = Opened::Database(anew);
            drop(opened);
            // The next start looks for the blobs that it does not know.
            self.change(
                Table::Blobs,
                crate::store::metadata::records::INCOMPLETE.to_vec(),
                Some(Vec::new()),
            );
            return Ok(());
        }
        Err(error.to_string())
    }

    /// Nothing is written meanwhile.
    fn flushing_alone(&self) -> MutexGuard<'_, u32> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, changes: &Changes) -> Result<(), redb::Error> {
        let opened = self.opened();
        let Opened::Database(database) = &*opened else {
            return Err(io::Error::other("it is not open").into());
        };
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
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

    fn opened(&self) -> RwLockReadGuard<'_, Opened> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened_to_change(&self) -> RwLockWriteGuard<'_, Opened> {
        let opened = self.database.write();
        opened.unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay(&self) -> MutexGuard<'_, Overlay> {
        // Each change is one insert: a panic elsewhere leaves nothing half done.
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Overlay {
    fn put(&mut self, key: (Table, Vec<u8>), value: Change) {
        let weigh =
            |value: &Change| CHANGE_BYTES + key.1.len() + value.as_ref().map_or(0, Vec::len);
        let before = self.waiting.get(&key).map_or(0, weigh);
        self.weight = (self.weight + weigh(&value)).saturating_sub(before);
        self.waiting.insert(key, value);
    }
}

impl Opened {
    fn close(&mut self) {
        let opened = std::mem::replace(self, Self::Nothing);
        // What it cannot write at its end any more is lost anyway.
        drop(unless_panicking(|| {
            drop(opened);
            Ok::<(), redb::Error>(())
        }));
    }

    fn database(&self) -> Option<&Database> {
        match self {
            Self::Database(database) | Self::Copy(database) => Some(database),
            Self::Nothing => None,
        }
    }
}

/// A database whose file is damaged may panic where it relies on what it once wrote. That is an error of the
/// file like any other: nothing of the database is used again after it.
fn unless_panicking<T, E: From<redb::Error>>(ask: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // Whatever it left half done is closed, and read anew from the file.
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| {
        let why = io::Error::new(io::ErrorKind::InvalidData, "the database panicked");
        Err(redb::Error::Io(why).into())
    })
}

/// Moves an index that cannot be read out of the way, and begins a new one.
pub(in crate::store) fn set_aside(layout: &Layout, why: &str) -> io::Result<()> {
    let aside = layout.index().set_aside()?;
    tracing::warn!(
        error = why, kept = %aside.display(),
        "the index cannot be read and is begun anew; blobs on disk stay, which repository has them is asked of upstream again"
    );
    Ok(())
}

fn open(layout: &Layout) -> Result<Database, IndexError> {
    unless_panicking(|| open_file(layout))
}

fn open_file(layout: &Layout) -> Result<Database, IndexError> {
    let file = layout.index().open(true).map_err(StorageError::Io);
    let opened = file.map_err(DatabaseError::Storage).and_then(|file| {
        let file = FileBackend::new(file)?;
        builder().create_with_backend(layout.index().on_disk(file))
    });
    let database = opened.map_err(|error| {
        if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
            IndexError::InUse
        } else {
            redb::Error::from(error).into()
        }
    })?;
    create_tables(&database)?;
    Ok(database)
}

/// Opens a copy of a file that cannot be written, as far as it can be read. That it cannot be either is no news.
fn open_copy(layout: &Layout) -> Opened {
    let open = || -> Result<Database, redb::Error> {
        let file = FileBackend::new(layout.index().open(false)?)?;
        let database = builder().create_with_backend(Copy::of(layout.index().on_disk(file))?)?;
        create_tables(&database)?;
        Ok(database)
    };
    match unless_panicking(open) {
        Ok(database) => Opened::Copy(database),
        Err(error) => {
            tracing::debug!(%error, "the index cannot be read either");
            Opened::Nothing
        }
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

impl From<redb::Error> for IndexError {
    /// Tells whether it is the disk that keeps the index from being opened, or the index.
    fn from(error: redb::Error) -> Self {
        if matches!(&error, redb::Error::Io(io) if health::is_of_the_disk(io)) {
            Self::Disk(error)
        } else {
            Self::Unreadable(error)
        }
    }
}

/// True if an error may come from bad sectors of the file, if that cannot be read either.
fn is_damage(error: &redb::Error) -> bool {
    if let redb::Error::Io(error) = error {
        crate::store::disk::layout::means_damage(error)
    } else {
        true
    }
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // Every commit says which pages are free: else a start after a crash would read the whole file,
    // and not be ready for seconds.
    transaction.set_quick_repair(true);
    for table in Table::ALL {
        transaction.open_table(table.definition())?;
    }
    transaction.commit()?;
    Ok(())
}
