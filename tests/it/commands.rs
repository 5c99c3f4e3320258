//! The operator's commands, as the program runs them: asking a server, or in a directory without one.

mod shown;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use crate::common::{Dialect, FakeRegistry, World, images};
use crate::process::Process;
use rustix::process::Signal;
use serde_json::Value;

/// Runs the program in an empty directory, with nothing of ours in its environment.
fn run(arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(arguments)
        .current_dir(dir.path())
        .env_clear()
        .env("HOME", dir.path())
        .output();
    child.unwrap()
}

/// The same, without holding up the servers of the test.
pub(crate) async fn program(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let running = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&arguments)
    });
    crate::common::within("the program", running).await.unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(errors(output), "");
    text(output)
}

/// Each line as JSON.
fn lines(output: &Output) -> Vec<Value> {
    let text = done(output);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A world in which both images are pulled, and its admin listener's URL.
async fn pulled() -> (World, String) {
    let world = World::new().await;
    for (upstream, repository, tag, image) in [
        ("docker.io", "library/nginx", "1.27", &world.image),
        ("ghcr.io", "org/app", "v1", &world.app),
    ] {
        let path = |rest: String| format!("/v2/{repository}/{rest}?ns={upstream}");
        world.mirror.get(&path(format!("manifests/{tag}"))).await;
        for blob in image.blobs() {
            let answer = world
                .mirror
                .get(&path(format!("blobs/{}", blob.digest)))
                .await;
            answer.assert_bytes(200, &blob.bytes);
        }
    }
    world.mirror.wait_for_fills().await;
    let admin = format!("http://{}", world.mirror.admin.0);
    (world, admin)
}

#[tokio::test]
async fn a_server_is_asked() {
    let (world, admin) = pulled().await;
    let status = done(&program(&["status", "--admin", &admin]).await);
    for words in [
        "roadstead ",
        &admin,
        "up ",
        ": ok\n",
        "hits    0.0% of 7 pulls",
        "ghcr.io",
        "7 blobs",
    ] {
        assert!(status.contains(words), "{words} in:\n{status}");
    }
    assert!(!status.contains('\u{1b}'), "colours in a pipe:\n{status}");

    let listed = done(&program(&["ls", "--admin", &admin]).await);
    let rows: Vec<&str> = listed.lines().collect();
    assert!(
        rows[0].starts_with("IMAGE ") && rows[0].contains("  DIGEST "),
        "{listed}"
    );
    assert!(
        rows[1].starts_with("docker.io/library/nginx:1.27  "),
        "{listed}"
    );
    assert!(rows[1].contains("linux/amd64"), "{listed}");
    assert_eq!(rows.len(), 3, "{listed}");
    let column = rows[0].find("DIGEST").unwrap();
    let short = &world.image.manifest.digest["sha256:".len()..][..12];
    assert_eq!(&rows[1][column..column + 12], short, "{listed}");
    let json = lines(&program(&["ls", "--json", "--admin", &admin, "ghcr.io"]).await);
    assert_eq!(json.len(), 1);
    assert_eq!(json[0]["digest"], world.app.manifest.digest);

    let usage = done(&program(&["du", "--admin", &admin]).await);
    assert!(
        usage.contains("docker.io/library/nginx") && usage.contains("in all, 7 blobs"),
        "{usage}"
    );
    let json = lines(&program(&["du", "--json", "--admin", &admin, "ghcr.io"]).await);
    assert_eq!(json[0]["repositories"][0]["repository"], "org/app");
    assert_eq!(json[0]["repositories"].as_array().unwrap().len(), 1);

    let seen = done(&program(&["inspect", "--admin", &admin, "nginx:1.27"]).await);
    let rows: Vec<&str> = seen.lines().collect();
    assert_eq!(rows[0], "docker.io/library/nginx:1.27");
    assert!(
        rows[1].starts_with("tag     ") && rows[2].starts_with("manifest "),
        "{seen}"
    );
    assert!(
        rows[3].starts_with("  config ") && rows[3].contains("  stored  "),
        "{seen}"
    );
    assert_eq!(rows.len(), 6, "{seen}");
    let json = lines(&program(&["inspect", "--json", "--admin", &admin, "nginx:1.27"]).await);
    assert_eq!(
        json[0]["manifests"][0]["parts"].as_array().unwrap().len(),
        3
    );
}

#[tokio::test]
async fn a_server_is_told_what_to_remove_and_pin() {
    let (world, admin) = pulled().await;
    let pinned = done(&program(&["pin", "--admin", &admin, "nginx:1.27"]).await);
    assert!(
        pinned.starts_with("docker.io/library/nginx:1.27: pinned; 4 of 4 blobs stored, "),
        "{pinned}"
    );
    let pins = done(&program(&["pin", "--admin", &admin]).await);
    assert!(
        pins.contains("docker.io/library/nginx:1.27") && pins.contains("hand"),
        "{pins}"
    );
    // One that cannot be removed holds up no other.
    let images = [
        "rm",
        "--json",
        "--admin",
        &admin,
        "nginx:1.27",
        "none",
        "ghcr.io/org/app:v1",
    ];
    let output = program(&images).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = errors(&output);
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(
        told[0],
        "error: docker.io/library/nginx:1.27 is pinned; unpin it first"
    );
    assert!(
        told[1].starts_with("error: docker.io/library/none:latest is not in the cache, so there is nothing to remove"),
        "{told:?}"
    );
    assert_eq!(told[2], "error: 2 of 3 failed");
    let removed: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(
        (
            removed["removed_blobs"].as_u64(),
            removed["dry_run"].as_bool()
        ),
        (Some(3), Some(false))
    );
    assert!(!world.mirror.blob_path(&world.app.layers[0].digest).exists());
    done(&program(&["unpin", "--admin", &admin, "nginx:1.27"]).await);
    let told = done(&program(&["rm", "--dry-run", "--all", "--admin", &admin, "nginx"]).await);
    assert!(
        told.starts_with("docker.io/library/nginx: would free ")
            && told.contains("1 tag forgotten"),
        "{told}"
    );
    assert!(
        world
            .mirror
            .blob_path(&world.image.manifest.digest)
            .exists()
    );
    let told = done(&program(&["gc", "--admin", &admin]).await);
    assert!(
        told.starts_with("freed 0 B: 0 blobs that no manifest refers to"),
        "{told}"
    );
}

/// A configuration of this directory, whose admin listener is this one.
fn configuration(dir: &Path, cache: &Path, admin: std::net::SocketAddr) -> String {
    let file = dir.join("config.toml");
    // As `MirrorBuilder` has it.
    let state = cache.with_file_name("state");
    let (cache, state) = (cache.display(), state.display());
    let text = format!(
        "[server]\nadmin_listen = \"{admin}\"\n[state]\ndir = \"{state}\"\n[cache]\ndir = \"{cache}\"\nmax_size = \"1MiB\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn without_a_server_the_directory_is_opened_and_with_one_it_is_not() {
    let (held, nobody) = crate::common::fake_registry::refused_port().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (world, _) = pulled().await;
    let config = configuration(dir.path(), &world.mirror.store(), nobody);
    let output = program(&["ls", "--config", &config]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = errors(&output);
    let begin = format!("error: no roadstead answers at http://{nobody}");
    assert!(
        told.starts_with(&begin) && told.contains("--admin"),
        "{told}"
    );
    assert!(told.contains("cannot use the cache directory"), "{told}");

    // Who names the directory means that one, and not what another server has.
    let cache = world.mirror.store().display().to_string();
    let output = program(&["ls", "--cache-dir", &cache]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = errors(&output);
    assert!(
        told.starts_with("error: cannot use the cache directory"),
        "{told}"
    );

    let (image, app) = (world.image.clone(), world.app.clone());
    let (layer, gone) = (image.layers[1].digest.clone(), app.layers[0].digest.clone());
    let mirror = world.mirror.restart_after(move |_| {
        let json = lines(&run(&["ls", "--json", "--config", &config]));
        assert_eq!(json.len(), 2);
        assert_eq!(json[0]["presence"], "stored");
        let status = done(&run(&["status", "--config", &config]));
        assert!(
            status.contains("(the cache directory), no server runs: ok"),
            "{status}"
        );
        let json = lines(&run(&[
            "rm",
            "--json",
            "--config",
            &config,
            "ghcr.io/org/app:v1",
        ]));
        assert_eq!(json[0]["removed_blobs"], 3);
        done(&run(&["pin", "--config", &config, "nginx:1.27"]));
        let json = lines(&run(&["pin", "--json", "--config", &config]));
        assert_eq!(json[0]["stored_blobs"], 4);
    });
    let mirror = mirror.await;
    drop(held);
    // What was done without the server is there for it.
    let admin = format!("http://{}", mirror.admin.0);
    let json = lines(&program(&["pin", "--json", "--admin", &admin]).await);
    assert_eq!(json[0]["image"], "docker.io/library/nginx:1.27");
    assert!(mirror.blob_path(&layer).exists() && !mirror.blob_path(&gone).exists());
    let json = lines(&program(&["ls", "--json", "--admin", &admin]).await);
    assert_eq!(json.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_done_is_one_line_and_an_exit_code() {
    let (held, nobody) = crate::common::fake_registry::refused_port().unwrap();
    let url = format!("http://{nobody}");
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), &dir.path().join("none"), nobody);
    let (world, admin) = pulled().await;
    for (arguments, code, expected) in [
        (
            vec!["status", "--admin", &url],
            1,
            "error: no roadstead answers at http://",
        ),
        (vec!["ls", "--config", &config], 1, "there is no directory"),
        (
            vec!["ls", "--admin", &admin, "quay.io"],
            1,
            "error: nothing of quay.io is in the cache",
        ),
        (
            vec!["rm", "--admin", &admin],
            2,
            "required arguments were not provided",
        ),
        (
            vec!["rm", "--admin", &admin, "Alpine:3"],
            2,
            "error: image \"Alpine:3\": the repository's name",
        ),
        (
            vec!["inspect", "--admin", &admin, "none:1"],
            1,
            "error: docker.io/library/none:1 is not in the cache",
        ),
        (vec!["status", "--config", "none.toml"], 2, "cannot be read"),
    ] {
        let output = program(&arguments).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        assert!(
            errors(&output).contains(expected),
            "{arguments:?}: {}",
            errors(&output)
        );
    }
    assert!(!dir.path().join("none").exists(), "looking makes nothing");
    drop((held, world));
}

/// All that is below a directory: names, sizes, times of change, bytes.
fn everything(root: &Path) -> BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let bytes = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.insert(path, (metadata.len(), metadata.modified().unwrap(), bytes));
        }
    }
    let own = root.metadata().unwrap();
    found.insert(
        root.to_owned(),
        (own.len(), own.modified().unwrap(), Vec::new()),
    );
    found
}

#[track_caller]
fn assert_same(before: &BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)>, root: &Path, after: &str) {
    let now = everything(root);
    let names = |of: &BTreeMap<PathBuf, _>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&now), names(before), "after {after}");
    for (path, entry) in before {
        assert!(now[path] == *entry, "{} changed by {after}", path.display());
    }
}

