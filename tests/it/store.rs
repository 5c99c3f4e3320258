//! The store from outside: its bound, its restarts, its damaged files.

use std::time::Duration;

use crate::common::images::Blob;
use crate::common::mirror::part_path;
use crate::common::{FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule};
use roadstead::store::Amount;

const MIB: usize = 1 << 20;

fn path(blob: &Blob) -> String {
    format!("/v2/team/app/blobs/{}", blob.digest)
}

async fn world(max_size: usize, blobs: &[Blob]) -> (FakeRegistry, Mirror) {
    let registry = FakeRegistry::start().await;
    for blob in blobs {
        registry.put_blob("team/app", blob);
    }
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.cache.max_size = Amount::Bytes(max_size as u64))
        .start()
        .await;
    (registry, mirror)
}

async fn pull(mirror: &Mirror, blob: &Blob) {
    mirror.get(&path(blob)).await.assert_bytes(200, &blob.bytes);
    mirror.wait_for_fills().await;
    // Recency is told by the clock.
    mirror.clock.advance(Duration::from_secs(1));
}

fn blobs(count: u64, size: usize) -> Vec<Blob> {
    (0..count)
        .map(|seed| Blob::noise(800 + seed, size))
        .collect()
}

/// distribution#3539, #1140 (asked for since 2015), nexspence#189 (quota not enforced on a fill).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_to_its_size() {
    let blobs = blobs(12, 3 * MIB / 2);
    let (_registry, mirror) = world(8 * MIB, &blobs).await;
    for blob in &blobs {
        pull(&mirror, blob).await;
        let samples = mirror.metrics().await;
        let bytes = samples.sum("roadstead_cache_bytes", &[]);
        let most = samples.sum("roadstead_cache_max_bytes", &[]);
        assert!(bytes > 0.0 && bytes <= most, "{bytes} of {most}");
        assert_eq!(most.to_string(), (8 * MIB).to_string());
    }
    // sonatype/nexus-public#613: what is evicted is gone from the disk.
    let on_disk = blobs
        .iter()
        .filter(|blob| mirror.blob_path(&blob.digest).exists());
    assert!(on_disk.count() <= 5);
    let evicted = mirror
        .metrics()
        .await
        .sum("roadstead_evicted_bytes_total", &[]);
    assert!(evicted >= 7.0 * 1.5 * 1_048_576.0, "{evicted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_recently_used_goes_first() {
    let blobs = blobs(6, 3 * MIB / 2);
    // The index takes 2 or 4 MiB, and some room is made ahead: four or five of the six fit.
    let (registry, mirror) = world(21 * MIB / 2, &blobs).await;
    for blob in &blobs[..3] {
        pull(&mirror, blob).await;
    }
    // distribution PR#4872: hot blobs expired because they had come first.
    pull(&mirror, &blobs[0]).await;
    for blob in &blobs[3..] {
        pull(&mirror, blob).await;
    }
    registry.reset();
    pull(&mirror, &blobs[0]).await;
    pull(&mirror, &blobs[5]).await;
    assert_eq!(
        registry.counters().blob_gets(&blobs[0].digest),
        0,
        "used last week"
    );
    assert_eq!(
        registry.counters().blob_gets(&blobs[5].digest),
        0,
        "just fetched"
    );
    pull(&mirror, &blobs[1]).await;
    assert_eq!(
        registry.counters().blob_gets(&blobs[1].digest),
        1,
        "long unused"
    );
}

