//! One round: so many pulls at once, and the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::failure::{Cause, Failure, Stage, Tally};
use super::figures::{Spread, float, ratio};
use super::pull::{self, Plan, Pulled};
use super::report::Round;
use super::screen::Bar;
use super::{Target, machine};
use crate::telemetry::Metrics;
use crate::upstream::Puller;

/// Pulls `pulls` times at once from the target.
///
/// # Errors
/// One line: the clients cannot be made.
pub(super) async fn run(
    plan: &Arc<Plan>,
    target: &Target,
    pulls: usize,
    bar: &Bar,
) -> Result<Round, String> {
    let metrics = Metrics::new(std::iter::empty());
    // Made before the clock starts: reading certificates is no part of a pull.
    let clients: Result<Vec<Puller>, String> = (0..pulls)
        .map(|_| target.puller.another(metrics.clone()))
        .collect();
    let clients = clients?;
    let total = Arc::new(AtomicU64::new(0));
    let (begin, cpu) = (Instant::now(), machine::cpu_time());
    let mut under_way = JoinSet::new();
    for client in clients {
        under_way.spawn(pull::run(
            client,
            Arc::clone(plan),
            begin,
            Arc::clone(&total),
        ));
    }
    let mut done = Vec::with_capacity(pulls);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            pulled = under_way.join_next() => match pulled {
                None => break,
                Some(pulled) => done.push(pulled.unwrap_or_else(|error| panicked(&error))),
            },
            _ = tick.tick() => bar.show(done.len(), total.load(Ordering::Relaxed)),
        }
    }
    let wall = begin.elapsed();
    let cpu = machine::cpu_time().saturating_sub(cpu);
    Ok(tell(done, wall, cpu, metrics.so_far().requests_sent()))
}

/// A pull that gave no account of itself.
fn panicked(error: &tokio::task::JoinError) -> Pulled {
    Pulled {
        took: Duration::ZERO,
        first_byte: None,
        bytes: 0,
        failure: Some(Failure {
            stage: Stage::Pull,
            cause: Cause::Client,
            detail: error.to_string(),
        }),
    }
}

/// The figures of a round. Times are those of pulls that came to their end: one that fails at once is not fast.
fn tell(pulls: Vec<Pulled>, wall: Duration, cpu: Duration, requests: u64) -> Round {
    let wall_seconds = wall.as_secs_f64();
    let bytes = pulls.iter().map(|pull| pull.bytes).sum();
    let mut round = Round {
        wall_seconds,
        pulls: pulls.len() as u64,
        failed: 0,
        bytes,
        requests,
        bytes_per_second: ratio(Some(float(bytes)), Some(wall_seconds)).unwrap_or_default(),
        pull_seconds: None,
        first_byte_seconds: None,
        client_cpu_seconds: cpu.as_secs_f64(),
        errors: Vec::new(),
        samples: Vec::new(),
        first_bytes: Vec::new(),
    };
    let mut tally = Tally::default();
    for pull in pulls {
        if let Some(failure) = pull.failure {
            round.failed += 1;
            tally.add(failure);
            continue;
        }
        round.samples.push(pull.took.as_secs_f64());
        let first_byte = pull.first_byte.map(|it| it.as_secs_f64());
        round.first_bytes.extend(first_byte);
    }
    round.pull_seconds = Spread::of(round.samples.clone());
    round.first_byte_seconds = Spread::of(round.first_bytes.clone());
    round.errors = tally.groups();
    round
}

/// Often enough for a bar that moves, and nothing beside a pull.
const TICK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pulls_that_came_to_their_end_have_a_time() {
        let pull = |seconds, failure| Pulled {
            took: Duration::from_secs(seconds),
            first_byte: Some(Duration::from_millis(seconds * 100)),
            bytes: 500,
            failure,
        };
        let cut = Failure {
            stage: Stage::Blob,
            cause: Cause::Cut,
            detail: "sha256:1".to_owned(),
        };
        let pulls = vec![pull(2, None), pull(4, None), pull(0, Some(cut))];
        let round = tell(pulls, Duration::from_secs(5), Duration::from_secs(1), 12);
        assert_eq!((round.pulls, round.failed, round.requests), (3, 1, 12));
        assert_eq!(
            round.bytes, 1500,
            "bytes of a failed pull went over the line"
        );
        assert!((round.bytes_per_second - 300.0).abs() < 1e-9);
        assert_eq!(round.samples, [2.0, 4.0]);
        assert_eq!(round.pull_seconds.map(|it| it.max), Some(4.0));
        assert_eq!(round.first_byte_seconds.map(|it| it.median), Some(0.2));
        assert_eq!(round.errors.len(), 1);
    }
}
