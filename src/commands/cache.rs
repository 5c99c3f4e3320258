//! The operator's commands: they look into a server that runs, or, where none does, into its directory.
//!
//! | file | what it does |
//! | --- | --- |
//! | `arguments` | the command lines |
//! | `look` | `status`, `ls`, `du` |
//! | `health` | `health` |
//! | `tree` | `inspect` |
//! | `change` | `rm`, `refresh`, `gc`, `pin`, `unpin` |
//! | `reload` | `reload` |
//! | `select` | which images are meant: short digests, patterns, upstreams, ages |
//! | `screen` | tables, sizes, ages, JSON |

mod arguments;
mod change;
mod health;
mod look;
mod reload;
pub(super) mod screen;
mod select;
mod tree;

use std::fmt::Display;

use http::Method;

pub use arguments::{Command, Common};
pub use screen::Screen;

use super::UsageError;
use super::output::note;
use super::target::{Locator, Target, TargetError};
use crate::mirror::inspect::{ImageEntry, ImagePage};
use crate::server::{HostedImage, HostedPage};

/// Images asked for at a time.
const PAGE: &str = "500";

/// The reason that a command was not done: one line.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command line makes no sense.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// It could not be done.
    #[error(transparent)]
    Failed(#[from] TargetError),
    /// Some of it could not be done; the rest was.
    #[error("{failed} of {all} failed")]
    Some {
        /// Number that failed.
        failed: usize,
        /// Number of all.
        all: usize,
    },
}

/// Does what a command says, and shows it. `warn` is told of each image that failed, where others went
/// well.
///
/// # Errors
/// [`CommandError`].
pub async fn run(
    command: &Command,
    place: &Locator,
    screen: Screen,
    warn: &(dyn Fn(&dyn Display) + Sync),
) -> Result<(), CommandError> {
    check(command)?;
    if let Command::Health(_) = command {
        // Without a server there is none that could be well, whatever is in its directory.
        return Ok(health::health(place, screen).await?);
    }
    if let Command::Reload(_) = command {
        let target = place.reach_server().await?;
        return Ok(reload::reload(&target, screen).await?);
    }
    let target = place.reach(command.purpose()).await?;
    if target.has_hosted_aside() {
        note("note: no server is running; hosted images are visible only through a running server");
    }
    let done = match command {
        Command::Status(it) => look::status(&target, it, screen).await.map_err(Into::into),
        Command::Ls(it) => look::list(&target, it, screen).await.map_err(Into::into),
        Command::Du(it) => look::usage(&target, it, screen).await.map_err(Into::into),
        Command::Gc(it) => change::collect(&target, it, screen)
            .await
            .map_err(Into::into),
        Command::Pin(it) if it.images.is_empty() => {
            change::pins(&target, screen).await.map_err(Into::into)
        }
        Command::Inspect(_)
        | Command::Rm(_)
        | Command::Refresh(_)
        | Command::Pin(_)
        | Command::Unpin(_)
        | Command::Reload(_)
        | Command::Health(_) => each(command, &target, screen, warn).await,
    };
    target.close().await;
    done
}

/// Names that can be none are told before anything is asked.
fn check(command: &Command) -> Result<(), UsageError> {
    for image in command.images() {
        let checked = match command {
            Command::Rm(it) if select::is_pattern(image) && it.all => Err(UsageError(format!(
                "--all takes a repository, and {image} is a pattern"
            ))),
            Command::Rm(_) if select::is_pattern(image) => {
                select::pattern(image).map(drop).map_err(UsageError)
            }
            Command::Rm(it) if it.selects() => Err(UsageError(format!(
                "--upstream and --unused-for go with patterns, and {image} is an image: name it alone"
            ))),
            Command::Status(_)
            | Command::Health(_)
            | Command::Ls(_)
            | Command::Du(_)
            | Command::Inspect(_)
            | Command::Rm(_)
            | Command::Refresh(_)
            | Command::Gc(_)
            | Command::Reload(_)
            | Command::Pin(_)
            | Command::Unpin(_) => is_name(image),
        };
        checked?;
    }
    Ok(())
}

