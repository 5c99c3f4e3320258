//! Ranges: of what is stored, of what is on its way, and of nothing at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test says what it expects by failing, and owns its files and tasks"
)]

mod common;

use common::images::{self, Blob};
use common::{Answer, FakeRegistry, Mirror};

const SIZE: usize = 200_000;

async fn stored(blob: &Blob) -> (FakeRegistry, Mirror, String) {
    let registry = FakeRegistry::start().await;
    registry.put_blob("team/app", blob);
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    mirror.wait_for_fills().await;
    (registry, mirror, path)
}

async fn range(mirror: &Mirror, path: &str, range: &str) -> Answer {
    mirror.get_with(path, &[("Range", range)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_a_stored_blob() {
    let blob = Blob::noise(31, SIZE);
    let (registry, mirror, path) = stored(&blob).await;
    let parts = [
        ("bytes=0-0", 0..1),
        ("bytes=0-99", 0..100),
        ("bytes=100-", 100..SIZE),
        ("bytes=199999-", SIZE - 1..SIZE),
        ("bytes=-1", SIZE - 1..SIZE),
        ("bytes=-500", SIZE - 500..SIZE),
        ("bytes=0-", 0..SIZE),
        ("bytes=0-99999999", 0..SIZE),
        ("bytes=-99999999", 0..SIZE),
        ("bytes=65536-131071", 65_536..131_072),
    ];
    for (asked, part) in parts {
        let answer = range(&mirror, &path, asked).await;
        answer.assert_bytes(206, &blob.bytes[part.clone()]);
        let said = format!("bytes {}-{}/{SIZE}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), said, "{asked}");
        assert_eq!(
            answer.header("content-length"),
            part.len().to_string(),
            "{asked}"
        );
        assert_eq!(
            answer.header("docker-content-digest"),
            blob.digest,
            "{asked}"
        );
        assert_eq!(answer.header("cache-status"), "roadstead; hit", "{asked}");
    }
    for asked in [
        "bytes=200000-",
        "bytes=200000-200001",
        "bytes=-0",
        "bytes=99999999999-",
    ] {
        let answer = range(&mirror, &path, asked).await;
        assert_eq!(answer.status, 416, "{asked}");
        assert_eq!(
            answer.header("content-range"),
            format!("bytes */{SIZE}"),
            "{asked}"
        );
    }
    // RFC 9110 section 14.2: what is not understood is ignored.
    for asked in [
        "bytes=5-2",
        "lines=1-2",
        "bytes=a-b",
        "bytes=0-1,5-9",
        "bytes",
    ] {
        range(&mirror, &path, asked)
            .await
            .assert_bytes(200, &blob.bytes);
    }
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_range_compares_the_digest() {
    let blob = Blob::noise(32, SIZE);
    let (_registry, mirror, path) = stored(&blob).await;
    let etag = format!("\"{}\"", blob.digest);
    let ask = async |if_range: &str| {
        let headers = [("Range", "bytes=10-19"), ("If-Range", if_range)];
        mirror.get_with(&path, &headers).await
    };
    ask(&etag).await.assert_bytes(206, &blob.bytes[10..20]);
    ask("\"something else\"")
        .await
        .assert_bytes(200, &blob.bytes);
    ask(&format!("W/{etag}"))
        .await
        .assert_bytes(200, &blob.bytes);
    ask("Wed, 21 Oct 2015 07:28:00 GMT")
        .await
        .assert_bytes(200, &blob.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sha512_blobs_are_checked_and_ranged() {
    let bytes = images::noise(33, SIZE);
    let blob = Blob {
        digest: images::sha512(&bytes),
        bytes,
    };
    let (registry, mirror, path) = stored(&blob).await;
    range(&mirror, &path, "bytes=5-9")
        .await
        .assert_bytes(206, &blob.bytes[5..10]);
    let other = images::sha512(b"other content");
    registry.put_bytes("team/app", &other, blob.bytes.clone());
    let wrong = mirror.get(&format!("/v2/team/app/blobs/{other}")).await;
    wrong.assert_no_clean_success();
}

/// distribution#3247, #1356: a zero-length blob was taken for one that is not there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zero_length_blobs() {
    let blob = Blob::of("");
    let (registry, mirror, path) = stored(&blob).await;
    let warm = mirror.get(&path).await;
    warm.assert_bytes(200, b"");
    assert_eq!(warm.header("content-length"), "0");
    assert_eq!(mirror.head(&path).await.header("content-length"), "0");
    let answer = range(&mirror, &path, "bytes=0-").await;
    assert_eq!(
        (answer.status, answer.header("content-range")),
        (416, "bytes */0")
    );
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
    let mirror = mirror.restart().await;
    mirror.get(&path).await.assert_bytes(200, b"");
}

/// goharbor/harbor#23875, distribution#4667: Range on a miss was ignored, or fetched the blob twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_a_blob_in_flight() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(34, 2_000_000);
    registry.put_blob("team/app", &blob);
    let gate = registry.gate(&blob.digest);
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    gate.release(1_000_000);
    let mut leader = mirror.open(&path).await;
    leader.exactly(1000).await;
    // Already there: served while the fill stands still.
    range(&mirror, &path, "bytes=100-199")
        .await
        .assert_bytes(206, &blob.bytes[100..200]);
    let early = range(&mirror, &path, "bytes=500000-599999").await;
    early.assert_bytes(206, &blob.bytes[500_000..600_000]);
    // Still ahead: waited for.
    let headers = [("Range", "bytes=1900000-")];
    let ahead = mirror.client.get_with(&path, &headers);
    let (ahead, ()) = tokio::join!(ahead, async { gate.open() });
    ahead.assert_bytes(206, &blob.bytes[1_900_000..]);
    leader.assert_rest_equals(&blob.bytes[1000..]).await;
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_a_cold_blob() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(35, SIZE);
    registry.put_blob("team/app", &blob);
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    let answer = range(&mirror, &path, "bytes=1000-1999").await;
    answer.assert_bytes(206, &blob.bytes[1000..2000]);
    assert_eq!(
        answer.header("content-range"),
        format!("bytes 1000-1999/{SIZE}")
    );
    mirror.wait_for_fills().await;
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    assert_eq!(
        registry.counters().sent(&blob.digest),
        SIZE as u64,
        "fetched twice"
    );
}

/// Whoever reads the last bytes of a stored blob over HEAD's word gets what HEAD said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_ignores_ranges() {
    let blob = Blob::noise(36, SIZE);
    let (_registry, mirror, path) = stored(&blob).await;
    let headers = [("Range", "bytes=0-9")];
    let answer = mirror.client.ask(http::Method::HEAD, &path, &headers).await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, "200000")
    );
}
