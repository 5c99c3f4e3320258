//! Clients that pull lazily: ranges of blobs that are not there yet.

use std::ops::Range;
use std::sync::Arc;

use crate::common::client::Streaming;
use crate::common::{Asked, FakeRegistry, Fault, Kind, Layer, Mirror, MirrorBuilder, Rule, within};
use roadstead::commands::airgap::{self, ExportJob, ImportJob};
use roadstead::commands::verify;
use roadstead::commands::warm::Wanted;
use roadstead::mirror::FillOnRange;
use roadstead::oci::ImageName;
use roadstead::upstream::{self, Parallel};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;
const SIZE: usize = 12 * MIB;

/// The defaults: a blob of this size comes on one connection.
fn one(upstream: &mut upstream::Config) {
    upstream.default = true;
}

fn several(upstream: &mut upstream::Config) {
    one(upstream);
    upstream.parallel = Parallel {
        connections: 3,
        above: MIB as u64,
        segment_size: 2 * MIB as u64,
    };
}

async fn world(change: fn(&mut upstream::Config), known: bool) -> Layer {
    world_with(change, known, FillOnRange::Always).await
}

async fn world_with(
    change: fn(&mut upstream::Config),
    known: bool,
    fill_on_range: FillOnRange,
) -> Layer {
    let build = |registry: &FakeRegistry| {
        MirrorBuilder::new()
            .upstream("docker.io", registry, change)
            .with(|config| config.fill_on_range = fill_on_range)
    };
    Layer::new(43, SIZE, build).await.known(known).await
}

impl Layer {
    /// The ranges of an answer to a request for several, whose bytes must be those of the layer.
    async fn ranges(&self, header: &str) -> Vec<Range<usize>> {
        let answer = self.mirror.get_with(&self.path, &[("range", header)]).await;
        crate::common::parts::of(&answer, &self.blob.bytes)
    }

    async fn range(&self, from: usize, to: usize) {
        let range = format!("bytes={from}-{}", to - 1);
        let answer = self.mirror.get_with(&self.path, &[("range", &range)]).await;
        assert_eq!(answer.status, 206, "{range}: {}", answer.text());
        assert_eq!(
            answer.header("content-range"),
            format!("bytes {from}-{}/{SIZE}", to - 1)
        );
        answer.assert_bytes(206, &self.blob.bytes[from..to]);
    }

