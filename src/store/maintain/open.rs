//! The start: what the index knows is taken as it is, so that a store of a million blobs is open in a
//! moment. Only files that came or went in the last moments before a crash are looked at, which the
//! journal names. The rest is for [`crate::store::maintain::scan`], while clients are served.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::oci::Digest;
use crate::store::capacity::bounds::Bounds;
use crate::store::disk::health;
use crate::store::disk::layout::Layout;
use crate::store::metadata::index::{self, Index, IndexError};
use crate::store::metadata::schema::BlobRecord;
use crate::store::{Config, FillKey, Store, capacity};
use crate::telemetry::metrics::EvictReason;

/// Time that a start looks through the files itself when the index does not know them: most stores
/// are through then, and the rest goes on while clients are served.
const SCAN_AT_OPEN_MAX: Duration = Duration::from_secs(1);

/// Time that a start deletes files itself when the store has been made smaller; the rest goes in the
/// background and when room is needed.
const SHRINK_AT_OPEN_MAX: Duration = Duration::from_secs(1);

/// For more blobs than this no room is made ahead: a number in a damaged file may say anything.
const EXPECTED_BLOBS_MAX: u64 = 1 << 24;

/// The start of a store; true: a process from which it was taken over still runs.
pub(in crate::store) struct Start<'a>(pub(in crate::store) &'a Store, pub(in crate::store) bool);

impl Start<'_> {
    /// Enters what is known to be on disk, in the order of last use, and keeps to the size.
    pub(in crate::store) fn load(&self, journal: &BTreeSet<Digest>) -> io::Result<()> {
        let kept = or_nothing(
            "suspended downloads",
            self.0.contents().layout().parts().sweep(),
        )?;
        if self.1 {
            self.0.contents().layout().parts().share(&kept);
        }
        let mut known = 0_usize;
        let complete = {
            let mut ledger = self.0.contents().ledger();
            let expected = self.0.contents().records.count().min(EXPECTED_BLOBS_MAX);
            ledger
                .order_mut()
                .reserve(usize::try_from(expected).unwrap_or_default());
            let complete = self.0.contents().records.each(|digest, record| {
                known += 1;
                if !journal.contains(&digest) {
                    let BlobRecord {
                        size,
                        used,
                        uses,
                        owner,
                    } = record;
                    ledger.stored_mut().load_of(digest, size, used, uses, owner);
                }
            });
            ledger.order_mut().arrange();
            complete
        };
        let mut sure = true;
        for digest in journal {
            sure &= or_nothing("a stored blob", self.look_at(digest).map(Some))?.is_some();
        }
        self.shrink();
        self.enter_suspended(&kept);
        or_nothing("blobs that were set aside", self.0.quarantine().load())?;
        // Without these it would seem that nothing is there.
        let shards = self.0.contents().layout().blobs().shards()?;
        let lost = !complete
            || !sure
            || (known == 0 && !shards.is_empty())
            || self.0.contents().records.is_incomplete();
        self.0.scan().begin(shards);
        self.0.capacity().see_room(true);
        if lost {
            self.0.contents().records.note_incomplete(true);
            self.0.scan().assume_full();
            self.0.scan().until(Instant::now() + SCAN_AT_OPEN_MAX);
        }
        self.0.contents().report();
        let (blobs, bytes) = {
            let ledger = self.0.contents().ledger();
            (ledger.order().len(), ledger.bytes())
        };
        let resumable = self.0.capacity().resumable();
        tracing::info!(blobs, bytes, resumable, "store is open");
        Ok(())
    }

    /// Finds out what became of a file that came or went just before the last process ended.
    fn look_at(&self, digest: &Digest) -> io::Result<()> {
        let known = &self.0.contents().records;
        let record = known.read(digest);
        match (self.0.contents().layout().blobs().find(digest)?, record) {
            (None, Some(_)) => known.forget(digest),
            (None, None) => {}
            (Some(found), record) if record.is_none_or(|known| known.size == found.size) => {
                let record = record.unwrap_or(BlobRecord {
                    size: found.size,
                    used: found.modified,
                    uses: 1,
                    owner: 0,
                });
                known.note(digest, record);
                let BlobRecord {
                    size,
                    used,
                    uses,
                    owner,
                } = record;
                self.0
                    .contents()
                    .ledger()
                    .stored_mut()
                    .load_of(*digest, size, used, uses, owner);
            }
            (Some(found), _) => {
                tracing::warn!(%digest, bytes = found.size, "a stored blob has changed its length; it is removed and will be fetched again. Check the disk");
                known.forget(digest);
                self.0.quarantine().set_aside(digest);
            }
        }
        Ok(())
    }

    /// Keeps to a size that has been made smaller.
    fn shrink(&self) {
        let end = Instant::now() + SHRINK_AT_OPEN_MAX;
        while Instant::now() < end {
            let over = {
                let ledger = self.0.contents().ledger();
                ledger.bytes().saturating_sub(ledger.max())
            };
            let files = self.0.contents().files();
            let victims = self
                .0
                .contents()
                .ledger()
                .free(over.min(capacity::STEP_BYTES), 0);
            if victims.is_empty() {
                return;
            }
            self.0
                .contents()
                .delete_all(&files, &victims, EvictReason::Size);
        }
    }

    /// Takes partial files into account: never at the cost of a stored blob.
    fn enter_suspended(&self, kept: &[(FillKey, u64)]) {
        for (key, size) in kept {
            let room = {
                let ledger = self.0.contents().ledger();
                ledger.max().saturating_sub(ledger.bytes())
            };
            if *size <= room && self.0.contents().ledger().admit(*size).is_ok() {
                self.0.capacity().enter_suspended(*key, *size);
            } else {
                self.0.contents().layout().parts().remove(key);
            }
        }
    }
}

