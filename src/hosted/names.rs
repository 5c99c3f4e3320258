//! The names that are hosted. Two names never mean one place: a namespace has no dot and no colon, so that it is no
//! upstream's name; `library` is nobody's, since bare names of Docker Hub begin with it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::error::HostedError;
use super::ranges::{NameRange, Ordered};
use super::{Config, Fall, Namespace, NamespaceWanted, Overlay};
use crate::oci::Repository;
use crate::oci::name::NameError;

/// Names that no namespace has: Docker Hub's official images, and the machine itself, which is an upstream's name.
const RESERVED: [&str; 2] = ["library", "localhost"];

/// The names that are hosted.
#[derive(Debug)]
pub struct Names {
    known: ArcSwap<HashMap<String, NamespaceWanted>>,
    /// Names of namespaces that were deleted and can be restored: nobody else is asked for what is in them.
    kept: ArcSwap<HashSet<String>>,
    /// The catalogue was read: there are no others.
    are_known: AtomicBool,
    hosts: ArcSwap<Vec<String>>,
    overlays: ArcSwap<Vec<Overlay>>,
    /// The beginnings of the names of hosted repositories, sorted.
    ordered: ArcSwap<Ordered>,
}

/// The place that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A hosted repository, of a namespace that is there or not.
    Hosted(Repository),
    /// A hosted repository, if somebody pushes to it and its namespace may be made; else the default upstream's.
    Bare(Repository),
    /// An upstream's.
    Mirrored,
}

/// Sees that a namespace may have this name.
///
/// # Errors
/// [`HostedError::Name`].
pub fn check(name: &str) -> Result<(), HostedError> {
    let is_component = Repository::parse(name).is_ok() && !name.contains(['/', '.', ':']);
    if !is_component {
        let why = format!(
            "{name:?} cannot be a namespace: lower-case letters, digits, and _ - between them"
        );
        return Err(HostedError::Name(why));
    }
    if RESERVED.contains(&name) {
        let why = format!("{name:?} is reserved, and cannot be a namespace");
        return Err(HostedError::Name(why));
    }
    Ok(())
}

/// The namespace of a repository.
#[must_use]
pub(super) fn namespace_of(repository: &Repository) -> &str {
    repository.as_str().split('/').next().unwrap_or_default()
}

impl Names {
    pub(super) fn new(config: &Config) -> Self {
        let names = Self {
            known: ArcSwap::default(),
            kept: ArcSwap::default(),
            are_known: AtomicBool::new(false),
            hosts: ArcSwap::default(),
            overlays: ArcSwap::default(),
            ordered: ArcSwap::default(),
        };
        names.replace(config);
        // Until the catalogue has been read, those of the file are there.
        let declared = config.namespaces.iter();
        let declared = declared.map(|it| (it.name.clone(), it.clone()));
        names.known.store(Arc::new(declared.collect()));
        names.order();
        names
    }

    pub(super) fn replace(&self, config: &Config) {
        let hosts = config.hosts.iter().map(|host| host.to_ascii_lowercase());
        self.hosts.store(Arc::new(hosts.collect()));
        self.overlays.store(Arc::new(config.overlays.clone()));
    }

    pub(super) fn know(&self, all: Vec<Namespace>, kept: Vec<String>) {
        self.kept.store(Arc::new(kept.into_iter().collect()));
        let all = all
            .into_iter()
            .map(|it| (it.wanted.name.clone(), it.wanted));
        self.known.store(Arc::new(all.collect()));
        self.order();
        self.are_known.store(true, Ordering::Release);
    }

    fn order(&self) {
        self.ordered
            .store(Arc::new(Ordered::of(self.known.load().values())));
    }

    /// The parts of a sorted list of repositories in which somebody may see something: names begin with one of these,
    /// and are of a public namespace, or `with_private`.
    #[must_use]
    pub fn ranges(&self, beginnings: &[String], with_private: bool) -> Vec<NameRange> {
        self.ordered.load().ranges(beginnings, with_private)
    }

