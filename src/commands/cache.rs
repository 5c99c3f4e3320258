//! The operator's commands: they look into a server that runs, or, where none does, into its directory.
//!
//! | file | what it does |
//! | --- | --- |
//! | `arguments` | the command lines |
//! | `reach` | finds the server, or opens the directory |
//! | `look` | `status`, `ls`, `du` |
//! | `health` | `health` |
//! | `tree` | `inspect` |
//! | `change` | `rm`, `gc`, `pin`, `unpin` |
//! | `screen` | tables, sizes, ages, JSON |

mod arguments;
mod change;
mod health;
mod look;
pub mod reach;
mod screen;
mod tree;

use std::fmt::Display;

use http::Method;
use url::form_urlencoded;

pub use arguments::{Command, Common};
pub use screen::Screen;

use crate::oci::ImageName;
use reach::{Place, ReachError, Reached};

/// Why a command was not done: one line.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error(transparent)]
    Failed(#[from] ReachError),
    /// Some of it could not be done; the rest was.
    #[error("{failed} of {all} failed")]
    Some {
        /// How many.
        failed: usize,
        /// Of how many.
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
    place: &Place,
    screen: Screen,
    warn: &(dyn Fn(&dyn Display) + Sync),
) -> Result<(), CommandError> {
    for image in command.images() {
        ImageName::parse(image)
            .map_err(|why| CommandError::Usage(format!("image {image:?}: {why}")))?;
    }
    if let Command::Health(_) = command {
        // Without a server there is none that could be well, whatever is in its directory.
        return Ok(health::health(place, screen).await?);
    }
    let reached = place.reach(command.purpose()).await?;
    let done = match command {
        Command::Status(_) => look::status(&reached, screen).await.map_err(Into::into),
        Command::Ls(it) => look::list(&reached, it, screen).await.map_err(Into::into),
        Command::Du(it) => look::usage(&reached, it, screen).await.map_err(Into::into),
        Command::Gc(it) => change::collect(&reached, it, screen)
            .await
            .map_err(Into::into),
        Command::Pin(it) if it.images.is_empty() => {
            change::pins(&reached, screen).await.map_err(Into::into)
        }
        Command::Inspect(_)
        | Command::Rm(_)
        | Command::Pin(_)
        | Command::Unpin(_)
        | Command::Health(_) => each(command, &reached, screen, warn).await,
    };
    reached.close().await;
    done
}

/// One image after the other: one that fails holds up none.
async fn each(
    command: &Command,
    reached: &Reached,
    screen: Screen,
    warn: &(dyn Fn(&dyn Display) + Sync),
) -> Result<(), CommandError> {
    let images = command.images();
    let mut failed = 0;
    for (at, image) in images.iter().enumerate() {
        if at > 0 && matches!(command, Command::Inspect(_)) && !screen.json {
            screen::say("");
        }
        let done = match command {
            Command::Inspect(_) => tree::inspect(reached, image, screen).await,
            Command::Rm(it) => change::remove(reached, it, image, screen).await,
            Command::Pin(_) => change::pin(reached, image, screen).await,
            Command::Unpin(_) => change::unpin(reached, image, screen).await,
            Command::Status(_)
            | Command::Health(_)
            | Command::Ls(_)
            | Command::Du(_)
            | Command::Gc(_) => Ok(()),
        };
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
    match failed {
        0 => Ok(()),
        failed => Err(CommandError::Some {
            failed,
            all: images.len(),
        }),
    }
}

impl ReachError {
    /// Whether the question was understood and refused: others may be asked.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// A path of the API with parameters.
fn target(path: &str, parameters: &[(&str, &str)]) -> String {
    if parameters.is_empty() {
        return path.to_owned();
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    format!("{path}?{}", query.finish())
}

/// Asks for something that is shown as it comes where JSON is wanted, and read otherwise.
async fn ask<T: serde::de::DeserializeOwned>(
    reached: &Reached,
    method: Method,
    target: &str,
) -> Result<T, ReachError> {
    reached.ask_for(method, target).await
}
