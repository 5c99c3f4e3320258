//! Blobs that cannot be stored: straight from upstream to one client.
//!
//! A blob may be larger than the cache, or the disk may be full, read-only or failing. Its clients get
//! it all the same, each by a *pass* of its own. A pass of the whole is hashed as it goes, and its end is
//! held back until the digest is right, like that of a fill. **A part of a blob is passed on upstream's
//! word**: there is nothing to check it by.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::{Asker, BlobAnswer, Content};
use super::core::{Core, Tasks, Upstreams};
use super::links::Links;
use super::shares::{Shares, Slot, Stays};
use super::transfer::{Budget, retry_after};
use super::{MirrorError, Source};
use crate::oci::manifest::ChildKind;
use crate::oci::{Digest, Hasher};
use crate::store::{Blob, HELD_BACK_BYTES, Handed, Store};
use crate::telemetry::{Kind, Limit, Outcome};
use crate::upstream::{BlobFetch, BlobRequest, EndpointId, FetchError, OnBehalf, Patience, Work};

/// Passes at the same time. Each is a connection to upstream of its own and up to some hundred KiB in
/// memory: a fleet that pulls through a full disk must not become a flood.
const PASSES_MAX: usize = 128;

/// Pieces of a pass that wait for its client.
const CHUNKS_WAITING_MAX: usize = 4;

/// Gives blobs past the store.
#[derive(Debug)]
pub(super) struct Passthroughs {
    upstreams: Upstreams,
    store: Store,
    tasks: Tasks,
    links: Arc<Links>,
    /// Places for passes.
    places: Arc<Shares>,
}

/// A blob that is about to be passed through.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    passthroughs: Arc<Passthroughs>,
    source: Source,
    digest: Digest,
    total: Option<u64>,
    behalf: OnBehalf,
    /// Until then the client can be answered with an error.
    answer_by: Instant,
    slot: Arc<Slot>,
}

/// The client's side of a pass. Dropping it ends the pass.
#[derive(Debug)]
pub(super) struct Passthrough {
    messages: mpsc::Receiver<Message>,
    answer_by: Instant,
}

/// Bytes, the clean end, or why there is none.
type Message = Result<Option<Bytes>, MirrorError>;

impl Passthroughs {
    pub(super) fn new(core: &Core, links: &Arc<Links>) -> Self {
        Self {
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            tasks: core.tasks.clone(),
            links: Arc::clone(links),
            places: Shares::new(Limit::Passes, PASSES_MAX, Stays::Sent),
        }
    }

    /// A stored blob, which goes on past the store where that cannot give it to the end.
    pub(super) fn answer_stored(self: &Arc<Self>, blob: Blob, source: &Source) -> BlobAnswer {
        let asker = self.asker(source, blob.digest());
        BlobAnswer {
            total: Some(blob.size()),
            outcome: Outcome::Hit,
            fed_by: None,
            content: Content::Stored(blob, asker),
        }
    }

    /// For whom a blob is read in this request.
    pub(super) fn asker(self: &Arc<Self>, source: &Source, digest: &Digest) -> Asker {
        Asker {
            passthroughs: Arc::clone(self),
            source: source.clone(),
            digest: *digest,
            behalf: OnBehalf::current(),
        }
    }

    /// A blob past the store. Whether upstream gives it is known with the first bytes; the client can
    /// be told so until `answer_by`.
    pub(super) async fn answer(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        answer_by: Instant,
    ) -> Result<BlobAnswer, MirrorError> {
        let (behalf, slot) = self.take_slot(source, OnBehalf::current())?;
        let link = self.store.metadata().link(source, digest).await;
        let total = match link.and_then(|link| link.size) {
            Some(size) => Some(size),
            None => self.links.ask_head(source, digest, ChildKind::Blob).await?,
        };
        Ok(BlobAnswer {
            total,
            outcome: Outcome::Bypass,
            fed_by: None,
            content: Content::Passing(Prepared {
                passthroughs: Arc::clone(self),
                source: source.clone(),
                digest: *digest,
                total,
                behalf,
                answer_by,
                slot,
            }),
        })
    }

