//! Ranges: of what is stored, of what is on its way, and of nothing at all.

use crate::common::images::{self, Blob};
use crate::common::{Answer, FakeRegistry, Mirror, MirrorBuilder};
use roadstead::store::Amount;
use std::ops::Range;

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

/// The ranges of the parts of an answer, whose bytes must be those of `content`, and its framing to the byte.
fn parts(answer: &Answer, content: &[u8]) -> Vec<Range<usize>> {
    crate::common::parts::of(answer, content)
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
    for asked in ["bytes=5-2", "lines=1-2", "bytes=a-b", "bytes"] {
        range(&mirror, &path, asked)
            .await
            .assert_bytes(200, &blob.bytes);
    }
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

/// podman, CRI-O and bootc ask so for the parts that they lack of a zstd:chunked layer, and used to get all of it. They
/// count the parts: each range that they name must be one, in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_of_a_stored_blob() {
    let blob = Blob::noise(37, SIZE);
    let (registry, mirror, path) = stored(&blob).await;
    let cases: [(&str, Vec<Range<usize>>); 8] = [
        ("bytes=0-1,5-9", vec![0..2, 5..10]),
        ("bytes=5-9, 0-1", vec![5..10, 0..2]),
        ("bytes=0-99,100-199", vec![0..100, 100..200]),
        ("bytes=-500,0-0", vec![SIZE - 500..SIZE, 0..1]),
        ("bytes=10-19,199990-", vec![10..20, SIZE - 10..SIZE]),
        (
            "bytes=0-99,199999-200005,300000-",
            vec![0..100, SIZE - 1..SIZE],
        ),
        ("bytes=50-99,0-9,60-120,100-150", vec![50..151, 0..10]),
        // Each byte once, be it all of them.
        ("bytes=0-99999,100000-", vec![0..100_000, 100_000..SIZE]),
    ];
    for (asked, expected) in cases {
        let answer = range(&mirror, &path, asked).await;
        assert_eq!(parts(&answer, &blob.bytes), expected, "{asked}");
        assert_eq!(answer.header("docker-content-digest"), blob.digest);
        assert_eq!(answer.header("cache-status"), "roadstead; hit");
        assert_eq!(answer.header("accept-ranges"), "bytes");
    }
    // Where one part is left, it is told as such.
    for (asked, part) in [
        ("bytes=0-9,5-14", 0..15),
        ("bytes=0-9,400000-", 0..10),
        ("bytes=7-7,7-7,7-7", 7..8),
    ] {
        let answer = range(&mirror, &path, asked).await;
        answer.assert_bytes(206, &blob.bytes[part.clone()]);
        let said = format!("bytes {}-{}/{SIZE}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), said, "{asked}");
    }
    let answer = range(&mirror, &path, "bytes=200000-,-0,300000-300001").await;
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), format!("bytes */{SIZE}"));
    // One that is wrong makes all of it meaningless; so does one more than anybody sends.
    let many = |count: usize| {
        let ranges: Vec<String> = (0..count).map(|at| format!("{0}-{0}", at * 3)).collect();
        format!("bytes={}", ranges.join(","))
    };
    for asked in ["bytes=0-1,5-2", "bytes=0-1,x", "lines=0-1,5-6", &many(1025)] {
        range(&mirror, &path, asked)
            .await
            .assert_bytes(200, &blob.bytes);
    }
    let answer = range(&mirror, &path, &many(1024)).await;
    let found = parts(&answer, &blob.bytes);
    assert_eq!(found.len(), 1024);
    assert_eq!(found[1023], 3069..3070);
    // The validators go before.
    let headers = [("Range", "bytes=0-1,5-9"), ("If-Range", "\"other\"")];
    let answer = mirror.get_with(&path, &headers).await;
    answer.assert_bytes(200, &blob.bytes);
    let etag = format!("\"{}\"", blob.digest);
    let headers = [("Range", "bytes=0-1,5-9"), ("If-Range", &etag)];
    let answer = mirror.get_with(&path, &headers).await;
    assert_eq!(parts(&answer, &blob.bytes), [0..2, 5..10]);
    let headers = [("Range", "bytes=0-1,5-9"), ("If-None-Match", &etag)];
    assert_eq!(mirror.get_with(&path, &headers).await.status, 304);
    let headers = [("Range", "bytes=0-1,5-9")];
    let answer = mirror.client.ask(http::Method::HEAD, &path, &headers).await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, "200000")
    );
    assert_eq!(registry.counters().blob_gets(&blob.digest), 1);
}

/// A boundary that whoever made the content could know would let it pretend to be other parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boundary_is_not_used_twice() {
    let blob = Blob::noise(38, SIZE);
    let (_registry, mirror, path) = stored(&blob).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let answer = range(&mirror, &path, "bytes=0-1,5-9").await;
        assert!(seen.insert(answer.header("content-type").to_owned()));
    }
}

/// A blob that cannot be stored is passed on, and so are parts of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_of_a_blob_that_cannot_be_stored() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(39, 3_000_000);
    registry.put_blob("team/app", &blob);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.cache.max_size = Amount::Bytes(1_000_000))
        .start()
        .await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    let answer = range(&mirror, &path, "bytes=100-199,2000000-2000099,-50").await;
    assert_eq!(answer.header("cache-status"), "roadstead; fwd=bypass");
    let expected = [100..200, 2_000_000..2_000_100, 2_999_950..3_000_000];
    assert_eq!(parts(&answer, &blob.bytes), expected);
    let sent = registry.counters().sent(&blob.digest);
    assert!(sent < 1_000_000, "{sent} bytes for 250");
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
