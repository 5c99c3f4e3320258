//! `roadstead config`: what a configuration file may hold, and what is wrong with one.

use crate::config::{Config, ConfigError};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the JSON Schema of the configuration file, which editors complete and check it by
    Schema,
}

impl Command {
    /// The text that is asked for.
    pub(super) fn output(&self) -> String {
        match self {
            Self::Schema => Config::schema(),
        }
    }
}

/// All errors of a configuration, each on a line of its own.
pub(super) fn lines(error: &ConfigError) -> String {
    error.lines().join("\nerror: ")
}
