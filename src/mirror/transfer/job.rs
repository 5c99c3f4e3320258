//! One fill's work: its connections, what they write, when they try again.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, join, join_all};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, RETRY_EARNED_BYTES, retry_after};
use super::lazy::{Parts, Reading};
use super::means::Means;
use super::origin::{BlobName, Origin, Origins, SourceKind};
use super::plan::{Piece, Pieces, Plan};
use super::range_workers::range_workers;
use super::reliability::Reliability;
use super::wish::{FillOnRange, Wanted};
use crate::mirror::fills::FedBy;
use crate::mirror::shares::Slot;
use crate::mirror::{MirrorError, Source};
use crate::oci::Digest;
use crate::store::{Coverage, FillKey, Partial};
use crate::telemetry::{Kind, Limit};
use crate::upstream::{FetchError, OnBehalf, Upstream, Work};

/// Requests in a row that one of the further connections may lose before it is given up: the blob
/// comes without it, too, only slower. An upstream that allows fewer connections than configured is
/// not bothered with more.
const WORKER_FAILURES_MAX: u32 = 2;

/// A reader that waits for what comes after at most this many bytes waits for those: a request would
/// not be there before them.
const NEAR_BYTES: u64 = 512 * 1024;

/// One fill's work.
pub(super) struct Job<'a> {
    pub(super) means: &'a Means,
    pub(super) upstream: &'a Upstream,
    pub(super) source: &'a Source,
    pub(super) digest: Digest,
    /// The upstream, and the sources that are asked before it.
    pub(super) origins: Origins<'a>,
    pub(super) state: Mutex<State>,
    pub(super) ends: Ends,
    /// The treatment of what was not asked for.
    pub(super) fill_on_range: FillOnRange,
    /// Number of other repositories that it has gone on from.
    pub(super) others_used: usize,
}

/// What others know of a fill's work: reasons to leave off what it waits for, and where it has its bytes from.
pub(super) struct Ends {
    /// Cancelled when the fill's place is somebody else's, or nobody wants it, before it has begun.
    pub(super) given_up: CancellationToken,
    /// Cancelled when another node of the cluster waits for the fill: then no node is waited for here.
    pub(super) promoted: CancellationToken,
    pub(super) fed_by: FedBy,
}

pub(super) struct State {
    /// The blob's size, from a manifest or from upstream.
    pub(super) total: Option<u64>,
    /// The same, once the upstream or another node has said for this repository that it has the blob.
    pub(super) given: Option<u64>,
    /// True if another node has said that, and nobody else.
    pub(super) said_by_node: bool,
    /// True if the readers have been told that bytes will come.
    pub(super) started: bool,
    /// The range that the reader wants for whom the fill was begun, if that is less than everything.
    pub(super) first: Option<Range<u64>>,
    /// True if all of the blob is to be fetched, whatever is read of it: with fewer connections and more patience.
    pub(super) everything: bool,
    pub(super) plan: Plan,
    pub(super) budget: Budget,
    pub(super) reliability: Reliability,
    /// Cancelled when the mirror stops or when the connections are to end. Then waits for upstream end,
    /// and writes under way are finished: a file must not be written to by one who has lost it.
    pub(super) over: CancellationToken,
    pub(super) unattended: Option<Slot>,
}

/// The progress of a fill.
pub(super) enum Fetched {
    /// All of it is there.
    Whole,
    /// Nobody reads it any more, nobody can find it, and the rest was not wanted.
    Suspended {
        /// The size of the blob.
        total: u64,
    },
}

/// The end of an attempt to fetch a piece without all of it.
pub(super) enum Failure {
    /// The whole fill cannot be had.
    Fatal(MirrorError),
    /// The rest may come another time; so many bytes came.
    Broken { error: FetchError, bytes: u64 },
    /// The endpoint sends everything or nothing, and this connection is not the one to take everything.
    NoRange,
    /// A source beside the upstream failed, and is asked no more: the next one is.
    Left,
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        Self::Fatal(error)
    }
}

