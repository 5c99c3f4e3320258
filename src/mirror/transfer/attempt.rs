//! One request of a fill: what is asked for, what its answer may be, and how it is written.

use std::ops::Range;

use tokio::sync::watch;

use super::body::{Batch, gather, part};
use super::fallback::Fallback;
use super::job::{Failure, Job};
use super::origin::{BlobRead, Origin, ReadRange, SourceKind};
use super::plan::Piece;
use super::provenance::Provenance;
use super::sources::Sources;
use crate::mirror::MirrorError;
use crate::mirror::offers::PARTS_MAX;
use crate::store::Partial;
use crate::telemetry::Kind;
use crate::upstream::{FetchError, OnBehalf};

/// A range that ends early, after fewer bytes than this, counts as broken.
const RANGE_BYTES_MIN: u64 = 64 * 1024;

/// True if a piece is less than the whole.
fn needs_range(piece: &Range<u64>, total: Option<u64>) -> bool {
    piece.start > 0 || piece.end < total.unwrap_or(u64::MAX)
}

/// One request for a piece.
struct Attempt<'a, 'j> {
    job: &'a Job<'j>,
    partial: &'a Partial<MirrorError>,
    pool: usize,
    piece: &'a Piece,
}

impl Job<'_> {
    /// Asks for a piece and writes what comes.
    pub(super) async fn attempt(
        &self,
        partial: &Partial<MirrorError>,
        pool: usize,
        piece: &Piece,
        open: Option<&watch::Sender<bool>>,
    ) -> Result<(), Failure> {
        let attempt = Attempt {
            job: self,
            partial,
            pool,
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
        let sources = Sources(self.job);
        let order = sources.order_at(self.partial.key(), &self.piece.range, total);
        let Some(first) = order.first().copied() else {
            let why = "no endpoint".to_owned();
            return Err(MirrorError::of_fetch(Kind::Blob, FetchError::Protocol(why)).into());
        };
        let reached = self.ask(&order, first, open).await;
        if first.has_authority() {
            return reached;
        }
        match reached {
            Err(Failure::Broken { error, bytes }) => {
                let origins = &self.job.origins;
                if matches!(error, FetchError::Timeout(_)) {
                    origins.stalled(first);
                }
                if origins.kind(first) == SourceKind::Holder {
                    tracing::debug!(digest = %self.job.digest, source = %origins.name(first), %error, bytes, "a node does not have what it seemed to have");
                } else {
                    tracing::info!(
                        digest = %self.job.digest, source = %origins.name(first), %error, bytes,
                        "a source of blobs failed; going on with the next"
                    );
                }
                self.job.state().reliability.leave(first);
                Err(Failure::Left)
            }
            Err(Failure::NoRange) => {
                self.job.state().reliability.leave(first);
                Err(Failure::Left)
            }
            reached => reached,
        }
    }

    /// Asks these origins, and writes what comes.
    async fn ask(
        &self,
        order: &[Origin],
        first: Origin,
        open: Option<&watch::Sender<bool>>,
    ) -> Result<(), Failure> {
        let origins = &self.job.origins;
        let plain = {
            let state = self.job.state();
            !state.reliability.takes_ranges(origins, first)
        };
        if plain && self.pool > 0 {
            return Err(Failure::NoRange);
        }
        let have = self.have(first);
        let range = ReadRange {
            have: &have,
            ..self.range(plain)
        };
        let by_range = range.start > 0 || range.end.is_some();
        let origins = origins.given(self.job.state().given);
        let read = origins.read(order, range);
        let asked = Sources(self.job).unless_promoted(first, read).await?;
        let (origin, mut read) = match asked {
            Ok(read) => read,
            Err(error) if !first.has_authority() => {
                return Err(Failure::Broken { error, bytes: 0 });
            }
            Err(error) if by_range && self.only_the_range(&error) => {
                self.job.state().reliability.plain.push(first);
                return Err(Failure::NoRange);
            }
            Err(error) => return self.refused(error).await,
        };
        self.check(origin, &read)?;
        if by_range && !read.ranged {
            origins.ignores_range(origin);
            if self.pool > 0 {
                return Err(Failure::NoRange);
            }
        }
        self.begin(origin, read.total).await?;
        if read.ranged
            && let Some(open) = open
        {
            open.send_replace(true);
        }
        let reached = self.pump(origin, &mut read).await;
        if let Err(Failure::Broken { error, .. }) = &reached
            && !matches!(error, FetchError::Busy)
        {
            let mut state = self.job.state();
            *state.reliability.failures.entry(origin).or_default() += 1;
        }
        reached
    }

    /// The parts that another node is told are here, in case it does not have them.
    fn have(&self, origin: Origin) -> Vec<Range<u64>> {
        if self.job.origins.kind(origin) != SourceKind::Node {
            return Vec::new();
        }
        self.partial.coverage().ranges().take(PARTS_MAX).collect()
    }

    /// The part to ask for: where ranges are of no use, all of the blob.
    fn range(&self, plain: bool) -> ReadRange<'static> {
        let (total, started) = {
            let state = self.job.state();
            (state.total.unwrap_or(u64::MAX), state.started)
        };
        let (start, end) = if plain {
            (0, None)
        } else {
            let Range { start, end } = self.piece.range;
            (start, Some(end).filter(|end| *end < total))
        };
        ReadRange {
            start,
            end,
            endpoints: &[],
            if_stored: false,
            have: &[],
            pool: self.pool,
            extra: self.pool > 0,
            is_resumed: started,
        }
    }

    /// True if an error in answer to a range may be due to that: the whole may be had all the same.
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

    /// The meaning for the fill of a request that was not answered with bytes.
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
            self.job.state().reliability.provenance = Provenance::default();
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

    /// Checks that an answer can be a part of what is there.
    fn check(&self, origin: Origin, read: &BlobRead) -> Result<(), Failure> {
        let expected = self.job.state().total;
        if let (Some(expected), Some(total)) = (expected, read.total)
            && expected != total
        {
            let why = format!("upstream announces {total} bytes, {expected} are expected");
            if origin.has_authority() && self.job.state().said_by_node {
                if Sources(self.job).node_was_wrong(total) {
                    return Ok(());
                }
                let digest = self.job.digest;
                return Err(MirrorError::WrongContent { digest, why }.into());
            }
            let before = self.job.state().reliability.announced_by;
            let Some(before) = before.filter(|before| *before != origin) else {
                return Err(Fallback(self.job).wrong_size(origin, why));
            };
            if !origin.has_authority() {
                return Err(Fallback(self.job).wrong_size(origin, why));
            }
            // No manifest says which one is right. If the digest has, the other one is ruled out.
            let (digest, host) = (self.job.digest, self.job.origins.name(before));
            let why = format!("{total} bytes are announced, and {expected} were by {host}");
            return Err(MirrorError::WrongContent { digest, why }.into());
        }
        let mut state = self.job.state();
        if let Some((tag, host)) = &read.validator {
            let key = (origin, host.clone());
            let before = state.reliability.validators.insert(key, tag.clone());
            if read.ranged && before.is_some_and(|before| before != *tag) {
                self.job.origins.ignores_range(origin);
                return Err(Failure::NoRange);
            }
        }
        Ok(())
    }

    /// Tells the readers, once, that bytes will come.
    async fn begin(&self, origin: Origin, total: Option<u64>) -> Result<(), MirrorError> {
        {
            let mut state = self.job.state();
            if state.total.is_none() && total.is_some() {
                state.total = total;
                state.reliability.announced_by = Some(origin);
            }
            match self.job.origins.kind(origin) {
                SourceKind::Node | SourceKind::Upstream => state.given = state.total,
                SourceKind::Holder | SourceKind::Tier => {}
            }
        }
        self.job.ends.fed_by.note(self.job.origins.kind(origin));
        self.job.start(self.partial).await
    }

    /// Writes what comes, up to the end of the piece.
    async fn pump(&self, origin: Origin, read: &mut BlobRead) -> Result<(), Failure> {
        let total = self.job.state().total;
        let mut position = read.offset;
        let mut came = 0;
        let broken = |error, bytes| Err(Failure::Broken { error, bytes });
        let mut stop = self.stop(read, position);
        // One that sends everything is read until the end.
        while position < stop || (!read.ranged && total == Some(stop)) {
            let gathered = gather(&mut read.body);
            let batch = match Sources(self.job).unless_promoted(origin, gathered).await? {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(error) => return broken(error, came),
            };
            stop = self.stop(read, position);
            if position + batch.bytes > stop && !read.ranged && total == Some(stop) {
                let why = format!("more than {stop} bytes came");
                return Err(Fallback(self.job).wrong_size(origin, why));
            }
            let before = position;
            position = (position + batch.bytes).min(stop).max(before);
            let ended = self
                .write(before..position, batch, origin, read.ranged)
                .await?;
            came += position - before;
            if let Some(error) = ended {
                return broken(error, came);
            }
            self.job.attend(self.partial)?;
            stop = self.stop(read, position);
        }
        if position < stop && total.is_some() && (came < RANGE_BYTES_MIN || !read.ranged) {
            let why = format!("ended at byte {position} of {stop}");
            let end = (origin, position);
            let unannounced = !read.ranged && read.total.is_none();
            if unannounced && self.job.state().reliability.short_end.replace(end) == Some(end) {
                // Not a connection that broke: the same end, twice.
                return Err(Fallback(self.job).wrong_size(origin, why));
            }
            return broken(FetchError::Broken(why), came);
        }
        // Some servers give less than the range asked for: the rest is asked for again.
        Ok(())
    }

    /// Offset at which a body that has come to `position` is of no more use.
    fn stop(&self, read: &BlobRead, position: u64) -> u64 {
        let mut state = self.job.state();
        let total = state.total.unwrap_or(u64::MAX);
        let end = state.plan.advance(self.piece, position).min(total);
        if !read.ranged && needs_range(&self.piece.range, state.total) {
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
        origin: Origin,
        ranged: bool,
    ) -> Result<Option<FetchError>, MirrorError> {
        let have = self.partial.coverage();
        let mut at = range.start;
        while let Some(gap) = have.next_gap(at, range.end) {
            at = gap.end;
            let from = gap.start - range.start;
            let chunks = part(&batch.chunks, from..gap.end - range.start);
            // Another connection may have brought some of it meanwhile: that is not this origin's.
            let written = self.partial.write(gap.start, chunks).await?;
            let mut state = self.job.state();
            for range in written {
                Sources(self.job).count(origin, range.end - range.start);
                state.budget.progress(range.end - range.start);
                state.reliability.provenance.note(origin, range, ranged);
            }
        }
        Ok(batch.ended)
    }
}
