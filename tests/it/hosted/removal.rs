//! Whole repositories and namespaces: deleted, restored, gone.

use std::time::Duration;

use http::Method;
use roadstead::hosted::{Fall, Immutable, ImmutableMode, Overlay};
use tokio::task::JoinSet;

use super::{Pushes as _, admin, asked, collect_after, hosts, namespace, registry};
use crate::common::images::sha256;
use crate::common::world::World;
use crate::common::{Mirror, MirrorBuilder};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const TAG: &str = "/v2/team/a/manifests/v1";

async fn remove(mirror: &Mirror, target: &str) {
    let removed = admin(mirror, Method::DELETE, target).await;
    assert_eq!(removed.status, 200, "{}", removed.text());
}

async fn restore(mirror: &Mirror, target: &str) -> u16 {
    admin(mirror, Method::POST, target).await.status
}

/// Bytes that namespaces use.
async fn bytes(mirror: &Mirror) -> u64 {
    let all = mirror.hosted().namespaces().await.unwrap();
    all.iter().map(|it| it.bytes).sum()
}

#[tokio::test]
async fn a_repository_that_is_deleted_is_not_served_and_comes_back_as_it_was() {
    let mirror = registry().start().await;
    let digest = mirror.image("team/a", "v1", b"layer").await;
    mirror.image("team/b", "v1", b"layer").await;
    let paths = [
        TAG.to_owned(),
        format!("/v2/team/a/manifests/{digest}"),
        format!("/v2/team/a/blobs/{}", sha256(b"layer")),
        "/v2/team/a/tags/list".to_owned(),
    ];
    for path in &paths {
        // From memory, too.
        assert_eq!(mirror.get(path).await.status, 200);
    }
    let before = bytes(&mirror).await;
    remove(&mirror, "repositories?repository=team/a").await;
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 404, "{path}");
    }
    let catalog = mirror.get("/v2/_catalog").await.text();
    assert!(
        !catalog.contains("team/a") && catalog.contains("team/b"),
        "{catalog}"
    );
    assert_eq!(bytes(&mirror).await, before, "it can be restored");
    let twice = admin(&mirror, Method::DELETE, "repositories?repository=team/a").await;
    assert_eq!(twice.status, 404);
    let list = asked(&mirror, "deleted").await;
    assert_eq!(list["deleted"][0]["name"], "team/a");
    assert_eq!(list["deleted"][0]["kind"], "repository");
    collect_after(&mirror, 6 * DAY).await;
    assert_eq!(
        restore(&mirror, "repositories/restore?repository=team/a").await,
        200
    );
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
    assert_eq!(
        restore(&mirror, "repositories/restore?repository=team/a").await,
        404
    );
}

#[tokio::test]
async fn its_name_is_kept_until_it_cannot_be_restored() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 201);
    let upload = mirror.begin("team/a").await;
    remove(&mirror, "repositories?repository=team/a").await;
    let put = mirror.put("team/a", "v1", &body).await;
    assert_eq!((put.status, put.code()), (403, "DENIED".to_owned()));
    assert!(
        put.text().contains("roadstead repo restore team/a"),
        "{}",
        put.text()
    );
    let begun = mirror
        .send(Method::POST, "/v2/team/a/blobs/uploads/", b"")
        .await;
    assert_eq!(begun.status, 403);
    // One that was begun before.
    let finish = format!("{upload}?digest={}", sha256(b"x"));
    assert_eq!(mirror.send(Method::PUT, &finish, b"x").await.status, 403);
    collect_after(&mirror, 7 * DAY + HOUR).await;
    assert_eq!(
        restore(&mirror, "repositories/restore?repository=team/a").await,
        404
    );
    mirror.image("team/a", "v2", b"other").await;
    assert_eq!(mirror.get(TAG).await.status, 404);
    for _ in 0..2 {
        collect_after(&mirror, 26 * HOUR).await;
    }
    let layer = sha256(b"layer");
    let (_, hex) = layer.split_once(':').unwrap();
    let file = mirror
        .state()
        .join("hosted/blobs/sha256")
        .join(&hex[..2])
        .join(hex);
    assert!(!file.exists(), "nothing has it any more");
    let expected = [b"other".len(), b"{}".len()].iter().sum::<usize>();
    let manifest = mirror.get("/v2/team/a/manifests/v2").await.body.len();
    assert_eq!(bytes(&mirror).await, (expected + manifest) as u64);
}

