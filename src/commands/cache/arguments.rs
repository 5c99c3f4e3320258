//! The command lines.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use crate::commands::target::AdminFlags;
use crate::mirror::OpenMode;
use crate::oci::UpstreamName;

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
    /// Purge images: forget a tag or digest, and delete what no other image has
    #[command(visible_alias = "purge")]
    Rm(Remove),
    /// Ask upstream now what a tag names, instead of when its time has run out
    Refresh(Refresh),
    /// Remove what no manifest refers to, and stale records
    Gc(Collect),
    /// Have a running mirror read its configuration again, and show what has changed
    Reload(Reload),
    /// Pin images, so that they are never evicted; without an image, list those that are
    Pin(Pin),
    /// Undo pin
    Unpin(Unpin),
}

/// The place of the cache, and the form of the answer.
#[derive(Clone, Debug, Args)]
pub struct Common {
    #[command(flatten)]
    pub(crate) server: AdminFlags,
    /// Open this cache directory and ask no server: none may be using it
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "admin",
        help_heading = "Server"
    )]
    pub cache_dir: Option<String>,
    /// The state directory that belongs to it
    #[arg(long, value_name = "DIR", requires = "cache_dir")]
    pub state_dir: Option<String>,
    /// Print JSON: an object, or one on each line
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// Show the clients that were here, the latest first
    #[arg(long)]
    pub(super) clients: bool,
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
    /// Images to list: docker.io, ghcr.io/org, nginx, docker.io/library/nginx:1.27
    #[arg(value_name = "UPSTREAM[/REPO[:TAG]]", value_parser = NonEmptyStringValueParser::new())]
    pub(super) wanted: Option<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `du`.
#[derive(Clone, Debug, Args)]
pub struct Usage {
    /// Upstreams, instead of all
    #[arg(value_name = "UPSTREAM", value_parser = upstream)]
    pub(super) upstreams: Vec<UpstreamName>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `inspect`.
#[derive(Clone, Debug, Args)]
pub struct Inspect {
    /// Images: alpine, ghcr.io/org/app:1, nginx@sha256:…, or a digest as ls prints it
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `rm`.
#[derive(Clone, Debug, Args)]
pub struct Remove {
    /// Images: alpine, ghcr.io/org/app:1, nginx@sha256:…, a digest as ls prints it, or a pattern such as
    /// 'ghcr.io/org/*:pr-*' (`*` within a part of the name, `**` for any number of parts)
    #[arg(value_name = "IMAGE", required_unless_present_any = ["upstream", "unused_for"])]
    pub(super) images: Vec<String>,
    /// Remove the whole repository of each image
    #[arg(long, conflicts_with_all = ["upstream", "unused_for"])]
    pub(super) all: bool,
    /// Remove only images of this upstream; without an IMAGE, all of them
    #[arg(long, value_name = "NAME", value_parser = upstream)]
    pub(super) upstream: Option<UpstreamName>,
    /// Remove only images that nobody has pulled for so long, such as 30d; without an IMAGE, all of them
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(super) unused_for: Option<Duration>,
    /// Only say what would go
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `refresh`.
#[derive(Clone, Debug, Args)]
pub struct Refresh {
    /// Images with a tag: alpine, ghcr.io/org/app:main
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `reload`.
#[derive(Clone, Debug, Args)]
pub struct Reload {
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

impl Remove {
    /// True if it removes images that are looked for rather than named.
    pub(super) fn selects(&self) -> bool {
        self.upstream.is_some() || self.unused_for.is_some()
    }
}

impl Command {
    /// The arguments that all of them have.
    #[must_use]
    pub fn common(&self) -> &Common {
        match self {
            Self::Status(it) => &it.common,
            Self::Health(it) => &it.common,
            Self::Ls(it) => &it.common,
            Self::Du(it) => &it.common,
            Self::Inspect(it) => &it.common,
            Self::Rm(it) => &it.common,
            Self::Refresh(it) => &it.common,
            Self::Gc(it) => &it.common,
            Self::Reload(it) => &it.common,
            Self::Pin(it) => &it.common,
            Self::Unpin(it) => &it.common,
        }
    }

    /// The access that it needs to a directory.
    pub(super) fn purpose(&self) -> OpenMode {
        let changes = match self {
            Self::Status(_)
            | Self::Health(_)
            | Self::Ls(_)
            | Self::Du(_)
            | Self::Inspect(_)
            | Self::Reload(_)
            | Self::Refresh(_) => false,
            Self::Rm(it) => !it.dry_run,
            Self::Gc(it) => !it.dry_run,
            Self::Pin(it) => !it.images.is_empty(),
            Self::Unpin(_) => true,
        };
        if changes {
            OpenMode::Write
        } else {
            OpenMode::Look
        }
    }

    /// The images that it names.
    pub(super) fn images(&self) -> &[String] {
        match self {
            Self::Inspect(it) => &it.images,
            Self::Rm(it) => &it.images,
            Self::Refresh(it) => &it.images,
            Self::Pin(it) => &it.images,
            Self::Unpin(it) => &it.images,
            Self::Status(_)
            | Self::Health(_)
            | Self::Ls(_)
            | Self::Du(_)
            | Self::Gc(_)
            | Self::Reload(_) => &[],
        }
    }
}

fn upstream(text: &str) -> Result<UpstreamName, String> {
    UpstreamName::parse(text)
        .map_err(|_| "write the name of an upstream, such as docker.io".to_owned())
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a time such as 12h, 30d or 6months".to_owned())
}
