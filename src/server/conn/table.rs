//! A listener's connections: who has a place, and who gives it up for another.
//!
//! Places are shares for each client address, and work-conserving: one address may have all of them while nobody else
//! wants one, since behind a NAT or a balancer everybody has one address. When there is none left, the longest idle
//! connection goes, of the address that has most; then one of those that take less than the least rate; and for an
//! address that has fewer than another, one of that other's at work.

use crate::server::conn::buffers::Buffers;
use crate::server::conn::limits::Limits;
use crate::server::conn::stall_guard::{Phase, Standing, Watch, Why};
use crate::telemetry::{Limit, Listener, Metrics};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A connection that has just been made is not yet idle: its client's first words are on their way.
const GRACE: Duration = Duration::from_secs(1);

/// So many are chosen at once to go one after the other, for as long as the choice is fresh: where somebody knocks
/// without end, all are not looked at for each knock.
const CHOSEN_MAX: usize = 256;
const CHOICE_FRESH: Duration = Duration::from_millis(250);

/// One client: an address, and of IPv6 the network that one host may choose its addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Share {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Share {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let network = (address.to_bits() >> 64) as u64;
                Self::V6(network.to_be_bytes())
            }
        }
    }
}

/// The connections of clients, of all their listeners, or those of operators.
#[derive(Debug)]
pub(crate) struct Table {
    listener: Listener,
    connections_max: usize,
    pub(crate) limits: Limits,
    metrics: Metrics,
    buffers: Buffers,
    places: Mutex<Places>,
    /// Somebody has left.
    freed: Notify,
    /// Number of connections that wait for a place.
    pub(super) waiting: AtomicUsize,
    is_crowded: AtomicBool,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: HashMap<u64, (Share, Arc<Watch>)>,
    shares: HashMap<Share, usize>,
    /// Clients that have more requests than others, where memory is short.
    greedy: HashSet<Share>,
    chosen: Chosen,
}

/// The connections that go next.
#[derive(Debug, Default)]
struct Chosen {
    at: Option<Instant>,
    queue: VecDeque<(u64, Claim)>,
}

/// The strength of a connection's claim to its place, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// It has said nothing for a while, or has nothing to say: anybody may take its place.
    Idle,
    /// It has come a moment ago.
    Fresh,
    /// It takes less than the least rate.
    Slow,
    /// It works: only who has less may take its place.
    Busy,
}

/// A place, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Seat {
    table: Arc<Table>,
    number: u64,
    /// The watch of the connection that has it.
    pub(crate) watch: Arc<Watch>,
}

impl Table {
    pub(crate) fn new(
        listener: Listener,
        connections_max: usize,
        limits: Limits,
        metrics: Metrics,
        buffers: Buffers,
    ) -> Arc<Self> {
        metrics.limits().connections(listener, 0);
        Arc::new(Self {
            listener,
            connections_max,
            limits,
            metrics,
            buffers,
            places: Mutex::default(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            is_crowded: AtomicBool::new(false),
        })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for `client`, if there is one or somebody gives up theirs. `is_buffered`: as in [`Watch::new`].
    pub(crate) fn admit(self: &Arc<Self>, client: SocketAddr, is_buffered: bool) -> Option<Seat> {
        let share = Share::from(client.ip());
        let mut places = self.places();
        if places.taken.len() >= self.connections_max {
            self.tell_crowded();
            places.make_room(share, self.is_for_operators())?.go();
            self.metrics.limits().met(Limit::Connections);
        } else if places.taken.len() < self.connections_max / 2 {
            self.is_crowded.store(false, Ordering::Relaxed);
        }
        let watch = Watch::new(client, is_buffered, self.buffers.clone());
        watch.greedy(places.greedy.contains(&share));
        let number = places.next;
        places.next += 1;
        places.taken.insert(number, (share, Arc::clone(&watch)));
        *places.shares.entry(share).or_default() += 1;
        self.metrics
            .limits()
            .connections(self.listener, places.taken.len());
        Some(Seat {
            table: Arc::clone(self),
            number,
            watch,
        })
    }

    /// True if probes and scrapers come here, which must get in whoever else is there.
    fn is_for_operators(&self) -> bool {
        match self.listener {
            Listener::Client => false,
            Listener::Admin => true,
        }
    }

    /// Once, until it is better.
    fn tell_crowded(&self) {
        if !self.is_crowded.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                listener = self.listener.label(),
                connections = self.connections_max,
                "all connections are taken; from now on the longest idle one of the address that has most is closed for a new one"
            );
        }
    }