    /// True if all namespaces are known.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.are_known.load(Ordering::Acquire)
    }

    /// True if everything at this host is hosted.
    #[must_use]
    pub fn is_host(&self, host: &str) -> bool {
        let hosts = self.hosts.load();
        if hosts.is_empty() {
            return false;
        }
        let host = host.trim().to_ascii_lowercase();
        let (name, _port) = crate::oci::name::split_port(&host);
        let name = name.strip_suffix('.').unwrap_or(name);
        hosts.iter().any(|own| *own == host || own == name)
    }

    /// A namespace.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<NamespaceWanted> {
        self.known.load().get(name).cloned()
    }

    /// The namespace of a repository.
    #[must_use]
    pub fn of(&self, repository: &Repository) -> Option<NamespaceWanted> {
        self.namespace(namespace_of(repository))
    }

    /// The place that a name means at a host. `is_named`: the request names an upstream. What is bare belongs to a
    /// namespace only if it has two components: `app` means Docker Hub's `library/app`.
    ///
    /// # Errors
    /// [`NameError`]: it can be no repository, and all at that host are hosted.
    pub fn place(
        &self,
        host: Option<&str>,
        ns: Option<&str>,
        path: &str,
        is_named: bool,
    ) -> Result<Place, NameError> {
        let is_own = match ns {
            Some(ns) => self.is_host(ns),
            None => host.is_some_and(|host| self.is_host(host)),
        };
        if is_own {
            return Repository::parse(path).map(Place::Hosted);
        }
        if is_named || ns.is_some() {
            return Ok(Place::Mirrored);
        }
        let Some((first, _)) = path.split_once('/') else {
            return Ok(Place::Mirrored);
        };
        let Ok(repository) = Repository::parse(path) else {
            return Ok(Place::Mirrored);
        };
        if self.known.load().contains_key(first) || self.kept.load().contains(first) {
            return Ok(Place::Hosted(repository));
        }
        if check(first).is_ok() && !self.are_known() {
            // It may be one of the catalogue's: nobody else is asked for it.
            return Ok(Place::Hosted(repository));
        }
        Ok(if check(first).is_ok() {
            Place::Bare(repository)
        } else {
            Place::Mirrored
        })
    }

    /// The hosted repository that comes before an upstream's.
    #[must_use]
    pub fn overlay(&self, upstream: &str, repository: &str) -> Option<(Repository, Fall)> {
        let overlays = self.overlays.load();
        overlays.iter().find_map(|overlay| {
            let (of, prefix) = overlay.name.split_once('/')?;
            let rest = repository.strip_prefix(prefix).filter(|_| of == upstream)?;
            let rest = rest.strip_prefix('/')?;
            let hosted = Repository::parse(&format!("{}/{rest}", overlay.hosted));
            hosted.ok().map(|it| (it, overlay.fall))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosted::Visibility;

    fn names() -> Names {
        let namespace = |name: &str| NamespaceWanted {
            name: name.to_owned(),
            visibility: Visibility::Public,
            quota: None,
            sparse: false,
        };
        Names::new(&Config {
            hosts: vec!["Registry.corp".to_owned()],
            namespaces: vec![namespace("team")],
            overlays: vec![Overlay {
                name: "docker.io/acme".to_owned(),
                hosted: "team".to_owned(),
                fall: Fall::Repository,
            }],
            ..Config::default()
        })
    }

    #[test]
    fn a_name_means_one_place() {
        let names = names();
        let unknown = names.place(None, None, "other/app", false);
        assert!(matches!(unknown, Ok(Place::Hosted(_))), "it may be hosted");
        names.are_known.store(true, Ordering::Release);
        let repository = |path: &str| Repository::parse(path).unwrap();
        let hosted = |path: &str| Ok(Place::Hosted(repository(path)));
        let bare = |path: &str| Ok(Place::Bare(repository(path)));
        let place = |host, ns, path, named| names.place(host, ns, path, named);
        assert_eq!(place(None, None, "team/app", false), hosted("team/app"));
        assert_eq!(place(None, None, "other/app", false), bare("other/app"));
        assert_eq!(place(None, None, "library/app", false), Ok(Place::Mirrored));
        assert_eq!(place(None, None, "team", false), Ok(Place::Mirrored));
        assert_eq!(
            place(None, None, "docker.io/team/app", true),
            Ok(Place::Mirrored)
        );
        names
            .kept
            .store(Arc::new(HashSet::from(["other".to_owned()])));
        assert_eq!(place(None, None, "other/app", false), hosted("other/app"));
        let own = Some("registry.corp:5000");
        assert_eq!(place(own, None, "app", false), hosted("app"));
        assert_eq!(
            place(own, None, "library/app", false),
            hosted("library/app")
        );
        assert!(place(own, None, "Not/Ours", false).is_err());
        assert_eq!(
            place(own, Some("docker.io"), "team/app", true),
            Ok(Place::Mirrored)
        );
        assert_eq!(
            place(None, Some("registry.corp"), "a/b", false),
            hosted("a/b")
        );
    }

    #[test]
    fn some_names_are_nobodys() {
        for name in ["library", "localhost", "a.b", "a:1", "A", "", "a/b", "-a"] {
            assert!(check(name).is_err(), "{name}");
        }
        for name in ["team", "a-b", "a_b", "0"] {
            assert!(check(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_overlay_is_found_by_whole_components() {
        let names = names();
        let found = names.overlay("docker.io", "acme/app/x");
        let expected = Repository::parse("team/app/x").unwrap();
        assert_eq!(found, Some((expected, Fall::Repository)));
        for (upstream, repository) in [
            ("docker.io", "acmes/app"),
            ("docker.io", "acme"),
            ("quay.io", "acme/app"),
        ] {
            assert_eq!(names.overlay(upstream, repository), None);
        }
    }
}
