//! The command `state`: a copy of what the state directory holds.

use std::path::PathBuf;

use crate::catalogue;
use crate::config::{Config, Overrides};

/// A command on the state directory.
#[derive(Debug, clap::Subcommand)]
pub(super) enum State {
    /// Copy the catalogue into a file while the server runs: imported names, pins, users and tokens; not their signing keys
    Backup(Backup),
}

/// `state backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// The copy: a file that is not there yet
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The configuration file, to find the state directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state directory, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
}

impl State {
    /// The configuration with its flags.
    ///
    /// # Errors
    /// One line: it has an error.
    pub(super) fn load(&self) -> Result<Config, String> {
        let Self::Backup(backup) = self;
        let overrides = Overrides {
            config: backup.config.clone(),
            state_dir: backup.state_dir.clone(),
            ..Overrides::default()
        };
        Config::load(&overrides).map_err(|error| super::config::lines(&error))
    }

    /// Does it; one line for whoever asked.
    ///
    /// # Errors
    /// One line that says what to do.
    pub(super) fn run(&self, config: &Config) -> Result<String, String> {
        let Self::Backup(backup) = self;
        let made = catalogue::backup(&config.state.dir, &backup.output);
        let made = made.map_err(|error| error.to_string())?;
        Ok(format!(
            "{} was copied to {} ({} bytes, schema version {})\n",
            made.of.display(),
            backup.output.display(),
            made.bytes,
            made.schema
        ))
    }
}
