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
    let (host, port) = split_port(&name);
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = if DOCKER_HUB_HOSTS.contains(&host) {
        DOCKER_HUB
    } else {
        host
    };
    match port.filter(|port| !DEFAULT_PORTS.contains(port)) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Tells, as the reference grammar does, a registry from a namespace (distribution/reference, normalize.go).
fn looks_like_host(component: &str) -> bool {
    component.contains(['.', ':']) || component.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(name: &str, default: bool, hosts: &[&str]) -> Entry {
        Entry {
            name: UpstreamName::parse(name).unwrap(),
            default,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    fn directory() -> Directory {
        Directory::new(vec![
            entry("docker.io", true, &[]),
            entry("ghcr.io", false, &["GHCR.mirror.corp", "10.0.0.1"]),
            entry("quay.io", false, &["ghcr.mirror.corp:8443", "[::1]:5000"]),
            entry("localhost:5000", false, &["[::1]"]),
            entry("harbor", false, &[]),
        ])
    }

    /// `upstream repository`, or the error's text.
    fn resolve(ns: Option<&str>, host: Option<&str>, path: &str) -> String {
        match directory().resolve(ns, host, path) {
            Ok(source) => format!("{} {}", source.upstream, source.repository),
            Err(ResolveError::Unknown { name, .. }) => format!("unknown {name}"),
            Err(ResolveError::Repository) => "invalid".to_owned(),
        }
    }

    #[test]
    fn the_first_match_wins() {
        let mirror = Some("ghcr.mirror.corp");
        for (ns, host, path, expected) in [
            // ns
            (
                Some("quay.io"),
                mirror,
                "ghcr.io/a/b",
                "quay.io ghcr.io/a/b",
            ),
            (
                Some("Docker.IO"),
                None,
                "library/nginx",
                "docker.io library/nginx",
            ),
            (Some("localhost:5000"), None, "a", "localhost:5000 a"),
            (Some("localhost"), None, "a", "unknown localhost"),
            (Some("localhost:5001"), None, "a", "unknown localhost:5001"),
            (Some("evil.example"), mirror, "a/b", "unknown evil.example"),
            (Some(""), None, "a/b", "unknown "),
            // Host
            (None, mirror, "quay.io/a", "ghcr.io quay.io/a"),
            (None, mirror, "a", "ghcr.io a"),
            // the first component
            (
                None,
                Some("127.0.0.1:5000"),
                "ghcr.io/org/app",
                "ghcr.io org/app",
            ),
            (None, None, "GHCR.io/org/app", "ghcr.io org/app"),
            (None, None, "localhost:5000/a", "localhost:5000 a"),
            (None, None, "harbor/a", "harbor a"),
            (None, None, "quay.io/ghcr.io/a", "quay.io ghcr.io/a"),
            (None, None, "gcr.io/a/b", "unknown gcr.io"),
            (None, None, "localhost/a", "unknown localhost"),
            (None, None, "localhost:5001/a", "unknown localhost:5001"),
            // the default
            (None, None, "library/nginx", "docker.io library/nginx"),
            (None, Some("ghcr.io"), "org/app", "docker.io org/app"),
        ] {
            assert_eq!(resolve(ns, host, path), expected, "{ns:?} {host:?} {path}");
        }
    }

    #[test]
    fn what_a_request_addresses_is_known_without_a_repository() {
        let all = directory();
        let addressed = |ns, host, path| {
            let it = all.addressed(ns, host, path)?;
            Some((it.upstream.as_str(), it.by_host, it.is_named))
        };
        let mirror = Some("ghcr.mirror.corp");
        for (ns, host, path, expected) in [
            (None, None, None, Some(("docker.io", false, false))),
            (None, mirror, None, Some(("ghcr.io", true, true))),
            (Some("ghcr.io"), None, None, Some(("ghcr.io", false, true))),
            (Some("ghcr.io"), mirror, None, Some(("ghcr.io", true, true))),
            (
                Some("quay.io"),
                mirror,
                None,
                Some(("quay.io", false, true)),
            ),
            (Some("evil.example"), mirror, None, None),
            (
                None,
                None,
                Some("ghcr.io/a"),
                Some(("ghcr.io", false, true)),
            ),
            (None, None, Some("a/b"), Some(("docker.io", false, false))),
            (None, None, Some("gcr.io/a"), None),
            (
                None,
                mirror,
                Some("quay.io/a"),
                Some(("ghcr.io", true, true)),
            ),
        ] {
            assert_eq!(
                addressed(ns, host, path),
                expected,
                "{ns:?} {host:?} {path:?}"
            );
            // Where there is a repository, it is in that upstream.
            let source = path.map(|path| all.resolve(ns, host, path));
            if let Some(source) = source {
                let source = source.ok().map(|it| it.upstream);
                assert_eq!(
                    source.as_ref().map(UpstreamName::as_str),
                    expected.map(|it| it.0)
                );
            }
        }
    }

    #[test]
    fn a_name_may_be_written_in_other_ways_or_twice() {
        let mirror = Some("ghcr.mirror.corp");
        let rows = [
            (Some("docker.io:443"), None, "a/b", "docker.io a/b"),
            (Some("GHCR.io:443"), None, "a/b", "ghcr.io a/b"),
            (Some("ghcr.io:80"), None, "a/b", "ghcr.io a/b"),
            (Some("ghcr.io."), None, "a/b", "ghcr.io a/b"),
            (Some("ghcr.io:5000"), None, "a/b", "unknown ghcr.io:5000"),
            (Some("ghcr.io:"), None, "a/b", "unknown ghcr.io:"),
            (Some(":443"), None, "a/b", "unknown :443"),
            (Some("localhost:443"), None, "a/b", "unknown localhost:443"),
            (
                Some("registry-1.docker.io"),
                None,
                "nginx",
                "docker.io library/nginx",
            ),
            (Some("Index.Docker.io:443"), None, "a/b", "docker.io a/b"),
            (Some("x.docker.io"), None, "a/b", "unknown x.docker.io"),
            // the name twice
            (Some("ghcr.io"), None, "ghcr.io/a/b", "ghcr.io a/b"),
            (Some("ghcr.io"), None, "GHCR.io:443/a/b", "ghcr.io a/b"),
            (Some("ghcr.io:443"), mirror, "ghcr.io/a/b", "ghcr.io a/b"),
            (
                Some("ghcr.io"),
                None,
                "ghcr.io/ghcr.io/a",
                "ghcr.io ghcr.io/a",
            ),
            (Some("ghcr.io"), None, "ghcr.io", "ghcr.io ghcr.io"),
            (
                Some("docker.io"),
                None,
                "docker.io/nginx",
                "docker.io library/nginx",
            ),
            (
                Some("docker.io"),
                None,
                "registry-1.docker.io/nginx",
                "docker.io library/nginx",
            ),
            (
                Some("localhost:5000"),
                None,
                "localhost:5000/a",
                "localhost:5000 a",
            ),
            (Some("harbor"), None, "harbor/a", "harbor a"),
            (
                Some("docker.io"),
                None,
                "ghcr.io/a/b",
                "docker.io ghcr.io/a/b",
            ),
            (None, mirror, "ghcr.io/a/b", "ghcr.io a/b"),
            (None, None, "ghcr.io:443/a", "ghcr.io a"),
            (
                None,
                None,
                "index.docker.io/nginx",
                "docker.io library/nginx",
            ),
            (None, None, "registry-1.docker.io/a/b", "docker.io a/b"),
            (None, None, "ghcr.io:5000/a", "unknown ghcr.io:5000"),
        ];
        for (ns, host, path, expected) in rows {
            assert_eq!(resolve(ns, host, path), expected, "{ns:?} {host:?} {path}");
        }
    }

    #[test]
    fn hosts_match_without_case_and_with_their_port() {
        for (host, expected) in [
            ("ghcr.mirror.corp", "ghcr.io"),
            ("Ghcr.Mirror.Corp", "ghcr.io"),
            ("ghcr.mirror.corp.", "ghcr.io"),
            ("ghcr.mirror.corp:5000", "ghcr.io"),
            ("ghcr.mirror.corp.:5000", "ghcr.io"),
            ("10.0.0.1:80", "ghcr.io"),
            ("ghcr.mirror.corp:8443", "quay.io"),
            ("[::1]:5000", "quay.io"),
            ("[::1]:5001", "localhost:5000"),
            ("[::1]", "localhost:5000"),
            ("[::2]:5000", "docker.io"),
            ("mirror.corp", "docker.io"),
            ("x.ghcr.mirror.corp", "docker.io"),
            (":", "docker.io"),
            ("]:", "docker.io"),
            ("", "docker.io"),
        ] {
            let resolved = resolve(None, Some(host), "a/b");
            assert_eq!(resolved, format!("{expected} a/b"), "{host:?}");
        }
    }

    #[test]
    fn a_single_component_of_docker_hub_gets_its_namespace() {
        for (ns, path) in [
            (Some("docker.io"), "nginx"),
            (None, "docker.io/nginx"),
            (None, "nginx"),
            (None, "docker.io/library/nginx"),
        ] {
            assert_eq!(resolve(ns, None, path), "docker.io library/nginx");
        }
        // By another of its names it is the same registry, also in statements about it.
        let other = Directory::new(vec![entry("Index.docker.io", true, &[])]);
        let source = other.resolve(None, None, "nginx").unwrap();
        let read = understood("index.docker.io", "nginx");
        assert_eq!(source.repository.as_str(), read);
        assert_eq!(resolve(Some("quay.io"), None, "nginx"), "quay.io nginx");
        assert_eq!(resolve(None, None, "quay.io/nginx"), "quay.io nginx");
    }

    #[test]
    fn bad_repositories_are_refused_wherever_they_go() {
        for (ns, path) in [
            (Some("docker.io"), ""),
            (Some("quay.io"), ""),
            (None, "quay.io/"),
            (None, "quay.io/../a"),
            (None, "quay.io/A"),
            (None, "a//b"),
            (None, "/a"),
            (None, ""),
        ] {
            assert_eq!(resolve(ns, None, path), "invalid", "{ns:?} {path:?}");
        }
    }

    #[test]
    fn errors_say_which_upstreams_exist_and_quote_little() {
        let error = directory()
            .resolve(Some(&"x".repeat(5000)), None, "a")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "upstream \"{}\" is not configured here; \
                 known upstreams: docker.io, ghcr.io, quay.io, localhost:5000, harbor",
                "x".repeat(100)
            )
        );
    }

    #[test]
    fn without_a_default_an_upstream_must_be_named() {
        let directory = Directory::new(vec![entry("quay.io", false, &[])]);
        assert_eq!(
            directory.resolve(None, None, "org/app"),
            Err(ResolveError::Unknown {
                name: "org".to_owned(),
                known: "quay.io".to_owned(),
            })
        );
        assert!(directory.resolve(None, None, "quay.io/org/app").is_ok());
    }

    proptest! {
        #[test]
        fn only_configured_names_are_ever_resolved(
            ns in prop::option::of("(docker|quay|ghcr|evil)\\.io|\\PC{0,12}"),
            host in prop::option::of("(ghcr\\.mirror\\.corp|evil)(:[0-9]{1,5})?|\\PC{0,12}"),
            path in "((docker|quay|evil)\\.io/)?[a-z]{1,4}(/[a-z]{1,4}){0,2}|\\PC{0,12}",
        ) {
            let directory = directory();
            if let Ok(source) = directory.resolve(ns.as_deref(), host.as_deref(), &path) {
                prop_assert!(directory.names().any(|name| *name == source.upstream));
                // The text after the upstream's name is the repository, give or take `library/`.
                let repository = source.repository.as_str();
                prop_assert!(path.ends_with(repository.trim_start_matches("library/")));
                if let Some(ns) = ns {
                    prop_assert_eq!(source.upstream.as_str(), canonical(&ns));
                }
            }
        }
    }
}
