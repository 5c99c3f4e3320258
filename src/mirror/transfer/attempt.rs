//! One request of a fill: what is asked for, what its answer may be, and how it is written.

use std::ops::Range;

use tokio::sync::watch;

use super::body::{Batch, gather, part};
use super::doubt::Doubt;
use super::job::{Failure, Job};
use super::plan::Piece;
use super::trust::Trust;
use crate::mirror::MirrorError;
use crate::store::Partial;
use crate::telemetry::Kind;
use crate::upstream::{BlobAsk, BlobFetch, EndpointId, FetchError, OnBehalf};

/// A range that ends early, after fewer bytes than this, counts as broken.
const RANGE_BYTES_MIN: u64 = 64 * 1024;

/// Whether a piece is less than the whole.
fn needs_range(piece: &Range<u64>, total: Option<u64>) -> bool {
    piece.start > 0 || piece.end < total.unwrap_or(u64::MAX)
}

/// One request for a piece.
struct Attempt<'a, 'j> {
    job: &'a Job<'j>,
    partial: &'a Partial<MirrorError>,
    lane: usize,
    piece: &'a Piece,
}

impl Job<'_> {
    /// Asks for a piece and writes what comes.
    pub(super) async fn attempt(
        &self,
        partial: &Partial<MirrorError>,
        lane: usize,
        piece: &Piece,
        open: Option<&watch::Sender<bool>>,
    ) -> Result<(), Failure> {
        let attempt = Attempt {
            job: self,
            partial,
            lane,
            piece,
        };
        attempt.run(open).await
    }

    /// Tells the readers, once, that bytes will come.
    pub(super) async fn start(&self, partial: &Partial<MirrorError>) -> Result<(), MirrorError> {
        let total = {
            let mut state = self.state();
            if std::mem::replace(&mut state.started, true) {
                return Ok(());
            }
            state.total
        };
        // From here on its place is its own, also where nothing needed to be sent.
        if let Some(work) = OnBehalf::current().work() {
            work.needs_no_turn();
        }
        Ok(partial.start(total).await?)
    }
}

impl Attempt<'_, '_> {
    /// Asks for the piece and writes what comes.
    async fn run(&self, open: Option<&watch::Sender<bool>>) -> Result<(), Failure> {
        let total = self.job.state().total;
        let endpoints = self.job.order(needs_range(&self.piece.range, total));
        let Some(first) = endpoints.first().copied() else {
            let why = "no endpoint".to_owned();
            return Err(MirrorError::of_fetch(Kind::Blob, FetchError::Protocol(why)).into());
        };
        let plain = {
            let state = self.job.state();
            !state.givers.take_ranges(self.job.upstream, first)
        };
        if plain && self.lane > 0 {
            return Err(Failure::NoRange);
        }
        let ask = self.question(&endpoints, plain);
        let by_range = ask.start > 0 || ask.end.is_some();
        let mut fetched = match self.job.unless_over(self.job.upstream.blob(&ask)).await? {
            Ok(fetched) => fetched,
            Err(error) if by_range && self.only_the_range(&error) => {
                self.job.state().givers.plain.push(first);
                return Err(Failure::NoRange);
            }
            Err(error) => return self.refused(error).await,
        };
        self.check(&fetched)?;
        if by_range && !fetched.ranged {
            self.job.upstream.ignores_range(fetched.endpoint);
            if self.lane > 0 {
                return Err(Failure::NoRange);
            }
        }
        self.begin(&fetched).await?;
        if fetched.ranged
            && let Some(open) = open
        {
            open.send_replace(true);
        }
        let reached = self.pump(&mut fetched).await;
        if let Err(Failure::Broken { error, .. }) = &reached
            && !matches!(error, FetchError::Busy)
        {
            *self
                .job
                .state()
                .givers
                .failures
                .entry(fetched.endpoint)
                .or_default() += 1;
        }
        reached
    }

    /// The request for a piece: where ranges are of no use all of the blob is asked for.
    fn question<'a>(&'a self, endpoints: &'a [EndpointId], plain: bool) -> BlobAsk<'a> {
        let total = self.job.state().total.unwrap_or(u64::MAX);
        let whole = BlobAsk {
            endpoints,
            lane: self.lane,
            extra: self.lane > 0,
            ..BlobAsk::whole(&self.job.source.repository, &self.job.digest)
        };
        if plain {
            return whole;
        }
        BlobAsk {
            start: self.piece.range.start,
            end: Some(self.piece.range.end).filter(|end| *end < total),
            ..whole
        }
    }

    /// Whether an error in answer to a range may be due to that: the whole may be had all the same.
    fn only_the_range(&self, error: &FetchError) -> bool {
        let (known, started) = {
            let state = self.job.state();
            (state.total.is_some(), state.started)
        };
        let unwanted = matches!(
            error,
            FetchError::Protocol(_)
                | FetchError::Denied
                | FetchError::Status(400 | 405 | 416 | 501)
        );
        // Of the whole the endpoint says how long it is.
        unwanted
            || known && matches!(error, FetchError::RangeNotSatisfiable)
            || !started && matches!(error, FetchError::Status(500..))
    }

