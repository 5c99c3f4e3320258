//! The blobs on their way: one fill for everybody who asks for the same at the same time. The work belongs to the
//! mirror: whoever asked may hang up.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::offers::Offers;
use super::shares::{Shares, Slot, Stays};
use super::{MirrorError, Source, SourceKind};
use crate::oci::{Digest, UpstreamName};
use crate::store::{self, Fill, FillKey};
use crate::telemetry::Limit;
use crate::telemetry::trace::{Span, Trace};
use crate::upstream::{OnBehalf, Work};

/// Fills at the same time: each has a file, a connection and up to a megabyte
/// in memory.
const FILLS_MAX: usize = 512;

/// Other repositories of the upstream that a fill may go on from.
pub(super) const OTHER_SOURCES_MAX: usize = 4;

type Opening = store::fill::Opening<MirrorError>;

/// The fills under way: what has not been checked is one upstream's alone.
#[derive(Debug)]
pub(super) struct Fills {
    table: Mutex<HashMap<FillKey, Entry>>,
    next: AtomicU64,
    /// Told when one has left the table.
    left: Notify,
    shares: Arc<Shares>,
    offers: Offers,
}

impl Default for Fills {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            next: AtomicU64::new(0),
            left: Notify::new(),
            shares: Shares::new(Limit::Transfers, FILLS_MAX, Stays::Sent),
            offers: Offers::default(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// Number of requests that wait for it to begin.
    waiting: usize,
    work: Arc<Work>,
    given_up: CancellationToken,
    source: Source,
    /// Other repositories of the upstream that have it, for whose sake others joined, as they came.
    others: Vec<Source>,
    fill: Fill<MirrorError>,
    /// Its span, if whoever asked first is traced.
    trace: Option<Trace>,
    promoted: CancellationToken,
}

/// The kind of place that a fill's first bytes have come from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct FedBy(Arc<OnceLock<SourceKind>>);

impl FedBy {
    /// They came from there, unless others were before.
    pub(super) fn note(&self, kind: SourceKind) {
        // The first one counts.
        let _is_first = self.0.set(kind).is_ok();
    }

    /// The kind, once there are some.
    pub(super) fn get(&self) -> Option<SourceKind> {
        self.0.get().copied()
    }
}

/// The way to a blob that was not found in the store.
#[derive(Debug)]
pub(super) enum Claim {
    /// It has been stored meanwhile: look again.
    Stored,
    /// It is on its way, for the sake of `source`.
    Follow {
        fill: Fill<MirrorError>,
        source: Source,
        /// Kept until it has begun.
        waits: Waits,
    },
    /// Nobody fetches it: the caller must, or drop the lead, which tells all
    /// who joined that it failed.
    Lead(Lead, Waits),
}

/// Somebody waits for a fill to begin. With the last one who leaves before anything was sent it is given up.
#[derive(Debug)]
pub(super) struct Waits(Listed);

/// The duty to fetch a blob.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) opening: Opening,
    pub(super) fill: Fill<MirrorError>,
    pub(super) place: FillSlot,
    pub(super) work: Arc<Work>,
    /// It is a part of the first request, and the others are linked to it.
    pub(super) span: Option<Span>,
    /// Cancelled when another node of the cluster asks for it: what that waits for must not wait for a node, which might
    /// be the one that asks.
    pub(super) promoted: CancellationToken,
    pub(super) fed_by: FedBy,
}

/// A fill's place in the table, given up when dropped.
#[derive(Debug)]
pub(super) struct FillSlot {
    listed: Listed,
    slot: Slot,
}

/// A fill in the table, if it is still there.
#[derive(Debug)]
struct Listed {
    fills: Arc<Fills>,
    key: FillKey,
    id: u64,
}

impl FillSlot {
    /// Cancelled when nobody wants the fill before it has begun, or its place is somebody else's.
    pub(super) fn given_up(&self) -> &CancellationToken {
        self.slot.given_up()
    }

    /// The fill, unless it was taken off the table. It counts as somebody who follows it.
    pub(super) fn fill(&self) -> Option<Fill<MirrorError>> {
        let mut table = self.listed.fills.table();
        self.listed.find(&mut table).map(|entry| entry.fill.clone())
    }
}

