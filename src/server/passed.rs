//! The sockets that a server passes to the process that takes over from it.

use super::config::{Config, ListenerConfig};
use super::inherited::Assigned;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// The listener that a socket is for, as the configuration of the process that passes it has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "for")]
pub enum Role {
    /// Clients.
    Client {
        /// The listener's name, if it has one.
        name: Option<String>,
        /// The address of the configuration, whose port may be 0.
        address: SocketAddr,
    },
    /// Operators.
    Admin {
        /// The address of the configuration.
        address: SocketAddr,
    },
    /// Other nodes of the cluster.
    Nodes {
        /// The address of the configuration.
        address: SocketAddr,
    },
    /// Operators on this machine.
    AdminSocket {
        /// The path of the configuration; `None`: the service manager has bound it.
        path: Option<PathBuf>,
    },
}

/// A socket that listens.
#[derive(Debug)]
pub struct Passed {
    /// Its listener.
    pub role: Role,
    /// The socket.
    pub socket: OwnedFd,
}

impl Passed {
    /// A copy of a socket that is served here.
    pub(super) fn copy(role: Role, socket: BorrowedFd<'_>) -> io::Result<Self> {
        let socket = socket.try_clone_to_owned()?;
        Ok(Self { role, socket })
    }
}

impl Assigned {
    /// Gives each to the listener with its address, if that has none yet. One whose listener is configured no more is
    /// closed.
    pub(super) fn complete(
        &mut self,
        passed: Vec<Passed>,
        config: &Config,
        nodes: Option<SocketAddr>,
    ) {
        for Passed { role, socket } in passed {
            match role {
                Role::Client { name, address } => {
                    let Some(at) = place(&config.listeners, name.as_ref(), address) else {
                        tracing::info!(%address, "a listener is configured no more and is closed");
                        continue;
                    };
                    match self.clients.get_mut(at) {
                        Some(place @ None) => *place = Some(socket.into()),
                        // One listener at an IPv4 and an IPv6 address is two sockets.
                        Some(Some(_)) | None => self.more.push(socket.into()),
                    }
                }
                Role::Admin { address } if address == config.admin_listen => {
                    self.admin.get_or_insert(socket.into());
                }
                Role::AdminSocket { path } if path.is_none() || path == config.admin_socket => {
                    self.admin_socket.get_or_insert(socket.into());
                }
                Role::Nodes { address } if Some(address) == nodes => {
                    self.nodes.get_or_insert(socket.into());
                }
                Role::Admin { .. } | Role::AdminSocket { .. } | Role::Nodes { .. } => {
                    tracing::info!(?role, "a listener is configured no more and is closed");
                }
            }
        }
    }
}

fn place(
    listeners: &[ListenerConfig],
    name: Option<&String>,
    address: SocketAddr,
) -> Option<usize> {
    let same = |it: &ListenerConfig| it.address == address && it.name.as_ref() == name;
    let named = listeners.iter().position(same);
    named.or_else(|| listeners.iter().position(|it| it.address == address))
}
