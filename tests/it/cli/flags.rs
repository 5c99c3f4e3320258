//! Flags that were not read, read too widely, or read too late.

use std::io::Write as _;
use std::process::Stdio;

use crate::common::{Dialect, FakeRegistry, images};
use crate::process::Process;
use rustix::process::Signal;

use super::*;

/// Runs the program with this text in its standard input, which is a pipe.
async fn piped(mut command: Command, text: String) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let running = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        child.wait_with_output().unwrap()
    });
    crate::common::within("the program", running).await.unwrap()
}

/// An empty value, as a variable that is not set leaves it, removed everything; one that is an image's name removed that
/// image.
#[tokio::test]
async fn an_upstream_is_meant_by_its_whole_name_alone() {
    let (world, admin) = pulled().await;
    world.ghcr.put_image("org/app", Some("v1"), &world.app);
    let manifest = "/v2/org/app/manifests/v1?ns=ghcr.io";
    assert_eq!(world.mirror.get(manifest).await.status, 200);
    let dir = TempDir::new().unwrap();
    let run = async |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--admin", &admin]);
        output(roadstead(dir.path(), &all)).await
    };
    for (wrong, code) in [
        ("", 2),
        ("ghcr.io/org", 2),
        ("docker.io/library/nginx:1.27", 2),
        ("nginx", 1),
        ("docker", 1),
        ("nobody.example", 1),
    ] {
        let refused = run(&["rm", "--upstream", wrong]).await;
        assert_eq!(refused.status.code(), Some(code), "{wrong}: {refused:?}");
        assert!(
            errors(&refused).contains("upstream"),
            "{wrong}: {refused:?}"
        );
    }
    let named = errors(&run(&["rm", "--upstream", "nginx"]).await);
    assert!(
        named.contains("docker.io") && named.contains("ghcr.io"),
        "{named}"
    );
    let left = done(&run(&["ls"]).await);
    assert!(
        left.contains("nginx:1.27") && left.contains("app:v1"),
        "{left}"
    );
    for empty in [vec!["ls", ""], vec!["du", ""]] {
        assert_eq!(run(&empty).await.status.code(), Some(2), "{empty:?}");
    }
    let unknown = run(&["du", "quay.io"]).await;
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(
        errors(&unknown).contains("nothing of quay.io"),
        "{unknown:?}"
    );
    // Nothing of it is left, and that is no mistake.
    for _ in 0..2 {
        done(&run(&["rm", "--upstream", "GHCR.io"]).await);
    }
    let left = done(&run(&["ls"]).await);
    assert!(
        left.contains("nginx:1.27") && !left.contains("app:v1"),
        "{left}"
    );
}

/// The flag was read by nobody: the pin went into the user's own state directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_directory_that_is_named_is_used() {
    let (world, _) = pulled().await;
    let dir = TempDir::new().unwrap();
    let home = dir.path().to_owned();
    let (cache, state) = (world.mirror.store(), world.mirror.state());
    let mirror = world.mirror.restart_after(move |_| {
        let (cache, state) = (cache.display().to_string(), state.display().to_string());
        let place = ["--cache-dir", &cache, "--state-dir", &state];
        let arguments = [&["pin", "nginx:1.27"], &place[..]].concat();
        let mut command = roadstead(&home, &arguments);
        done(&command.env("HOME", &home).output().unwrap());
    });
    let admin = mirror.await.admin.0.to_string();
    assert!(!dir.path().join(".local").exists());
    let pins = done(&output(roadstead(dir.path(), &["pin", "--admin", &admin])).await);
    assert!(pins.contains("nginx:1.27"), "{pins}");
}

/// It was read twice where it had an error, and had nothing in it the second time.
#[tokio::test]
async fn a_configuration_comes_through_a_pipe() {
    let (_world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    let wrong = format!("[server]\nadmin_listen = \"{admin}\"\nlisten_adress = 1\n");
    let command = roadstead(dir.path(), &["ls", "--config", "/dev/stdin"]);
    let listed = done(&piped(command, wrong).await);
    assert!(listed.contains("nginx:1.27"), "{listed}");
}

/// What had come through a pipe was read again as an empty file, and the defaults were taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_from_a_pipe_is_not_read_again() {
    let registry = FakeRegistry::start().await;
    let image = images::image(311, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let dir = TempDir::new().unwrap();
    let cache = dir.path().join("cache");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[cache]\ndir = {cache:?}\n[tags]\nttl = \"forever\"\n[upstream.\"docker.io\"]\nendpoints = [{:?}]\n",
        registry.url()
    );
    let errors = File::create(dir.path().join("errors")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(["serve", "--config", "/dev/stdin"])
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let mut process = Process { child, dir };
    process.ready();
    process.signal(Signal::HUP);
    let log = process.dir.path().join("errors");
    let told = crate::common::within("the answer to SIGHUP", async {
        loop {
            let told = std::fs::read_to_string(&log).unwrap();
            if told.contains("nothing is changed") || told.contains("configuration reloaded") {
                return told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let told = told.await;
    assert!(
        told.contains("pipe") && !told.contains("configuration reloaded"),
        "{told}"
    );
}

/// Help has no command that could have said it, and was never coloured.
#[tokio::test]
async fn help_and_mistakes_are_coloured_as_asked() {
    let dir = TempDir::new().unwrap();
    let run = async |arguments: &[&str]| output(roadstead(dir.path(), arguments)).await;
    for (arguments, coloured) in [
        (vec!["--help"], false),
        (vec!["--help", "--color", "always"], true),
        (vec!["--color=always", "ls", "--help"], true),
        (vec!["ls", "--help", "--color", "never"], false),
        (vec!["--help", "--", "--color", "always"], false),
    ] {
        let help = done(&run(&arguments).await);
        assert_eq!(help.contains('\u{1b}'), coloured, "{arguments:?}: {help}");
    }
    for (colour, coloured) in [("always", true), ("never", false), ("auto", false)] {
        let wrong = run(&["staus", "--color", colour]).await;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        assert_eq!(errors(&wrong).contains('\u{1b}'), coloured, "{wrong:?}");
    }
}

/// The warning came twice, and with `--quiet` too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_caches_are_warned_of_once() {
    let (world, _) = pulled().await;
    let dir = TempDir::new().unwrap();
    let home = dir.path().to_owned();
    let (cache, state) = (world.mirror.store(), world.mirror.state());
    let stopped = world.mirror.restart_after(move |_| {
        std::fs::create_dir_all(&state).unwrap();
        std::fs::copy(cache.join("VERSION"), state.join("VERSION")).unwrap();
        let (cache, version) = (cache.display().to_string(), state.join("VERSION"));
        let run = |more: &[&str]| {
            let mut command = roadstead(&home, &[more, &["--cache-dir", &cache]].concat());
            command.env("ROADSTEAD_STATE__DIR", &state);
            command.output().unwrap()
        };
        let told = run(&["ls"]);
        assert!(done(&told).contains("nginx:1.27"), "{told:?}");
        let told = errors(&told);
        assert_eq!(told.matches("there are two caches").count(), 1, "{told}");
        let quiet = run(&["ls", "--quiet"]);
        assert!(done(&quiet).contains("nginx:1.27"), "{quiet:?}");
        assert_eq!(errors(&quiet), "");
        std::fs::remove_file(version).unwrap();
    });
    stopped.await;
}
