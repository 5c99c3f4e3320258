//! Clients that hold on to what others need: heads that do not end, bodies that nobody reads, connections that ask for
//! nothing, and more of them than there is room for.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::http2::{self, Http2};
use crate::common::images::Blob;
use crate::common::{Ending, FakeRegistry, Mirror, MirrorBuilder, within};
use roadstead::server::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};

const MIB: usize = 1 << 20;

/// A mirror with these limits, of a registry with one blob, which is cached.
struct World {
    mirror: Mirror,
    registry: FakeRegistry,
    blob: Blob,
}

impl World {
    async fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let registry = FakeRegistry::start().await;
        let blob = Blob::noise(141, 8 * MIB);
        registry.put_blob("team/app", &blob);
        let mirror = MirrorBuilder::of(&registry)
            .with(|config| change(&mut config.server.limits))
            .start()
            .await;
        let world = Self {
            mirror,
            registry,
            blob,
        };
        let path = world.path();
        world.mirror.get(&path).await;
        world.mirror.wait_for_fills().await;
        world
    }

    fn path(&self) -> String {
        path(&self.blob)
    }

    async fn wait_for_readers(&self, count: f64) {
        let what = format!("{count} readers");
        self.mirror
            .wait_for_metrics(&what, |samples| {
                samples.sum("roadstead_readers_in_flight", &[]) == count
            })
            .await;
    }

    async fn limited(&self, limit: &str) -> f64 {
        let samples = self.mirror.metrics().await;
        samples.sum("roadstead_limited_total", &[("limit", limit)])
    }

    async fn connections(&self, listener: &str) -> f64 {
        let samples = self.mirror.metrics().await;
        samples.sum("roadstead_connections", &[("listener", listener)])
    }
}

fn path(blob: &Blob) -> String {
    format!("/v2/team/app/blobs/{}", blob.digest)
}

/// A connection from this address of the loopback network.
async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::from(([127, 0, 0, last], 0)))
        .unwrap();
    socket.connect(address).await.unwrap()
}

