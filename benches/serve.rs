//! What serving costs, in CPU time.
//!
//! ```text
//! cargo bench --bench serve                          all of it
//! cargo bench --bench serve -- warm_blob             only what has this in its name
//! cargo bench --bench serve -- --save-baseline main  … and later: --baseline main
//! cargo test --bench serve                           each once, with small blobs, as `cargo test` does too
//! ```
//!
//! The figures are CPU time, not time on the clock: they tell the same on a busy machine, and what a mirror may cost
//! is what its CPU allows. For `serve/…` it is the CPU time of *roadstead's* threads: clients and upstream live on
//! the main thread, whose time is taken off. What the kernel does for a sender on loopback (copying out of the file,
//! the TCP stack up to the receiver's queue) is in; copying to the receiver is not. For `micro/…` it is the main
//! thread's own time. A throughput is bytes per CPU-second, and not what one connection carries.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark is a test: it says what it expects by failing, and owns its tasks"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::images::{self, Blob};
use common::{Dialect, FakeRegistry, Mirror, MirrorBuilder, within};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput};
use futures_util::FutureExt;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use roadstead::clock::SystemClock;
use roadstead::oci::Digest;
use roadstead::oci::digest::Algorithm;
use roadstead::oci::route::Target;
use roadstead::store::Store;
use roadstead::store::coverage::Coverage;
use roadstead::telemetry::Metrics;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;
const READERS: usize = 32;
const REPOSITORY: &str = "team/app";
/// Fewer than a store keeps open files of, so that each is a hit of those.
const LOOKED_UP: u64 = 256;
/// The machine that the targets are written for has two.
const SERVER_THREADS: usize = 2;

fn main() {
    let sizes = Sizes::chosen();
    let mut serve = criterion(Cpu::of(Whose::OtherThreads));
    warm_blob(&mut serve, sizes);
    small_manifest(&mut serve);
    thirty_two_readers_of_one_fill(&mut serve, sizes);
    let mut micro = criterion(Cpu::of(Whose::ThisThread));
    route_parse(&mut micro);
    coverage_insert(&mut micro);
    cache_lookup(&mut micro);
    hash(&mut micro);
    micro.final_summary();
}

fn criterion(cpu: Cpu) -> Criterion<Cpu> {
    let criterion = Criterion::default().with_measurement(cpu).without_plots();
    criterion.configure_from_args()
}

/// A stored blob, over one plain HTTP/1.1 connection.
fn warm_blob(criterion: &mut Criterion<Cpu>, sizes: Sizes) {
    let bench = Bench::new();
    let blob = Blob::noise(1, sizes.warm_bytes);
    let world = bench.world();
    world.registry.put_blob(REPOSITORY, &blob);
    let path = blob_path(&blob);
    let mut client = bench.connect(&world);
    let mut get = || bench.clients.block_on(client.get(&path));
    assert_eq!(get(), blob.bytes.len());
    bench.clients.block_on(world.mirror.wait_for_fills());
    let mut group = criterion.benchmark_group("serve");
    group.throughput(bytes(blob.bytes.len()));
    group
        .sample_size(20)
        .bench_function("warm_blob", |bencher| {
            bencher.iter(|| assert_eq!(get(), blob.bytes.len()));
        });
    group.finish();
    assert_eq!(world.registry.counters().blob_gets(&blob.digest), 1);
    bench.end(world);
}

/// A stored manifest, by digest and by a tag that is fresh, over a connection that is kept.
fn small_manifest(criterion: &mut Criterion<Cpu>) {
    let bench = Bench::new();
    let image = images::image(2, &[1000], Dialect::Oci);
    let world = bench.world();
    world.registry.put_image(REPOSITORY, Some("v1"), &image);
    let mut client = bench.connect(&world);
    let references = [
        ("by_digest", image.manifest.digest.as_str()),
        ("by_tag", "v1"),
    ];
    for (name, reference) in references {
        let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
        let mut get = || bench.clients.block_on(client.get(&path));
        get();
        let asked = world.registry.counters().records.len();
        let mut group = criterion.benchmark_group("serve/small_manifest");
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(get(), image.manifest.bytes.len()));
        });
        group.finish();
        let asked_since = world.registry.counters().records.len() - asked;
        assert_eq!(asked_since, 0, "a hit asks nobody");
    }
    bench.end(world);
}