    /// What a request that was not answered with bytes means for the fill.
    async fn refused(&self, error: FetchError) -> Result<(), Failure> {
        let (started, total) = {
            let state = self.job.state();
            (state.started, state.total)
        };
        if matches!(error, FetchError::RangeNotSatisfiable)
            && self.piece.range.start > 0
            && total.is_none()
        {
            if started {
                // The connection broke exactly at the end, which nobody had announced.
                return Ok(());
            }
            // An earlier run had it all, or too much. Nobody reads yet, so it can be begun again.
            self.partial.restart().await.map_err(MirrorError::from)?;
            self.job.state().givers.trust = Trust::default();
            let all = Piece::unplanned(0..u64::MAX);
            return Box::pin(self.job.attempt(self.partial, 0, &all, None)).await;
        }
        if started {
            Err(Failure::Broken { error, bytes: 0 })
        } else {
            // The question itself was repeated as often as makes sense.
            Err(MirrorError::of_fetch(Kind::Blob, error).into())
        }
    }

    /// Whether an answer can be a part of what is there.
    fn check(&self, fetched: &BlobFetch) -> Result<(), Failure> {
        let expected = self.job.state().total;
        if let (Some(expected), Some(total)) = (expected, fetched.total)
            && expected != total
        {
            let before = self.job.state().givers.announced_by;
            let Some(before) = before.filter(|before| *before != fetched.endpoint) else {
                let why = format!("upstream announces {total} bytes, {expected} are expected");
                return Err(Doubt(self.job).other_size(fetched.endpoint, why));
            };
            // No manifest says who is right. If the digest has, the other one is not believed any more.
            let (digest, host) = (self.job.digest, self.job.upstream.endpoint_host(before));
            let why = format!("{total} bytes are announced, and {expected} were by {host}");
            return Err(MirrorError::WrongContent { digest, why }.into());
        }
        let mut state = self.job.state();
        if let Some((tag, host)) = &fetched.validator {
            let key = (fetched.endpoint, host.clone());
            let before = state.givers.validators.insert(key, tag.clone());
            if fetched.ranged && before.is_some_and(|before| before != *tag) {
                self.job.upstream.ignores_range(fetched.endpoint);
                return Err(Failure::NoRange);
            }
        }
        Ok(())
    }

    /// Tells the readers, once, that bytes will come.
    async fn begin(&self, fetched: &BlobFetch) -> Result<(), MirrorError> {
        {
            let mut state = self.job.state();
            if state.total.is_none() && fetched.total.is_some() {
                state.total = fetched.total;
                state.givers.announced_by = Some(fetched.endpoint);
            }
        }
        self.job.start(self.partial).await
    }

    /// Writes what comes, up to the end of the piece.
    async fn pump(&self, fetched: &mut BlobFetch) -> Result<(), Failure> {
        let total = self.job.state().total;
        let mut position = fetched.offset;
        let mut came = 0;
        let broken = |error, bytes| Err(Failure::Broken { error, bytes });
        let mut stop = self.stop(fetched, position);
        // Who sends everything is listened to until the end.
        while position < stop || (!fetched.ranged && total == Some(stop)) {
            let batch = match self.job.unless_over(gather(&mut fetched.body)).await? {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(error) => return broken(error, came),
            };
            stop = self.stop(fetched, position);
            if position + batch.bytes > stop && !fetched.ranged && total == Some(stop) {
                let why = format!("more than {stop} bytes came");
                return Err(Doubt(self.job).other_size(fetched.endpoint, why));
            }
            let before = position;
            position = (position + batch.bytes).min(stop).max(before);
            let ended = self.write(before..position, batch, fetched).await?;
            came += position - before;
            if let Some(error) = ended {
                return broken(error, came);
            }
            self.job.attend(self.partial)?;
            stop = self.stop(fetched, position);
        }
        if position < stop && total.is_some() && (came < RANGE_BYTES_MIN || !fetched.ranged) {
            let why = format!("ended at byte {position} of {stop}");
            let end = (fetched.endpoint, position);
            let unannounced = !fetched.ranged && fetched.total.is_none();
            if unannounced && self.job.state().givers.short_end.replace(end) == Some(end) {
                // Not a connection that broke: the same end, twice.
                return Err(Doubt(self.job).other_size(fetched.endpoint, why));
            }
            return broken(FetchError::Broken(why), came);
        }
        // Some servers give less than the range asked for: the rest is asked for again.
        Ok(())
    }

    /// Where a body that has come to `position` is of no more use.
    fn stop(&self, fetched: &BlobFetch, position: u64) -> u64 {
        let mut state = self.job.state();
        let total = state.total.unwrap_or(u64::MAX);
        let end = state.plan.advance(self.piece, position).min(total);
        if !fetched.ranged && needs_range(&self.piece.range, state.total) {
            // It was to be a part, and is everything.
            return total;
        }
        end
    }

    /// Writes what is missing of a batch.
    async fn write(
        &self,
        range: Range<u64>,
        batch: Batch,
        fetched: &BlobFetch,
    ) -> Result<Option<FetchError>, MirrorError> {
        let have = self.partial.coverage();
        let mut at = range.start;
        while let Some(gap) = have.next_gap(at, range.end) {
            at = gap.end;
            let from = gap.start - range.start;
            let chunks = part(&batch.chunks, from..gap.end - range.start);
            // Another connection may have brought some of it meanwhile: that is not this endpoint's.
            let written = self.partial.write(gap.start, chunks).await?;
            let mut state = self.job.state();
            for range in written {
                state.budget.progress(range.end - range.start);
                state
                    .givers
                    .trust
                    .note(fetched.endpoint, range, fetched.ranged);
            }
        }
        Ok(batch.ended)
    }
}
