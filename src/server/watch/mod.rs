//! What is known of a connection while it lives, and when it must end.
//!
//! hyper bounds how long it waits for a request's head, but neither how long a client may leave a response unread (with
//! no room for more it does not even poll the body), nor, over HTTP/2, how long it may ask for nothing. So the
//! connection's own task counts here what happens, which costs it next to nothing, and somebody else looks at the
//! counts every now and then ([`Watch::look`]): what has not changed for too long is over. A clock is only looked at
//! there.

use super::buffers::Buffers;
use super::limits::Limits;
use body::Watched;
use flow::Flow;
use futures_util::task::AtomicWaker;
use seen::{FlowSeen, Seen};
pub(super) use seen::{Phase, Standing, Why};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::time::Instant;

pub(super) mod body;
pub(super) mod flow;
mod seen;

/// So many requests a connection may always have, also where memory is short.
const RUNNING_ALWAYS: usize = 8;

/// HTTP/2's flows that are over are forgotten when there are so many of them: the watch looks seldom.
const FLOWS_KEPT_MAX: usize = 512;

/// A connection's counts. Its task alone writes them.
#[derive(Debug)]
pub(super) struct Watch {
    peer: SocketAddr,
    /// Whether what is handed over is kept by us until it is sent, as with TLS.
    is_buffered: bool,
    buffers: Buffers,
    /// Whether its client has more than its share of them, where they are short.
    is_greedy: AtomicBool,
    is_http2: AtomicBool,
    /// Bytes that came, and how many of them had when the last request began.
    read: AtomicU64,
    read_at_request: AtomicU64,
    /// Requests that began, and how many of them run.
    requests: AtomicU64,
    running: AtomicUsize,
    /// Requests that their client took back before there was an answer.
    withdrawn: AtomicU64,
    /// Bytes that the socket took, and whether it takes no more.
    written: AtomicU64,
    is_blocked: AtomicBool,
    /// What the connection is to do: [`STAY`], and so on.
    order: AtomicU8,
    task: AtomicWaker,
    /// HTTP/1's one body at a time.
    flow: Arc<Flow>,
    /// HTTP/2's, with what was seen of them.
    flows: Mutex<Vec<(Arc<Flow>, FlowSeen)>>,
    /// That of the request that has just begun, for whoever runs it.
    begun: Mutex<Option<Arc<Flow>>>,
    seen: Mutex<Seen>,
}

const STAY: u8 = 0;
/// Finish what runs, and take nothing new.
const LEAVE: u8 = 1;
/// Now.
const GO: u8 = 2;

/// A request that runs, until its body is over.
#[derive(Debug)]
pub(super) struct Running {
    watch: Arc<Watch>,
    flow: Arc<Flow>,
    is_http2: bool,
    /// Whether its bytes are kept by us until they are sent, and so must not be many.
    is_bounded: bool,
    is_answered: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Of a connection that was just made.
    pub(super) fn new(peer: SocketAddr, is_buffered: bool, buffers: Buffers) -> Arc<Self> {
        Arc::new(Self {
            peer,
            is_buffered,
            buffers,
            is_greedy: AtomicBool::default(),
            is_http2: AtomicBool::default(),
            read: AtomicU64::default(),
            read_at_request: AtomicU64::default(),
            requests: AtomicU64::default(),
            running: AtomicUsize::default(),
            withdrawn: AtomicU64::default(),
            written: AtomicU64::default(),
            is_blocked: AtomicBool::default(),
            order: AtomicU8::new(STAY),
            task: AtomicWaker::new(),
            flow: Arc::default(),
            flows: Mutex::default(),
            begun: Mutex::default(),
            seen: Mutex::new(Seen::new(Instant::now())),
        })
    }

    /// Whose connection it is.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Bytes came.
    pub(super) fn read(&self, bytes: usize) {
        add(&self.read, bytes);
    }

    /// The socket took bytes.
    pub(super) fn wrote(&self, bytes: usize) {
        add(&self.written, bytes);
    }

    /// Whether the socket has taken all that it was given.
    pub(super) fn blocked(&self, is_blocked: bool) {
        if self.is_blocked.load(Ordering::Relaxed) != is_blocked {
            self.is_blocked.store(is_blocked, Ordering::Relaxed);
        }
    }

