//! Transfers that break, stall or come differently the second time are gone on with where they were.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::common::fake_log::Counters;
use crate::common::images::Blob;
use crate::common::{FakeRegistry, Fault, Kind, Layer, MirrorBuilder, Rule};
use roadstead::upstream::{self, Parallel};

const MIB: usize = 1 << 20;
const SIZE: usize = 6 * MIB;

/// Pieces of one MiB on three connections, and a short patience with silence.
fn pieces(upstream: &mut upstream::Config) {
    upstream.default = true;
    upstream.idle_timeout = Duration::from_millis(500);
    upstream.parallel = Parallel {
        connections: 3,
        above: MIB as u64,
        segment_size: MIB as u64,
    };
}

/// As before there were several connections.
fn one_connection(upstream: &mut upstream::Config) {
    pieces(upstream);
    upstream.parallel.connections = 1;
}

/// A mirror; whether it has seen the manifest, and so knows the layer's size, is for the test to say.
async fn world(change: fn(&mut upstream::Config), known: bool) -> Layer {
    world_of(SIZE, change, known).await
}

async fn world_of(size: usize, change: fn(&mut upstream::Config), known: bool) -> Layer {
    let build =
        |registry: &FakeRegistry| MirrorBuilder::new().upstream("docker.io", registry, change);
    Layer::new(37, size, build).await.known(known).await
}

impl Layer {
    fn fault(&self, rule: Rule, fault: Fault) {
        self.registry.fault(rule.of(&self.blob.digest), fault);
    }

    /// The offsets at which requests for the blob began.
    fn starts(&self) -> Vec<usize> {
        let ranges = self.registry.counters().blob_ranges(&self.blob.digest);
        ranges
            .iter()
            .map(|range| range.map_or(0, |(start, _)| start))
            .collect()
    }

