//! Bytes on disk: committed blobs under their digests, fills on their way
//! there, an index of what the files cannot say, and a bound on it all.
//!
//! | module | what |
//! | --- | --- |
//! | `cas` | content by its digest: stored blobs, and those on their way |
//! | `cas/fill`, `cas/partial` | the two sides of a fill: its readers; `Partial → Verified →` stored |
//! | `cas/fill_state`, `cas/demand` | what both sides have between them; what readers that wait are waiting for |
//! | `cas/ingest`, `cas/record` | a fill's file and verifier; how far it has come, beside its file |
//! | `cas/publish` | content gets its final name, once |
//! | `cas/blob`, `cas/open_files` | a stored blob, open; the files that are kept open |
//! | `cas/coverage` | which bytes are there (pure) |
//! | `disk` | every operation on the disk; `disk/health`: whether it works; `disk/work`: how long it is waited for |
//! | `disk/layout` | the files: the only code that makes, renames or deletes any |
//! | `disk/map`, `disk/windows` | parts of files, which the kernel sends without a copy |
//! | `metadata` | links, tags, media types, last uses: `pages` and `survey` read many, `expiry` forgets |
//! | `metadata/index`, `metadata/schema` | redb behind an overlay; its keys and values |
//! | `capacity` | how much may be taken: reserving, making room, room for the index |
//! | `capacity/evict` | what is kept and what goes (pure) |
//! | `capacity/reservation` | a fill's reservation and its file's name; suspended partial files |
//! | `capacity/quota`, `capacity/pins` | what an upstream may have; the images that are never evicted |
//! | `maintain` | the background: writing the index, making room, trying a disk again that fails |
//! | `maintain/open`, `maintain/scan` | the start, and the scan of all files after it |
//! | `maintain/scrub`, `maintain/quarantine` | hashing what is stored; blobs that cannot be read, set aside |
//! | `events` | the stream of what happens, for pins and repair |
//! | `stats` | what an operator sees and removes |
//! | `error` | why something could not be done |

mod capacity;
mod cas;
mod disk;
mod error;
mod events;
mod facade;
mod locks;
mod maintain;
mod metadata;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use capacity::Bounds;
pub use capacity::evict;
pub use capacity::evict::NoRoom;
use capacity::evict::{Ledger, Victim};
use capacity::pins::Pins;
pub use capacity::pins::{PinError, Pinned};
use capacity::quota::Ages;
pub use capacity::quota::Share;
use capacity::reservation::Rooms;
pub use capacity::{Amount, Measure, Meter, Space};
pub use cas::blob::{Blob, Pin, StoredReader};
pub use cas::coverage::{self, Coverage};
pub use cas::fill::{self, Ended, Fill, FillKey, FillState, HELD_BACK_BYTES, Handed, Reader, fill};
use cas::open_files::OpenFiles;
pub use cas::partial::{self, Partial, Verified, VerifyError};
use disk::health::{self, Health};
use disk::layout::{self, Journal, Layout, Lock};
pub use disk::windows::Windows;
use disk::work::{Kind, Task, Work};
use disk::{Disk, DiskFile};
pub use disk::{DiskOp, Fault, Faults, Injection};
pub use error::StoreError;
pub use events::{Event, EventKinds, Events, Heard, Subscription};
use locks::{FilesGuard, Guard, Locks};
use maintain::open as load;
use maintain::quarantine::Aside;
pub use maintain::quarantine::LookedAt;
use maintain::scan::Scan;
pub use maintain::scrub::{self, Checked, Pace};
use metadata::Access;
use metadata::facts::Facts;
use metadata::records::Records;
use metadata::schema::BlobRecord;
pub use metadata::schema::{Link, Origin, TagRecord, Word};
pub use metadata::{LinkEntry, Metadata, Pages, SurveyError, TagEntry};
pub use stats::{Figures, Held, Removal};

use crate::clock::Clock;
use crate::oci::Digest;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::EvictReason;

/// Where the store is and how large it may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory; made if missing.
    pub dir: PathBuf,
    /// What the store may take on disk: blobs, partial files and the index.
    pub max_size: Amount,
    /// What it leaves free of the file system, whoever fills that; nothing: it does not look.
    pub min_free: Amount,
    /// Who is asked how much is free.
    pub meter: Meter,
    /// Who makes operations on the disk fail.
    pub injection: Injection,
    /// How long blobs are kept that nobody uses; `None`: as long as there is room.
    pub max_age: Option<Duration>,
    /// What some upstreams may have of it.
    pub shares: Vec<Share>,
    /// In which time all that is stored is hashed again; `None`: it is not.
    pub scrub: Option<Duration>,
}

