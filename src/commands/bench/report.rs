//! The result: the figures of each registry, and of two side by side. The JSON output is this.

use serde::Serialize;

use super::failure::{Group, merge};
use super::figures::{Range, Spread, float, ratio};
use super::{Job, machine};
use crate::commands::warm::Wanted;

/// All that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The image's name in full.
    pub image: String,
    /// The platform whose image was pulled, should it have several.
    pub platform: String,
    /// Pulls at once.
    pub pulls: usize,
    /// Blobs at once in each pull.
    pub parallel: usize,
    /// Rounds that were counted.
    pub rounds: usize,
    /// Rounds before, which were not.
    pub warmup: usize,
    /// CPUs that the client could use.
    pub client_cpus: usize,
    /// The registries, in the order in which they were named.
    pub targets: Vec<Measured>,
    /// The second registry's figures divided by those of the first, where there are two.
    pub ratios: Option<Ratios>,
}

/// The figures of one registry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Its URL.
    pub url: String,
    /// True if its address is this machine's own, so that the client and the registry shared the CPUs.
    pub shares_the_machine: bool,
    /// Pulls of all rounds.
    pub pulls: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Bytes of manifests and blobs that came, of all rounds.
    pub bytes: u64,
    /// Requests of all rounds, those for tokens and along redirects included.
    pub requests: u64,
    /// From the begin of a round to the end of its last pull.
    pub wall_seconds: Option<Range>,
    /// Bytes of a round by its wall time.
    pub bytes_per_second: Option<Range>,
    /// From the begin of a round to the end of a pull, of those of all rounds that did not fail.
    pub pull_seconds: Option<Spread>,
    /// From the begin of a round to a pull's first byte of a blob.
    pub first_byte_seconds: Option<Spread>,
    /// CPU time of the client in all rounds.
    pub client_cpu_seconds: f64,
    /// The failures of pulls.
    pub errors: Vec<Group>,
    /// Each round.
    pub each_round: Vec<Round>,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// From its begin to the end of its last pull.
    pub wall_seconds: f64,
    /// Pulls.
    pub pulls: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Bytes of manifests and blobs that came.
    pub bytes: u64,
    /// Requests, those for tokens and along redirects included.
    pub requests: u64,
    /// Bytes by wall time.
    pub bytes_per_second: f64,
    /// From its begin to the end of a pull, of those that did not fail.
    pub pull_seconds: Option<Spread>,
    /// From its begin to a pull's first byte of a blob.
    pub first_byte_seconds: Option<Spread>,
    /// CPU time of the client.
    pub client_cpu_seconds: f64,
    /// The failures of pulls.
    pub errors: Vec<Group>,
    /// The samples of `pull_seconds`.
    #[serde(skip)]
    pub(super) samples: Vec<f64>,
    /// The samples of `first_byte_seconds`.
    #[serde(skip)]
    pub(super) first_bytes: Vec<f64>,
}

/// The second registry's figures divided by those of the first: a time above 1 means that the second is slower.
/// `None` where one of them is missing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratios {
    /// Wall times, the medians of the rounds.
    pub wall: Option<f64>,
    /// Throughputs, the medians of the rounds.
    pub bytes_per_second: Option<f64>,
    /// Median pulls.
    pub pull_median: Option<f64>,
    /// Pulls at the 95th percentile.
    pub pull_p95: Option<f64>,
    /// Slowest pulls.
    pub pull_max: Option<f64>,
    /// Median times to the first byte.
    pub first_byte_median: Option<f64>,
    /// Times to the first byte at the 95th percentile.
    pub first_byte_p95: Option<f64>,
    /// Longest times to the first byte.
    pub first_byte_max: Option<f64>,
}

impl Report {
    /// The report of these rounds, those of each of the job's targets in turn.
    pub(super) fn new(job: &Job, rounds: Vec<Vec<Round>>) -> Self {
        let targets = job.targets.iter().zip(rounds);
        let targets: Vec<Measured> = targets
            .map(|(target, rounds)| {
                Measured::of(target.url.as_str(), machine::is_here(&target.url), rounds)
            })
            .collect();
        let ratios = match targets.as_slice() {
            [first, second] => Some(Ratios::of(second, first)),
            _ => None,
        };
        Self {
            image: job.image.to_string(),
            platform: match &job.wanted {
                Wanted::All => "all".to_owned(),
                Wanted::These(these) => {
                    let names: Vec<String> = these.iter().map(ToString::to_string).collect();
                    names.join(", ")
                }
            },
            pulls: job.pulls,
            parallel: job.parallel,
            rounds: targets.first().map_or(0, |target| target.each_round.len()),
            warmup: job.warmup,
            client_cpus: machine::cpus(),
            targets,
            ratios,
        }
    }