    /// Goes on past the store with what a reader was given of a fill that could not be stored.
    pub(super) fn pass_on(
        self: &Arc<Self>,
        source: Source,
        digest: Digest,
        behalf: OnBehalf,
        handed: Handed,
    ) -> Result<Passthrough, MirrorError> {
        let (behalf, slot) = self.take_slot(&source, behalf)?;
        let prepared = Prepared {
            passthroughs: Arc::clone(self),
            source,
            digest,
            total: handed.total,
            behalf,
            answer_by: Instant::now(),
            slot,
        };
        Ok(prepared.begin(handed))
    }

    /// A place for a pass, as which part of whose work it is done.
    fn take_slot(
        &self,
        source: &Source,
        behalf: OnBehalf,
    ) -> Result<(OnBehalf, Arc<Slot>), MirrorError> {
        let work = Work::of(&behalf);
        let slot = self.places.take(&source.upstream, behalf.client(), &work)?;
        Ok((behalf.as_part_of(work), Arc::new(slot)))
    }
}

impl Prepared {
    /// Time that upstream's answer may be waited for.
    pub(super) fn patience(&self) -> Duration {
        self.answer_by.saturating_duration_since(Instant::now())
    }

    /// Begins to pass `range` (everything when `None`).
    pub(super) fn open(self, range: Option<Range<u64>>) -> Passthrough {
        let handed = Handed::nothing(range);
        self.begin(handed)
    }

    fn begin(self, handed: Handed) -> Passthrough {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let tasks = self.passthroughs.tasks.clone();
        let answer_by = self.answer_by;
        let end = handed.end.or(self.total);
        let whole = handed.start == 0 && end == self.total;
        let pump = Pump {
            check: whole.then(|| Hasher::new(self.digest.algorithm())),
            // Who gave the fill its bytes is not known here.
            provenance: if handed.position > 0 {
                Provenance::Several
            } else {
                Provenance::Nobody
            },
            end,
            position: handed.position,
            given: handed.position,
            held: VecDeque::new(),
            prepared: self,
            sender,
        };
        // A reader is polled by the connection, which belongs to no request.
        let behalf = pump.prepared.behalf.clone();
        tasks.spawn(behalf.scope(pump.run(handed)));
        Passthrough {
            messages: receiver,
            answer_by,
        }
    }
}

impl Passthrough {
    /// Time that upstream's answer may be waited for.
    pub(super) fn patience(&self) -> Duration {
        self.answer_by.saturating_duration_since(Instant::now())
    }

    /// The next bytes; `None` at the clean end.
    pub(super) async fn next(&mut self) -> Message {
        let vanished = || MirrorError::Store("a transfer ended without a word".to_owned());
        self.messages
            .recv()
            .await
            .unwrap_or_else(|| Err(vanished()))
    }
}

/// The work of a pass.
struct Pump {
    prepared: Prepared,
    sender: mpsc::Sender<Message>,
    /// Of all bytes before `position`, when the whole is passed.
    check: Option<Hasher>,
    provenance: Provenance,
    end: Option<u64>,
    /// The next byte to come.
    position: u64,
    /// The next byte to be given.
    given: u64,
    /// The bytes between.
    held: VecDeque<Bytes>,
}

/// The origin of the bytes of a passthrough.
#[derive(Clone, Copy)]
enum Provenance {
    Nobody,
    One(EndpointId),
    Several,
}

/// The end of a request of a passthrough without all that was asked for.
enum Failure {
    /// It makes no sense to go on, or nobody wants it.
    Fatal(MirrorError),
    /// The rest may come another time.
    Broken(FetchError),
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        Self::Fatal(error)
    }
}

