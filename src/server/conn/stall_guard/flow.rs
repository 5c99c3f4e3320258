//! One body's way to its client: how much of it is under way, and whose turn it is.

use crate::server::conn::buffers::{FRAME_BYTES, SHOWN_BYTES};
use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

/// So much is handed over before the client has taken any of it: a frame of HTTP/2, or a record of TLS.
const AHEAD_BYTES: usize = FRAME_BYTES;

/// The same for a client that has shown that it reads: `RecordStream` sends 64 KiB at once.
const AHEAD_BYTES_SHOWN: usize = 128 * 1024;

/// A body's progress. Written by its connection's task, read by the watch; only HTTP/2 has more than one at once.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Bytes that have left for the socket.
    taken: AtomicU64,
    /// Bytes that were handed to hyper and have not left.
    under_way: AtomicUsize,
    /// True if it is the client's turn: there is something for it that it has to take.
    is_clients_turn: AtomicBool,
    /// True if its request runs.
    is_live: AtomicBool,
    /// True if it has been given up.
    is_over: AtomicBool,
    /// The body that waits for room to hand over more.
    body: AtomicWaker,
    /// The task that runs its request.
    task: AtomicWaker,
}

impl Flow {
    /// Its request begins.
    pub(super) fn begin(&self) {
        self.is_clients_turn.store(false, Ordering::Relaxed);
        self.is_live.store(true, Ordering::Relaxed);
    }

    /// Its request is over; some of its bytes may still be under way.
    pub(super) fn end(&self) {
        self.is_live.store(false, Ordering::Relaxed);
    }

    /// There is something for the client, or there is nothing more yet.
    pub(super) fn turn(&self, is_clients: bool) {
        self.is_clients_turn.store(is_clients, Ordering::Relaxed);
    }

    /// True if more may be handed over; if not, `waker` is woken when it may.
    pub(super) fn has_room(&self, waker: &Waker) -> bool {
        if self.is_below_bound() {
            return true;
        }
        self.body.register(waker);
        self.is_below_bound()
    }

    fn is_below_bound(&self) -> bool {
        let ahead = if self.taken.load(Ordering::Relaxed) < SHOWN_BYTES {
            AHEAD_BYTES
        } else {
            AHEAD_BYTES_SHOWN
        };
        // Equal would let nothing larger than the bound begin.
        self.under_way.load(Ordering::Relaxed) < ahead
    }

    /// Bytes were handed over.
    pub(super) fn hand_over(&self, bytes: usize) {
        self.under_way.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They have left, or were thrown away.
    pub(super) fn let_go(&self, bytes: usize) {
        self.under_way.fetch_sub(bytes, Ordering::Relaxed);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        self.body.wake();
    }

    /// Gives it up: whoever runs it lets go of it.
    pub(super) fn give_up(&self) {
        self.is_over.store(true, Ordering::Release);
        self.task.wake();
    }

    /// True if it was given up; `waker` is woken when it is.
    pub(crate) fn is_over(&self, waker: &Waker) -> bool {
        self.task.register(waker);
        self.is_over.load(Ordering::Acquire)
    }

    /// Number of bytes that have left.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// True if its request runs.
    pub(super) fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Relaxed)
    }

    /// True if it waits for the client.
    pub(super) fn waits_for_client(&self) -> bool {
        self.is_under_way() || (self.is_live() && self.is_clients_turn.load(Ordering::Relaxed))
    }

    /// True if some of it is with hyper.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }
}
