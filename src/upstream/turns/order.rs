//! The order of clients: the next one, and those that have more than others (pure).
//!
//! Thousands may wait, and each looks again and again: no look is longer for the number of those who wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::net::{Address, ClientId};

/// Those who hold something, and those who wait.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Counts what happens, so that it is known who has waited longest.
    moment: u64,
    addresses: HashMap<Address, usize>,
    connections: HashMap<ClientId, usize>,
    queues: HashMap<Address, Queue>,
    /// The addresses that have a queue.
    next: BTreeMap<Rank, Address>,
    /// The number of those that hold nothing.
    without: usize,
}

/// The smallest is the next one. No two of a map are equal: at each moment one client begins to wait, or is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    held: usize,
    /// The moment when it was served last, or began to wait.
    since: u64,
}

/// Requests of one address that wait.
#[derive(Debug)]
struct Queue {
    rank: Rank,
    lines: HashMap<u64, Line>,
    /// The connections that have a line.
    next: BTreeMap<Rank, u64>,
}

/// Requests of one connection that wait.
#[derive(Debug)]
struct Line {
    rank: Rank,
    ids: BTreeSet<u64>,
}

impl Order {
    pub(super) fn wait(&mut self, id: u64, client: ClientId) {
        self.moment += 1;
        let rank = |held| Rank {
            held,
            since: self.moment,
        };
        let of_connection = rank(self.of_connection(client));
        let of_address = rank(self.of_address(client.address));
        let queue = self.queues.entry(client.address).or_insert_with(|| {
            self.next.insert(of_address, client.address);
            self.without += usize::from(of_address.held == 0);
            Queue {
                rank: of_address,
                lines: HashMap::new(),
                next: BTreeMap::new(),
            }
        });
        let line = queue.lines.entry(client.connection).or_insert_with(|| {
            queue.next.insert(of_connection, client.connection);
            Line {
                rank: of_connection,
                ids: BTreeSet::new(),
            }
        });
        line.ids.insert(id);
    }

    pub(super) fn leave(&mut self, id: u64, client: ClientId) {
        let Some(queue) = self.queues.get_mut(&client.address) else {
            return;
        };
        if let Some(line) = queue.lines.get_mut(&client.connection) {
            line.ids.remove(&id);
            if line.ids.is_empty() {
                queue.next.remove(&line.rank);
                queue.lines.remove(&client.connection);
            }
        }
        if queue.lines.is_empty() {
            self.next.remove(&queue.rank);
            self.without -= usize::from(queue.rank.held == 0);
            self.queues.remove(&client.address);
        }
    }

    /// Whose turn it is, and for which client.
    pub(super) fn next(&self) -> Option<(u64, ClientId)> {
        let (_, address) = self.next.first_key_value()?;
        let queue = self.queues.get(address)?;
        let (_, connection) = queue.next.first_key_value()?;
        let client = ClientId {
            address: *address,
            connection: *connection,
        };
        let id = queue.lines.get(connection)?.ids.first()?;
        Some((*id, client))
    }

    /// True if it is the next of those that its connection waits for.
    pub(super) fn is_first(&self, id: u64, client: ClientId) -> bool {
        let queue = self.queues.get(&client.address);
        let line = queue.and_then(|queue| queue.lines.get(&client.connection));
        line.is_some_and(|line| line.ids.first() == Some(&id))
    }

    pub(super) fn serve(&mut self, client: ClientId) {
        self.moment += 1;
        *self.addresses.entry(client.address).or_default() += 1;
        *self.connections.entry(client).or_default() += 1;
        self.rank(client, Some(self.moment));
    }

    pub(super) fn release(&mut self, client: ClientId) {
        take_one(&mut self.addresses, client.address);
        take_one(&mut self.connections, client);
        self.rank(client, None);
    }

    /// Puts a client where it belongs after what it holds has changed; `served`: and waits since then.
    fn rank(&mut self, client: ClientId, served: Option<u64>) {
        let (of_address, of_connection) =
            (self.of_address(client.address), self.of_connection(client));
        let Some(queue) = self.queues.get_mut(&client.address) else {
            return;
        };
        let ranked = |rank: Rank, held| Rank {
            held,
            since: served.unwrap_or(rank.since),
        };
        self.next.remove(&queue.rank);
        self.without -= usize::from(queue.rank.held == 0);
        queue.rank = ranked(queue.rank, of_address);
        self.without += usize::from(queue.rank.held == 0);
        self.next.insert(queue.rank, client.address);
        if let Some(line) = queue.lines.get_mut(&client.connection) {
            queue.next.remove(&line.rank);
            line.rank = ranked(line.rank, of_connection);
            queue.next.insert(line.rank, client.connection);
        }
    }

    fn of_address(&self, address: Address) -> usize {
        self.addresses.get(&address).copied().unwrap_or_default()
    }

    fn of_connection(&self, client: ClientId) -> usize {
        self.connections.get(&client).copied().unwrap_or_default()
    }

