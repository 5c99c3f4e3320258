//! The command line itself: where a server is found, what is printed where, help, completions, manual pages.

mod flags;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::World;
use serde_json::Value;
use tempfile::TempDir;

/// The program in this directory, with nothing in its environment.
fn roadstead(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("TMPDIR", dir)
        .stdin(Stdio::null());
    command
}

/// Runs it, without holding up the servers of the test.
async fn output(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    crate::common::within("the program", running).await.unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    text(output)
}

async fn pulled() -> (World, String) {
    let world = World::new().await;
    world
        .mirror
        .get("/v2/library/nginx/manifests/1.27?ns=docker.io")
        .await;
    world.mirror.wait_for_fills().await;
    let admin = world.mirror.admin.0.to_string();
    (world, admin)
}

/// A key that is misspelt in `./roadstead.toml`, a variable of another program, and a password file that only the server
/// may read, stopped each of these.
#[tokio::test]
async fn a_server_is_asked_whatever_the_configuration_here_says() {
    let (world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    let wrong = format!(
        "[server]\nlisten = \"{}\"\nadmin_listen = \"{admin}\"\nlisten_adress = 1\n[upstream.\"docker.io\"]\nendpoints = [\"https://a.example\"]\nusername = \"u\"\npassword_file = \"/nobody/may/read\"\n",
        world.mirror.client.0
    );
    std::fs::write(dir.path().join("roadstead.toml"), wrong).unwrap();
    let server = world.mirror.client.0.to_string();
    let url = format!("http://{admin}");
    for arguments in [
        vec!["ls", "--admin", &admin],
        vec!["ls", "--admin", &url],
        vec!["ls"],
        vec!["status"],
        vec!["health"],
        vec!["verify"],
        vec!["warm", "nginx:1.27"],
        vec!["warm", "nginx:1.27", "--server", &server],
        vec!["export", "nginx:1.27", "-o", "all.tar"],
        vec!["import", "all.tar"],
    ] {
        let mut command = roadstead(dir.path(), &arguments);
        command.env("ROADSTEAD_STRAY", "1");
        done(&output(command).await);
    }
    // The variables, where nothing else is.
    let empty = TempDir::new().unwrap();
    let mut command = roadstead(empty.path(), &["ls"]);
    command.env("ROADSTEAD_ADMIN", &admin);
    assert!(done(&output(command).await).contains("nginx:1.27"));
    let mut command = roadstead(empty.path(), &["warm", "nginx:1.27"]);
    command.env("ROADSTEAD_SERVER", &server);
    done(&output(command).await);
    let mut command = roadstead(empty.path(), &["ls"]);
    command.env("ROADSTEAD_ADMIN", "ftp://x");
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        errors(&refused).contains("ROADSTEAD_ADMIN=ftp://x: write it as"),
        "{refused:?}"
    );
    // Where not even the address can be told, no other server is asked instead.
    std::fs::write(dir.path().join("roadstead.toml"), "[server").unwrap();
    let refused = output(roadstead(dir.path(), &["ls"])).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(errors(&refused).contains("roadstead.toml:1"), "{refused:?}");
    // The server itself takes no notice of the variables for commands.
    let mut command = roadstead(empty.path(), &["check"]);
    command.env("ROADSTEAD_ADMIN", &admin);
    done(&output(command).await);
}

