//! Counts of logins and denials.

use super::Set;
use prometheus::IntCounterVec;

/// The kind of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// A user name and a password.
    Password,
    /// A token of this server, as a password or as a bearer token.
    Token,
    /// A client certificate.
    Certificate,
    /// A token of another issuer.
    Oidc,
    /// A directory.
    Ldap,
    /// Something that is not known here.
    Unknown,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthResult {
    /// It is who he says.
    Accepted,
    /// The credentials are wrong.
    Rejected,
    /// Too many attempts.
    Limited,
    /// They could not be checked.
    Unavailable,
}

/// The families.
#[derive(Debug)]
pub struct AccessMetrics {
    auth: IntCounterVec,
    denied: IntCounterVec,
}

impl AuthMethod {
    const ALL: [Self; 6] = [
        Self::Password,
        Self::Token,
        Self::Certificate,
        Self::Oidc,
        Self::Ldap,
        Self::Unknown,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Oidc => "oidc",
            Self::Ldap => "ldap",
            Self::Unknown => "unknown",
        }
    }
}

impl AuthResult {
    const ALL: [Self; 4] = [
        Self::Accepted,
        Self::Rejected,
        Self::Limited,
        Self::Unavailable,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
        }
    }
}

impl AccessMetrics {
    pub(super) fn new(set: &Set) -> Self {
        let auth = set.counters(
            "roadstead_auth_total",
            "Credentials that were checked, by their kind and what came of it.",
            &["method", "result"],
        );
        for method in AuthMethod::ALL {
            for result in AuthResult::ALL {
                auth.with_label_values(&[method.label(), result.label()]);
            }
        }
        let denied = set.counters(
            "roadstead_denied_total",
            "Requests that the rules of access denied, or would have denied where they are not enforced.",
            &["upstream", "action"],
        );
        Self { auth, denied }
    }

    /// Credentials were checked.
    pub fn authenticated(&self, method: AuthMethod, result: AuthResult) {
        let labels = [method.label(), result.label()];
        self.auth.with_label_values(&labels).inc();
    }

    /// The rules have denied an action. `upstream`: the name of a configured one, or nothing.
    pub fn denied(&self, upstream: &str, action: &'static str) {
        self.denied.with_label_values(&[upstream, action]).inc();
    }
}
