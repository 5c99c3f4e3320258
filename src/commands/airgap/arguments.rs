//! The command lines of `export` and `import`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use url::Url;

use super::archive::Form;
use super::{ExportJob, ImportJob, Naming};
use crate::commands::output::Output;
use crate::commands::target::{AdminFlags, AdminServer, ServerFlags, server_url};
use crate::commands::warm::Wanted;
use crate::commands::{UsageError, image};
use crate::oci::image::is_registry;

/// The arguments of `export`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArguments {
    /// Images: alpine, ghcr.io/org/app:1, nginx@sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// A directory (DIR/ or a name without an ending), an archive (.tar, .tar.gz, .tar.zst), or - for an archive on
    /// standard output
    #[arg(short = 'o', long, value_name = "DIR/|FILE.tar|-")]
    pub output: PathBuf,
    /// Platforms of multi-platform images, or all [default: linux on this machine's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Print JSON: an object for the whole
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

/// The arguments of `import`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArguments {
    /// An OCI image layout: a directory, a tar archive of one (gzip and zstd too), or - for standard input
    #[arg(value_name = "DIR|FILE|-")]
    pub layout: PathBuf,
    /// Images to import and their names: IMAGE alone for a layout with one image or an image that the layout
    /// knows by this name, IMAGE=REF for the one that it calls REF [default: all, by their names in the layout]
    #[arg(value_name = "IMAGE[=REF]")]
    pub images: Vec<String>,
    /// Pin the images, as `roadstead pin` does: they are never evicted
    #[arg(long)]
    pub pin: bool,
    /// Push them to hosted repositories, as any client does, instead: IMAGE is a name there, such as team/app:1
    #[arg(long, conflicts_with = "pin")]
    pub push: bool,
    /// The running roadstead that is pushed to, such as 127.0.0.1:5000 [env: `ROADSTEAD_SERVER`] [default: the
    /// configuration's server.listen]
    #[arg(long = "server", value_name = "URL|HOST:PORT", value_parser = server_url, requires = "push", help_heading = "Server")]
    pub server_url: Option<Url>,
    /// CA certificates (PEM) to verify its certificate, besides the system's
    #[arg(long, value_name = "FILE", requires = "push", help_heading = "Server")]
    pub ca_file: Option<PathBuf>,
    /// Print JSON: an object for each image
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub(crate) server: AdminFlags,
}

impl ExportArguments {
    /// The job at the server with this URL.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(&self, server: Url) -> Result<ExportJob, UsageError> {
        let form = Form::of(&self.output).map_err(|why| UsageError(format!("--output {why}")))?;
        if form == Form::Stream && std::io::stdout().is_terminal() {
            let why = "--output -: standard output is a terminal; send it to a file or a program";
            return Err(UsageError(why.to_owned()));
        }
        let (mut images, mut bare) = (Vec::new(), Vec::new());
        for text in &self.images {
            let name = image(text)?;
            let written = text.split_once('/').map(|(first, _)| first);
            // Names of one component are Docker Hub's, whatever is hosted.
            let is_bare = written.is_some_and(|it| !is_registry(it));
            if is_bare {
                bare.push(name.clone());
            }
            if !images.contains(&name) {
                images.push(name);
            }
        }
        Ok(ExportJob {
            images,
            bare,
            target: self.output.clone(),
            wanted: Wanted::parse(&self.platform)?,
            server,
            ca_file: self.server.ca_file.clone(),
            output: Output::of(self.json),
        })
    }
}

impl ImportArguments {
    /// The server that is pushed to, and certificates to check its by.
    fn target(&self) -> Result<Option<(Url, Option<PathBuf>)>, UsageError> {
        if !self.push {
            return Ok(None);
        }
        let flags = ServerFlags {
            server: self.server_url.clone(),
            ca_file: self.ca_file.clone(),
            config: self.server.config.clone(),
        };
        let url = flags.url().map_err(UsageError)?;
        Ok(Some((url, flags.ca_file)))
    }

    /// The job at the server with this admin listener.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(&self, admin: AdminServer) -> Result<ImportJob, UsageError> {
        let naming = |text: &String| {
            let (name, reference) = match text.split_once('=') {
                Some((name, reference)) => (name, Some(reference.to_owned())),
                None => (text.as_str(), None),
            };
            let name = image(name)?;
            Ok(Naming { name, reference })
        };
        Ok(ImportJob {
            layout: self.layout.clone(),
            images: self
                .images
                .iter()
                .map(naming)
                .collect::<Result<_, UsageError>>()?,
            pin: self.pin,
            push: self.target()?,
            admin,
            output: Output::of(self.json),
        })
    }
}
