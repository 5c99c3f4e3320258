//! Tags move, digests do not: how long a tag is believed, and what happens
//! when upstream cannot be asked.

use std::time::Duration;

use crate::common::images::{self, Blob, DOCKER_MANIFEST, OCI_MANIFEST};
use crate::common::mirror::{STALE_IF_ERROR, TTL};
use crate::common::{
    Answer, Dialect, FakeRegistry, Fault, Image, Kind, Mirror, MirrorBuilder, Rule,
};
use http::Method;
use roadstead::mirror::Ttl;

const TAG: &str = "/v2/team/app/manifests/v1";
const SECOND: Duration = Duration::from_secs(1);
/// Longer than a failed upstream is left alone, Retry-After included.
const SPARED: Duration = Duration::from_mins(1);
const SHORT_OF_TTL: Duration = Duration::from_secs(59);

struct World {
    registry: FakeRegistry,
    mirror: Mirror,
    old: Image,
    new: Image,
}

/// `app:v1` is cached; a newer image is at hand.
async fn world() -> World {
    let registry = FakeRegistry::start().await;
    let old = images::image(41, &[1000], Dialect::Oci);
    let new = images::image(42, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &old);
    let mirror = Mirror::of(&registry).await;
    mirror.get(TAG).await.assert_bytes(200, &old.manifest.bytes);
    registry.reset();
    World {
        registry,
        mirror,
        old,
        new,
    }
}

impl World {
    fn asked(&self) -> (usize, usize) {
        let counters = self.registry.counters();
        (
            counters.of(&Method::HEAD, Kind::Manifest),
            counters.of(&Method::GET, Kind::Manifest),
        )
    }

    fn move_tag(&self) {
        self.registry.put_image("team/app", Some("v1"), &self.new);
    }

