//! What the store does by itself: writing the index, making room, and trying a disk again that fails.

use super::health::Part;
use super::{Store, StoreError};

/// So much is written to see whether the disk takes it again. Less could fit on one that is full all the
/// same, and the next blob would find that out.
const PROBE_BYTES: usize = 64 * 1024;

impl Store {
    /// What does not work of the disk and why, in one line; `None` when all is well. Does not ask it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.layout().health().trouble()
    }

    /// An error while the disk fails: then nothing is tried for the sake of a request.
    pub(super) fn refuse_if_failing(&self) -> Result<(), StoreError> {
        let health = self.layout().health();
        if !health.is_in_trouble(Part::Files) {
            return Ok(());
        }
        let why = health.trouble();
        let why = why.unwrap_or_else(|| "the disk failed a moment ago".to_owned());
        Err(StoreError::Failing(why))
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
