//! Fair shares of what there is a bounded number of: requests under way, transfers, passthroughs.
//!
//! A place belongs to an upstream, to a client's address, and to a connection of that. As long as there are places
//! anybody gets one. When there are none, somebody who has fewer than others gets one of those who have most: of the
//! upstream that has most, and in it of the address, and of that the connection that has most, the newest. What an
//! upstream has been asked for already is not taken from anybody; for that a part is kept in reserve. So one may have
//! all while nobody else comes, and who comes later notices nothing.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::MirrorError;
use crate::oci::UpstreamName;
use crate::telemetry::Limit;
use crate::upstream::{Address, ClientId, Work};

/// The part of the places that is kept for those who have fewer than others, when nothing can be taken from anybody.
const RESERVED: usize = 8;

/// The places that are not taken from whoever has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stays {
    /// Those of which an upstream is being asked now.
    Asking,
    /// Those of which an upstream has been asked.
    Sent,
    /// Nothing: it costs little to lose it.
    Nothing,
}

/// A bounded number of places.
#[derive(Debug)]
pub(super) struct Shares {
    limit: Limit,
    max: usize,
    stays: Stays,
    places: Mutex<Places<Taken>>,
}

/// Facts about a place that is taken.
#[derive(Debug)]
struct Taken {
    work: Arc<Work>,
    given_up: CancellationToken,
}

/// A place, free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    shares: Arc<Shares>,
    owner: Owner,
    id: u64,
    given_up: CancellationToken,
}

/// Whose a place is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    upstream: UpstreamName,
    client: ClientId,
}

impl Shares {
    /// So many places, and some in reserve.
    pub(super) fn new(limit: Limit, max: usize, stays: Stays) -> Arc<Self> {
        Arc::new(Self {
            limit,
            max,
            stays,
            places: Mutex::default(),
        })
    }

    /// A place for work that a client asks for.
    ///
    /// # Errors
    /// [`MirrorError::Limited`] when there is none that others have more of.
    pub(super) fn take(
        self: &Arc<Self>,
        upstream: &UpstreamName,
        client: ClientId,
        work: &Arc<Work>,
    ) -> Result<Slot, MirrorError> {
        let owner = Owner {
            upstream: upstream.clone(),
            client,
        };
        let given_up = CancellationToken::new();
        let mut places = self.places();
        if places.total >= self.max {
            let may_go = |taken: &Taken| match self.stays {
                Stays::Asking => !taken.work.is_asking(),
                Stays::Sent => !taken.work.was_sent(),
                Stays::Nothing => true,
            };
            match places.make_room(&owner, may_go) {
                Room::Made(taken) => taken.given_up.cancel(),
                Room::AllStay if places.total < self.max + self.max / RESERVED => {}
                Room::AllStay | Room::NoShare => return Err(MirrorError::Limited(self.limit)),
            }
        }
        let taken = Taken {
            work: Arc::clone(work),
            given_up: given_up.clone(),
        };
        let id = places.put(&owner, taken);
        Ok(Slot {
            shares: Arc::clone(self),
            owner,
            id,
            given_up,
        })
    }

    fn places(&self) -> MutexGuard<'_, Places<Taken>> {
        // Counts that a panic left wrong would be too small or too large by one.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Cancelled when the place is somebody else's: the work must end.
    pub(super) fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shares.places().remove(&self.owner, self.id);
    }
}

/// The answer if there is room for one more.
#[derive(Debug, PartialEq, Eq)]
enum Room<T> {
    /// This had to go.
    Made(T),
    /// There are some who have more, but nothing may be taken from them.
    AllStay,
    /// Nobody has more.
    NoShare,
}

/// The places that are taken, by upstream, address and connection (pure).
#[derive(Debug)]
struct Places<T> {
    next: u64,
    total: usize,
    upstreams: HashMap<UpstreamName, OfUpstream<T>>,
}

#[derive(Debug)]
struct OfUpstream<T> {
    total: usize,
    addresses: HashMap<Address, OfAddress<T>>,
}

#[derive(Debug)]
struct OfAddress<T> {
    total: usize,
    /// By connection, and then by age.
    connections: HashMap<u64, BTreeMap<u64, T>>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self {
            next: 0,
            total: 0,
            upstreams: HashMap::new(),
        }
    }
}

impl<T> Places<T> {
    fn put(&mut self, owner: &Owner, taken: T) -> u64 {
        self.next += 1;
        self.total += 1;
        let Owner { upstream, client } = owner;
        if !self.upstreams.contains_key(upstream) {
            let new = OfUpstream {
                total: 0,
                addresses: HashMap::new(),
            };
            self.upstreams.insert(upstream.clone(), new);
        }
        if let Some(of_upstream) = self.upstreams.get_mut(upstream) {
            of_upstream.total += 1;
            let new = || OfAddress {
                total: 0,
                connections: HashMap::new(),
            };
            let of_address = of_upstream.addresses.entry(client.address);
            let of_address = of_address.or_insert_with(new);
            of_address.total += 1;
            let of_connection = of_address.connections.entry(client.connection);
            of_connection.or_default().insert(self.next, taken);
        }
        self.next
    }

