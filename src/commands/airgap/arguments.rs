//! The command lines of `export` and `import`.

use std::path::PathBuf;

use url::Url;

use super::{ExportJob, ImportJob, Naming, Output};
use crate::commands::warm::{PlatformError, Wanted};
use crate::oci::ImageName;
use crate::oci::image::ImageNameError;

/// What `export` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArguments {
    /// Images: alpine, ghcr.io/org/app:1, nginx@sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// A directory, or a file whose name ends in .tar
    #[arg(short = 'o', long, value_name = "DIR|FILE.tar")]
    pub output: PathBuf,
    /// Platforms of multi-platform images, or all [default: linux on this machine's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// The running roadstead [default: the configuration's server.listen]
    #[arg(long, value_name = "URL")]
    pub server: Option<Url>,
    /// Certificates (PEM) to check the server's by, besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The configuration file, to find the server
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `import` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArguments {
    /// An OCI image layout: a directory, or a tar archive of one
    #[arg(value_name = "DIR|FILE.tar")]
    pub layout: PathBuf,
    /// What to import, under which name: IMAGE alone for a layout with one image or an image that the layout
    /// knows by this name, IMAGE=REF for the one that it calls REF [default: all, by their names in the layout]
    #[arg(value_name = "IMAGE[=REF]")]
    pub images: Vec<String>,
    /// Pin the images, as `roadstead pin` does: they are never evicted
    #[arg(long)]
    pub pin: bool,
    /// The admin address of the running roadstead [default: the configuration's `server.admin_listen`]
    #[arg(long, value_name = "URL")]
    pub admin: Option<Url>,
    /// The configuration file, to find the server
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Why the command line makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// An image's name is none.
    #[error("image {name:?}: {why}")]
    Image {
        /// As it was typed.
        name: String,
        /// What is wrong.
        why: ImageNameError,
    },
    /// A platform is none.
    #[error("--platform: {0}")]
    Platform(#[from] PlatformError),
}

impl ExportArguments {
    /// What to do, at the server with this URL.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(&self, server: Url) -> Result<ExportJob, UsageError> {
        let mut images = Vec::new();
        for name in &self.images {
            let name = parse(name)?;
            if !images.contains(&name) {
                images.push(name);
            }
        }
        Ok(ExportJob {
            images,
            target: self.output.clone(),
            wanted: Wanted::parse(&self.platform)?,
            server,
            ca_file: self.ca_file.clone(),
            output: Output::Human,
        })
    }
}

impl ImportArguments {
    /// What to do, at the server with this admin URL.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn job(&self, admin: Url) -> Result<ImportJob, UsageError> {
        let naming = |text: &String| {
            let (name, reference) = match text.split_once('=') {
                Some((name, reference)) => (name, Some(reference.to_owned())),
                None => (text.as_str(), None),
            };
            let name = parse(name)?;
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
            admin,
            output: Output::Human,
        })
    }
}

fn parse(name: &str) -> Result<ImageName, UsageError> {
    ImageName::parse(name).map_err(|why| UsageError::Image {
        name: name.to_owned(),
        why,
    })
}
