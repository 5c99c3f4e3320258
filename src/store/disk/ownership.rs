//! The end of a process's right to change a store, when another process takes it over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Says whether this process may change the store.
#[derive(Debug, Default)]
pub(in crate::store) struct Ownership {
    /// True: what is under way is finished, and nothing new is begun.
    is_ending: AtomicBool,
    /// True: nothing is changed any more. Whoever changes something holds it for so long.
    has_ended: RwLock<bool>,
}

impl Ownership {
    /// Nothing new is begun from now on.
    pub(in crate::store) fn end_soon(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// True if nothing new is to be begun.
    pub(in crate::store) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Waits for the changes under way, and allows no other. Blocks for as long as the disk takes for these.
    pub(in crate::store) fn end(&self) {
        let mut has_ended = self
            .has_ended
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *has_ended = true;
    }

    /// The right to one change; `None`: the store is another process's.
    pub(in crate::store) fn permit(&self) -> Option<RwLockReadGuard<'_, bool>> {
        let has_ended = self
            .has_ended
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        (!*has_ended).then_some(has_ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    #[test]
    fn the_end_waits_for_changes_under_way_and_allows_no_other() {
        let ownership = Arc::new(Ownership::default());
        ownership.end_soon();
        assert!(ownership.is_ending());
        let change = ownership.permit().unwrap();
        let (sender, ended) = channel();
        let other = Arc::clone(&ownership);
        let thread = std::thread::spawn(move || {
            other.end();
            sender.send(()).unwrap();
        });
        let early = ended.recv_timeout(Duration::from_millis(50));
        assert_eq!(
            early,
            Err(RecvTimeoutError::Timeout),
            "a change is under way"
        );
        drop(change);
        ended.recv().unwrap();
        thread.join().unwrap();
        assert!(ownership.permit().is_none());
    }
}
