//! What goes wrong seldom and must still not show: one repository's lies about
//! another's content, leftovers of earlier runs, upstreams without HEAD, waits that add up.

use std::sync::Arc;
use std::time::Duration;

use crate::common::images::{self, Blob, OCI_MANIFEST, SCHEMA1_SIGNED};
use crate::common::mirror::{STALE_IF_ERROR, TTL, part_path};
use crate::common::{Dialect, FakeRegistry, Fault, Kind, Manifest, Mirror, MirrorBuilder, Rule};
use base64::Engine as _;
use http::Method;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// containerd waits 30 s for the head of an answer.
const CONTAINERD_WAIT: Duration = Duration::from_secs(30);

/// A document that schema 1 knows by the digest of `manifest`, around whose bytes it is built.
fn enveloped(manifest: &Manifest) -> Manifest {
    let base64 = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let text = std::str::from_utf8(&manifest.bytes).unwrap();
    let (head, tail) = text.split_at(text.rfind("\n}").unwrap());
    let protected = json!({"formatLength": head.len(), "formatTail": base64(tail)}).to_string();
    let signature = json!([{"protected": base64(&protected), "signature": "x"}]);
    Manifest {
        digest: manifest.digest.clone(),
        media_type: SCHEMA1_SIGNED.to_owned(),
        bytes: format!("{head},\n\"signatures\": {signature}{tail}").into(),
    }
}

/// The digest of signed schema 1 is not that of its bytes, so whoever writes one chooses the digest:
/// what another repository has under that digest must not be touched by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_1_envelope_does_not_pass_for_what_it_wraps() {
    let (hub, evil) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = images::image(1, &[1000], Dialect::Oci);
    hub.put_image("team/app", Some("v1"), &image);
    evil.put_manifest("evil/app", Some("v1"), &enveloped(&image.manifest));
    let mirror = MirrorBuilder::of(&hub)
        .upstream("evil.example", &evil, |_| {})
        .start()
        .await;
    let lie = mirror
        .get("/v2/evil/app/manifests/v1?ns=evil.example")
        .await;
    // By its bytes it is an OCI manifest of another digest than the one that upstream announces.
    assert_eq!(lie.status, 502);
    let answer = mirror
        .get(&format!("/v2/team/app/manifests/{}", image.manifest.digest))
        .await;
    answer.assert_bytes(200, &image.manifest.bytes);
    assert_eq!(answer.header("content-type"), OCI_MANIFEST);
}

/// One manifest with a wrong size in it must not keep the blob from all others for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_size_in_a_manifest_does_not_last() {
    for wrong in [0_u64, 5, 400_000, 1 << 60] {
        for content_length in [true, false] {
            let registry = FakeRegistry::start().await;
            registry.options(|options| options.content_length = content_length);
            let image = images::image(2, &[300_000], Dialect::Oci);
            let layer = &image.layers[0];
            registry.put_image("team/app", Some("v1"), &image);
            let liar = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                "config": {"mediaType": "a/b", "digest": image.config.digest, "size": 2},
                "layers": [{"mediaType": "a/b", "digest": layer.digest, "size": wrong}]});
            registry.put_manifest("team/app", Some("v2"), &Manifest::of(OCI_MANIFEST, &liar));
            let mirror = Mirror::of(&registry).await;
            for tag in ["v1", "v2"] {
                let path = format!("/v2/team/app/manifests/{tag}");
                assert_eq!(mirror.get(&path).await.status, 200);
            }
            let path = format!("/v2/team/app/blobs/{}", layer.digest);
            // The first may fail: one of the two is wrong, and only the digest can say which.
            mirror.get(&path).await;
            mirror.wait_for_fills().await;
            println!("size {wrong}, content_length {content_length}");
            let again = mirror.get(&path).await;
            assert_eq!(again.status, 200, "size {wrong}");
            again.assert_bytes(200, &layer.bytes);
        }
    }
}