    async fn whole(&self) {
        self.mirror.wait_for_fills().await;
        assert!(self.mirror.blob_path(&self.blob.digest).exists());
        let before = self.sent();
        self.mirror
            .get(&self.path)
            .await
            .assert_bytes(200, &self.blob.bytes);
        assert_eq!(self.sent(), before, "it was all there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_asks_for_what_the_client_wants() {
    for change in [one as fn(&mut upstream::Config), several] {
        for known in [true, false] {
            let world = world(change, known).await;
            world.range(9 * MIB, 9 * MIB + 100_000).await;
            let asked = world.registry.counters().blob_ranges(&world.blob.digest);
            assert_eq!(asked[0].unwrap().0, 9 * MIB, "{asked:?}");
            world.whole().await;
            assert!(world.sent() <= SIZE + 64 * 1024, "{} bytes", world.sent());
        }
    }
}

/// Clients that pull parts of zstd:chunked layers: only what they name comes from upstream before they have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_of_a_cold_blob() {
    let asked = [
        (100_usize, 70_000_usize),
        (4 * MIB, 4 * MIB + 100),
        (8 * MIB, 8 * MIB + 300_000),
    ];
    let specs: Vec<String> = asked
        .iter()
        .map(|(from, to)| format!("{from}-{}", to - 1))
        .collect();
    let header = format!("bytes={}", specs.join(","));
    let expected: Vec<_> = asked.iter().map(|(from, to)| *from..*to).collect();
    let wanted: usize = expected.iter().map(ExactSizeIterator::len).sum();
    for known in [true, false] {
        let world = world_with(one, known, FillOnRange::Never).await;
        assert_eq!(world.ranges(&header).await, expected);
        let sent = world.sent();
        assert!(
            sent <= wanted + 64 * 1024,
            "{sent} bytes for {wanted}; known: {known}"
        );
        // Once more, of what is there now.
        assert_eq!(world.ranges(&header).await, expected);
        assert_eq!(world.sent(), sent);
    }
    // The default: the rest comes behind it, and nobody waits for that.
    for change in [one as fn(&mut upstream::Config), several] {
        let world = world(change, true).await;
        let rest = Rule::gets(Kind::Blob).asking(Asked::MoreThan(MIB));
        let gate = Arc::new(Semaphore::new(0));
        world.registry.fault(rest, Fault::Wait(Arc::clone(&gate)));
        assert_eq!(world.ranges(&header).await, expected);
        gate.add_permits(1);
        world.whole().await;
    }
}

/// Many small parts, as of a layer of which much is there: fetched side by side, and not one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ranges_of_a_cold_blob() {
    let world = world_with(one, true, FillOnRange::Never).await;
    let expected: Vec<_> = (0..200).map(|at| at * 60_000..at * 60_000 + 500).collect();
    let specs: Vec<String> = expected
        .iter()
        .map(|part| format!("{}-{}", part.start, part.end - 1))
        .collect();
    let header = format!("bytes={}", specs.join(","));
    let answer = world
        .mirror
        .get_with(&world.path, &[("range", &header)])
        .await;
    assert_eq!(
        crate::common::parts::of(&answer, &world.blob.bytes),
        expected
    );
    // Backwards, by a client that merges nothing.
    let specs: Vec<String> = specs.into_iter().rev().collect();
    let header = format!("bytes={}", specs.join(","));
    let answer = world
        .mirror
        .get_with(&world.path, &[("range", &header)])
        .await;
    let backwards: Vec<_> = expected.into_iter().rev().collect();
    assert_eq!(
        crate::common::parts::of(&answer, &world.blob.bytes),
        backwards
    );
}

/// Several ranges that are all of the blob are a download: its end is not given before the digest is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_are_all_of_a_wrong_blob_do_not_end_well() {
    let world = world(one, true).await;
    world.registry.fault(
        Rule::all(Kind::Blob).of(&world.blob.digest),
        Fault::Flip(5_000_000),
    );
    for header in [
        "bytes=0-99,100-",
        "bytes=6000000-,0-5999999",
        "bytes=0-1,2-12582911",
    ] {
        let answer = world
            .mirror
            .get_with(&world.path, &[("range", header)])
            .await;
        answer.assert_no_clean_success();
    }
}

