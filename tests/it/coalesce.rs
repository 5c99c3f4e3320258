//! One fetch, any number of readers.

use std::sync::Arc;

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule, within};
use http::Method;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;

async fn world(size: usize) -> (FakeRegistry, Mirror, Blob, String) {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(11, size);
    registry.put_blob("team/app", &blob);
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    (registry, mirror, blob, path)
}

/// distribution#3969, goharbor/harbor#22570, rpardini/docker-registry-proxy#31: N clients on a
/// cold image cost N downloads. sonatype/nexus-public#284, project-zot/zot#2416,
/// getnora-io/nora#1001: with one download, everybody waits for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_readers_share_one_fetch() {
    const READERS: usize = 200;
    let (registry, mirror, blob, path) = world(64 * MIB).await;
    let gate = registry.gate(&blob.digest);
    gate.release(6 * MIB);
    let everybody_has_bytes = Arc::new(Barrier::new(READERS + 1));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (client, path, blob) = (mirror.client, path.clone(), blob.clone());
        let barrier = Arc::clone(&everybody_has_bytes);
        readers.spawn(async move {
            let mut streaming = client.open(&path, &[]).await;
            assert_eq!(streaming.status, 200);
            let start = streaming.exactly(1024).await;
            assert_eq!(start, blob.bytes[..1024]);
            barrier.wait().await;
            streaming.assert_rest_equals(&blob.bytes[1024..]).await;
        });
    }
    let waiting = async {
        tokio::select! {
            _ = everybody_has_bytes.wait() => {}
            Some(failed) = readers.join_next() => panic!("a reader ended early: {failed:?}"),
        }
    };
    within("the first bytes at every reader", waiting).await;
    let sent = registry.counters().sent(&blob.digest);
    assert!(
        sent < (blob.bytes.len() / 10) as u64,
        "upstream had sent {sent} bytes"
    );
    gate.open();
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
    assert_eq!(
        registry.counters().sent(&blob.digest),
        blob.bytes.len() as u64
    );
}

/// The first reader's connection used to be everybody's: when it hung up, all lost the fetch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_leaves() {
    let (registry, mirror, blob, path) = world(4 * MIB).await;
    let gate = registry.gate(&blob.digest);
    gate.release(MIB);
    let mut leader = mirror.open(&path).await;
    leader.exactly(1000).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut other = mirror.open(&path).await;
        assert_eq!(
            other.headers["cache-status"],
            "roadstead; fwd=miss; collapsed"
        );
        assert_eq!(other.exactly(1000).await, blob.bytes[..1000]);
        others.push(other);
    }
    drop(leader);
    mirror
        .wait_for_metrics("the leader to be gone", |samples| {
            samples.sum("roadstead_readers_in_flight", &[]) <= 5.0
        })
        .await;
    gate.open();
    for mut other in others {
        other.assert_rest_equals(&blob.bytes[1000..]).await;
    }
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

/// A pull that was given up and tried again must not start from nothing
/// (goharbor/harbor#22393: 40 GB images never finish).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_leave_and_the_fill_completes() {
    let (registry, mirror, blob, path) = world(4 * MIB).await;
    let gate = registry.gate(&blob.digest);
    gate.release(MIB);
    for _ in 0..3 {
        let mut reader = mirror.open(&path).await;
        reader.exactly(1000).await;
    }
    mirror
        .wait_for_metrics("all readers to be gone", |samples| {
            samples.sum("roadstead_readers_in_flight", &[]) == 0.0
        })
        .await;
    gate.open();
    mirror.wait_for_fills().await;
    let sent = registry.counters().sent(&blob.digest);
    assert_eq!(sent, blob.bytes.len() as u64);
    let hit = mirror.get(&path).await;
    hit.assert_bytes(200, &blob.bytes);
    assert_eq!(hit.header("cache-status"), "roadstead; hit");
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