/// Whoever looked into the wrong directory made a cache there, and what he had in `damaged` and `fills` was deleted.
#[test]
fn a_directory_that_is_no_cache_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    for file in ["damaged/letter", "fills/sha256/photo", "blobs/x", "notes"] {
        let path = home.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "mine").unwrap();
    }
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (home_text, empty_text) = (home.display().to_string(), empty.display().to_string());
    let (held, nobody) = crate::common::fake_registry::refused_port().unwrap();
    let config = configuration(dir.path(), &home, nobody);
    let before = (everything(&home), everything(&empty));
    let looking = ["status", "ls", "du", "inspect nginx", "pin", "gc --dry-run"];
    let changing = ["rm nginx", "gc", "pin nginx", "unpin nginx"];
    for command in looking.into_iter().chain(changing) {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--cache-dir", &home_text]);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let told = errors(&output);
        assert!(
            told.contains("no cache") && told.contains("damaged"),
            "{told}"
        );
        assert_same(&before.0, &home, command);
    }
    for command in looking {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--cache-dir", &empty_text]);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        assert!(errors(&output).contains("no cache"), "{output:?}");
        assert_same(&before.1, &empty, command);
    }
    for command in ["verify", "verify --repair", "check"] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--config", &config]);
        let output = run(&arguments);
        assert_eq!(output.status.success(), command == "check", "{output:?}");
        assert_same(&before.0, &home, command);
    }
    let serve = run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--cache-dir",
        &home_text,
    ]);
    assert_eq!(serve.status.code(), Some(1), "{serve:?}");
    assert!(errors(&serve).contains("no file VERSION"), "{serve:?}");
    assert_same(&before.0, &home, "serve");
    drop(held);
}