    #[track_caller]
    fn assert_stale(&self, answer: &Answer) {
        answer.assert_bytes(200, &self.old.manifest.bytes);
        assert_eq!(answer.header("cache-status"), "roadstead; fwd=stale");
        let warned = answer
            .all("warning")
            .iter()
            .any(|text| text.starts_with("110"));
        assert!(warned, "no Warning 110: {:?}", answer.headers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_tag_is_answered_without_asking() {
    let world = world().await;
    world.move_tag();
    world.mirror.clock.advance(SHORT_OF_TTL);
    let answer = world.mirror.get(TAG).await;
    answer.assert_bytes(200, &world.old.manifest.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; hit");
    assert_eq!(world.mirror.head(TAG).await.status, 200);
    assert_eq!(world.asked(), (0, 0));
}

/// HEAD costs no Docker Hub quota; GET does (distribution#4050).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_tag_is_revalidated_by_head() {
    let world = world().await;
    world.mirror.clock.advance(TTL + SECOND);
    world
        .mirror
        .get(TAG)
        .await
        .assert_bytes(200, &world.old.manifest.bytes);
    assert_eq!(world.asked(), (1, 0));
    // And it is fresh again.
    world.mirror.clock.advance(SHORT_OF_TTL);
    world
        .mirror
        .get(TAG)
        .await
        .assert_bytes(200, &world.old.manifest.bytes);
    assert_eq!(world.asked(), (1, 0));
}

/// Azure/acr#765, Datura-ai/lium-io PR#1359: a cached tag never moved again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_tag_is_followed() {
    let world = world().await;
    world.move_tag();
    world.mirror.clock.advance(TTL + SECOND);
    let answer = world.mirror.get(TAG).await;
    answer.assert_bytes(200, &world.new.manifest.bytes);
    assert_eq!(
        answer.header("docker-content-digest"),
        world.new.manifest.digest
    );
    assert_eq!(world.asked(), (1, 1));
    // The old digest has no lifetime.
    let old = format!("/v2/team/app/manifests/{}", world.old.manifest.digest);
    world
        .mirror
        .get(&old)
        .await
        .assert_bytes(200, &world.old.manifest.bytes);
    assert_eq!(world.asked(), (1, 1));
}

/// goharbor/harbor#14822, #19899: upstream is down or limits us, the cached copy was not served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_served_stale_when_upstream_cannot_answer() {
    let world = world().await;
    world.mirror.clock.advance(TTL + SECOND);
    world.move_tag();
    for status in [500, 502, 503, 429] {
        world
            .registry
            .fault(Rule::all(Kind::Manifest), Fault::Status(status));
        world.assert_stale(&world.mirror.get(TAG).await);
        let head = world.mirror.head(TAG).await;
        assert_eq!(
            (head.status, head.header("cache-status")),
            (200, "roadstead; fwd=stale")
        );
        world.registry.heal();
        // An upstream that has just failed may be spared for a while.
        world.mirror.clock.advance(SPARED);
    }
    world
        .registry
        .fault(Rule::all(Kind::Manifest), Fault::RateLimited(1));
    world.assert_stale(&world.mirror.get(TAG).await);
    world.registry.heal();
    world.mirror.clock.advance(SPARED);
    world.registry.go_down().await;
    world.assert_stale(&world.mirror.get(TAG).await);
    world.registry.come_back();
    world.mirror.clock.advance(SPARED);
    // A limit and a breaker run on real time; when they are over, the new one is seen.
    let seen = async {
        while world.mirror.get(TAG).await.header("cache-status") == "roadstead; fwd=stale" {
            world.mirror.clock.advance(SPARED);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    crate::common::within("the moved tag to be seen", seen).await;
    let answer = world.mirror.get(TAG).await;
    answer.assert_bytes(200, &world.new.manifest.bytes);
}

/// An upstream that never answers costs its time limit, not the pull
/// (gardener/gardener#8554: 30 s for each request).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_is_served_stale_when_upstream_hangs() {
    let world = world().await;
    world.mirror.clock.advance(TTL + SECOND);
    world.registry.fault(Rule::all(Kind::Manifest), Fault::Hang);
    let started = tokio::time::Instant::now();
    world.assert_stale(&world.mirror.get(TAG).await);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_has_an_end() {
    let world = world().await;
    world
        .registry
        .fault(Rule::all(Kind::Manifest), Fault::Status(503));
    world.mirror.clock.advance(SHORT_OF_TTL + STALE_IF_ERROR);
    world.assert_stale(&world.mirror.get(TAG).await);
    world.mirror.clock.advance(SECOND * 3);
    let answer = world.mirror.get(TAG).await;
    assert!(matches!(answer.status, 502..=504), "{}", answer.status);
    // The content is still there by its digest.
    let digest = format!("/v2/team/app/manifests/{}", world.old.manifest.digest);
    world
        .mirror
        .get(&digest)
        .await
        .assert_bytes(200, &world.old.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tag_is_gone_and_its_digest_stays() {
    let world = world().await;
    world.registry.delete_tag("team/app", "v1");
    world.mirror.clock.advance(TTL + SECOND);
    let answer = world.mirror.get(TAG).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "MANIFEST_UNKNOWN")
    );
    // goharbor/harbor#22106: the cached image vanished with it.
    let digest = format!("/v2/team/app/manifests/{}", world.old.manifest.digest);
    world
        .mirror
        .get(&digest)
        .await
        .assert_bytes(200, &world.old.manifest.bytes);
}

/// A repository that was made private is not served on from the cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_tag_is_not_served_stale() {
    for status in [401, 403] {
        let world = world().await;
        world.mirror.clock.advance(TTL + SECOND);
        world
            .registry
            .fault(Rule::all(Kind::Manifest), Fault::Status(status));
        let answer = world.mirror.get(TAG).await;
        assert!(answer.status >= 400, "{status} became {}", answer.status);
        assert_ne!(answer.header("cache-status"), "roadstead; fwd=stale");
    }
}

/// spegel-org/spegel#1378: HEAD of a tag said 200, GET by digest said 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_head_promises_is_served_by_digest() {
    let registry = FakeRegistry::start().await;
    let image = images::image(43, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = Mirror::of(&registry).await;
    let head = mirror.head(TAG).await;
    assert_eq!(head.status, 200);
    assert_eq!(
        head.header("content-length"),
        image.manifest.bytes.len().to_string()
    );
    let digest = head.header("docker-content-digest").to_owned();
    assert_eq!(digest, image.manifest.digest);
    registry.go_down().await;
    let path = format!("/v2/team/app/manifests/{digest}");
    mirror
        .get(&path)
        .await
        .assert_bytes(200, &image.manifest.bytes);
}

/// The way a client pulls: tag, then digest, then children; each costs upstream one request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_pull_asks_for_each_thing_once() {
    let registry = FakeRegistry::start().await;
    let amd = images::image(44, &[3000, 100_000], Dialect::Oci);
    let arm = images::image(45, &[2000], Dialect::Oci);
    let index = images::index(&[(&amd, "amd64"), (&arm, "arm64")], Dialect::Oci);
    registry.put_image("team/app", None, &amd);
    registry.put_image("team/app", None, &arm);
    registry.put_manifest("team/app", Some("v1"), &index);
    let mirror = Mirror::of(&registry).await;
    for _ in 0..2 {
        assert_eq!(
            mirror.head(TAG).await.header("docker-content-digest"),
            index.digest
        );
        mirror.get(TAG).await.assert_bytes(200, &index.bytes);
        for manifest in [&index, &amd.manifest] {
            let path = format!("/v2/team/app/manifests/{}", manifest.digest);
            mirror.get(&path).await.assert_bytes(200, &manifest.bytes);
        }
        for blob in amd.blobs() {
            let path = format!("/v2/team/app/blobs/{}", blob.digest);
            mirror.get(&path).await.assert_bytes(200, &blob.bytes);
        }
        mirror.wait_for_fills().await;
    }
    let counters = registry.counters();
    assert_eq!(
        counters.of(&Method::GET, Kind::Manifest),
        2,
        "index and one manifest"
    );
    assert_eq!(
        counters.of(&Method::GET, Kind::Blob),
        3,
        "config and two layers"
    );
    assert_eq!(
        counters.of(&Method::HEAD, Kind::Blob),
        0,
        "the manifest made the links"
    );
    // project-zot/zot#3846: pulling one platform fetched all of them.
    assert_eq!(counters.manifest_gets(&arm.manifest.digest), 0);
}

/// `docker_registry2`#83, quay PR#1310: the digest header is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_without_digest_header_or_head() {
    for head in [true, false] {
        let registry = FakeRegistry::start().await;
        registry.options(|options| {
            options.digest_header = false;
            options.head = head;
        });
        let old = images::image(46, &[1000], Dialect::Oci);
        let new = images::image(47, &[1000], Dialect::Oci);
        registry.put_image("team/app", Some("v1"), &old);
        let mirror = Mirror::of(&registry).await;
        for image in [&old, &old, &new] {
            registry.put_image("team/app", Some("v1"), image);
            mirror.clock.advance(TTL + SECOND);
            let answer = mirror.head(TAG).await;
            assert_eq!(answer.status, 200);
            assert_eq!(
                answer.header("docker-content-digest"),
                image.manifest.digest
            );
            mirror
                .get(TAG)
                .await
                .assert_bytes(200, &image.manifest.bytes);
        }
    }
}

