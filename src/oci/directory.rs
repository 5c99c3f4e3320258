//! Choice of the upstream that a request means: the closed list of configured names.

use std::borrow::Cow;

use super::{Repository, UpstreamName, error::shorten, name::split_port};

/// The upstream whose official images stand in a namespace that people leave out.
const DOCKER_HUB: &str = "docker.io";
/// That namespace.
const DOCKER_HUB_NAMESPACE: &str = "library";
/// The names of Docker Hub's servers, which clients and their configurations take for its name.
const DOCKER_HUB_HOSTS: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];
/// The server that gives tokens for Docker Hub, and gets its users' passwords.
const DOCKER_HUB_TOKEN_SERVER: &str = "auth.docker.io";
/// The ports that a name means anyway (RFC 9110 section 4.2).
const DEFAULT_PORTS: [&str; 2] = ["443", "80"];

/// The configured upstreams, as far as naming goes.
#[derive(Clone, Debug)]
pub struct Directory {
    /// As configured, but for the `hosts`, which are held lower case.
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

/// The destination of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The upstream.
    pub upstream: UpstreamName,
    /// The repository in it.
    pub repository: Repository,
}

/// The upstream that a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressed<'a> {
    /// It.
    pub upstream: &'a UpstreamName,
    /// The request was sent to a host name of the upstream's own.
    pub by_host: bool,
    /// The request names it; false: it is the default.
    pub is_named: bool,
}

/// Reason why a request goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The upstream is not configured (or none was named and there is no default). Says which exist.
    #[error("upstream {name:?} is not configured here; known upstreams: {known}")]
    Unknown {
        /// The name asked for, shortened to a sane length.
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
    pub fn new(mut entries: Vec<Entry>) -> Self {
        for host in entries.iter_mut().flat_map(|entry| &mut entry.hosts) {
            host.make_ascii_lowercase();
        }
        Self { entries }
    }

    /// Finds the upstream and repository of a request: `ns`, `Host`, first path component, default,
    /// in this order (first match wins). When the first path component looks like a registry's host
    /// (it has a `.` or `:`, or is `localhost`), more follows, and it is not configured: Unknown.
    ///
    /// A name given in `ns` decides alone: one that is not configured is Unknown, whatever the
    /// `Host`. A path that begins with the name once more means it once: containerd with `override_path`,
    /// and rewriting front ends, send both. On Docker Hub a single component gets `library/`, in every
    /// style, as no other repository there has but one.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(
        &self,
        ns: Option<&str>,
        host: Option<&str>,
        path: &str,
    ) -> Result<Source, ResolveError> {
        if let Some(ns) = ns {
            let entry = self.by_name(ns).ok_or_else(|| self.unknown(ns))?;
            return entry.source(self.named_once(entry, path));
        }
        if let Some(entry) = host.and_then(|host| self.by_host(host)) {
            let says_host = path.split('/').next().is_some_and(looks_like_host);
            return entry.source(if says_host {
                self.named_once(entry, path)
            } else {
                path
            });
        }
        let first = match path.split_once('/') {
            Some((first, rest)) => {
                if let Some(entry) = self.by_name(first) {
                    return entry.source(rest);
                }
                if looks_like_host(first) {
                    return Err(self.unknown(first));
                }
                first
            }
            None => path,
        };
        let default = self.entries.iter().find(|entry| entry.default);
        default.ok_or_else(|| self.unknown(first))?.source(path)
    }

    /// The upstream that a request addresses, whether or not it names a repository: the rules of [`Directory::resolve`].
    /// `path`: nothing for `/v2/` and lists of all repositories.
    #[must_use]
    pub fn addressed<'s>(
        &'s self,
        ns: Option<&str>,
        host: Option<&str>,
        path: Option<&str>,
    ) -> Option<Addressed<'s>> {
        let by_host = host.and_then(|host| self.by_host(host));
        let of = |entry: &'s Entry| Addressed {
            upstream: &entry.name,
            by_host: by_host == Some(entry),
            is_named: true,
        };
        if let Some(ns) = ns {
            return self.by_name(ns).map(of);
        }
        if let Some(entry) = by_host {
            return Some(of(entry));
        }
        if let Some((first, _)) = path.and_then(|path| path.split_once('/')) {
            if let Some(entry) = self.by_name(first) {
                return Some(of(entry));
            }
            if looks_like_host(first) {
                return None;
            }
        }
        let default = self.entries.iter().find(|entry| entry.default);
        default.map(|entry| Addressed {
            is_named: false,
            ..of(entry)
        })
    }

    /// The configured names, in order.
    pub fn names(&self) -> impl Iterator<Item = &UpstreamName> {
        self.entries.iter().map(|e| &e.name)
    }

    /// The entry of exactly this name, or else the one that the name means by another spelling.
    fn by_name(&self, name: &str) -> Option<&Entry> {
        let mut entries = self.entries.iter();
        let exact = entries.find(|entry| entry.name.as_str().eq_ignore_ascii_case(name));
        // Most paths begin with a repository's own name: they are not looked at twice.
        if exact.is_some() || !looks_like_host(name) {
            return exact;
        }
        let wanted = canonical(name);
        let mut entries = self.entries.iter();
        entries.find(|entry| canonical(entry.name.as_str()) == wanted)
    }

    /// The part that follows the upstream's name in a path that begins with it; else all of the path.
    fn named_once<'a>(&self, entry: &Entry, path: &'a str) -> &'a str {
        match path.split_once('/') {
            Some((first, rest)) if self.by_name(first) == Some(entry) => rest,
            Some(_) | None => path,
        }
    }

    /// Entries with a port are the more exact ones, and go first.
    fn by_host(&self, header: &str) -> Option<&Entry> {
        if self.entries.iter().all(|entry| entry.hosts.is_empty()) {
            return None;
        }
        let header = header.trim().to_ascii_lowercase();
        let (host, _) = split_port(&header);
        // The root's dot, which some resolvers' users write.
        let host = host.strip_suffix('.').unwrap_or(host);
        let having = |wanted: &str| {
            self.entries
                .iter()
                .find(|entry| entry.hosts.iter().any(|host| host == wanted))
        };
        having(&header).or_else(|| having(host))
    }

    fn unknown(&self, name: &str) -> ResolveError {
        let known: Vec<&str> = self.names().map(UpstreamName::as_str).collect();
        ResolveError::Unknown {
            name: shorten(name),
            known: known.join(", "),
        }
    }
}

