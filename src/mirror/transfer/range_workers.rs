//! Workers for readers that wait far from where the others are: those of a Range of a blob that is not there yet, as
//! lazily pulling clients ask for many of.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::job::{Failure, Job};
use super::plan::Piece;
use crate::mirror::MirrorError;
use crate::store::Partial;
use crate::upstream::FetchError;

/// Range workers of one fill at once. More readers than that at different places wait for each other.
const WORKERS_MAX: usize = 8;

/// Range workers that may fail one after the other before there are no more: the others fetch everything in the end.
const FAILURES_MAX: usize = 4;

/// Readers that wait are looked at again after so long, for what they wait for may have been dropped by
/// whoever was on the way to it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs range workers until `done`, and waits for the last one to end.
///
/// # Errors
/// Those for which the fill is to be given up.
pub(super) async fn range_workers(
    job: &Job<'_>,
    partial: &Partial<MirrorError>,
    pools: usize,
    done: &CancellationToken,
) -> Result<(), MirrorError> {
    let mut under_way: FuturesUnordered<BoxFuture<'_, (usize, Result<Step, MirrorError>)>> =
        FuturesUnordered::new();
    let mut free: Vec<usize> = (pools..pools + WORKERS_MAX).collect();
    let mut failures = 0;
    loop {
        if failures >= FAILURES_MAX {
            job.state().everything = true;
        }
        while failures < FAILURES_MAX
            && !done.is_cancelled()
            && let Some(pool) = free.pop()
        {
            let Some(piece) = job.take_wanted(partial) else {
                free.push(pool);
                break;
            };
            let work = async move { (pool, range_worker(job, partial, pool, piece).await) };
            under_way.push(Box::pin(work));
        }
        tokio::select! {
            biased;
            Some((pool, back)) = under_way.next() => {
                free.push(pool);
                match back? {
                    Step::Came => failures = 0,
                    Step::Left => {}
                    // Whoever fetches everything waits for its turn, and tries longer.
                    Step::Busy => job.state().everything = true,
                    Step::Failed => failures += 1,
                }
            }
            () = done.cancelled(), if under_way.is_empty() => return Ok(()),
            () = job.ended(), if under_way.is_empty() => return Ok(()),
            () = partial.want_changes() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The end of one worker.
enum Step {
    Came,
    /// Another source is asked now.
    Left,
    /// There was no connection for it.
    Busy,
    Failed,
}

async fn range_worker(
    job: &Job<'_>,
    partial: &Partial<MirrorError>,
    pool: usize,
    piece: Piece,
) -> Result<Step, MirrorError> {
    let reached = job.attempt(partial, pool, &piece, None).await;
    job.done(partial, &piece);
    let step = match reached {
        Ok(()) => return Ok(Step::Came),
        Err(Failure::Fatal(error)) => {
            job.end();
            return Err(error);
        }
        Err(Failure::Broken {
            error: FetchError::Busy,
            ..
        }) => Step::Busy,
        // The next source is asked at once.
        Err(Failure::Left) => return Ok(Step::Left),
        Err(Failure::NoRange) => Step::Failed,
        Err(Failure::Broken { error, bytes }) => {
            tracing::debug!(pool, %error, bytes, "a connection for a reader of a range broke");
            Step::Failed
        }
    };
    job.rest().await?;
    Ok(step)
}
