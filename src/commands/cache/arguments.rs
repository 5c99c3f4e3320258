//! The command lines.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use url::Url;

use super::reach::Purpose;

/// The commands that look into the cache, and change what is in it.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show how the mirror is: sizes, hits, upstreams, transfers
    Status(Status),
    /// Say on one line whether the mirror takes requests; exit 1 if it does not answer, or drains
    Health(Health),
    /// List images: tags, digests, platforms, sizes, last use
    Ls(List),
    /// Show what upstreams and repositories take, alone and shared
    Du(Usage),
    /// Show an image: manifests, platforms, config, layers, and what of it is stored
    Inspect(Inspect),
    /// Remove images: forget a tag or digest, and delete what no other image has
    Rm(Remove),
    /// Remove what no manifest refers to, and stale records
    Gc(Collect),
    /// Pin images, so that they are never evicted; without an image, list those that are
    Pin(Pin),
    /// Undo pin
    Unpin(Unpin),
}

/// Where the cache is, and how it is shown.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The admin listener of the running roadstead [default: that of the configuration; where nobody
    /// answers, the cache directory is opened]
    #[arg(long, value_name = "URL")]
    pub admin: Option<Url>,
    /// The configuration file, to find server and directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Open this cache directory and ask no server: none may be using it
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    pub cache_dir: Option<String>,
    /// Print JSON: an object, or one on each line
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Clone, Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub(super) common: Common,
}

/// `health`.
#[derive(Clone, Debug, Args)]
pub struct Health {
    #[command(flatten)]
    pub(super) common: Common,
}

/// `ls`.
#[derive(Clone, Debug, Args)]
pub struct List {
    /// What to list: docker.io, ghcr.io/org, nginx, docker.io/library/nginx:1.27
    #[arg(value_name = "UPSTREAM[/REPO[:TAG]]")]
    pub(super) wanted: Option<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `du`.
#[derive(Clone, Debug, Args)]
pub struct Usage {
    /// Upstreams, instead of all
    #[arg(value_name = "UPSTREAM")]
    pub(super) upstreams: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `inspect`.
#[derive(Clone, Debug, Args)]
pub struct Inspect {
    /// Images: alpine, ghcr.io/org/app:1, nginx@sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `rm`.
#[derive(Clone, Debug, Args)]
pub struct Remove {
    /// Images: alpine, ghcr.io/org/app:1, nginx@sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    /// Remove the whole repository of each image
    #[arg(long)]
    pub(super) all: bool,
    /// Only say what would go
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `gc`.
#[derive(Clone, Debug, Args)]
pub struct Collect {
    /// Only say what would go
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `pin`.
#[derive(Clone, Debug, Args)]
pub struct Pin {
    /// Images: registry.k8s.io/pause:3.9, nginx@sha256:…
    #[arg(value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `unpin`.
#[derive(Clone, Debug, Args)]
pub struct Unpin {
    /// Images, as they were pinned
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Command {
    /// Where the cache is, and how it is shown.
    #[must_use]
    pub fn common(&self) -> &Common {
        match self {
            Self::Status(it) => &it.common,
            Self::Health(it) => &it.common,
            Self::Ls(it) => &it.common,
            Self::Du(it) => &it.common,
            Self::Inspect(it) => &it.common,
            Self::Rm(it) => &it.common,
            Self::Gc(it) => &it.common,
            Self::Pin(it) => &it.common,
            Self::Unpin(it) => &it.common,
        }
    }

    /// What it needs the cache for.
    pub(super) fn purpose(&self) -> Purpose {
        let changes = match self {
            Self::Status(_) | Self::Health(_) | Self::Ls(_) | Self::Du(_) | Self::Inspect(_) => {
                false
            }
            Self::Rm(it) => !it.dry_run,
            Self::Gc(it) => !it.dry_run,
            Self::Pin(it) => !it.images.is_empty(),
            Self::Unpin(_) => true,
        };
        if changes {
            Purpose::Change
        } else {
            Purpose::Look
        }
    }

    /// The images that it names.
    pub(super) fn images(&self) -> &[String] {
        match self {
            Self::Inspect(it) => &it.images,
            Self::Rm(it) => &it.images,
            Self::Pin(it) => &it.images,
            Self::Unpin(it) => &it.images,
            Self::Status(_) | Self::Health(_) | Self::Ls(_) | Self::Du(_) | Self::Gc(_) => &[],
        }
    }
}
