//! Configuration of what is done about tags: rules, and what the environment can say.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests too, which clippy does not see"
)]

use std::time::Duration;

use roadstead::config::{Config, Overrides};
use roadstead::mirror::{self, Failure, Policy, Revalidate, StaleOn, Ttl};

/// The configuration of a file with this text, and of these variables.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's own file, outside any store"
)]
fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let flags = Overrides {
        config: Some(path),
        ..Overrides::default()
    };
    let variables = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    Config::from_layers(&flags, variables, &[]).map_err(|error| error.to_string())
}

/// What a rule leaves unsaid is as `[tags]` says, in whichever layer, and not as another rule says.
#[test]
fn a_tag_rule_fills_its_gaps_from_the_defaults() {
    let text = "[[tags.rule]]\nmatch = \"ghcr.io/**\"\nttl = \"forever\"\nkeep_deleted = true\n\
         [[tags.rule]]\nmatch = \"ghcr.io/org/app:v1\"\nstale_on = [\"denied\"]\n\
         [tags]\nnegative_ttl = \"3s\"\nttl = \"5m\"\n";
    let config = load(text, &[("ROADSTEAD_TAGS__TTL", "7s")]).unwrap();
    let defaults = Policy {
        ttl: Ttl::For(Duration::from_secs(7)),
        negative_ttl: Duration::from_secs(3),
        ..Policy::default()
    };
    assert_eq!(config.tags.defaults, defaults);
    let rules: Vec<_> = config
        .tags
        .rules
        .iter()
        .map(|rule| (rule.pattern.as_str(), rule.policy))
        .collect();
    let pinned = Policy {
        ttl: Ttl::Forever,
        keep_deleted: true,
        ..defaults
    };
    let denied = Policy {
        stale_on: StaleOn::NOTHING.with(Failure::Denied),
        ..defaults
    };
    assert_eq!(
        rules,
        [("ghcr.io/**", pinned), ("ghcr.io/org/app:v1", denied)]
    );
}

#[test]
fn the_environment_sets_every_default() {
    let config = load(
        "",
        &[
            ("ROADSTEAD_TAGS__TTL", "forever"),
            ("ROADSTEAD_TAGS__REVALIDATE", "background"),
            ("ROADSTEAD_TAGS__STALE_IF_ERROR", "1d"),
            ("ROADSTEAD_TAGS__STALE_ON", "429, denied"),
            ("ROADSTEAD_TAGS__KEEP_DELETED", "true"),
            ("ROADSTEAD_TAGS__NEGATIVE_TTL", "0s"),
        ],
    )
    .unwrap();
    let expected = Policy {
        ttl: Ttl::Forever,
        revalidate: Revalidate::Background,
        stale_if_error: Duration::from_hours(24),
        stale_on: StaleOn::NOTHING
            .with(Failure::RateLimited)
            .with(Failure::Denied),
        keep_deleted: true,
        negative_ttl: Duration::ZERO,
    };
    assert_eq!(config.tags, mirror::Config::of(expected));
    let none = load("", &[("ROADSTEAD_TAGS__STALE_ON", "")]).unwrap();
    assert_eq!(none.tags.defaults.stale_on, StaleOn::NOTHING);
}

#[test]
fn the_environment_names_no_rule() {
    for (name, value, expected) in [
        (
            "ROADSTEAD_TAGS__RULE",
            "docker.io/**",
            "no key has this name",
        ),
        ("ROADSTEAD_TAGS__RULE__TTL", "1s", "no key has this name"),
        (
            "ROADSTEAD_TAGS__STALE_ON",
            "5xx,404",
            "tags.stale_on: \"404\" is none of \"unreachable\", \"5xx\", \"429\", \"denied\"",
        ),
    ] {
        let error = load("", &[(name, value)]).unwrap_err();
        assert_eq!(error, format!("{name}: {expected}"));
    }
}
