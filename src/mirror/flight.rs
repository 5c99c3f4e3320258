//! One piece of work for everybody who asks at the same time.
//!
//! [`Fills`] is the table of blobs on their way; [`Flights`] shares the answer
//! to a small question (a manifest, a HEAD). In both the work belongs to the
//! mirror: whoever asked may hang up.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{MirrorError, Source};
use crate::oci::{Digest, UpstreamName};
use crate::store::{self, Fill, FillKey};
use crate::upstream::carry;

/// Fills at the same time: each has a file, a connection and up to a megabyte
/// in memory.
const FILLS_MAX: usize = 512;

/// Different small questions under way at the same time.
const FLIGHTS_MAX: usize = 4096;

type Opening = store::fill::Opening<MirrorError>;

/// The fills under way: what has not been checked is one upstream's alone.
#[derive(Debug, Default)]
pub(super) struct Fills {
    table: Mutex<HashMap<FillKey, Entry>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    source: Source,
    fill: Fill<MirrorError>,
}

/// What to do about a blob that was not found in the store.
#[derive(Debug)]
pub(super) enum Seat {
    /// It has been stored meanwhile: look again.
    Stored,
    /// It is on its way, for the sake of `source`.
    Join {
        fill: Fill<MirrorError>,
        source: Source,
    },
    /// Nobody fetches it: the caller must, or drop the lead, which tells all
    /// who joined that it failed.
    Lead(Lead),
}

/// The duty to fetch a blob.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) opening: Opening,
    pub(super) fill: Fill<MirrorError>,
    pub(super) place: Place,
}

/// A fill's place in the table, given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    fills: Arc<Fills>,
    key: FillKey,
    id: u64,
}

impl Fills {
    /// A place in the one fill of `digest` from the source's upstream. `stored` is asked while nobody can
    /// begin or end a fill, so that a blob just committed is not fetched again.
    pub(super) fn seat(
        self: &Arc<Self>,
        digest: &Digest,
        source: &Source,
        stored: impl FnOnce() -> bool,
    ) -> Result<Seat, MirrorError> {
        let key = FillKey::new(&source.upstream, *digest);
        let mut table = self.table();
        if let Some(entry) = table.get(&key).filter(|entry| !entry.fill.has_failed()) {
            return Ok(Seat::Join {
                fill: entry.fill.clone(),
                source: entry.source.clone(),
            });
        }
        if stored() {
            return Ok(Seat::Stored);
        }
        if table.len() >= FILLS_MAX {
            return Err(MirrorError::Busy("too many blobs are being fetched"));
        }
        let (opening, fill) = store::fill(key);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        table.insert(
            key,
            Entry {
                id,
                source: source.clone(),
                fill: fill.clone(),
            },
        );
        let place = Place {
            fills: Arc::clone(self),
            key,
            id,
        };
        Ok(Seat::Lead(Lead {
            opening,
            fill,
            place,
        }))
    }

    /// The fill of `digest` from this upstream, if it is on its way.
    pub(super) fn find(
        &self,
        upstream: &UpstreamName,
        digest: &Digest,
    ) -> Option<Fill<MirrorError>> {
        let key = FillKey::new(upstream, *digest);
        let table = self.table();
        table
            .get(&key)
            .filter(|e| !e.fill.has_failed())
            .map(|e| e.fill.clone())
    }

    /// Takes a fill that nobody follows off the table; whoever asks for its blob next begins a new one.
    /// `alone` says whether that is so, while nobody can find it.
    pub(super) fn give_up(&self, key: &FillKey, alone: impl FnOnce() -> bool) -> bool {
        let mut table = self.table();
        let given_up = alone();
        if given_up {
            table.remove(key);
        }
        given_up
    }

    /// All of them: what is fetched, for which repository.
    pub(super) fn list(&self) -> Vec<(Digest, Source, Fill<MirrorError>)> {
        let table = self.table();
        let under_way = table.iter().filter(|(_, entry)| !entry.fill.has_failed());
        under_way
            .map(|(key, entry)| (*key.digest(), entry.source.clone(), entry.fill.clone()))
            .collect()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<FillKey, Entry>> {
        // Each change is one insert or remove.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.fills.table();
        // A failed fill's place may have been taken over by a new one.
        if table
            .get(&self.key)
            .is_some_and(|entry| entry.id == self.id)
        {
            table.remove(&self.key);
        }
    }
}

/// Whether an answer was fetched for the asker or for somebody before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    Follower,
}

