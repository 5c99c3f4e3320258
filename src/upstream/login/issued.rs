//! A credential, and how long it may be used.

use std::time::Duration;

use crate::net::{Credentials, Secret};

/// The credential that is shown to a registry or its token server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Login {
    /// A user name and password: HTTP Basic, or to fetch a token with.
    Basic(Credentials),
    /// A refresh token (`identitytoken` of Docker's configuration, user `<token>` of a helper): exchanged
    /// at the token server by `grant_type=refresh_token` (distribution, oauth.md).
    Refresh(Secret),
    /// A token that is sent as it is: `Authorization: Bearer`.
    Bearer(Secret),
}

/// A login that a provider gave.
pub(super) struct Issued {
    /// `None`: nobody in particular, which is an answer, too.
    pub(super) login: Option<Login>,
    /// Time for which it may be used; `None`: until one of the provider's files changes.
    pub(super) good_for: Option<Duration>,
}