/// Many readers of one cold blob: the fetch, the writing, the hashing, and everybody's bytes. Each iteration has a
/// mirror of its own, whose start and end are not counted, and neither is the commit, which nobody waits for.
fn thirty_two_readers_of_one_fill(criterion: &mut Criterion<Cpu>, sizes: Sizes) {
    let bench = Bench::new();
    let cpu = Cpu::of(Whose::OtherThreads);
    let blob = Blob::noise(3, sizes.cold_bytes);
    let fill = || {
        let world = bench.world();
        world.registry.put_blob(REPOSITORY, &blob);
        let begun = cpu.start();
        bench.clients.block_on(read_by_many(&world, &blob));
        let used = cpu.end(begun);
        bench.clients.block_on(world.mirror.wait_for_fills());
        assert_eq!(world.registry.counters().blob_gets(&blob.digest), 1);
        bench.end(world);
        used
    };
    let mut group = criterion.benchmark_group("serve");
    group.throughput(bytes(READERS * blob.bytes.len()));
    group
        .sample_size(10)
        .bench_function("thirty_two_readers_of_one_fill", |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| fill()).sum());
        });
    group.finish();
}

async fn read_by_many(world: &World, blob: &Blob) {
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (mirror, path) = (world.mirror.address(), blob_path(blob));
        readers.spawn(async move { Connection::open(mirror).await.get(&path).await });
    }
    while let Some(read) = within("a reader", readers.join_next()).await {
        assert_eq!(read.unwrap(), blob.bytes.len());
    }
}

fn route_parse(criterion: &mut Criterion<Cpu>) {
    let digest = images::sha256(b"any");
    let targets = [
        ("blob", format!("/v2/library/nginx/blobs/{digest}"), None),
        (
            "tag",
            "/v2/ghcr.io/org/team/app/manifests/v1.27.3-alpine".to_owned(),
            Some("ns=ghcr.io"),
        ),
        (
            "list",
            "/v2/library/nginx/tags/list".to_owned(),
            Some("n=100&last=1.26"),
        ),
    ];
    let mut group = criterion.benchmark_group("micro/route_parse");
    for (name, path, query) in &targets {
        Target::parse(path, *query).unwrap();
        group.bench_function(*name, |bencher| {
            bencher.iter(|| Target::parse(black_box(path), black_box(*query)));
        });
    }
    group.finish();
}

/// The writes of a whole fill: by one connection from start to end, and by several, each in its own part.
fn coverage_insert(criterion: &mut Criterion<Cpu>) {
    const WRITES: u64 = 1024;
    let mut group = criterion.benchmark_group("micro/coverage_insert");
    group.throughput(Throughput::Elements(WRITES));
    for (name, connections) in [("one_connection", 1), ("eight_connections", 8)] {
        // Each connection has a part of its own, and they write in turn.
        let position = |at| at % connections * (WRITES / connections) + at / connections;
        let insert_all = || {
            let mut coverage = Coverage::default();
            for at in 0..WRITES {
                let start = black_box(position(at)) * MIB as u64;
                coverage.insert(start..start + MIB as u64);
            }
            coverage
        };
        assert_eq!(insert_all().prefix(), WRITES * MIB as u64);
        group.bench_function(name, |bencher| bencher.iter(insert_all));
    }
    group.finish();
}

/// From a digest to its stored blob, as every hit begins: found, pinned, marked as used, its file open already. And
/// what it takes to see that a blob is not stored.
fn cache_lookup(criterion: &mut Criterion<Cpu>) {
    let bench = Bench::new();
    let mut config = None;
    let directory = MirrorBuilder::new().with(|all| config = Some(all.cache.clone()));
    let metrics = Metrics::new(std::iter::empty());
    let store = Store::open(&config.unwrap(), Arc::new(SystemClock), metrics).unwrap();
    let put = |seed| {
        let content = images::noise(seed, 1000);
        let digest = Digest::of(Algorithm::Sha256, &content);
        let put = store.put(&digest, "application/octet-stream", content);
        bench.clients.block_on(put).unwrap();
        assert!(bench.clients.block_on(store.blob(&digest)).is_some());
        digest
    };
    let stored: Vec<Digest> = (0..LOOKED_UP).map(put).collect();
    let missing = Digest::of(Algorithm::Sha256, b"not there");
    assert_eq!(store.contains(&missing), None);
    let mut wanted = stored.iter().cycle();
    let mut group = criterion.benchmark_group("micro/cache_lookup");
    group.throughput(Throughput::Elements(1));
    group.bench_function("hit", |bencher| {
        bencher.iter(|| {
            let looked_up = store.blob(black_box(wanted.next().unwrap()));
            // Nothing is waited for, and so no runtime is measured.
            looked_up.now_or_never().flatten().unwrap()
        });
    });
    group.bench_function("miss", |bencher| {
        bencher.iter(|| store.contains(black_box(&missing)));
    });
    group.finish();
    drop(store);
    drop(directory);
}

