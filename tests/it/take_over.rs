//! One process takes over from another: sockets, store, and the clients that are at work.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::common::images::{self, Blob, Dialect};
use crate::common::{Client, FakeRegistry, WAIT_MAX, within};
use crate::process::Process;

const MIB: usize = 1 << 20;

/// The directory and the configuration that the processes have, one after the other.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(registry: &FakeRegistry, more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let place = Self { dir };
        place.write(registry, more);
        place
    }

    fn write(&self, registry: &FakeRegistry, more: &str) {
        let (root, url) = (self.dir.path().display(), registry.url());
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{more}\n[cache]\ndir = \"{root}/cache\"\n[state]\ndir = \"{root}/state\"\n[upstream.\"docker.io\"]\nendpoints = [{url:?}]\ndefault = true\n"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    fn start(&self) -> Process {
        let config = self.config().display().to_string();
        Process::start(
            TempDir::new().unwrap(),
            &["serve", "--take-over", "--config", &config],
        )
    }

    /// Starts one, and waits until it serves.
    fn serve(&self) -> (Process, Client, Client) {
        let mut process = self.start();
        let (client, admin, _output) = process.ready();
        (process, client, admin)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("state/take-over.sock")
    }
}

fn path(blob: &Blob) -> String {
    format!("/v2/team/app/blobs/{}", blob.digest)
}