impl Fills {
    /// A place in the one fill of `digest` from the source's upstream. `stored` is asked while nobody can
    /// begin or end a fill, so that a blob just committed is not fetched again.
    pub(super) fn claim(
        self: &Arc<Self>,
        digest: &Digest,
        source: &Source,
        stored: impl FnOnce() -> bool,
    ) -> Result<Claim, MirrorError> {
        let key = FillKey::new(&source.upstream, *digest);
        let mut table = self.table();
        let listed = |id: u64| Listed {
            fills: Arc::clone(self),
            key,
            id,
        };
        let running = table.get_mut(&key);
        if let Some(entry) = running.filter(|entry| !entry.fill.has_failed()) {
            entry.waiting += 1;
            entry.work.join();
            entry.joined_from(source);
            if OnBehalf::is_for_node() {
                entry.promoted.cancel();
            }
            follow(entry.trace.as_ref());
            return Ok(Claim::Follow {
                fill: entry.fill.clone(),
                source: entry.source.clone(),
                waits: Waits(listed(entry.id)),
            });
        }
        if stored() {
            return Ok(Claim::Stored);
        }
        let behalf = OnBehalf::current();
        let work = Work::of(&behalf);
        let slot = self.shares.take(&source.upstream, behalf.client(), &work)?;
        let (opening, fill) = store::fill(key);
        let span = OnBehalf::span("fill");
        let trace = span.as_ref().map(|span| span.trace().clone());
        follow(trace.as_ref());
        let promoted = promotion();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        table.insert(
            key,
            Entry {
                id,
                waiting: 1,
                work: Arc::clone(&work),
                given_up: slot.given_up().clone(),
                source: source.clone(),
                others: Vec::new(),
                fill: fill.clone(),
                trace,
                promoted: promoted.clone(),
            },
        );
        let place = FillSlot {
            listed: listed(id),
            slot,
        };
        let lead = Lead {
            opening,
            fill,
            place,
            work,
            span,
            promoted,
            fed_by: FedBy::default(),
        };
        Ok(Claim::Lead(lead, Waits(listed(id))))
    }

    /// Parts that other nodes offer of what is fetched.
    pub(super) fn offers(&self) -> &Offers {
        &self.offers
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

    /// True if the upstream is asked for a blob for the sake of this repository.
    pub(super) fn is_for(&self, source: &Source, digest: &Digest) -> bool {
        let table = self.table();
        let entry = table.get(&FillKey::new(&source.upstream, *digest));
        entry.is_some_and(|it| it.source == *source || it.others.contains(source))
    }

    /// The repository, of those for whose sake others joined a fill, that comes after so many.
    pub(super) fn other_source(&self, key: &FillKey, number: usize) -> Option<Source> {
        self.table().get(key)?.others.get(number).cloned()
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

    /// Waits until none is under way.
    pub(super) async fn none_is_left(&self) {
        loop {
            let mut left = pin!(self.left.notified());
            // Before the look, or one that leaves in between would not be heard.
            left.as_mut().enable();
            if self.table().is_empty() {
                return;
            }
            left.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<FillKey, Entry>> {
        // Each change is one insert or remove.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Somebody joins for the sake of a repository that has the blob, too, as the upstream has said.
    fn joined_from(&mut self, source: &Source) {
        let is_known = self.source == *source || self.others.contains(source);
        if !is_known && self.others.len() < OTHER_SOURCES_MAX {
            self.others.push(source.clone());
        }
    }
}

/// The promotion of a fill that begins now.
fn promotion() -> CancellationToken {
    let promoted = CancellationToken::new();
    if !OnBehalf::may_ask_nodes() {
        promoted.cancel();
    }
    promoted
}

/// Whoever asks now waits for this fill.
fn follow(fill: Option<&Trace>) {
    if let Some(fill) = fill {
        OnBehalf::traced(|trace| trace.link(fill));
    }
}

impl Listed {
    /// A failed fill's place may have been taken over by a new one.
    fn find<'a>(&self, table: &'a mut HashMap<FillKey, Entry>) -> Option<&'a mut Entry> {
        let entry = table.get_mut(&self.key);
        entry.filter(|entry| entry.id == self.id)
    }
}

impl Drop for FillSlot {
    fn drop(&mut self) {
        let Self { listed, .. } = self;
        let mut table = listed.fills.table();
        if listed.find(&mut table).is_some() {
            table.remove(&listed.key);
            listed.fills.offers.forget(&listed.key);
        }
        listed.fills.left.notify_waiters();
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let Self(listed) = self;
        let mut table = listed.fills.table();
        let Some(entry) = listed.find(&mut table) else {
            return;
        };
        entry.waiting -= 1;
        if entry.waiting == 0 && !entry.work.was_sent() {
            // It leaves the table when its file is free again.
            entry.given_up.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Repository;

    fn source() -> Source {
        Source {
            upstream: UpstreamName::parse("docker.io").unwrap(),
            repository: Repository::parse("library/app").unwrap(),
        }
    }

    #[tokio::test]
    async fn a_dropped_lead_is_a_failure_and_frees_the_seat() {
        let fills = Arc::new(Fills::default());
        let digest = Digest::Sha256([1; 32]);
        let Ok(Claim::Lead(lead, _waits)) = fills.claim(&digest, &source(), || false) else {
            panic!("no lead")
        };
        let Ok(Claim::Follow { fill, .. }) = fills.claim(&digest, &source(), || false) else {
            panic!("no join")
        };
        drop(lead);
        assert!(fill.started().await.is_err());
        assert!(matches!(
            fills.claim(&digest, &source(), || true),
            Ok(Claim::Stored)
        ));
        assert!(matches!(
            fills.claim(&digest, &source(), || false),
            Ok(Claim::Lead(..))
        ));
    }
}
