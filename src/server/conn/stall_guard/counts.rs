//! The counts of a connection, which its task alone writes.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bytes and requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Counts {
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
    is_http2: AtomicBool,
}

impl Counts {
    pub(super) fn read(&self, bytes: usize) {
        add(&self.read, bytes);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        add(&self.written, bytes);
    }

    pub(super) fn blocked(&self, is_blocked: bool) {
        if self.is_blocked() != is_blocked {
            self.is_blocked.store(is_blocked, Ordering::Relaxed);
        }
    }

    pub(super) fn speaks_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn begin(&self) {
        let read = self.read.load(Ordering::Relaxed);
        self.read_at_request.store(read, Ordering::Relaxed);
        add(&self.requests, 1);
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self, is_answered: bool) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        if !is_answered {
            self.withdrawn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests that began.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that run.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Requests that were taken back.
    pub(super) fn withdrawn(&self) -> u64 {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Bytes that the socket took.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// True if the socket takes no more.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    /// True if the client has said nothing since its last request, or may say it in pieces as HTTP/2 does.
    pub(super) fn is_between_requests(&self) -> bool {
        let read_at_request = self.read_at_request.load(Ordering::Relaxed);
        let is_silent = self.requests() > 0 && self.read.load(Ordering::Relaxed) == read_at_request;
        is_silent || self.is_http2.load(Ordering::Relaxed)
    }
}

/// Adds to a number that one task alone writes.
fn add(number: &AtomicU64, more: usize) {
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    let sum = number.load(Ordering::Relaxed).wrapping_add(more);
    number.store(sum, Ordering::Relaxed);
}
