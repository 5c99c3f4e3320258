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
//! | `cas/upload` | content whose digest is known at its end |
//! | `cas/blob`, `cas/pin`, `cas/open_files` | a stored blob, open; guards of blobs that are used; the files that are kept open |
//! | `cas/coverage` | which bytes are there (pure) |
//! | `config` | the place of the store, and its bounds |
//! | `contents` | the blobs that are stored: ledger, files, what the index is told |
//! | `disk` | every operation on the disk; `disk/health`: whether it works; `disk/work`: how long it is waited for |
//! | `disk/layout` | the files: the only code that makes, renames or deletes any |
//! | `disk/map`, `disk/windows` | parts of files, which the kernel sends without a copy |
//! | `metadata` | links, tags, media types, last uses: `pages` and `survey` read many, `expiry` forgets |
//! | `metadata/index`, `metadata/schema` | redb behind an overlay; its keys and values |
//! | `metadata/tiered` | what an object store beside this one is known to have |
//! | `capacity` | how much may be taken: reserving, making room, room for the index |
//! | `capacity/evict` | what is kept and what goes (pure) |
//! | `capacity/reservation` | a fill's reservation and its file's name; suspended partial files |
//! | `capacity/quota`, `capacity/pins` | what an upstream may have; the images that are never evicted |
//! | `maintain` | the background: writing the index, making room, trying a disk again that fails |
//! | `maintain/open`, `maintain/scan` | the start, and the scan of all files after it |
//! | `maintain/scrub`, `maintain/quarantine` | hashing what is stored; blobs that cannot be read, set aside |
//! | `hand_over` | another process takes the directory over |
//! | `events` | the stream of what happens, for pins and repair |
//! | `stats` | what an operator sees and removes |
//! | `error` | why something could not be done |

mod capacity;
mod cas;
mod config;
mod contents;
mod disk;
mod error;
mod events;
mod facade;
mod hand_over;
mod locks;
mod maintain;
mod metadata;
mod stats;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use capacity::evict;
pub use capacity::evict::NoRoom;
pub use capacity::pins::{Keeping, PinError, Pinned, Pins};
pub use capacity::quota::Quotas;
pub use capacity::{Amount, Capacity, Measure, Meter};
use cas::Cas;
pub use cas::blob::{Blob, StoredReader};
pub use cas::coverage::{self, Coverage};
pub use cas::fill::{self, Ended, Fill, FillKey, FillState, HELD_BACK_BYTES, Handed, Reader, fill};
pub use cas::partial::{self, Partial, Verified, VerifyError};
pub use cas::pin::Pin;
pub use cas::upload::{FinishError, Stored, Upload, Uploads};
pub use config::{Config, Share};
pub use contents::Contents;
use disk::Disk;
use disk::health::{self, Health};
use disk::layout::{self, Layout, Lock};
pub use disk::layout::{LeftUpload, Space};
pub use disk::windows::Windows;
use disk::work::{Kind, Task};
pub use disk::{DiskOp, Fault, Faults, Injection};
pub use error::StoreError;
pub use events::{Event, EventKinds, Events, Heard, Subscription};
pub use hand_over::HandOver;
#[cfg(test)]
use maintain::Upkeep;
use maintain::open::{self as load, Start};
pub use maintain::quarantine::{LookedAt, Quarantine};
pub use maintain::scan::Scan;
pub use maintain::scrub::{self, Audit, Checked, Pace};
use metadata::Access;
use metadata::expiry::Expiry;
use metadata::facts::Facts;
use metadata::records::Records;
pub use metadata::schema::{Link, Origin, TagRecord, Word};
pub use metadata::tiered::{Note, Tiered};
pub use metadata::{LinkEntry, Metadata, Pages, SurveyError, TagEntry};
pub use stats::{Figures, Held, Removal};

use crate::clock::Clock;
use crate::oci::Digest;
use crate::telemetry::Metrics;

/// The reason why a store cannot be opened: one line that names the directory.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the cache directory {}: {why}", dir.display())]
pub struct OpenError {
    dir: PathBuf,
    why: String,
}

/// The right to open the store of a directory.
#[derive(Debug)]
pub struct Claim {
    lock: Lock,
    /// Nothing of it is changed.
    to_look: bool,
    /// The process that had it before still reads files of it.
    is_read: bool,
}

impl Claim {
    /// Takes the directory; makes it if missing. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]: another process has it, or it is no cache's.
    pub fn take(config: &Config) -> Result<Self, OpenError> {
        let lock = layout::claim(&config.dir).and_then(|()| Lock::take(&config.dir));
        Self::of(config, lock, false)
    }

    /// Takes the directory of a store that is only looked at, which must be there. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]: another process writes there, or it is no cache's.
    pub fn to_look(config: &Config) -> Result<Self, OpenError> {
        let lock = layout::see(&config.dir).and_then(|()| Lock::look(&config.dir));
        Self::of(config, lock, true)
    }

    /// The same, from a process that has [handed it over](Store::hand_over) and still reads it: no file that it may read is
    /// changed.
    #[must_use]
    pub fn beside_readers(self) -> Self {
        Self {
            is_read: true,
            ..self
        }
    }

    fn of(config: &Config, lock: io::Result<Lock>, to_look: bool) -> Result<Self, OpenError> {
        let lock = lock.map_err(|error| OpenError {
            dir: config.dir.clone(),
            why: error.to_string(),
        })?;
        Ok(Self {
            lock,
            to_look,
            is_read: false,
        })
    }
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// The parts of a store, each with its own state.
#[derive(Debug)]
struct Inner {
    quotas: Quotas,
    pins: Pins,
    scan: Arc<Scan>,
    metadata: Metadata,
    tiered: Tiered,
    pages: Pages,
    expiry: Arc<Expiry>,
    /// Declared last: its contents have the lock of the directory, which nothing else here may outlive.
    cas: Cas,
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
        let claim = Claim::take(config)?;
        Self::open_claimed(claim, config, Keeping::default(), clock, metrics)
    }

