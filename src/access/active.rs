//! The configuration of access with all that it names, as it holds at one moment.

use super::found::{IdentifyError, fingerprint};
use super::guard::AccessError;
use super::htpasswd::Htpasswd;
use super::jwt::{Claims, Use};
use super::keys::Keys;
use super::ldap::{self, Ldap, Member};
use super::limits::Meaning;
use super::oidc::{CREDENTIAL, Oidc};
use super::people::People;
use super::{Config, Kind, Principal, Rules, Subject};
use crate::catalogue::Token;
use crate::clock::Timestamp;
use crate::telemetry::Metrics;
use std::collections::HashSet;
use std::sync::Arc;

/// The beginning of credentials that are a token, in tokens that are given for them.
pub(super) const TOKEN: &str = "token:";

/// Everything that holds now.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) config: Config,
    pub(super) rules: Rules,
    pub(super) htpasswd: Htpasswd,
    /// The directory, if there is one.
    pub(super) ldap: Option<Arc<Ldap>>,
    /// Groups that a policy or a limit is about. Others of a directory's user mean nothing, and would make tokens long.
    pub(super) groups: Arc<HashSet<String>>,
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
    /// Claims of a token of ours, if it holds and so do the credentials that it was given for.
    pub(super) fn verified(
        &self,
        token: &str,
        used_for: Use,
        keys: &Keys,
        now: Timestamp,
    ) -> Option<Claims> {
        let claims = Claims::verify(token, used_for, keys, now)?;
        let who = claims.principal()?;
        self.still_has(&who, &claims.credential, now)
            .then_some(claims)
    }

    /// True if somebody has the credentials still that a token was given for.
    pub(super) fn still_has(&self, who: &Principal, credential: &str, now: Timestamp) -> bool {
        if let Some(id) = credential.strip_prefix(TOKEN) {
            let token = self.people.token(id, now);
            return token.is_some_and(|token| self.bearer(token).is_some());
        }
        if credential.starts_with(ldap::CREDENTIAL) {
            let same = |it: &Arc<Ldap>| it.credential() == credential;
            return who.kind == Kind::User
                && self.ldap.as_ref().is_some_and(same)
                && !self.has_user(&who.name);
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

    /// A user of the directory; `None` where a user of this server has the name, who is somebody else.
    pub(super) fn member(&self, member: &Member) -> Option<Principal> {
        if self.has_user(&member.name) {
            return None;
        }
        Some(Principal {
            groups: self.named(&member.groups),
            ..Principal::user(&member.name)
        })
    }

    /// The groups of these that something is about.
    fn named(&self, groups: &[String]) -> Vec<String> {
        let named = groups.iter().filter(|group| self.groups.contains(*group));
        named.cloned().collect()
    }

    /// Somebody with the groups that he is in now, as far as that is known: those of a directory's user are as they were at
    /// the last login, or else when the token was made.
    pub(super) fn as_now(&self, who: Principal, credential: &str) -> Principal {
        let groups = match who.kind {
            Kind::User if credential.starts_with(ldap::CREDENTIAL) => {
                let known = self.ldap.as_ref().and_then(|it| it.groups_of(&who.name));
                known.map(|groups| self.named(&groups))
            }
            Kind::User => Some(self.user(&who.name).groups),
            Kind::Anonymous | Kind::Robot | Kind::Certificate | Kind::Workload | Kind::Operator => {
                None
            }
        };
        match groups {
            Some(groups) => Principal { groups, ..who },
            None => who,
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

    /// Everything of a configuration, without users and tokens of the catalogue. `before`: what holds until now.
    pub(super) fn new(
        config: Config,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Result<Self, AccessError> {
        let rules = config.rules()?;
        let oidc = Oidc::new(&config.oidc, metrics).map_err(AccessError::Oidc)?;
        let htpasswd = match &config.htpasswd {
            Some(path) => Htpasswd::read(path)?,
            None => Htpasswd::default(),
        };
        let known = before.and_then(|before| before.ldap.as_deref());
        let ldap = config.ldap.as_ref().map(|it| Ldap::new(it, known));
        let ldap = ldap.transpose().map_err(AccessError::Ldap)?;
        Ok(Self {
            groups: Arc::new(groups_of(&config)),
            config,
            rules,
            nobody: htpasswd.hash_of_nobody(),
            htpasswd,
            ldap: ldap.map(Arc::new),
            oidc: Arc::new(oidc),
            people: Arc::default(),
            people_trouble: None,
            generation: 0,
        })
    }
}

/// The groups that something is about.
fn groups_of(config: &Config) -> HashSet<String> {
    let attached = config
        .attachments
        .iter()
        .filter_map(|it| match &it.subject {
            Subject::Group(name) => Some(name.clone()),
            Subject::User(_) | Subject::Robot(_) | Subject::Claim(..) | Subject::Anonymous => None,
        });
    let limited = config.limits.iter().filter_map(|it| match &it.meaning {
        Meaning::Group(name) => Some(name.clone()),
        Meaning::Everybody
        | Meaning::Address
        | Meaning::Network(_)
        | Meaning::Anonymous
        | Meaning::Identity(..) => None,
    });
    attached.chain(limited).collect()
}