    /// The entry that was there; nothing, if it has been taken away.
    fn remove(&mut self, owner: &Owner, id: u64) -> Option<T> {
        let Owner { upstream, client } = owner;
        let of_upstream = self.upstreams.get_mut(upstream)?;
        let of_address = of_upstream.addresses.get_mut(&client.address)?;
        let of_connection = of_address.connections.get_mut(&client.connection)?;
        let taken = of_connection.remove(&id)?;
        if of_connection.is_empty() {
            of_address.connections.remove(&client.connection);
        }
        of_address.total -= 1;
        if of_address.total == 0 {
            of_upstream.addresses.remove(&client.address);
        }
        of_upstream.total -= 1;
        if of_upstream.total == 0 {
            self.upstreams.remove(upstream);
        }
        self.total -= 1;
        Some(taken)
    }

    /// Takes a place from who has more.
    fn make_room(&mut self, owner: &Owner, may_go: impl Fn(&T) -> bool) -> Room<T> {
        let (from, any) = self.who_has_more(owner, may_go);
        match from {
            Some((from, id)) => self.remove(&from, id).map_or(Room::NoShare, Room::Made),
            None if any => Room::AllStay,
            None => Room::NoShare,
        }
    }

    /// The place to take, and whether there is anybody who has more. A place that changes hands must leave its owner
    /// with no less than who gets it: or it would go to and fro.
    fn who_has_more(
        &self,
        owner: &Owner,
        may_go: impl Fn(&T) -> bool,
    ) -> (Option<(Owner, u64)>, bool) {
        let Owner { upstream, client } = owner;
        let mine = self.upstreams.get(upstream);
        let enough = mine.map_or(0, |mine| mine.total) + 2;
        let others = most_first(&self.upstreams, enough, |of_upstream| of_upstream.total);
        let mut any = !others.is_empty();
        for (name, of_upstream) in others {
            if let Some((client, id)) = of_upstream.newest(1, &may_go) {
                let upstream = name.clone();
                return (Some((Owner { upstream, client }, id)), any);
            }
        }
        let Some(mine) = mine else {
            return (None, any);
        };
        let of_this_upstream = |(client, id)| {
            let upstream = upstream.clone();
            Some((Owner { upstream, client }, id))
        };
        let my_address = mine.addresses.get(&client.address);
        let enough = my_address.map_or(0, |mine| mine.total) + 2;
        any |= mine.addresses.values().any(|other| other.total >= enough);
        if let Some(found) = mine.newest(enough, &may_go) {
            return (of_this_upstream(found), any);
        }
        let Some(my_address) = my_address else {
            return (None, any);
        };
        let my_connection = my_address.connections.get(&client.connection);
        let enough = my_connection.map_or(0, BTreeMap::len) + 2;
        let mut others = my_address.connections.values();
        any |= others.any(|other| other.len() >= enough);
        let found = my_address.newest(client.address, enough, &may_go);
        (found.and_then(of_this_upstream), any)
    }
}

impl<T> OfUpstream<T> {
    /// The newest that may go, of the address that has most, if it has enough.
    fn newest(&self, enough: usize, may_go: &impl Fn(&T) -> bool) -> Option<(ClientId, u64)> {
        let addresses = most_first(&self.addresses, enough, |of_address| of_address.total);
        let mut addresses = addresses.into_iter();
        addresses.find_map(|(address, of_address)| of_address.newest(*address, 1, may_go))
    }
}

impl<T> OfAddress<T> {
    fn newest(
        &self,
        address: Address,
        enough: usize,
        may_go: &impl Fn(&T) -> bool,
    ) -> Option<(ClientId, u64)> {
        let connections = most_first(&self.connections, enough, BTreeMap::len);
        connections.into_iter().find_map(|(connection, taken)| {
            let (id, _) = taken.iter().rev().find(|(_, taken)| may_go(taken))?;
            let client = ClientId {
                address,
                connection: *connection,
            };
            Some((client, *id))
        })
    }
}

/// Those who have enough, who has most first.
fn most_first<K: Eq + Hash, V>(
    all: &HashMap<K, V>,
    enough: usize,
    count: impl Fn(&V) -> usize,
) -> Vec<(&K, &V)> {
    let mut found: Vec<_> = all.iter().filter(|(_, v)| count(v) >= enough).collect();
    found.sort_unstable_by_key(|(_, v)| std::cmp::Reverse(count(v)));
    found
}

#[cfg(test)]
mod tests;