/// A partial file that has everything, or more than there is, is no reason to fail: upstream's 416 says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leftover_that_upstream_will_not_continue_is_begun_again() {
    let blob = Blob::noise(3, 300_000);
    for extra in [0, 10_000] {
        let registry = FakeRegistry::start().await;
        registry.put_blob("team/app", &blob);
        let mirror = Mirror::of(&registry).await;
        let mut bytes = blob.bytes.to_vec();
        bytes.resize(bytes.len() + extra, 7);
        let mirror = mirror
            .restart_after(|dir| {
                let part = part_path(dir, "docker.io", &blob.digest);
                let record = json!({"total": null, "coverage": [[0, bytes.len()]]});
                std::fs::write(&part, &bytes).unwrap();
                std::fs::write(part.with_extension("cov"), record.to_string()).unwrap();
            })
            .await;
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
        mirror.wait_for_fills().await;
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
        let file = std::fs::metadata(mirror.blob_path(&blob.digest)).unwrap();
        assert_eq!(file.len(), blob.bytes.len() as u64);
    }
}

/// Some registries answer HEAD of a blob with 405; what one client gets, the next one gets too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_joins_the_same_repositorys_fill_needs_no_head() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(4, 300_000);
    registry.put_blob("team/app", &blob);
    let gate = registry.gate(&blob.digest);
    gate.release(200_000);
    let mirror = Mirror::of(&registry).await;
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    let mut first = mirror.open(&path).await;
    first.exactly(1).await;
    let mut second = mirror.open(&path).await;
    assert_eq!(second.status, 200);
    second.exactly(1).await;
    gate.open();
    first.assert_rest_equals(&blob.bytes[1..]).await;
    second.assert_rest_equals(&blob.bytes[1..]).await;
    assert_eq!(registry.counters().blob_heads(&blob.digest), 0);
}

/// Without HEAD, GET must tell whether a repository has what is cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_made_by_get_where_head_is_not_allowed() {
    let registry = FakeRegistry::start().await;
    let image = images::image(5, &[200_000], Dialect::Oci);
    for repository in ["team/one", "team/two"] {
        registry.put_image(repository, None, &image);
    }
    registry.put_blob("team/three", &Blob::of("something else"));
    registry.fault(Rule::heads(Kind::Manifest), Fault::Status(405));
    registry.fault(Rule::heads(Kind::Blob), Fault::Status(405));
    let mirror = Mirror::of(&registry).await;
    let layer = &image.layers[0];
    for repository in ["team/one", "team/two"] {
        // The blob first: no manifest has told of it.
        let blob = format!("/v2/{repository}/blobs/{}", layer.digest);
        mirror.get(&blob).await.assert_bytes(200, &layer.bytes);
        mirror.wait_for_fills().await;
        let manifest = format!("/v2/{repository}/manifests/{}", image.manifest.digest);
        let answer = mirror.get(&manifest).await;
        answer.assert_bytes(200, &image.manifest.bytes);
    }
    for path in [
        format!("/v2/team/three/blobs/{}", layer.digest),
        format!("/v2/team/three/manifests/{}", image.manifest.digest),
    ] {
        assert_eq!(mirror.get(&path).await.status, 404, "{path}");
    }
}

/// A client that cannot read what the tag names is answered 404 by some registries: that does not
/// make the tag gone for those who can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_404_for_other_formats_does_not_delete_a_tag() {
    let registry = FakeRegistry::start().await;
    let image = images::image(6, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = Mirror::of(&registry).await;
    let path = "/v2/team/app/manifests/v1";
    let modern = [("Accept", OCI_MANIFEST)];
    assert_eq!(mirror.get_with(path, &modern).await.status, 200);
    registry.fault(Rule::all(Kind::Manifest), Fault::Status(404));
    let old = [("Accept", images::DOCKER_MANIFEST)];
    assert_eq!(mirror.get_with(path, &old).await.status, 404);
    registry.go_down().await;
    mirror.clock.advance(TTL);
    let stale = mirror.get_with(path, &modern).await;
    stale.assert_bytes(200, &image.manifest.bytes);
}