/// A list on a full disk, or through a pipe that is closed, ended with 0.
#[tokio::test]
async fn an_answer_that_cannot_be_written_is_an_error() {
    let (_world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    for arguments in [
        vec!["ls", "--admin", &admin],
        vec!["ls", "--json", "--admin", &admin],
        vec!["status", "--admin", &admin],
        vec!["check"],
        vec!["version"],
        vec!["--help"],
        vec!["--version"],
        vec!["completions", "bash"],
    ] {
        let mut command = roadstead(dir.path(), &arguments);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let full = output(command).await;
        assert_eq!(full.status.code(), Some(1), "{arguments:?}: {full:?}");
        let told = errors(&full);
        assert!(
            told.starts_with("error: cannot write: standard output: No space left"),
            "{told}"
        );
        assert_eq!(told.lines().count(), 1, "{told}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = roadstead(dir.path(), &arguments);
        command.stdout(writer);
        let gone = output(command).await;
        assert_eq!(gone.status.code(), Some(141), "{arguments:?}: {gone:?}");
        assert_eq!(errors(&gone), "");
    }
}

/// Exports `nginx:1.27` to a name.
async fn export(dir: &Path, server: &str, name: &str, more: &[&str]) -> Output {
    let mut arguments = vec![
        "export",
        "nginx:1.27",
        "--platform",
        "all",
        "-o",
        name,
        "--server",
        server,
    ];
    arguments.extend(more);
    output(roadstead(dir, &arguments)).await
}

#[tokio::test]
async fn archives_are_carried_in_files() {
    let (world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    let server = world.mirror.client.0.to_string();
    for name in [
        "a.tar",
        "a.tar.gz",
        "a.tgz",
        "a.tar.zst",
        "layout/",
        "plain",
    ] {
        let told = done(&export(dir.path(), &server, name, &["--json"]).await);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["summary"]["files"], 4, "{told}");
        let is_archive = name.contains(".t");
        assert_eq!(dir.path().join(name).is_dir(), !is_archive, "{name}");
        let arguments = ["import", name, "--json", "--admin", &admin];
        let told = done(&output(roadstead(dir.path(), &arguments)).await);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(
            (told["brought"].as_u64(), &told["failed"]),
            (Some(0), &Value::Null)
        );
        let tar = Command::new("tar")
            .args(["-tf", name])
            .current_dir(dir.path())
            .output();
        if let Some(listed) = tar.ok().filter(|_| is_archive && !name.ends_with("zst")) {
            assert!(
                listed.status.success(),
                "tar itself reads {name}: {listed:?}"
            );
        }
    }
    assert_eq!(leftovers(dir.path()), Vec::<String>::new());
    for name in ["a.zip", "a.tar.xz"] {
        let refused = export(dir.path(), &server, name, &[]).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(errors(&refused).contains(".tar.zst"), "{refused:?}");
        assert!(!dir.path().join(name).exists());
    }
    let whole = std::fs::read(dir.path().join("a.tar.zst")).unwrap();
    std::fs::write(dir.path().join("cut.tar.zst"), &whole[..whole.len() / 2]).unwrap();
    let refused = output(roadstead(
        dir.path(),
        &["import", "cut.tar.zst", "--admin", &admin],
    ))
    .await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let why = "cut.tar.zst: it is compressed with zstd, and cut short or damaged";
    assert!(errors(&refused).contains(why), "{refused:?}");
}

#[tokio::test]
async fn archives_are_carried_through_pipes() {
    let (world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    let server = world.mirror.client.0.to_string();
    for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
        done(&export(dir.path(), &server, name, &[]).await);
    }
    // `-o -` made a directory of that name.
    let piped = export(dir.path(), &server, "-", &[]).await;
    assert_eq!(piped.status.code(), Some(0), "{piped:?}");
    assert!(
        errors(&piped).contains("1 image in standard output: 4 files"),
        "{piped:?}"
    );
    let same = std::fs::read(dir.path().join("a.tar")).unwrap();
    assert!(piped.stdout == same, "the same images make the same bytes");
    assert!(!dir.path().join("-").exists());
    for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
        let file = dir.path().join(name);
        let mut command = roadstead(dir.path(), &["import", "-", "--admin", &admin]);
        command.stdin(File::open(&file).unwrap());
        done(&output(command).await);
        let mut cat = Command::new("cat")
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut command = roadstead(dir.path(), &["import", "-", "--admin", &admin]);
        command.stdin(cat.stdout.take().unwrap());
        done(&output(command).await);
        cat.wait().unwrap();
    }
    assert_eq!(leftovers(dir.path()), Vec::<String>::new());
}

/// Files that only an unfinished run may have.
fn leftovers(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.contains(".part") || name.contains("roadstead-import"))
        .collect()
}

