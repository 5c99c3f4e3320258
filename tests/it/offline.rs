//! Without upstream: what is cached is served, what is not fails fast and
//! with the right error.

use std::path::Path;
use std::time::Duration;

use crate::common::fake_registry::refused_port;
use crate::common::images::{self, Blob};
use crate::common::mirror::TTL;
use crate::common::{
    Dialect, FakeRegistry, Fault, Image, Kind, Manifest, Mirror, MirrorBuilder, Rule,
};
use http::Method;
use tokio::time::Instant;

/// containerd gives up after 30 s; a fallback is only of use well before.
const ANSWER_MAX: Duration = Duration::from_secs(10);

struct World {
    registry: FakeRegistry,
    mirror: Mirror,
    image: Image,
    index: Manifest,
}

/// A two-platform tag of which one platform has been pulled.
async fn pulled() -> World {
    let registry = FakeRegistry::start().await;
    let image = images::image(71, &[1000, 200_000, 0], Dialect::Oci);
    let arm = images::image(72, &[1000], Dialect::Oci);
    let index = images::index(&[(&image, "amd64"), (&arm, "arm64")], Dialect::Oci);
    registry.put_image("team/app", None, &image);
    registry.put_image("team/app", None, &arm);
    registry.put_manifest("team/app", Some("v1"), &index);
    let mirror = Mirror::of(&registry).await;
    let world = World {
        registry,
        mirror,
        image,
        index,
    };
    world.pull_whole().await;
    world.mirror.wait_for_fills().await;
    world.registry.reset();
    world
}

impl World {
    async fn pull_whole(&self) {
        let mirror = &self.mirror;
        mirror
            .get("/v2/team/app/manifests/v1")
            .await
            .assert_bytes(200, &self.index.bytes);
        assert_eq!(mirror.head("/v2/team/app/manifests/v1").await.status, 200);
        for manifest in [&self.index, &self.image.manifest] {
            let path = format!("/v2/team/app/manifests/{}", manifest.digest);
            mirror.get(&path).await.assert_bytes(200, &manifest.bytes);
        }
        for blob in self.image.blobs() {
            let path = format!("/v2/team/app/blobs/{}", blob.digest);
            mirror.get(&path).await.assert_bytes(200, &blob.bytes);
            assert_eq!(mirror.head(&path).await.status, 200);
        }
    }

    async fn restarted(self, meddle: impl FnOnce(&Path)) -> Self {
        Self {
            mirror: self.mirror.restart_after(meddle).await,
            ..self
        }
    }

    fn blob_gets(&self) -> usize {
        self.registry.counters().of(&Method::GET, Kind::Blob)
    }
}

/// goharbor/harbor#14822, #18270, #22490: upstream offline, cached copy not served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_image_is_served_without_upstream() {
    let world = pulled().await;
    world.registry.go_down().await;
    world.pull_whole().await;
    // Over a restart, and with the tag long stale.
    let world = world.restarted(|_| {}).await;
    world.pull_whole().await;
    world.mirror.clock.advance(TTL * 10);
    world.pull_whole().await;
    let stale = world.mirror.get("/v2/team/app/manifests/v1").await;
    assert_eq!(stale.header("cache-status"), "roadstead; fwd=stale");
}

/// distribution#4038, #1435: no start without internet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_without_upstream_and_fails_fast() {
    let (_kept, address) = refused_port().unwrap();
    let mirror = MirrorBuilder::new()
        .upstream_at("docker.io", &format!("http://{address}"), |upstream| {
            upstream.default = true;
        })
        .start()
        .await;
    assert_eq!(mirror.get("/v2/").await.status, 200);
    assert_eq!(mirror.admin.get("/readyz").await.status, 200);
    let digest = images::sha256(b"x");
    for path in [
        "/v2/team/app/manifests/v1".to_owned(),
        format!("/v2/team/app/manifests/{digest}"),
        format!("/v2/team/app/blobs/{digest}"),
        "/v2/team/app/tags/list".to_owned(),
        format!("/v2/team/app/referrers/{digest}"),
    ] {
        let started = Instant::now();
        let answer = mirror.get(&path).await;
        assert!(
            matches!(answer.status, 502 | 504),
            "{path}: {}",
            answer.status
        );
        answer.code();
        assert!(
            started.elapsed() < ANSWER_MAX,
            "{path} took {:?}",
            started.elapsed()
        );
    }
}

/// gardener/gardener#8554: a dead mirror costs 30 s for each request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_never_answers_is_a_timeout() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(73, 1000);
    registry.put_blob("team/app", &blob);
    for kind in [Kind::Manifest, Kind::Blob, Kind::Tags, Kind::Referrers] {
        registry.fault(Rule::all(kind), Fault::Hang);
    }
    let mirror = Mirror::of(&registry).await;
    let digest = &blob.digest;
    let paths = [
        "/v2/team/app/manifests/v1".to_owned(),
        format!("/v2/team/app/blobs/{digest}"),
        "/v2/team/app/tags/list".to_owned(),
        format!("/v2/team/app/referrers/{digest}"),
    ];
    let asked = paths.iter().map(async |path| {
        let started = Instant::now();
        let answer = mirror.get(path).await;
        assert!(
            matches!(answer.status, 502 | 504),
            "{path}: {}",
            answer.status
        );
        assert!(
            started.elapsed() < ANSWER_MAX,
            "{path} took {:?}",
            started.elapsed()
        );
    });
    futures_util::future::join_all(asked).await;
    registry.heal();
    let path = format!("/v2/team/app/blobs/{digest}");
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
}

/// An upstream that stops in the middle of a blob ends the body, it does not hang it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_stalls_in_a_blob_ends_it() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(74, 500_000);
    registry.put_blob("team/app", &blob);
    let gate = registry.gate(&blob.digest);
    gate.release(3 * 64 * 1024);
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    mirror.get(&path).await.assert_no_clean_success();
    gate.open();
    mirror.wait_for_fills().await;
    let answer = mirror.get_when_spared_no_more(&path).await;
    answer.assert_bytes(200, &blob.bytes);
}

/// rancher/rke2#5754: 500 instead of 404 stops the client's fallback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_404_stays_404() {
    let world = pulled().await;
    let digest = images::sha256(b"nobody has this");
    for path in [
        "/v2/team/app/manifests/none".to_owned(),
        format!("/v2/team/app/manifests/{digest}"),
        format!("/v2/team/app/blobs/{digest}"),
        "/v2/team/nowhere/manifests/v1".to_owned(),
        "/v2/team/nowhere/tags/list".to_owned(),
    ] {
        assert_eq!(world.mirror.get(&path).await.status, 404, "{path}");
        assert_eq!(world.mirror.head(&path).await.status, 404, "{path}");
    }
}

/// quay/quay PR#5877, distribution#4191: index and files disagree. The files are what counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_can_be_deleted() {
    let world = pulled().await;
    let world = world
        .restarted(|dir| {
            let index = dir.join("index.redb");
            assert!(index.exists(), "DESIGN section 5 names the file");
            std::fs::remove_file(index).unwrap();
        })
        .await;
    world.pull_whole().await;
    assert_eq!(world.blob_gets(), 0, "the blobs were on disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_can_be_garbage() {
    for garbage in [&b""[..], b"this is no database", &[0xa5; 10_000]] {
        let world = pulled().await;
        let world = world
            .restarted(|dir| std::fs::write(dir.join("index.redb"), garbage).unwrap())
            .await;
        world.pull_whole().await;
        assert_eq!(world.blob_gets(), 0, "the blobs were on disk");
    }
}
