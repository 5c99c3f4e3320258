//! A blob that both upstreams are asked for at the same time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{AT_ONCE, Two};
use crate::common::client::Streaming;
use crate::common::fake_log::Counters;
use crate::common::images::{Blob, noise};
use crate::common::{Ending, FakeRegistry, Fault, Gate, Kind, MirrorBuilder, Rule};

const MIB: usize = 1 << 20;

/// The blob is there at the right upstream; the other one has other bytes under its digest, and half of them
/// have come for a client of its own. Returns that client's body, and what lets the rest come.
async fn wrong_half_way(two: &Two, blob: &Blob) -> (Streaming, Gate) {
    two.right.put_blob("team/app", blob);
    two.other
        .put_bytes("org/app", &blob.digest, noise(999, blob.bytes.len()));
    let gate = two.other.gate(&blob.digest);
    gate.release(blob.bytes.len() / 2);
    let mut theirs = two.mirror.open(&Two::other_path(blob)).await;
    assert_eq!(theirs.status, 200);
    theirs.exactly(blob.bytes.len() / 4).await;
    (theirs, gate)
}

/// (a) A range needs no digest to be complete: it was answered with a clean 206 of the other upstream's bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchecked_bytes_of_one_upstream_are_not_given_to_anothers_clients() {
    let two = Two::new().await;
    let blob = Blob::noise(901, 2 * MIB);
    let _theirs = wrong_half_way(&two, &blob).await;
    let path = Two::right_path(&blob);
    for (range, bytes) in [
        ("bytes=0-0", &blob.bytes[..1]),
        ("bytes=1000-300000", &blob.bytes[1000..=300_000]),
        ("bytes=-1000", &blob.bytes[2 * MIB - 1000..]),
    ] {
        let answer = two.at_once(&path, &[("range", range)]).await;
        answer.assert_bytes(206, bytes);
    }
    two.at_once(&path, &[]).await.assert_bytes(200, &blob.bytes);
    assert_eq!(two.other.counters().blob_heads(&blob.digest), 0);
}

/// (b) The size that one upstream says was told to all: HEAD said it, and ranges behind it were 416.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_that_one_upstream_says_is_not_anothers() {
    for wrong in [10, 5 * MIB] {
        let two = Two::new().await;
        let blob = Blob::noise(902, MIB);
        two.right.put_blob("team/app", &blob);
        two.other
            .put_bytes("org/app", &blob.digest, noise(998, wrong));
        let _gate = two.other.gate(&blob.digest);
        // Its head is not sent before its first bytes come.
        let (client, theirs) = (two.mirror.client, Two::other_path(&blob));
        let asking = tokio::spawn(async move { client.get(&theirs).await.status });
        let asked = |counters: &Counters| counters.blob_gets(&blob.digest) > 0;
        two.other.wait_for("the other one to be asked", asked).await;
        let path = Two::right_path(&blob);
        let head = two.mirror.head(&path).await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, "1048576")
        );
        let range = two.at_once(&path, &[("range", "bytes=5000-5999")]).await;
        range.assert_bytes(206, &blob.bytes[5000..6000]);
        let end = two.at_once(&path, &[("range", "bytes=-100")]).await;
        assert_eq!(end.header("content-range"), "bytes 1048476-1048575/1048576");
        let past = two.at_once(&path, &[("range", "bytes=1048576-")]).await;
        assert_eq!(past.status, 416);
        asking.abort();
    }
}

