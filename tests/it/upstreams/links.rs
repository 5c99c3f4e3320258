//! Cached content is a repository's by its upstream's word alone.

use serde_json::json;

use super::Two;
use crate::common::images::{self, Blob, Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::common::mirror::TTL;
use crate::common::{Dialect, Fault, Kind, Mirror, Rule};

const PRIVATE: &str = "/v2/team/private";
const OTHER: &str = "/v2/ghcr.io/org/app";

/// An image of the right upstream, all of it cached.
async fn cached(two: &Two) -> Image {
    let image = images::image(920, &[70_000, 3000], Dialect::Oci);
    two.right.put_image("team/private", Some("v1"), &image);
    pull(&two.mirror, PRIVATE, &image).await;
    image
}

async fn pull(mirror: &Mirror, base: &str, image: &Image) {
    let manifest = mirror.get(&format!("{base}/manifests/v1")).await;
    manifest.assert_bytes(200, &image.manifest.bytes);
    for blob in image.blobs() {
        let answer = mirror.get(&format!("{base}/blobs/{}", blob.digest)).await;
        answer.assert_bytes(200, &blob.bytes);
    }
    mirror.wait_for_fills().await;
}

/// A manifest that names what is another's.
fn naming(image: &Image) -> Manifest {
    let descriptor = |blob: &Blob, media_type: &str| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()});
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| descriptor(layer, "application/vnd.oci.image.layer.v1.tar"))
        .collect();
    let config = descriptor(&image.config, "application/vnd.oci.image.config.v1+json");
    Manifest::of(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
                "annotations": {"who": "somebody else"}}),
    )
}

fn index_naming(image: &Image) -> Manifest {
    Manifest::of(
        OCI_INDEX,
        &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            {"mediaType": OCI_MANIFEST, "digest": image.manifest.digest, "size": image.manifest.bytes.len()}]}),
    )
}

async fn assert_unknown(mirror: &Mirror, path: &str) {
    let refused = mirror.get(path).await;
    assert_eq!(refused.status, 404, "GET {path}");
    assert_eq!(mirror.head(path).await.status, 404, "HEAD {path}");
    let range = [("range", "bytes=0-9")];
    assert_eq!(mirror.get_with(path, &range).await.status, 404, "{path}");
}

/// A manifest that names a private layer was all it took to be given it, without a word of that upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_names_anothers_content_is_no_way_to_it() {
    let mut two = Two::new().await;
    let image = cached(&two).await;
    let (thief, list) = (naming(&image), index_naming(&image));
    two.other.put_manifest("org/app", Some("v1"), &thief);
    two.other.put_manifest("org/app", Some("list"), &list);
    for restarted in [false, true] {
        if restarted {
            two.mirror = two.mirror.restart().await;
        }
        for (tag, manifest) in [("v1", &thief), ("list", &list)] {
            let answer = two.mirror.get(&format!("{OTHER}/manifests/{tag}")).await;
            answer.assert_bytes(200, &manifest.bytes);
        }
        for blob in image.blobs() {
            assert_unknown(&two.mirror, &format!("{OTHER}/blobs/{}", blob.digest)).await;
        }
        let child = format!("{OTHER}/manifests/{}", image.manifest.digest);
        assert_unknown(&two.mirror, &child).await;
        // Nor is anything else of it a repository's of that upstream.
        let elsewhere = format!("/v2/ghcr.io/org/else/blobs/{}", image.layers[0].digest);
        assert_unknown(&two.mirror, &elsewhere).await;
        // Whose it is keeps it.
        pull(&two.mirror, PRIVATE, &image).await;
    }
}

