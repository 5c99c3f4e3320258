//! One request of a fill: what is asked for, what its answer may be, and how it is written.

use std::ops::Range;

use tokio::sync::watch;

use super::body::{Batch, gather, part};
use super::job::{Failure, Job};
use super::trust::Trust;
use crate::mirror::MirrorError;
use crate::store::Partial;
use crate::telemetry::Kind;
use crate::upstream::{BlobAsk, BlobFetch, EndpointId, FetchError};

/// A range that ends early, after fewer bytes than this, counts as broken.
const RANGE_BYTES_MIN: u64 = 64 * 1024;

/// Whether a piece is less than the whole.
fn needs_range(piece: &Range<u64>, total: Option<u64>) -> bool {
    piece.start > 0 || piece.end < total.unwrap_or(u64::MAX)
}

impl Job<'_> {
    /// Asks for a piece and writes what comes.
    pub(super) async fn attempt(
        &self,
        partial: &Partial<MirrorError>,
        lane: usize,
        piece: &Range<u64>,
        open: Option<&watch::Sender<bool>>,
    ) -> Result<(), Failure> {
        let asked = self.unless_over(self.ask(lane, piece)).await?;
        let Some((answer, by_range)) = asked else {
            return Err(Failure::NoRange);
        };
        let mut fetched = match answer {
            Ok(fetched) => fetched,
            // A range that nobody can make sense of: without Range it may be better.
            Err(FetchError::Protocol(_)) if by_range => return Err(Failure::NoRange),
            // Nor does the endpoint have one that there should be: of the whole it says how long it is.
            Err(FetchError::RangeNotSatisfiable) if by_range && self.state().total.is_some() => {
                return Err(Failure::NoRange);
            }
            Err(error) => return self.refused(partial, piece, error).await,
        };
        self.check(&fetched)?;
        if !fetched.ranged && lane > 0 {
            self.upstream.ignores_range(fetched.endpoint);
            return Err(Failure::NoRange);
        }
        let total = fetched.total;
        self.begin(partial, total).await?;
        if fetched.ranged {
            if let Some(open) = open {
                open.send_replace(true);
            }
        } else if by_range {
            self.upstream.ignores_range(fetched.endpoint);
        }
        if !fetched.ranged && needs_range(piece, self.state().total) {
            // It comes from the start, so it might as well come to the end.
            self.state().plain = true;
        }
        let reached = self.pump(partial, piece, &mut fetched).await;
        if let Err(Failure::Broken { .. }) = &reached {
            *self.state().failures.entry(fetched.endpoint).or_default() += 1;
        }
        reached
    }

    /// The request for a piece, and whether it was one for a range: where ranges are of no use all of
    /// the blob is asked for. `None`: that is not for this connection to do.
    async fn ask(
        &self,
        lane: usize,
        piece: &Range<u64>,
    ) -> Option<(Result<BlobFetch, FetchError>, bool)> {
        let total = self.state().total;
        let endpoints = self.order(needs_range(piece, total));
        let plain = self.state().plain
            || endpoints
                .first()
                .is_some_and(|endpoint| !self.upstream.honours_range(*endpoint));
        if plain && lane > 0 {
            return None;
        }
        let whole = BlobAsk {
            endpoints: &endpoints,
            lane,
            extra: lane > 0,
            ..BlobAsk::whole(&self.source.repository, &self.digest)
        };
        let ask = if plain {
            whole
        } else {
            BlobAsk {
                start: piece.start,
                end: Some(piece.end).filter(|end| *end < total.unwrap_or(u64::MAX)),
                ..whole
            }
        };
        let by_range = ask.start > 0 || ask.end.is_some();
        Some((self.upstream.blob(&ask).await, by_range))
    }

    /// What a request that was not answered with bytes means for the fill.
    async fn refused(
        &self,
        partial: &Partial<MirrorError>,
        piece: &Range<u64>,
        error: FetchError,
    ) -> Result<(), Failure> {
        let (started, total) = {
            let state = self.state();
            (state.started, state.total)
        };
        if matches!(error, FetchError::RangeNotSatisfiable) && piece.start > 0 && total.is_none() {
            if started {
                // The connection broke exactly at the end, which nobody had announced.
                return Ok(());
            }
            // An earlier run had it all, or too much. Nobody reads yet, so it can be begun again.
            partial.restart().await.map_err(MirrorError::from)?;
            self.state().trust = Trust::default();
            return Box::pin(self.attempt(partial, 0, &(0..u64::MAX), None)).await;
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
        let expected = self.state().total;
        if let (Some(expected), Some(total)) = (expected, fetched.total)
            && expected != total
        {
            let why = format!("upstream announces {total} bytes, the manifest says {expected}");
            return Err(self.other_size(fetched.endpoint, why));
        }
        let mut state = self.state();
        if let Some((tag, host)) = &fetched.validator {
            let key = (fetched.endpoint, host.clone());
            let before = state.validators.insert(key, tag.clone());
            if fetched.ranged && before.is_some_and(|before| before != *tag) {
                self.upstream.ignores_range(fetched.endpoint);
                return Err(Failure::NoRange);
            }
        }
        Ok(())
    }

    /// An endpoint has something of another size: is there one that has what is wanted?
    fn other_size(&self, endpoint: EndpointId, why: String) -> Failure {
        let digest = self.digest;
        self.upstream.distrust(endpoint, &digest);
        let others = self.upstream.endpoints_for(&digest);
        if self.state().only.is_some() || others.contains(&endpoint) {
            return MirrorError::WrongContent { digest, why }.into();
        }
        let host = self.upstream.endpoint_host(endpoint);
        tracing::warn!(upstream = %self.source.upstream, endpoint = host, %digest, %why, "asking another endpoint");
        Failure::Broken {
            error: FetchError::Protocol(why),
            bytes: 0,
        }
    }

    /// Tells the readers, once, that bytes will come.
    pub(super) async fn begin(
        &self,
        partial: &Partial<MirrorError>,
        total: Option<u64>,
    ) -> Result<(), MirrorError> {
        let total = {
            let mut state = self.state();
            state.total = state.total.or(total);
            if std::mem::replace(&mut state.started, true) {
                return Ok(());
            }
            state.total
        };
        Ok(partial.start(total).await?)
    }

    /// Writes what comes, up to the end of the piece.
    async fn pump(
        &self,
        partial: &Partial<MirrorError>,
        piece: &Range<u64>,
        fetched: &mut BlobFetch,
    ) -> Result<(), Failure> {
        let total = self.state().total;
        // Who sends everything is listened to until the end.
        let stop = if fetched.ranged {
            piece.end.min(total.unwrap_or(u64::MAX))
        } else {
            total.unwrap_or(u64::MAX)
        };
        let mut position = fetched.offset;
        let mut came = 0;
        let broken = |error, bytes| Err(Failure::Broken { error, bytes });
        while position < stop || (!fetched.ranged && total.is_some()) {
            let batch = match self.unless_over(gather(&mut fetched.body)).await? {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(error) => return broken(error, came),
            };
            if position + batch.bytes > stop && !fetched.ranged {
                self.upstream.distrust(fetched.endpoint, &self.digest);
                let (digest, why) = (self.digest, format!("more than {stop} bytes came"));
                return Err(MirrorError::WrongContent { digest, why }.into());
            }
            let before = position;
            position = (position + batch.bytes).min(stop);
            let ended = self
                .write(partial, before..position, batch, fetched)
                .await?;
            came += position - before;
            if let Some(error) = ended {
                return broken(error, came);
            }
            self.attend(partial)?;
        }
        if position < stop && total.is_some() && (came < RANGE_BYTES_MIN || !fetched.ranged) {
            let why = format!("ended at byte {position} of {stop}");
            let end = (fetched.endpoint, position);
            let unannounced = !fetched.ranged && fetched.total.is_none();
            if unannounced && self.state().short_end.replace(end) == Some(end) {
                // Not a connection that broke: the same end, twice.
                return Err(self.other_size(fetched.endpoint, why));
            }
            return broken(FetchError::Broken(why), came);
        }
        if position < stop && fetched.ranged && total.is_some() {
            // Some servers give less than the range asked for: the rest is asked for again.
            self.state().plan.give_back(position..stop);
        }
        Ok(())
    }

    /// Writes what is missing of a batch.
    async fn write(
        &self,
        partial: &Partial<MirrorError>,
        range: Range<u64>,
        batch: Batch,
        fetched: &BlobFetch,
    ) -> Result<Option<FetchError>, MirrorError> {
        let have = partial.coverage();
        let mut at = range.start;
        while let Some(gap) = have.next_gap(at, range.end) {
            at = gap.end;
            let from = gap.start - range.start;
            let chunks = part(&batch.chunks, from..gap.end - range.start);
            partial.write(gap.start, chunks).await?;
            let mut state = self.state();
            state
                .trust
                .note(fetched.endpoint, gap.clone(), fetched.ranged);
            state.budget.progress(gap.end - gap.start);
        }
        Ok(batch.ended)
    }
}
