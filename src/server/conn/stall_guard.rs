//! Knowledge about a connection while it lives, and the decision when it must end.
//!
//! hyper bounds how long it waits for a request's head, but neither how long a client may leave a response unread (with
//! no room for more it does not even poll the body), nor, over HTTP/2, how long it may ask for nothing. So the
//! connection's own task counts here what happens, which costs it next to nothing, and somebody else looks at the
//! counts every now and then ([`Watch::look`]): what has not changed for too long is over. A clock is only looked at
//! there.

use crate::server::conn::buffers::Buffers;
use crate::server::conn::limits::Limits;
use body::Watched;
use counts::Counts;
use flow::Flow;
use flows::Flows;
use futures_util::task::AtomicWaker;
use seen::Seen;
pub(crate) use seen::{Phase, Standing, Why};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use tokio::time::Instant;

pub(crate) mod body;
mod counts;
pub(crate) mod flow;
mod flows;
mod seen;

/// So many requests a connection may always have, also where memory is short.
const RUNNING_ALWAYS: usize = 8;

/// Knowledge about a connection.
#[derive(Debug)]
pub(crate) struct Watch {
    peer: SocketAddr,
    /// Its client, where a balancer has said so.
    client: OnceLock<SocketAddr>,
    /// True if what is handed over is kept by us until it is sent, as with TLS.
    is_buffered: bool,
    buffers: Buffers,
    /// True if its client has more than its share of them, where they are short.
    is_greedy: AtomicBool,
    counts: Counts,
    flows: Flows,
    /// The order for the connection: [`STAY`], and so on.
    order: AtomicU8,
    task: AtomicWaker,
    seen: Mutex<Seen>,
}

const STAY: u8 = 0;
/// Finish what runs, and take nothing new.
const LEAVE: u8 = 1;
/// Now.
const GO: u8 = 2;

/// A request that runs, until its body is over.
#[derive(Debug)]
pub(crate) struct Running {
    watch: Arc<Watch>,
    flow: Arc<Flow>,
    is_http2: bool,
    /// True if its bytes are kept by us until they are sent, and so must not be many.
    is_bounded: bool,
    is_answered: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Of a connection that was just made.
    pub(crate) fn new(peer: SocketAddr, is_buffered: bool, buffers: Buffers) -> Arc<Self> {
        Arc::new(Self {
            peer,
            client: OnceLock::new(),
            is_buffered,
            buffers,
            is_greedy: AtomicBool::default(),
            counts: Counts::default(),
            flows: Flows::default(),
            order: AtomicU8::new(STAY),
            task: AtomicWaker::new(),
            seen: Mutex::new(Seen::new(Instant::now())),
        })
    }