    /// The client speaks HTTP/2.
    pub(super) fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>, is_http2: bool) -> Running {
        let read = self.read.load(Ordering::Relaxed);
        self.read_at_request.store(read, Ordering::Relaxed);
        add(&self.requests, 1);
        self.running.fetch_add(1, Ordering::Relaxed);
        // All connections count there: it would cost each small answer more than its own counts do. HTTP/1 has one
        // request a connection, and of those there is a bound.
        if is_http2 {
            self.buffers.request_begins();
        }
        let flow = if is_http2 {
            let flow = Arc::<Flow>::default();
            let mut flows = locked(&self.flows);
            if flows.len() >= FLOWS_KEPT_MAX {
                flows.retain(|(flow, _)| is_kept(flow));
            }
            flows.push((Arc::clone(&flow), FlowSeen::default()));
            drop(flows);
            *locked(&self.begun) = Some(Arc::clone(&flow));
            flow
        } else {
            Arc::clone(&self.flow)
        };
        flow.begin();
        Running {
            watch: Arc::clone(self),
            flow,
            is_http2,
            is_bounded: is_http2 || self.is_buffered,
            is_answered: false,
        }
    }

    /// Requests that run.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Its client has more than its share of what is short, or has not.
    pub(super) fn greedy(&self, is_greedy: bool) {
        self.is_greedy.store(is_greedy, Ordering::Relaxed);
    }

    /// Whether memory is short, and it is this client's turn to wait.
    pub(super) fn must_wait(&self) -> bool {
        (self.running() > RUNNING_ALWAYS || self.is_greedy.load(Ordering::Relaxed))
            && self.buffers.are_full()
    }

    /// The flow of the request that [`begin`](Self::begin) was last called for, once.
    pub(super) fn begun(&self) -> Option<Arc<Flow>> {
        locked(&self.begun).take()
    }

    /// Has the connection end now.
    pub(super) fn go(&self) {
        self.order.store(GO, Ordering::Release);
        self.task.wake();
    }

    /// Has the connection end when what runs is finished.
    fn leave(&self) {
        // It may have been told to go already.
        self.order.fetch_max(LEAVE, Ordering::AcqRel);
        self.task.wake();
    }

    /// Whether the connection should end when what runs is finished.
    pub(super) fn is_to_leave(&self) -> bool {
        self.order.load(Ordering::Acquire) >= LEAVE
    }

    /// Runs the connection until it is over or is told to go.
    pub(super) async fn run(&self, mut connection: Pin<&mut impl Future<Output = ()>>) {
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
    pub(super) fn look(
        &self,
        now: Instant,
        limits: &Limits,
        is_pressed: bool,
    ) -> Option<(Why, usize)> {
        let is_blocked = self.is_blocked.load(Ordering::Relaxed);
        let written = self.written.load(Ordering::Relaxed);
        let flows = self.look_at_flows(now, limits, is_pressed && !is_blocked);
        let phase = self.phase(flows.are_under_way);
        let mark = match phase {
            Phase::Head | Phase::Idle => self.requests.load(Ordering::Relaxed),
            Phase::Busy => written,
        };
        let mut seen = locked(&self.seen);
        seen.note(now, phase, mark, is_blocked);
        seen.rate
            .note(now, written, is_blocked, limits.body_min_rate);
        seen.are_flows_slow = flows.count > 0 && flows.slow == flows.count;
        let withdrawn = self.withdrawn.load(Ordering::Relaxed);
        if seen.withdraws_too_much(now, withdrawn) {
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

    fn look_at_flows(&self, now: Instant, limits: &Limits, is_pressed: bool) -> Flows {
        let mut found = Flows::default();
        locked(&self.flows).retain_mut(|(flow, seen)| {
            if !is_kept(flow) {
                return false;
            }
            let waits = flow.waits_for_client();
            let taken = flow.taken();
            seen.note(now, taken, waits);
            seen.rate.note(now, taken, waits, limits.body_min_rate);
            found.are_under_way |= flow.is_under_way();
            let stalled = waits && seen.stood(now) >= limits.body_stall_timeout;
            let is_slow = waits && seen.rate.is_slow();
            found.count += 1;
            found.slow += usize::from(is_slow);
            if flow.is_live() {
                if stalled || (is_slow && is_pressed) {
                    flow.give_up();
                    let why = if stalled { Why::Stall } else { Why::Rate };
                    let count = found.ended.map_or(0, |(_, count)| count);
                    found.ended = Some((why, count + 1));
                } else {
                    found.are_running = true;
                }
            } else {
                found.have_stuck_ends |= stalled || (is_slow && is_pressed);
            }
            true
        });
        found
    }

    fn phase(&self, are_under_way: bool) -> Phase {
        if self.running.load(Ordering::Relaxed) > 0
            || self.is_blocked.load(Ordering::Relaxed)
            || are_under_way
        {
            return Phase::Busy;
        }
        let is_between = self.requests.load(Ordering::Relaxed) > 0
            && self.read.load(Ordering::Relaxed) == self.read_at_request.load(Ordering::Relaxed);
        if is_between || self.is_http2.load(Ordering::Relaxed) {
            Phase::Idle
        } else {
            Phase::Head
        }
    }

    /// How it stands with it, for who must choose one that goes.
    pub(super) fn standing(&self) -> Standing {
        let phase = self.phase(false);
        let requests = self.requests.load(Ordering::Relaxed);
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

    /// Whether no request runs now.
    pub(super) fn is_free(&self) -> bool {
        self.phase(false) != Phase::Busy
    }
}

/// What was found of HTTP/2's flows.
#[derive(Debug, Default)]
struct Flows {
    are_running: bool,
    are_under_way: bool,
    /// Those that there are, and those of them that are too slow.
    count: usize,
    slow: usize,
    /// The last bytes of finished requests that their client does not take.
    have_stuck_ends: bool,
    ended: Option<(Why, usize)>,
}

/// Whether somebody but the watch has it.
fn is_kept(flow: &Arc<Flow>) -> bool {
    Arc::strong_count(flow) > 1
}

/// For a number that one task alone writes.
fn add(number: &AtomicU64, more: usize) {
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    let sum = number.load(Ordering::Relaxed).wrapping_add(more);
    number.store(sum, Ordering::Relaxed);
}

impl Running {
    /// There is an answer: what is left of it is `body`.
    pub(super) fn answer<B>(mut self, body: B) -> Watched<B> {
        self.is_answered = true;
        self.flow.turn(true);
        Watched::new(body, self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.flow.end();
        self.watch.running.fetch_sub(1, Ordering::Relaxed);
        if self.is_http2 {
            self.watch.buffers.request_ends();
        }
        if !self.is_answered {
            self.watch.withdrawn.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
