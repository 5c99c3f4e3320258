//! What the store does by itself: writing the index, making room, and trying a disk again that fails.

pub(super) mod open;
pub(super) mod quarantine;
pub(super) mod scan;
pub mod scrub;

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::disk::health::Part;
use crate::store::disk::work::{Kind, Task};
use crate::store::{Store, StoreError};

/// So much is written to see whether the disk takes it again. Less could fit on one that is full all the
/// same, and the next blob would find that out.
const PROBE_BYTES: usize = 64 * 1024;

/// How long a change of the index may wait to be written.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// How often it is seen whether the disk answers: nobody may be waiting for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Store {
    /// Looks through the files once; writes changes of the index, makes room ahead and tries a disk that
    /// fails again, now and then, until `stop`, then a last time.
    pub async fn run(self, stop: CancellationToken) {
        let look = async {
            self.scan(&stop).await;
            // Only now it is known what is stored.
            self.expire(&stop).await;
        };
        tokio::join!(look, self.keep(&stop), self.watch_disk(&stop));
    }

    async fn keep(&self, stop: &CancellationToken) {
        let mut stopping = false;
        while !stopping {
            stopping = tokio::time::timeout(FLUSH_EVERY, stop.cancelled())
                .await
                .is_ok();
            let store = self.clone();
            let task = Task::new("write the index");
            let kept = self
                .work()
                .run(Kind::Keep, task, move || store.keep_up(stopping));
            match kept.await {
                Ok(()) => {}
                // That the disk does not answer is told once.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => tracing::error!(%error, "the store was not kept up"),
            }
        }
    }

    /// Writes the index, and lets go of what the journal noted for it. Blocks.
    pub(super) fn write_index(&self) {
        if self.layout().is_for_looking() {
            // Into the copy, where questions find it.
            self.inner.records.flush();
            return;
        }
        {
            // Nobody has noted a change there and not yet told the index of it.
            let _files = self.files();
            self.inner.journal.turn();
        }
        if self.inner.records.flush()
            && let Err(error) = self.inner.journal.caught_up()
        {
            tracing::warn!(%error, "cannot empty the journal; it is tried again");
        }
    }

    /// What does not work of the disk and why, in one line; `None` when all is well. Does not ask it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.layout().health().trouble()
    }

    /// An error while the disk fails: then nothing is tried for the sake of a request.
    pub(super) fn refuse_if_failing(&self) -> Result<(), StoreError> {
        let health = self.layout().health();
        if !health.is_in_trouble(Part::Files) && !self.work().writes_are_late() {
            return Ok(());
        }
        let why = health.trouble();
        let why = why.unwrap_or_else(|| "the disk failed a moment ago".to_owned());
        Err(StoreError::Failing(why))
    }

    /// Sees whether the disk answers, until `stop`.
    pub(super) async fn watch_disk(&self, stop: &CancellationToken) {
        while tokio::time::timeout(LOOK_EVERY, stop.cancelled())
            .await
            .is_err()
        {
            self.work().look();
        }
    }

    /// Done twice a second. Blocks.
    pub(super) fn keep_up(&self, last: bool) {
        let health = self.layout().health();
        if last {
            health.hurry(Part::Index);
        }
        self.write_index();
        self.account_for_index();
        self.watch_pins();
        if !health.is_in_trouble(Part::Files) {
            self.trim();
            self.keep_shares();
            self.see_room(false);
            if health.look_is_due() {
                // Its health hears how it went.
                drop(self.layout().probe(1, false));
            }
            if self.layout().stray_bytes() > 0 {
                self.layout().sweep_strays();
                self.report();
            }
        } else if health.retry_is_due(Part::Files) {
            // Where the disk is full, deleting is what helps.
            self.trim();
            self.mend();
        }
    }

    /// Tries the disk. It works when all is in order again.
    fn mend(&self) {
        let layout = self.layout();
        let tried = layout
            .make_directories()
            .and_then(|()| layout.probe(self.probe_bytes(), true));
        let swept = layout.sweep_strays();
        match tried {
            Ok(()) if swept => layout.health().works(Part::Files),
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "the disk still fails"),
        }
        self.report();
    }

    /// A store that has no room left, or shall leave what is free, is not tried with more than a byte.
    fn probe_bytes(&self) -> usize {
        let wanted = PROBE_BYTES as u64;
        let room = {
            let ledger = self.ledger();
            ledger.max().saturating_sub(ledger.bytes())
        };
        if room >= wanted && self.inner.bounds.leaves_free(wanted) {
            PROBE_BYTES
        } else {
            1
        }
    }
}