/// Why a store cannot be opened: one line that names the directory.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the cache directory {}: {why}", dir.display())]
pub struct OpenError {
    dir: PathBuf,
    why: String,
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Arc<Layout>,
    locks: Locks,
    bounds: Bounds,
    open: OpenFiles,
    /// The partial files that nobody writes now, and the bytes reserved for each.
    left_off: Mutex<HashMap<FillKey, u64>>,
    /// The partial files that somebody writes.
    rooms: Rooms,
    /// The blobs that could not be read.
    aside: Mutex<Aside>,
    metadata: Metadata,
    pages: Pages,
    facts: Arc<Facts>,
    records: Records,
    shares: Vec<Share>,
    ages: Ages,
    /// When it was last looked for blobs that nobody uses any more, in milliseconds.
    aged_at: AtomicU64,
    /// Which blobs the index has not caught up with; written to by whoever holds `files`.
    journal: Journal,
    scan: Scan,
    pins: Pins,
    events: Events,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    /// Tells temporary files apart.
    unique: AtomicU64,
    /// Declared last: the directory is somebody else's when nothing here uses it any more.
    _lock: Lock,
}

impl Store {
    /// Opens or makes a store, which no other process may have open: takes what the index knows to be
    /// on disk; what it does not know is found by [`Store::run`] or [`Store::scan_all`]. Blocks: not
    /// for async code.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        config: &Config,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let lock = layout::claim(&config.dir).and_then(|()| Lock::take(&config.dir));
        let health = Arc::new(Health::new(metrics.clone()));
        let disk = Disk::new(config.injection.clone(), health);
        Self::on(config, lock, disk, clock, metrics)
    }

    fn on(
        config: &Config,
        lock: io::Result<Lock>,
        disk: Disk,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let failed = |why: String| OpenError {
            dir: config.dir.clone(),
            why,
        };
        let lock = lock.map_err(|error| failed(error.to_string()))?;
        let layout = Layout::open(&config.dir, disk).map_err(|error| failed(error.to_string()))?;
        let layout = Arc::new(layout);
        let index = load::open_index(&layout).map_err(failed)?;
        let (journal, noted) = layout
            .journal()
            .map_err(|error| failed(format!("journal: {error}")))?;
        let bounds = load::bounds(config, &layout, &index)
            .map_err(|error| failed(format!("cannot see how large it is: {error}")))?;
        let index = Arc::new(index);
        let access = Access::new(Facts::new(Arc::clone(&index)), layout.work());
        let store = Self {
            inner: Arc::new(Inner {
                layout,
                locks: Locks::new(Ledger::new(bounds.for_blobs())),
                bounds,
                open: OpenFiles::new(),
                left_off: Mutex::default(),
                rooms: Rooms::default(),
                aside: Mutex::default(),
                metadata: Metadata::new(access.clone(), Arc::clone(&clock)),
                facts: Arc::clone(access.facts()),
                pages: Pages::new(access),
                records: Records::new(index),
                shares: config.shares.clone(),
                ages: Ages::of_config(config),
                aged_at: AtomicU64::new(0),
                journal,
                scan: Scan::default(),
                pins: Pins::default(),
                events: Events::new(metrics.clone()),
                metrics,
                clock,
                unique: AtomicU64::new(0),
                _lock: lock,
            }),
        };
        if let Some(bytes) = health::file_bytes_max() {
            tracing::warn!(
                bytes,
                "this process may make no larger files (ulimit -f): larger blobs pass through"
            );
        }
        // Before any blob has a chance to be a victim.
        store.load_pins();
        store
            .load(&noted)
            .map_err(|error| failed(error.to_string()))?;
        Ok(store)
    }

    /// What happens to images and blobs.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// How many files of blobs are kept open.
    #[must_use]
    pub fn open_files_max(&self) -> usize {
        self.inner.open.max()
    }

    /// The size of a blob, if it is known to be stored; [`Store::find`] also looks.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> Option<u64> {
        self.ledger().size(digest)
    }

    /// Marks a blob as used now.
    pub fn touch(&self, digest: &Digest) {
        let now = self.inner.clock.now();
        let due = self.ledger().touch(digest, now);
        if let Some(evict::Noted { size, uses, owner }) = due {
            let record = BlobRecord {
                size,
                used: now,
                uses,
                owner,
            };
            self.inner.records.note(digest, record);
        }
    }

    /// These are likely to be asked for in a moment: those of them that are stored are not evicted for
    /// some minutes.
    pub fn expect(&self, digests: &[Digest]) {
        let now = self.inner.clock.now();
        let mut ledger = self.ledger();
        for digest in digests {
            ledger.expect(digest, now);
        }
    }

    /// Opens a stored blob and pins it. A file that is missing or not as long
    /// as it should be is a miss: it is forgotten, with a warning.
    pub async fn blob(&self, digest: &Digest) -> Option<Blob> {
        if let Some(blob) = self.open_blob(digest) {
            return Some(blob);
        }
        let pinned = self.ledger().pin(digest);
        let size = if let Some(size) = pinned {
            size
        } else {
            // An index that was lost may not know it yet.
            self.find(digest).await?;
            self.ledger().pin(digest)?
        };
        let pin = Pin::of_pinned(self.clone(), *digest);
        self.touch(digest);
        let (store, wanted) = (self.clone(), *digest);
        let task = Task::of("open", digest);
        let open = move || store.open_checked(&wanted, size);
        match self.work().run(Kind::Read, task, open).await.flatten() {
            Ok(file) => {
                self.open_files().put(*digest, Arc::clone(&file));
                Some(Blob::new(size, file, pin))
            }
            Err(error) => {
                drop(pin);
                self.unreadable(digest, &error, LookedAt::default()).await;
                None
            }
        }
    }

    /// The same, if its file is open already: waits for nothing.
    #[must_use]
    pub fn open_blob(&self, digest: &Digest) -> Option<Blob> {
        let file = self.open_files().get(digest).cloned()?;
        let size = self.ledger().pin(digest)?;
        let pin = Pin::of_pinned(self.clone(), *digest);
        self.touch(digest);
        Some(Blob::new(size, file, pin))
    }

    /// Opens the partial file of a fill, if there can be room for `expected` bytes.
    ///
    /// # Errors
    /// [`StoreError`], with the opening, so that its readers can be told.
    pub async fn begin<E: Clone + Send + Sync + 'static>(
        &self,
        opening: fill::Opening<E>,
        expected: Option<u64>,
    ) -> Result<Partial<E>, Option<(fill::Opening<E>, StoreError)>> {
        Partial::open(self, opening, expected).await.map_err(Some)
    }

    /// Stores small content whose digest was computed from these bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put(
        &self,
        digest: &Digest,
        media_type: &str,
        bytes: bytes::Bytes,
    ) -> Result<(), StoreError> {
        self.inner.metadata.note_media_type(digest, media_type);
        if self.contains(digest).is_some() {
            return Ok(());
        }
        self.refuse_if_failing()?;
        let (store, digest) = (self.clone(), *digest);
        let task = Task::of("store", &digest);
        let put = self.work().run(Kind::Write, task, move || {
            let size = bytes.len() as u64;
            let unique = store.inner.unique.fetch_add(1, Ordering::Relaxed);
            store.reserve(size)?;
            let publish = store.publish(&digest, size, size, 0, |layout| {
                layout.commit_bytes(&digest, &bytes, unique)
            });
            store.inner.bounds.unwritten_changes(size, 0);
            publish.inspect_err(|_| store.release(size))?;
            Ok(())
        });
        put.await?
    }

    /// Deletes what the ledger has forgotten.
    fn delete_all(&self, files: &FilesGuard<'_>, victims: &[Victim], reason: EvictReason) {
        let digests = || victims.iter().map(|victim| &victim.digest);
        let shards = digests().map(|digest| self.layout().shard_path(digest));
        self.note(files, digests(), shards);
        for victim in victims {
            self.delete(victim, reason);
        }
    }

    /// Notes which files are about to come or go. Nothing waits for a disk that does not take it: the
    /// scan of all files at the next start finds out.
    fn note<'a>(
        &self,
        _files: &FilesGuard<'_>,
        digests: impl IntoIterator<Item = &'a Digest>,
        shrinking: impl IntoIterator<Item = PathBuf>,
    ) {
        if let Err(error) = self.inner.journal.note(digests, shrinking) {
            tracing::debug!(%error, "cannot note in the journal what comes or goes");
        }
    }

    fn delete(&self, victim: &Victim, reason: EvictReason) {
        self.open_files().pop(&victim.digest);
        match self.inner.layout.remove_blob(&victim.digest) {
            Ok(()) => {
                tracing::debug!(digest = %victim.digest, bytes = victim.size, ?reason, "evicted");
                self.inner.records.forget(&victim.digest);
                self.inner.events.tell(Event::BlobEvicted {
                    digest: victim.digest,
                    size: victim.size,
                    reason,
                });
            }
            Err(error) => {
                tracing::debug!(digest = %victim.digest, %error, "cannot delete a blob; it stays");
                self.ledger()
                    .load(victim.digest, victim.size, self.inner.clock.now(), 1);
            }
        }
        self.report();
    }

    fn open_checked(&self, digest: &Digest, size: u64) -> io::Result<Arc<DiskFile>> {
        let file = self.inner.layout.open_blob(digest)?;
        let length = file.length()?;
        if length == size {
            return Ok(Arc::new(file));
        }
        let why = format!("the file has {length} bytes instead of {size}");
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    fn report(&self) {
        let hidden = *self.inner.locks.hidden();
        let ledger = self.ledger();
        let blobs = ledger.blobs() as u64;
        let bounds = &self.inner.bounds;
        let beside = bounds.index_bytes() + self.inner.layout.stray_bytes();
        let bytes = ledger.bytes().saturating_sub(hidden);
        let bytes = bytes.saturating_add(beside);
        self.inner.metrics.cache(bytes, blobs, bounds.max());
    }

    fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    fn work(&self) -> &Arc<Work> {
        self.inner.layout.work()
    }

    fn ledger(&self) -> Guard<'_, Ledger> {
        self.inner.locks.ledger()
    }

    fn left_off(&self) -> MutexGuard<'_, HashMap<FillKey, u64>> {
        self.inner
            .left_off
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn open_files(&self) -> MutexGuard<'_, LruCache<Digest, Arc<DiskFile>>> {
        self.inner.open.lock()
    }

    fn files(&self) -> FilesGuard<'_> {
        self.inner.locks.files()
    }
}