impl<'a> Job<'a> {
    pub(super) fn new(
        means: &'a Means,
        upstream: &'a Upstream,
        source: &'a Source,
        digest: &'a Digest,
        wanted: Wanted,
        ends: Ends,
    ) -> Self {
        let Wanted {
            expected,
            given,
            first,
        } = wanted;
        // What another node asks for by the way is not fetched for it alone: it has the rest, or will ask for it.
        let fill_on_range = if OnBehalf::is_for_node() {
            FillOnRange::Never
        } else {
            means.fill_on_range
        };
        Self {
            means,
            upstream,
            source,
            digest: *digest,
            origins: Origins {
                upstream,
                others: &means.sources,
                blob: BlobName {
                    source,
                    digest,
                    given_size: expected.filter(|_| given),
                },
            },
            ends,
            fill_on_range,
            state: Mutex::new(State {
                total: expected,
                given: expected.filter(|_| given),
                said_by_node: false,
                started: false,
                everything: first.everything,
                first: first.part,
                plan: Plan::new(&Coverage::default(), 0, Pieces::WHOLE),
                budget: Budget::new(upstream.retry_delay()),
                reliability: Reliability::default(),
                over: means.tasks.suspending().child_token(),
                unattended: None,
            }),
            others_used: 0,
        }
    }

    /// The same work for the sake of another repository of the upstream, with a budget of its own.
    pub(super) fn go_on_from(self, source: &'a Source, digest: &'a Digest) -> Self {
        let state = self.state.into_inner();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.over = self.means.tasks.suspending().child_token();
        state.budget = Budget::new(self.upstream.retry_delay());
        state.reliability.failures.clear();
        state.reliability.short_end = None;
        state.given = None;
        Self {
            source,
            origins: Origins {
                blob: BlobName {
                    source,
                    digest,
                    given_size: None,
                },
                ..self.origins
            },
            state: Mutex::new(state),
            others_used: self.others_used + 1,
            ..self
        }
    }

    /// Another repository of the upstream for whose sake somebody has joined, who is not to be broken for this one's trouble.
    /// None before this one has given something: the readers for its sake may only have what it has.
    pub(super) fn other_source(&self, partial: &Partial<MirrorError>) -> Option<Source> {
        if !self.state().started {
            return None;
        }
        let fills = &self.means.fills;
        fills.other_source(partial.key(), self.others_used)
    }

    /// Fetches all that is missing. What is there then is not yet verified.
    ///
    /// # Errors
    /// The reason why the blob cannot be had, after everything was tried.
    pub(super) async fn fetch(
        &self,
        partial: &Partial<MirrorError>,
    ) -> Result<Fetched, MirrorError> {
        if !self.state().started {
            let mut state = self.state();
            state.reliability.provenance.resumed(&partial.coverage());
        }
        loop {
            let total = self.state().total;
            let Some(total) = total else {
                self.stream(partial).await?;
                if self.state().total.is_none() {
                    return Ok(Fetched::Whole);
                }
                continue;
            };
            let have = partial.coverage();
            if have.next_gap(0, total).is_none() {
                // An earlier run may have had it all, and have been stopped before the commit.
                self.start(partial).await?;
                return Ok(Fetched::Whole);
            }
            if !self.everything(partial, total) {
                let reading = Reading {
                    job: self,
                    partial,
                    total,
                };
                match reading.run().await? {
                    Parts::Everything => continue,
                    Parts::Suspended => return Ok(Fetched::Suspended { total }),
                }
            }
            let pools = self.plan(&have, total);
            let (open, gate) = watch::channel(false);
            let others = (1..pools).map(|pool| {
                let gate = gate.clone();
                Box::pin(self.extra_worker(partial, pool, gate)) as BoxFuture<'_, _>
            });
            let first = Box::pin(self.main_worker(partial, open)) as BoxFuture<'_, _>;
            let all = join_all(std::iter::once(first).chain(others));
            let done = CancellationToken::new();
            let all = async { (all.await, done.cancel()).0 };
            let for_ranges =
                Box::pin(range_workers(self, partial, pools, &done)) as BoxFuture<'_, _>;
            let (mut ended, ranges_ended) = join(all, for_ranges).await;
            ended.push(ranges_ended);
            // The first one's error ended the others.
            let errors = ended.into_iter().filter_map(Result::err);
            let telling = errors.min_by_key(|error| matches!(error, MirrorError::ShuttingDown));
            if let Some(error) = telling {
                return Err(error);
            }
        }
    }

