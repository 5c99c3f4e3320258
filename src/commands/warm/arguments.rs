//! The command line of `warm`.

use std::path::PathBuf;

use url::Url;

use super::sources::{self, Images};
use super::{
    CONCURRENCY_DEFAULT, CONCURRENCY_MAX, Job, RETRIES_DEFAULT, RETRIES_MAX, SourceError,
    Variables, Wanted,
};
use crate::commands::output::Output;
use crate::commands::target::ServerFlags;
use crate::commands::{UsageError, image};

/// The arguments of `warm`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Images: alpine, ghcr.io/org/app:1, nginx@sha256:…
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// A list of images (one a line), Kubernetes manifests, or a compose file; - is standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Platforms of multi-platform images, or all [default: linux on this machine's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY_DEFAULT as u64,
          value_parser = clap::value_parser!(u64).range(1..=CONCURRENCY_MAX as u64))]
    pub concurrency: u64,
    /// Repetitions of a failed request
    #[arg(long, value_name = "N", default_value_t = RETRIES_DEFAULT as u64,
          value_parser = clap::value_parser!(u64).range(0..=RETRIES_MAX as u64))]
    pub retries: u64,
    /// Print JSON: a line for each image, and one for the whole
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

impl From<SourceError> for UsageError {
    fn from(error: SourceError) -> Self {
        Self(error.to_string())
    }
}

impl Arguments {
    /// The job at the server with this URL, and lines to tell the user before. Reads the files.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(
        &self,
        server: Url,
        variables: Variables<'_>,
    ) -> Result<(Job, Vec<String>), UsageError> {
        if self.images.is_empty() && self.files.is_empty() {
            let why = "name an image, or a file of images with -f";
            return Err(UsageError(why.to_owned()));
        }
        let mut images = Images::default();
        for name in &self.images {
            images.add_name(image(name)?);
        }
        for file in &self.files {
            let found = sources::read(file, variables)?;
            found.names.into_iter().for_each(|it| images.add_name(it));
            let notes = found.notes.iter();
            images
                .notes
                .extend(notes.map(|note| format!("{}: {note}", file.display())));
        }
        let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let job = Job {
            images: images.names,
            wanted: Wanted::parse(&self.platform)?,
            server,
            ca_file: self.server.ca_file.clone(),
            concurrency: bounded(self.concurrency),
            retries: bounded(self.retries),
            output: Output::of(self.json),
        };
        Ok((job, images.notes))
    }
}