    /// Opens the store of a directory that was taken, where more is never evicted than the index says: as
    /// [`Store::open`], or, if it was taken to be looked at, without changing anything; what looking notes stays in
    /// memory then.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_claimed(
        claim: Claim,
        config: &Config,
        keeping: Keeping,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let health = Arc::new(Health::new(metrics.clone()));
        let disk = Disk::new(config.injection.clone(), health);
        if claim.to_look {
            let disk = disk.for_looking();
            // Nothing goes, whatever its size should be.
            let config = config.clone().unbounded();
            return Self::on(&config, keeping, claim, disk, clock, metrics);
        }
        Self::on(config, keeping, claim, disk, clock, metrics)
    }

    fn on(
        config: &Config,
        keeping: Keeping,
        claim: Claim,
        disk: Disk,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let failed = |why: String| OpenError {
            dir: config.dir.clone(),
            why,
        };
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
        let contents = Contents::new(
            layout,
            journal,
            bounds,
            Records::new(index),
            metrics,
            Arc::clone(&clock),
            Some(claim.lock),
        );
        let contents = Arc::new(contents);
        let quarantine = Arc::new(Quarantine::new(&contents));
        let capacity = Arc::new(Capacity::new(&contents, &quarantine));
        let tiered_clock = Arc::clone(&clock);
        let store = Self {
            inner: Arc::new(Inner {
                quotas: Quotas::new(&contents, &capacity, config),
                pins: Pins::new(&contents),
                scan: Arc::new(Scan::new(&contents)),
                metadata: Metadata::new(access.clone(), clock, Arc::clone(&contents.events)),
                tiered: Tiered::new(access.clone(), tiered_clock),
                expiry: Arc::new(Expiry::new(&contents, access.facts())),
                pages: Pages::new(access),
                cas: Cas::new(&contents, &quarantine, &capacity),
            }),
        };
        if let Some(bytes) = health::file_bytes_max() {
            tracing::warn!(
                bytes,
                "this process may make no larger files (ulimit -f): larger blobs pass through"
            );
        }
        // Before any blob has a chance to be a victim.
        store.pins().load();
        let keeping = if config.permanent {
            Keeping::Everything
        } else {
            keeping
        };
        store.pins().keep(keeping);
        Start(&store, claim.is_read)
            .load(&noted)
            .map_err(|error| failed(error.to_string()))?;
        Ok(store)
    }

    /// Events of images and blobs.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.contents().events
    }

    /// The blobs that are stored.
    #[must_use]
    pub fn contents(&self) -> &Arc<Contents> {
        self.inner.cas.contents()
    }

    /// The blobs that were set aside.
    #[must_use]
    pub fn quarantine(&self) -> &Arc<Quarantine> {
        self.inner.cas.quarantine()
    }

    /// The stored blobs and the fills.
    pub(in crate::store) fn cas(&self) -> &Cas {
        &self.inner.cas
    }

    /// The room that there is, and suspended fills.
    #[must_use]
    pub fn capacity(&self) -> &Arc<Capacity> {
        self.inner.cas.capacity()
    }

    /// The parts of upstreams, and ages.
    #[must_use]
    pub fn quotas(&self) -> &Quotas {
        &self.inner.quotas
    }

    /// The pinned images.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.inner.pins
    }

    /// The look through all files.
    #[must_use]
    pub fn scan(&self) -> &Arc<Scan> {
        &self.inner.scan
    }

    /// Looks at stored blobs that leave no trace.
    #[must_use]
    pub fn audit(&self) -> Audit<'_> {
        Audit(self)
    }

    /// The size of a blob, if it is known to be stored; [`Scan::find`] also looks.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> Option<u64> {
        self.contents().contains(digest)
    }

    /// Opens a stored blob and pins it. A file that is missing or not as long
    /// as it should be is a miss: it is forgotten, with a warning.
    pub async fn blob(&self, digest: &Digest) -> Option<Blob> {
        if let Some(blob) = self.open_blob(digest) {
            return Some(blob);
        }
        let pinned = self.contents().ledger().stored_mut().pin(digest);
        let size = if let Some(size) = pinned {
            size
        } else {
            // An index that was lost may not know it yet.
            self.scan().find(digest).await?;
            self.contents().ledger().stored_mut().pin(digest)?
        };
        let pin = self.cas().guard(*digest);
        self.contents().touch(digest);
        let (store, wanted) = (self.clone(), *digest);
        let task = Task::of("open", digest);
        let open = move || store.contents().open_checked(&wanted, size);
        match self
            .contents()
            .layout()
            .work()
            .run(Kind::Read, task, open)
            .await
            .flatten()
        {
            Ok(file) => {
                self.contents().open_files().put(*digest, Arc::clone(&file));
                Some(Blob::new(size, file, pin))
            }
            Err(error) => {
                drop(pin);
                self.quarantine()
                    .unreadable(digest, &error, LookedAt::default())
                    .await;
                None
            }
        }
    }

    /// The same, if its file is open already: waits for nothing.
    #[must_use]
    pub fn open_blob(&self, digest: &Digest) -> Option<Blob> {
        self.inner.cas.open_blob(digest)
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
        Partial::open(self.cas(), opening, expected)
            .await
            .map_err(Some)
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
        self.inner.cas.put(digest, bytes).await
    }
}