fn is_name(image: &str) -> Result<(), UsageError> {
    if select::is_short(image) {
        return Ok(());
    }
    super::image(image).map(drop)
}

/// One image after the other: one that fails holds up none.
async fn each(
    command: &Command,
    target: &Target,
    screen: Screen,
    warn: &(dyn Fn(&dyn Display) + Sync),
) -> Result<(), CommandError> {
    let (images, mut total) = if let Command::Rm(it) = command {
        change::chosen(target, it, screen).await?
    } else {
        (command.images().to_vec(), None)
    };
    let mut failed = 0;
    for (at, image) in images.iter().enumerate() {
        if at > 0 && matches!(command, Command::Inspect(_)) && !screen.json {
            screen::say("");
        }
        let done = one(command, target, image, total.as_mut(), screen).await;
        match done {
            Ok(()) => {}
            // There is nobody any more who could be asked.
            Err(error) if images.len() == 1 || !error.is_refusal() => return Err(error.into()),
            Err(error) => {
                failed += 1;
                warn(&error);
            }
        }
    }
    if let Some(total) = total {
        total.show(screen);
    }
    match failed {
        0 => Ok(()),
        failed => Err(CommandError::Some {
            failed,
            all: images.len(),
        }),
    }
}

async fn one(
    command: &Command,
    target: &Target,
    image: &str,
    total: Option<&mut change::Total>,
    screen: Screen,
) -> Result<(), TargetError> {
    let image = select::resolve(target, image).await?;
    match command {
        Command::Inspect(_) => tree::inspect(target, &image, screen).await,
        Command::Rm(it) => change::remove(target, it, &image, total, screen).await,
        Command::Refresh(_) => change::refresh(target, &image, screen).await,
        Command::Pin(_) => change::pin(target, &image, screen).await,
        Command::Unpin(_) => change::unpin(target, &image, screen).await,
        Command::Status(_)
        | Command::Health(_)
        | Command::Ls(_)
        | Command::Du(_)
        | Command::Reload(_)
        | Command::Gc(_) => Ok(()),
    }
}

impl TargetError {
    /// True if the question was understood and refused: others may be asked.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Goes through the hosted images of a list for as long as `more` says; there are none where nothing is hosted.
async fn each_hosted(
    target: &Target,
    wanted: &str,
    mut more: impl FnMut(&HostedImage) -> bool,
) -> Result<(), TargetError> {
    if !target.is_server() {
        return Ok(());
    }
    let mut after: Option<String> = None;
    loop {
        let mut parameters = vec![("match", wanted), ("limit", PAGE)];
        if let Some(after) = &after {
            parameters.push(("after", after));
        }
        let asked = target.ask(Method::GET, "/api/v1/hosted/images", &parameters);
        let page: HostedPage = match asked.await {
            Err(TargetError::Refused { status: 404, .. }) => return Ok(()),
            page => page?,
        };
        if !page.images.iter().all(&mut more) || page.next.is_none() {
            return Ok(());
        }
        after = page.next;
    }
}

/// Goes through the images of a list for as long as `more` says.
async fn each_image(
    target: &Target,
    wanted: &str,
    mut more: impl FnMut(&ImageEntry) -> bool,
) -> Result<(), TargetError> {
    let mut after: Option<String> = None;
    loop {
        let mut parameters = vec![("match", wanted), ("limit", PAGE)];
        if let Some(after) = &after {
            parameters.push(("after", after));
        }
        let asked = target.ask(Method::GET, "/api/v1/images", &parameters);
        let page: ImagePage = asked.await?;
        if !page.images.iter().all(&mut more) || page.next.is_none() {
            return Ok(());
        }
        after = page.next;
    }
}
