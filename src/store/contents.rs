//! The blobs that are stored: their ledger, their files, and what the index is told of them.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, MutexGuard};

use lru::LruCache;

use super::capacity::bounds::Bounds;
use super::capacity::evict::{self, Ledger, Victim};
use super::cas::open_files::OpenFiles;
use super::disk::DiskFile;
use super::disk::layout::{Journal, Layout, Lock};
use super::disk::work::{Kind, Task};
use super::events::{Event, Events};
use super::locks::{FilesGuard, Guard, Locks};
use super::metadata::records::Records;
use super::metadata::schema::BlobRecord;
use super::stats::{Held, Removal, removal};
use crate::clock::Clock;
use crate::oci::Digest;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::EvictReason;

/// Blobs looked up under one lock of the ledger: some 20 µs.
const ASKED_AT_ONCE_MAX: usize = 256;

/// The stored blobs.
#[derive(Debug)]
pub struct Contents {
    layout: Arc<Layout>,
    locks: Locks,
    open: OpenFiles,
    /// The blobs that the index has not caught up with; written to by whoever holds `files`.
    journal: Journal,
    pub(in crate::store) bounds: Bounds,
    pub(in crate::store) records: Records,
    pub(in crate::store) events: Arc<Events>,
    pub(in crate::store) metrics: Metrics,
    pub(in crate::store) clock: Arc<dyn Clock>,
    /// Tells temporary files apart.
    pub(in crate::store) unique: AtomicU64,
    /// Declared last: the directory is somebody else's when nothing here uses it any more.
    pub(in crate::store) directory: Option<Lock>,
}

impl Contents {
    /// Nothing is known yet. The right to the directory is kept for as long as anybody has this.
    pub(in crate::store) fn new(
        layout: Arc<Layout>,
        journal: Journal,
        bounds: Bounds,
        records: Records,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
        directory: Option<Lock>,
    ) -> Self {
        Self {
            layout,
            locks: Locks::new(Ledger::new(bounds.for_blobs())),
            open: OpenFiles::new(bounds.permanent),
            journal,
            bounds,
            records,
            events: Arc::new(Events::new(metrics.clone())),
            metrics,
            clock,
            unique: AtomicU64::new(0),
            directory,
        }
    }

    /// Number of blobs' files that are kept open at most.
    #[must_use]
    pub fn open_files_max(&self) -> usize {
        self.open.max()
    }

