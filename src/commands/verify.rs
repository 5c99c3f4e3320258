//! The command `verify`: has everything that is stored hashed, through the server that runs, or on the
//! directory itself when none does, and says what is wrong and who needs it.

mod report;
mod source;

use serde::Serialize;

use crate::commands::output::Output;
use crate::commands::target::{AdminFlags, AdminServer, Locator};
use crate::commands::{UsageError, image};
use crate::config::Config;
use crate::mirror::{Finding, VERIFY_IMAGES_MAX, VerifyEvent, VerifySummary};
use crate::oci::ImageName;
use report::Reporter;
use source::Events;

/// The arguments of `verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Look only at what these images need: alpine, ghcr.io/org/app:1, nginx@sha256:…
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Set damaged blobs aside, and fetch what is damaged or missing again
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub(crate) server: AdminFlags,
    /// Print JSON: a line for each finding, and one for the whole
    #[arg(long)]
    pub json: bool,
}

/// A run of `verify`.
#[derive(Clone, Debug)]
pub struct Job {
    /// The images whose parts are looked at; all that is stored when there are none.
    pub images: Vec<ImageName>,
    /// True if what is wrong is put right.
    pub repair: bool,
    /// The server's admin listener.
    pub admin: AdminServer,
    /// The configuration of the directory that is opened when nobody listens there, or its fault; `None`: nothing.
    pub config: Option<Result<Config, String>>,
    /// The form of the answer.
    pub output: Output,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Blobs and images that are not as they should be, or were not.
    pub findings: Vec<Finding>,
    /// The whole.
    pub summary: VerifySummary,
}

/// The reason that a run did not come to its end: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VerifyError(pub(crate) String);

impl Arguments {
    /// The job at the server that is located, or in its configuration's directory when none runs.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(&self, locator: Locator) -> Result<Job, UsageError> {
        let admin = locator.admin().cloned();
        let admin = admin.ok_or_else(|| UsageError("name the server with --admin".to_owned()))?;
        let config = locator.into_config();
        if self.images.len() > VERIFY_IMAGES_MAX {
            return Err(UsageError(format!(
                "at most {VERIFY_IMAGES_MAX} images at once"
            )));
        }
        let images = self.images.iter().map(|name| image(name));
        Ok(Job {
            images: images.collect::<Result<_, _>>()?,
            repair: self.repair,
            admin,
            config,
            output: Output::of(self.json),
        })
    }
}

impl Outcome {
    /// True if all that was looked at is right now.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let summary = &self.summary;
        summary.findings == summary.repaired && summary.unreadable == 0
    }
}

/// Verifies, and shows it.
///
/// # Errors
/// [`VerifyError`]: not everything was looked at.
pub async fn run(job: &Job) -> Result<Outcome, VerifyError> {
    let mut events = Events::begin(job).await?;
    let reporter = Reporter::new(job.output);
    if let (Events::Own(_), Some(Ok(config))) = (&events, &job.config) {
        reporter.note(&format!(
            "note: nobody answers at {}, so {} is looked at directly",
            job.admin,
            config.cache.dir.display()
        ));
    }
    let mut findings = Vec::new();
    let ended = loop {
        match events.next().await {
            Ok(Some(VerifyEvent::Progress(progress))) => reporter.progress(&progress),
            Ok(Some(VerifyEvent::Finding(finding))) => {
                reporter.finding(&finding);
                if findings.len() < FINDINGS_MAX {
                    findings.push(finding);
                }
            }
            Ok(Some(VerifyEvent::Summary(summary))) => break Ok(summary),
            Ok(Some(VerifyEvent::Failed(why))) => break Err(VerifyError(why)),
            Ok(None) => {
                break Err(VerifyError(
                    "the server broke off before the end".to_owned(),
                ));
            }
            Err(why) => break Err(why),
        }
    };
    events.end().await;
    reporter.finish(ended.as_ref().ok());
    let summary = ended?;
    Ok(Outcome { findings, summary })
}

/// Findings that are kept for the caller; all of them are shown.
const FINDINGS_MAX: usize = 100_000;
