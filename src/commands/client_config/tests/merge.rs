//! Entries of ours in files of others.

use super::super::buildkit::Buildkitd;
use super::super::cri;
use super::super::fault::Fault;
use super::super::hosts::Host;
use super::super::json::Daemon;
use super::super::piece::Form;
use super::super::rancher::Registries;

fn daemon() -> Form {
    Form::Daemon(Daemon {
        mirror: Some("http://m:5000".to_owned()),
        insecure: Some("m:5000".to_owned()),
    })
}

fn host(ca: Option<&str>) -> Form {
    Form::Host(Host {
        url: "http://m:5000".to_owned(),
        ca: ca.map(str::to_owned),
    })
}

fn buildkitd() -> Form {
    Form::Buildkitd(Buildkitd {
        authority: "m:5000".to_owned(),
        upstreams: vec!["docker.io".to_owned(), "ghcr.io".to_owned()],
        http: true,
        ca: None,
    })
}

fn registries() -> Form {
    Form::Registries(Registries {
        url: "http://m:5000".to_owned(),
        authority: "m:5000".to_owned(),
        upstreams: vec!["docker.io".to_owned()],
        ca: None,
    })
}

/// Merges, sees that a second time changes nothing, and returns the text.
#[track_caller]
fn merged(form: &Form, text: &str) -> String {
    let once = form.merge(text).unwrap().text;
    let twice = form.merge(&once).unwrap().text;
    assert_eq!(once, twice, "a second time");
    once
}

#[track_caller]
fn refused(form: &Form, text: &str) -> String {
    let fault: Fault = form.merge(text).expect_err(text);
    fault.of("FILE")
}

#[test]
fn daemon_json_is_changed_in_place() {
    let ours = "\"registry-mirrors\": [\"http://m:5000\"]";
    let insecure = "\"insecure-registries\": [\"m:5000\"]";
    for (text, expected) in [
        ("", format!("{{\n  {ours},\n  {insecure}\n}}\n")),
        (" \n", format!("{{\n  {ours},\n  {insecure}\n}}\n")),
        ("{}", format!("{{\n  {ours},\n  {insecure}\n}}")),
        ("{\"a\":1}", format!("{{\"a\":1,{ours},{insecure}}}")),
        (
            "{\n    \"z\": 1e400,\n    \"a\": {\"b\": [1, \"}\"]}\n}\n",
            format!(
                "{{\n    \"z\": 1e400,\n    \"a\": {{\"b\": [1, \"}}\"]}},\n    {ours},\n    {insecure}\n}}\n"
            ),
        ),
        (
            "{\"registry-mirrors\": [\"https://old\"], \"insecure-registries\": [\"x\"]}",
            "{\"registry-mirrors\": [\"http://m:5000\", \"https://old\"], \"insecure-registries\": [\"x\", \"m:5000\"]}".to_owned(),
        ),
        (
            "{\"registry-mirrors\": [\n    \"https://old\"\n  ], \"insecure-registries\": null}",
            "{\"registry-mirrors\": [\n    \"http://m:5000\",\n    \"https://old\"\n  ], \"insecure-registries\": [\"m:5000\"]}".to_owned(),
        ),
        // There already, but not the first; and as dockerd itself writes it.
        (
            "{\"registry-mirrors\": [\"https://old\", \"http://m:5000/\"], \"insecure-registries\": [\"x\", \"m:5000\"]}",
            "{\"registry-mirrors\": [\"http://m:5000\", \"https://old\"], \"insecure-registries\": [\"x\", \"m:5000\"]}".to_owned(),
        ),
        (
            "{\"insecure-registries\": [], \"registry-mirrors\": []}",
            "{\"insecure-registries\": [\"m:5000\"], \"registry-mirrors\": [\"http://m:5000\"]}".to_owned(),
        ),
    ] {
        assert_eq!(merged(&daemon(), text), expected, "{text}");
    }
}