    /// The room that is reserved for files that are not known yet.
    pub(in crate::store) fn hidden(&self) -> Guard<'_, u64> {
        self.locks.hidden()
    }

    /// The size of a blob, if it is known to be stored; [`Scan::find`](super::maintain::scan::Scan::find) also looks.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> Option<u64> {
        self.ledger().order().size(digest)
    }

    /// Marks a blob as used now.
    pub fn touch(&self, digest: &Digest) {
        let now = self.clock.now();
        let due = self.ledger().stored_mut().touch(digest, now);
        if let Some(evict::Noted { size, uses, owner }) = due {
            let record = BlobRecord {
                size,
                used: now,
                uses,
                owner,
            };
            self.records.note(digest, record);
        }
    }

    /// These are likely to be asked for in a moment: those of them that are stored are not evicted for
    /// some minutes.
    pub fn expect(&self, digests: &[Digest]) {
        let now = self.clock.now();
        let mut ledger = self.ledger();
        for digest in digests {
            ledger.expect(digest, now);
        }
    }

    /// Facts about a blob, if it is stored.
    #[must_use]
    pub fn held(&self, digest: &Digest) -> Option<Held> {
        let ledger = self.ledger();
        let entry = ledger.order().entry(digest)?;
        Some(Held {
            size: entry.size,
            used: entry.used,
            uses: evict::uses::count(entry.uses),
            open: ledger.stored().is_open(digest),
            pinned: ledger.order().keeps(digest),
        })
    }

    /// Those of these blobs that are stored, with their sizes. The caller bounds how many he asks for:
    /// requests wait meanwhile.
    #[must_use]
    pub fn stored(&self, digests: &[Digest]) -> Vec<(Digest, u64)> {
        let mut stored = Vec::with_capacity(digests.len());
        for some in digests.chunks(ASKED_AT_ONCE_MAX) {
            let ledger = self.ledger();
            stored.extend(
                some.iter()
                    .filter_map(|digest| Some((*digest, ledger.order().size(digest)?))),
            );
        }
        stored
    }

    /// The outcome of removing a blob now.
    #[must_use]
    pub fn would_remove(&self, digest: &Digest) -> Removal {
        removal(&self.ledger(), digest)
    }

    /// Removes a stored blob, unless somebody reads it or it belongs to a pinned image.
    pub async fn remove(self: &Arc<Self>, digest: &Digest) -> Removal {
        let (contents, digest) = (Arc::clone(self), *digest);
        let task = Task::of("remove", &digest);
        let remove = move || contents.remove_now(&digest);
        let removed = self.layout.work().run(Kind::Write, task, remove).await;
        // What nobody could say is as if somebody had it open: it is not removed.
        removed.unwrap_or(Removal::Open)
    }

    fn remove_now(&self, digest: &Digest) -> Removal {
        let files = self.files();
        let size = {
            let mut ledger = self.ledger();
            match removal(&ledger, digest) {
                Removal::Removed(_) => ledger.stored_mut().forget(digest).unwrap_or(0),
                stays @ (Removal::Open | Removal::Pinned | Removal::Absent) => return stays,
            }
        };
        let victim = Victim {
            digest: *digest,
            size,
        };
        self.delete_all(&files, &[victim], EvictReason::Removed);
        // What could not be deleted is there again.
        match self.contains(digest) {
            Some(_) => Removal::Open,
            None => Removal::Removed(size),
        }
    }
    /// Writes the index, so that what was changed until now is in the pages read from now on, and lets go of what the
    /// journal noted for it. Blocks.
    pub fn write_index(&self) {
        if self.layout().is_for_looking() {
            // Into the copy, where questions find it.
            self.records.flush();
            return;
        }
        {
            // Nobody has noted a change there and not yet told the index of it.
            let _files = self.files();
            self.journal.turn();
        }
        if self.records.flush()
            && let Err(error) = self.journal.caught_up()
        {
            tracing::warn!(%error, "cannot empty the journal; it is tried again");
        }
    }

    pub(in crate::store) fn release(&self, bytes: u64) {
        self.ledger().release(bytes);
        self.report();
    }

    /// Deletes what the ledger has forgotten.
    pub(in crate::store) fn delete_all(
        &self,
        files: &FilesGuard<'_>,
        victims: &[Victim],
        reason: EvictReason,
    ) {
        let digests = || victims.iter().map(|victim| &victim.digest);
        let shards = digests().map(|digest| self.layout().blobs().shard_path(digest));
        self.note(files, digests(), shards);
        for victim in victims {
            self.delete(victim, reason);
        }
    }

    /// Notes which files are about to come or go. Nothing waits for a disk that does not take it: the
    /// scan of all files at the next start finds out.
    pub(in crate::store) fn note<'a>(
        &self,
        _files: &FilesGuard<'_>,
        digests: impl IntoIterator<Item = &'a Digest>,
        shrinking: impl IntoIterator<Item = PathBuf>,
    ) {
        if let Err(error) = self.journal.note(digests, shrinking) {
            tracing::debug!(%error, "cannot note in the journal what comes or goes");
        }
    }

    fn delete(&self, victim: &Victim, reason: EvictReason) {
        self.open_files().pop(&victim.digest);
        match self.layout.blobs().remove(&victim.digest) {
            Ok(()) => {
                tracing::debug!(digest = %victim.digest, bytes = victim.size, ?reason, "evicted");
                self.records.forget(&victim.digest);
                self.events.tell(Event::BlobEvicted {
                    digest: victim.digest,
                    size: victim.size,
                    reason,
                });
            }
            Err(error) => {
                tracing::debug!(digest = %victim.digest, %error, "cannot delete a blob; it stays");
                self.ledger()
                    .stored_mut()
                    .load(victim.digest, victim.size, self.clock.now(), 1);
            }
        }
        self.report();
    }

    pub(in crate::store) fn open_checked(
        &self,
        digest: &Digest,
        size: u64,
    ) -> io::Result<Arc<DiskFile>> {
        let file = self.layout.blobs().open(digest)?;
        let length = file.length()?;
        if length == size {
            return Ok(Arc::new(file));
        }
        let why = format!("the file has {length} bytes instead of {size}");
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    pub(in crate::store) fn report(&self) {
        let hidden = *self.locks.hidden();
        let ledger = self.ledger();
        let blobs = ledger.order().len() as u64;
        let bounds = &self.bounds;
        let beside = bounds.index_bytes() + self.layout.stray_bytes();
        let bytes = ledger.bytes().saturating_sub(hidden);
        let bytes = bytes.saturating_add(beside);
        self.metrics.cache().holds(bytes, blobs, bounds.max());
    }

    pub(in crate::store) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(in crate::store) fn ledger(&self) -> Guard<'_, Ledger> {
        self.locks.ledger()
    }

    pub(in crate::store) fn open_files(&self) -> MutexGuard<'_, LruCache<Digest, Arc<DiskFile>>> {
        self.open.lock()
    }

    pub(in crate::store) fn files(&self) -> FilesGuard<'_> {
        self.locks.files()
    }

    /// Number of stored blobs, and bytes of those and the fills under way.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let ledger = self.ledger();
        (ledger.order().len() as u64, ledger.bytes())
    }
}
