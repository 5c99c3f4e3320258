//! The program itself: `check`, exit codes, help. (`serve` has its own tests.)
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests too, which clippy does not see"
)]

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory with this file in it.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's own file, outside any store"
)]
fn written(name: &str, text: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), text).unwrap();
    dir
}

/// Runs the program in an empty directory, with nothing of ours in its environment.
fn program(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    program_in(dir.path(), arguments, environment)
}

fn program_in(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn check_prints_the_configuration_with_masked_secrets() {
    let written = written(
        "config.toml",
        "[upstream.\"a.io\"]\nendpoints = [\"http://a\"]\nusername = \"robot\"\npassword = \"hunter2\"\n",
    );
    let path = written.path().join("config.toml");
    let output = program(
        &["check", "--config", path.to_str().unwrap()],
        &[("ROADSTEAD_CACHE__MAX_SIZE", "7GB")],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("password = \"***\"") && printed.contains("username = \"robot\""),
        "{printed}"
    );
    assert!(printed.contains("max_size = \"7GB\""), "{printed}");
    assert!(!printed.contains("hunter2"));
    // What was printed can be read back, and says the same.
    let again = self::written("config.toml", &printed);
    let path = again.path().join("config.toml");
    let output = program(&["check", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), printed);
}

#[test]
fn check_knows_the_proxies_of_the_environment_and_masks_what_is_secret() {
    let written = written(
        "config.toml",
        "[upstream.\"a.io\"]\nendpoints = [{ url = \"https://a\", headers = { X-Key = \"hunter2\" } }]\n\
         proxy = \"http://robot:hunter2@proxy:3128\"\n[upstream.\"b.io\"]\nendpoints = [\"https://b\"]\n",
    );
    let path = written.path().join("config.toml");
    let arguments = ["check", "--config", path.to_str().unwrap()];
    let output = program(&arguments, &[("HTTPS_PROXY", "http://u:hunter2@p:1")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "headers = { \"x-key\" = \"***\" }",
        "proxy = { url = \"http://proxy:3128\", username = \"robot\", password = \"***\" }",
        "proxy = \"environment\"",
    ] {
        assert!(printed.contains(line), "{line} in:\n{printed}");
    }
    assert!(!printed.contains("hunter2"), "{printed}");
    let output = program(&arguments, &[("HTTPS_PROXY", "ftp://u:hunter2@p:1")]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: HTTPS_PROXY: \"ftp://***@p:1\" is not an http, https, socks5 or socks5h URL\n"
    );
}

#[test]
fn check_warns_of_a_mirror_that_is_open_to_the_internet() {
    let check = |text: &str| {
        let written = written("config.toml", text);
        let path = written.path().join("config.toml");
        let output = program(&["check", "--config", path.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let open = check("[server]\nlisten = \"203.0.113.7:5000\"\n");
    for part in ["203.0.113.7:5000 has a public address", "access.allow"] {
        assert!(open.contains(part), "{open}");
    }
    for text in [
        "[server]\nlisten = \"203.0.113.7:5000\"\n[access]\nallow = [\"10.0.0.0/8\"]\n",
        "[server]\nlisten = \"10.0.0.7:5000\"\n",
        "",
    ] {
        assert_eq!(check(text), "", "{text}");
    }
}

#[test]
fn ca_init_makes_an_authority_once_and_says_what_to_do() {
    let dir = written(
        "roadstead.toml",
        "[state]\ndir = \"state\"\n[upstream.\"docker.io\"]\nendpoints = [\"https://registry-1.docker.io\"]\n",
    );
    let run = |arguments: &[&str]| program_in(dir.path(), arguments, &[]);
    let output = run(&["ca", "show"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ca init"));
    let output = run(&["ca", "init"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    for part in [
        "state/ca.crt is the certificate",
        "update-ca-certificates",
        "[server.transparent]",
        "ADDRESS docker.io registry-1.docker.io index.docker.io",
    ] {
        assert!(said.contains(part), "{part:?} in:\n{said}");
    }
    let output = run(&["ca", "init"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ca.crt is there already"));
    let output = run(&["ca", "show"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains("docker.io, registry-1.docker.io, index.docker.io"),
        "{shown}"
    );
    let output = run(&["ca", "init", "--out", "elsewhere"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("ca = \"elsewhere/ca.crt\""), "{said}");
    // One that covers less than the configuration says.
    let quay = "[upstream.\"quay.io\"]\nendpoints = [\"https://quay.io\"]\n";
    let before = std::fs::read_to_string(dir.path().join("roadstead.toml")).unwrap();
    let file = written("more.toml", &format!("{before}{quay}"));
    let path = file.path().join("more.toml");
    let output = run(&["ca", "show", "--json", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["missing"], serde_json::json!(["quay.io"]));
    assert_eq!(shown["expired"], false);
}

#[test]
fn check_and_serve_exit_2_with_one_line_on_a_bad_configuration() {
    let written = written("config.toml", "[cache]\nmax_size = \"lots\"\n");
    let path = written.path().join("config.toml");
    for command in ["check", "serve"] {
        let output = program(&[command, "--config", path.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        let expected = format!(
            "error: {}:2: cache.max_size: \"lots\" is not a size",
            path.display()
        );
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(error.lines().count(), 1);
        assert!(output.stdout.is_empty());
    }
    let output = program(&["check"], &[("ROADSTEAD_TYPO", "1")]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: ROADSTEAD_TYPO: no key has this name\n"
    );
}

#[test]
fn check_takes_the_flags_of_serve() {
    let output = program(
        &[
            "check",
            "--listen=:0",
            "--admin-listen=localhost:7",
            "--state-dir=/s",
            "--cache-dir=/c",
            "--cache-size=64MiB",
            "--upstream=a.io=http://a,http://b",
            "--upstream=b.io=http://c",
            "--default-upstream=b.io",
            "--log-format=json",
        ],
        &[],
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "listen = \"0.0.0.0:0\"",
        "admin_listen = \"127.0.0.1:7\"",
        "[state]\ndir = \"/s\"",
        "dir = \"/c\"",
        "max_size = \"64MiB\"",
        "format = \"json\"",
        "[upstream.\"a.io\"]\nendpoints = [\"http://a\", \"http://b\"]\ndefault = false",
        "[upstream.\"b.io\"]\nendpoints = [\"http://c\"]\ndefault = true",
    ] {
        assert!(printed.contains(line), "{line} in:\n{printed}");
    }
}

#[test]
fn the_file_of_the_working_directory_is_found() {
    let dir = written("roadstead.toml", "[tags]\nttl = 5\n");
    let output = program_in(dir.path(), &["check"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: ./roadstead.toml:2: tags.ttl: 5 has no unit; write \"5s\"\n"
    );
}

#[test]
fn help_and_version_are_not_errors_and_nonsense_is() {
    let version = program(&["--version"], &[]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("roadstead {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = program(&["serve", "--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for flag in [
        "--config",
        "--listen",
        "--admin-listen",
        "--cache-dir",
        "--cache-size",
        "--upstream",
        "--default-upstream",
        "--log-format",
    ] {
        assert!(text.contains(flag), "{flag} in {text}");
    }
    for nonsense in [
        &["serve", "--nonsense"][..],
        &["fly"],
        &[],
        &["serve", "--log-format", "xml"],
    ] {
        assert_eq!(
            program(nonsense, &[]).status.code(),
            Some(2),
            "{nonsense:?}"
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_closed_output_is_an_error_and_not_a_panic() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .arg("check")
        .current_dir(dir.path())
        .env_clear()
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("error: cannot write: "), "{error}");
}