#[test]
fn a_daemon_json_that_makes_no_sense_is_left() {
    for (text, expected) in [
        ("{\n\"a\": 1,\n}", "FILE:3: is no JSON: "),
        ("[]", "FILE: is no JSON object"),
        ("{} {}", "FILE:1: is no JSON: trailing characters"),
        (
            "{\"registry-mirrors\": \"x\"}",
            "FILE:1: \"registry-mirrors\" is not a list of texts",
        ),
        ("{\"registry-mirrors\": [1]}", "is not a list of texts"),
        (
            "{\"registry-mirrors\": [],\n\"registry-mirrors\": []}",
            "FILE:2: \"registry-mirrors\" is there twice",
        ),
        ("{\"a\": // no\n1}", "is no JSON"),
    ] {
        let told = refused(&daemon(), text);
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn only_our_entries_are_taken_out_of_daemon_json() {
    for (text, expected) in [
        (
            "{\"a\":1,\"registry-mirrors\": [\"http://m:5000\"],\"insecure-registries\": [\"m:5000\"]}",
            Some("{\"a\":1}"),
        ),
        (
            "{\"registry-mirrors\": [\"http://m:5000/\", \"x\"], \"insecure-registries\": [\"x\", \"m:5000\"]}",
            Some("{\"registry-mirrors\": [\"x\"], \"insecure-registries\": [\"x\"]}"),
        ),
        ("{\"registry-mirrors\": [\"http://m:5000\"]}", None),
        (
            "{\"a\":\"registry-mirrors\"}",
            Some("{\"a\":\"registry-mirrors\"}"),
        ),
    ] {
        assert_eq!(
            daemon().remove(text).unwrap().as_deref(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn the_mirror_is_before_other_hosts() {
    let block = "[host.\"http://m:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
    for (text, expected) in [
        (
            "server = \"https://ghcr.io\"\n",
            format!("server = \"https://ghcr.io\"\n\n{block}"),
        ),
        (
            "# mine\nserver = \"https://x\"\n\n[ host . \"https://y\" ] # y\n  ca = \"z\"\n",
            format!(
                "# mine\nserver = \"https://x\"\n\n{block}\n[ host . \"https://y\" ] # y\n  ca = \"z\"\n"
            ),
        ),
        (
            "server = \"https://x\"",
            format!("server = \"https://x\"\n\n{block}"),
        ),
        // Keys that the user has added to our table stay.
        (
            "[host.\"http://m:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"1s\"\n",
            format!("{block}dial_timeout = \"1s\"\n"),
        ),
        (
            "[host.\"http://m:5000\"]\ncapabilities = [\"pull\"]\n",
            block.to_owned(),
        ),
    ] {
        let found = merged(&host(None), text);
        assert_eq!(found, expected, "{text}");
    }
    let with_ca = merged(&host(Some("/ca.crt")), block);
    assert_eq!(with_ca, format!("{block}ca = \"/ca.crt\"\n"));
    for text in [
        "host = {}\n",
        "host = 1\n",
        "a = [",
        "host.\"https://y\".ca = \"z\"\n",
    ] {
        let told = refused(&host(None), text);
        assert!(told.contains("FILE"), "{told}");
    }
    let other = "[host.\"https://y\"]\nca = \"z\"\n";
    let both = merged(&host(None), other);
    assert_eq!(
        host(None).remove(&both).unwrap().unwrap().trim_start(),
        other
    );
    assert_eq!(host(None).remove(block).unwrap(), None);
    // It means that there is no fallback.
    assert_eq!(
        host(None).remove("[host]\n").unwrap().as_deref(),
        Some("[host]\n")
    );
}

#[test]
fn config_path_is_added_by_the_version_of_the_file() {
    let one = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"x\"\n";
    let found = merged(&Form::Cri, one);
    let table: toml::Table = found.parse().unwrap();
    let cri = &table["plugins"]["io.containerd.grpc.v1.cri"];
    assert_eq!(
        cri["registry"]["config_path"].as_str(),
        Some(cri::CERTS),
        "{found}"
    );
    assert_eq!(cri["sandbox_image"].as_str(), Some("x"));
    assert!(found.starts_with(one), "{found}");

    let two = merged(&Form::Cri, "version = 3\n# mine\nroot = \"/r\"\n");
    let table: toml::Table = two.parse().unwrap();
    let images = &table["plugins"]["io.containerd.cri.v1.images"];
    assert_eq!(images["registry"]["config_path"].as_str(), Some(cri::CERTS));
    assert!(
        two.starts_with("version = 3\n# mine\nroot = \"/r\"\n"),
        "{two}"
    );

    // The two directories that `containerd config default` writes are one name to some versions.
    let default = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d:/etc/docker/certs.d' # x\n  mirrors = {}\n";
    let found = merged(&Form::Cri, default);
    assert!(
        found.contains("config_path = \"/etc/containerd/certs.d\" # x\n"),
        "{found}"
    );
    assert_eq!(
        cri::remove(&two).unwrap().parse::<toml::Table>().unwrap()["root"].as_str(),
        Some("/r")
    );

    for same in [
        "disabled_plugins = [\"cri\"]\n",
        "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
    ] {
        let found = Form::Cri.merge(same).unwrap();
        assert_eq!((found.text.as_str(), found.notes.len()), (same, 1));
    }
    for (text, expected) in [
        ("root = \"/r\"\n", "version = 2"),
        ("version = 1\n", "version = 2"),
        ("version = [", "FILE:1: is no TOML"),
        ("version = 2\nplugins = 1\n", "is no table"),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/x\"\n",
            "config_path is \"/x\"",
        ),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"x\"]\n",
            "registry.mirrors] excludes config_path",
        ),
    ] {
        let told = refused(&Form::Cri, text);
        assert!(told.contains(expected), "{text}: {told}");
    }
}

#[test]
fn buildkitd_keeps_other_mirrors_behind_ours() {
    let text =
        "debug = true # mine\n[registry.\"docker.io\"]\n  mirrors = [\"old\"]\n  ca = [\"x\"]\n";
    let found = merged(&buildkitd(), text);
    assert!(
        found.starts_with("debug = true # mine\n[registry.\"docker.io\"]\n"),
        "{found}"
    );
    assert!(
        found.contains("mirrors = [\"m:5000/docker.io\", \"old\"]\n"),
        "{found}"
    );
    let table: toml::Table = found.parse().unwrap();
    assert_eq!(
        table["registry"]["ghcr.io"]["mirrors"][0].as_str(),
        Some("m:5000/ghcr.io")
    );
    assert_eq!(table["registry"]["m:5000"]["http"].as_bool(), Some(true));
    assert_eq!(buildkitd().remove(&found).unwrap().as_deref(), Some(text));
    assert_eq!(buildkitd().remove(&buildkitd().fresh()).unwrap(), None);
    let inline = merged(
        &buildkitd(),
        "registry = { \"docker.io\" = { http = true } }\n",
    );
    assert!(inline.parse::<toml::Table>().unwrap()["registry"]["ghcr.io"].is_table());
    let told = refused(&buildkitd(), "[registry.\"docker.io\"]\nmirrors = 1\n");
    assert!(
        told.contains("mirrors of registry.\"docker.io\" is no list"),
        "{told}"
    );
}

#[test]
fn registries_yaml_is_added_to_or_left() {
    let ours = registries().fresh();
    for text in ["# mine\n", "configs:\n  x:\n    auth: {}\n", "configs: {}"] {
        let found = merged(&registries(), text);
        assert!(found.starts_with(text) && found.ends_with(&ours), "{found}");
    }
    for (text, expected) in [
        (
            "a: 1\nmirrors:\n  quay.io: {}\n",
            "FILE:2: has \"mirrors\" of its own",
        ),
        ("{configs: {}}\n", "cannot be added to"),
        ("- a\n", "is no YAML mapping"),
        ("a: [\n", "is no YAML mapping"),
    ] {
        let told = refused(&registries(), text);
        assert!(told.contains(expected), "{text}: {told}");
    }
    assert!(registries().remove(&ours).is_err());
}
