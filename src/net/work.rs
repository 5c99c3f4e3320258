//! One piece of work for which several clients may wait, as those know it who give it its turn.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::behalf::{ClientId, OnBehalf};

/// Clients that are remembered of one piece of work: its turn comes with the first of theirs. With this many, one more
/// would hardly make it come sooner.
const CLIENTS_MAX: usize = 16;

/// A request, or the transfer of a blob: for whom it is done, and how far it is.
#[derive(Debug)]
pub struct Work {
    clients: Mutex<Vec<ClientId>>,
    /// The work that this is a part of, with clients of its own.
    whole: Option<Arc<Work>>,
    sent: AtomicBool,
    /// Requests that an upstream has, and has not answered.
    asking: AtomicUsize,
    /// Others wait for it, too. One for a work and its parts.
    joined: Arc<Notify>,
}

impl Work {
    /// Work for whoever asks now, as a part of what they are doing.
    #[must_use]
    pub fn begin() -> Arc<Self> {
        Self::of(&OnBehalf::current())
    }

    /// Work for somebody, as a part of what they are doing.
    #[must_use]
    pub fn of(behalf: &OnBehalf) -> Arc<Self> {
        let whole = behalf.work().cloned();
        let joined = whole.as_ref().map(|whole| Arc::clone(&whole.joined));
        Arc::new(Self {
            clients: Mutex::new(vec![behalf.client()]),
            whole,
            sent: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
            joined: joined.unwrap_or_default(),
        })
    }

    /// Whoever asks now waits for it, too.
    pub fn join(&self) {
        let client = OnBehalf::current().client();
        {
            let mut clients = self.clients();
            if clients.contains(&client) || clients.len() >= CLIENTS_MAX {
                return;
            }
            clients.push(client);
        }
        self.joined.notify_waiters();
    }

    /// True if a request of it was ever sent.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// It needs no upstream, and goes on like what was sent.
    pub fn needs_no_turn(&self) {
        self.sent.store(true, Ordering::Release);
    }

    /// True if an upstream is asked now.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Acquire) > 0
    }

    /// All clients that wait for it, or for what it is a part of.
    pub(crate) fn all_clients(&self) -> Vec<ClientId> {
        let mut all = self.clients().clone();
        let mut whole = self.whole.as_ref();
        while let Some(work) = whole {
            for client in work.clients().iter() {
                if !all.contains(client) && all.len() < CLIENTS_MAX {
                    all.push(*client);
                }
            }
            whole = work.whole.as_ref();
        }
        all
    }

    /// Told when others join.
    pub(crate) fn joined(&self) -> &Notify {
        &self.joined
    }

    /// A request of it is sent.
    pub(crate) fn asks(&self) {
        self.and_what_it_is_part_of(|work| {
            work.sent.store(true, Ordering::Release);
            work.asking.fetch_add(1, Ordering::AcqRel);
        });
    }

    /// A request of it has ended.
    pub(crate) fn asked(&self) {
        self.and_what_it_is_part_of(|work| {
            work.asking.fetch_sub(1, Ordering::AcqRel);
        });
    }

    fn and_what_it_is_part_of(&self, act: impl Fn(&Self)) {
        act(self);
        let mut whole = self.whole.as_ref();
        while let Some(work) = whole {
            act(work);
            whole = work.whole.as_ref();
        }
    }

    fn clients(&self) -> MutexGuard<'_, Vec<ClientId>> {
        // Each change is one push.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Pseudonym;

    fn behalf(connection: u64) -> OnBehalf {
        let via = Pseudonym::random().join(std::iter::empty()).unwrap();
        OnBehalf::of(ClientId::new([192, 0, 2, 1].into(), connection), via)
    }

    #[tokio::test]
    async fn who_waits_for_the_whole_waits_for_its_parts() {
        let whole = behalf(1).scope(async { Work::begin() }).await;
        let part = behalf(1).as_part_of(Arc::clone(&whole));
        let part = part.scope(async { Work::begin() }).await;
        let told = part.joined().notified();
        behalf(2).scope(async { whole.join() }).await;
        told.await;
        let connections: Vec<_> = part.all_clients().iter().map(|c| c.connection).collect();
        assert_eq!(connections, [1, 2]);

        part.asks();
        assert!(whole.is_asking() && whole.was_sent());
        part.asked();
        assert!(!whole.is_asking() && whole.was_sent() && part.was_sent());
    }

    #[tokio::test]
    async fn not_everybody_is_remembered() {
        let work = behalf(0).scope(async { Work::begin() }).await;
        for connection in 0..1000 {
            behalf(connection).scope(async { work.join() }).await;
        }
        assert_eq!(work.all_clients().len(), CLIENTS_MAX);
    }
}
