use proptest::prelude::*;

use super::*;
use crate::oci::{Repository, UpstreamName};

fn source(name: &str) -> Source {
    let (upstream, repository) = name.split_once('/').unwrap();
    Source {
        upstream: UpstreamName::parse(upstream).unwrap(),
        repository: Repository::parse(repository).unwrap(),
    }
}

/// True if a pattern means `upstream/repository:tag`.
fn means(pattern: &str, name: &str) -> bool {
    let config = numbered(&[pattern]);
    let (source, tag) = split(name);
    config.of_tag(&source, &tag) != config.defaults
}

fn split(name: &str) -> (Source, Tag) {
    let (path, tag) = name.rsplit_once(':').unwrap();
    (source(path), Tag::parse(tag).unwrap())
}

/// One rule for each pattern, told apart by its `negative_ttl`: 1 for the first.
fn numbered(patterns: &[&str]) -> Config {
    let defaults = Policy {
        negative_ttl: Duration::ZERO,
        ..Policy::default()
    };
    let rule = |(at, pattern): (u64, &&str)| Rule {
        pattern: Pattern::parse(pattern).unwrap(),
        policy: Policy {
            negative_ttl: Duration::from_secs(at),
            ..defaults
        },
    };
    Config {
        defaults,
        rules: (1..).zip(patterns).map(rule).collect(),
        pins: Vec::new(),
    }
}

#[test]
fn what_patterns_mean() {
    for (pattern, name, expected) in [
        (
            "docker.io/library/*:latest",
            "docker.io/library/nginx:latest",
            true,
        ),
        (
            "docker.io/library/*:latest",
            "docker.io/library/nginx:1.27",
            false,
        ),
        (
            "docker.io/library/*:latest",
            "docker.io/library/a/b:latest",
            false,
        ),
        (
            "docker.io/library/*:latest",
            "quay.io/library/nginx:latest",
            false,
        ),
        (
            "Docker.IO/library/nginx",
            "docker.io/library/nginx:1.27",
            true,
        ),
        (
            "docker.io/library/nginx",
            "docker.io/library/nginx2:1",
            false,
        ),
        (
            "docker.io/library/nginx",
            "docker.io/library/nginx/x:1",
            false,
        ),
        ("docker.io/**", "docker.io/library/nginx:1", true),
        ("docker.io/**", "docker.io/a/b/c/d:1", true),
        ("docker.io/**/nginx", "docker.io/nginx:1", true),
        ("docker.io/**/nginx", "docker.io/a/b/nginx:1", true),
        ("docker.io/**/nginx", "docker.io/a/nginx/b:1", false),
        ("**/a/**/a/b", "x.io/a/a/b/a/a/b:1", true),
        ("**/a/**/a/b", "x.io/a/b:1", false),
        ("**", "x.io/a:1", true),
        ("**:v*", "x.io/a/b:v1.2", true),
        ("**:v*", "x.io/a/b:1.2", false),
        ("*/a", "x.io/a:1", true),
        ("*.io/a", "x.com/a:1", false),
        ("x.io/*-cache*:*-*", "x.io/go-cache-2:1-a", true),
        ("x.io/*-cache*:*-*", "x.io/go-cache-2:1a", false),
        ("x.io/a*a", "x.io/a:1", false),
        ("x.io/a*a", "x.io/aa:1", true),
        ("x.io/*ab*ab", "x.io/abab:1", true),
        ("x.io/*ab*ab", "x.io/aab:1", false),
        ("localhost:5000/app", "localhost:5000/app:1", true),
        ("localhost:5000/app:1", "localhost:5000/app:1", true),
        ("localhost:5000/app:1", "localhost:5000/app:2", false),
        ("x.io/a:V1", "x.io/a:V1", true),
        ("x.io/a:V1", "x.io/a:v1", false),
    ] {
        assert_eq!(means(pattern, name), expected, "{pattern} and {name}");
    }
}

#[test]
fn what_is_no_pattern() {
    let long = format!("x.io/{}", "a".repeat(PATTERN_CHARS_MAX));
    for (text, expected) in [
        ("", PatternError::Empty),
        ("/a", PatternError::Empty),
        ("x.io/", PatternError::Empty),
        ("x.io//a", PatternError::Empty),
        ("x.io/a:", PatternError::Empty),
        ("x.io/a**", PatternError::Stars),
        ("x.io/a:**", PatternError::Stars),
        ("x.io/***", PatternError::Stars),
        ("x.io/A", PatternError::Character('A')),
        ("x.io/a?", PatternError::Character('?')),
        ("x.io/a:b:c", PatternError::Character(':')),
        ("x.io/a@sha256:abc", PatternError::Character('@')),
        ("x.io", PatternError::NoRepository),
        ("*", PatternError::NoRepository),
        ("localhost:5000", PatternError::NoRepository),
        (&long, PatternError::TooLong),
    ] {
        assert_eq!(Pattern::parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn the_first_rule_that_matches_wins() {
    let config = numbered(&["x.io/a:v1", "x.io/*", "**:v1", "**"]);
    for (name, rule) in [
        ("x.io/a:v1", 1),
        ("x.io/a:v2", 2),
        ("x.io/a/b:v1", 3),
        ("y.io/a:v2", 4),
    ] {
        let (source, tag) = split(name);
        let policy = config.of_tag(&source, &tag);
        assert_eq!(policy.negative_ttl.as_secs(), rule, "{name}");
    }
    let of_repository = |name: &str| config.of_repository(&source(name)).negative_ttl.as_secs();
    assert_eq!(of_repository("x.io/a"), 2, "the first that means every tag");
    assert_eq!(of_repository("x.io/a/b"), 4);
    let none = numbered(&["x.io/a:v1"]);
    assert_eq!(none.of_repository(&source("x.io/a")), none.defaults);
}

#[test]
fn each_failure_is_chosen_by_itself() {
    let all = [
        Failure::Unreachable,
        Failure::ServerError,
        Failure::RateLimited,
        Failure::Denied,
    ];
    for chosen in all {
        let policy = Policy {
            stale_on: StaleOn::NOTHING.with(chosen),
            ..Policy::default()
        };
        for failure in all {
            assert_eq!(policy.serves_stale(failure), failure == chosen);
        }
        assert!(!policy.serves_stale(Failure::Deleted));
    }
    let kept = Policy {
        stale_on: StaleOn::NOTHING,
        keep_deleted: true,
        ..Policy::default()
    };
    assert!(kept.serves_stale(Failure::Deleted));
    assert!(!kept.serves_stale(Failure::Unreachable));
}

proptest! {
    /// Against the obvious way of matching, which takes exponential time.
    #[test]
    fn matching_agrees_with_trying_everything(
        pattern in prop::collection::vec("\\*\\*|[ab*]{1,4}", 1..5),
        path in prop::collection::vec("[ab]{1,4}", 2..6),
    ) {
        let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Ok(parsed) = Pattern::parse(&pattern.join("/")) {
            prop_assert_eq!(parsed.means_path(&path), steps_match(&pattern, &path));
        }
    }
}

fn steps_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, _) => path.is_empty(),
        (Some((&"**", rest)), _) => (0..=path.len()).any(|skip| steps_match(rest, &path[skip..])),
        (Some((first, rest)), Some((component, behind))) => {
            text_matches(first.as_bytes(), component.as_bytes()) && steps_match(rest, behind)
        }
        (Some(_), None) => false,
    }
}

fn text_matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| text_matches(rest, &text[skip..])),
        (Some((first, rest)), Some((byte, behind))) => first == byte && text_matches(rest, behind),
        (Some(_), None) => false,
    }
}