/// An archive into a program that has gone ends quietly, as `tar` would.
#[tokio::test]
async fn an_archive_that_nobody_reads_ends_quietly() {
    let (world, _) = pulled().await;
    let dir = TempDir::new().unwrap();
    let server = world.mirror.client.0.to_string();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = roadstead(
        dir.path(),
        &[
            "export",
            "nginx:1.27",
            "-o",
            "-",
            "--platform",
            "all",
            "--server",
            &server,
        ],
    );
    command.stdout(writer);
    let gone = output(command).await;
    assert_eq!(
        (gone.status.code(), errors(&gone)),
        (Some(141), String::new())
    );
}

#[tokio::test]
async fn what_is_asked_of_the_program_itself() {
    let dir = TempDir::new().unwrap();
    let run = async |arguments: &[&str]| output(roadstead(dir.path(), arguments)).await;
    let version: Value = serde_json::from_str(&done(&run(&["version", "--json"]).await)).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        done(&run(&["version"]).await)
            .starts_with(&format!("roadstead {} (commit ", env!("CARGO_PKG_VERSION")))
    );
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            done(&run(&["completions", shell]).await).contains("roadstead"),
            "{shell}"
        );
    }
    let page = done(&run(&["man"]).await);
    assert!(
        page.contains(".TH roadstead") && page.contains("ROADSTEAD_ADMIN"),
        "{page}"
    );
    std::fs::create_dir(dir.path().join("man1")).unwrap();
    done(&run(&["man", "man1"]).await);
    for page in ["roadstead.1", "roadstead-serve.1", "roadstead-export.1"] {
        assert!(dir.path().join("man1").join(page).exists(), "{page}");
    }
    assert_eq!(run(&["man", "none"]).await.status.code(), Some(1));
    let checked: Value = serde_json::from_str(&done(
        &run(&["check", "--json", "--log-level", "debug"]).await,
    ))
    .unwrap();
    assert_eq!(checked["server"]["admin_listen"], "127.0.0.1:5001");
    assert_eq!(checked["log"]["level"], "debug");
    let help = done(&run(&["--help"]).await);
    for words in [
        "Look inside:",
        "Environment:",
        "Exit codes:",
        "  export ",
        "--color",
    ] {
        assert!(help.contains(words), "{words}:\n{help}");
    }
    let help = done(&run(&["export", "--help"]).await);
    assert!(
        help.contains("Examples:") && help.contains("-o images.tar.zst"),
        "{help}"
    );
    let wrong = run(&["staus"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(errors(&wrong).contains("'status'"), "{wrong:?}");
    let coloured = done(&run(&["--help", "--color", "always"]).await);
    assert!(coloured.contains("Look inside"), "{coloured}");
    for (variable, flags) in [
        ("nonsense", vec!["check"]),
        ("info", vec!["check", "--log-level", "loud"]),
    ] {
        let mut command = roadstead(dir.path(), &flags);
        command.env("ROADSTEAD_LOG", variable);
        let refused = output(command).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(
            errors(&refused).contains("is no level; write error, warn"),
            "{refused:?}"
        );
    }
}

/// A digest as `ls` prints it was refused as an image's name.
#[tokio::test]
async fn digests_are_taken_as_they_are_printed() {
    let (world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    let run = async |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--admin", &admin]);
        output(roadstead(dir.path(), &all)).await
    };
    let digest = world.image.manifest.digest.clone();
    let short = &digest["sha256:".len()..][..12];
    let full = format!("docker.io/library/nginx@{digest}");
    for name in [
        short.to_owned(),
        format!("sha256:{short}"),
        format!("nginx@{short}"),
        digest.clone(),
    ] {
        let seen = done(&run(&["inspect", "--json", &name]).await);
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["image"], full, "{name}");
    }
    let none = run(&["inspect", "nginx@0123456789ab"]).await;
    assert_eq!(none.status.code(), Some(1));
    assert!(
        errors(&none).contains("no image with the digest nginx@0123456789ab"),
        "{none:?}"
    );
    // The same image under another name: both are named.
    world.hub.put_image("team/copy", Some("1"), &world.image);
    world
        .mirror
        .get("/v2/team/copy/manifests/1?ns=docker.io")
        .await;
    let two = run(&["rm", short]).await;
    assert_eq!(two.status.code(), Some(1));
    let told = errors(&two);
    assert!(
        told.contains("is ambiguous: ") && told.contains(&full) && told.contains("team/copy@"),
        "{told}"
    );
    done(&run(&["rm", &format!("team/copy@{short}")]).await);
    done(&run(&["inspect", short]).await);
}