/// (c) Whether one upstream has a blob is nothing to those who ask another: they are not even told later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_one_upstream_has_it_is_nothing_to_anothers_clients() {
    let two = Two::new().await;
    let blob = Blob::noise(903, MIB);
    two.right.put_blob("team/app", &blob);
    let undecided = Arc::new(Semaphore::new(0));
    let rule = Rule::all(Kind::Blob);
    two.other.fault(rule, Fault::Wait(Arc::clone(&undecided)));
    let (client, theirs) = (two.mirror.client, Two::other_path(&blob));
    let asking = tokio::spawn(async move { client.get(&theirs).await });
    let asked = |counters: &Counters| counters.blob_gets(&blob.digest) > 0;
    two.other.wait_for("the other one to be asked", asked).await;
    // It is about to say 404; the answer to the right one's client does not wait for that.
    let path = Two::right_path(&blob);
    two.at_once(&path, &[]).await.assert_bytes(200, &blob.bytes);
    undecided.add_permits(1);
    let refused = asking.await.unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (404, "BLOB_UNKNOWN")
    );

    // And that the right one has it, in full or on its way, makes it nobody else's.
    let second = Blob::noise(904, MIB);
    two.right.put_blob("team/app", &second);
    let gate = two.right.gate(&second.digest);
    gate.release(MIB / 2);
    let mut ours = two.mirror.open(&Two::right_path(&second)).await;
    ours.exactly(1000).await;
    for blob in [&blob, &second] {
        let path = Two::other_path(blob);
        assert_eq!(two.mirror.get(&path).await.status, 404);
        assert_eq!(two.mirror.head(&path).await.status, 404);
        let range = [("range", "bytes=0-9")];
        assert_eq!(two.mirror.get_with(&path, &range).await.status, 404);
    }
    gate.open();
    ours.assert_rest_equals(&second.bytes[1000..]).await;
}

/// A blob that both have, and that the other one sends no more of than its client has read the beginning of.
async fn slow_at_the_other(two: &Two, blob: &Blob) -> (Gate, Streaming) {
    for (registry, repository) in [(&two.right, "team/app"), (&two.other, "org/app")] {
        registry.put_blob(repository, blob);
    }
    let gate = two.other.gate(&blob.digest);
    gate.release(70_000);
    let mut theirs = two.mirror.open(&Two::other_path(blob)).await;
    theirs.exactly(1000).await;
    (gate, theirs)
}

async fn stored(two: &Two) {
    two.mirror
        .wait_for_metrics("the blob to be stored", |samples| {
            samples.sum("roadstead_cache_blobs", &[]) == 1.0
        })
        .await;
}

/// (d) An upstream that sends 20 KB/s, or nothing more at all, made everybody wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_at_another_upstreams_speed() {
    let two = Two::new().await;
    let blob = Blob::noise(905, 2 * MIB);
    let (gate, mut theirs) = slow_at_the_other(&two, &blob).await;
    let path = Two::right_path(&blob);
    two.at_once(&path, &[]).await.assert_bytes(200, &blob.bytes);
    // Now it is checked, and everybody's who may have it: one HEAD says so.
    stored(&two).await;
    let next = two.at_once(&Two::other_path(&blob), &[]).await;
    next.assert_bytes(200, &blob.bytes);
    assert_eq!(next.header("cache-status"), "roadstead; hit");
    assert_eq!(two.other.counters().blob_gets(&blob.digest), 1);
    // Who was first goes on with what he began.
    gate.open();
    theirs.assert_rest_equals(&blob.bytes[1000..]).await;
    two.mirror.wait_for_fills().await;
    assert_counted(&two, &blob).await;
}

/// What nobody reads any more, and another upstream was faster with, is not fetched to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_not_gone_on_with_for_nobody() {
    let two = Two::new().await;
    let blob = Blob::noise(911, 8 * MIB);
    let (gate, theirs) = slow_at_the_other(&two, &blob).await;
    drop(theirs);
    two.mirror
        .wait_for_metrics("the reader to be gone", |samples| {
            samples.sum("roadstead_readers_in_flight", &[]) == 0.0
        })
        .await;
    let path = Two::right_path(&blob);
    two.at_once(&path, &[]).await.assert_bytes(200, &blob.bytes);
    stored(&two).await;
    gate.release(3 * MIB);
    two.mirror.wait_for_fills().await;
    assert_eq!(two.other.counters().blob_gets(&blob.digest), 1);
    assert!(two.other.counters().sent(&blob.digest) < 5 * MIB as u64);
    assert_counted(&two, &blob).await;
}