/// Waits for other repositories' fills and for one's own do not add up past the bound.
#[tokio::test(start_paused = true)]
async fn a_blob_is_answered_or_refused_in_time() {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(7, 1000);
    for repository in ["team/one", "team/two"] {
        registry.put_blob(repository, &blob);
    }
    registry.fault(Rule::gets(Kind::Blob), Fault::Hang);
    let mirror = MirrorBuilder::new()
        .upstream("docker.io", &registry, |upstream| {
            upstream.default = true;
            upstream.header_timeout = Duration::from_secs(20);
        })
        .start()
        .await;
    let client = mirror.client;
    let path = |repository: &str| format!("/v2/{repository}/blobs/{}", blob.digest);
    let first = path("team/one");
    let leading = tokio::spawn(async move { client.get(&first).await });
    registry
        .wait_for("the first GET", |c| c.of(&Method::GET, Kind::Blob) == 1)
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = Instant::now();
    let answer = mirror.get(&path("team/two")).await;
    assert!(matches!(answer.status, 502..=504), "{}", answer.status);
    let took = begun.elapsed();
    assert!(took < CONTAINERD_WAIT, "{took:?}");
    assert!(leading.await.unwrap().status >= 500);
}

/// Only who could be given a stale answer stops waiting for a fresh one early.
#[tokio::test(start_paused = true)]
async fn a_slow_upstream_is_waited_for_when_there_is_nothing_else() {
    let registry = FakeRegistry::start().await;
    let image = images::image(8, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = MirrorBuilder::new()
        .upstream("docker.io", &registry, |upstream| {
            upstream.default = true;
            upstream.header_timeout = Duration::from_secs(20);
        })
        .start()
        .await;
    let path = "/v2/team/app/manifests/v1";
    assert_eq!(mirror.get(path).await.status, 200);
    mirror.clock.advance(TTL + STALE_IF_ERROR);
    let permit = Arc::new(Semaphore::new(0));
    registry.fault(Rule::all(Kind::Manifest), Fault::Wait(Arc::clone(&permit)));
    let slowly = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(8)).await;
        permit.add_permits(1);
    });
    mirror
        .get(path)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    slowly.await.unwrap();
}

/// Nobody asked for it, and a dockerd that is logged in to Docker Hub sends it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authorization_that_nobody_asked_for_is_ignored() {
    let registry = FakeRegistry::start().await;
    let image = images::image(81, &[10_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let mirror = Mirror::of(&registry).await;
    let huge = format!("Bearer {}", "x".repeat(20_000));
    let values = [
        "Basic dXNlcjpwYXNzd29yZA==",
        "Basic not base64",
        "Basic",
        "Bearer expired.token.here",
        &huge,
        "Negotiate YII",
        "nonsense",
        "",
    ];
    let digest = &image.manifest.digest;
    let paths = [
        "/v2/".to_owned(),
        "/v2".to_owned(),
        "/v2/team/app/manifests/v1".to_owned(),
        format!("/v2/team/app/manifests/{digest}"),
        format!("/v2/team/app/blobs/{}", image.layers[0].digest),
        "/v2/team/app/tags/list".to_owned(),
        "/v2/_catalog".to_owned(),
    ];
    for value in values {
        for path in &paths {
            for method in [Method::GET, Method::HEAD] {
                let headers = [("authorization", value)];
                let answer = mirror.client.ask(method.clone(), path, &headers).await;
                assert_eq!(answer.status, 200, "{method} {path} with {value:.20}");
                assert_eq!(answer.header("www-authenticate"), "");
            }
        }
    }
    // Nor is it anybody's business upstream.
    for record in registry.counters().records {
        assert_eq!(record.header("authorization"), "", "{record:?}");
    }
}

/// Who is told nothing more than "bad gateway" does not know whom to ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_says_which_upstream_and_why() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let told = async |tag: &str| {
        let answer = mirror.get(&format!("/v2/team/app/manifests/{tag}")).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let message = body["errors"][0]["message"].as_str().unwrap().to_owned();
        (answer.status, message)
    };
    registry.fault(Rule::all(Kind::Manifest), Fault::Status(500));
    let (status, message) = told("a").await;
    assert_eq!(status, 502);
    assert!(
        message.starts_with("docker.io: ") && message.ends_with("it answered status 500"),
        "{message}"
    );
    registry.heal();
    registry.go_down().await;
    let (status, message) = told("b").await;
    assert_eq!(status, 502);
    assert!(message.starts_with("docker.io: "), "{message}");
    assert!(!message.contains("127.0.0.1"), "{message}");
}
