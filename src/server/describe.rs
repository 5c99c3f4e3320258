//! Facts about the process that its configuration alone knows, for the pages of the admin listener.

use std::fmt::Debug;

/// Says what the configuration is, and how clients are led to this mirror.
pub trait Describe: Debug + Send + Sync {
    /// The configuration in effect as TOML, with secrets masked.
    fn configuration(&self) -> String;

    /// The files of each client, for the mirror at this address or, without one, at that of its listener.
    ///
    /// # Errors
    /// One line: the address cannot be used, or none is known.
    fn clients(&self, server: Option<&str>) -> Result<Vec<ClientSetup>, String>;
}

/// The files that lead a client here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSetup {
    /// The client, as `roadstead client-config` names it.
    pub client: String,
    /// The client, for people.
    pub title: String,
    /// Its files.
    pub files: Vec<ClientFile>,
    /// Facts about all of them, a line each.
    pub notes: Vec<String>,
}

/// A file of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFile {
    /// The file.
    pub path: String,
    /// Its content, where there is none yet.
    pub content: String,
    /// The command that makes the client read it; empty where none does.
    pub restart: String,
    /// A fact about this file; empty where there is none.
    pub note: String,
}