#[tokio::test]
async fn deleted_for_ever_its_name_is_free_at_once() {
    let mirror = registry().start().await;
    mirror.image("team/a", "v1", b"layer").await;
    remove(&mirror, "repositories?repository=team/a&forever=true").await;
    assert_eq!(mirror.get(TAG).await.status, 404);
    assert_eq!(
        restore(&mirror, "repositories/restore?repository=team/a").await,
        404
    );
    mirror.image("team/a", "v2", b"other").await;
    remove(&mirror, "repositories?repository=team/a").await;
    remove(&mirror, "repositories?repository=team/a&forever=true").await;
    mirror.image("team/a", "v3", b"third").await;
    collect_after(&mirror, HOUR).await;
    let tags = mirror.get("/v2/team/a/tags/list").await.text();
    assert!(tags.contains(r#"["v3"]"#), "{tags}");
}

#[tokio::test]
async fn a_large_repository_goes_a_little_at_a_time() {
    let mirror = registry().start().await;
    let config = mirror.blob("team/a", b"{}").await;
    for number in 0_usize..70 {
        let layer = mirror.blob("team/a", number.to_string().as_bytes()).await;
        let body = super::manifest(&config, &[(&layer, number)]);
        let put = mirror.put("team/a", &format!("t{number}"), &body).await;
        assert_eq!(put.status, 201);
    }
    remove(&mirror, "repositories?repository=team/a&forever=true").await;
    collect_after(&mirror, HOUR).await;
    assert_eq!(bytes(&mirror).await, 0);
    assert_eq!(mirror.get("/v2/team/a/tags/list").await.status, 404);
}

#[tokio::test]
async fn a_namespace_with_content_goes_if_that_is_said_and_comes_back() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| hosts(config, |_| {}))
        .start()
        .await;
    let made = "namespaces?name=own&visibility=public&take_name=true";
    assert_eq!(admin(&mirror, Method::POST, made).await.status, 201);
    for repository in ["own/a", "own/b", "own/c"] {
        mirror.image(repository, "v1", b"layer").await;
    }
    remove(&mirror, "repositories?repository=own/c").await;
    let refused = admin(&mirror, Method::DELETE, "namespaces?name=own").await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    let of_file = admin(&mirror, Method::DELETE, "namespaces?name=team&content=true").await;
    assert_eq!(of_file.status, 409);
    remove(&mirror, "namespaces?name=own&content=true").await;
    for repository in ["own/a", "own/b", "own/c", "own/never"] {
        // Not asked of the default upstream, which does not answer: 404 and no 502.
        let path = format!("/v2/{repository}/manifests/v1");
        assert_eq!(mirror.get(&path).await.status, 404, "{path}");
    }
    let again = admin(&mirror, Method::POST, made).await;
    assert_eq!(again.status, 409, "{}", again.text());
    let pushed = mirror
        .send(Method::POST, "/v2/own/a/blobs/uploads/", b"")
        .await;
    assert_eq!((pushed.status, pushed.code()), (403, "DENIED".to_owned()));
    let mirror = mirror.restart().await;
    assert_eq!(
        restore(&mirror, "repositories/restore?repository=own/c").await,
        409
    );
    assert_eq!(restore(&mirror, "namespaces/restore?name=own").await, 200);
    for (repository, status) in [("own/a", 200), ("own/b", 200), ("own/c", 404)] {
        let path = format!("/v2/{repository}/manifests/v1");
        assert_eq!(mirror.get(&path).await.status, status, "{path}");
    }
    assert_eq!(
        restore(&mirror, "repositories/restore?repository=own/c").await,
        200
    );
    assert_eq!(mirror.get("/v2/own/c/manifests/v1").await.status, 200);
    remove(&mirror, "namespaces?name=own&content=true").await;
    collect_after(&mirror, 8 * DAY).await;
    collect_after(&mirror, HOUR).await;
    assert_eq!(restore(&mirror, "namespaces/restore?name=own").await, 404);
    assert_eq!(admin(&mirror, Method::POST, made).await.status, 201);
    assert_eq!(bytes(&mirror).await, 0);
    assert_eq!(mirror.get("/v2/own/a/tags/list").await.status, 404);
}

