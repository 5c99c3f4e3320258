//! The part of the configuration that listeners ask for.

use super::AdminAccess;
use super::active::Active;
use super::credentials::Credentials;
use super::jwt::Claims;
use super::people::People;
use std::net::IpAddr;
use std::sync::Arc;

/// The configuration of access, as it held at one moment.
#[derive(Debug)]
pub struct Settings(arc_swap::Guard<Arc<Active>>);

impl Settings {
    pub(super) fn of(active: arc_swap::Guard<Arc<Active>>) -> Self {
        Self(active)
    }

    /// Rights of a request to the admin API without credentials.
    #[must_use]
    pub fn admin_access(&self) -> AdminAccess {
        self.0.config.admin
    }

    /// True if nobody is asked who he is, and everything may be pulled.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.0.config.enabled
    }

    /// True if clients that do not say who they are are asked.
    #[must_use]
    pub fn has_identities(&self) -> bool {
        self.0.config.has_identities()
    }

    /// The URL of the token endpoint, if it is configured.
    #[must_use]
    pub fn token_url(&self) -> Option<String> {
        self.0.config.token_url.clone()
    }

    /// True if clients from this address may come in.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        !self.0.config.enabled || self.0.config.admits(source)
    }

    /// True if credentials are a token of this server, or of an issuer that it believes: nobody else is to see them.
    #[must_use]
    pub fn owns(&self, authorization: &str) -> bool {
        let secret = match Credentials::parse(authorization) {
            Some(Credentials::Basic { password, .. }) => password,
            Some(Credentials::Bearer(token)) => token,
            None => return false,
        };
        let text = secret.expose();
        People::is_token(text) || Claims::are_of(text) || self.0.oidc.names(text)
    }
}
