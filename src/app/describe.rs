//! The configuration in effect, for the pages of the admin listener.

use crate::config::{Config, Snapshot};
use crate::server::{ClientSetup, Describe};

/// Makes the files of all clients of a configuration, for the mirror at an address or at that of its listener.
pub type ClientSetups = fn(&Config, Option<&str>) -> Result<Vec<ClientSetup>, String>;

/// Describes the configuration that is in use at the moment.
#[derive(Debug)]
pub(super) struct Description {
    snapshot: Snapshot,
    /// `None`: this process knows of no clients.
    clients: Option<ClientSetups>,
}

impl Description {
    pub(super) fn new(snapshot: Snapshot, clients: Option<ClientSetups>) -> Self {
        Self { snapshot, clients }
    }
}

impl Describe for Description {
    fn configuration(&self) -> String {
        self.snapshot.now().to_toml()
    }

    fn clients(&self, server: Option<&str>) -> Result<Vec<ClientSetup>, String> {
        let clients = self.clients.ok_or("this process knows of no clients")?;
        clients(&self.snapshot.now(), server)
    }
}
