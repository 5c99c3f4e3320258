//! `repo`: whole hosted repositories, deleted and restored.

use clap::{Args, Subcommand};
use http::Method;

use super::cache::screen::{Cell, Screen, Table, say_json};
use super::hosted::{Common, tell};
use super::target::{Locator, TargetError};
use crate::server::DeletedList;

const REPOSITORIES: &str = "/api/v1/repositories";
const RESTORE: &str = "/api/v1/repositories/restore";
const DELETED: &str = "/api/v1/deleted";

/// Hosted repositories.
#[derive(Clone, Debug, Subcommand)]
pub enum RepoCommand {
    /// Delete a repository with all its images; it can be restored for a while (`hosted.undelete`)
    Rm(Remove),
    /// Restore a repository that was deleted, as it was
    Restore(Named),
    /// List the repositories and namespaces that were deleted and can be restored
    Deleted(Deleted),
}

/// `repo rm`.
#[derive(Clone, Debug, Args)]
pub struct Remove {
    /// The repository: `team/app`
    #[arg(value_name = "REPOSITORY")]
    name: String,
    /// It cannot be restored, and its name is free at once; also for one that was deleted before
    #[arg(long)]
    forever: bool,
    #[command(flatten)]
    common: Common,
}

/// `repo restore`.
#[derive(Clone, Debug, Args)]
pub struct Named {
    /// The repository: `team/app`
    #[arg(value_name = "REPOSITORY")]
    name: String,
    #[command(flatten)]
    common: Common,
}

/// `repo deleted`.
#[derive(Clone, Debug, Args)]
pub struct Deleted {
    #[command(flatten)]
    common: Common,
}

impl RepoCommand {
    fn common(&self) -> &Common {
        match self {
            Self::Rm(it) => &it.common,
            Self::Restore(it) => &it.common,
            Self::Deleted(it) => &it.common,
        }
    }

    /// The server to ask.
    ///
    /// # Errors
    /// One line: a flag makes no sense, or the configuration does not say where the server is.
    pub fn locate(&self) -> Result<Locator, String> {
        Locator::of(&self.common().server, None, None)
    }
}

/// Deletes, restores or lists repositories.
///
/// # Errors
/// [`TargetError`]: the server does not answer, or refuses.
pub async fn run(command: &RepoCommand, place: &Locator) -> Result<(), TargetError> {
    let target = place.reach_server().await?;
    let screen = Screen::new(command.common().json);
    match command {
        RepoCommand::Rm(it) => {
            let mut parameters = vec![("repository", it.name.as_str())];
            if it.forever {
                parameters.push(("forever", "true"));
            }
            let asked = target.ask(Method::DELETE, REPOSITORIES, &parameters);
            tell(asked.await?, screen);
        }
        RepoCommand::Restore(it) => {
            let parameters = [("repository", it.name.as_str())];
            let asked = target.ask(Method::POST, RESTORE, &parameters);
            tell(asked.await?, screen);
        }
        RepoCommand::Deleted(_) => {
            let list: DeletedList = target.ask(Method::GET, DELETED, &[]).await?;
            show(&list, screen);
        }
    }
    Ok(())
}

fn show(list: &DeletedList, screen: Screen) {
    if screen.json {
        say_json(list);
        return;
    }
    let mut table = Table::new(screen, &["NAME", "KIND", "DELETED", "RESTORABLE UNTIL"]);
    for it in &list.deleted {
        table.row(vec![
            Cell::from(it.name.clone()),
            Cell::from(it.kind.clone()),
            Cell::from(it.deleted.to_string()),
            Cell::from(it.until.to_string()),
        ]);
    }
    table.flush();
}