/// Every fetched byte is hashed once: this is the floor of a fill.
fn hash(criterion: &mut Criterion<Cpu>) {
    let content = images::noise(4, MIB);
    let mut group = criterion.benchmark_group("micro/hash");
    group.throughput(bytes(content.len()));
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| Digest::of(algorithm, black_box(&content)));
        });
    }
    group.finish();
}

fn blob_path(blob: &Blob) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)
}

fn bytes(length: usize) -> Throughput {
    Throughput::Bytes(length as u64)
}

/// How large the blobs are.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    warm_bytes: usize,
    cold_bytes: usize,
}

impl Sizes {
    /// `cargo bench` passes `--bench`; without it criterion runs everything once, to see that it works.
    fn chosen() -> Self {
        let measuring = std::env::args().any(|argument| argument == "--bench");
        let (warm, cold) = if measuring { (64, 16) } else { (4, 1) };
        Self {
            warm_bytes: warm * MIB,
            cold_bytes: cold * MIB,
        }
    }
}

/// Where things run: roadstead on threads of its own, everything else on the main thread, so that the CPU time of
/// the one can be told from the other's.
struct Bench {
    server: Runtime,
    clients: Runtime,
}

/// An upstream and a mirror of it.
struct World {
    registry: FakeRegistry,
    mirror: Mirror,
}

impl Bench {
    fn new() -> Self {
        let mut server = Builder::new_multi_thread();
        let server = server.worker_threads(SERVER_THREADS).enable_all().build();
        let clients = Builder::new_current_thread().enable_all().build();
        Self {
            server: server.unwrap(),
            clients: clients.unwrap(),
        }
    }

    fn world(&self) -> World {
        let registry = self.clients.block_on(FakeRegistry::start());
        let mirror = self.server.block_on(MirrorBuilder::of(&registry).start());
        World { registry, mirror }
    }

    fn connect(&self, world: &World) -> Connection {
        self.clients
            .block_on(Connection::open(world.mirror.address()))
    }

    /// Drains and stops the mirror; connections that nothing goes on in do not hold it up.
    fn end(&self, world: World) {
        self.server.block_on(world.mirror.stop());
    }
}

/// A connection that is kept between requests, and keeps nothing of what it reads.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
}

impl Connection {
    async fn open(address: std::net::SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.unwrap();
        // Its end shows in the request that it breaks.
        tokio::spawn(connection);
        Self {
            sender,
            host: address.to_string(),
        }
    }

    /// The length of the body of a 200.
    async fn get(&mut self, path: &str) -> usize {
        within("the connection", self.sender.ready()).await.unwrap();
        let request = Request::get(path)
            .header("Host", &self.host)
            .body(Empty::new());
        let response = within("an answer", self.sender.send_request(request.unwrap()))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = within("a piece of a body", body.frame()).await {
            length += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        length
    }
}

/// CPU time as criterion's measurement.
struct Cpu {
    whose: Whose,
    /// Lends its way to print nanoseconds.
    wall: WallTime,
}

/// Whose CPU time is counted, as seen from the main thread, which takes all measurements.
#[derive(Clone, Copy, Debug)]
enum Whose {
    ThisThread,
    OtherThreads,
}

impl Cpu {
    fn of(whose: Whose) -> Self {
        Self {
            whose,
            wall: WallTime,
        }
    }

    fn now(&self) -> Duration {
        let this_thread = read_clock(ClockId::ThreadCPUTime);
        match self.whose {
            Whose::ThisThread => this_thread,
            Whose::OtherThreads => read_clock(ClockId::ProcessCPUTime).saturating_sub(this_thread),
        }
    }
}

fn read_clock(id: ClockId) -> Duration {
    clock_gettime(id)
        .try_into()
        .expect("CPU time is not negative")
}

impl Measurement for Cpu {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        self.now()
    }

    fn end(&self, started: Duration) -> Duration {
        self.now().saturating_sub(started)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_secs_f64() * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.wall.formatter()
    }
}