/// distribution#2367: unexpected EOF when a blob expires under a reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_blob_is_not_evicted() {
    let big = Blob::noise(820, 12 * MIB);
    let mut all = blobs(4, 5 * MIB);
    all.push(big.clone());
    let (_registry, mirror) = world(24 * MIB, &all).await;
    pull(&mirror, &big).await;
    let mut reader = mirror.open(&path(&big)).await;
    reader.exactly(1).await;
    for blob in &all[..4] {
        pull(&mirror, blob).await;
        assert!(
            mirror.blob_path(&big.digest).exists(),
            "evicted under its reader"
        );
    }
    reader.assert_rest_equals(&big.bytes[1..]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_what_was_committed() {
    let blobs = blobs(3, 100_000);
    let (registry, mirror) = world(1 << 30, &blobs).await;
    for blob in &blobs {
        pull(&mirror, blob).await;
    }
    let before = mirror.metrics().await.sum("roadstead_cache_blobs", &[]);
    let mirror = mirror.restart().await;
    let samples = mirror.metrics().await;
    assert_eq!(
        samples.sum("roadstead_cache_blobs", &[]).to_string(),
        before.to_string()
    );
    assert!(samples.sum("roadstead_cache_bytes", &[]) >= 300_000.0);
    for blob in &blobs {
        let answer = mirror.get(&path(blob)).await;
        answer.assert_bytes(200, &blob.bytes);
        assert_eq!(answer.header("cache-status"), "roadstead; hit");
    }
    assert_eq!(registry.counters().of(&http::Method::GET, Kind::Blob), 3);
}

/// A kill in mid-fill leaves a partial file, or rubbish: never a blob, never an obstacle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_of_fills_are_no_obstacle() {
    let blob = Blob::noise(830, 500_000);
    let (_registry, mirror) = world(1 << 30, std::slice::from_ref(&blob)).await;
    let mirror = mirror
        .restart_after(|dir| {
            let fills = dir.join("fills/sha256");
            std::fs::create_dir_all(&fills).unwrap();
            let part = part_path(dir, "docker.io", &blob.digest);
            std::fs::write(&part, vec![7; 700_000]).unwrap();
            std::fs::write(part.with_extension("cov"), "rubbish").unwrap();
            std::fs::write(fills.join("rubbish"), "rubbish").unwrap();
            std::fs::create_dir_all(dir.join("blobs/sha256/zz/deep")).unwrap();
            std::fs::write(dir.join("blobs/sha256/zz/rubbish"), "rubbish").unwrap();
        })
        .await;
    pull(&mirror, &blob).await;
    mirror
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
}

/// A fill that is under way when the process stops: the next one serves the right bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_cut_off_by_a_restart_is_taken_up_or_begun_again() {
    let blob = Blob::noise(831, 2 * MIB);
    let registry = FakeRegistry::start().await;
    registry.put_blob("team/app", &blob);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.server.drain_timeout = Duration::from_millis(200))
        .start()
        .await;
    let gate = registry.gate(&blob.digest);
    gate.release(MIB);
    let mut reader = mirror.open(&path(&blob)).await;
    reader.exactly(1000).await;
    drop(reader);
    let mirror = mirror.restart().await;
    gate.open();
    pull(&mirror, &blob).await;
    mirror
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
}

/// quay/quay PR#5877, distribution PR#4872: a broken cache entry is a miss, not an error and not
/// an empty 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_a_miss() {
    let blob = Blob::noise(832, 300_000);
    let (registry, mut mirror) = world(1 << 30, std::slice::from_ref(&blob)).await;
    pull(&mirror, &blob).await;
    for (fetches, length) in [
        (2, Some(0)),
        (3, Some(100_000)),
        (4, Some(400_000)),
        (5, None),
    ] {
        let file = mirror.blob_path(&blob.digest);
        mirror = mirror
            .restart_after(|_| match length {
                None => std::fs::remove_file(&file).unwrap(),
                Some(length) => {
                    let handle = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
                    handle.set_len(length).unwrap();
                }
            })
            .await;
        pull(&mirror, &blob).await;
        let gets = registry.counters().blob_gets(&blob.digest);
        assert_eq!(gets, fetches, "length {length:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_deleted_under_a_running_mirror_is_no_error() {
    let blob = Blob::noise(833, 300_000);
    let (_registry, mirror) = world(1 << 30, std::slice::from_ref(&blob)).await;
    pull(&mirror, &blob).await;
    std::fs::remove_file(mirror.blob_path(&blob.digest)).unwrap();
    pull(&mirror, &blob).await;
    pull(&mirror, &blob).await;
}

/// enix/kube-image-keeper#124: one failure looped for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_fills_leave_nothing_behind() {
    let blob = Blob::noise(834, 300_000);
    let (registry, mirror) = world(1 << 30, std::slice::from_ref(&blob)).await;
    registry.fault(Rule::all(Kind::Blob), Fault::Flip(299_999));
    for _ in 0..3 {
        mirror.get(&path(&blob)).await.assert_no_clean_success();
        mirror.wait_for_fills().await;
    }
    let bytes = mirror.metrics().await.sum("roadstead_cache_bytes", &[]);
    assert!(bytes < 300_000.0, "wrong bytes still take {bytes}");
    registry.heal();
    pull(&mirror, &blob).await;
}