    /// Plans what is missing, and says on how many connections.
    fn plan(&self, have: &Coverage, total: u64) -> usize {
        let parallel = self.upstream.parallel();
        let order = self.order(have.prefix() > 0);
        let mut state = self.state();
        let ranges = order
            .first()
            .is_some_and(|next| state.reliability.takes_ranges(&self.origins, *next));
        // A node may have to fetch what it is asked for, and would for each connection fetch somewhere else.
        let from_node = order.first().is_some_and(|it| self.origins.is_node(*it));
        let several = ranges && !from_node && total > parallel.above && parallel.connections > 1;
        let (pools, pieces) = if several {
            let pieces = Pieces {
                connections: u64::try_from(parallel.connections).unwrap_or(u64::MAX),
                segment: parallel.segment_size,
            };
            (parallel.connections, pieces)
        } else if ranges && state.first.is_some() {
            // Those who read here and there begin pieces of their own: what is asked for ahead of them
            // is then on its way twice.
            let segment = parallel.segment_size;
            let connections = 1;
            (
                1,
                Pieces {
                    connections,
                    segment,
                },
            )
        } else {
            (1, Pieces::WHOLE)
        };
        state.plan = Plan::new(have, total, pieces);
        pools
    }

    /// The connection that always is: it decides when the fill is given up.
    async fn main_worker(
        &self,
        partial: &Partial<MirrorError>,
        open: watch::Sender<bool>,
    ) -> Result<(), MirrorError> {
        while let Some(piece) = self.take(partial) {
            let others = self.state().reliability.others.clone();
            let last_is_node = matches!(&others[..], [last] if self.origins.is_node(*last));
            let reached = self.attempt(partial, 0, &piece, Some(&open)).await;
            self.done(partial, &piece);
            match reached {
                // What comes next may have to do with more connections than a node had.
                Err(Failure::Left)
                    if last_is_node && self.state().reliability.others.is_empty() =>
                {
                    return Ok(());
                }
                // Those that ranges are of no use at are remembered.
                Ok(()) | Err(Failure::NoRange | Failure::Left) => {}
                Err(Failure::Fatal(error)) => {
                    self.state().over.cancel();
                    return Err(error);
                }
                Err(Failure::Broken { error, .. }) => {
                    let paused = self.pause(partial, error).await;
                    paused.inspect_err(|_| self.state().over.cancel())?;
                }
            }
        }
        Ok(())
    }

    /// One more connection, worth having as long as it works.
    async fn extra_worker(
        &self,
        partial: &Partial<MirrorError>,
        pool: usize,
        mut gate: watch::Receiver<bool>,
    ) -> Result<(), MirrorError> {
        // Opened by the first answer to a Range; closed when there is none.
        let opened = async { gate.wait_for(|open| *open).await.is_ok() };
        if !self.unless_over(opened).await? {
            return Ok(());
        }
        let mut failures = 0;
        while failures < WORKER_FAILURES_MAX {
            let Some(piece) = self.take(partial) else {
                return Ok(());
            };
            let reached = self.attempt(partial, pool, &piece, None).await;
            self.done(partial, &piece);
            match reached {
                Ok(()) => failures = 0,
                Err(Failure::Left) => {}
                Err(Failure::Fatal(error)) => {
                    self.state().over.cancel();
                    return Err(error);
                }
                Err(
                    Failure::NoRange
                    | Failure::Broken {
                        error: FetchError::Busy,
                        ..
                    },
                ) => return Ok(()),
                Err(Failure::Broken { error, bytes }) => {
                    tracing::debug!(digest = %self.digest, pool, %error, bytes, "one of several connections broke");
                    let worth_it = bytes >= RETRY_EARNED_BYTES;
                    failures = if worth_it { 0 } else { failures + 1 };
                    self.rest().await?;
                }
            }
        }
        Ok(())
    }

