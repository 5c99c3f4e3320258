//! The sender of a request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The sender of a request, once its credentials were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The kind of identity.
    pub kind: Kind,
    /// Its name; empty for an anonymous client.
    pub name: Arc<str>,
    /// Groups that it is in.
    pub groups: Vec<String>,
    /// Claims of its token or certificate.
    pub claims: BTreeMap<String, String>,
    /// The connection has shown a client certificate that was accepted.
    pub certificate: bool,
    /// Policies that it has by itself, as a robot has: besides those that are attached to it.
    pub policies: Vec<String>,
    /// Policies that a token of this identity is narrowed to: each must allow what the identity itself may do. Empty:
    /// the token can do what the identity can.
    pub narrowed: Vec<Vec<String>>,
}

/// A kind of identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// No credentials.
    Anonymous,
    /// A person, or whatever logs in by a name and a password.
    User,
    /// A program with a token of its own.
    Robot,
    /// A client certificate.
    Certificate,
    /// A token of another issuer: a Kubernetes service account, a CI job.
    Workload,
    /// The operator of this machine: the Unix socket of the admin listener.
    Operator,
}

impl Kind {
    /// Its name in logs and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User => "user",
            Self::Robot => "robot",
            Self::Certificate => "certificate",
            Self::Workload => "workload",
            Self::Operator => "operator",
        }
    }
}

impl Principal {
    /// A client without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::of(Kind::Anonymous, "")
    }

    /// A user of this name.
    #[must_use]
    pub fn user(name: &str) -> Self {
        Self::of(Kind::User, name)
    }

    /// An identity without groups and claims.
    #[must_use]
    pub fn of(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.into(),
            groups: Vec::new(),
            claims: BTreeMap::new(),
            certificate: false,
            policies: Vec::new(),
            narrowed: Vec::new(),
        }
    }

    /// Somebody by credentials, which win, on a connection with this certificate. Who is nobody by them is who the certificate
    /// says.
    #[must_use]
    pub fn with_certificate(mut who: Arc<Self>, certificate: Option<&Arc<Self>>) -> Arc<Self> {
        match certificate {
            Some(certificate) if who.is_anonymous() => Arc::clone(certificate),
            Some(_) => {
                Arc::make_mut(&mut who).certificate = true;
                who
            }
            None => who,
        }
    }

    /// True if it has not said who it is.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.kind == Kind::Anonymous
    }

    /// The name that it has in logs: `alice`, `robot:ci`; nothing for an anonymous client.
    #[must_use]
    pub fn account(&self) -> Option<Cow<'_, str>> {
        match self.kind {
            Kind::Anonymous => None,
            Kind::User => Some(Cow::Borrowed(&*self.name)),
            Kind::Robot | Kind::Certificate | Kind::Workload | Kind::Operator => {
                Some(Cow::Owned(format!("{}:{}", self.kind.name(), self.name)))
            }
        }
    }

    /// As people are told of it: `user alice`, `anonymous`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.kind {
            Kind::Anonymous => self.kind.name().to_owned(),
            Kind::User | Kind::Robot | Kind::Certificate | Kind::Workload | Kind::Operator => {
                format!("{} {}", self.kind.name(), self.name)
            }
        }
    }
}
