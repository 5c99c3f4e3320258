//! Messages to the service manager: a script stands where systemd would listen.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{FakeRegistry, WAIT_MAX};
use crate::process::Process;

/// The real program, and the socket at which it is heard.
struct Service {
    process: Process,
    socket: UnixDatagram,
}

impl Service {
    /// Starts with these further variables.
    fn start(upstream: &str, variables: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
        configure(dir.path(), upstream, "1m");
        let child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
            .args(["serve", "--config", "config.toml"])
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .env("NOTIFY_SOCKET", &path)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process { child, dir };
        Self { process, socket }
    }

    /// The next message's lines.
    fn hears(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("no message in time");
        let text = String::from_utf8(message[..length].to_vec()).unwrap();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// The next message that is not a sign of life.
    fn hears_more(&self) -> Vec<String> {
        loop {
            let message = self.hears();
            if message != ["WATCHDOG=1"] {
                return message;
            }
        }
    }

    /// Sends SIGHUP with this configuration, and returns the status after it.
    fn reload(&self, upstream: &str, ttl: &str) -> String {
        configure(self.process.dir.path(), upstream, ttl);
        self.process.signal(Signal::HUP);
        let reloading = self.hears_more();
        assert_eq!(reloading[0], "RELOADING=1");
        // systemd 253 tells by it which reload a `READY=1` belongs to.
        let stamp = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap();
        assert!(stamp.parse::<u64>().unwrap() > 0, "{stamp}");
        let ready = self.hears_more();
        assert_eq!(ready[0], "READY=1");
        ready[1].clone()
    }
}

fn configure(dir: &Path, upstream: &str, ttl: &str) {
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\ndrain_timeout = \"200s\"
watch_config = false\n[cache]\ndir = \"cache\"\n[state]\ndir = \"state\"\n[tags]\nttl = {ttl:?}
[upstream.\"docker.io\"]\nendpoints = [{upstream:?}]\n"
    );
    std::fs::write(dir.join("config.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manager_is_told_of_the_start_of_reloads_and_of_the_end() {
    let registry = FakeRegistry::start().await;
    let mut service = Service::start(&registry.url(), &[]);
    let ready = service.hears();
    assert_eq!(ready[0], "READY=1");
    // Not a moment too early: what it names can be connected to.
    let status = ready[1]
        .strip_prefix("STATUS=listening on http://")
        .unwrap();
    let (address, _admin) = status.split_once(" (admin http://").unwrap();
    let mut early = std::net::TcpStream::connect(address).unwrap();
    early
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let status = service.reload(&registry.url(), "2m");
    assert_eq!(
        status, ready[1],
        "nothing to be said of a reload that succeeds"
    );
    let status = service.reload(&registry.url(), "soon");
    assert!(
        status.ends_with("; the last reload failed and changed nothing: see the log"),
        "{status}"
    );
    assert!(
        !status.contains("soon"),
        "{status} is for everybody to read"
    );

    service.process.signal(Signal::TERM);
    let stopping = service.hears();
    assert_eq!(stopping[0], "STOPPING=1");
    // As long as the configuration lets the drain last, whatever the unit's own bound is.
    let extended = stopping[1].strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap();
    assert!(extended.parse::<u64>().unwrap() > 200_000_000, "{extended}");
    assert!(service.process.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_of_life_come_for_as_long_as_it_serves() {
    let registry = FakeRegistry::start().await;
    let mut service = Service::start(&registry.url(), &[("WATCHDOG_USEC", "600000")]);
    assert_eq!(service.hears()[0], "READY=1");
    for _ in 0..5 {
        assert_eq!(service.hears(), ["WATCHDOG=1"]);
    }
    service.process.signal(Signal::TERM);
    assert_eq!(service.hears_more()[0], "STOPPING=1");
    assert!(service.process.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watchdog_of_another_process_is_not_fed() {
    let registry = FakeRegistry::start().await;
    // The shell that started it, for example.
    let variables = [("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", "1")];
    let mut service = Service::start(&registry.url(), &variables);
    assert_eq!(service.hears()[0], "READY=1");
    for _ in 0..3 {
        service.process.signal(Signal::HUP);
        assert_eq!(service.hears()[0], "RELOADING=1");
        assert_eq!(service.hears()[0], "READY=1");
    }
    service.process.signal(Signal::TERM);
    assert_eq!(service.hears()[0], "STOPPING=1");
    assert!(service.process.wait().success());
}
