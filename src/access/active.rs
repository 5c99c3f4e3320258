//! The configuration of access with all that it names, as it holds at one moment.

use super::guard::{AccessError, IdentifyError};
use super::htpasswd::Htpasswd;
use super::jwt::Claims;
use super::oidc::{CREDENTIAL, Oidc};
use super::people::People;
use super::{Config, Kind, Principal, Rules};
use crate::catalogue::Token;
use crate::clock::Timestamp;
use crate::telemetry::Metrics;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;

/// The beginning of credentials that are a token, in tokens that are given for them.
pub(super) const TOKEN: &str = "token:";

/// Everything that holds now.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) config: Config,
    pub(super) rules: Rules,
    pub(super) htpasswd: Htpasswd,
    /// Issuers of other tokens, with their keys.
    pub(super) oidc: Arc<Oidc>,
    pub(super) people: Arc<People>,
    /// The reason why it is not known which users and tokens there are.
    pub(super) people_trouble: Option<String>,
    /// The hash that a user who there is not is checked against.
    pub(super) nobody: String,
    /// Of each change another.
    pub(super) generation: u64,
}

impl Active {
    /// True if somebody has the credentials still that a token was given for.
    pub(super) fn still_has(&self, who: &Principal, credential: &str, now: Timestamp) -> bool {
        if let Some(id) = credential.strip_prefix(TOKEN) {
            let token = self.people.token(id, now);
            return token.is_some_and(|token| self.bearer(token).is_some());
        }
        match who.kind {
            Kind::Anonymous => true,
            Kind::User => self
                .hash_of(&who.name)
                .is_some_and(|hash| fingerprint(hash) == credential),
            Kind::Workload => {
                let name = credential.strip_prefix(CREDENTIAL);
                name.is_some_and(|name| self.oidc.has(name))
            }
            Kind::Robot | Kind::Certificate | Kind::Operator => false,
        }
    }

    /// The hash of a user's password.
    pub(super) fn hash_of(&self, user: &str) -> Option<&str> {
        let kept = || self.people.user(user).map(|user| user.hash.as_str());
        self.htpasswd.hash_of(user).or_else(kept)
    }

    /// A user, with the groups that it is in.
    pub(super) fn user(&self, name: &str) -> Principal {
        let groups = self.people.user(name).map(|user| user.groups.clone());
        Principal {
            groups: groups.unwrap_or_default(),
            ..Principal::user(name)
        }
    }

    /// Somebody with the groups that he is in now.
    pub(super) fn as_now(&self, who: Principal) -> Principal {
        match who.kind {
            Kind::User => Principal {
                groups: self.user(&who.name).groups,
                ..who
            },
            Kind::Anonymous | Kind::Robot | Kind::Certificate | Kind::Workload | Kind::Operator => {
                who
            }
        }
    }

    /// The bearer of a token, if the user is there still that it is of.
    pub(super) fn bearer(&self, token: &Token) -> Option<Principal> {
        let groups = self
            .has_user(&token.owner)
            .then(|| self.user(&token.owner).groups);
        People::bearer(token, groups)
    }

    /// True if there is a user of this name.
    pub(super) fn has_user(&self, name: &str) -> bool {
        self.hash_of(name).is_some()
    }

    /// True if the file has a user of this name.
    pub(super) fn htpasswd_has(&self, name: &str) -> bool {
        self.htpasswd.hash_of(name).is_some()
    }

    /// The users of the file.
    pub(super) fn htpasswd_users(&self) -> Vec<String> {
        self.htpasswd.users()
    }

    /// The answer to credentials that are not known: while it is not known which there are, they may be right.
    pub(super) fn unknown(&self) -> IdentifyError {
        match &self.people_trouble {
            Some(why) => IdentifyError::Unavailable(why.clone()),
            None => IdentifyError::Invalid,
        }
    }

    /// True if this is a token of another issuer, as far as can be told without its keys.
    pub(super) fn is_of_another(&self, text: &str) -> bool {
        self.oidc.may_be(text) && !Claims::are_of(text)
    }

    /// The rules.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn new(
        config: Config,
        metrics: &Metrics,
        generation: u64,
    ) -> Result<Self, AccessError> {
        let rules = config.rules()?;
        let oidc = Oidc::new(&config.oidc, metrics).map_err(AccessError::Oidc)?;
        let htpasswd = match &config.htpasswd {
            Some(path) => Htpasswd::read(path)?,
            None => Htpasswd::default(),
        };
        Ok(Self {
            config,
            rules,
            nobody: htpasswd.hash_of_nobody(),
            htpasswd,
            oidc: Arc::new(oidc),
            people: Arc::default(),
            people_trouble: None,
            generation,
        })
    }
}

/// Stands for a hash, and does not tell it.
pub(super) fn fingerprint(hash: &str) -> String {
    let digest = digest(&SHA256, hash.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref().get(..12).unwrap_or_default())
}
