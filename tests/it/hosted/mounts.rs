//! Blobs that another repository has.

use super::{Pushes as _, hosts, namespace, registry};
use crate::common::images::sha256;
use crate::common::{MirrorBuilder, World};
use http::Method;
use roadstead::hosted::Visibility;

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository_named_or_not() {
    let mirror = registry().start().await;
    let digest = mirror.blob("team/a", b"layer").await;
    for (to, from) in [
        ("team/b", "&from=team/a"),
        ("other/c", ""),
        ("team/d", "&from=team/none"),
    ] {
        let path = format!("/v2/{to}/blobs/uploads/?mount={digest}{from}");
        let mounted = mirror.send(Method::POST, &path, b"").await;
        assert_eq!(mounted.status, 201, "{to} {from}");
        assert_eq!(
            mounted.header("location"),
            format!("/v2/{to}/blobs/{digest}")
        );
        let blob = mirror.get(&format!("/v2/{to}/blobs/{digest}")).await;
        blob.assert_bytes(200, b"layer");
    }
    let absent = format!(
        "/v2/team/b/blobs/uploads/?mount={}&from=team/a",
        sha256(b"x")
    );
    let begun = mirror.send(Method::POST, &absent, b"").await;
    assert_eq!(begun.status, 202);
    assert!(
        begun
            .header("location")
            .starts_with("/v2/team/b/blobs/uploads/")
    );
}

#[tokio::test]
async fn a_cached_blob_is_mounted_from_the_mirror_and_outlives_the_cache() {
    let world = World::new().await;
    let mirror = MirrorBuilder::of(&world.hub)
        .with(|config| hosts(config, |_| {}))
        .start()
        .await;
    let layer = world.layer();
    let source = "docker.io/library/nginx";
    mirror.get(&format!("/v2/{source}/manifests/1.27")).await;
    let path = format!("/v2/{source}/blobs/{}", layer.digest);
    mirror.get(&path).await.assert_bytes(200, &layer.bytes);
    mirror.wait_for_fills().await;
    for query in [format!("&from={source}"), String::new()] {
        let to = format!("team/app{}", query.len());
        let path = format!("/v2/{to}/blobs/uploads/?mount={}{query}", layer.digest);
        let mounted = mirror.send(Method::POST, &path, b"").await;
        assert_eq!(mounted.status, 201, "{query}");
    }
    let mirror = mirror
        .restart_after(|cache| std::fs::remove_dir_all(cache).unwrap())
        .await;
    let path = format!("/v2/team/app0/blobs/{}", layer.digest);
    mirror.get(&path).await.assert_bytes(200, &layer.bytes);
}

#[tokio::test]
async fn mount_needs_pull_on_source_and_reveals_nothing() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| {
            hosts(config, |hosted| {
                let mut secret = namespace("secret");
                secret.visibility = Visibility::Private;
                hosted.namespaces.push(secret);
            });
        })
        .start()
        .await;
    let digest = mirror.blob("secret/a", b"layer").await;
    // This machine may do all; whoever comes through a proxy is somebody else, and may not even push.
    let headers = [("x-forwarded-for", "10.0.0.9")];
    let path = format!("/v2/team/b/blobs/uploads/?mount={digest}&from=secret/a");
    let refused = mirror.client.ask(Method::POST, &path, &headers).await;
    assert_eq!(refused.status, 403);
    for path in [
        format!("/v2/secret/a/blobs/{digest}"),
        "/v2/secret/a/tags/list".to_owned(),
    ] {
        let hidden = mirror.get_with(&path, &headers).await;
        let absent = mirror
            .get_with(&path.replace("secret/a", "team/none"), &headers)
            .await;
        assert_eq!((hidden.status, hidden.code()), (404, absent.code()));
        assert_eq!(mirror.get(&path).await.status, 200);
    }
}
