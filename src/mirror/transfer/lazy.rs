//! Fills of which only parts are read, as by clients that pull lazily: whether the rest is fetched too,
//! and when such a fill is suspended.

use std::ops::Range;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{Failure, Job};
use super::plan::{Pieces, Plan};
use super::range_workers::range_workers;
use super::wish::FillOnRange;
use crate::mirror::MirrorError;
use crate::store::Partial;

/// A fill that nobody reads, and of which only parts were wanted, is kept open for so long: whoever reads
/// here and there comes again soon, and each new beginning hashes what is there once more.
const LINGER: Duration = Duration::from_secs(5);

/// Time between two looks at whether it is time for something else.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The end of the fetching of parts.
pub(super) enum Parts {
    /// Now all that is missing is to be fetched, or nothing is missing.
    Everything,
    /// Nobody reads any more, and nobody can find the fill.
    Suspended,
}

impl Job<'_> {
    /// True if all of the blob is to be fetched, and not only what is read.
    pub(super) fn everything(&self, partial: &Partial<MirrorError>, total: u64) -> bool {
        let chosen = self.state().everything;
        // Nobody can be sure of a part of an endpoint's bytes, or have it at all.
        let must =
            chosen || self.in_doubt() || !self.state().reliability.next_takes_ranges(&self.origins);
        must || partial.whole_is_wanted()
            || match self.fill_on_range {
                FillOnRange::Always => true,
                FillOnRange::Never => false,
                FillOnRange::Over(percent) => {
                    let there = u128::from(partial.coverage().bytes()) * 100;
                    there > u128::from(total) * u128::from(percent)
                }
            }
    }
}

/// The fetching of what is read.
pub(super) struct Reading<'a, 'j> {
    pub(super) job: &'a Job<'j>,
    pub(super) partial: &'a Partial<MirrorError>,
    pub(super) total: u64,
}

impl Reading<'_, '_> {
    /// Fetches what is read, and nothing else, as long as that is right.
    ///
    /// # Errors
    /// Those for which the fill is to be given up.
    pub(super) async fn run(&self) -> Result<Parts, MirrorError> {
        self.job.state().plan = Plan::new(&self.partial.coverage(), self.total, Pieces::WHOLE);
        if !self.job.state().started {
            self.first_part().await?;
        }
        let done = CancellationToken::new();
        let watched = async {
            let outcome = self.watch().await;
            done.cancel();
            outcome
        };
        let for_ranges = range_workers(self.job, self.partial, 1, &done);
        let (outcome, ranges_ended) = join(watched, for_ranges).await;
        ranges_ended?;
        outcome
    }

    /// The part for which the fill was begun: its readers wait to hear that there is anything.
    async fn first_part(&self) -> Result<(), MirrorError> {
        while !self.job.state().started && !self.job.everything(self.partial, self.total) {
            let piece = {
                let have = self.partial.coverage();
                let mut state = self.job.state();
                let first = state.first.clone().unwrap_or(0..self.total);
                state.plan.take_at(clipped(first, self.total), &have, 0)
            };
            // It is there, of an earlier run: then there is nothing to ask.
            let Some(piece) = piece else {
                return self.job.start(self.partial).await;
            };
            let reached = self.job.attempt(self.partial, 0, &piece, None).await;
            self.job.done(self.partial, &piece);
            match reached {
                Ok(()) | Err(Failure::Left) => {}
                Err(Failure::NoRange) => self.job.state().everything = true,
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Broken { error, .. }) => self.job.pause(self.partial, error).await?,
            }
        }
        Ok(())
    }

    /// Waits until everything is to be fetched, all is there, or nobody has read for a while.
    async fn watch(&self) -> Result<Parts, MirrorError> {
        let mut read_at = Instant::now();
        loop {
            let whole = self.partial.coverage().next_gap(0, self.total).is_none();
            if whole || self.job.everything(self.partial, self.total) {
                return Ok(Parts::Everything);
            }
            if self.partial.readers() > 0 {
                read_at = Instant::now();
            } else if read_at.elapsed() >= LINGER
                && (self.job.means.fills)
                    .give_up(self.partial.key(), || self.partial.is_left_alone())
            {
                return Ok(Parts::Suspended);
            }
            self.job.unless_over(tokio::time::sleep(LOOK_EVERY)).await?;
        }
    }
}

fn clipped(range: Range<u64>, total: u64) -> Range<u64> {
    range.start.min(total.saturating_sub(1))..range.end.min(total)
}
