//! The bytes that waiting readers of a fill wait for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The bytes that all readers of a fill wait for. Readers of the same byte are one: hundreds who follow the
/// same transfer cost whoever looks no more than one of them.
#[derive(Debug, Default)]
pub(in crate::store) struct Wants {
    /// By first byte: up to where the furthest of them reads, and how many they are.
    by_start: Mutex<BTreeMap<u64, (u64, usize)>>,
    /// Somebody has come who needs the whole blob.
    everything: AtomicBool,
    /// A byte is waited for that nobody waited for before.
    changed: Notify,
}

/// The bytes that one reader waits for, as long as it does.
#[derive(Debug)]
pub(in crate::store) struct Want {
    wants: Arc<Wants>,
    start: Option<u64>,
}

impl Wants {
    /// All ranges that are waited for, lowest first byte first.
    pub(in crate::store) fn all(&self) -> Vec<Range<u64>> {
        let by_start = self.by_start();
        by_start
            .iter()
            .map(|(start, (end, _))| *start..*end)
            .collect()
    }

    /// Somebody needs all of the blob, and be it to get the end of it.
    pub(in crate::store) fn everything(&self) {
        self.everything.store(true, Ordering::Relaxed);
    }

    /// True if anybody ever did.
    pub(in crate::store) fn is_everything(&self) -> bool {
        self.everything.load(Ordering::Relaxed)
    }

    /// Waits until something new is waited for.
    pub(in crate::store) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn by_start(&self) -> MutexGuard<'_, BTreeMap<u64, (u64, usize)>> {
        self.by_start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Want {
    /// One that waits for nothing yet.
    pub(in crate::store) const fn new(wants: Arc<Wants>) -> Self {
        Self { wants, start: None }
    }

    /// The reader waits for these bytes, beginning with the first.
    pub(in crate::store) fn wait(&mut self, range: Range<u64>) {
        if self.start == Some(range.start) {
            return;
        }
        self.done();
        let is_new = {
            let mut by_start = self.wants.by_start();
            let (end, readers) = by_start.entry(range.start).or_default();
            *end = range.end.max(*end);
            *readers += 1;
            *readers == 1
        };
        self.start = Some(range.start);
        if is_new {
            self.wants.changed.notify_one();
        }
    }

    /// The reader waits no more.
    pub(in crate::store) fn done(&mut self) {
        let Some(start) = self.start.take() else {
            return;
        };
        let mut by_start = self.wants.by_start();
        if let Some((_, readers)) = by_start.get_mut(&start) {
            *readers -= 1;
            if *readers == 0 {
                by_start.remove(&start);
            }
        }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_of_the_same_byte_are_one_until_the_last_goes() {
        let wants = Arc::new(Wants::default());
        let mut readers: Vec<_> = (0..3).map(|_| Want::new(Arc::clone(&wants))).collect();
        readers[0].wait(5..10);
        readers[1].wait(5..u64::MAX);
        readers[2].wait(3..4);
        assert_eq!(wants.all(), [3..4, 5..u64::MAX]);
        readers[0].done();
        readers[0].done();
        readers[2].wait(7..8);
        assert_eq!(wants.all(), [5..u64::MAX, 7..8]);
        drop(readers);
        assert_eq!(wants.all(), []);
    }

    #[tokio::test]
    async fn only_what_is_new_is_told() {
        let wants = Arc::new(Wants::default());
        let (mut one, mut other) = (Want::new(Arc::clone(&wants)), Want::new(Arc::clone(&wants)));
        one.wait(5..10);
        wants.changed().await;
        one.wait(5..10);
        other.wait(5..9);
        let mut told = is_ready(wants.changed());
        assert!(!told, "nothing is new");
        other.wait(6..9);
        told = is_ready(wants.changed());
        assert!(told);
    }

    /// True if it is ready at once.
    fn is_ready(future: impl Future<Output = ()>) -> bool {
        use futures_util::FutureExt;
        future.now_or_never().is_some()
    }
}
