//! Socket activation: sockets that were bound before the start.

use crate::common::{Client, FakeRegistry, images};
use crate::process::Process;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The program, as the service manager starts it: `first` is descriptor 3 and `second` is 4. The shell gives them these
/// numbers, and the process its own.
fn start(
    dir: TempDir,
    names: &str,
    first: OwnedFd,
    second: Option<OwnedFd>,
    arguments: &[&str],
) -> Process {
    let (count, moved) = match second {
        Some(_) => (2, "3<&0 4<&2 0</dev/null 2>log"),
        None => (1, "3<&0 0</dev/null 2>log"),
    };
    let script = format!(
        "LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec \"$0\" \"$@\" {moved}"
    );
    let child = Command::new("/bin/sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_roadstead")])
        .args(arguments)
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .stdin(Stdio::from(first))
        .stdout(Stdio::piped())
        .stderr(second.map_or_else(Stdio::null, Stdio::from))
        .spawn()
        .unwrap();
    Process { child, dir }
}

fn arguments<'a>(upstream: &'a str, config: &'a Path) -> Vec<&'a str> {
    let config = config.to_str().unwrap();
    vec!["serve", "--config", config, "--upstream", upstream]
}

fn write(dir: &Path, server: &str) -> std::path::PathBuf {
    let file = dir.join("config.toml");
    let text = format!("[server]\n{server}\n[cache]\ndir = \"cache\"\n[state]\ndir = \"state\"\n");
    std::fs::write(&file, text).unwrap();
    file
}

fn ask(mut stream: impl std::io::Read + std::io::Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

fn log(process: &Process) -> String {
    std::fs::read_to_string(process.dir.path().join("log")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_made_before_the_start_is_answered() {
    let registry = FakeRegistry::start().await;
    let image = images::image(1, &[2000], images::Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let dir = TempDir::new().unwrap();
    let clients = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = clients.local_addr().unwrap();
    let operators = dir.path().join("admin.sock");
    let admin = UnixListener::bind(&operators).unwrap();
    let early = TcpStream::connect(address).unwrap();
    let early_admin = UnixStream::connect(&operators).unwrap();
    let config = write(
        dir.path(),
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"",
    );
    let upstream = format!("docker.io={}", registry.url());
    let arguments = arguments(&upstream, &config);
    let names = "client:admin";
    let mut process = start(dir, names, clients.into(), Some(admin.into()), &arguments);
    let (client, _admin, _output) = process.ready();
    assert_eq!(client.0, address);
    let early =
        tokio::task::spawn_blocking(move || (ask(early, "/v2/"), ask(early_admin, "/healthz")));
    let (status, health) = early.await.unwrap();
    assert_eq!((&*status, &*health), ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"));
    let answer = Client(address).get("/v2/team/app/manifests/v1").await;
    answer.assert_bytes(200, &image.manifest.bytes);
    // Programs that it starts do not have the sockets.
    for number in [3, 4] {
        let pid = process.child.id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i64::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        // O_CLOEXEC
        assert!(flags & 0o2_000_000 != 0, "descriptor {number} is inherited");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_without_a_name_is_found_by_its_address() {
    let registry = FakeRegistry::start().await;
    let dir = TempDir::new().unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap();
    let server = format!("listen = \"127.0.0.1:0\"\nadmin_listen = \"{address}\"");
    let config = write(dir.path(), &server);
    let upstream = format!("docker.io={}", registry.url());
    let arguments = arguments(&upstream, &config);
    let mut process = start(dir, "roadstead.socket", admin.into(), None, &arguments);
    let (client, operators, _output) = process.ready();
    assert_eq!(operators.0, address);
    assert_ne!(client.0, address);
    assert_eq!(operators.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_for_nobody_stops_the_start() {
    let registry = FakeRegistry::start().await;
    let upstream = format!("docker.io={}", registry.url());
    let stray = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (listener, connection) = (stray(), stray());
    let strange = listener.local_addr().unwrap().to_string();
    let connected = TcpStream::connect(connection.local_addr().unwrap()).unwrap();
    for (name, socket, expected) in [
        ("other", OwnedFd::from(listener), &*strange),
        ("client", OwnedFd::from(connected), "Accept=no"),
    ] {
        let dir = TempDir::new().unwrap();
        let config = write(
            dir.path(),
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"",
        );
        let arguments = arguments(&upstream, &config);
        let mut process = start(dir, name, socket, None, &arguments);
        assert_eq!(process.wait().code(), Some(1));
        let text = log(&process);
        let named = format!("inherited socket \"{name}\" (descriptor 3");
        assert!(text.contains(&named) && text.contains(expected), "{text}");
    }
}
