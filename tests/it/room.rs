//! Blobs that cannot be stored reach their clients all the same, straight from upstream.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::images::{self, Blob};
use crate::common::{
    Dialect, Ending, FakeRegistry, Fault, Kind, Layer, Mirror, MirrorBuilder, Rule,
};
use roadstead::oci::UpstreamName;
use roadstead::store::{Amount, Measure, Meter, Share, Space};

const MIB: usize = 1 << 20;
/// Room for some manifests, and for the index, but not for `BIG`.
const SMALL_STORE: u32 = 4 << 20;
const BIG: usize = 5 * MIB;
/// What is held back of a whole blob until its digest is right.
const TAIL: usize = 64 * 1024;
const BYPASS: &str = "roadstead; fwd=bypass";

/// A blob that is larger than the store; `announced`: its manifest has been pulled.
async fn world(announced: bool) -> Layer {
    world_with(announced, |_| {}).await
}

async fn world_with(announced: bool, change: impl FnOnce(&mut roadstead::config::Config)) -> Layer {
    let build = |registry: &FakeRegistry| {
        MirrorBuilder::of(registry)
            .with(|config| config.cache.max_size = Amount::Bytes(SMALL_STORE.into()))
            .with(change)
    };
    let layer = Layer::new(900, BIG, build).await;
    if announced {
        layer.announce().await;
    }
    layer
}

impl Layer {
    fn gets(&self) -> usize {
        self.registry.counters().blob_gets(&self.blob.digest)
    }

    async fn nothing_is_kept(&self) {
        self.mirror.wait_for_fills().await;
        assert!(!self.mirror.blob_path(&self.blob.digest).exists());
        let parts = std::fs::read_dir(self.mirror.store().join("fills/sha256")).unwrap();
        assert_eq!(parts.count(), 0, "a partial file is left");
        let samples = self.mirror.metrics().await;
        let bytes = samples.sum("roadstead_cache_bytes", &[]);
        assert!(bytes < f64::from(SMALL_STORE), "{bytes}");
    }
}

/// Without an announced size the fill learns it from upstream and gives up; then it is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_larger_than_the_store_passes_through() {
    for announced in [true, false] {
        let world = world(announced).await;
        let wasted = usize::from(!announced);
        for client in 1..=3 {
            let answer = world.mirror.get(&world.path).await;
            answer.assert_bytes(200, &world.blob.bytes);
            assert_eq!(answer.header("cache-status"), BYPASS);
            assert_eq!(answer.header("content-length"), BIG.to_string());
            assert_eq!(answer.header("docker-content-digest"), world.blob.digest);
            assert_eq!(world.gets(), client + wasted, "announced {announced}");
        }
        world.nothing_is_kept().await;
        let samples = world.mirror.metrics().await;
        let passed = [("kind", "blob"), ("outcome", "bypass")];
        let requests = samples.sum("roadstead_requests_total", &passed);
        assert_eq!(requests.to_string(), "3");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_clients_at_once_each_have_a_pass() {
    let world = world(true).await;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (client, path) = (world.mirror.client, world.path.clone());
            tokio::spawn(async move { client.get(&path).await })
        })
        .collect();
    for client in clients {
        client.await.unwrap().assert_bytes(200, &world.blob.bytes);
    }
    assert_eq!(world.gets(), 4);
    world.nothing_is_kept().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_asked_of_upstream_as_a_range() {
    for ranges in [true, false] {
        let world = world(true).await;
        world.registry.options(|options| options.ranges = ranges);
        for (asked, expected) in [
            ("bytes=1000000-1000099", 1_000_000..1_000_100),
            ("bytes=5000000-", 5_000_000..BIG),
            ("bytes=-10", BIG - 10..BIG),
        ] {
            let range = [("Range", asked)];
            let answer = world.mirror.get_with(&world.path, &range).await;
            answer.assert_bytes(206, &world.blob.bytes[expected.clone()]);
            assert_eq!(answer.header("cache-status"), BYPASS);
            let (first, last) = (expected.start, expected.end - 1);
            let content_range = format!("bytes {first}-{last}/{BIG}");
            assert_eq!(answer.header("content-range"), content_range);
        }
        let asked = world.registry.counters().blob_ranges(&world.blob.digest);
        assert_eq!(
            asked,
            [
                Some((1_000_000, Some(1_000_100))),
                Some((5_000_000, None)),
                Some((BIG - 10, None))
            ]
        );
        let range = [("Range", "bytes=6000000-")];
        let beyond = world.mirror.get_with(&world.path, &range).await;
        assert_eq!(beyond.status, 416);
    }
}

