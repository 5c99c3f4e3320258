//! The token endpoint, without HTTP: credentials become a token for what its bearer may do now (distribution,
//! docs/spec/auth/token.md and oauth.md).

use super::active::{Active, TOKEN};
use super::credentials::claim;
use super::found::{Found, IdentifyError, result_of};
use super::jwt::{ACCESS_TTL, Claims, Use};
use super::ldap;
use super::people::People;
use super::scope::Scope;
use super::{Action, Context, Guard, Principal, Resource};
use crate::clock::Timestamp;
use crate::net::Secret;
use crate::telemetry::AuthMethod;
use std::net::IpAddr;
use std::sync::Arc;

/// The way in which somebody wants to get a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Without saying who he is.
    Anonymous,
    /// By name and password.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// By a refresh token.
    Refresh(Secret),
}

impl Grant {
    /// The kind of its credentials, and the user name that comes with them: for records. `None`: it has none.
    #[must_use]
    pub fn claim(&self) -> Option<(AuthMethod, Option<&str>)> {
        match self {
            Self::Anonymous => None,
            Self::Password { user, password } => Some(claim(user, password)),
            Self::Refresh(_) => Some((AuthMethod::Token, None)),
        }
    }
}

/// A request for a token.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The way.
    pub grant: Grant,
    /// Scopes that are wanted.
    pub scopes: Vec<Scope>,
    /// A refresh token, too.
    pub offline: bool,
    /// The client's address.
    pub source: IpAddr,
    /// The identity in its certificate, which its requests will have, too.
    pub certificate: Option<Arc<Principal>>,
}

/// A token that is given.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The token.
    pub token: Secret,
    /// Its scopes, which may be less than was wanted.
    pub scopes: Vec<Scope>,
    /// The token to get others with.
    pub refresh: Option<Secret>,
    /// Seconds that it holds.
    pub expires_in: u64,
    /// When it was made.
    pub issued: Timestamp,
    /// Whom it is of.
    pub who: Arc<Principal>,
    /// The id of the token of this server that was given for it.
    pub of_token: Option<Arc<str>>,
}

impl Guard {
    /// Gives a token. `resources`: what a repository may be that a client names like this; where it may do something
    /// with one of them, its token says so, and each request is decided by itself.
    ///
    /// # Errors
    /// [`IdentifyError`].
    pub async fn issue(
        &self,
        wanted: Wanted,
        resources: impl Fn(&str) -> Vec<Resource<'static>>,
    ) -> Result<Granted, IdentifyError> {
        self.look_for_changes().await;
        let active = self.active();
        let now = self.now();
        let (found, refresh) = self
            .who_wants(&active, wanted.grant, wanted.source, now)
            .await?;
        let (who, end) = (found.principal, found.until);
        let left = end.map_or(ACCESS_TTL, |end| end.since(now).min(ACCESS_TTL));
        if left.as_secs() == 0 {
            // Within the tolerance for somebody's clock, of which a token of ours could not be told.
            return Err(IdentifyError::Invalid);
        }
        // As at a request on that connection. A token does not have it: without the certificate it opens nothing that needs one.
        let who = Arc::new(who);
        let as_asked = Principal::with_certificate(Arc::clone(&who), wanted.certificate.as_ref());
        let at = Context {
            source: wanted.source,
            tag: None,
            now,
        };
        let scopes = wanted.scopes.into_iter();
        let scopes: Vec<Scope> = scopes
            .map(|scope| grant(&active, &as_asked, scope, &resources, &at))
            .collect();
        let credential = found.credential;
        let of_token = credential.strip_prefix(TOKEN).map(Arc::from);
        let sign = |used_for, credential, scopes| {
            let claims = Claims::of(&who, used_for, credential, scopes, (now, end));
            Secret::new(claims.sign(&self.inner.keys))
        };
        let refresh = match refresh {
            // The same again: a client that runs twice at once must not lose its login.
            Some(refresh) => Some(refresh),
            // Credentials that end by themselves are not to be outlived.
            // Nor is a password that is changed in a directory: only a login there tells.
            None if wanted.offline
                && !who.is_anonymous()
                && end.is_none()
                && !credential.starts_with(ldap::CREDENTIAL) =>
            {
                Some(sign(Use::Refresh, credential.clone(), Vec::new()))
            }
            None => None,
        };
        Ok(Granted {
            token: sign(Use::Access, credential, scopes.clone()),
            scopes,
            refresh,
            expires_in: left.as_secs(),
            issued: now,
            who,
            of_token,
        })
    }

    /// The asker's identity and refresh token.
    async fn who_wants(
        &self,
        active: &Active,
        grant: Grant,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<(Found, Option<Secret>), IdentifyError> {
        let (method, found, refresh) = match grant {
            Grant::Anonymous => {
                let anonymous = Found {
                    principal: Principal::anonymous(),
                    credential: String::new(),
                    until: None,
                };
                return Ok((anonymous, None));
            }
            Grant::Password { user, password } => {
                let found = self.by_secret(active, &user, &password, source, now);
                let (method, found) = found.await;
                (method, found, None)
            }
            // Some clients send a token of ours in the place of a refresh token.
            Grant::Refresh(token) if People::is_token(token.expose()) => {
                let found = self.by_token(active, token.expose(), now);
                (AuthMethod::Token, found, None)
            }
            Grant::Refresh(token) => {
                let found = self.by_refresh(active, &token, now);
                (AuthMethod::Token, found, Some(token))
            }
        };
        let access = self.inner.metrics.access();
        access.authenticated(method, result_of(&found));
        Ok((found?, refresh))
    }

    /// The owner of a refresh token: as he is now, not as he was when he got it.
    fn by_refresh(
        &self,
        active: &Active,
        token: &Secret,
        now: Timestamp,
    ) -> Result<Found, IdentifyError> {
        let claims = active.verified(token.expose(), Use::Refresh, &self.inner.keys, now);
        let claims = claims.ok_or_else(|| active.unknown())?;
        let principal = claims.principal().ok_or(IdentifyError::Invalid)?;
        Ok(Found {
            principal: active.as_now(principal, &claims.credential),
            credential: claims.credential,
            until: None,
        })
    }
}

/// The part of a scope that somebody may do with one of the repositories that it may mean. The catalog shows everybody what he may
/// pull.
fn grant(
    active: &Active,
    who: &Principal,
    scope: Scope,
    resources: &impl Fn(&str) -> Vec<Resource<'static>>,
    at: &Context<'_>,
) -> Scope {
    if scope.kind != "repository" {
        return scope;
    }
    let may_be = resources(&scope.name);
    let wanted = scope.wanted();
    let may = |action: Action| {
        let mut may_be = may_be.iter();
        may_be.any(|resource| {
            let decision = active.rules().decide(who, action, resource, at);
            // Whoever may see a list may do so with a token for pulls, the only one that there is for that.
            decision.is_allowed()
                || (action == Action::Pull
                    && active
                        .rules()
                        .decide(who, Action::List, resource, at)
                        .is_allowed())
        })
    };
    let actions = wanted.iter().filter(|action| may(*action));
    Scope {
        actions: actions.map(|action| action.name().to_owned()).collect(),
        ..scope
    }
}
