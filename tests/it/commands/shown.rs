//! What commands and the start show, whatever others have written, and what they advise.

use std::process::Command;

use super::{configuration, done, errors, lines, program, pulled, text};
use crate::common::{Blob, FakeRegistry, Manifest, Mirror, World, images};

/// What an image's maker writes must not be able to do anything to who looks at it.
#[tokio::test]
async fn texts_of_images_give_the_terminal_no_commands() {
    let nasty = "x\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}txt.exe\u{2066}\u{200b}\u{7f}\nIMAGE forged";
    let hub = FakeRegistry::start().await;
    let layer = Blob::noise(5, 1000);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "author": nasty, "variant": nasty,
        "config": {"Labels": {nasty: nasty}, "Cmd": [nasty], "Entrypoint": [nasty], "Env": [nasty], "User": nasty},
        "history": [{"created_by": nasty, "comment": nasty}],
    });
    let config = Blob::of(config.to_string());
    let (kind, of) = (images::OCI_MANIFEST, "application/vnd.oci.image");
    let manifest = Manifest::of(
        kind,
        &serde_json::json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": {"mediaType": format!("{of}.config.v1+json"), "digest": config.digest, "size": config.bytes.len()},
            "layers": [{"mediaType": format!("{of}.layer.v1.tar"), "digest": layer.digest, "size": 1000,
                "annotations": {nasty: nasty}}],
            "annotations": {nasty: nasty, "org.opencontainers.image.title": nasty},
        }),
    );
    hub.put_blob("library/app", &layer);
    hub.put_blob("library/app", &config);
    hub.put_manifest("library/app", Some("1"), &manifest);
    let mirror = Mirror::of(&hub).await;
    let (server, admin) = (
        format!("http://{}", mirror.client.0),
        format!("http://{}", mirror.admin.0),
    );
    let commands: [&[&str]; 8] = [
        &["warm", "--server", &server, "app:1"],
        &["warm", "--server", &server, "--json", "app:1"],
        &["inspect", "--admin", &admin, "app:1"],
        &["inspect", "--admin", &admin, "--json", "app:1"],
        &["ls", "--admin", &admin],
        &["ls", "--admin", &admin, "--json"],
        &["verify", "--admin", &admin, "--json"],
        &["rm", "--admin", &admin, "--dry-run", "app:1"],
    ];
    for arguments in commands {
        let output = program(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        let shown = text(&output) + &errors(&output);
        let odd =
            |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{200b}\u{9b}".contains(c);
        assert!(!shown.contains(odd), "{arguments:?}: {shown:?}");
        let forged = shown.lines().any(|line| line.starts_with("IMAGE forged"));
        assert!(!forged, "{arguments:?}: {shown}");
    }
    let answer = mirror.admin.get("/api/v1/inspect?image=app:1").await;
    assert!(answer.text().is_ascii(), "{}", answer.text());
}

/// For a container that has no shell: one line, an exit code, and no waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_an_exit_code() {
    let world = World::new().await;
    let admin = format!("http://{}", world.mirror.admin.0);
    assert_eq!(done(&program(&["health", "--admin", &admin]).await), "ok\n");
    let json = lines(&program(&["health", "--json", "--admin", &admin]).await);
    assert_eq!(json[0]["health"], "ok");
    // As in a container: the address is the configuration's.
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path(), &dir.path().join("none"), world.mirror.admin.0);
    assert_eq!(
        done(&program(&["health", "--config", &config]).await),
        "ok\n"
    );
    let (_held, nobody) = crate::common::fake_registry::refused_port().unwrap();
    // Nobody there: the directory is no answer to this question.
    let config = configuration(dir.path(), &world.mirror.store(), nobody);
    let output = program(&["health", "--config", &config]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(errors(&output).starts_with("error: no roadstead answers at http://"));
    assert_eq!(
        (text(&output).as_str(), errors(&output).lines().count()),
        ("", 1)
    );
    // One that drains, and one that has stopped answering.
    let draining = answers_always("HTTP/1.1 503 x\r\ncontent-length: 9\r\n\r\ndraining\n").await;
    let output = program(&["health", "--admin", &draining]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(errors(&output), "error: not ready: draining\n");
    let silent = answers_always("").await;
    let asked = std::time::Instant::now();
    let output = program(&["health", "--admin", &silent]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(asked.elapsed() < std::time::Duration::from_secs(20));
}

/// The URL of a server that says this to everybody, or nothing.
async fn answers_always(answer: &'static str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _asked = stream.read(&mut [0; 4096]).await;
            let _told = stream.write_all(answer.as_bytes()).await;
            held.push(stream);
        }
    });
    url
}

/// It advised to warm what somebody wants to be rid of.
#[tokio::test]
async fn who_removes_what_is_not_there_is_told_what_is() {
    let (world, admin) = pulled().await;
    for (arguments, expected) in [
        (
            vec!["docker.io"],
            [
                "docker.io is a registry",
                "--all",
                "roadstead ls docker.io lists",
            ],
        ),
        (
            vec!["none:1"],
            [
                "docker.io/library/none:1 is not in the cache",
                "nothing to remove",
                "roadstead ls lists",
            ],
        ),
        (
            vec!["--all", "none"],
            [
                "docker.io/library/none is in the cache",
                "nothing to remove",
                "roadstead ls docker.io",
            ],
        ),
    ] {
        let arguments = [vec!["rm", "--admin", &admin], arguments].concat();
        let output = program(&arguments).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = errors(&output);
        for words in expected {
            assert!(told.contains(words), "{words} in {told}");
        }
        assert!(!told.contains("warm"), "{told}");
    }
    drop(world);
}

/// What runs, with what, and what of that is likely not meant: the first lines of the log.
#[tokio::test]
async fn a_start_says_what_it_starts() {
    use std::io::{BufRead as _, Read as _};
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache").display().to_string();
    let child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "0.0.0.0:0",
        ])
        .args(["--cache-dir", &cache, "--cache-size", "900TB"])
        .current_dir(dir.path())
        .env_clear()
        .env("HOME", dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut ready = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut ready).unwrap();
    assert!(
        ready.starts_with("listening on http://127.0.0.1:"),
        "{ready}"
    );
    // It ends by itself, so that all it had to say is written.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut log = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    child.wait().unwrap();
    for words in [
        &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")),
        " commit=\"",
        "configuration=\"built-in defaults\"",
        &format!("cache_dir={cache}"),
        "max_size=900.0 TB",
        "docker.io,",
        "the cache is open",
        "the admin listener 0.0.0.0:",
        "cache.max_size (900.0 TB) is more than the file system",
    ] {
        assert!(log.contains(words), "{words} in:\n{log}");
    }
}