    /// Whose connection it is.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.client.get().copied().unwrap_or(self.peer)
    }

    /// Sets the client; nothing changes it afterwards.
    pub(crate) fn is_of(&self, client: SocketAddr) {
        let _first_said = self.client.get_or_init(|| client);
    }

    /// Bytes came.
    pub(crate) fn read(&self, bytes: usize) {
        self.counts.read(bytes);
    }

    /// The socket took bytes.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.counts.wrote(bytes);
    }

    /// Notes if the socket takes no more for now.
    pub(crate) fn blocked(&self, is_blocked: bool) {
        self.counts.blocked(is_blocked);
    }

    /// The client speaks HTTP/2.
    pub(crate) fn speaks_http2(&self) {
        self.counts.speaks_http2();
    }

    /// A request has come.
    pub(crate) fn begin(self: &Arc<Self>, is_http2: bool) -> Running {
        self.counts.begin();
        // All connections count there: it would cost each small answer more than its own counts do. HTTP/1 has one
        // request a connection, and of those there is a bound.
        if is_http2 {
            self.buffers.request_begins();
        }
        let flow = self.flows.begin(is_http2);
        Running {
            watch: Arc::clone(self),
            flow,
            is_http2,
            is_bounded: is_http2 || self.is_buffered,
            is_answered: false,
        }
    }

    /// Requests that run.
    pub(crate) fn running(&self) -> usize {
        self.counts.running()
    }

    /// Its client has more than its share of what is short, or has not.
    pub(crate) fn greedy(&self, is_greedy: bool) {
        self.is_greedy.store(is_greedy, Ordering::Relaxed);
    }

    /// True if memory is short, and it is this client's turn to wait.
    pub(crate) fn must_wait(&self) -> bool {
        (self.running() > RUNNING_ALWAYS || self.is_greedy.load(Ordering::Relaxed))
            && self.buffers.are_full()
    }

    /// The flow of the request that [`begin`](Self::begin) was last called for, once.
    pub(crate) fn begun(&self) -> Option<Arc<Flow>> {
        self.flows.begun()
    }

    /// Has the connection end now.
    pub(crate) fn go(&self) {
        self.order.store(GO, Ordering::Release);
        self.task.wake();
    }

    /// Has the connection end when what runs is finished.
    fn leave(&self) {
        // It may have been told to go already.
        self.order.fetch_max(LEAVE, Ordering::AcqRel);
        self.task.wake();
    }

    /// True if the connection should end when what runs is finished.
    pub(crate) fn is_to_leave(&self) -> bool {
        self.order.load(Ordering::Acquire) >= LEAVE
    }

    /// Runs the connection until it is over or is told to go.
    pub(crate) async fn run(&self, mut connection: Pin<&mut impl Future<Output = ()>>) {
        poll_fn(|context: &mut Context<'_>| {
            self.task.register(context.waker());
            if self.order.load(Ordering::Acquire) == GO {
                return Poll::Ready(());
            }
            connection.as_mut().poll(context)
        })
        .await;
    }

    /// Looks at what has changed since the last time, and ends what is over. `is_pressed`: others need the room. Says
    /// why something ended, and how many bodies or connections, if it is worth a word.
    pub(crate) fn look(
        &self,
        now: Instant,
        limits: &Limits,
        is_pressed: bool,
    ) -> Option<(Why, usize)> {
        let (is_blocked, written) = (self.counts.is_blocked(), self.counts.written());
        let flows = self.flows.look(now, limits, is_pressed && !is_blocked);
        let phase = self.phase(flows.are_under_way);
        let mark = match phase {
            Phase::Head | Phase::Idle => self.counts.requests(),
            Phase::Busy => written,
        };
        let mut seen = locked(&self.seen);
        seen.note(now, phase, mark, is_blocked);
        seen.rate
            .note(now, written, is_blocked, limits.body_min_rate);
        seen.are_flows_slow = flows.count > 0 && flows.slow == flows.count;
        if seen.withdraws_too_much(now, self.counts.withdrawn()) {
            self.go();
            return Some((Why::Resets, 1));
        }
        let stood = now.saturating_duration_since(seen.since);
        match phase {
            Phase::Head if stood >= limits.head_timeout => {
                self.go();
                return Some((Why::Head, 1));
            }
            Phase::Idle if stood >= limits.idle_timeout => {
                self.leave();
                // A client of HTTP/2 has a part in it, and may not play it.
                if stood >= limits.idle_timeout + limits.head_timeout {
                    self.go();
                }
                return None;
            }
            Phase::Busy if is_blocked && stood >= limits.body_stall_timeout => {
                self.go();
                return Some((Why::Stall, 1));
            }
            Phase::Busy if is_blocked && is_pressed && seen.rate.is_slow() => {
                self.go();
                return Some((Why::Rate, 1));
            }
            Phase::Head | Phase::Idle | Phase::Busy => {}
        }
        if flows.have_stuck_ends {
            // hyper has let go of them, so they cannot be reset: the others are finished first.
            self.leave();
            if !flows.are_running {
                self.go();
            }
            return Some((Why::Stall, 1));
        }
        flows.ended
    }

    fn phase(&self, are_under_way: bool) -> Phase {
        if self.counts.running() > 0 || self.counts.is_blocked() || are_under_way {
            return Phase::Busy;
        }
        if self.counts.is_between_requests() {
            Phase::Idle
        } else {
            Phase::Head
        }
    }

    /// Its standing, for the choice of one that goes.
    pub(crate) fn standing(&self) -> Standing {
        let phase = self.phase(false);
        let requests = self.counts.requests();
        let mut seen = locked(&self.seen);
        if phase != Phase::Busy {
            seen.note(Instant::now(), phase, requests, false);
        }
        Standing {
            phase,
            since: seen.since,
            is_slow: seen.rate.is_slow() || seen.are_flows_slow,
        }
    }

    /// True if no request runs now.
    pub(crate) fn is_free(&self) -> bool {
        self.phase(false) != Phase::Busy
    }
}

impl Running {
    /// There is an answer: what is left of it is `body`.
    pub(crate) fn answer<B>(mut self, body: B) -> Watched<B> {
        self.is_answered = true;
        self.flow.turn(true);
        Watched::new(body, self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.flow.end();
        if self.is_http2 {
            self.watch.buffers.request_ends();
        }
        self.watch.counts.end(self.is_answered);
    }
}

#[cfg(test)]
mod tests;