    /// True if every pull came to its end with the right bytes.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.targets.iter().all(|target| target.failed == 0)
    }
}

impl Measured {
    pub(super) fn of(url: &str, shares_the_machine: bool, rounds: Vec<Round>) -> Self {
        let each = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect();
        let sum = |count: fn(&Round) -> u64| rounds.iter().map(count).sum();
        let all = |samples: fn(&Round) -> &Vec<f64>| rounds.iter().flat_map(samples).copied();
        Self {
            url: url.to_owned(),
            shares_the_machine,
            pulls: sum(|round| round.pulls),
            failed: sum(|round| round.failed),
            bytes: sum(|round| round.bytes),
            requests: sum(|round| round.requests),
            wall_seconds: Range::of(each(|round| round.wall_seconds)),
            bytes_per_second: Range::of(each(|round| round.bytes_per_second)),
            pull_seconds: Spread::of(all(|round| &round.samples).collect()),
            first_byte_seconds: Spread::of(all(|round| &round.first_bytes).collect()),
            client_cpu_seconds: rounds.iter().map(|round| round.client_cpu_seconds).sum(),
            errors: merge(rounds.iter().flat_map(|round| &round.errors)),
            each_round: rounds,
        }
    }

    /// The part of the CPUs that it could use that the client used, from 0 to 1.
    pub(super) fn client_load(&self, cpus: usize) -> Option<f64> {
        let wall: f64 = self.each_round.iter().map(|round| round.wall_seconds).sum();
        ratio(
            Some(self.client_cpu_seconds),
            Some(wall * float(cpus as u64)),
        )
    }
}

impl Ratios {
    pub(super) fn of(second: &Measured, first: &Measured) -> Self {
        let of = |figure: fn(&Measured) -> Option<f64>| ratio(figure(second), figure(first));
        Self {
            wall: of(|it| it.wall_seconds.map(|range| range.median)),
            bytes_per_second: of(|it| it.bytes_per_second.map(|range| range.median)),
            pull_median: of(|it| it.pull_seconds.map(|spread| spread.median)),
            pull_p95: of(|it| it.pull_seconds.map(|spread| spread.p95)),
            pull_max: of(|it| it.pull_seconds.map(|spread| spread.max)),
            first_byte_median: of(|it| it.first_byte_seconds.map(|spread| spread.median)),
            first_byte_p95: of(|it| it.first_byte_seconds.map(|spread| spread.p95)),
            first_byte_max: of(|it| it.first_byte_seconds.map(|spread| spread.max)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A round of two pulls that took so long.
    pub(crate) fn round(wall: f64, failed: u64) -> Round {
        let samples = vec![wall / 2.0, wall];
        let first_bytes = vec![wall / 10.0, wall / 5.0];
        Round {
            wall_seconds: wall,
            pulls: 2 + failed,
            failed,
            bytes: 1_000_000,
            requests: 8,
            bytes_per_second: 1_000_000.0 / wall,
            pull_seconds: Spread::of(samples.clone()),
            first_byte_seconds: Spread::of(first_bytes.clone()),
            client_cpu_seconds: 0.25,
            errors: Vec::new(),
            samples,
            first_bytes,
        }
    }

    #[test]
    fn rounds_are_put_together() {
        let one = Measured::of(
            "http://a",
            true,
            vec![round(4.0, 1), round(1.0, 0), round(2.0, 0)],
        );
        assert_eq!((one.pulls, one.failed, one.requests), (7, 1, 24));
        assert_eq!(one.bytes, 3_000_000);
        let wall = one.wall_seconds.unwrap();
        assert_eq!((wall.median, wall.min, wall.max), (2.0, 1.0, 4.0));
        // The six pulls of all rounds: 0.5, 1, 1, 2, 2, 4.
        let pull = one.pull_seconds.unwrap();
        assert_eq!((pull.min, pull.median, pull.max), (0.5, 1.0, 4.0));
        // 0.75 s of CPU in 7 s on one CPU.
        assert!((one.client_load(1).unwrap() - 0.75 / 7.0).abs() < 1e-9);

        let two = Measured::of("http://b", false, vec![round(6.0, 0)]);
        let ratios = Ratios::of(&two, &one);
        assert_eq!(ratios.wall, Some(3.0));
        assert_eq!(ratios.pull_max, Some(1.5));
        let none = Measured::of("http://c", false, Vec::new());
        assert_eq!(Ratios::of(&none, &one).wall, None);
    }
}
