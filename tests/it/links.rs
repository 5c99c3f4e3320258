//! A cached blob is served in a repository only where a link says that the
//! repository has it (distribution#1899 for private content).

use crate::common::images::{self, Blob};
use crate::common::{Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_blob_is_not_everybodys() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(61, 100_000);
    registry.put_blob("team/private", &blob);
    registry.put_blob("team/shared", &blob);
    registry.put_blob("team/public", &Blob::of("something else"));
    let mirror = Mirror::of(&registry).await;
    let path = |repository: &str| format!("/v2/{repository}/blobs/{}", blob.digest);
    mirror
        .get(&path("team/private"))
        .await
        .assert_bytes(200, &blob.bytes);
    mirror.wait_for_fills().await;
    for _ in 0..2 {
        let refused = mirror.get(&path("team/public")).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (404, "BLOB_UNKNOWN")
        );
        assert_eq!(mirror.head(&path("team/public")).await.status, 404);
    }
    mirror
        .get(&path("team/shared"))
        .await
        .assert_bytes(200, &blob.bytes);
    mirror
        .get(&path("team/shared"))
        .await
        .assert_bytes(200, &blob.bytes);
    let counters = registry.counters();
    let at = |repository: &str, method: http::Method| {
        counters.count(|record| record.repository == repository && record.method == method)
    };
    assert_eq!(
        at("team/shared", http::Method::HEAD),
        1,
        "one HEAD makes the link, for good"
    );
    assert_eq!(at("team/shared", http::Method::GET), 0);
    assert_eq!(counters.sent(&blob.digest), blob.bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_in_flight_is_not_everybodys() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(62, 1_000_000);
    registry.put_blob("team/private", &blob);
    registry.put_blob("team/public", &Blob::of("something else"));
    let gate = registry.gate(&blob.digest);
    let mirror = Mirror::of(&registry).await;
    gate.release(500_000);
    let mut reader = mirror
        .open(&format!("/v2/team/private/blobs/{}", blob.digest))
        .await;
    reader.exactly(10).await;
    let refused = mirror
        .get(&format!("/v2/team/public/blobs/{}", blob.digest))
        .await;
    assert_eq!(refused.status, 404);
    gate.open();
    reader.assert_rest_equals(&blob.bytes[10..]).await;
}

/// The same across upstreams, for manifests too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_manifest_is_not_everybodys() {
    let hub = FakeRegistry::start().await;
    let ghcr = FakeRegistry::start().await;
    let image = images::image(63, &[1000], Dialect::Oci);
    hub.put_image("team/app", Some("v1"), &image);
    ghcr.put_blob("team/app", &Blob::of("something else"));
    let mirror = MirrorBuilder::of(&hub)
        .upstream("ghcr.io", &ghcr, |_| {})
        .start()
        .await;
    let path = format!("/v2/team/app/manifests/{}", image.manifest.digest);
    mirror
        .get(&path)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    let elsewhere = format!("{path}?ns=ghcr.io");
    assert_eq!(mirror.get(&elsewhere).await.status, 404);
    assert_eq!(mirror.head(&elsewhere).await.status, 404);
}

/// Links are kept over a restart, so that what is cached is served with upstream gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_survive_a_restart() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(64, 10_000);
    registry.put_blob("team/app", &blob);
    registry.put_blob("team/other", &Blob::of("something else"));
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    mirror.wait_for_fills().await;
    let mirror = mirror.restart().await;
    registry.go_down().await;
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    let unknown = mirror
        .get(&format!("/v2/team/other/blobs/{}", blob.digest))
        .await;
    assert!(
        matches!(unknown.status, 502..=504),
        "no link, nobody to ask: {}",
        unknown.status
    );
}

/// A refusal while making a link is a refusal, not a hit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_link_without_upstreams_word() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(65, 10_000);
    registry.put_blob("team/one", &blob);
    registry.put_blob("team/two", &blob);
    let mirror = Mirror::of(&registry).await;
    mirror
        .get(&format!("/v2/team/one/blobs/{}", blob.digest))
        .await
        .assert_bytes(200, &blob.bytes);
    mirror.wait_for_fills().await;
    let path = format!("/v2/team/two/blobs/{}", blob.digest);
    for status in [401, 403, 500] {
        registry.fault(Rule::all(Kind::Blob), Fault::Status(status));
        let refused = mirror.get(&path).await;
        assert!(refused.status >= 400, "{status} became {}", refused.status);
        registry.heal();
    }
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
}
