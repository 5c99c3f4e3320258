//! Work that the store does by itself: writing the index, making room, and trying a disk again that fails.

pub(super) mod open;
pub(super) mod quarantine;
pub(super) mod scan;
pub mod scrub;

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::store::disk::health::Part;
use crate::store::disk::work::{Kind, Task};

/// So much is written to see whether the disk takes it again. Less could fit on one that is full all the
/// same, and the next blob would find that out.
const PROBE_BYTES: usize = 64 * 1024;

/// Time that a change of the index may wait to be written.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Time between two looks at whether the disk answers: nobody may be waiting for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Store {
    /// Looks through the files once; writes changes of the index, makes room ahead and tries a disk that
    /// fails again, now and then, until `stop`, then a last time.
    pub async fn run(self, stop: CancellationToken) {
        let upkeep = Upkeep(self.clone());
        let look = async {
            self.scan().run(&stop).await;
            // Only now it is known what is stored.
            self.inner.expiry.run(&stop).await;
        };
        tokio::join!(look, upkeep.keep(&stop), upkeep.watch_disk(&stop));
    }
}

/// Work that is done twice a second.
#[derive(Clone, Debug)]
pub(super) struct Upkeep(pub(super) Store);

impl Upkeep {
    async fn keep(&self, stop: &CancellationToken) {
        let mut stopping = false;
        while !stopping {
            stopping = tokio::time::timeout(FLUSH_EVERY, stop.cancelled())
                .await
                .is_ok();
            let upkeep = self.clone();
            let task = Task::new("write the index");
            let kept = self
                .0
                .contents()
                .layout()
                .work()
                .run(Kind::Keep, task, move || upkeep.keep_up(stopping));
            match kept.await {
                Ok(()) => {}
                // That the disk does not answer is told once.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => tracing::error!(%error, "the store was not kept up"),
            }
        }
    }

    /// Sees whether the disk answers, until `stop`.
    pub(super) async fn watch_disk(&self, stop: &CancellationToken) {
        while tokio::time::timeout(LOOK_EVERY, stop.cancelled())
            .await
            .is_err()
        {
            self.0.contents().layout().work().look();
        }
    }

    /// Done twice a second. Blocks.
    pub(super) fn keep_up(&self, last: bool) {
        if self.0.contents().layout().ownership().is_ending() {
            return;
        }
        let health = self.0.contents().layout().health();
        if last {
            health.hurry(Part::Index);
        }
        self.0.contents().write_index();
        self.0.capacity().account_for_index();
        self.0.pins().watch();
        if !health.is_in_trouble(Part::Files) {
            self.0.capacity().trim();
            self.0.quotas().keep();
            self.0.capacity().see_room(false);
            if health.look_is_due() {
                // Its health hears how it went.
                drop(self.0.contents().layout().probe(1, false));
            }
            if self.0.contents().layout().stray_bytes() > 0 {
                self.0.contents().layout().sweep_strays();
                self.0.contents().report();
            }
        } else if health.retry_is_due(Part::Files) {
            // Where the disk is full, deleting is what helps.
            self.0.capacity().trim();
            self.mend();
        }
    }

    /// Tries the disk. It works when all is in order again.
    fn mend(&self) {
        let layout = self.0.contents().layout();
        let tried = layout
            .make_directories()
            .and_then(|()| layout.probe(self.probe_bytes(), true));
        let swept = layout.sweep_strays();
        match tried {
            Ok(()) if swept => layout.health().works(Part::Files),
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "the disk still fails"),
        }
        self.0.contents().report();
    }

    /// A store that has no room left, or shall leave what is free, is not tried with more than a byte.
    fn probe_bytes(&self) -> usize {
        let wanted = PROBE_BYTES as u64;
        let room = {
            let ledger = self.0.contents().ledger();
            ledger.max().saturating_sub(ledger.bytes())
        };
        if room >= wanted && self.0.contents().bounds.leaves_free(wanted) {
            PROBE_BYTES
        } else {
            1
        }
    }
}
