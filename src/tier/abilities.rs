//! What a store can do, as far as it was tried.

use std::sync::atomic::{AtomicBool, Ordering};

/// The abilities of a store. Until they are known it is taken to have them.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    known: AtomicBool,
    lacks_ranges: AtomicBool,
}

impl Abilities {
    pub(super) fn are_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// They were tried.
    pub(super) fn now_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    /// It gives parts of objects, or does not.
    pub(super) fn gives_ranges(&self, gives: bool) {
        self.lacks_ranges.store(!gives, Ordering::Relaxed);
    }

    /// True if it gives parts of objects.
    pub(super) fn has_ranges(&self) -> bool {
        !self.lacks_ranges.load(Ordering::Relaxed)
    }
}
