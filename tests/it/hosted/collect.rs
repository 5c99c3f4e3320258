//! The garbage collector.

use super::{Pushes as _, collect_after, hosts, manifest, registry};
use crate::common::images::sha256;
use crate::common::{Mirror, MirrorBuilder};
use http::Method;
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);

/// True if the file of a blob is there.
fn has_file(mirror: &Mirror, digest: &str) -> bool {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    let blobs = mirror.state().join("hosted/blobs").join(algorithm);
    blobs.join(&hex[..2]).join(hex).exists()
}

#[tokio::test]
async fn a_blob_without_a_manifest_goes_after_lease_and_grace() {
    let mirror = registry().start().await;
    let digest = mirror.blob("team/a", b"orphan").await;
    let path = format!("/v2/team/a/blobs/{digest}");
    collect_after(&mirror, 23 * HOUR).await;
    assert_eq!(mirror.get(&path).await.status, 200, "its lease is not over");
    collect_after(&mirror, 2 * HOUR).await;
    assert_eq!(mirror.get(&path).await.status, 404);
    assert!(has_file(&mirror, &digest), "the grace is not over");
    collect_after(&mirror, 2 * HOUR).await;
    assert!(!has_file(&mirror, &digest));
    let all = mirror.hosted().namespaces().await.unwrap();
    assert!(all.iter().all(|it| it.bytes == 0), "{all:?}");
}

#[tokio::test]
async fn gc_between_blob_201_and_manifest_put() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    collect_after(&mirror, 23 * HOUR).await;
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 201);
    collect_after(&mirror, 100 * 24 * HOUR).await;
    let layer = format!("/v2/team/a/blobs/{}", sha256(b"layer"));
    assert_eq!(mirror.get(&layer).await.status, 200);
}

#[tokio::test]
async fn gc_between_head_200_and_manifest_put() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    // Whoever is told that they are there may count on it.
    for blob in [&b"layer"[..], b"{}"] {
        mirror.clock.advance(8 * HOUR);
        let path = format!("/v2/team/a/blobs/{}", sha256(blob));
        assert_eq!(mirror.head(&path).await.status, 200);
    }
    collect_after(&mirror, 15 * HOUR).await;
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 201);
}

#[tokio::test]
async fn push_longer_than_its_lease_survives_while_something_comes() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    let path = mirror.begin("team/a").await;
    for hours in 0..10 {
        let answer = mirror.send(Method::PATCH, &path, &[hours]).await;
        assert_eq!(answer.status, 202);
        collect_after(&mirror, 10 * HOUR).await;
    }
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 201);
    assert_eq!(mirror.delete(&path).await.status, 204);
}

#[tokio::test]
async fn untagged_children_of_a_tagged_index_live_and_so_do_untagged_manifests() {
    let mirror = registry().start().await;
    let one = mirror.image("team/a", "t", b"1").await;
    let two = mirror.image("team/a", "t", b"2").await;
    collect_after(&mirror, 100 * 24 * HOUR).await;
    for digest in [one, two] {
        let path = format!("/v2/team/a/manifests/{digest}");
        assert_eq!(mirror.get(&path).await.status, 200);
    }
    for layer in [b"1", b"2"] {
        let path = format!("/v2/team/a/blobs/{}", sha256(layer));
        assert_eq!(mirror.get(&path).await.status, 200);
    }
}

#[tokio::test]
async fn push_again_after_delete_and_gc_can_be_pulled() {
    let mirror = registry().start().await;
    for _ in 0..2 {
        let digest = mirror.image("team/a", "v1", b"layer").await;
        let layer = sha256(b"layer");
        let blob = format!("/v2/team/a/blobs/{layer}");
        mirror.get(&blob).await.assert_bytes(200, b"layer");
        let path = format!("/v2/team/a/manifests/{digest}");
        assert_eq!(mirror.get(&path).await.status, 200);
        assert_eq!(mirror.delete(&path).await.status, 202);
        collect_after(&mirror, 8 * 24 * HOUR).await;
        collect_after(&mirror, 25 * HOUR).await;
        collect_after(&mirror, 25 * HOUR).await;
        assert!(!has_file(&mirror, &layer));
        for path in [&path, &blob] {
            assert_eq!(mirror.head(path).await.status, 404);
        }
    }
}

#[tokio::test]
async fn a_blob_of_two_repositories_stays_for_one_of_them() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 201);
    let layer = mirror.blob("team/b", b"layer").await;
    collect_after(&mirror, 26 * HOUR).await;
    collect_after(&mirror, 26 * HOUR).await;
    assert_eq!(
        mirror
            .get(&format!("/v2/team/b/blobs/{layer}"))
            .await
            .status,
        404
    );
    assert_eq!(
        mirror
            .get(&format!("/v2/team/a/blobs/{layer}"))
            .await
            .status,
        200
    );
    assert!(has_file(&mirror, &layer));
}

#[tokio::test]
async fn an_upload_expires_after_its_last_byte_and_not_before() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| {
            hosts(config, |hosted| {
                hosted.gc_grace = Duration::from_millis(100);
            });
        })
        .start()
        .await;
    let path = mirror.begin("team/a").await;
    for _ in 0..3 {
        mirror.clock.advance(20 * HOUR);
        assert_eq!(mirror.send(Method::PATCH, &path, b"x").await.status, 202);
    }
    mirror.clock.advance(25 * HOUR);
    let gone = async {
        while mirror.hosted().sessions_len() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    crate::common::within("its expiry", gone).await;
    assert_eq!(mirror.get(&path).await.status, 404);
}

#[tokio::test]
async fn quota_is_what_a_namespace_has_and_no_more_comes_in() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| {
            hosts(config, |hosted| {
                for namespace in &mut hosted.namespaces {
                    namespace.quota = Some(1000);
                }
            });
        })
        .start()
        .await;
    let config = mirror.blob("team/a", b"{}").await;
    let layer = mirror.blob("team/a", &[1; 900]).await;
    let over = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(&[2; 200]));
    let refused = mirror.send(Method::POST, &over, &[2; 200]).await;
    assert_eq!((refused.status, refused.code()), (403, "DENIED".to_owned()));
    assert!(!has_file(&mirror, &sha256(&[2; 200])));
    let body = manifest(&config, &[(&layer, 900)]);
    assert_eq!(
        mirror.put("team/a", "v1", &body).await.status,
        403,
        "{}",
        body.len()
    );
    mirror.blob("other/a", &[2; 200]).await;
    // The same again takes nothing more.
    mirror.blob("team/a", &[1; 900]).await;
    let all = mirror.hosted().namespaces().await.unwrap();
    let bytes: Vec<u64> = all.iter().map(|it| it.bytes).collect();
    assert_eq!(bytes, [200, 902], "{all:?}");
}