    /// A blob of unknown size, on one connection.
    async fn stream(&self, partial: &Partial<MirrorError>) -> Result<(), MirrorError> {
        loop {
            let first = self.state().first.take();
            let first = first.and_then(|range| self.fill_on_range.first_piece(range));
            let piece = Piece::unplanned(first.unwrap_or(partial.prefix()..u64::MAX));
            match self.attempt(partial, 0, &piece, None).await {
                // Upstream does not say how much there is, and does not send all of it.
                Ok(()) if piece.range.end < u64::MAX => {}
                Ok(()) => return Ok(()),
                Err(Failure::Fatal(error)) => return Err(error),
                // It is remembered.
                Err(Failure::NoRange | Failure::Left) => {}
                Err(Failure::Broken { error, .. }) => self.pause(partial, error).await?,
            }
            if self.state().total.is_some() {
                // Now it is known, and what is missing can be planned.
                return Ok(());
            }
        }
    }

    /// Waits before the next attempt, or gives the fill up.
    pub(super) async fn pause(
        &self,
        partial: &Partial<MirrorError>,
        error: FetchError,
    ) -> Result<(), MirrorError> {
        let wait = self.state().budget.spend(retry_after(&error));
        let wait = wait.filter(|_| self.other_source(partial).is_none());
        let Some(wait) = wait else {
            return Err(MirrorError::of_fetch(Kind::Blob, error));
        };
        tracing::info!(
            upstream = %self.source.upstream, repository = %self.source.repository,
            digest = %self.digest, bytes = partial.prefix(), %error, wait_ms = wait.as_millis(),
            "a transfer broke off; going on with it"
        );
        self.upstream.resumes();
        self.unless_over(tokio::time::sleep(wait)).await?;
        self.state().budget.tries_again();
        Ok(())
    }

    /// The next piece for a connection to fetch.
    fn take(&self, partial: &Partial<MirrorError>) -> Option<Piece> {
        let mut elsewhere = Coverage::default();
        for (_, part) in self.offered(partial.key()) {
            elsewhere.insert(part);
        }
        let mut state = self.state();
        if !state.reliability.next_takes_ranges(&self.origins) {
            let total = state.total?;
            let gap = partial.coverage().next_gap(0, total)?;
            return Some(Piece::unplanned(gap.start..total));
        }
        if let Some(first) = state.first.take().filter(|range| range.start > 0)
            && let Some(piece) = state.plan.take_at(first, &partial.coverage(), 0)
        {
            return Some(piece);
        }
        state.plan.take(&elsewhere)
    }

    /// True if another node, which comes before this one for the blob, has it, too: it gave the first bytes.
    pub(super) fn is_copy(&self) -> bool {
        let from_node = match self.ends.fed_by.get() {
            Some(SourceKind::Node | SourceKind::Holder) => true,
            Some(SourceKind::Tier | SourceKind::Upstream) | None => false,
        };
        from_node && self.origins.has_nodes()
    }

    /// Nodes that offer parts of the blob, and those parts.
    pub(super) fn offered(&self, key: &FillKey) -> Vec<(Origin, Range<u64>)> {
        let Some(offers) = self.means.fills.offers().of(key) else {
            return Vec::new();
        };
        let failed = self.state().reliability.failed_holders.clone();
        let known = offers.iter().filter_map(|offer| {
            let holder = self.origins.holder(&offer.node)?;
            Some((holder, offer))
        });
        let known = known.filter(|(holder, _)| !failed.contains(holder));
        known
            .flat_map(|(holder, offer)| offer.parts.iter().map(move |part| (holder, part.clone())))
            .collect()
    }

