//! Deletes, and what is restored.

use super::{Pushes as _, index, registry};
use crate::common::images::sha256;
use roadstead::oci::{Repository, Tag};

#[tokio::test]
async fn deleting_a_tag_leaves_its_siblings() {
    let mirror = registry().start().await;
    let digest = mirror.image("team/a", "one", b"layer").await;
    let body = mirror.get("/v2/team/a/manifests/one").await.text();
    assert_eq!(mirror.put("team/a", "two", &body).await.status, 201);
    assert_eq!(mirror.delete("/v2/team/a/manifests/one").await.status, 202);
    assert_eq!(mirror.head("/v2/team/a/manifests/one").await.status, 404);
    for reference in ["two", &digest] {
        let path = format!("/v2/team/a/manifests/{reference}");
        assert_eq!(mirror.get(&path).await.status, 200);
    }
    assert_eq!(mirror.delete("/v2/team/a/manifests/one").await.status, 404);
}

#[tokio::test]
async fn deleting_a_digest_removes_its_tags_at_once() {
    let mirror = registry().start().await;
    let digest = mirror.image("team/a", "one", b"layer").await;
    let path = format!("/v2/team/a/manifests/{digest}");
    // In memory, too.
    assert_eq!(mirror.get("/v2/team/a/manifests/one").await.status, 200);
    assert_eq!(mirror.get(&path).await.status, 200);
    assert_eq!(mirror.delete(&path).await.status, 202);
    for path in [&*path, "/v2/team/a/manifests/one"] {
        assert_eq!(mirror.get(path).await.status, 404);
    }
    let tags = mirror.get("/v2/team/a/tags/list").await.text();
    assert!(tags.contains(r#""tags":[]"#), "{tags}");
}

#[tokio::test]
async fn what_something_needs_is_not_deleted() {
    let mirror = registry().start().await;
    let child = mirror.image("team/a", "one", b"layer").await;
    let parent = index(&[(&child, 3)]);
    assert_eq!(mirror.put("team/a", "all", &parent).await.status, 201);
    let layer = format!("/v2/team/a/blobs/{}", sha256(b"layer"));
    let child = format!("/v2/team/a/manifests/{child}");
    for path in [&layer, &child] {
        let refused = mirror.delete(path).await;
        assert_eq!((refused.status, refused.code()), (409, "DENIED".to_owned()));
        assert_eq!(mirror.get(path).await.status, 200);
    }
    let parent = format!("/v2/team/a/manifests/{}", sha256(parent.as_bytes()));
    for path in [&parent, &child, &layer] {
        assert_eq!(mirror.delete(path).await.status, 202);
        assert_eq!(mirror.get(path).await.status, 404);
        assert_eq!(mirror.delete(path).await.status, 404);
    }
}

#[tokio::test]
async fn what_was_deleted_can_be_restored_by_its_tag() {
    let mirror = registry().start().await;
    let digest = mirror.image("team/a", "one", b"layer").await;
    let paths = [
        format!("/v2/team/a/manifests/{digest}"),
        format!("/v2/team/a/blobs/{}", sha256(b"layer")),
    ];
    for path in &paths {
        assert_eq!(mirror.delete(path).await.status, 202);
    }
    let (repository, tag) = (
        Repository::parse("team/a").unwrap(),
        Tag::parse("one").unwrap(),
    );
    let restored = mirror
        .hosted()
        .restore_tag(&repository, &tag, None, "test")
        .await;
    assert!(restored.unwrap());
    for path in paths
        .iter()
        .map(String::as_str)
        .chain(["/v2/team/a/manifests/one"])
    {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
}
