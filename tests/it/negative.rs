//! What is not there, and lists: asked once for all who want to know.

use std::sync::Arc;
use std::time::Duration;

use crate::common::images;
use crate::common::{
    Answer, Dialect, FakeRegistry, Fault, Image, Kind, Mirror, MirrorBuilder, Rule,
};
use futures_util::future::join_all;
use http::Method;
use tokio::sync::Semaphore;

const TAG: &str = "/v2/team/app/manifests/v1";
const SECOND: Duration = Duration::from_secs(1);
const NEGATIVE_TTL: Duration = Duration::from_secs(10);
const SHORT_OF_NEGATIVE_TTL: Duration = Duration::from_secs(9);

/// Manifests asked for, by HEAD and by GET.
fn asked(registry: &FakeRegistry) -> (usize, usize) {
    let counters = registry.counters();
    (
        counters.of(&Method::HEAD, Kind::Manifest),
        counters.of(&Method::GET, Kind::Manifest),
    )
}

fn by_digest(image: &Image) -> String {
    format!("/v2/team/app/manifests/{}", image.manifest.digest)
}

/// A misspelt name in a `DaemonSet`: every node asks, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_asked_for_once() {
    let registry = FakeRegistry::start().await;
    registry.options(|options| options.referrers = false);
    let image = images::image(66, &[1000], Dialect::Oci);
    let other = images::image(67, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v2"), &other);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.tags.defaults.negative_ttl = NEGATIVE_TTL)
        .start()
        .await;
    let digest = &image.manifest.digest;
    for (path, cost) in [
        (TAG.to_owned(), 1),
        (by_digest(&image), 1),
        ("/v2/team/misspelt/tags/list?n=5".to_owned(), 1),
        // The API, and the tag that stands in for it.
        (format!("/v2/team/app/referrers/{digest}"), 2),
    ] {
        let requests = || registry.counters().records.len();
        registry.reset();
        let answers = join_all((0..50).map(|_| mirror.get(&path))).await;
        mirror.clock.advance(SHORT_OF_NEGATIVE_TTL);
        let later = join_all((0..50).map(|_| mirror.get(&path))).await;
        for answer in answers.iter().chain(&later) {
            assert_eq!(answer.status, 404, "{path}");
            assert_eq!(answer.code(), answers[0].code(), "{path}");
        }
        assert_eq!(requests(), cost, "{path}");
        mirror.clock.advance(SECOND);
        assert_eq!(mirror.get(&path).await.status, 404);
        assert_eq!(requests(), 2 * cost, "{path}: it is believed no longer");
    }
    // HEAD and GET of a manifest are one question.
    registry.reset();
    mirror.clock.advance(NEGATIVE_TTL);
    assert_eq!(mirror.head(TAG).await.status, 404);
    assert_eq!(mirror.get(TAG).await.status, 404);
    assert_eq!(asked(&registry), (0, 1));
    // Then it is pushed.
    registry.put_image("team/app", Some("v1"), &image);
    mirror.clock.advance(NEGATIVE_TTL);
    assert_eq!(mirror.get(TAG).await.status, 200);
    assert_eq!(mirror.get(&by_digest(&image)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_can_be_asked_each_time() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for asked_for in 1..=3 {
        assert_eq!(mirror.get(TAG).await.status, 404);
        assert_eq!(asked(&registry), (0, asked_for));
    }
}

/// That we are refused may end any moment, with a login; so it is no answer to keep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_not_remembered() {
    let registry = FakeRegistry::start().await;
    let image = images::image(68, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.tags.defaults.negative_ttl = NEGATIVE_TTL)
        .start()
        .await;
    for status in [401, 403] {
        registry.fault(Rule::all(Kind::Manifest), Fault::Status(status));
        assert_eq!(mirror.get(TAG).await.status, 403);
        registry.heal();
    }
    assert_eq!(mirror.get(TAG).await.status, 200);
}

/// What an index names is there, although it was asked for just before it was pushed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_clears_what_it_names() {
    let registry = FakeRegistry::start().await;
    let child = images::image(69, &[1000], Dialect::Oci);
    let index = images::index(&[(&child, "amd64")], Dialect::Oci);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| config.tags.defaults.negative_ttl = NEGATIVE_TTL)
        .start()
        .await;
    assert_eq!(mirror.get(&by_digest(&child)).await.status, 404);
    registry.put_image("team/app", None, &child);
    registry.put_manifest("team/app", Some("v1"), &index);
    assert_eq!(mirror.get(&by_digest(&child)).await.status, 404);
    mirror.get(TAG).await.assert_bytes(200, &index.bytes);
    let answer = mirror.get(&by_digest(&child)).await;
    answer.assert_bytes(200, &child.manifest.bytes);
}

/// Lists are not cached, but who asks at the same time shares an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_asked_once_for_all_who_ask_now() {
    let registry = FakeRegistry::start().await;
    let image = images::image(70, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = Mirror::of(&registry).await;
    let referrers = format!("/v2/team/app/referrers/{}", image.manifest.digest);
    for (kind, path) in [
        (Kind::Tags, "/v2/team/app/tags/list"),
        (Kind::Referrers, referrers.as_str()),
    ] {
        let gate = Arc::new(Semaphore::new(0));
        registry.fault(Rule::all(kind), Fault::Wait(Arc::clone(&gate)));
        let asking = join_all((0..20).map(|_| mirror.get(path)));
        let release = async {
            registry
                .wait_for("a question", |c| c.of(&Method::GET, kind) > 0)
                .await;
            // One who gives up, when all the others are on their way, takes nothing from them.
            let given_up = tokio::time::timeout(SECOND, mirror.get(path)).await;
            assert!(given_up.is_err(), "upstream has not answered yet");
            gate.add_permits(1);
        };
        let (answers, ()) = tokio::join!(asking, release);
        let collapsed = |answer: &&Answer| {
            assert_eq!(answer.status, 200, "{path}");
            answer.header("cache-status").contains("collapsed")
        };
        let collapsed = answers.iter().filter(collapsed).count();
        assert_eq!(collapsed, answers.len() - 1, "{path}");
        assert_eq!(registry.counters().of(&Method::GET, kind), 1, "{path}");
        assert_eq!(mirror.get(path).await.status, 200);
        assert_eq!(registry.counters().of(&Method::GET, kind), 2, "not cached");
    }
}

/// A blob that is not there, by GET and by HEAD, until a manifest says that it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_not_there_is_asked_for_once() {
    let image = images::image(74, &[1000], Dialect::Oci);
    let path = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    for head in [true, false] {
        let registry = FakeRegistry::start().await;
        let mirror = MirrorBuilder::of(&registry)
            .with(|config| config.tags.defaults.negative_ttl = NEGATIVE_TTL)
            .start()
            .await;
        let first = if head {
            mirror.head(&path).await
        } else {
            mirror.get(&path).await
        };
        assert_eq!(first.status, 404);
        for answer in join_all((0..50).map(|_| mirror.get(&path))).await {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (404, "BLOB_UNKNOWN")
            );
        }
        assert_eq!(mirror.head(&path).await.status, 404);
        assert_eq!(
            registry.counters().records.len(),
            1,
            "by HEAD first: {head}"
        );
        registry.put_image("team/app", Some("v1"), &image);
        assert_eq!(mirror.get(TAG).await.status, 200);
        let answer = mirror.get(&path).await;
        answer.assert_bytes(200, &image.layers[0].bytes);
    }
}