/// The content that was found; nothing, where the disk cannot say now what is there. That is no reason not to serve
/// what it can say, and a look through all files is made after each start.
fn or_nothing<T: Default>(what: &str, found: io::Result<T>) -> io::Result<T> {
    match found {
        Err(error) if health::is_of_the_disk(&error) => {
            tracing::warn!(%error, "cannot look for {what}; going on without. Check the disk");
            Ok(T::default())
        }
        found => found,
    }
}

/// The bounds of a store. An index that has outgrown its own, as versions before let it, is made smaller first, or
/// else begun anew: it would leave no room for blobs.
pub(in crate::store) fn bounds(
    config: &Config,
    layout: &Layout,
    index: &Index,
) -> io::Result<Bounds> {
    let max = Bounds::max_of(config)?;
    let most = capacity::index_max(max);
    let before = layout.index().bytes()?;
    if before <= most || layout.is_for_looking() {
        return Ok(Bounds::new(config, max, before));
    }
    layout.index().discard_aside();
    let forgotten = index.slim(before, most, false);
    if forgotten.is_some() && layout.index().bytes()? > most {
        index.begin_anew();
    }
    let bytes = layout.index().bytes()?;
    tracing::warn!(
        before,
        bytes,
        most,
        forgotten,
        "the index had outgrown its part of cache.max_size and was made smaller; what was forgotten is asked of upstream again"
    );
    Ok(Bounds::new(config, max, bytes))
}

/// Opens the index; one that cannot be read is set aside and begun anew.
pub(in crate::store) fn open_index(layout: &Arc<Layout>) -> Result<Index, String> {
    match Index::open(layout) {
        Ok(index) => Ok(index),
        Err(error @ IndexError::InUse) => Err(error.to_string()),
        Err(error @ (IndexError::Unreadable(_) | IndexError::Disk(_))) => {
            match index::set_aside(layout, &error.to_string()) {
                Ok(()) => Index::open(layout).map_err(|e| format!("index.redb: {e}")),
                Err(e) if health::is_of_the_disk(&e) => {
                    Ok(Index::without(layout, format!("{error}; {e}")))
                }
                Err(e) => Err(format!("index.redb: {error}; {e}")),
            }
        }
    }
}
