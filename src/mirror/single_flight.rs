//! Small questions to upstreams (a manifest, a HEAD, a list): one for everybody who asks the same at the same time.
//!
//! Once any of it was sent the work belongs to the mirror: whoever asked may hang up. Before that it is dropped with the
//! last one who waits. What fails for reasons of whoever asked first alone is asked again by those who joined.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::MirrorError;
use super::shares::{Shares, Slot};
use crate::oci::UpstreamName;
use crate::telemetry::Limit;
use crate::upstream::{OnBehalf, Work};

/// Different questions under way at the same time, some KB each.
pub(super) const REQUESTS_MAX: usize = 4096;

/// Number of times that a follower asks, when what was joined failed for its leader alone.
const TURNS_MAX: usize = 3;

/// The role of a request: the leader is the one for which the answer is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    Follower,
}

/// An answer that several may be given.
pub(super) trait Shared {
    /// True if it is about the first asker, so that others had better ask themselves.
    fn is_the_askers_own(&self) -> bool;
}

impl<T> Shared for Result<T, MirrorError> {
    fn is_the_askers_own(&self) -> bool {
        self.as_ref().is_err_and(MirrorError::is_the_askers_own)
    }
}

/// The tasks and places that a question is asked with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runway<'a> {
    pub(super) tasks: &'a TaskTracker,
    pub(super) shares: &'a Arc<Shares>,
    pub(super) upstream: &'a UpstreamName,
    /// True if the answer is wanted although nobody waits for it.
    pub(super) for_later: bool,
}

/// Questions under way, by key.
#[derive(Debug)]
pub(super) struct SingleFlight<K, V> {
    table: Mutex<HashMap<K, Flight<V>>>,
    next: AtomicU64,
}

/// One question under way.
#[derive(Debug)]
struct Flight<V> {
    id: u64,
    answer: watch::Receiver<Option<Ended<V>>>,
    /// Number of those who want the answer.
    waiting: usize,
    work: Arc<Work>,
    given_up: CancellationToken,
}

/// The end of a flight.
#[derive(Clone, Debug)]
enum Ended<V> {
    Answer(V),
    /// Its place was somebody else's.
    Displaced,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }
}

/// Somebody who waits for an answer.
struct Waiter<K: Eq + Hash, V> {
    answer: watch::Receiver<Option<Ended<V>>>,
    role: Role,
    _waits: Waits<K, V>,
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Shared + Clone + Send + Sync + 'static,
{
    /// The answer to `key`: `ask` runs on the mirror's tasks unless it is running already.
    ///
    /// # Errors
    /// [`MirrorError::Limited`] when there are too many questions, and the asker has its share of them;
    /// [`MirrorError::Busy`] when the one that was under way vanished.
    pub(super) async fn run<F>(
        self: &Arc<Self>,
        key: K,
        runway: Runway<'_>,
        ask: impl FnOnce() -> F + Send,
    ) -> Result<(V, Role), MirrorError>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut ask = Some(ask);
        let mut turns = TURNS_MAX;
        loop {
            turns -= 1;
            let mut waiter = self.join_or_begin(&key, runway, &mut ask)?;
            let ended = waiter.answer.wait_for(Option::is_some).await;
            let ended = ended.ok().and_then(|ended| ended.clone());
            let again = turns > 0 && waiter.role == Role::Follower;
            match ended {
                Some(Ended::Answer(answer)) if again && answer.is_the_askers_own() => {}
                Some(Ended::Answer(answer)) => return Ok((answer, waiter.role)),
                Some(Ended::Displaced) if again => {}
                Some(Ended::Displaced) => return Err(MirrorError::Limited(Limit::Questions)),
                None => return Err(MirrorError::Busy("a request to upstream was given up")),
            }
        }
    }

    /// Joins a flight, or begins one.
    fn join_or_begin<F>(
        self: &Arc<Self>,
        key: &K,
        runway: Runway<'_>,
        ask: &mut Option<impl FnOnce() -> F + Send>,
    ) -> Result<Waiter<K, V>, MirrorError>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut table = self.table();
        if let Some(flight) = table.get_mut(key) {
            flight.waiting += 1;
            flight.work.join();
            return Ok(self.waiter(key, flight, Role::Follower));
        }
        let behalf = OnBehalf::current();
        let work = Work::of(&behalf);
        let slot = runway
            .shares
            .take(runway.upstream, behalf.client(), &work)?;
        // Whoever has led is no follower, and asks once.
        let Some(ask) = ask.take() else {
            return Err(MirrorError::Busy("a request to upstream was given up"));
        };
        let (sender, answer) = watch::channel(None);
        let flight = Flight {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            answer,
            waiting: 1 + usize::from(runway.for_later),
            work: Arc::clone(&work),
            given_up: slot.given_up().clone(),
        };
        let waiter = self.waiter(key, &flight, Role::Leader);
        let removal = RemovalGuard(Listed {
            requests: Arc::clone(self),
            key: key.clone(),
            id: flight.id,
        });
        table.insert(key.clone(), flight);
        // Boxed once: what is wrapped in async blocks would be in each of them, and thousands may wait here.
        let asking = run_in(slot, Box::pin(ask()));
        runway
            .tasks
            .spawn(behalf.as_part_of(work).scope(async move {
                let ended = asking.await;
                // Off the table first: whoever comes now asks anew.
                drop(removal);
                sender.send_replace(Some(ended));
            }));
        Ok(waiter)
    }

    fn waiter(self: &Arc<Self>, key: &K, flight: &Flight<V>, role: Role) -> Waiter<K, V> {
        Waiter {
            answer: flight.answer.clone(),
            role,
            _waits: Waits(Listed {
                requests: Arc::clone(self),
                key: key.clone(),
                id: flight.id,
            }),
        }
    }
}

impl<K, V> SingleFlight<K, V> {
    fn table(&self) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
        // Each change is one insert, remove or count.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks, as long as there is a place for it.
async fn run_in<V>(slot: Slot, asking: impl Future<Output = V>) -> Ended<V> {
    tokio::select! {
        biased;
        answer = asking => Ended::Answer(answer),
        () = slot.given_up().cancelled() => Ended::Displaced,
    }
}

/// A flight on the table, if it is still there.
struct Listed<K: Eq + Hash, V> {
    requests: Arc<SingleFlight<K, V>>,
    key: K,
    id: u64,
}

impl<K: Eq + Hash, V> Listed<K, V> {
    fn find<'a>(&self, table: &'a mut HashMap<K, Flight<V>>) -> Option<&'a mut Flight<V>> {
        let flight = table.get_mut(&self.key);
        flight.filter(|flight| flight.id == self.id)
    }
}

/// Takes a question off the table, however it ends.
struct RemovalGuard<K: Eq + Hash, V>(Listed<K, V>);

impl<K: Eq + Hash, V> Drop for RemovalGuard<K, V> {
    fn drop(&mut self) {
        let mut table = self.0.requests.table();
        if self.0.find(&mut table).is_some() {
            table.remove(&self.0.key);
        }
    }
}

/// Somebody waits for the answer. The last one who leaves before anything was sent ends the flight.
struct Waits<K: Eq + Hash, V>(Listed<K, V>);

impl<K: Eq + Hash, V> Drop for Waits<K, V> {
    fn drop(&mut self) {
        let mut table = self.0.requests.table();
        let Some(flight) = self.0.find(&mut table) else {
            return;
        };
        flight.waiting -= 1;
        if flight.waiting == 0 && !flight.work.was_sent() {
            flight.given_up.cancel();
            table.remove(&self.0.key);
        }
    }
}

#[cfg(test)]
mod tests;
