//! The queue of what is to be written to the bucket: bounded, each thing once. What does not fit is found again by a look
//! through the index.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mirror::Source;
use crate::oci::{Digest, Tag};
use crate::telemetry::Metrics;

/// Blobs that wait: some 100 bytes each.
const BLOBS_MAX: usize = 20_000;

/// Tags and links that wait: some 500 bytes each.
const FACTS_MAX: usize = 20_000;

/// Time between two warnings of the same.
const TOLD_EACH: Duration = Duration::from_hours(1);

/// A tag or link that is to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fact {
    /// The upstream's word on a blob or manifest.
    Link(Source, Digest),
    /// The manifest that a tag names.
    Tag(Source, Tag),
}

/// A blob that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Whatever is there is written over: it is wrong, or about to be deleted.
    pub(super) anew: bool,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    metrics: Metrics,
    /// Something was put in.
    added: Notify,
    /// Something was taken out.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    blobs: VecDeque<Digest>,
    by_digest: HashMap<Digest, Waiting>,
    facts: VecDeque<Fact>,
    known: HashSet<Fact>,
    /// Blobs whose notes are to be forgotten.
    unknown: Vec<Digest>,
    /// Bytes of those that wait, and of those that are being written.
    bytes: u64,
    /// Something did not fit.
    is_incomplete: bool,
    trouble: Option<String>,
    /// When it was last told that something there is not sealed.
    told: Option<Instant>,
}

impl Queue {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            state: Mutex::default(),
            metrics,
            added: Notify::new(),
            taken: Notify::new(),
        }
    }

    /// Puts a blob in; false if there is no room.
    pub(super) fn add_blob(&self, waiting: Waiting) -> bool {
        let mut state = self.state();
        if let Some(known) = state.by_digest.get_mut(&waiting.digest) {
            known.anew |= waiting.anew;
            return true;
        }
        if state.blobs.len() >= BLOBS_MAX {
            state.is_incomplete = true;
            return false;
        }
        state.blobs.push_back(waiting.digest);
        state.by_digest.insert(waiting.digest, waiting);
        state.bytes = state.bytes.saturating_add(waiting.size);
        self.tell(&state);
        drop(state);
        self.added.notify_waiters();
        true
    }

    /// Puts a tag or link in; false if there is no room.
    pub(super) fn add_fact(&self, fact: Fact) -> bool {
        let mut state = self.state();
        if state.known.contains(&fact) {
            return true;
        }
        if state.facts.len() >= FACTS_MAX {
            state.is_incomplete = true;
            return false;
        }
        state.known.insert(fact.clone());
        state.facts.push_back(fact);
        drop(state);
        self.added.notify_waiters();
        true
    }

    /// Waits for a blob, and takes it out.
    pub(super) async fn next_blob(&self) -> Waiting {
        self.next(|state| {
            let digest = state.blobs.pop_front()?;
            state.by_digest.remove(&digest)
        })
        .await
    }

    /// A blob that was taken out is written, or put in again.
    pub(super) fn done(&self, waiting: Waiting) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(waiting.size);
        self.tell(&state);
    }

    /// Waits for a tag or link, and takes it out.
    pub(super) async fn next_fact(&self) -> Fact {
        self.next(|state| {
            let fact = state.facts.pop_front()?;
            state.known.remove(&fact);
            Some(fact)
        })
        .await
    }

    async fn next<T>(&self, take: impl Fn(&mut State) -> Option<T>) -> T {
        loop {
            let added = self.added.notified();
            {
                let mut state = self.state();
                if let Some(taken) = take(&mut state) {
                    drop(state);
                    self.taken.notify_waiters();
                    return taken;
                }
            }
            added.await;
        }
    }

    /// Waits until half of the room is free.
    pub(super) async fn has_room(&self) {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.state();
                if state.blobs.len() <= BLOBS_MAX / 2 && state.facts.len() <= FACTS_MAX / 2 {
                    return;
                }
            }
            taken.await;
        }
    }

    /// An object has wrong bytes: what was noted of it is to be forgotten.
    pub(super) fn wrong(&self, digest: Digest) {
        let mut state = self.state();
        if state.unknown.len() < BLOBS_MAX {
            state.unknown.push(digest);
        }
    }

    /// The blobs whose notes are to be forgotten.
    pub(super) fn take_unknown(&self) -> Vec<Digest> {
        std::mem::take(&mut self.state().unknown)
    }

    /// Something was missed, so that it has to be looked for.
    pub(super) fn missed(&self) {
        self.state().is_incomplete = true;
    }

    /// True, once, if something did not fit.
    pub(super) fn take_incomplete(&self) -> bool {
        std::mem::take(&mut self.state().is_incomplete)
    }

    /// The reason why nothing can be written now; true if that is news.
    pub(super) fn is_in_trouble(&self, why: Option<String>) -> bool {
        let mut state = self.state();
        let is_news = state.trouble.is_some() != why.is_some();
        state.trouble = why;
        is_news
    }

    /// True if it is time to tell again of what keeps happening.
    pub(super) fn is_time_to_tell(&self) -> bool {
        let mut state = self.state();
        let is_time = state.told.is_none_or(|told| told.elapsed() >= TOLD_EACH);
        if is_time {
            state.told = Some(Instant::now());
        }
        is_time
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Blobs, their bytes, and tags and links that wait.
    pub(super) fn waiting(&self) -> (usize, u64, usize) {
        let state = self.state();
        (state.blobs.len(), state.bytes, state.facts.len())
    }

    fn tell(&self, state: &State) {
        self.metrics.tier().pending(state.bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