    /// There are no descriptors left: whoever is idle longest gives up theirs. Whether there was any.
    pub(crate) fn give_up_idle(&self) -> bool {
        let mut places = self.places();
        let Some(watch) = places.make_any_room() else {
            return false;
        };
        watch.go();
        self.metrics.limits().met(Limit::Connections);
        true
    }

    /// `clients` would take how many places each, the one who asks first among them? Whether `one` has fewer than
    /// `other`.
    pub(crate) fn has_less(&self, one: SocketAddr, other: SocketAddr) -> bool {
        let places = self.places();
        let count = |client: SocketAddr| places.count(&Share::from(client.ip()));
        count(one) < count(other)
    }

    /// Waits until somebody leaves.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Counts the clients that wait at a listener: `now`, where there were `before`.
    pub(crate) fn waiting(&self, before: usize, now: usize) {
        self.waiting.fetch_add(now, Ordering::Relaxed);
        self.waiting.fetch_sub(before, Ordering::Relaxed);
    }

    /// Somebody who knocked was sent away.
    pub(crate) fn turned_away(&self) {
        self.metrics.limits().met(Limit::Connections);
    }

    /// Ends what is over, again and again.
    pub(crate) async fn keep_order(&self) {
        loop {
            tokio::time::sleep(self.limits.tick()).await;
            self.look();
        }
    }

    fn look(&self) {
        let all: Vec<_> = {
            let places = self.places();
            let watches = places.taken.values();
            watches.map(|(_, watch)| Arc::clone(watch)).collect()
        };
        self.note_greedy();
        let now = Instant::now();
        let is_pressed = self.waiting.load(Ordering::Relaxed) > 0 || self.buffers.are_full();
        for watch in all {
            let Some((why, count)) = watch.look(now, &self.limits, is_pressed) else {
                continue;
            };
            let (limit, words) = match why {
                Why::Head => (
                    Limit::Head,
                    "a client did not finish a request's head in time",
                ),
                Why::Stall => (
                    Limit::BodyStall,
                    "a client took no byte of a body for too long",
                ),
                Why::Rate => (
                    Limit::BodyRate,
                    "a client took a body too slowly while others waited",
                ),
                Why::Resets => (
                    Limit::Resets,
                    "a client takes back requests as fast as it makes them",
                ),
            };
            (0..count).for_each(|_| self.metrics.limits().met(limit));
            let listener = self.listener.label();
            match why {
                Why::Head => tracing::debug!(client = %watch.peer(), listener, "{words}"),
                Why::Stall | Why::Rate | Why::Resets => {
                    tracing::info!(client = %watch.peer(), listener, count, "{words}");
                }
            }
        }
    }
}

impl Table {
    /// Notes, while memory is short, which clients have more requests than the mean of those who have any.
    fn note_greedy(&self) {
        let mut places = self.places();
        let is_short = self.buffers.are_full();
        if !is_short && places.greedy.is_empty() {
            return;
        }
        let mut running = HashMap::<Share, usize>::new();
        for (share, watch) in places.taken.values().filter(|_| is_short) {
            *running.entry(*share).or_default() += watch.running();
        }
        running.retain(|_, count| *count > 0);
        let mean = running.values().sum::<usize>() / running.len().max(1);
        running.retain(|_, count| *count >= mean);
        places.greedy = running.into_keys().collect();
        for (share, watch) in places.taken.values() {
            watch.greedy(places.greedy.contains(share));
        }
    }
}