/// The log of a process that has ended.
fn log(process: &mut Process) -> String {
    let mut text = String::new();
    let mut errors = process.child.stderr.take().unwrap();
    errors.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_served_to_the_end_and_the_download_goes_on() {
    let registry = FakeRegistry::start().await;
    let (stored, filling) = (Blob::noise(901, 16 * MIB), Blob::noise(902, 4 * MIB));
    registry.put_blob("team/app", &stored);
    registry.put_blob("team/app", &filling);
    let gate = registry.gate(&filling.digest);
    gate.release(MIB);
    let place = Place::new(&registry, "");
    let (mut old, client, admin) = place.serve();
    let answer = client.get(&path(&stored)).await;
    answer.assert_bytes(200, &stored.bytes);
    let mut hit = client.open(&path(&stored), &[]).await;
    hit.exactly(1000).await;
    let mut miss = client.open(&path(&filling), &[]).await;
    miss.exactly(MIB / 2).await;

    let (mut new, same_client, same_admin) = place.serve();
    assert_eq!((same_client.0, same_admin.0), (client.0, admin.0));
    assert!(
        old.child.try_wait().unwrap().is_none(),
        "its readers are not served yet"
    );
    let before = registry.counters().blob_gets(&stored.digest);
    let answer = client.get(&path(&stored)).await;
    answer.assert_bytes(200, &stored.bytes);
    assert_eq!(
        registry.counters().blob_gets(&stored.digest),
        before,
        "it is stored"
    );
    let mut again = client.open(&path(&filling), &[]).await;
    gate.open();
    again.assert_rest_equals(&filling.bytes).await;
    miss.assert_rest_equals(&filling.bytes[MIB / 2..]).await;
    hit.assert_rest_equals(&stored.bytes[1000..]).await;
    assert!(old.wait().success());
    let log_of_old = log(&mut old);
    assert!(
        log_of_old.contains("another process takes over"),
        "{log_of_old}"
    );
    new.signal(rustix::process::Signal::TERM);
    assert!(new.wait().success());
    let log_of_new = log(&mut new);
    assert!(
        log_of_new.contains("taking up a download that an earlier run left off"),
        "{log_of_new}"
    );
}

/// A client that keeps its connection for as long as the server does, and never asks twice.
struct Strict {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Strict {
    fn get(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).map_err(failed("connect"))?,
        };
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\nAccept: */*\r\n\r\n");
        stream.write_all(head.as_bytes()).map_err(failed("send"))?;
        let mut read = Vec::new();
        let head_end = loop {
            let mut some = [0; 16 * 1024];
            let count = stream.read(&mut some).map_err(failed("head"))?;
            if count == 0 {
                return Err(format!("closed after {} bytes of the head", read.len()));
            }
            read.extend_from_slice(&some[..count]);
            if let Some(end) = read.windows(4).position(|it| it == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&read[..head_end]).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return Err(head);
        }
        let length = head
            .lines()
            .find_map(|it| it.strip_prefix("content-length: "));
        let length: usize = length.ok_or("no length")?.trim().parse().unwrap();
        let mut body = read.split_off(head_end);
        let there = body.len();
        body.resize(length, 0);
        stream
            .read_exact(&mut body[there..])
            .map_err(failed("body"))?;
        if !head.contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok(body)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_request_fails() {
    let registry = FakeRegistry::start().await;
    let image = images::image(903, &[300_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let place = Place::new(&registry, "");
    let (mut current, client, _) = place.serve();
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let load = |kept: bool| {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        let image = image.clone();
        std::thread::spawn(move || {
            let mut strict = Strict {
                address: client.0,
                stream: None,
            };
            while !stop.load(Ordering::Relaxed) {
                let wanted = [
                    (
                        "/v2/team/app/manifests/v1".to_owned(),
                        &image.manifest.bytes,
                    ),
                    (path(&image.layers[0]), &image.layers[0].bytes),
                ];
                for (path, expected) in wanted {
                    let body = strict
                        .get(&path)
                        .unwrap_or_else(|why| panic!("{path}: {why}"));
                    assert!(body == *expected, "other bytes");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                if !kept {
                    strict.stream = None;
                }
            }
        })
    };
    let clients: Vec<_> = [true, true, true, false, false].map(load).into();
    let more = async |than: usize| {
        let enough = async {
            while answered.load(Ordering::Relaxed) < than + 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("requests to be answered", enough).await;
    };
    more(0).await;
    for _ in 0..3 {
        let (next, _, _) = place.serve();
        let mut before = std::mem::replace(&mut current, next);
        assert!(before.wait().success());
        more(answered.load(Ordering::Relaxed)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(registry.counters().blob_gets(&image.layers[0].digest), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_start_changes_nothing() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(904, MIB);
    registry.put_blob("team/app", &blob);
    let gate = registry.gate(&blob.digest);
    gate.release(MIB / 2);
    let place = Place::new(&registry, "");
    let (mut old, client, _) = place.serve();
    let mut reader = client.open(&path(&blob), &[]).await;
    reader.exactly(1000).await;
    let missing = Path::new("/nonexistent/cert.pem").display().to_string();
    place.write(
        &registry,
        &format!("tls = {{ cert = {missing:?}, key = {missing:?} }}"),
    );
    let (code, text) = place.start().fails();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("/nonexistent/cert.pem"), "{text}");
    gate.open();
    reader.assert_rest_equals(&blob.bytes[1000..]).await;
    assert_eq!(
        registry.counters().blob_gets(&blob.digest),
        1,
        "the download was not suspended"
    );
    // And another may come later.
    place.write(&registry, "");
    let (_new, client, _) = place.serve();
    assert!(old.wait().success());
    let answer = client.get(&path(&blob)).await;
    answer.assert_bytes(200, &blob.bytes);
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_next_one_dies_the_old_one_serves_on() {
    let registry = FakeRegistry::start().await;
    let (stored, other) = (Blob::noise(905, MIB), Blob::noise(906, MIB));
    registry.put_blob("team/app", &stored);
    registry.put_blob("team/app", &other);
    let place = Place::new(&registry, "");
    let (mut old, client, _) = place.serve();
    let answer = client.get(&path(&stored)).await;
    answer.assert_bytes(200, &stored.bytes);
    // It lets go of the store, and whoever asked for that is gone.
    let mut successor = BufReader::new(UnixStream::connect(place.socket()).await.unwrap());
    let mut line = String::new();
    successor.read_line(&mut line).await.unwrap();
    assert!(line.contains("admin"), "{line}");
    successor.write_all(b"go\n").await.unwrap();
    line.clear();
    within("the store to be released", successor.read_line(&mut line))
        .await
        .unwrap();
    assert_eq!(line, "released\n");
    drop(successor);
    for blob in [&stored, &other, &other] {
        let answer = client.get(&path(blob)).await;
        answer.assert_bytes(200, &blob.bytes);
    }
    assert_eq!(
        registry.counters().blob_gets(&stored.digest),
        1,
        "it is served from its file"
    );
    assert_eq!(
        registry.counters().blob_gets(&other.digest),
        2,
        "it passes through"
    );
    let (_new, client, _) = place.serve();
    assert!(old.wait().success());
    for blob in [&stored, &other, &other] {
        let answer = client.get(&path(blob)).await;
        answer.assert_bytes(200, &blob.bytes);
    }
    assert_eq!(registry.counters().blob_gets(&stored.digest), 1);
    assert_eq!(
        registry.counters().blob_gets(&other.digest),
        3,
        "it is stored now"
    );
    assert!(log(&mut old).contains("is gone, and this one has let go of its store"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_flag_a_second_process_is_refused() {
    let registry = FakeRegistry::start().await;
    let place = Place::new(&registry, "");
    let (_old, ..) = place.serve();
    let config = place.config().display().to_string();
    let second = Process::start(TempDir::new().unwrap(), &["serve", "--config", &config]);
    let (code, text) = second.fails();
    assert_eq!(code, 1);
    assert!(text.contains("is using this directory"), "{text}");
}

/// Sends a part of a body, and waits until it has come.
async fn begin_to_send(client: &Client, upload: &str, content: &[u8]) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect(client.0).await.unwrap();
    let length = content.len();
    let head = format!("PATCH {upload} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[..length / 2]).await.unwrap();
    let came = async { while offset(client, upload).await < length / 4 {} };
    within("some of it", came).await;
    stream
}

/// The bytes of an upload that have come.
async fn offset(client: &Client, upload: &str) -> usize {
    let status = client.get(upload).await;
    assert_eq!(status.status, 204, "{}", status.text());
    let (_, last) = status.header("range").split_once('-').unwrap();
    last.parse::<usize>().unwrap() + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_go_on_in_the_next_process() {
    const HOSTED: &str =
        "[hosted]\nenabled = true\n[[hosted.namespace]]\nname = \"own\"\nvisibility = \"public\"\n";
    let registry = FakeRegistry::start().await;
    let place = Place::new(&registry, HOSTED);
    let (mut old, client, _admin) = place.serve();
    let mut uploads = Vec::new();
    for seed in [911, 912] {
        let begun = client.ask(Method::POST, "/v2/own/app/blobs/uploads/", &[]);
        let begun = begun.await;
        assert_eq!(begun.status, 202, "{}", begun.text());
        uploads.push((
            begun.header("location").to_owned(),
            Blob::noise(seed, 2 * MIB),
        ));
    }
    // One is at rest between two chunks, the other in the middle of a chunk.
    let (rests, content) = &uploads[0];
    let first = Bytes::copy_from_slice(&content.bytes[..MIB]);
    let chunk = client.ask_with(Method::PATCH, rests, &[], first).await;
    assert_eq!(chunk.status, 202, "{}", chunk.text());
    let (comes, content) = &uploads[1];
    let mut stream = begin_to_send(&client, comes, &content.bytes).await;

    let (_new, client, _admin) = place.serve();
    // The rest may come or not: nobody who sends it is told that it has.
    drop(stream.write_all(&content.bytes[MIB..]).await);
    drop(stream);
    assert!(old.wait().success());
    assert_eq!(offset(&client, rests).await, MIB);
    for (upload, content) in &uploads {
        let from = offset(&client, upload).await;
        let rest = Bytes::copy_from_slice(&content.bytes[from..]);
        let finish = format!("{upload}?digest={}", content.digest);
        let finished = client.ask_with(Method::PUT, &finish, &[], rest).await;
        assert_eq!(finished.status, 201, "{}", finished.text());
        let path = format!("/v2/own/app/blobs/{}", content.digest);
        client.get(&path).await.assert_bytes(200, &content.bytes);
    }
}
