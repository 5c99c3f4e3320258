//! Mistakes: all of a file are told at once, and each says what to write instead.

use roadstead::config::Overrides;

use super::{Written, environment, file};

fn errors(text: &str) -> Vec<String> {
    let error = file(text).unwrap_err();
    error.lines().map(str::to_owned).collect()
}

#[test]
fn everything_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let written = Written::new(
        "[server]
lisen = \":5000\"
drain_timeout = 30
[tags]
stale_on = [\"5xx\", \"404\", \"403\"]
[[tags.rule]]
ttl = \"soon\"
[[tags.rule]]
match = \"docker.io\"
[upstream.\"a.io\"]
endpoints = [\"a.io\", { url = \"https://b\", ca = \"x\" }]
parallel = 0
credentials = [{ exec = [] }, { provider = \"gar\", key = \"x\" }]
[upstream.\"b.io\"]
hosts = \"b\"
proxy = \"ftp://p\"
",
    );
    let variables = [
        ("ROADSTEAD_CACHE__MAX_SIZE", "lots"),
        ("ROADSTEAD_CACHE__SIZE", "1GB"),
    ];
    let error = written.load(&variables, Overrides::default()).unwrap_err();
    let starts: Vec<String> = error
        .lines()
        .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        starts,
        [
            "config.toml:2: server.lisen",
            "config.toml:3: server.drain_timeout",
            "config.toml:5: tags.stale_on",
            "config.toml:5: tags.stale_on",
            "config.toml:6: tags.rule.match",
            "config.toml:7: tags.rule.ttl",
            "config.toml:9: tags.rule.match",
            "config.toml:11: upstream.\"a.io\".endpoints",
            "config.toml:11: upstream.\"a.io\".endpoints.ca",
            "config.toml:12: upstream.\"a.io\".parallel",
            "config.toml:13: upstream.\"a.io\".credentials.exec",
            "config.toml:13: upstream.\"a.io\".credentials.key",
            "config.toml:14: upstream.\"b.io\".endpoints",
            "config.toml:15: upstream.\"b.io\".hosts",
            "config.toml:16: upstream.\"b.io\".proxy",
            "ROADSTEAD_CACHE__MAX_SIZE: cache.max_size",
            "ROADSTEAD_CACHE__SIZE: no key has this name",
        ],
        "{error}"
    );
}

#[test]
fn every_syntax_error_is_told_at_once() {
    let lines = errors("[server]\nlisten = nowhere\n[cache]\ndir = \n");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("config.toml:2: server.listen: "),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("config.toml:4: cache.dir: "),
        "{lines:?}"
    );
    // What is there twice does not hide the rest.
    let lines = errors("[cache]\ndir = \"a\"\ndir = \"b\"\nmax_size = 0\n");
    assert_eq!(
        lines,
        [
            "config.toml:3: cache.dir: is given twice (see config.toml:2)",
            "config.toml:4: cache.max_size: must be more than 0",
        ]
    );
}

#[test]
fn a_wrong_file_is_not_endless() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for at in 0..1000 {
        writeln!(text, "key{at} = 1").unwrap();
    }
    let lines = errors(&text);
    assert_eq!(lines.len(), 51);
    assert_eq!(lines[50], "and more than these 50 errors");
}

#[test]
fn a_name_with_dots_belongs_in_quotes() {
    assert_eq!(
        errors("[upstream.docker.io]\nendpoints = [\"https://d\"]\ndefault = true\n"),
        [
            "config.toml:1: upstream.docker.io: is a table in a table, for its name has a dot; \
             quote the name: [upstream.\"docker.io\"]"
        ]
    );
    let lines = errors(
        "[upstream.registry.k8s.io]\nendpoints = [\"https://k\"]\n[upstream.registry.gitlab.com]\nendpoints = [\"https://g\"]\n",
    );
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].ends_with("[upstream.\"registry.k8s.io\"]"),
        "{lines:?}"
    );
    assert!(
        lines[1].ends_with("[upstream.\"registry.gitlab.com\"]"),
        "{lines:?}"
    );
    // Another table in an upstream is another mistake.
    let lines = errors(
        "[upstream.\"ghcr.io\"]\nendpoints = [\"https://g\"]\n[upstream.\"ghcr.io\".tls]\nca = \"c\"\n",
    );
    assert!(lines[0].contains("ghcr.io\".tls: unknown key"), "{lines:?}");
    // A port is not even TOML.
    let lines = errors("[upstream.localhost:5000]\nendpoints = [\"http://l\"]\n");
    assert!(lines[0].contains("write the name in quotes"), "{lines:?}");
}

#[test]
fn a_misspelt_key_names_the_one_that_was_meant() {
    for (text, meant) in [
        ("[cache]\nmaxsize = 1\n", "`max_size`"),
        ("[serve]\n", "`server`"),
        ("[tags]\nstale_on_error = \"1d\"\n", "`stale_if_error`"),
        (
            "[upstream.\"a.io\"]\nendpoint = []\nendpoints = [\"http://a\"]\n",
            "`endpoints`",
        ),
        (
            "[upstream.\"a.io\"]\nendpoints = [\"http://a\"]\ncredentials = { usrname = \"u\" }\n",
            "`username`",
        ),
    ] {
        let lines = errors(text);
        let said = lines
            .iter()
            .any(|line| line.contains(&format!("did you mean {meant}?")));
        assert!(said, "{text}: {lines:?}");
    }
    let error = environment(&[("ROADSTEAD_UPSTREAM__GHCR_IO__USERNAM", "x")]).unwrap_err();
    assert_eq!(
        error,
        "ROADSTEAD_UPSTREAM__GHCR_IO__USERNAM: no key has this name; did you mean ROADSTEAD_UPSTREAM__GHCR_IO__USERNAME?"
    );
}

#[test]
fn a_cache_size_without_its_unit_is_refused() {
    assert_eq!(
        errors("[cache]\nmax_size = 10\n"),
        [
            "config.toml:2: cache.max_size: 10 bytes are too few for any image; write a unit, like \"50GB\", and at least 1MB"
        ]
    );
    let text = "[upstream.\"a.io\"]\nendpoints = [\"http://a\"]\nmax_size = \"20\"\n";
    assert!(errors(text)[0].contains("write a unit"));
}

#[test]
fn upstreams_that_flags_replace_must_be_right_all_the_same() {
    let written = Written::new("[upstream.\"a.io\"]\nendpoints = [\"https://a\"]\ncolour = 1\n");
    let flags = Overrides {
        upstream: vec!["b.io=https://b".to_owned()],
        ..Overrides::default()
    };
    let error = written.load(&[], flags).unwrap_err();
    assert!(
        error.starts_with("config.toml:3: upstream.\"a.io\".colour: unknown key"),
        "{error}"
    );
}
