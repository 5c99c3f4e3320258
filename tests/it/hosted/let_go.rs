//! Deleted content that goes at once, because an operator says so.

use std::time::Duration;

use http::Method;
use roadstead::store::Amount;
use serde_json::Value;

use super::verify::{assert_well, hosted_path};
use super::{Pushes as _, hosts, registry};
use crate::common::images::sha256;
use crate::common::{ADMIN, Mirror, MirrorBuilder};

const HOUR: Duration = Duration::from_hours(1);

async fn collect(mirror: &Mirror, method: Method) -> Value {
    let path = "/api/v1/namespaces/gc";
    let answer = mirror.admin.ask(method, path, &[ADMIN]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn deleted_content_goes_at_once_and_what_is_named_or_leased_stays() {
    let mirror = registry().start().await;
    let old = mirror.image("team/a", "old", b"old layer").await;
    mirror.image("team/a", "kept", b"kept").await;
    let path = format!("/v2/team/a/manifests/{old}");
    assert_eq!(mirror.delete(&path).await.status, 202);
    mirror.clock.advance(25 * HOUR);
    // Within the time of a lease: somebody may have been told that its layer is there.
    let fresh = mirror.image("team/b", "fresh", b"fresh").await;
    let path = format!("/v2/team/b/manifests/{fresh}");
    assert_eq!(mirror.delete(&path).await.status, 202);
    let unnamed = mirror.blob("team/b", b"pushed a moment ago").await;

    let looked = collect(&mirror, Method::GET).await;
    assert_eq!(
        (&looked["manifests"], &looked["blobs"], &looked["bytes"]),
        (&2.into(), &1.into(), &9.into()),
        "{looked}"
    );
    assert_eq!(looked["leased_blobs"], 2, "{looked}");
    let file = |bytes: &[u8]| hosted_path(&mirror.state(), &sha256(bytes));
    assert!(file(b"old layer").exists());

    let gone = collect(&mirror, Method::POST).await;
    assert_eq!(
        (
            &gone["gone_manifests"],
            &gone["gone_blobs"],
            &gone["gone_bytes"]
        ),
        (&2.into(), &1.into(), &9.into()),
        "{gone}"
    );
    assert_eq!(
        (&gone["manifests"], &gone["blobs"]),
        (&0.into(), &0.into()),
        "{gone}"
    );
    assert!(!file(b"old layer").exists());
    for kept in [&b"kept"[..], b"fresh", b"pushed a moment ago", b"{}"] {
        assert!(file(kept).exists(), "{kept:?}");
    }
    assert_eq!(mirror.get("/v2/team/a/manifests/kept").await.status, 200);
    let blob = format!("/v2/team/b/blobs/{unnamed}");
    assert_eq!(mirror.get(&blob).await.status, 200);
    // Who was told that the layer is there pushes it again in time.
    let body = super::manifest(&sha256(b"{}"), &[(&sha256(b"fresh"), 5)]);
    assert_eq!(mirror.put("team/b", "again", &body).await.status, 201);
    mirror.clock.advance(25 * HOUR);
    let gone = collect(&mirror, Method::POST).await;
    assert_eq!(
        gone["gone_blobs"], 1,
        "what nobody has named meanwhile: {gone}"
    );
    assert!(file(b"fresh").exists());
    assert_well(&mirror).await;
}

#[tokio::test]
async fn a_full_store_says_how_to_make_room_and_that_makes_it() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| hosts(config, |hosted| hosted.max_size = Amount::Bytes(8 << 20)))
        .start()
        .await;
    let large = vec![7; 5 << 20];
    let digest = mirror.image("team/a", "v1", &large).await;
    let path = format!("/v2/team/a/manifests/{digest}");
    assert_eq!(mirror.delete(&path).await.status, 202);
    mirror.clock.advance(25 * HOUR);
    let next = vec![8; 5 << 20];
    let path = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(&next));
    let refused = mirror.send(Method::POST, &path, &next).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(
        refused.text().contains("roadstead ns gc --now"),
        "{}",
        refused.text()
    );
    collect(&mirror, Method::POST).await;
    mirror.image("team/a", "v2", &next).await;
}