impl Pump {
    async fn run(mut self, handed: Handed) {
        let sender = self.sender.clone();
        let stop = self.prepared.passthroughs.tasks.stopping().clone();
        let given_up = self.prepared.slot.given_up().clone();
        let ended = tokio::select! {
            biased;
            () = sender.closed() => return,
            () = stop.cancelled() => Err(MirrorError::ShuttingDown),
            () = given_up.cancelled() => Err(MirrorError::Limited(Limit::Passes)),
            ended = self.all(handed) => ended,
        };
        // Fails when the client has just gone.
        drop(sender.send(ended.map(|()| None)).await);
    }

    async fn all(&mut self, handed: Handed) -> Result<(), MirrorError> {
        if let Some(check) = self.check.take() {
            // What the client has already of a fill is in the file that the fill had.
            let hashed = handed.hash(check).await;
            self.check = Some(hashed.map_err(|error| MirrorError::Store(error.to_string()))?);
        }
        let passthroughs = Arc::clone(&self.prepared.passthroughs);
        let upstream = passthroughs.upstreams.of(&self.prepared.source)?;
        let mut budget = Budget::new(upstream.retry_delay());
        while self.end.is_none_or(|end| self.position < end) {
            let before = self.position;
            let error = match self.once().await {
                Ok(()) => break,
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Broken(error)) => error,
            };
            if self.position > before {
                budget.progress(self.position - before);
            }
            let Some(wait) = budget.spend(retry_after(&error)) else {
                return Err(MirrorError::of_fetch(Kind::Blob, error));
            };
            upstream.resumes();
            tokio::time::sleep(wait).await;
        }
        self.finish().await
    }

    /// One request, from where the pass is.
    async fn once(&mut self) -> Result<(), Failure> {
        let passthroughs = Arc::clone(&self.prepared.passthroughs);
        let upstream = passthroughs.upstreams.of(&self.prepared.source)?;
        let digest = self.prepared.digest;
        let endpoints = upstream.endpoints_for(&digest);
        let total = self.prepared.total;
        let ask = BlobRequest {
            start: self.position,
            end: self.end.filter(|end| total != Some(*end)),
            endpoints: &endpoints,
            // As for a fill that has begun: the retries are counted here.
            patience: if self.given == 0 && self.position == 0 {
                Patience::Wait
            } else {
                Patience::Now
            },
            ..BlobRequest::whole(&self.prepared.source.repository, &digest)
        };
        let mut fetched = match upstream.blob(&ask).await {
            Ok(fetched) => fetched,
            // The connection before broke exactly at the end, which nobody had announced.
            Err(FetchError::RangeNotSatisfiable) if self.end.is_none() && self.position > 0 => {
                return Ok(());
            }
            // The question itself was repeated as often as makes sense.
            Err(error) if self.given == 0 && self.position == 0 => {
                return Err(MirrorError::of_fetch(Kind::Blob, error).into());
            }
            Err(error) => return Err(Failure::Broken(error)),
        };
        self.check_size(&fetched).await?;
        self.provenance = match self.provenance {
            Provenance::Nobody => Provenance::One(fetched.endpoint),
            Provenance::One(before) if before == fetched.endpoint => self.provenance,
            Provenance::One(_) | Provenance::Several => Provenance::Several,
        };
        self.pump(&mut fetched).await
    }

    /// Upstream and whoever said the size before must agree: clients have been told.
    async fn check_size(&self, fetched: &BlobFetch) -> Result<(), MirrorError> {
        match (self.prepared.total, fetched.total) {
            // It may be the manifest that is wrong.
            (Some(expected), Some(got)) if expected != got => {
                let why = format!("upstream announces {got} bytes, {expected} are expected");
                Err(self.other_size(why).await)
            }
            _ => Ok(()),
        }
    }

    /// The next client shall be told another size, or none.
    async fn other_size(&self, why: String) -> MirrorError {
        let Prepared {
            passthroughs,
            source,
            digest,
            ..
        } = &self.prepared;
        passthroughs
            .store
            .metadata()
            .forget_size(source, digest)
            .await;
        let digest = *digest;
        MirrorError::WrongContent { digest, why }
    }

    /// Takes what comes of one answer.
    async fn pump(&mut self, fetched: &mut BlobFetch) -> Result<(), Failure> {
        let end = self.end.unwrap_or(u64::MAX);
        let mut at = fetched.offset;
        while self.position < end {
            let Some(bytes) = fetched.body.next().await.map_err(Failure::Broken)? else {
                break;
            };
            let next = at.saturating_add(bytes.len() as u64);
            // Who ignores Range sends what the client has, too.
            let wanted = self.position.max(at)..end.min(next);
            if !wanted.is_empty() {
                let from = usize::try_from(wanted.start - at).unwrap_or(usize::MAX);
                let to = usize::try_from(wanted.end - at).unwrap_or(usize::MAX);
                let part = bytes.slice(from.min(bytes.len())..to.min(bytes.len()));
                tokio::select! {
                    biased;
                    taken = self.take(part) => taken?,
                    // A client that takes nothing keeps no connection from others.
                    () = fetched.body.recalled() => return Err(Failure::Broken(FetchError::Busy)),
                }
            }
            at = next;
        }
        match self.end {
            Some(end) if self.position < end => {
                let why = format!("ended at byte {} of {end}", self.position);
                if fetched.total.is_none() && !fetched.ranged {
                    // It ended as it was meant to: it may be the manifest that is wrong.
                    return Err(self.other_size(why).await.into());
                }
                Err(Failure::Broken(FetchError::Broken(why)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes in bytes, and gives the client what may be given. The bytes are taken in before anything is waited for.
    async fn take(&mut self, bytes: Bytes) -> Result<(), MirrorError> {
        self.position += bytes.len() as u64;
        if let Some(check) = &mut self.check {
            check.update(&bytes);
        }
        self.held.push_back(bytes);
        let free = match (&self.check, self.end) {
            (None, _) => self.position,
            (Some(_), end) => end.unwrap_or(self.position).saturating_sub(HELD_BACK_BYTES),
        };
        self.give(free.min(self.position)).await
    }

    /// Gives the client what is held up to there.
    async fn give(&mut self, end: u64) -> Result<(), MirrorError> {
        while self.given < end && !self.held.is_empty() {
            // It waits for a client that is slow, and the one that has gone ends the pass. Nothing is lost when it is
            // waited for no longer.
            let sent = self.sender.reserve().await;
            let sent = sent.map_err(|_gone| MirrorError::Busy("nobody waits for it"))?;
            let Some(mut bytes) = self.held.pop_front() else {
                break;
            };
            let room = usize::try_from(end - self.given).unwrap_or(usize::MAX);
            if bytes.len() > room {
                self.held.push_front(bytes.split_off(room));
            }
            self.given += bytes.len() as u64;
            sent.send(Ok(Some(bytes)));
        }
        Ok(())
    }

    /// All is there: if it is right, the client gets the end.
    async fn finish(&mut self) -> Result<(), MirrorError> {
        let Prepared {
            passthroughs,
            source,
            digest,
            ..
        } = &self.prepared;
        if let Some(check) = self.check.take() {
            let got = check.finish();
            if got != *digest {
                tracing::error!(
                    upstream = %source.upstream, repository = %source.repository, %digest, %got,
                    "upstream sent wrong content, which passed through without its end; its client is cut off"
                );
                // Of several nobody can tell who was wrong.
                if let Provenance::One(endpoint) = self.provenance {
                    passthroughs
                        .upstreams
                        .of(source)?
                        .distrust(endpoint, digest);
                }
                return Err(MirrorError::WrongContent {
                    digest: *digest,
                    why: format!("the bytes have the digest {got}"),
                });
            }
        }
        self.give(self.position).await
    }
}
