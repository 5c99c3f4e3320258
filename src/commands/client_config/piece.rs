//! A file of a client, and how it is joined with what is there.

use super::buildkit::Buildkitd;
use super::cri;
use super::fault::{Fault, Merged};
use super::hosts::{self, Host};
use super::json::{self, Daemon};
use super::rancher::Registries;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The file, below the root directory.
    pub(super) path: String,
    /// The content.
    pub(super) form: Form,
    /// The command that makes the client read it, if one does.
    pub(super) restart: &'static str,
    /// A fact about this file, if there is one.
    pub(super) note: &'static str,
}

/// The content of a file, by how it is joined with what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// dockerd's daemon.json.
    Daemon(Daemon),
    /// containerd's hosts.toml.
    Host(Host),
    /// containerd's config.toml.
    Cri,
    /// buildkitd.toml.
    Buildkitd(Buildkitd),
    /// registries.yaml.
    Registries(Registries),
    /// A file that nobody else writes.
    Own(String),
    /// Lines for a file of somebody else's: shown, never written.
    ByHand(String),
}

impl Form {
    /// The file where there is none.
    pub(super) fn fresh(&self) -> String {
        match self {
            Self::Daemon(it) => it.fresh(),
            Self::Host(it) => it.fresh(),
            Self::Cri => cri::fresh(),
            Self::Buildkitd(it) => it.fresh(),
            Self::Registries(it) => it.fresh(),
            Self::Own(text) | Self::ByHand(text) => text.clone(),
        }
    }

    /// The file with what is ours.
    ///
    /// # Errors
    /// It does not parse, or cannot be added to.
    pub(super) fn merge(&self, text: &str) -> Result<Merged, Fault> {
        if text.trim().is_empty() {
            return Ok(self.fresh().into());
        }
        match self {
            Self::Daemon(it) => it.merge(text),
            Self::Host(it) => it.merge(text),
            Self::Cri => cri::merge(text),
            Self::Buildkitd(it) => it.merge(text),
            Self::Registries(it) => it.merge(text),
            Self::Own(ours) => Ok(ours.clone().into()),
            Self::ByHand(_) => Ok(text.to_owned().into()),
        }
    }

    /// The file without what is ours, where somebody else has changed it since; `None`: nothing is left.
    ///
    /// # Errors
    /// It does not parse, or ours cannot be told from the rest.
    pub(super) fn remove(&self, text: &str) -> Result<Option<String>, Fault> {
        let left = match self {
            Self::Daemon(it) => it.remove(text)?,
            Self::Host(it) => it.remove(text)?,
            Self::Cri => cri::remove(text)?,
            Self::Buildkitd(it) => it.remove(text)?,
            Self::Registries(_) | Self::Own(_) | Self::ByHand(_) => {
                let why = "was changed since it was written here, and its lines cannot be told apart: remove those of the mirror by hand";
                return Err(Fault::new(why));
            }
        };
        let is_empty = match self {
            Self::Daemon(_) => json::is_empty(&left),
            Self::Host(_) | Self::Cri | Self::Buildkitd(_) => hosts::is_empty(&left),
            Self::Registries(_) | Self::Own(_) | Self::ByHand(_) => false,
        };
        Ok((!is_empty).then_some(left))
    }
}