/// Nothing but what they want comes from upstream before they have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_elsewhere_do_not_wait_for_what_lies_between() {
    for change in [one as fn(&mut upstream::Config), several] {
        let world = world(change, true).await;
        let gate = world.registry.gate(&world.blob.digest);
        gate.release(256 * 1024);
        let mut first = world.mirror.open(&world.path).await;
        assert_eq!(
            first.exactly(64 * 1024).await,
            world.blob.bytes[..64 * 1024]
        );
        let from = 11 * MIB;
        let asked = |c: &crate::common::fake_log::Counters| {
            let ranges = c.blob_ranges(&world.blob.digest);
            ranges.iter().flatten().any(|(start, _)| *start == from)
        };
        let reader = world.range(from, from + 128 * 1024);
        let opened = async {
            let what = "a request for where the second reader is";
            world.registry.wait_for(what, asked).await;
            gate.open();
        };
        tokio::join!(reader, opened);
        first
            .assert_rest_equals(&world.blob.bytes[64 * 1024..])
            .await;
        world.whole().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_at_scattered_offsets_cost_each_byte_once() {
    for change in [one as fn(&mut upstream::Config), several] {
        let world = Arc::new(world(change, true).await);
        let mut readers = JoinSet::new();
        for number in 0..48 {
            let world = Arc::clone(&world);
            readers.spawn(async move {
                let from = number * 5_000_011 % (SIZE - 200_000);
                world.range(from, from + 150_000).await;
            });
        }
        while let Some(done) = readers.join_next().await {
            done.unwrap();
        }
        world.whole().await;
        // A connection that stops where another one begins has something on its way: what fits into
        // the buffers of this machine's sockets.
        assert!(world.sent() <= 2 * SIZE, "{} bytes", world.sent());
    }
}

/// containerd opens ranges side by side and closes what it does not need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_closes_change_nothing() {
    let world = world(several, true).await;
    for from in [3 * MIB, 10 * MIB, 6 * MIB] {
        let range = format!("bytes={from}-");
        let mut reader = world
            .mirror
            .client
            .open(&world.path, &[("range", &range)])
            .await;
        reader.exactly(1000).await;
        drop(reader);
    }
    world.whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_without_ranges_serves_them_all_the_same() {
    let world = world(several, false).await;
    world.registry.options(|options| options.ranges = false);
    world.range(9 * MIB, 9 * MIB + 100_000).await;
    world.whole().await;
    assert_eq!(world.sent(), SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_a_scout_cost_the_reader_nothing() {
    let world = world(one, true).await;
    let far = 9 * MIB;
    let rule = Rule::gets(Kind::Blob).of(&world.blob.digest);
    world.registry.fault(
        rule.clone().times(1).starting_at(far),
        Fault::Cut(far + 50_000),
    );
    world
        .registry
        .fault(rule.times(1).starting_at(0), Fault::Cut(MIB));
    tokio::join!(world.range(0, 2 * MIB), world.range(far, far + 100_000));
    world.whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_behind_the_end_does_not_exist() {
    for known in [true, false] {
        let world = world(one, known).await;
        let range = format!("bytes={SIZE}-");
        let answer = world
            .mirror
            .get_with(&world.path, &[("range", &range)])
            .await;
        assert_eq!(answer.status, 416, "known {known}");
        assert_eq!(answer.header("content-range"), format!("bytes */{SIZE}"));
    }
}

/// What was read is kept, and nothing else fetched; who wants the whole gets it for the price of the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_than_is_read() {
    for known in [true, false] {
        let world = world_with(several, known, FillOnRange::Never).await;
        let blob = world.mirror.blob_path(&world.blob.digest);
        world.range(5 * MIB, 5 * MIB + 100_000).await;
        world.range(2 * MIB, 2 * MIB + 50_000).await;
        world.range(0, 10_000).await;
        world.mirror.wait_for_fills().await;
        assert!(!blob.exists());
        assert_eq!(world.sent(), 160_000, "known {known}");
        // Left off, and taken up again.
        world.range(5 * MIB + 20_000, 5 * MIB + 60_000).await;
        world.range(2 * MIB + 1, 2 * MIB + 50_000).await;
        assert_eq!(world.sent(), 160_000, "known {known}");
        let whole = world.mirror.get(&world.path).await;
        whole.assert_bytes(200, &world.blob.bytes);
        world.whole().await;
        assert_eq!(world.sent(), SIZE, "known {known}");
    }
}

/// Formats for lazy pulls have their table of contents at the end: it is read first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_alone_may_be_read() {
    let world = world_with(several, true, FillOnRange::Never).await;
    world.range(SIZE - 51, SIZE).await;
    let last = world
        .mirror
        .get_with(&world.path, &[("range", "bytes=-5000")])
        .await;
    last.assert_bytes(206, &world.blob.bytes[SIZE - 5000..]);
    assert!(world.sent() <= 5051, "{}", world.sent());
    // Who goes on with a download has to wait for the whole, as the digest does.
    let from = format!("bytes={}-", SIZE - 100_000);
    let rest = world
        .mirror
        .get_with(&world.path, &[("range", &from)])
        .await;
    rest.assert_bytes(206, &world.blob.bytes[SIZE - 100_000..]);
    world.whole().await;
    assert_eq!(world.sent(), SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_comes_once_enough_is_there() {
    let world = world_with(several, true, FillOnRange::Over(25)).await;
    let blob = world.mirror.blob_path(&world.blob.digest);
    world.range(6 * MIB, 8 * MIB).await;
    world.mirror.wait_for_fills().await;
    assert!(!blob.exists());
    assert_eq!(world.sent(), 2 * MIB);
    world.range(MIB, 2 * MIB + 100).await;
    world.whole().await;
    assert_eq!(world.sent(), SIZE);
}

/// Parts cannot be had: everything is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_ranges_there_are_no_parts() {
    for known in [true, false] {
        let world = world_with(one, known, FillOnRange::Never).await;
        world.registry.options(|options| options.ranges = false);
        world.range(9 * MIB, 9 * MIB + 100_000).await;
        world.whole().await;
        assert_eq!(world.sent(), SIZE, "known {known}");
    }
}

/// One connection is all that there may be, and it breaks, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_come_in_spite_of_faults() {
    fn narrow(upstream: &mut upstream::Config) {
        one(upstream);
        upstream.max_connections = 1;
    }
    let world = world_with(narrow, true, FillOnRange::Never).await;
    let far = 9 * MIB;
    let rule = Rule::gets(Kind::Blob).of(&world.blob.digest);
    world.registry.fault(
        rule.clone().times(2).starting_at(far),
        Fault::Cut(far + 50_000),
    );
    tokio::join!(
        world.range(far, far + 100_000),
        world.range(MIB, MIB + 100_000)
    );
    world.mirror.wait_for_fills().await;
}

impl Layer {
    /// A client that asks for most of the blob, and does not go on reading.
    async fn held_open(&self) -> Streaming {
        let range = format!("bytes=0-{}", 11 * MIB);
        let headers = [("range", range.as_str())];
        let mut reader = self.mirror.client.open(&self.path, &headers).await;
        reader.exactly(1000).await;
        reader
    }

    fn admin(&self) -> roadstead::commands::target::AdminServer {
        format!("http://{}", self.mirror.admin.0).parse().unwrap()
    }
}

fn app() -> ImageName {
    ImageName::parse("team/app:v1").unwrap()
}

/// Only parts of the blob are fetched as long as nobody wants all of it: an import does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_does_not_wait_for_who_reads_a_part() {
    let world = world_with(one, true, FillOnRange::Never).await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("layout");
    let other = Mirror::of(&world.registry).await;
    let job = ExportJob {
        bare: Vec::new(),
        images: vec![app()],
        target: target.clone(),
        wanted: Wanted::parse(&["all".to_owned()]).unwrap(),
        server: other.url().parse().unwrap(),
        ca_file: None,
        output: roadstead::commands::output::Output::Silent,
    };
    airgap::export(&job).await.unwrap();
    let _reader = world.held_open().await;
    let job = ImportJob {
        push: None,
        layout: target,
        images: Vec::new(),
        pin: false,
        admin: world.admin(),
        output: roadstead::commands::output::Output::Silent,
    };
    // It comes to an end, and so does the fill that it waited for.
    let puts = within("the import", airgap::import(&job)).await.unwrap();
    assert_eq!(puts[0].failed, None);
    assert!(world.mirror.blob_path(&world.blob.digest).exists());
}

/// So does a repair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_does_not_wait_for_who_reads_a_part() {
    let world = world_with(one, true, FillOnRange::Never).await;
    let _reader = world.held_open().await;
    let job = verify::Job {
        images: vec![app()],
        repair: true,
        admin: world.admin(),
        config: None,
        output: roadstead::commands::output::Output::Silent,
    };
    let outcome = within("the repair", verify::run(&job)).await.unwrap();
    assert!(outcome.is_well(), "{outcome:?}");
    assert_eq!(outcome.summary.repaired, 2, "the configuration too");
    assert!(world.mirror.blob_path(&world.blob.digest).exists());
}
