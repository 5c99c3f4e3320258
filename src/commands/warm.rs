//! Warming: images are pulled through a server that runs, so that they are in its cache before anybody
//! needs them.
//!
//! | file | what it does |
//! | --- | --- |
//! | `arguments` | the command line |
//! | `sources/` | files that name images |
//! | `platform` | which images of an index are wanted |
//! | `contents` | what a manifest leads to |
//! | `server` | requests: bounded, repeated |
//! | `fill` | an image after the other, each blob once |
//! | `progress`, `report` | what the user sees |
//!
//! Nothing here looks into the store: what the server answers is what any client gets, and its
//! `Cache-Status` says whether it had it. The server checks the digests.

mod arguments;
mod contents;
mod fill;
mod platform;
mod progress;
mod report;
pub(crate) mod server;
mod sources;

use std::path::PathBuf;

use futures_util::StreamExt as _;
use tokio::time::Instant;
use url::Url;

use crate::commands::client::tls_advice;
use crate::commands::output::Output;
use crate::commands::plain::PlainClient;
use crate::oci::ImageName;
use fill::Run;
use progress::Reporter;
use server::Server;

pub use arguments::Arguments;
pub(crate) use contents::{Contents, LEVELS_MAX};
pub use platform::{Platform, PlatformError, Wanted};
pub use report::{Count, ImageReport, Missing, Summary};
pub use sources::{Images, SourceError, Variables};

/// A run of `warm`.
#[derive(Clone, Debug)]
pub struct Job {
    /// The images.
    pub images: Vec<ImageName>,
    /// The platforms of them that are wanted.
    pub wanted: Wanted,
    /// The URL of the server's client listener.
    pub server: Url,
    /// Further certificates to check that server's by.
    pub ca_file: Option<PathBuf>,
    /// Number of requests that are under way at once; 1 to [`CONCURRENCY_MAX`].
    pub concurrency: usize,
    /// Number of repetitions of a request.
    pub retries: usize,
    /// The form of the answer.
    pub output: Output,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Each image, in the order in which they were done.
    pub images: Vec<ImageReport>,
    /// All of them.
    pub summary: Summary,
}

/// The reason that nothing was begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WarmError {
    /// The client cannot be made.
    #[error("{0}")]
    Client(String),
    /// The server does not answer.
    #[error(
        "no registry answers at {server}: {why} (is `roadstead serve` running? --server names another)"
    )]
    NoServer {
        /// Its URL.
        server: String,
        /// The cause.
        why: String,
    },
}

/// Warms images, and shows it.
///
/// # Errors
/// [`WarmError`]: before anything was fetched. What is missing afterwards is in the [`Outcome`].
pub async fn run(job: &Job) -> Result<Outcome, WarmError> {
    let begin = Instant::now();
    let client = PlainClient::new(&job.server, job.ca_file.clone()).map_err(WarmError::Client)?;
    let concurrency = job.concurrency.clamp(1, CONCURRENCY_MAX);
    let server = Server::new(client, concurrency, job.retries.min(RETRIES_MAX));
    server.ping().await.map_err(|error| {
        let why = error.to_string();
        WarmError::NoServer {
            server: job.server.to_string(),
            why: format!("{why}{}", tls_advice(&why, "--ca-file", "--server")),
        }
    })?;
    let reporter = Reporter::new(job.output, job.images.len());
    let run = Run::new(&server, &job.wanted, &reporter);
    let images: Vec<ImageReport> = futures_util::stream::iter(&job.images)
        .map(|name| Box::pin(run.image(name)))
        .buffer_unordered(concurrency)
        .collect()
        .await;
    let summary = Summary {
        images: images.len(),
        complete: images.iter().filter(|image| image.is_complete()).count(),
        blobs: run.totals(),
        seconds: begin.elapsed().as_secs_f64(),
    };
    reporter.finish(&summary);
    Ok(Outcome { images, summary })
}

/// Requests at once, unless the user says otherwise: fills a fast line, and leaves the server's
/// clients theirs.
pub const CONCURRENCY_DEFAULT: usize = 4;
/// As many as an upstream has by itself (`max_connections`): more would wait there.
pub const CONCURRENCY_MAX: usize = 64;
/// Repetitions, unless the user says otherwise: waits of half a minute in all, beside those that the
/// server asks for. It repeats its own questions to upstreams, too.
pub const RETRIES_DEFAULT: usize = 6;
/// With the longest waits, almost an hour.
pub const RETRIES_MAX: usize = 100;
