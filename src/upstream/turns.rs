//! Whose turn it is to use one of an upstream's `max_connections`.
//!
//! Whoever holds fewest is next: of addresses first, then of the connections of one address, and among equals who has
//! waited longest. So nobody waits for the length of another's queue. As long as nobody else waits one client may hold
//! all of them. One that holds too many for others gives one back when they have waited for a while: what is asked
//! with it goes back into the queue, and a body is gone on with later, where it broke off.

mod order;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::order::Order;
use super::FetchError;
use crate::net::Deadline;
use crate::net::Work;
use crate::net::{ClientId, OnBehalf};

/// Time that somebody with less than a fair part waits before one is taken from somebody with more. An upstream that is
/// well answers within that, and nothing is taken from anybody.
const RECALL_AFTER: Duration = Duration::from_millis(500);

/// Time between looks after that.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For so long after that a part is kept for those who hold next to none: they will ask again, and need not wait again.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// The size of that part. A request that is only worth a connection that nobody needs always leaves that.
const KEPT: usize = 8;

/// The turns of one upstream.
#[derive(Debug)]
pub(super) struct Turns {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    held: HashMap<u64, Held>,
    waiting: HashMap<u64, Waiting>,
    order: Order,
    /// When one was wanted back: for a while some are kept then for those who hold next to none.
    recalled: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    owner: ClientId,
    extra: bool,
    /// Cancelled when it is wanted back; from then on it does not count as the owner's.
    recall: CancellationToken,
}

#[derive(Debug)]
struct Waiting {
    clients: Vec<ClientId>,
    work: Option<Arc<Work>>,
    turn: oneshot::Sender<Turn>,
    /// True if those it waits for are its own clients'.
    limited: bool,
}

/// The right to use a connection. Dropping it gives it to the next one.
pub(super) struct Turn {
    turns: Arc<Turns>,
    id: u64,
    recall: CancellationToken,
    work: Option<Arc<Work>>,
}

