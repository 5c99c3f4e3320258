//! The admin listener of a server: where it is, and how a command shows who asks.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use super::address::admin_url;
use crate::net::ClientCertificate;

/// The admin listener of a server, and what a connection to it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminServer {
    /// `http://`, `https://` or `unix:///PATH`.
    pub(crate) url: Url,
    /// The Unix socket of the same server, which is tried before.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) trust: AdminTrust,
}

/// The certificates of a connection over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdminTrust {
    /// Roots besides the system's, or the server's own certificate.
    pub(crate) ca_file: Option<PathBuf>,
    /// Shown to the server.
    pub(crate) certificate: Option<ClientCertificate>,
    /// The file that the server has its certificate from, where that is on this machine.
    pub(crate) own: Option<PathBuf>,
}

impl AdminServer {
    /// The listener at this URL, without certificates.
    #[must_use]
    pub fn at(url: Url) -> Self {
        Self {
            url,
            socket: None,
            trust: AdminTrust::default(),
        }
    }
}

impl FromStr for AdminServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        admin_url(text).map(Self::at)
    }
}

impl fmt::Display for AdminServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}
