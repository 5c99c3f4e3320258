//! Who roadstead is to an upstream: where user names, passwords and tokens come from, and how they are
//! kept fresh.
//!
//! A [`Source`] is one entry of a pool. It gives a [`Login`], fetched when it is first needed, again
//! before it expires, and by one task however many wait.

mod cloud;
mod config;

use std::sync::Arc;

use super::client::HttpClient;
use super::deadline::Deadline;
use super::{Credentials, FetchError, Secret};

pub use config::{CloudConfig, CloudUrls, LoginConfig, Text};

/// What is shown to a registry or its token server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// A user name and password: HTTP Basic, or to fetch a token with.
    Basic(Credentials),
    /// A refresh token (`identitytoken` of Docker's configuration, user `<token>` of a helper): exchanged
    /// at the token server by `grant_type=refresh_token` (distribution, oauth.md).
    Refresh(Secret),
    /// A token that is sent as it is: `Authorization: Bearer`.
    Bearer(Secret),
}

/// One entry of a pool of logins. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Source {
    login: Option<Arc<Login>>,
}

impl Source {
    /// Nobody in particular.
    pub(super) fn anonymous() -> Self {
        Self { login: None }
    }

    /// Sets up a source: checks what can be checked without dialling or running anything.
    /// `registry` is the host (and port) that the login is for; `api` dials cloud services.
    ///
    /// # Errors
    /// One line naming what is wrong.
    pub(super) fn new(
        config: &LoginConfig,
        _registry: &str,
        _api: HttpClient,
    ) -> Result<Self, String> {
        match config {
            LoginConfig::Password {
                username: Text::Literal(username),
                password: Text::Literal(password),
            } => Ok(Self {
                login: Some(Arc::new(Login::Basic(Credentials {
                    username: username.expose().to_owned(),
                    password: password.clone(),
                }))),
            }),
            _ => Err("this kind of login does not exist yet".to_owned()),
        }
    }

    /// Whether it is nobody in particular.
    pub(super) fn is_anonymous(&self) -> bool {
        self.login.is_none()
    }

    /// The login, fresh; `None` for nobody in particular.
    ///
    /// # Errors
    /// [`FetchError::Login`] when it cannot be had, or was refused less than a minute ago and has not
    /// changed since; [`FetchError::Timeout`].
    #[expect(clippy::unused_async, reason = "replaced by the real thing")]
    pub(super) async fn login(
        &self,
        _deadline: Deadline,
    ) -> Result<Option<Arc<Login>>, FetchError> {
        Ok(self.login.clone())
    }

    /// The registry or its token server does not take this login: it is not used for a minute, unless
    /// the source gives another one.
    #[expect(clippy::unused_self, reason = "replaced by the real thing")]
    pub(super) fn refused(&self, _login: &Arc<Login>) {}
}