/// Questions under way, by key.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    table: Mutex<HashMap<K, watch::Receiver<Option<V>>>>,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
        }
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The answer to `key`: `ask` runs on `tasks` unless it is running already.
    ///
    /// # Errors
    /// [`MirrorError::Busy`] when there are too many questions, or when the one
    /// that was under way vanished.
    pub(super) async fn run<F>(
        self: &Arc<Self>,
        key: K,
        tasks: &TaskTracker,
        ask: impl FnOnce() -> F + Send,
    ) -> Result<(V, Role), MirrorError>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut answer, role) = {
            let mut table = self.table();
            if let Some(running) = table.get(&key) {
                (running.clone(), Role::Follower)
            } else if table.len() >= FLIGHTS_MAX {
                return Err(MirrorError::Busy("too many questions to upstream"));
            } else {
                let (sender, receiver) = watch::channel(None);
                table.insert(key.clone(), receiver.clone());
                let landing = Landing {
                    flights: Arc::clone(self),
                    key,
                };
                let asking = ask();
                tasks.spawn(carry(async move {
                    let value = asking.await;
                    // Off the table first: whoever comes now asks anew.
                    drop(landing);
                    sender.send_replace(Some(value));
                }));
                (receiver, Role::Leader)
            }
        };
        let landed = answer.wait_for(Option::is_some).await;
        let value = landed.ok().and_then(|value| value.clone());
        Ok((
            value.ok_or(MirrorError::Busy("a request to upstream was given up"))?,
            role,
        ))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a question off the table, however it ends.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let mut table = self
            .flights
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::oci::Repository;

    fn source() -> Source {
        Source {
            upstream: UpstreamName::parse("docker.io").unwrap(),
            repository: Repository::parse("library/app").unwrap(),
        }
    }

    #[tokio::test]
    async fn one_answer_for_all_and_the_leader_may_leave() {
        let flights = Arc::new(Flights::<u8, u32>::default());
        let tasks = TaskTracker::new();
        let (release, gate) = oneshot::channel();
        let leader = tokio::time::timeout(
            std::time::Duration::ZERO,
            flights.run(1, &tasks, move || async move { gate.await.unwrap() }),
        );
        assert!(leader.await.is_err(), "the leader hangs up");
        let follower = flights.run(1, &tasks, || async { unreachable!("it is under way") });
        let (answer, ()) = tokio::join!(follower, async { release.send(7).unwrap() });
        assert_eq!(answer.unwrap(), (7, Role::Follower));
        let again = flights.run(1, &tasks, || async { 8 }).await.unwrap();
        assert_eq!(again, (8, Role::Leader), "an answer is shared, not cached");
    }

    #[tokio::test]
    async fn a_flight_that_panics_is_an_error_and_not_silence() {
        let flights = Arc::new(Flights::<u8, u32>::default());
        let tasks = TaskTracker::new();
        let answer = flights
            .run(1, &tasks, || async { panic!("on purpose") })
            .await;
        assert!(matches!(answer, Err(MirrorError::Busy(_))));
        assert!(
            flights.run(1, &tasks, || async { 8 }).await.is_ok(),
            "the key is free again"
        );
    }

    #[tokio::test]
    async fn a_dropped_lead_is_a_failure_and_frees_the_seat() {
        let fills = Arc::new(Fills::default());
        let digest = Digest::Sha256([1; 32]);
        let Ok(Seat::Lead(lead)) = fills.seat(&digest, &source(), || false) else {
            panic!("no lead")
        };
        let Ok(Seat::Join { fill, .. }) = fills.seat(&digest, &source(), || false) else {
            panic!("no join")
        };
        drop(lead);
        assert!(fill.started().await.is_err());
        assert!(matches!(
            fills.seat(&digest, &source(), || true),
            Ok(Seat::Stored)
        ));
        assert!(matches!(
            fills.seat(&digest, &source(), || false),
            Ok(Seat::Lead(_))
        ));
    }
}