#[tokio::test]
async fn a_namespace_whose_manifests_are_deleted_is_empty() {
    let mirror = registry().start().await;
    let made = "namespaces?name=own&visibility=public&take_name=true";
    assert_eq!(admin(&mirror, Method::POST, made).await.status, 201);
    let digest = mirror.image("own/a", "v1", b"layer").await;
    let path = format!("/v2/own/a/manifests/{digest}");
    assert_eq!(mirror.delete(&path).await.status, 202);
    remove(&mirror, "namespaces?name=own").await;
    assert_eq!(
        asked(&mirror, "deleted").await["deleted"][0]["kind"],
        "namespace"
    );
}

#[tokio::test]
async fn what_is_not_to_be_deleted_keeps_its_repository() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| {
            hosts(config, |hosted| {
                hosted.namespaces.retain(|it| it.name != "other");
                hosted.immutable.push(Immutable {
                    repository: "*/kept[?]*".to_owned(),
                    tag: "*".to_owned(),
                    mode: ImmutableMode::NoMoveNoDelete,
                });
                hosted.immutable.push(Immutable {
                    repository: "*/kept*".to_owned(),
                    tag: "v*".to_owned(),
                    mode: ImmutableMode::NoMoveNoDelete,
                });
            });
        })
        .start()
        .await;
    let made = "namespaces?name=own&visibility=public&take_name=true";
    assert_eq!(admin(&mirror, Method::POST, made).await.status, 201);
    mirror.image("own/kept", "dev", b"layer").await;
    mirror.image("own/kept", "v1", b"layer").await;
    for target in [
        "repositories?repository=own/kept",
        "repositories?repository=own/kept&forever=true",
        "namespaces?name=own&content=true",
    ] {
        let refused = admin(&mirror, Method::DELETE, target).await;
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(refused.text().contains("own/kept:v1"), "{}", refused.text());
    }
    assert_eq!(mirror.get("/v2/own/kept/manifests/v1").await.status, 200);
    mirror.image("own/other", "v1", b"layer").await;
    remove(&mirror, "repositories?repository=own/other").await;
}

#[tokio::test]
async fn an_overlay_does_not_fall_while_the_name_is_kept() {
    let world = World::new().await;
    let mirror = MirrorBuilder::of(&world.hub)
        .with(|config| {
            hosts(config, |hosted| {
                hosted.namespaces = vec![namespace("team")];
                hosted.overlays.push(Overlay {
                    name: "docker.io/library".to_owned(),
                    hosted: "team".to_owned(),
                    fall: Fall::Tag,
                });
            });
        })
        .start()
        .await;
    mirror.image("team/nginx", "ours", b"layer").await;
    remove(&mirror, "repositories?repository=team/nginx").await;
    for tag in ["ours", "1.27"] {
        let path = format!("/v2/library/nginx/manifests/{tag}");
        assert_eq!(mirror.get(&path).await.status, 404, "{tag}");
    }
    remove(&mirror, "repositories?repository=team/nginx&forever=true").await;
    assert_eq!(
        mirror.get("/v2/library/nginx/manifests/1.27").await.status,
        200
    );
}

#[tokio::test]
async fn a_push_is_before_the_delete_or_after_it() {
    let mirror = std::sync::Arc::new(registry().start().await);
    for round in 0..6 {
        let body = mirror.parts("team/a", b"layer").await;
        let mut pushes = JoinSet::new();
        for number in 0..8 {
            let (mirror, body) = (mirror.clone(), body.clone());
            pushes.spawn(async move {
                let tag = format!("r{round}-{number}");
                let put = mirror.put("team/a", &tag, &body).await;
                (tag, put.status)
            });
        }
        if round % 2 == 1 {
            tokio::task::yield_now().await;
        }
        remove(&mirror, "repositories?repository=team/a").await;
        // Nothing is served from here on, whatever was acknowledged.
        let list = mirror.get("/v2/team/a/tags/list").await;
        assert_eq!(list.status, 404);
        let outcomes = pushes.join_all().await;
        assert_eq!(mirror.get("/v2/team/a/tags/list").await.status, 404);
        assert_eq!(
            restore(&mirror, "repositories/restore?repository=team/a").await,
            200
        );
        for (tag, status) in outcomes {
            assert!([201, 403].contains(&status), "{status}");
            let path = format!("/v2/team/a/manifests/{tag}");
            let is_there = mirror.get(&path).await.status == 200;
            assert_eq!(is_there, status == 201, "{tag}");
        }
    }
}
