//! The locks that may be held together, and their one order: the files, then the room for files that are not known
//! yet, then the ledger. Nobody takes an earlier one while holding a later one; debug builds see to it.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::evict::Ledger;

/// The three locks, each handed out as a guard of its own.
#[derive(Debug)]
pub(super) struct Locks {
    files: Mutex<()>,
    /// Bytes reserved for files that are not known yet.
    hidden: Mutex<u64>,
    ledger: Mutex<Ledger>,
}

/// The right to name, rename and delete the files of blobs: a victim's deletion never takes its successor's file, and
/// the journal has one writer. A function that needs it takes a reference to this.
#[derive(Debug)]
pub(super) struct FilesGuard<'a> {
    _files: Guard<'a, ()>,
}

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Guard<'a, T> {
    value: MutexGuard<'a, T>,
    #[cfg(debug_assertions)]
    _rank: order::Rank,
}

impl Locks {
    /// Around the ledger of a store.
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            files: Mutex::default(),
            hidden: Mutex::default(),
            ledger: Mutex::new(ledger),
        }
    }

    /// The first of the three.
    pub(super) fn files(&self) -> FilesGuard<'_> {
        FilesGuard {
            _files: Guard::of(&self.files, 0),
        }
    }

    /// The second.
    pub(super) fn hidden(&self) -> Guard<'_, u64> {
        Guard::of(&self.hidden, 1)
    }

    /// The last.
    pub(super) fn ledger(&self) -> Guard<'_, Ledger> {
        Guard::of(&self.ledger, 2)
    }
}

impl<'a, T> Guard<'a, T> {
    #[cfg_attr(
        not(debug_assertions),
        expect(unused_variables, reason = "not checked")
    )]
    fn of(lock: &'a Mutex<T>, rank: u8) -> Self {
        #[cfg(debug_assertions)]
        let rank = order::Rank::take(rank);
        Self {
            // The ledger's methods do not panic half-way, and the others guard a number at most.
            value: lock.lock().unwrap_or_else(PoisonError::into_inner),
            #[cfg(debug_assertions)]
            _rank: rank,
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// The check of the order, by thread.
#[cfg(debug_assertions)]
mod order {
    use std::cell::Cell;

    thread_local! {
        /// One bit for each rank that this thread holds. A thread never holds locks of two stores.
        static HELD: Cell<u8> = const { Cell::new(0) };
    }

    #[derive(Debug)]
    pub(super) struct Rank(u8);

    impl Rank {
        pub(super) fn take(rank: u8) -> Self {
            let held = HELD.get();
            debug_assert!(held >> rank == 0, "locks are taken in one order");
            HELD.set(held | 1 << rank);
            Self(rank)
        }
    }

    impl Drop for Rank {
        fn drop(&mut self) {
            HELD.set(HELD.get() & !(1 << self.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_are_held_together_and_in_any_part_of_the_order() {
        let locks = Locks::new(Ledger::new(100));
        let files = locks.files();
        let mut hidden = locks.hidden();
        *hidden = 7;
        assert_eq!(locks.ledger().max(), 100);
        drop(files);
        assert_eq!(locks.ledger().bytes(), 0);
        drop(hidden);
        let files = locks.files();
        assert_eq!(*locks.hidden(), 7);
        assert_eq!(locks.ledger().order().len(), 0);
        drop(files);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "locks are taken in one order")]
    fn an_earlier_one_is_refused_to_whoever_holds_a_later_one() {
        let locks = Locks::new(Ledger::new(100));
        let _ledger = locks.ledger();
        let _files = locks.files();
    }
}