/// Slow downloads that everybody has left took the places of all upstreams' downloads that nobody waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_that_one_upstreams_clients_left_end_no_other() {
    let two = Two::new().await;
    let mut gates = Vec::new();
    for seed in 0..40 {
        let blob = Blob::noise(50_000 + seed, 300_000);
        two.other.put_blob("org/app", &blob);
        let gate = two.other.gate(&blob.digest);
        gate.release(10_000);
        let range = [("range", "bytes=100-200")];
        let path = Two::other_path(&blob);
        two.mirror
            .get_with(&path, &range)
            .await
            .assert_bytes(206, &blob.bytes[100..=200]);
        gates.push(gate);
    }
    for gate in &gates {
        gate.release(1000);
    }
    let blob = Blob::noise(912, 4 * MIB);
    two.right.put_blob("team/app", &blob);
    let gate = two.right.gate(&blob.digest);
    gate.release(MIB);
    let mut ours = two.mirror.open(&Two::right_path(&blob)).await;
    ours.exactly(1000).await;
    drop(ours);
    two.mirror
        .wait_for_metrics("the reader to be gone", |samples| {
            samples.sum("roadstead_readers_in_flight", &[]) == 0.0
        })
        .await;
    gate.open();
    stored(&two).await;
    assert_eq!(two.right.counters().blob_gets(&blob.digest), 1);
}

/// (e) Whoever had joined the other upstream's transfer was broken off with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_one_upstream_break_no_transfer_of_another() {
    let two = Two::new().await;
    let blob = Blob::noise(906, 2 * MIB);
    let (mut theirs, more) = wrong_half_way(&two, &blob).await;
    let gate = two.right.gate(&blob.digest);
    gate.release(MIB);
    let path = Two::right_path(&blob);
    let mut ours = tokio::time::timeout(AT_ONCE, two.mirror.open(&path))
        .await
        .expect("a client waited for another upstream than its own");
    assert!(ours.exactly(MIB / 2).await == blob.bytes[..MIB / 2]);
    // All of the wrong ones come, are found out, and are broken off.
    more.open();
    let (_, ending) = theirs.rest().await;
    assert_eq!(ending, Ending::Broken);
    gate.open();
    ours.assert_rest_equals(&blob.bytes[MIB / 2..]).await;
    two.mirror.wait_for_fills().await;
    let hit = two.mirror.get(&path).await;
    hit.assert_bytes(200, &blob.bytes);
    assert_eq!(hit.header("cache-status"), "roadstead; hit");
    assert_eq!(two.right.counters().blob_gets(&blob.digest), 1);
}

/// (f) What was left of the other upstream's transfer was taken up by the next one of whomever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_upstream_left_half_done_is_nothing_to_another() {
    let short_drain = Duration::from_millis(200);
    let mut two =
        Two::with(|builder| builder.with(|config| config.server.drain_timeout = short_drain)).await;
    let blob = Blob::noise(907, 2 * MIB);
    let (theirs, _gate) = wrong_half_way(&two, &blob).await;
    drop(theirs);
    two.mirror = two.mirror.restart().await;
    let left = std::fs::read_dir(two.mirror.store().join("fills/sha256")).unwrap();
    assert_eq!(left.count(), 2, "a partial file and its record");
    let path = Two::right_path(&blob);
    let range = two.at_once(&path, &[("range", "bytes=100-199")]).await;
    range.assert_bytes(206, &blob.bytes[100..200]);
    two.at_once(&path, &[]).await.assert_bytes(200, &blob.bytes);
    two.mirror.wait_for_fills().await;
    assert_eq!(
        two.right.counters().sent(&blob.digest),
        blob.bytes.len() as u64,
        "all of it came from the one whose it is"
    );
    two.mirror
        .get(&Two::other_path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
    assert_eq!(
        two.other.counters().blob_heads(&blob.digest),
        1,
        "what is stored is its repository's by its own word"
    );
}