/// One tag, two representations: what a client gets depends on what it accepts, not on who came
/// first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accept_classes_are_kept_apart() {
    let registry = FakeRegistry::start().await;
    let oci = images::image(48, &[1000], Dialect::Oci);
    let docker = images::image(48, &[1000], Dialect::Docker);
    registry.put_variants("team/app", "v1", &[&oci.manifest, &docker.manifest]);
    let mirror = Mirror::of(&registry).await;
    for _ in 0..2 {
        for (media_type, image) in [(OCI_MANIFEST, &oci), (DOCKER_MANIFEST, &docker)] {
            let answer = mirror.get_with(TAG, &[("Accept", media_type)]).await;
            answer.assert_bytes(200, &image.manifest.bytes);
            assert_eq!(answer.header("content-type"), media_type);
        }
    }
    assert_eq!(registry.counters().of(&Method::GET, Kind::Manifest), 2);
    // However it is spelt, the same formats are the same class.
    let spelt = [(
        "Accept",
        "application/json;q=0.1,  application/vnd.oci.image.manifest.v1+json;q=0.9",
    )];
    mirror
        .get_with(TAG, &spelt)
        .await
        .assert_bytes(200, &oci.manifest.bytes);
}

/// Freshness survives a restart: a fleet that reboots does not stampede upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freshness_survives_a_restart() {
    let world = world().await;
    let World {
        registry,
        mirror,
        old,
        ..
    } = world;
    let mirror = mirror.restart().await;
    mirror.get(TAG).await.assert_bytes(200, &old.manifest.bytes);
    let counters = registry.counters();
    assert_eq!(counters.of(&Method::GET, Kind::Manifest), 0);
    mirror.clock.advance(TTL + SECOND);
    registry.go_down().await;
    let answer = mirror.get(TAG).await;
    answer.assert_bytes(200, &old.manifest.bytes);
    assert_eq!(answer.header("cache-status"), "roadstead; fwd=stale");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ttl_of_nothing_asks_every_time() {
    let registry = FakeRegistry::start().await;
    let image = images::image(49, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    registry.put_blob("team/app", &Blob::of("x"));
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.tags.defaults.ttl = Ttl::For(Duration::ZERO))
        .start()
        .await;
    for _ in 0..3 {
        mirror
            .get(TAG)
            .await
            .assert_bytes(200, &image.manifest.bytes);
        mirror.clock.advance(SECOND);
    }
    assert_eq!(registry.counters().of(&Method::GET, Kind::Manifest), 1);
    assert!(registry.counters().of(&Method::HEAD, Kind::Manifest) >= 2);
}