    /// The piece for a connection of their own of readers that wait far from where others are.
    pub(super) fn take_wanted(&self, partial: &Partial<MirrorError>) -> Option<Piece> {
        let mut state = self.state();
        // Upstream has just failed: a reader at that place would have it asked again at once, each time.
        if !state.started
            || state.budget.is_waiting()
            || !state.reliability.next_takes_ranges(&self.origins)
        {
            return None;
        }
        let total = state.total?;
        let have = partial.coverage();
        let wanted = partial.wanted().into_iter();
        let mut wanted = wanted.map(|range| range.start..range.end.min(total));
        wanted.find_map(|range| state.plan.take_at(range, &have, NEAR_BYTES))
    }

    /// A piece is not fetched any more: what is missing of it can be taken again.
    pub(super) fn done(&self, partial: &Partial<MirrorError>, piece: &Piece) {
        let have = partial.coverage();
        self.state().plan.done(piece, &have);
    }

    /// The origins to ask now, best first.
    pub(super) fn order(&self, needs_range: bool) -> Vec<Origin> {
        let mut state = self.state();
        if self.ends.promoted.is_cancelled() {
            let is_node = |it: &Origin| self.origins.kind(*it) == SourceKind::Node;
            state.reliability.others.retain(|it| !is_node(it));
        }
        state.reliability.order(&self.origins, needs_range)
    }

    /// True if any of what is there may be wrong.
    pub(super) fn in_doubt(&self) -> bool {
        self.state().reliability.only.is_some()
    }

    /// A fill goes on without readers, but only so many of them, and not when another upstream's was faster.
    pub(super) fn attend(&self, partial: &Partial<MirrorError>) -> Result<(), MirrorError> {
        if self.means.store.contains(&self.digest).is_some()
            && (self.means.fills).give_up(partial.key(), || partial.is_left_alone())
        {
            return Err(MirrorError::Busy("it is stored, and nobody waits for it"));
        }
        let mut state = self.state();
        if partial.readers() > 0 {
            state.unattended = None;
            return Ok(());
        }
        let busy = || MirrorError::Busy("too many downloads that nobody waits for");
        match &state.unattended {
            Some(slot) if slot.given_up().is_cancelled() => Err(busy()),
            Some(_) => Ok(()),
            None => {
                let behalf = OnBehalf::current();
                let work = behalf.work().cloned().unwrap_or_else(|| Work::of(&behalf));
                let upstream = &self.source.upstream;
                let shares = self.means.unattended(upstream);
                let slot = shares.take(upstream, behalf.client(), &work);
                state.unattended = Some(slot.map_err(|_| busy())?);
                Ok(())
            }
        }
    }

    /// Waits for upstream, unless the fill is over.
    pub(super) async fn unless_over<T>(
        &self,
        wait: impl Future<Output = T>,
    ) -> Result<T, MirrorError> {
        let over = self.state().over.clone();
        tokio::select! {
            biased;
            () = over.cancelled() => Err(MirrorError::ShuttingDown),
            () = self.ends.given_up.cancelled() => Err(MirrorError::Limited(Limit::Transfers)),
            done = wait => Ok(done),
        }
    }

    /// Ends all connections.
    pub(super) fn end(&self) {
        self.state().over.cancel();
    }

    /// Waits for that.
    pub(super) async fn ended(&self) {
        let over = self.state().over.clone();
        over.cancelled().await;
    }

    /// Waits before an attempt that is worth it only if it is not in the way of others.
    pub(super) async fn rest(&self) -> Result<(), MirrorError> {
        self.unless_over(tokio::time::sleep(self.upstream.retry_delay()))
            .await
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change is small and leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