/// containerd#12476: clients close ranged reads early; a reader that stalls holds up nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_nobody() {
    let (registry, mirror, blob, path) = world(16 * MIB).await;
    let mut slow = mirror.open(&path).await;
    slow.exactly(1).await;
    // The slow one reads nothing while the fast one reads everything.
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    mirror.wait_for_fills().await;
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    slow.assert_rest_equals(&blob.bytes[1..]).await;
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

/// project-zot/zot#4386: layers downloaded again for each tag and repository.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_is_fetched_once_over_repositories_and_upstreams() {
    let first = FakeRegistry::start().await;
    let second = FakeRegistry::start().await;
    let blob = Blob::noise(12, MIB);
    first.put_blob("team/one", &blob);
    first.put_blob("team/two", &blob);
    second.put_blob("team/three", &blob);
    let mirror = MirrorBuilder::of(&first)
        .upstream("ghcr.io", &second, |_| {})
        .start()
        .await;
    let gate = first.gate(&blob.digest);
    gate.release(MIB / 4);
    let path = |repository: &str| format!("/v2/{repository}/blobs/{}", blob.digest);
    let mut leader = mirror.open(&path("team/one")).await;
    leader.exactly(1000).await;
    // Another repository while the fill runs: a HEAD, no second GET.
    let mut two = mirror.open(&path("team/two")).await;
    two.exactly(1000).await;
    gate.open();
    for mut reader in [leader, two] {
        reader.assert_rest_equals(&blob.bytes[1000..]).await;
    }
    mirror.wait_for_fills().await;
    // Another upstream, now that it is checked (tests/it/upstreams.rs: while it is not).
    for repository in ["team/one", "team/two", "ghcr.io/team/three"] {
        mirror
            .get(&path(repository))
            .await
            .assert_bytes(200, &blob.bytes);
    }
    assert_eq!(first.counters().blob_gets(&blob.digest), 1);
    assert_eq!(second.counters().blob_gets(&blob.digest), 0);
    assert_eq!(
        first.counters().blob_heads(&blob.digest),
        1,
        "one link for `two`"
    );
    assert_eq!(
        second.counters().blob_heads(&blob.digest),
        1,
        "one link for `three`"
    );
}

/// Docker Hub counts every GET of a manifest against the quota.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pulls_of_a_tag_ask_once() {
    let registry = FakeRegistry::start().await;
    let image = images::image(3, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let permit = Arc::new(Semaphore::new(0));
    registry.fault(Rule::all(Kind::Manifest), Fault::Wait(Arc::clone(&permit)));
    let mirror = Mirror::of(&registry).await;
    let mut readers = JoinSet::new();
    for _ in 0..50 {
        let client = mirror.client;
        readers.spawn(async move { client.get("/v2/team/app/manifests/v1").await });
    }
    registry
        .wait_for("the manifest to be asked for", |counters| {
            counters.of(&Method::GET, Kind::Manifest) + counters.of(&Method::HEAD, Kind::Manifest)
                > 0
        })
        .await;
    permit.add_permits(1);
    while let Some(answer) = readers.join_next().await {
        answer.unwrap().assert_bytes(200, &image.manifest.bytes);
    }
    assert_eq!(registry.counters().of(&Method::GET, Kind::Manifest), 1);
}

/// Everybody who waits gets the answer, when it is an error too: nobody hangs
/// (enix/kube-image-keeper#124).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_reaches_every_waiter() {
    let (registry, mirror, blob, path) = world(MIB).await;
    let permit = Arc::new(Semaphore::new(0));
    registry.fault(
        Rule::gets(Kind::Blob).times(1),
        Fault::Wait(Arc::clone(&permit)),
    );
    let mut readers = JoinSet::new();
    for _ in 0..20 {
        let (client, path) = (mirror.client, path.clone());
        readers.spawn(async move { client.get(&path).await });
    }
    registry
        .wait_for("the GET", |counters| counters.blob_gets(&blob.digest) == 1)
        .await;
    // The connection goes away under the waiting request, and upstream with it.
    registry.go_down().await;
    while let Some(answer) = readers.join_next().await {
        answer.unwrap().assert_no_clean_success();
    }
    registry.come_back();
    registry.heal();
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
}