/// What the other upstream has too is served by its word: asked once, for good, and never fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_have_takes_one_head() {
    let mut two = Two::new().await;
    let image = cached(&two).await;
    two.other.put_image("org/app", Some("v1"), &image);
    pull(&two.mirror, OTHER, &image).await;
    pull(&two.mirror, OTHER, &image).await;
    let counters = two.other.counters();
    for blob in image.blobs() {
        assert_eq!(counters.blob_heads(&blob.digest), 1);
        assert_eq!(counters.blob_gets(&blob.digest), 0);
    }
    two.mirror = two.mirror.restart().await;
    two.other.go_down().await;
    pull(&two.mirror, OTHER, &image).await;
}

/// Within one upstream, whose word it all is, a manifest makes links: a shared layer costs no question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_one_upstream_a_manifest_is_its_word() {
    let mut two = Two::new().await;
    let image = cached(&two).await;
    let other = naming(&image);
    for blob in image.blobs() {
        two.right.put_blob("team/second", blob);
    }
    two.right.put_manifest("team/second", Some("v1"), &other);
    for restarted in [false, true] {
        if restarted {
            two.mirror = two.mirror.restart().await;
        }
        let answer = two.mirror.get("/v2/team/second/manifests/v1").await;
        answer.assert_bytes(200, &other.bytes);
        for blob in image.blobs() {
            let path = format!("/v2/team/second/blobs/{}", blob.digest);
            let hit = two.mirror.get(&path).await;
            hit.assert_bytes(200, &blob.bytes);
            assert_eq!(hit.header("cache-status"), "roadstead; hit");
        }
    }
    let asked = |method: http::Method| {
        let counters = two.right.counters();
        counters.count(|it| {
            it.repository == "team/second" && it.kind == Kind::Blob && it.method == method
        })
    };
    assert_eq!(
        (asked(http::Method::HEAD), asked(http::Method::GET)),
        (0, 0)
    );
}

/// An ordinary pull costs what it did: each blob one GET, and no HEAD, the second time nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_asks_for_each_part_once() {
    let two = Two::new().await;
    let image = cached(&two).await;
    pull(&two.mirror, PRIVATE, &image).await;
    let counters = two.right.counters();
    assert_eq!(counters.records.len(), 1 + image.blobs().count());
    for blob in image.blobs() {
        assert_eq!(counters.blob_gets(&blob.digest), 1);
    }
}

/// A HEAD that says another's digest made the tag name it, and its content was served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_says_anothers_digest_is_no_way_to_it() {
    let two = Two::new().await;
    let image = cached(&two).await;
    let own = images::image(921, &[1000], Dialect::Oci);
    two.other.put_image("org/app", Some("v1"), &own);
    let tag = format!("{OTHER}/manifests/v1");
    two.mirror
        .get(&tag)
        .await
        .assert_bytes(200, &own.manifest.bytes);
    let says = |digest: &str| Fault::Answer {
        status: 200,
        headers: vec![
            ("content-type", OCI_MANIFEST.to_owned()),
            ("docker-content-digest", digest.to_owned()),
        ],
        body: String::new(),
    };
    two.other.fault(
        Rule::heads(Kind::Manifest).of("v1"),
        says(&image.manifest.digest),
    );
    two.mirror.clock.advance(TTL * 2);
    let answer = two.mirror.get(&tag).await;
    assert!(
        answer.body != image.manifest.bytes,
        "what is another's was served"
    );
    answer.assert_bytes(200, &own.manifest.bytes);
    assert_unknown(
        &two.mirror,
        &format!("{OTHER}/manifests/{}", image.manifest.digest),
    )
    .await;
    for blob in image.blobs() {
        assert_unknown(&two.mirror, &format!("{OTHER}/blobs/{}", blob.digest)).await;
    }
    // Asked for one digest, it says another: that is no word about the first.
    let rule = Rule::heads(Kind::Manifest).of(&image.manifest.digest);
    two.other.fault(rule, says(&own.manifest.digest));
    let path = format!("{OTHER}/manifests/{}", image.manifest.digest);
    assert_eq!(two.mirror.get(&path).await.status, 404);
}
