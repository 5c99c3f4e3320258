//! `bench`: an image is pulled many times at once, from one registry or from two in turn, and what that took is
//! told: so that somebody can see what a mirror gives them.
//!
//! | file | what it does |
//! | --- | --- |
//! | `arguments` | the command line |
//! | `pull` | one pull: requests, bytes, digests |
//! | `round` | all pulls of a round at once, and the clock |
//! | `failure` | why a pull failed, and failures grouped (pure) |
//! | `figures` | statistics (pure) |
//! | `report` | what came of all: the figures, and two registries side by side (pure) |
//! | `screen` | how that is shown: text (pure), JSON, a bar |
//! | `machine` | this process: its CPU time, its descriptors |
//!
//! A pull is a client of its own: nobody's connections, tokens or TLS sessions serve another. Within a pull they
//! are used again. Nothing is repeated and no limit waited for; what fails is counted. Bytes are hashed as they
//! come and thrown away.

mod arguments;
mod failure;
mod figures;
mod machine;
mod pull;
mod report;
mod round;
mod screen;

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::commands::output::Output;
use crate::commands::warm::Wanted;
use crate::oci::ImageName;
use crate::upstream::Puller;

pub use arguments::Arguments;
pub use failure::{Cause, Failure, Group, Stage};
pub use figures::{Range, Spread};
pub use report::{Measured, Ratios, Report, Round};

/// A run of `bench`.
#[derive(Debug)]
pub struct Job {
    /// The image.
    pub image: ImageName,
    /// The platform, should it have several: one.
    pub wanted: Wanted,
    /// The registries to pull it from, in turn: one or two.
    pub targets: Vec<Target>,
    /// Pulls at once; 1 to [`PULLS_MAX`].
    pub pulls: usize,
    /// Blobs at once in each pull; 1 to [`PARALLEL_MAX`].
    pub parallel: usize,
    /// Number of measurements of each registry; 1 to [`ROUNDS_MAX`].
    pub rounds: usize,
    /// Rounds before, which are not counted; 0 to [`ROUNDS_MAX`].
    pub warmup: usize,
    /// The longest that one pull may take.
    pub timeout: Duration,
    /// The form of the answer.
    pub output: Output,
}

/// A registry.
#[derive(Debug)]
pub struct Target {
    /// As the user wrote it.
    pub url: Url,
    /// The client that those of the pulls are copies of. It is never asked anything itself.
    pub puller: Puller,
}

/// The reason that nothing was measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BenchError(String);

/// Measures, and shows it. What was not pulled is in the [`Report`].
///
/// # Errors
/// [`BenchError`]: the clients cannot be made.
pub async fn run(job: &Job) -> Result<Report, BenchError> {
    machine::raise_descriptor_limit();
    let pulls = job.pulls.clamp(1, PULLS_MAX);
    let plan = Arc::new(pull::Plan {
        image: job.image.clone(),
        wanted: job.wanted.clone(),
        parallel: job.parallel.clamp(1, PARALLEL_MAX),
        timeout: job.timeout.min(TIMEOUT_MAX),
    });
    let (warmup, rounds) = (job.warmup.min(ROUNDS_MAX), job.rounds.clamp(1, ROUNDS_MAX));
    let mut taken: Vec<Vec<Round>> = job.targets.iter().map(|_| Vec::new()).collect();
    for number in 0..warmup + rounds {
        // The second finds the machine warmer or more tired: that falls on each in turn.
        let mut order: Vec<usize> = (0..job.targets.len()).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (Some(target), Some(taken)) = (job.targets.get(at), taken.get_mut(at)) else {
                continue;
            };
            let title = screen::title(at, number, warmup, rounds);
            let bar = screen::Bar::new(job.output, title, pulls);
            let round = round::run(&plan, target, pulls, &bar).await;
            let round = round.map_err(BenchError)?;
            bar.finish();
            if number >= warmup {
                taken.push(round);
            }
        }
    }
    let report = Report::new(job, taken);
    screen::show(&report, job.output);
    Ok(report)
}

/// Pulls at once, unless the user says otherwise: a node pool that grows, or a wave of CI jobs.
pub const PULLS_DEFAULT: usize = 10;
/// More clients than this want more than one machine to play them: the descriptors, the ports of loopback, and
/// above all the CPU for hashing give out.
pub const PULLS_MAX: usize = 1000;
/// `max-concurrent-downloads` of dockerd, and `max_concurrent_downloads` of containerd.
pub const PARALLEL_DEFAULT: usize = 3;
/// As many idle connections as the client keeps for one host: more would not be used again.
pub const PARALLEL_MAX: usize = 32;
/// Rounds for each of two registries: a median needs three.
pub const ROUNDS_VS_DEFAULT: usize = 3;
/// The samples of all rounds are kept, in some dozen bytes for each pull.
pub const ROUNDS_MAX: usize = 100;
/// The longest that one pull may take, unless the user says otherwise: what kubelet has patience for is in this
/// order, and a pull of some gigabytes over a thin line fits.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_mins(10);
/// A longer wait has been forgotten.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(24);