/// Sends, and reads to the end of the connection.
async fn converse(mut stream: TcpStream, request: &str) -> String {
    let answer = async {
        // It may be closed already.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    };
    within("the end of an answer", answer).await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}

/// Waits until the other side closes, and says how long that took.
async fn closed_after(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    drop(within("the connection's end", stream.read_to_end(&mut rest)).await);
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_is_reset_and_the_others_notice_nothing() {
    let world = World::new(|limits| limits.body_stall_timeout = Duration::from_secs(2)).await;
    let path = world.path();
    // It reads slowly, but it reads, for longer than the other may stand still.
    let mut slow = world.mirror.open(&path).await;
    let mut client = Http2::connect(world.mirror.address(), 0).await;
    for stream in [1, 3, 5] {
        client.get(stream, &path).await;
        let head = client.next().await.unwrap();
        assert_eq!((head.kind, head.stream), (http2::HEADERS, stream));
    }
    world.wait_for_readers(4.0).await;
    let reading = async {
        for _ in 0..14 {
            sleep(Duration::from_millis(300)).await;
            slow.exactly(MIB / 5).await;
        }
    };
    let stalling = async {
        let mut reset = Vec::new();
        while reset.len() < 3 {
            let frame = client.next().await.expect("the connection ended");
            assert_eq!(frame.kind, http2::RST_STREAM, "{frame:?}");
            reset.push(frame.stream);
        }
        reset.sort_unstable();
        assert_eq!(reset, [1, 3, 5]);
    };
    tokio::join!(reading, stalling);
    world.wait_for_readers(1.0).await;
    slow.assert_rest_equals(&world.blob.bytes[14 * (MIB / 5)..])
        .await;
    // The connection itself is as good as before.
    client.get(7, "/v2/").await;
    client.take(7, 100).await;
    let data = client.next_of(http2::DATA).await.unwrap();
    assert_eq!((data.stream, &data.payload[..]), (7, &b"{}"[..]));
    assert_eq!(world.limited("body_stall").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pauses_gets_all_of_it() {
    let world = World::new(|limits| limits.body_stall_timeout = Duration::from_secs(5)).await;
    let path = world.path();
    let mut paused = world.mirror.open(&path).await;
    paused.exactly(1000).await;
    let mut client = Http2::connect(world.mirror.address(), 100_000).await;
    client.get(1, &path).await;
    sleep(Duration::from_secs(2)).await;
    let mut came = Vec::new();
    client.take(0, u32::MAX >> 2).await;
    client.take(1, u32::MAX >> 2).await;
    while came.len() < world.blob.bytes.len() {
        let frame = client.next().await.expect("the connection ended");
        assert!(
            matches!(frame.kind, http2::HEADERS | http2::DATA),
            "{frame:?}"
        );
        if frame.kind == http2::DATA {
            came.extend(frame.payload);
        }
    }
    assert!(came == world.blob.bytes);
    paused.assert_rest_equals(&world.blob.bytes[1000..]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_not_read_ends() {
    let world = World::new(|limits| limits.body_stall_timeout = Duration::from_secs(1)).await;
    let path = world.path();
    // HTTP/1.1: the body, and heads that wait behind one another.
    let mut unread = world.mirror.open(&path).await;
    unread.exactly(1).await;
    let mut pipelined = TcpStream::connect(world.mirror.address()).await.unwrap();
    let head = format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    let flood = async { while pipelined.write_all(head.as_bytes()).await.is_ok() {} };
    within("the end of the connection", flood).await;
    world.wait_for_readers(0.0).await;
    assert_eq!(unread.rest().await.1, Ending::Broken);
    // HTTP/2: the streams may send what they want, but nobody takes it from the socket.
    let mut client = Http2::connect(world.mirror.address(), u32::MAX >> 1).await;
    client.take(0, u32::MAX >> 2).await;
    for stream in [1, 3, 5, 7] {
        client.get(stream, &path).await;
    }
    world.wait_for_readers(4.0).await;
    world.wait_for_readers(0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_bytes_that_nobody_takes_end_the_connection() {
    let world = World::new(|limits| limits.body_stall_timeout = Duration::from_secs(1)).await;
    // One byte of the two that are all of the body: hyper has let go of the rest.
    let mut client = Http2::connect(world.mirror.address(), 1).await;
    client.get(1, "/v2/").await;
    assert_eq!(client.next_of(http2::DATA).await.unwrap().payload, b"{");
    assert!(client.next_of(http2::DATA).await.is_none());
    assert_eq!(world.limited("body_stall").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_to_end_in_time_however_it_comes() {
    let world = World::new(|limits| {
        limits.head_timeout = Duration::from_secs(1);
        limits.idle_timeout = Duration::from_mins(1);
    })
    .await;
    let address = world.mirror.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    let request = "GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n";
    idle.write_all(request.as_bytes()).await.unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut preface = TcpStream::connect(address).await.unwrap();
    preface.write_all(b"PRI * HTTP/2").await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(request.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    second.write_all(b"GET /v2/").await.unwrap();
    let drip = async {
        let mut dripping = TcpStream::connect(address).await.unwrap();
        dripping
            .write_all(b"GET /v2/ HTTP/1.1\r\nx: ")
            .await
            .unwrap();
        let started = Instant::now();
        while dripping.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        started.elapsed()
    };
    let (drip, silent, preface, _second) = tokio::join!(
        within("the end of a head that drips", drip),
        closed_after(&mut silent),
        closed_after(&mut preface),
        closed_after(&mut second)
    );
    for took in [drip, silent, preface] {
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    assert!(drip > Duration::from_millis(900), "{drip:?}");
    // Between requests it is another matter.
    let answer = converse(idle, &get("/v2/")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert_eq!(world.limited("head").await, 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_asks_for_nothing_ends() {
    let world = World::new(|limits| {
        limits.idle_timeout = Duration::from_secs(1);
        limits.head_timeout = Duration::from_secs(1);
    })
    .await;
    let address = world.mirror.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    let request = "GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n";
    idle.write_all(request.as_bytes()).await.unwrap();
    let mut client = Http2::connect(address, 1000).await;
    client.get(1, "/v2/").await;
    assert!(client.next_of(http2::DATA).await.is_some());
    assert!(client.next_of(http2::GOAWAY).await.is_some());
    assert!(client.next_of(http2::DATA).await.is_none());
    closed_after(&mut idle).await;
    // A head that is continued without end is none, and who does not play by the rules goes all the same.
    let mut client = Http2::connect(address, 1000).await;
    client.begin_head(1, "/v2/").await;
    let endless = async {
        loop {
            client.continue_head(1).await;
            let read = tokio::time::timeout(Duration::from_millis(100), client.next());
            if let Ok(None) = read.await {
                return;
            }
        }
    };
    within("the end of a head without end", endless).await;
    world
        .mirror
        .wait_for_metrics("no client", |samples| {
            samples.sum("roadstead_connections", &[("listener", "client")]) == 0.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_places_are_taken_who_waits_for_nothing_goes_first() {
    let world = World::new(|limits| limits.max_connections = 8).await;
    let address = world.mirror.address();
    let mut half = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /v2/ HT").await.unwrap();
        half.push(stream);
    }
    for last in [1, 1, 2] {
        let stream = connect_from(last, address).await;
        let answer = converse(stream, &get("/v2/")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(world.connections("client").await <= 8.0);
    assert!(world.limited("connections").await >= 12.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_less_gets_in_and_who_has_all_waits_for_its_own() {
    let world = World::new(|limits| limits.max_connections = 4).await;
    let address = world.mirror.address();
    let slow = Blob::noise(142, MIB);
    world.registry.put_blob("team/app", &slow);
    let gate = world.registry.gate(&slow.digest);
    gate.release(MIB / 2);
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let mut reader = world.mirror.open(&path(&slow)).await;
        reader.exactly(1000).await;
        greedy.push(reader);
    }
    // One address has it all while nobody else comes: it waits for its own.
    let stream = connect_from(1, address).await;
    let fifth = tokio::spawn(async move { converse(stream, &get("/v2/")).await });
    sleep(Duration::from_millis(600)).await;
    assert!(!fifth.is_finished(), "it took a place from one that works");
    let other = converse(connect_from(2, address).await, &get("/v2/")).await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    // It left, and the fifth has its place now.
    let fifth = within("the fifth", fifth).await.unwrap();
    assert!(fifth.starts_with("HTTP/1.1 200"), "{fifth}");
    gate.open();
    let mut whole = 0;
    for mut reader in greedy {
        let (rest, ending) = reader.rest().await;
        whole += usize::from(ending == Ending::Clean);
        assert!(ending == Ending::Broken || rest == slow.bytes[1000..]);
    }
    assert_eq!(whole, 3, "one of them made room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_get_in_whoever_sits_at_the_operators_listener() {
    let world = World::new(|_| {}).await;
    let admin = world.mirror.admin.0;
    let mut half = Vec::new();
    for at in 0..200 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        if at % 2 == 0 {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\n")
                .await
                .unwrap();
        }
        half.push(stream);
        if at % 20 == 0 {
            let started = Instant::now();
            assert_eq!(world.mirror.admin.get("/healthz").await.status, 200);
            assert!(started.elapsed() < Duration::from_secs(5));
        }
    }
    assert!(world.connections("admin").await <= 64.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_taken_back_without_end_end_the_connection() {
    let world = World::new(|_| {}).await;
    let slow = Blob::noise(143, 1000);
    world.registry.put_blob("team/app", &slow);
    let _gate = world.registry.gate(&slow.digest);
    for at_once in [1, 50] {
        let mut client = Http2::connect(world.mirror.address(), 1000).await;
        let attack = async {
            for round in 0_u32.. {
                let streams = (0..at_once).map(|at| 2 * (round * at_once + at) + 1);
                let bytes: Vec<_> = streams
                    .flat_map(|stream| client.get_and_reset(stream, &path(&slow)))
                    .collect();
                client.send_raw(&bytes).await;
                let read = tokio::time::timeout(Duration::from_millis(1), client.next());
                if let Ok(None) = read.await {
                    return;
                }
            }
        };
        within("the end of the attack", attack).await;
        assert_eq!(world.mirror.get("/v2/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_one_host() {
    let world = World::new(|_| {}).await;
    let listeners = [
        (world.mirror.address(), "/v2/"),
        (world.mirror.admin.0, "/healthz"),
    ];
    for (address, path) in listeners {
        for (version, headers, status) in [
            ("1.1", "", 400),
            ("1.1", "host: a\r\n", 200),
            ("1.1", "host: a\r\nhost: a\r\n", 400),
            ("1.1", "host: a\r\nHost: b\r\n", 400),
            ("1.1", "host: a b\r\n", 400),
            ("1.1", "host: a/b\r\n", 400),
            ("1.1", "host: http://a\r\n", 400),
            ("1.1", "host: u@a\r\n", 400),
            ("1.1", "host: a:99999\r\n", 400),
            ("1.1", "host: \u{fffd}\r\n", 400),
            ("1.1", "host: [::1]:5000\r\n", 200),
            ("1.0", "", 200),
            ("1.0", "host: a\r\n", 200),
            ("1.0", "host: a\r\nhost: a\r\n", 400),
        ] {
            let stream = TcpStream::connect(address).await.unwrap();
            let request =
                format!("GET {path} HTTP/{version}\r\n{headers}connection: close\r\n\r\n");
            let answer = converse(stream, &request).await;
            let expected = format!("HTTP/{version} {status} ");
            assert!(answer.starts_with(&expected), "{request:?}: {answer:?}");
        }
        let mut client = Http2::connect(address, 1000).await;
        let mut status = async |stream, host: &str| {
            let block = client.head(path, &[("host", host)]);
            client.send(http2::HEADERS, 5, stream, &block).await;
            let head = client.next_of(http2::HEADERS).await.unwrap();
            // `:status` of the static table, or by that name and in text.
            match head.payload[0] {
                0x88 => 200,
                0x8c => 400,
                other => panic!("{other:x}"),
            }
        };
        assert_eq!(status(1, &address.to_string()).await, 200);
        assert_eq!(status(3, "other.example").await, 400);
    }
    let stream = TcpStream::connect(world.mirror.address()).await.unwrap();
    let answer = converse(stream, "GET /v2/ HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(answer.contains("\"UNSUPPORTED\""), "{answer}");
}