impl Places {
    fn count(&self, share: &Share) -> usize {
        self.shares.get(share).copied().unwrap_or_default()
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Watch>> {
        let (share, watch) = self.taken.remove(&number)?;
        if let Some(count) = self.shares.get_mut(&share) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.shares.remove(&share);
            }
        }
        Some(watch)
    }

    /// Frees a place for somebody of `share`. Nothing, if nobody is to give up theirs.
    fn make_room(&mut self, share: Share, always: bool) -> Option<Arc<Watch>> {
        let ours = self.count(&share);
        self.take_chosen(|theirs, count, claim| match claim {
            Claim::Idle | Claim::Fresh | Claim::Slow => theirs == share || count > ours,
            Claim::Busy => always || (theirs != share && count > ours + 1),
        })
    }

    fn make_any_room(&mut self) -> Option<Arc<Watch>> {
        self.take_chosen(|_, _, claim| claim <= Claim::Fresh)
    }

    fn take_chosen(&mut self, may: impl Fn(Share, usize, Claim) -> bool) -> Option<Arc<Watch>> {
        let now = Instant::now();
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < CHOICE_FRESH;
        let was_fresh = self.chosen.at.as_ref().is_some_and(is_fresh);
        if was_fresh && let Some(watch) = self.take_next(&may) {
            return Some(watch);
        }
        // A fresh choice in which nobody fits will not be another a moment later, unless it ran out.
        if was_fresh && !self.chosen.queue.is_empty() {
            return None;
        }
        self.choose(now);
        self.take_next(&may)
    }

    fn take_next(&mut self, may: &impl Fn(Share, usize, Claim) -> bool) -> Option<Arc<Watch>> {
        let mut at = 0;
        while let Some((number, claim)) = self.chosen.queue.get(at).copied() {
            let Some((share, watch)) = self.taken.get(&number) else {
                self.chosen.queue.remove(at);
                continue;
            };
            if claim <= Claim::Fresh && !watch.is_free() {
                self.chosen.queue.remove(at);
                continue;
            }
            if may(*share, self.count(share), claim) {
                self.chosen.queue.remove(at);
                return self.remove(number);
            }
            at += 1;
        }
        None
    }

    fn choose(&mut self, now: Instant) {
        let claims = self.taken.iter().map(|(number, (share, watch))| {
            let standing = watch.standing();
            let claim = Claim::of(&standing, now);
            let works = claim == Claim::Busy;
            (
                works,
                Reverse(self.count(share)),
                claim,
                standing.since,
                *number,
            )
        });
        let mut claims: Vec<_> = claims.collect();
        if claims.len() > CHOSEN_MAX {
            claims.select_nth_unstable(CHOSEN_MAX);
            claims.truncate(CHOSEN_MAX);
        }
        claims.sort_unstable();
        let queue = claims.into_iter();
        self.chosen = Chosen {
            at: Some(now),
            queue: queue
                .map(|(_, _, claim, _, number)| (number, claim))
                .collect(),
        };
    }
}

impl Seat {
    /// Counts the connection for the client that its balancer has named.
    pub(crate) fn is_of(&self, client: SocketAddr) {
        let share = Share::from(client.ip());
        let mut places = self.table.places();
        self.watch.is_of(client);
        self.watch.greedy(places.greedy.contains(&share));
        // Another may have the place by now.
        if let Some(watch) = places.remove(self.number) {
            places.taken.insert(self.number, (share, watch));
            *places.shares.entry(share).or_default() += 1;
        }
    }
}

impl Claim {
    fn of(standing: &Standing, now: Instant) -> Self {
        match standing.phase {
            Phase::Busy if standing.is_slow => Self::Slow,
            Phase::Busy => Self::Busy,
            Phase::Head if now.saturating_duration_since(standing.since) < GRACE => Self::Fresh,
            Phase::Head | Phase::Idle => Self::Idle,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.table.places();
        // Another may have it by now.
        if places.remove(self.number).is_some() {
            self.table
                .metrics
                .limits()
                .connections(self.table.listener, places.taken.len());
            drop(places);
            self.table.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
