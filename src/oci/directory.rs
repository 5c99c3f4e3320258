//! Which upstream a request means: the closed list of configured names.

use super::{Repository, UpstreamName};

/// The configured upstreams, as far as naming goes.
#[derive(Clone, Debug)]
pub struct Directory {
    entries: Vec<Entry>,
}

/// One upstream's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its public name.
    pub name: UpstreamName,
    /// Requests that name no upstream go here.
    pub default: bool,
    /// `Host` names that select it (compared without case; an entry without a port matches any port).
    pub hosts: Vec<String>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The upstream.
    pub upstream: UpstreamName,
    /// The repository in it.
    pub repository: Repository,
}

/// Why a request goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The upstream is not configured (or none was named and there is no default). Says which exist.
    #[error("upstream {name:?} is not configured here; known upstreams: {known}")]
    Unknown {
        /// What was asked for, shortened to a sane length.
        name: String,
        /// The configured names, separated by `, `.
        known: String,
    },
    /// The rest is not a repository name.
    #[error("invalid repository name")]
    Repository,
}

impl Directory {
    /// A directory of these entries (at most one default: config has checked it).
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        todo!()
    }

    /// Finds the upstream and repository of a request: `ns`, `Host`, first path component, default,
    /// in this order (first match wins). When the first path component looks like a registry's host
    /// (it has a `.` or `:`, or is `localhost`), more follows, and it is not configured: Unknown.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(
        &self,
        ns: Option<&str>,
        host: Option<&str>,
        path: &str,
    ) -> Result<Source, ResolveError> {
        todo!()
    }

    /// The configured names, in order.
    pub fn names(&self) -> impl Iterator<Item = &UpstreamName> {
        self.entries.iter().map(|e| &e.name)
    }
}