/// On a stopped cache, and on one whose server was killed, looking rewrote the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_a_cache_changes_nothing() {
    let registry = FakeRegistry::start().await;
    let image = images::image(300, &[200_000, 90_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let dir = tempfile::tempdir().unwrap();
    // What a file system has of its own is in nobody's way.
    std::fs::create_dir_all(dir.path().join("cache/lost+found")).unwrap();
    let mut dir = Some(dir);
    for killed in [false, true] {
        let mut process = Process::serve_in(dir.take().unwrap(), &registry.url(), &[]);
        let (client, _, _output) = process.ready();
        assert_eq!(client.get("/v2/team/app/manifests/v1").await.status, 200);
        for blob in image.blobs() {
            let path = format!("/v2/team/app/blobs/{}", blob.digest);
            client.get(&path).await.assert_bytes(200, &blob.bytes);
        }
        process.signal(if killed { Signal::KILL } else { Signal::TERM });
        process.wait();
        dir = Some(std::mem::replace(
            &mut process.dir,
            tempfile::tempdir().unwrap(),
        ));
        let cache = dir.as_ref().unwrap().path().join("cache");
        let text = cache.display().to_string();
        let (_held, nobody) = crate::common::fake_registry::refused_port().unwrap();
        let config = configuration(dir.as_ref().unwrap().path(), &cache, nobody);
        let before = everything(&cache);
        for command in [
            "status",
            "ls",
            "ls --json",
            "du",
            "inspect team/app:v1",
            "pin",
            "gc --dry-run",
            "rm --dry-run team/app:v1",
        ] {
            let mut arguments: Vec<&str> = command.split(' ').collect();
            arguments.extend(["--cache-dir", &text]);
            let said = done(&program(&arguments).await);
            if command == "ls" && !killed {
                assert!(said.contains("team/app:v1"), "{said}");
            }
            assert_same(&before, &cache, command);
        }
        for command in ["verify", "check"] {
            let output = program(&[command, "--config", &config]).await;
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert_same(&before, &cache, command);
        }
    }
}

/// What is cached is for its owner and his group, however the mirror was started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_may_not_look_into_a_cache() {
    let registry = FakeRegistry::start().await;
    let image = images::image(301, &[100_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mut process = Process::serve(&registry.url());
    let (client, _, _output) = process.ready();
    assert_eq!(client.get("/v2/team/app/manifests/v1").await.status, 200);
    process.signal(Signal::TERM);
    process.wait();
    let cache = process.dir.path().join("cache");
    for path in everything(&cache).into_keys() {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{} has {mode:o}", path.display());
    }
}
