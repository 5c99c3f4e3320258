//! `client-config`: the real program writes the files of each client below a directory, compares them, and takes them
//! back.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const CLIENTS: [&str; 13] = [
    "docker",
    "docker-desktop",
    "containerd",
    "k3s",
    "rke2",
    "crio",
    "podman",
    "buildkit",
    "nerdctl",
    "kind",
    "talos",
    "github-runner",
    "gitlab-runner",
];

/// The program in a directory without a configuration, with these words.
fn program(dir: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command
        .arg("client-config")
        .args(words.split_whitespace())
        .current_dir(dir)
        .env_clear()
        .env("HOME", "/home/u")
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn run(dir: &Path, words: &str) -> Output {
    program(dir, words).output().unwrap()
}

#[track_caller]
fn ended(dir: &Path, words: &str, code: i32) -> String {
    let output = run(dir, words);
    assert_eq!(output.status.code(), Some(code), "{words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// All files below a directory, with their text.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|it| it.unwrap().path()));
        } else {
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            found.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    found
}

/// The JSON that is printed is what is written.
#[test]
fn each_client_is_written_compared_and_taken_back() {
    for client in CLIENTS {
        let (work, root) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let below = format!("--root {}", root.path().display());
        let words = format!("{client} --server http://mirror.example:5000");
        let printed = ended(work.path(), &words, 0);
        let shown: Value =
            serde_json::from_str(&ended(work.path(), &format!("{words} --json"), 0)).unwrap();
        let words = format!("{words} {below}");
        let diff = ended(work.path(), &format!("{words} --diff"), 1);
        assert!(tree(root.path()).is_empty(), "{client}");

        let wrote = ended(work.path(), &format!("{words} --write"), 0);
        let files = tree(root.path());
        let mut count = 0;
        for file in shown.as_array().unwrap() {
            let (path, content) = (file["path"].as_str().unwrap(), file["content"].as_str());
            let (path, content) = (path.trim_start_matches('/'), content.unwrap());
            assert!(printed.contains(content) && file["restart"].is_string());
            if path == "etc/gitlab-runner/config.toml" {
                assert!(wrote.contains("By hand") && wrote.contains(content));
                continue;
            }
            count += 1;
            assert_eq!(files[path], content, "{client}: {path}");
            assert!(diff.contains(&format!("+++ b{}/{path}", root.path().display())));
            assert!(wrote.contains(&format!("wrote {}/{path}", root.path().display())));
        }
        // Each has its record beside it, and nothing else is left.
        assert_eq!(files.len(), 2 * count, "{client}: {files:?}");
        let again = ended(work.path(), &format!("{words} --write"), 0);
        assert!(again.contains("nothing to change"), "{client}: {again}");
        assert_eq!(tree(root.path()), files);
        assert_eq!(ended(work.path(), &format!("{words} --diff"), 0), "");
        // Without the address: the record has it.
        ended(work.path(), &format!("{client} {below} --undo"), 0);
        assert!(
            fs::read_dir(root.path()).unwrap().next().is_none(),
            "{client}"
        );
        assert!(fs::read_dir(work.path()).unwrap().next().is_none());
    }
}

/// The record knows the address; the authority's file is found by its name.
#[test]
fn an_authority_goes_with_the_rest() {
    let (work, root) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(work.path().join("ca.pem"), ca).unwrap();
    let below = format!("--root {}", root.path().display());
    for (client, file, named) in [
        ("containerd", "etc/containerd/certs.d/roadstead-ca.crt", ""),
        ("k3s", "etc/rancher/k3s/roadstead-ca.crt", ""),
        ("buildkit", "etc/buildkit/roadstead-ca.crt", ""),
        (
            "docker",
            "etc/docker/certs.d/m.example/ca.crt",
            "--server https://m.example",
        ),
        (
            "podman",
            "etc/containers/certs.d/m.example/ca.crt",
            "--server https://m.example",
        ),
    ] {
        let words = format!("{client} --server https://m.example --ca ca.pem {below} --write");
        ended(work.path(), &words, 0);
        assert_eq!(tree(root.path())[file], ca, "{client}");
        ended(work.path(), &format!("{client} {below} --undo {named}"), 0);
        let left = tree(root.path());
        assert!(left.is_empty(), "{client}: {left:?}");
    }
}

#[test]
fn a_file_with_a_fault_is_named_and_left() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("etc/docker/daemon.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "{\n  \"a\": 1,\n}\n").unwrap();
    let words = format!("docker --server m:5000 --root {}", root.path().display());
    for mode in ["--write", "--diff"] {
        let output = run(root.path(), &format!("{words} {mode}"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        let expected = format!("error: {}:3: is no JSON: ", file.display());
        assert!(told.starts_with(&expected), "{told}");
        assert!(told.contains("nothing was written"), "{told}");
    }
    assert_eq!(tree(root.path()).len(), 1);
}

#[test]
fn mistakes_of_the_command_line_are_told() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("key.pem"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
    for (words, expected) in [
        ("docker --write --undo", "cannot be used with"),
        ("docker --every 5s", "--write"),
        ("docker --write --every 5ms", "1s or more"),
        ("docker --server http://m/path", "has a path"),
        ("docker --server ftp://m", "write it as"),
        (
            "podman --ca x.pem --server http://m:5000",
            "--ca is for HTTPS",
        ),
        (
            "podman --ca x.pem --server https://m:5000",
            "--ca x.pem: No such file",
        ),
        (
            "podman --ca key.pem --server https://m:5000",
            "is no certificate",
        ),
        ("podman --write --root none", "--root none: No such file"),
        ("podman --config none.toml", "none.toml"),
        ("emacs", "possible values"),
    ] {
        let output = run(dir.path(), words);
        assert_eq!(output.status.code(), Some(2), "{words}: {output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(expected), "{words}: {told}");
    }
}

/// The upstreams and the listener are those of the configuration, and the note says that others cannot reach it.
#[test]
fn the_configuration_says_where_and_what() {
    let dir = TempDir::new().unwrap();
    let text = "[server]\nlisten = \"0.0.0.0:5007\"\n[upstream.\"quay.io\"]\nendpoints = [\"https://quay.io\"]\n";
    fs::write(dir.path().join("roadstead.toml"), text).unwrap();
    let printed = ended(dir.path(), "podman", 0);
    assert!(
        printed.contains("location = \"127.0.0.1:5007/quay.io\""),
        "{printed}"
    );
    assert!(
        !printed.contains("docker.io") && printed.contains("--server"),
        "{printed}"
    );
    let mut command = program(dir.path(), "podman");
    command.env("ROADSTEAD_SERVER", "http://m.example:5000");
    let printed = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(
        printed.contains("location = \"m.example:5000/quay.io\""),
        "{printed}"
    );
}

/// A node's files are healed until a signal ends it, and only changes are told.
#[test]
fn files_are_healed_again_and_again() {
    let root = TempDir::new().unwrap();
    let words = format!(
        "podman --server m.example:5000 --root {} --write --every 1s",
        root.path().display()
    );
    let mut child = program(root.path(), &words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let conf = root
        .path()
        .join("etc/containers/registries.conf.d/50-roadstead.conf");
    let mut before = None;
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert_eq!(line, format!("wrote {}", conf.display()));
        let text = fs::read_to_string(&conf).unwrap();
        assert_eq!(*before.get_or_insert(text.clone()), text);
        fs::remove_file(&conf).unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
