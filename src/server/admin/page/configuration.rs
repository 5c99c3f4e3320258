//! `/configuration` and `/clients`: what the process was told, and what clients have to be told.

use super::frame::Frame;
use super::rows::ClientRow;
use crate::server::describe::ClientSetup;
use askama::Template;

/// The configuration in effect.
#[derive(Template)]
#[template(path = "configuration.html")]
pub(super) struct Configuration {
    pub(super) frame: Frame,
    /// TOML, with secrets masked.
    pub(super) text: Option<String>,
}

/// Clients that were seen, and how to lead others here.
#[derive(Template)]
#[template(path = "clients.html")]
pub(super) struct Clients {
    pub(super) frame: Frame,
    pub(super) rows: Vec<ClientRow>,
    /// The address that was asked for.
    pub(super) server: String,
    pub(super) setups: Vec<ClientSetup>,
    /// Reason why there are none.
    pub(super) error: String,
}