#[tokio::test]
async fn images_are_purged_by_pattern_upstream_and_age() {
    let (world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    let run = async |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--admin", &admin]);
        output(roadstead(dir.path(), &all)).await
    };
    for tag in ["pr-1", "pr-2", "v1"] {
        world.ghcr.put_image("org/app", Some(tag), &world.app);
        world
            .mirror
            .get(&format!("/v2/org/app/manifests/{tag}?ns=ghcr.io"))
            .await;
    }
    done(&run(&["pin", "ghcr.io/org/app:pr-2"]).await);
    let dry = done(&run(&["purge", "ghcr.io/org/*:pr-*", "--dry-run"]).await);
    assert!(
        dry.contains("would free at least ") && dry.contains(": 1 image, "),
        "{dry}"
    );
    assert!(dry.contains("; kept 1 pinned image"), "{dry}");
    done(&run(&["rm", "ghcr.io/org/*:pr-*"]).await);
    let left = done(&run(&["ls"]).await);
    assert!(
        !left.contains("app:pr-1") && left.contains("app:pr-2") && left.contains("app:v1"),
        "{left}"
    );
    let told = done(&run(&["rm", "--json", "--unused-for", "500years"]).await);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["summary"]["images"], 0, "everything was pulled since");
    done(&run(&["rm", "--upstream", "docker.io"]).await);
    let left = done(&run(&["ls"]).await);
    assert!(!left.contains("nginx") && left.contains("app:v1"), "{left}");
    for wrong in [
        vec!["rm"],
        vec!["rm", "nginx", "--upstream", "a.io"],
        vec!["rm", "--all", "a/*"],
        vec!["rm", "--unused-for", "soon"],
    ] {
        assert_eq!(run(&wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_tag_is_asked_for_again_at_once() {
    let (world, admin) = pulled().await;
    let dir = TempDir::new().unwrap();
    let run = async |image: &str| {
        output(roadstead(
            dir.path(),
            &["refresh", image, "--admin", &admin],
        ))
        .await
    };
    assert!(
        done(&run("nginx:1.27").await).starts_with("docker.io/library/nginx:1.27: unchanged, ")
    );
    world
        .hub
        .put_image("library/nginx", Some("1.27"), &world.app);
    let moved = done(&run("nginx:1.27").await);
    let short = |digest: &str| digest["sha256:".len()..][..12].to_owned();
    let (old, new) = (
        short(&world.image.manifest.digest),
        short(&world.app.manifest.digest),
    );
    assert_eq!(
        moved,
        format!("docker.io/library/nginx:1.27: moved from {old} to {new}\n")
    );
    // Clients get it at once, although its time had not run out.
    let answer = world
        .mirror
        .get("/v2/library/nginx/manifests/1.27?ns=docker.io")
        .await;
    answer.assert_bytes(200, &world.app.manifest.bytes);
    let none = run("none:1").await;
    assert_eq!(none.status.code(), Some(1));
    assert!(
        errors(&none).contains("upstream has no such tag"),
        "{none:?}"
    );
    let digest = run(&format!("nginx@{}", world.app.manifest.digest)).await;
    assert!(
        errors(&digest).contains("refresh takes a tag"),
        "{digest:?}"
    );
}

/// The page is what the program says of itself. `UPDATE_DOCS=1` writes it.
#[test]
fn the_reference_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/cli.md");
    let expected = roadstead::cli::reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &expected).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap();
    assert!(
        there == expected,
        "UPDATE_DOCS=1 cargo test --test it cli::the_reference"
    );
}
