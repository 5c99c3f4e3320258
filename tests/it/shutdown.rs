//! The end of a process, asked for or forced: what runs is finished, what
//! cannot start says why.

use std::io::{BufReader, Read as _};
use std::process::ChildStdout;
use std::time::Duration;

use crate::common::client::Streaming;
use crate::common::images::{self, Blob};
use crate::common::{Client, Dialect, FakeRegistry, Gate, MirrorBuilder, within};
use crate::process::Process;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const MIB: usize = 1 << 20;

/// Waits until nobody listens there any more.
async fn refused(address: std::net::SocketAddr) {
    let trying = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("new connections to be refused", trying).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_bodies_finish_and_new_connections_are_refused() {
    let registry = FakeRegistry::start().await;
    let stored = Blob::noise(101, 16 * MIB);
    let filling = Blob::noise(102, MIB);
    registry.put_blob("team/app", &stored);
    registry.put_blob("team/app", &filling);
    let gate = registry.gate(&filling.digest);
    gate.release(MIB / 4);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.server.drain_timeout = Duration::from_mins(1))
        .start()
        .await;
    let path = |blob: &Blob| format!("/v2/team/app/blobs/{}", blob.digest);
    mirror
        .get(&path(&stored))
        .await
        .assert_bytes(200, &stored.bytes);
    let mut hit = mirror.open(&path(&stored)).await;
    hit.exactly(1000).await;
    let mut miss = mirror.open(&path(&filling)).await;
    miss.exactly(1000).await;
    let address = mirror.address();
    let stopping = tokio::spawn(mirror.stop());
    refused(address).await;
    assert!(!stopping.is_finished(), "it did not wait for the bodies");
    gate.open();
    hit.assert_rest_equals(&stored.bytes[1000..]).await;
    miss.assert_rest_equals(&filling.bytes[1000..]).await;
    within("the stop", stopping).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_body_ends_at_the_bound() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(103, MIB);
    registry.put_blob("team/app", &blob);
    let gate = registry.gate(&blob.digest);
    gate.release(MIB / 2);
    let mirror = MirrorBuilder::new()
        .upstream("docker.io", &registry, |upstream| {
            upstream.default = true;
            upstream.idle_timeout = Duration::from_mins(10);
        })
        .with(|config| config.server.drain_timeout = Duration::from_secs(1))
        .start()
        .await;
    let mut reader = mirror
        .open(&format!("/v2/team/app/blobs/{}", blob.digest))
        .await;
    reader.exactly(1000).await;
    let started = Instant::now();
    within("the stop", mirror.stop()).await;
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(reader.rest().await.1, crate::common::Ending::Broken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_hold_up_the_stop() {
    let registry = FakeRegistry::start().await;
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.server.drain_timeout = Duration::from_secs(50))
        .start()
        .await;
    let _silent = TcpStream::connect(mirror.address()).await.unwrap();
    let _silent_admin = TcpStream::connect(mirror.admin.0).await.unwrap();
    assert_eq!(mirror.get("/v2/").await.status, 200);
    let started = Instant::now();
    within("the stop", mirror.stop()).await;
    assert!(
        started.elapsed() < Duration::from_secs(25),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_end_the_program_with_success() {
    let registry = FakeRegistry::start().await;
    let image = images::image(104, &[100_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::serve(&registry.url());
        let (client, admin, mut output) = process.ready();
        assert_eq!(admin.get("/readyz").await.status, 200);
        let layer = &image.layers[0];
        let path = format!("/v2/team/app/blobs/{}", layer.digest);
        client.get(&path).await.assert_bytes(200, &layer.bytes);
        process.signal(signal);
        let status = process.wait();
        assert_eq!(status.code(), Some(0), "after {signal:?}");
        let mut more = String::new();
        output.read_to_string(&mut more).unwrap();
        assert_eq!(more, "", "standard output holds the ready line alone");
    }
}

/// The real program in the middle of a body: the registry has sent half of the blob, and a client has read 1000 bytes.
struct HalfRead {
    process: Process,
    client: Client,
    admin: Client,
    blob: Blob,
    gate: Gate,
    reader: Streaming,
    _registry: FakeRegistry,
    _output: BufReader<ChildStdout>,
}

impl HalfRead {
    async fn new(seed: u64) -> Self {
        let registry = FakeRegistry::start().await;
        let blob = Blob::noise(seed, MIB);
        registry.put_blob("team/app", &blob);
        let gate = registry.gate(&blob.digest);
        gate.release(MIB / 2);
        let mut process = Process::serve(&registry.url());
        let (client, admin, output) = process.ready();
        let mut reader = client
            .open(&format!("/v2/team/app/blobs/{}", blob.digest), &[])
            .await;
        reader.exactly(1000).await;
        Self {
            process,
            client,
            admin,
            blob,
            gate,
            reader,
            _registry: registry,
            _output: output,
        }
    }

    /// The client gets the rest, and the program ends well: it takes nobody else.
    async fn drains(mut self) -> Process {
        refused(self.client.0).await;
        self.gate.open();
        let rest = &self.blob.bytes[1000..];
        self.reader.assert_rest_equals(rest).await;
        drop(self.reader);
        assert_eq!(self.process.wait().code(), Some(0));
        self.process
    }
}

/// Each of these ended the process at once, in the middle of a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_mean_nothing_here_are_passed_over() {
    let half = HalfRead::new(106).await;
    for signal in [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::STKFLT,
        Signal::PIPE,
        Signal::XFSZ,
    ] {
        half.process.signal(signal);
        let answer = within("health", half.admin.get("/healthz")).await;
        assert_eq!(answer.status, 200, "after {signal:?}");
    }
    let real_time = std::process::Command::new("kill")
        .args(["-40", &half.process.child.id().to_string()])
        .status();
    assert!(real_time.unwrap().success());
    assert_eq!(half.admin.get("/healthz").await.status, 200);
    half.process.signal(Signal::QUIT);
    let mut process = half.drains().await;
    let mut text = String::new();
    let mut errors = process.child.stderr.take().unwrap();
    errors.read_to_string(&mut text).unwrap();
    for said in ["SIGHUP", "restart", "SIGUSR1", "real-time", "SIGQUIT"] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

/// A second one cuts the drain short, and the power that fails drains, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_signals_that_mean_the_end_end_it_at_once() {
    let mut half = HalfRead::new(107).await;
    half.process.signal(Signal::POWER);
    refused(half.client.0).await;
    half.process.signal(Signal::QUIT);
    assert_eq!(half.process.wait().code(), Some(131));
}

/// `ulimit -f`: the kernel's signal ended the process in the middle of a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_the_size_of_files_is_a_full_disk() {
    let registry = FakeRegistry::start().await;
    let image = images::image(108, &[16 * MIB, MIB], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let unknown = Blob::noise(109, 16 * MIB);
    registry.put_blob("team/app", &unknown);
    let mut process = Process::serve(&registry.url());
    let (client, admin, _output) = process.ready();
    let limit = Some(8 * MIB as u64);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(
        Some(Pid::from_child(&process.child)),
        Resource::Fsize,
        limit,
    )
    .unwrap();
    assert_eq!(client.get("/v2/team/app/manifests/v1").await.status, 200);
    let path = |blob: &Blob| format!("/v2/team/app/blobs/{}", blob.digest);
    for round in 0..2 {
        for blob in [&image.layers[0], &unknown] {
            let answer = client.get(&path(blob)).await;
            answer.assert_bytes(200, &blob.bytes);
        }
        // What is small enough is stored.
        let small = &image.layers[1];
        let answer = client.get(&path(small)).await;
        answer.assert_bytes(200, &small.bytes);
        let hit = answer.header("cache-status") == "roadstead; hit";
        assert_eq!(hit, round == 1, "{}", answer.header("cache-status"));
    }
    assert_eq!(admin.get("/readyz").await.status, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_body_finish() {
    let half = HalfRead::new(105).await;
    half.process.signal(Signal::TERM);
    half.drains().await;
}

/// One line says what is wrong; nobody has to read a backtrace.
#[track_caller]
fn assert_clear(text: &str, names: &str) {
    assert!(text.contains(names), "{names:?} is not named in {text:?}");
    assert!(!text.contains("panicked"), "{text}");
    // Before it stands what was about to start.
    let told = |line: &&str| line.contains(names) && !line.contains(": starting version=");
    assert_eq!(text.lines().filter(told).count(), 1, "{text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for which in ["--listen", "--admin-listen"] {
        let other = if which == "--listen" {
            "--admin-listen"
        } else {
            "--listen"
        };
        let dir = TempDir::new().unwrap();
        let cache = dir.path().join("cache").display().to_string();
        let arguments = [
            "serve",
            which,
            &address,
            other,
            "127.0.0.1:0",
            "--cache-dir",
            &cache,
        ];
        let (code, text) = Process::start(dir, &arguments).fails();
        assert_eq!(code, 1, "{text}");
        assert_clear(&text, &address);
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_one_clear_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    // Below a regular file nobody can write, root included.
    let cache = file.join("cache").display().to_string();
    let listen = "127.0.0.1:0";
    let arguments = [
        "serve",
        "--listen",
        listen,
        "--admin-listen",
        listen,
        "--cache-dir",
        &cache,
    ];
    let (code, text) = Process::start(dir, &arguments).fails();
    assert_eq!(code, 1, "{text}");
    assert_clear(&text, &file.display().to_string());
}

/// A part of the cache on another file system: each blob was fetched and could then not get its name.
#[test]
fn directories_on_different_file_systems_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let device =
        |path: &std::path::Path| std::os::unix::fs::MetadataExt::dev(&path.metadata().unwrap());
    if device(elsewhere.path()) == device(dir.path()) {
        return;
    }
    for part in ["blobs", "fills", "damaged", "blobs/sha256"] {
        let cache = dir.path().join("cache");
        std::fs::create_dir_all(cache.join(part).parent().unwrap()).unwrap();
        std::fs::write(cache.join("VERSION"), "1\n").unwrap();
        let there = elsewhere.path().join(part.replace('/', "-"));
        std::fs::create_dir_all(&there).unwrap();
        std::os::unix::fs::symlink(there, cache.join(part)).unwrap();
        let cache_text = cache.display().to_string();
        let listen = "127.0.0.1:0";
        let arguments = [
            "serve",
            "--listen",
            listen,
            "--admin-listen",
            listen,
            "--cache-dir",
            &cache_text,
        ];
        let (code, text) = Process::start(TempDir::new().unwrap(), &arguments).fails();
        assert_eq!(code, 1, "{part}: {text}");
        assert_clear(&text, "different file systems");
        let named = cache.join(part).display().to_string();
        assert!(text.contains(&named), "{part}: {text}");
        std::fs::remove_dir_all(&cache).unwrap();
    }
}

#[test]
fn a_bad_configuration_is_exit_2_naming_key_and_line() {
    for command in ["serve", "check"] {
        let dir = TempDir::new().unwrap();
        std::fs::write(
            dir.path().join("bad.toml"),
            "[cache]\nmax_size = \"1GB\"\nmax_sise = \"2GB\"\n",
        )
        .unwrap();
        let (code, text) = Process::start(dir, &[command, "--config", "bad.toml"]).fails();
        assert_eq!(code, 2, "{command}: {text}");
        assert!(text.contains("max_sise"), "{command}: {text}");
        assert!(text.contains('3'), "the line is named: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// Two mirrors on one directory would delete each other's files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_is_refused() {
    let registry = FakeRegistry::start().await;
    let mut first = Process::serve(&registry.url());
    let _ready = first.ready();
    let cache = first.dir.path().join("cache").display().to_string();
    let listen = "127.0.0.1:0";
    let arguments = [
        "serve",
        "--listen",
        listen,
        "--admin-listen",
        listen,
        "--cache-dir",
        &cache,
    ];
    let (code, text) = Process::start(TempDir::new().unwrap(), &arguments).fails();
    assert_eq!(code, 1, "{text}");
    assert!(!text.contains("panicked"), "{text}");
}