    async fn pull(&self, what: &str) {
        let answer = self.mirror.get(&self.path).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        answer.assert_bytes(200, &self.blob.bytes);
        self.mirror.wait_for_fills().await;
        let stored = self.mirror.blob_path(&self.blob.digest);
        assert!(stored.exists(), "{what}: not stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_without_a_range_is_gone_on_with_by_one() {
    for known in [true, false] {
        for content_length in [true, false] {
            let world = world(one_connection, known).await;
            world
                .registry
                .options(|options| options.content_length = content_length);
            let at = 2 * MIB + 77;
            world.fault(Rule::gets(Kind::Blob).times(1), Fault::Cut(at));
            world
                .pull(&format!("size known {known}, announced {content_length}"))
                .await;
            let starts = world.starts();
            assert_eq!((starts.len(), starts[0]), (2, 0), "{starts:?}");
            assert!(starts[1] > 0 && starts[1] <= at, "{starts:?}");
            // What the connection still held when it was dropped is sent twice.
            assert!(world.sent() <= SIZE + (at - starts[1]), "{}", world.sent());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_counts_as_a_break() {
    for (change, at) in [
        (pieces as fn(&mut upstream::Config), 0),
        (pieces, 10),
        (pieces, 3 * MIB + 5),
        (pieces, SIZE - 1),
        (one_connection, 3 * MIB + 5),
    ] {
        let world = world(change, true).await;
        let rule = Rule::gets(Kind::Blob).times(1).containing(at);
        world.fault(rule, Fault::Stall(at));
        world.pull(&format!("silent at {at}")).await;
        assert_eq!(world.registry.faults_left(&world.blob.digest), 0);
        assert!(world.sent() <= SIZE + MIB, "{}", world.sent());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_answers_now_206_and_now_200_is_used_on_one_connection() {
    for first in [0, MIB, 3 * MIB] {
        let world = world(pieces, true).await;
        let rule = Rule::gets(Kind::Blob).ranged().times(2);
        world.fault(rule.starting_at(first), Fault::IgnoreRange);
        world.pull(&format!("200 at {first}")).await;
        let ranges = world.registry.counters().blob_ranges(&world.blob.digest);
        assert!(
            world.sent() <= 3 * SIZE,
            "{first}: {} {ranges:?}",
            world.sent()
        );
        // Whoever is asked for the next blob is not asked for pieces.
        let next = Blob::noise(38, 2 * MIB);
        world.registry.put_blob("team/app", &next);
        let path = format!("/v2/team/app/blobs/{}", next.digest);
        world.mirror.head(&path).await;
        world.mirror.get(&path).await.assert_bytes(200, &next.bytes);
        let ranges = world.registry.counters().blob_ranges(&next.digest);
        assert_eq!(ranges, [None], "200 at {first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_beside_the_one_asked_for_is_not_taken_for_it() {
    let world = world(pieces, true).await;
    world.fault(Rule::gets(Kind::Blob).ranged(), Fault::OtherRange);
    world.pull("other ranges").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_lie_cost_their_readers_and_nobody_after_them() {
    let world = world(pieces, true).await;
    world.fault(Rule::gets(Kind::Blob).ranged(), Fault::LieRange);
    let answer = world.mirror.get(&world.path).await;
    // A reader that was given nothing yet when it turned out gets what is fetched then.
    if answer.body != world.blob.bytes[..] {
        answer.assert_no_clean_success();
    }
    // The fill goes on without ranges.
    world.pull("afterwards").await;
    let ranges = world.registry.counters().blob_ranges(&world.blob.digest);
    assert_eq!(ranges.iter().filter(|range| range.is_none()).count(), 1);
    assert!(world.sent() <= 2 * SIZE + MIB, "{}", world.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_less_than_was_asked_for_is_asked_for_the_rest() {
    let world = world(pieces, true).await;
    world.fault(
        Rule::gets(Kind::Blob).ranged(),
        Fault::RangeLimit(300 * 1024),
    );
    world.pull("300 KiB at a time").await;
    assert_eq!(world.sent(), SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_etag_is_another_content() {
    let world = world(one_connection, true).await;
    world
        .registry
        .options(|options| options.etag = Some("\"first\"".to_owned()));
    let gate = world.registry.gate(&world.blob.digest);
    let rule = Rule::gets(Kind::Blob).times(1);
    world.fault(rule, Fault::Cut(MIB));
    gate.release(MIB / 2);
    let mut reader = world.mirror.open(&world.path).await;
    reader.exactly(MIB / 4).await;
    world
        .registry
        .options(|options| options.etag = Some("\"second\"".to_owned()));
    gate.open();
    reader
        .assert_rest_equals(&world.blob.bytes[MIB / 4..])
        .await;
    let ranges = world.registry.counters().blob_ranges(&world.blob.digest);
    // Asked for the rest; told that it is another; asked for everything.
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert_eq!(ranges[2], None);
}

/// A signed URL is good for one transfer; the registry gives another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirected_transfer_is_gone_on_with_at_the_registry() {
    let world = world(one_connection, true).await;
    world
        .registry
        .options(|options| options.redirect_blobs = Some(String::new()));
    world.fault(Rule::gets(Kind::Cdn).times(2), Fault::Cut(2 * MIB));
    world.pull("redirected").await;
    let counters = world.registry.counters();
    let of = |kind| counters.count(|record| record.kind == kind);
    assert_eq!(of(Kind::Blob), of(Kind::Cdn), "each time a new URL");
    assert!(of(Kind::Cdn) >= 2);
}

/// Some proxies end every connection after half a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_again_and_again_brings_a_long_blob_all_the_same() {
    let size = 24 * MIB;
    let world = world_of(size, one_connection, true).await;
    let each = MIB + 200 * 1024;
    let cuts = size / each;
    for at in (1..=cuts).map(|cut| cut * each) {
        let rule = Rule::gets(Kind::Blob).times(1).containing(at);
        world.fault(rule, Fault::Cut(at));
    }
    world.pull(&format!("{cuts} breaks")).await;
    assert_eq!(world.registry.faults_left(&world.blob.digest), 0);
    let starts = world.starts();
    assert!(starts.is_sorted(), "{starts:?}");
    // Each connection may still have held something of its piece when it was dropped.
    assert!(world.sent() <= 2 * size, "{} bytes", world.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_fetched_before_an_outage_is_not_fetched_again_after_it() {
    let world = world(one_connection, true).await;
    let at = SIZE / 2;
    world.fault(Rule::gets(Kind::Blob).times(1), Fault::Cut(at));
    world.fault(Rule::gets(Kind::Blob), Fault::Status(500));
    let answer = world.mirror.get(&world.path).await;
    answer.assert_no_clean_success();
    world.mirror.wait_for_fills().await;
    world.registry.heal();
    world.pull("after the outage").await;
    let starts = world.starts();
    let resumed = starts.last().copied().unwrap_or_default();
    assert!(resumed > 0 && resumed <= at, "{starts:?}");
    // What the connection still held when it was dropped is sent twice.
    assert!(world.sent() <= SIZE + (at - resumed), "{}", world.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_refuses_ranges_by_an_error_is_asked_for_the_whole() {
    for status in [400, 403, 405, 416, 500, 501] {
        let world = world(pieces, true).await;
        world.fault(Rule::gets(Kind::Blob).ranged(), Fault::Status(status));
        world.pull(&format!("{status} to a range")).await;
        assert_eq!(world.sent(), SIZE);
    }
}

/// Two repositories of one upstream have a layer, as those of a base image do. What becomes of the one for whose sake a transfer
/// was begun is nothing to those who pull the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_from_another_repository_whose_readers_have_joined() {
    const CUT: usize = 100_000;
    for status in [404, 403, 500] {
        let layer = world_of(3 * MIB, one_connection, false).await;
        layer
            .registry
            .put_image("team/other", Some("v1"), &layer.image);
        let own = || Rule::gets(Kind::Blob).in_repository("team/app");
        layer.fault(own().times(1), Fault::Cut(CUT));
        layer.fault(own().ranged(), Fault::Status(status));
        let gate = layer.registry.gate(&layer.blob.digest);
        // One piece of the registry's.
        gate.release(64 * 1024);
        let mut first = layer.mirror.client.open(&layer.path, &[]).await;
        let begun = first.exactly(1).await;
        let path = format!("/v2/team/other/blobs/{}", layer.blob.digest);
        let mut other = layer.mirror.client.open(&path, &[]).await;
        assert_eq!(other.status, 200);
        gate.open();
        other.assert_rest_equals(&layer.blob.bytes).await;
        assert_eq!(begun, layer.blob.bytes[..1]);
        first.assert_rest_equals(&layer.blob.bytes[1..]).await;
        let records = layer.registry.counters().records;
        let gets = records
            .iter()
            .filter(|it| it.kind == Kind::Blob && it.method == http::Method::GET);
        let asked: Vec<_> = gets.map(|it| it.repository.as_str()).collect();
        assert_eq!(asked, ["team/app", "team/other"], "{status}");
    }
}

/// What has never been given for the sake of a repository is not given to its clients because others have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_has_nothing_gets_nothing_of_anothers() {
    let layer = world_of(MIB, one_connection, false).await;
    layer
        .registry
        .put_image("team/other", Some("v1"), &layer.image);
    let wait = Arc::new(Semaphore::new(0));
    let rule = Rule::gets(Kind::Blob).in_repository("team/empty");
    layer.fault(rule, Fault::Wait(Arc::clone(&wait)));
    let client = layer.mirror.client;
    let path_in = |repository: &str| format!("/v2/{repository}/blobs/{}", layer.blob.digest);
    let (empty, other) = (path_in("team/empty"), path_in("team/other"));
    let nothing = tokio::spawn(async move { client.get(&empty).await.status });
    let asked = |counters: &Counters, repository: &str| {
        let mut records = counters.records.iter();
        records.any(|it| it.repository == repository)
    };
    let registry = &layer.registry;
    registry
        .wait_for("the first request", |it| asked(it, "team/empty"))
        .await;
    let joined = tokio::spawn(async move { client.get(&other).await });
    registry
        .wait_for("the other one", |it| asked(it, "team/other"))
        .await;
    wait.add_permits(1);
    assert_eq!(nothing.await.unwrap(), 404);
    joined.await.unwrap().assert_bytes(200, &layer.blob.bytes);
}