/// dragonflyoss/dragonfly#3352, on the way past the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_never_end_cleanly() {
    for content_length in [true, false] {
        for fault in [
            Fault::Flip(0),
            Fault::Flip(BIG - 1),
            Fault::Short(BIG - 1),
            Fault::Long(1),
        ] {
            let what = format!("{fault:?}, content length {content_length}");
            let world = world(true).await;
            world
                .registry
                .options(|options| options.content_length = content_length);
            let long = matches!(fault, Fault::Long(_));
            world.registry.fault(Rule::gets(Kind::Blob), fault);
            let answer = world.mirror.get(&world.path).await;
            if long && !content_length {
                // What comes after the blob's end is not of the blob, and reaches nobody.
                answer.assert_bytes(200, &world.blob.bytes);
                continue;
            }
            answer.assert_no_clean_success();
            let tail_kept = answer.status != 200 || answer.body.len() <= BIG - TAIL;
            assert!(tail_kept, "{what}: {} bytes came", answer.body.len());
            world.registry.heal();
            let answer = world.mirror.get_when_spared_no_more(&world.path).await;
            answer.assert_bytes(200, &world.blob.bytes);
            world.nothing_is_kept().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_breaks_goes_on_where_it_was() {
    for ranges in [true, false] {
        let world = world(true).await;
        world.registry.options(|options| options.ranges = ranges);
        let fault = Fault::Cut(3 * MIB);
        world.registry.fault(Rule::gets(Kind::Blob).times(1), fault);
        let answer = world.mirror.get(&world.path).await;
        answer.assert_bytes(200, &world.blob.bytes);
        assert_eq!(world.gets(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_errors_are_told_as_such() {
    let world = world(true).await;
    for (status, expected) in [(404, 404), (403, 403), (429, 429), (500, 502)] {
        world
            .registry
            .fault(Rule::gets(Kind::Blob), Fault::Status(status));
        let answer = world.mirror.get(&world.path).await;
        assert!(
            answer.status == expected || matches!(answer.status, 429 | 502 | 503),
            "{status} became {}",
            answer.status
        );
        answer.code();
        world.registry.heal();
    }
}

/// Nobody has said how large the blob is: readers follow a fill, the store is full, and they go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_fill_that_outgrows_the_store_go_on_without_it() {
    for wrong in [None, Some(0), Some(BIG - 1)] {
        let world = world(false).await;
        world
            .registry
            .options(|options| options.content_length = false);
        if let Some(at) = wrong {
            world
                .registry
                .fault(Rule::gets(Kind::Blob), Fault::Flip(at));
        }
        let answer = world.mirror.get(&world.path).await;
        if wrong.is_none() {
            answer.assert_bytes(200, &world.blob.bytes);
            assert_eq!(answer.header("cache-status"), "roadstead; fwd=miss; stored");
        } else {
            answer.assert_no_clean_success();
            assert!(answer.status != 200 || answer.body.len() <= BIG - TAIL);
        }
        world.nothing_is_kept().await;
        world.registry.heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_pass() {
    let world = world(true).await;
    let gate = world.registry.gate(&world.blob.digest);
    gate.release(2 * MIB);
    let mut reader = world.mirror.open(&world.path).await;
    reader.exactly(1000).await;
    drop(reader);
    gate.open();
    world
        .mirror
        .get(&world.path)
        .await
        .assert_bytes(200, &world.blob.bytes);
    world.nothing_is_kept().await;
}

/// A disk that has as much free as a test says.
#[derive(Debug)]
struct Disk(AtomicU64);

impl Measure for Disk {
    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space {
            total: 1 << 30,
            free: self.0.load(Ordering::Relaxed),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_others_fill_is_left_alone_and_used_again_when_there_is_space() {
    let disk = Arc::new(Disk(AtomicU64::new(60 << 20)));
    let meter = Meter::of(Arc::clone(&disk) as Arc<dyn Measure>);
    let world = world_with(true, |config| {
        config.cache.max_size = Amount::Percent(50);
        config.cache.min_free = Amount::Bytes(50 << 20);
        config.cache.meter = meter;
    })
    .await;
    disk.0.store((50 << 20) + MIB as u64, Ordering::Relaxed);
    let answer = world.mirror.get(&world.path).await;
    answer.assert_bytes(200, &world.blob.bytes);
    assert_eq!(answer.header("cache-status"), BYPASS);
    world.nothing_is_kept_here().await;
    disk.0.store(60 << 20, Ordering::Relaxed);
    let answer = world.mirror.get(&world.path).await;
    answer.assert_bytes(200, &world.blob.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; fwd=miss; stored");
    world.mirror.wait_for_fills().await;
    world.mirror.clock.advance(Duration::from_secs(1));
    let answer = world.mirror.get(&world.path).await;
    assert_eq!(answer.header("cache-status"), "roadstead; hit");
    assert_eq!(answer.ending, Ending::Clean);
    let max = world.mirror.metrics().await;
    let max = max.sum("roadstead_cache_max_bytes", &[]);
    assert_eq!(max.to_string(), (1_u64 << 29).to_string());
}

impl Layer {
    async fn nothing_is_kept_here(&self) {
        self.mirror.wait_for_fills().await;
        assert!(!self.mirror.blob_path(&self.blob.digest).exists());
    }
}

/// Half of an image is there, and its manifest has just been given out: what comes next does not push the
/// rest out before its client asks for it. Some minutes later it may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_under_way_keeps_what_it_has_not_read_yet() {
    let registry = FakeRegistry::start().await;
    let pulled = images::image(910, &[2 * MIB, 2 * MIB], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &pulled);
    let others: Vec<_> = (0..4)
        .map(|n| images::image(920 + n, &[3 * MIB], Dialect::Oci))
        .collect();
    for (n, other) in others.iter().enumerate() {
        registry.put_image(&format!("team/other{n}"), Some("v1"), other);
    }
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.cache.max_size = Amount::Bytes(12 << 20))
        .start()
        .await;
    let read = |repository: String, blob: Blob| {
        let client = mirror.client;
        async move {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            client.get(&path).await.assert_bytes(200, &blob.bytes);
        }
    };
    for layer in &pulled.layers {
        read("team/app".to_owned(), layer.clone()).await;
    }
    mirror.wait_for_fills().await;
    // Another node begins to pull, and takes the first layer.
    assert_eq!(mirror.get("/v2/team/app/manifests/v1").await.status, 200);
    mirror.clock.advance(Duration::from_mins(2));
    for (n, other) in others.iter().enumerate() {
        read(format!("team/other{n}"), other.layers[0].clone()).await;
        mirror.wait_for_fills().await;
    }
    for layer in &pulled.layers {
        read("team/app".to_owned(), layer.clone()).await;
        assert_eq!(registry.counters().blob_gets(&layer.digest), 1);
    }
    mirror.clock.advance(Duration::from_mins(6));
    for turn in 0..3 {
        for (n, other) in others.iter().enumerate() {
            mirror.clock.advance(Duration::from_mins(2));
            read(format!("team/other{n}"), other.layers[0].clone()).await;
            mirror.wait_for_fills().await;
        }
        println!("turn {turn}");
    }
    let kept = pulled
        .layers
        .iter()
        .filter(|layer| mirror.blob_path(&layer.digest).exists());
    assert_eq!(kept.count(), 0, "they are as good as any others now");
}

/// Asks for metrics until something is done that the store does by itself.
async fn until(mirror: &Mirror, what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            mirror.metrics().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "{what}");
}

/// One upstream may have less than all, and what nobody pulls goes after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_keeps_to_its_share() {
    let registries = [FakeRegistry::start().await, FakeRegistry::start().await];
    let blobs: Vec<Vec<Blob>> = (0..2)
        .map(|upstream| {
            let seed = 950 + upstream * 10;
            (seed..seed + 4).map(|n| Blob::noise(n, MIB)).collect()
        })
        .collect();
    for (registry, blobs) in registries.iter().zip(&blobs) {
        for blob in blobs {
            registry.put_blob("team/app", blob);
        }
    }
    let [first, second] = ["docker.io", "ghcr.io"];
    let mirror = MirrorBuilder::of(&registries[0])
        .upstream(second, &registries[1], |_| {})
        .with(|config| {
            config.cache.max_age = Some(Duration::from_hours(48));
            config.cache.shares = vec![Share {
                upstream: UpstreamName::parse(second).unwrap(),
                max_size: Some(5 * MIB as u64 / 2),
                max_age: Some(Duration::from_hours(24)),
            }];
        })
        .start()
        .await;
    let pull = |upstream: &str, blob: &Blob| {
        let path = format!("/v2/team/app/blobs/{}?ns={upstream}", blob.digest);
        let (client, blob) = (mirror.client, blob.clone());
        async move { client.get(&path).await.assert_bytes(200, &blob.bytes) }
    };
    for (upstream, blobs) in [first, second].iter().zip(&blobs) {
        for blob in blobs {
            pull(upstream, blob).await;
            mirror.wait_for_fills().await;
        }
    }
    let there = |upstream: usize| {
        let blobs = blobs[upstream].iter();
        let there = blobs.map(|blob| mirror.blob_path(&blob.digest).exists());
        there.collect::<Vec<_>>()
    };
    until(&mirror, "a share is kept to", || {
        there(1) == [false, false, true, true]
    })
    .await;
    assert_eq!(there(0), [true; 4], "the other upstream has no bound");
    mirror.clock.advance(Duration::from_hours(25));
    until(&mirror, "it goes after a day", || there(1) == [false; 4]).await;
    assert_eq!(there(0), [true; 4]);
    pull(first, &blobs[0][2]).await;
    mirror.clock.advance(Duration::from_hours(24));
    until(&mirror, "the others after two", || {
        there(0) == [false, false, true, false]
    })
    .await;
    let samples = mirror.metrics().await;
    let aged = samples.sum("roadstead_evicted_bytes_total", &[("reason", "age")]);
    assert!(aged >= 4.0 * 1_048_576.0, "{aged}");
}

/// A mirror whose store is full of blobs of 1 MiB, and upstream's registry.
async fn full() -> (FakeRegistry, Mirror, Vec<Blob>) {
    let registry = FakeRegistry::start().await;
    let blobs: Vec<Blob> = (0..16).map(|n| Blob::noise(1000 + n, MIB)).collect();
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.cache.max_size = Amount::Bytes(19 << 20))
        .start()
        .await;
    for blob in &blobs {
        registry.put_blob("team/app", blob);
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    }
    mirror.wait_for_fills().await;
    (registry, mirror, blobs)
}

fn kept(mirror: &Mirror, blobs: &[Blob]) -> usize {
    let there = |blob: &&Blob| mirror.blob_path(&blob.digest).exists();
    blobs.iter().filter(there).count()
}

/// Room for all that was announced was made at once: of 15 blobs, 1 to 4 were left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_announced_evicts_nothing() {
    let (registry, mirror, blobs) = full().await;
    let before = kept(&mirror, &blobs);
    assert!(before >= 14, "{before}");
    // A small manifest names large blobs; upstream has something small, or says nothing, under their digests.
    let (little, silent) = (Blob::noise(1, 10), Blob::noise(2, 7 * MIB));
    let named = |blob: &Blob| serde_json::json!({"mediaType": "a/b", "digest": blob.digest, "size": 7 * MIB});
    let manifest = images::Manifest::of(
        images::OCI_MANIFEST,
        &serde_json::json!({
            "schemaVersion": 2, "mediaType": images::OCI_MANIFEST,
            "config": named(&little), "layers": [named(&silent)],
        }),
    );
    registry.put_manifest("team/app", Some("v1"), &manifest);
    for blob in [&little, &silent] {
        registry.put_blob("team/app", blob);
    }
    // Nobody has named this one: upstream's Content-Length alone says its size.
    let unnamed = Blob::noise(3, 7 * MIB);
    registry.put_blob("team/app", &unnamed);
    for blob in [&silent, &unnamed] {
        let rule = Rule::gets(Kind::Blob).of(&blob.digest);
        registry.fault(rule, Fault::Stall(0));
    }
    assert_eq!(mirror.get("/v2/team/app/manifests/v1").await.status, 200);
    let mut waiting = Vec::new();
    for blob in [&little, &silent, &unnamed] {
        let (client, path) = (mirror.client, format!("/v2/team/app/blobs/{}", blob.digest));
        waiting.push(tokio::spawn(async move { client.get(&path).await }));
    }
    // An import that announces as much, and sends nothing.
    let mut import = tokio::net::TcpStream::connect(mirror.admin.0)
        .await
        .unwrap();
    let request = format!(
        "PUT /api/v1/import/blobs/{} HTTP/1.1\r\nhost: localhost\r\nx-roadstead-admin: 1\r\ncontent-length: {}\r\n\r\n",
        Blob::noise(4, 5).digest,
        7 * MIB
    );
    tokio::io::AsyncWriteExt::write_all(&mut import, request.as_bytes())
        .await
        .unwrap();
    registry
        .wait_for("all are asked for", |counters| {
            [&little, &silent, &unnamed]
                .iter()
                .all(|blob| counters.blob_gets(&blob.digest) > 0)
        })
        .await;
    mirror
        .wait_for_metrics("the silent ones are on their way", |samples| {
            samples.sum("roadstead_fills_in_flight", &[]) >= 2.0
        })
        .await;
    assert_eq!(kept(&mirror, &blobs), before);
    let samples = mirror.metrics().await;
    assert!(samples.sum("roadstead_cache_bytes", &[]) <= 19.0 * 1_048_576.0);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Nor does one without an end push out all others, however often it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_without_end_leaves_the_others_there() {
    let (registry, mirror, blobs) = full().await;
    registry.options(|options| options.content_length = false);
    for seed in [10, 11] {
        let endless = Blob::noise(seed, 40 * MIB);
        registry.put_blob("team/app", &endless);
        let path = format!("/v2/team/app/blobs/{}", endless.digest);
        for _ in 0..2 {
            mirror.get(&path).await.assert_bytes(200, &endless.bytes);
            mirror.wait_for_fills().await;
        }
    }
    let left = kept(&mirror, &blobs);
    assert!(left >= 9, "{left} of {} are left", blobs.len());
}