/// Partial files of the version before this one do not say whose they are: they are nobody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_files_that_are_nobodys_are_deleted() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(908, MIB);
    registry.put_blob("team/app", &blob);
    let mirror = MirrorBuilder::of(&registry).start().await;
    let hex = blob.digest.strip_prefix("sha256:").unwrap().to_owned();
    let mirror = mirror
        .restart_after(|dir| {
            let fills = dir.join("fills/sha256");
            let record = r#"{"total":1048576,"coverage":[[0,500000]]}"#;
            std::fs::write(fills.join(format!("{hex}.part")), vec![7; 500_000]).unwrap();
            std::fs::write(fills.join(format!("{hex}.cov")), record).unwrap();
        })
        .await;
    let left = std::fs::read_dir(mirror.store().join("fills/sha256")).unwrap();
    assert_eq!(left.count(), 0);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    let range = mirror.get_with(&path, &[("range", "bytes=0-99")]).await;
    range.assert_bytes(206, &blob.bytes[..100]);
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
}

/// Both are right and come at the same time: each upstream is asked, one file is kept, and counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_are_right_one_is_kept() {
    let two = Two::new().await;
    let blob = Blob::noise(909, 2 * MIB);
    let gates =
        [(&two.right, "team/app"), (&two.other, "org/app")].map(|(registry, repository)| {
            registry.put_blob(repository, &blob);
            let gate = registry.gate(&blob.digest);
            gate.release(MIB);
            gate
        });
    let mut ours = two.mirror.open(&Two::right_path(&blob)).await;
    let mut theirs = two.mirror.open(&Two::other_path(&blob)).await;
    ours.exactly(1000).await;
    theirs.exactly(1000).await;
    for gate in &gates {
        gate.open();
    }
    let rest = &blob.bytes[1000..];
    tokio::join!(
        ours.assert_rest_equals(rest),
        theirs.assert_rest_equals(rest)
    );
    two.mirror.wait_for_fills().await;
    for (registry, path) in [
        (&two.right, Two::right_path(&blob)),
        (&two.other, Two::other_path(&blob)),
    ] {
        let hit = two.mirror.get(&path).await;
        hit.assert_bytes(200, &blob.bytes);
        assert_eq!(hit.header("cache-status"), "roadstead; hit");
        let counters = registry.counters();
        let asked = (
            counters.blob_gets(&blob.digest),
            counters.blob_heads(&blob.digest),
        );
        assert_eq!(asked, (1, 0));
    }
    assert_counted(&two, &blob).await;
}

/// One after the other, what both have is fetched once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_not_fetched_from_the_next_upstream() {
    let two = Two::new().await;
    let blob = Blob::noise(910, MIB);
    two.right.put_blob("team/app", &blob);
    two.other.put_blob("org/app", &blob);
    let path = Two::right_path(&blob);
    two.mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    two.mirror.wait_for_fills().await;
    for _ in 0..2 {
        let hit = two.mirror.get(&Two::other_path(&blob)).await;
        hit.assert_bytes(200, &blob.bytes);
        assert_eq!(hit.header("cache-status"), "roadstead; hit");
    }
    let counters = two.other.counters();
    assert_eq!(counters.blob_gets(&blob.digest), 0);
    assert_eq!(counters.blob_heads(&blob.digest), 1);
}

/// The store has this blob alone, whole, and nothing is reserved or left over.
async fn assert_counted(two: &Two, blob: &Blob) {
    let answer = two.mirror.admin.get("/api/v1/status").await;
    let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let cache = &status["cache"];
    let size = blob.bytes.len() as u64;
    assert_eq!(cache["blobs"], 1, "{cache}");
    assert_eq!(cache["blob_bytes"], size, "{cache}");
    assert_eq!(cache["reserved_bytes"], 0, "{cache}");
    let left = std::fs::read_dir(two.mirror.store().join("fills/sha256")).unwrap();
    assert_eq!(left.count(), 0, "no partial file is left");
    let stored = std::fs::read(two.mirror.blob_path(&blob.digest)).unwrap();
    assert!(stored == blob.bytes, "the stored file");
}