impl Turns {
    /// So many at once.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            state: Mutex::default(),
        }
    }

    /// A turn, if one is free that nobody needs.
    pub(super) fn extra(self: &Arc<Self>) -> Option<Turn> {
        let behalf = OnBehalf::current();
        let mut state = self.state();
        let left = if state.keeps_some() {
            kept(self.max)
        } else {
            self.max / KEPT
        };
        let is_free = state.waiting.is_empty() && state.held.len() + left < self.max;
        is_free.then(|| self.give(&mut state, behalf.client(), behalf.work().cloned(), true))
    }

    /// A turn for what is asked now.
    ///
    /// # Errors
    /// [`FetchError::Limited`] when none came by the deadline because the client holds its part of them;
    /// [`FetchError::Busy`] when others do.
    pub(super) async fn turn(self: &Arc<Self>, deadline: Deadline) -> Result<Turn, FetchError> {
        let behalf = OnBehalf::current();
        let work = behalf.work().cloned();
        let clients = work.as_ref().map(|work| work.all_clients());
        let clients = clients.unwrap_or_else(|| vec![behalf.client()]);
        let ((id, mut turn), unwanted) = {
            let mut state = self.state();
            if state.waiting.is_empty() && state.may_take(behalf.client(), self.max) {
                return Ok(self.give(&mut state, behalf.client(), work, false));
            }
            let place = state.wait(clients, work.clone());
            // What is kept may be for this one, though others wait.
            (place, self.hand_on(&mut state))
        };
        drop(unwanted);
        let _place = Place { turns: self, id };
        let mut patience = RECALL_AFTER;
        loop {
            let joined = async {
                match &work {
                    Some(work) => work.joined().notified().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                turn = &mut turn => return turn.map_err(|_| FetchError::Busy),
                () = joined => self.joined(id),
                () = tokio::time::sleep(patience.min(deadline.left())) => {
                    if deadline.passed() {
                        return Err(self.state().refusal(id));
                    }
                    self.look_after(id);
                    patience = LOOK_EVERY;
                }
            }
        }
    }

    /// Others wait for it, too, and may be given what is kept.
    fn joined(self: &Arc<Self>, id: u64) {
        // Dropped, and so given back, when the lock is free.
        let _unwanted;
        let mut state = self.state();
        state.more_wait(id);
        _unwanted = self.hand_on(&mut state);
    }

    /// Somebody has waited for a while.
    fn look_after(self: &Arc<Self>, id: u64) {
        // Dropped, and so given back, when the lock is free.
        let _unwanted;
        let mut state = self.state();
        state.recall_for(id, self.max);
        // What was kept may be free by now.
        _unwanted = self.hand_on(&mut state);
    }

    fn give(
        self: &Arc<Self>,
        state: &mut State,
        owner: ClientId,
        work: Option<Arc<Work>>,
        extra: bool,
    ) -> Turn {
        let id = state.number();
        let recall = CancellationToken::new();
        let held = Held {
            owner,
            extra,
            recall: recall.clone(),
        };
        state.held.insert(id, held);
        state.order.serve(owner);
        if let Some(work) = &work {
            work.asks();
        }
        Turn {
            turns: Arc::clone(self),
            id,
            recall,
            work,
        }
    }

    fn give_back(self: &Arc<Self>, id: u64) {
        // Dropped, and so given back again, when the lock is free.
        let _unwanted;
        let mut state = self.state();
        if let Some(held) = state.held.remove(&id)
            && !held.recall.is_cancelled()
        {
            state.order.release(held.owner);
        }
        _unwanted = self.hand_on(&mut state);
    }

    /// Gives what is free to those who wait; returns that of one who has gone.
    fn hand_on(self: &Arc<Self>, state: &mut State) -> Option<Turn> {
        loop {
            let (id, owner) = state.order.next()?;
            if !state.may_take(owner, self.max) {
                return None;
            }
            let waiting = state.leave(id)?;
            let turn = self.give(state, owner, waiting.work, false);
            if let Err(turn) = waiting.turn.send(turn) {
                return Some(turn);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves the parts in agreement, or at worst somebody waiting until the deadline.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until others need it more.
    pub(super) async fn recalled(&self) {
        self.recall.cancelled().await;
    }

    /// True if others need it more.
    pub(super) fn is_recalled(&self) -> bool {
        self.recall.is_cancelled()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(work) = &self.work {
            work.asked();
        }
        self.turns.give_back(self.id);
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turn").field(&self.id).finish()
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    turns: &'a Arc<Turns>,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.state().leave(self.id);
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn wait(
        &mut self,
        clients: Vec<ClientId>,
        work: Option<Arc<Work>>,
    ) -> (u64, oneshot::Receiver<Turn>) {
        let id = self.number();
        for client in &clients {
            self.order.wait(id, *client);
        }
        let (turn, receiver) = oneshot::channel();
        let waiting = Waiting {
            clients,
            work,
            turn,
            limited: false,
        };
        self.waiting.insert(id, waiting);
        (id, receiver)
    }

    /// More clients may wait for the same.
    fn more_wait(&mut self, id: u64) {
        let Some(waiting) = self.waiting.get_mut(&id) else {
            return;
        };
        let all = waiting.work.as_ref().map(|work| work.all_clients());
        for client in all.unwrap_or_default() {
            if !waiting.clients.contains(&client) {
                waiting.clients.push(client);
                self.order.wait(id, client);
            }
        }
    }

    fn leave(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        for client in &waiting.clients {
            self.order.leave(id, *client);
        }
        Some(waiting)
    }

    fn keeps_some(&self) -> bool {
        self.recalled.is_some_and(|at| at.elapsed() < KEPT_FOR)
    }

    /// True if one is free for this client.
    fn may_take(&self, client: ClientId, max: usize) -> bool {
        let free = max.saturating_sub(self.held.len());
        free > 0 && (free > kept(max) || self.order.holds_little(client) || !self.keeps_some())
    }

    /// Wants one back from who has more than one who waits, if there is somebody.
    fn recall_for(&mut self, id: u64, max: usize) {
        self.more_wait(id);
        let Some(waiting) = self.waiting.get_mut(&id) else {
            return;
        };
        let mut clients = waiting.clients.iter();
        waiting.limited |= clients.all(|client| self.order.has_its_part(*client, max, kept(max)));
        // Who would be given it is somebody else, who looks as well.
        let mut clients = waiting.clients.iter();
        if !clients.any(|client| self.order.is_first(id, *client)) {
            return;
        }
        // One at a time: it comes back at once, and does not count as anybody's before.
        let recent = self.recalled.is_some_and(|at| at.elapsed() < RECALL_AFTER);
        if recent && self.held.values().any(|held| held.recall.is_cancelled()) {
            return;
        }
        let Some(from) = waiting
            .clients
            .iter()
            .find_map(|client| self.order.who_has_more(*client))
        else {
            return;
        };
        // Those beside another connection for the same cost least, and of the others the newest.
        let theirs = self.held.iter_mut();
        let theirs = theirs.filter(|(_, held)| held.owner == from && !held.recall.is_cancelled());
        if let Some((_, held)) = theirs.max_by_key(|(id, held)| (held.extra, **id)) {
            held.recall.cancel();
            self.order.release(from);
            self.recalled = Some(Instant::now());
        }
    }

    /// Reason why there was no turn for a client that has waited until the end.
    fn refusal(&self, id: u64) -> FetchError {
        // As it was while it waited: by now those who hold them may have ended, or have been asked back.
        match self.waiting.get(&id) {
            Some(Waiting { limited: true, .. }) => FetchError::Limited,
            Some(_) | None => FetchError::Busy,
        }
    }
}

/// Number that are kept, when some are.
fn kept(max: usize) -> usize {
    if max == 1 { 0 } else { (max / KEPT).max(1) }
}

#[cfg(test)]
mod tests;
