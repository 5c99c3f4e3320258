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

proptest! {
    /// Whatever is written, its canonical name is one.
    #[test]
    fn a_canonical_name_is_canonical(name in "[a-zA-Z.:\\[\\]0-9]{0,12}(docker\\.io)?[.:]{0,3}(443|80|5000)?[.:]{0,2}(443)?") {
        let once = canonical(&name);
        prop_assert_eq!(canonical(&once), once.clone());
        prop_assert_eq!(is_canonical(&name) , once == name && !name.contains(':'));
    }
}
