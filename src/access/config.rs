//! The configuration of access, resolved: plain values, no file read yet.

use super::SigningSeed;
use super::htpasswd::{Htpasswd, HtpasswdError};
use super::ldap::Directory;
use super::limits::Limit;
use super::oidc::Trust;
use super::{Attachment, Mode, Policy, Rules, RulesError};
use crate::net::Network;
use std::net::IpAddr;
use std::path::PathBuf;

/// The treatment of a request that the rules deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// It is refused.
    #[default]
    Enforce,
    /// It is answered, and the log says that it would have been refused.
    Warn,
}

/// Rights of a request to the admin API without credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminAccess {
    /// Everything, if it comes from this machine: it is an operator's.
    #[default]
    Local,
    /// Nothing.
    Identity,
}

/// Access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// There is an `[access]` table. Without one nobody is asked who he is.
    pub enabled: bool,
    /// The treatment of requests that are denied.
    pub enforcement: Enforcement,
    /// Networks that clients may come from; empty: any.
    pub allow: Vec<Network>,
    /// Users and the bcrypt hashes of their passwords, in the format of Apache's `htpasswd`.
    pub htpasswd: Option<PathBuf>,
    /// The directory whose users can log in.
    pub ldap: Option<Directory>,
    /// The URL of the token endpoint as clients reach it; `None`: on the host that the client has asked.
    pub token_url: Option<String>,
    /// Issuers of other tokens.
    pub oidc: Vec<Trust>,
    /// Policies of the file, in its order.
    pub policies: Vec<Policy>,
    /// Whom policies are attached to.
    pub attachments: Vec<Attachment>,
    /// Clients can show certificates.
    pub certificates: bool,
    /// Limits by identity or address.
    pub limits: Vec<Limit>,
    /// The admin API without credentials.
    pub admin: AdminAccess,
    /// Upstreams of which nobody gets anything without a statement (`visibility = "rules"`).
    pub ruled: Vec<String>,
    /// The cluster that this is a node of.
    pub cluster: Option<Sharing>,
}

/// What nodes of a cluster share of access: keys of tokens, and nothing that is in a catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Seeds of the keys of tokens, the one in use first; none: each node has keys of its own.
    pub seeds: Vec<SigningSeed>,
}

impl Config {
    /// True if somebody can say who he is, so that clients are asked for credentials.
    #[must_use]
    pub fn has_identities(&self) -> bool {
        let only_networks = self.htpasswd.is_none()
            && self.ldap.is_none()
            && self.token_url.is_none()
            && self.oidc.is_empty()
            && self.policies.is_empty()
            && self.attachments.is_empty()
            && !self.certificates
            && !self.allow.is_empty();
        self.enabled && !only_networks
    }

    /// The same with the parts of another one that hold until a restart: listeners ask for certificates, and upstreams
    /// have the visibility, with which they were started.
    #[must_use]
    pub fn keeping_of(self, running: &Self) -> Self {
        Self {
            certificates: running.certificates,
            ruled: running.ruled.clone(),
            ..self
        }
    }

    /// True if clients from this address may come in.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.allow.is_empty() || self.allow.iter().any(|it| it.contains(source))
    }

    /// The users of the file, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn htpasswd_users(&self) -> Result<Vec<String>, HtpasswdError> {
        match &self.htpasswd {
            Some(path) => Ok(Htpasswd::read(path)?.users()),
            None => Ok(Vec::new()),
        }
    }

    /// The rules, compiled.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn rules(&self) -> Result<Rules, RulesError> {
        let mode = if self.has_identities() {
            Mode::Identified
        } else {
            Mode::Open
        };
        let rules = Rules::new(mode, self.policies.clone(), &self.attachments)?;
        Ok(rules.with_ruled(self.ruled.iter().cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_leaves_what_upstreams_and_listeners_were_started_with() {
        let running = Config {
            enabled: true,
            certificates: true,
            ruled: vec!["ghcr.io".to_owned()],
            ..Config::default()
        };
        let read = Config {
            enabled: true,
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            ..Config::default()
        };
        let kept = read.clone().keeping_of(&running);
        assert_eq!((kept.certificates, &kept.ruled), (true, &running.ruled));
        assert_eq!(kept.allow, read.allow);
    }
}