    /// A connection that has so many more that one less there and one more here is fairer: of the address that has
    /// most, or else of the client's own.
    pub(super) fn who_has_more(&self, client: ClientId) -> Option<ClientId> {
        let mine = self.of_address(client.address);
        let most = self.addresses.iter().max_by_key(|(_, held)| **held);
        let (address, enough) = match most {
            Some((address, held)) if *held >= mine + 2 => (*address, 1),
            Some(_) | None => (client.address, self.of_connection(client) + 2),
        };
        let of_address = self.connections.iter();
        let of_address = of_address.filter(|(other, _)| other.address == address);
        let (most, held) = of_address.max_by_key(|(_, held)| **held)?;
        (*held >= enough).then_some(*most)
    }

    /// True if a client has as many as there are for each address, and its connection any. `kept` of `max` are for others.
    pub(super) fn has_its_part(&self, client: ClientId, max: usize, kept: usize) -> bool {
        if client == ClientId::OURSELVES {
            return false; // Nobody could be told to ask less.
        }
        let addresses = self.addresses.len() + self.without;
        let mine = self.of_address(client.address);
        if mine < max.saturating_sub(kept).div_ceil(addresses.max(1)) {
            return false;
        }
        self.of_connection(client) > 0
    }

    /// True if a client has at most one, or its connection none.
    pub(super) fn holds_little(&self, client: ClientId) -> bool {
        self.of_address(client.address) < 2 || self.of_connection(client) == 0
    }

    /// True if nobody holds anything, and nobody waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let nobody = self.addresses.is_empty() && self.queues.is_empty();
        nobody && self.connections.is_empty() && self.next.is_empty() && self.without == 0
    }
}

fn take_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Wait(ClientId),
        Leave(usize),
        Serve,
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let client = (0u8..4, 0u64..3).prop_map(|(address, connection)| {
            ClientId::new(
                [192, 0, 2, address].into(),
                u64::from(address) * 10 + connection,
            )
        });
        prop_oneof![
            4 => client.prop_map(Step::Wait),
            1 => any::<usize>().prop_map(Step::Leave),
            3 => Just(Step::Serve),
            2 => any::<usize>().prop_map(Step::Release),
        ]
    }

    /// The rule, written down as it is read: each who waits is looked at.
    #[derive(Default)]
    struct Plain {
        moment: u64,
        waiting: Vec<(u64, ClientId)>,
        held: Vec<ClientId>,
        since: HashMap<Address, u64>,
        connection_since: HashMap<ClientId, u64>,
    }

    impl Plain {
        fn forget_idle(&mut self) {
            let waiting = self.waiting.clone();
            self.since
                .retain(|address, _| waiting.iter().any(|(_, it)| it.address == *address));
            self.connection_since
                .retain(|client, _| waiting.iter().any(|(_, it)| it == client));
        }

        fn next(&self) -> Option<(u64, ClientId)> {
            let count =
                |of: &dyn Fn(&ClientId) -> bool| self.held.iter().filter(|it| of(it)).count();
            let waiting = self.waiting.iter().copied();
            waiting.min_by_key(|(id, client)| {
                let of_address = count(&|it| it.address == client.address);
                let of_connection = count(&|it| it == client);
                let since = self.since.get(&client.address).copied();
                let connection_since = self.connection_since.get(client).copied();
                (of_address, since, of_connection, connection_since, *id)
            })
        }

        fn without(&self) -> usize {
            let holds = |address: &&Address| self.held.iter().any(|it| it.address == **address);
            self.since.keys().filter(|it| !holds(it)).count()
        }
    }

    proptest! {
        #[test]
        fn the_next_one_is_whom_a_look_at_all_would_find(steps in prop::collection::vec(step(), 1..60)) {
            let (mut order, mut plain) = (Order::default(), Plain::default());
            for (id, step) in (0..).zip(steps) {
                match step {
                    Step::Wait(client) => {
                        plain.moment += 1;
                        order.wait(id, client);
                        plain.waiting.push((id, client));
                        plain.since.entry(client.address).or_insert(plain.moment);
                        plain.connection_since.entry(client).or_insert(plain.moment);
                    }
                    Step::Leave(at) if !plain.waiting.is_empty() => {
                        let (id, client) = plain.waiting.remove(at % plain.waiting.len());
                        order.leave(id, client);
                    }
                    Step::Serve => {
                        let Some((id, client)) = order.next() else { continue };
                        order.leave(id, client);
                        plain.waiting.retain(|(it, _)| *it != id);
                        plain.forget_idle();
                        plain.moment += 1;
                        order.serve(client);
                        plain.held.push(client);
                        if let Some(since) = plain.since.get_mut(&client.address) {
                            *since = plain.moment;
                        }
                        if let Some(since) = plain.connection_since.get_mut(&client) {
                            *since = plain.moment;
                        }
                    }
                    Step::Release(at) if !plain.held.is_empty() => {
                        order.release(plain.held.remove(at % plain.held.len()));
                    }
                    Step::Leave(_) | Step::Release(_) => {}
                }
                plain.forget_idle();
                prop_assert_eq!(order.next(), plain.next());
                prop_assert_eq!(order.without, plain.without());
            }
            for (id, client) in plain.waiting {
                order.leave(id, client);
            }
            for client in plain.held {
                order.release(client);
            }
            prop_assert!(order.is_empty());
        }
    }
}
