//! A configuration that is read again, as far as the admin listener is concerned.

use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// Reads the configuration of the process again.
pub trait Reloader: Debug + Send + Sync {
    /// Takes over what can change while requests run. Blocks.
    ///
    /// # Errors
    /// [`ReloadError`]: all is as it was.
    fn reload(&self) -> Result<Reloaded, ReloadError>;
}

/// The effect of a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloaded {
    /// Keys that hold from now on.
    pub applied: Vec<KeyChange>,
    /// Keys that hold after a restart.
    pub after_restart: Vec<KeyChange>,
    /// Old names of keys that were used, with their places, and certificates that cannot be: a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A key that says something else. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct KeyChange {
    /// The key's path.
    pub key: String,
    /// Its value before, as TOML; absent where it was not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Its value now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

/// Reason why the configuration is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// It has errors, or something that it names cannot be used: a line each.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
    /// It cannot be read again.
    #[error("{0}")]
    Unreadable(String),
    /// One reload runs, and another one waits for it.
    #[error("the configuration is being read already")]
    Busy,
}

impl ReloadError {
    /// The lines of a log that say it.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        let (errors, end): (&[String], _) = match self {
            Self::Invalid(errors) => (
                errors,
                "the new configuration has errors: nothing is changed; correct it and reload again",
            ),
            Self::Unreadable(why) => (std::slice::from_ref(why), "nothing is changed"),
            Self::Busy => (
                &[],
                "the configuration is being read already, and once more after that",
            ),
        };
        errors.iter().map(String::as_str).chain([end])
    }
}