impl Entry {
    fn source(&self, path: &str) -> Result<Source, ResolveError> {
        let repository = understood(self.name.as_str(), path);
        Ok(Source {
            upstream: self.name.clone(),
            repository: Repository::parse(&repository).map_err(|_| ResolveError::Repository)?,
        })
    }
}

/// The hosts that clients connect to for an upstream: its own name and its other ones, with their ports if they have some.
#[must_use]
pub fn hosts_of(name: &UpstreamName) -> Vec<&str> {
    let others: &[&str] = if is_docker_hub(name) {
        &DOCKER_HUB_HOSTS
    } else {
        &[]
    };
    let own = name.as_str();
    let others = others.iter().copied().filter(|other| *other != own);
    std::iter::once(own).chain(others).collect()
}

/// The host of an upstream's token server, where that is known and is none of its own hosts.
#[must_use]
pub fn token_server(name: &UpstreamName) -> Option<&'static str> {
    is_docker_hub(name).then_some(DOCKER_HUB_TOKEN_SERVER)
}

fn is_docker_hub(name: &UpstreamName) -> bool {
    canonical(name.as_str()) == DOCKER_HUB
}

/// The repository that is meant where a request or a policy's statement names this one: Docker Hub, by whichever of its
/// names, has none of one component.
#[must_use]
pub fn understood<'a>(upstream: &str, repository: &'a str) -> Cow<'a, str> {
    if !repository.contains('/') && canonical(upstream) == DOCKER_HUB {
        format!("{DOCKER_HUB_NAMESPACE}/{repository}").into()
    } else {
        repository.into()
    }
}

/// True if a registry's name is what [`canonical`] makes of it: nearly all are.
#[must_use]
pub fn is_canonical(name: &str) -> bool {
    let is_other = |byte: u8| byte.is_ascii_uppercase() || byte == b':';
    !name.bytes().any(is_other) && !name.ends_with('.') && !DOCKER_HUB_HOSTS.contains(&name)
}

/// A registry's name without what makes no difference: case, the root's dot, a port that is meant anyway; and
/// Docker Hub's own for those of its servers.
#[must_use]
pub fn canonical(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let mut rest = name.as_str();
    // What is left may be another such name: of a text that is no name there may be several.
    loop {
        let (host, port) = split_port(rest);
        let port = port.filter(|port| !DEFAULT_PORTS.contains(port));
        let host = host.trim_end_matches('.');
        match port {
            Some(port) if DOCKER_HUB_HOSTS.contains(&host) => {
                return format!("{DOCKER_HUB}:{port}");
            }
            Some(port) => return format!("{host}:{port}"),
            None if DOCKER_HUB_HOSTS.contains(&host) => return DOCKER_HUB.to_owned(),
            None if host.len() == rest.len() => return host.to_owned(),
            None => rest = host,
        }
    }
}

/// Tells, as the reference grammar does, a registry from a namespace (distribution/reference, normalize.go).
fn looks_like_host(component: &str) -> bool {
    component.contains(['.', ':']) || component.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests;
