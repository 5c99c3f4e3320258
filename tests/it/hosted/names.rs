//! Names: hosted, mirrored, or both.

use super::{Pushes as _, hosts, registry};
use crate::common::{MirrorBuilder, World};
use http::Method;
use roadstead::hosted::{Fall, Overlay};

async fn push(
    mirror: &crate::common::Mirror,
    repository: &str,
    headers: &[(&str, &str)],
) -> crate::common::Answer {
    let path = format!("/v2/{repository}/blobs/uploads/");
    mirror.client.ask(Method::POST, &path, headers).await
}

#[tokio::test]
async fn without_hosted_repositories_pushes_are_refused_as_before() {
    let mirror = MirrorBuilder::secluded(&["docker.io"]).start().await;
    let refused = push(&mirror, "team/a", &[]).await;
    assert_eq!(
        (refused.status, refused.code()),
        (405, "UNSUPPORTED".to_owned())
    );
    assert!(!mirror.state().join("hosted").exists());
}

#[tokio::test]
async fn what_is_mirrored_is_not_pushed_to() {
    let mirror = registry().start().await;
    for repository in ["docker.io/library/a", "library/a", "docker.io/team/a", "a"] {
        let refused = push(&mirror, repository, &[]).await;
        assert_eq!(
            (refused.status, refused.code()),
            (403, "DENIED".to_owned()),
            "{repository}"
        );
        assert!(refused.text().contains("push to"), "{}", refused.text());
    }
    let refused = push(&mirror, "nobody/a", &[]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("roadstead ns create nobody"));
}

#[tokio::test]
async fn a_namespace_is_created_by_a_push_unless_the_default_upstream_has_it() {
    let world = World::new().await;
    let creates = |config: &mut roadstead::config::Config| {
        hosts(config, |hosted| {
            hosted.create_on_push = true;
            hosted.hosts = vec!["registry.corp".to_owned()];
        });
    };
    let mirror = MirrorBuilder::of(&world.hub).with(creates).start().await;
    assert_eq!(push(&mirror, "fresh/a", &[]).await.status, 202);
    assert_eq!(push(&mirror, "library/nginx", &[]).await.status, 403);
    // It cannot say.
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(creates)
        .start()
        .await;
    let refused = push(&mirror, "fresh/a", &[]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("docker.io"), "{}", refused.text());
    // At a name of one's own there is nothing to be asked.
    let own = [("host", "registry.corp")];
    assert_eq!(push(&mirror, "fresh/a", &own).await.status, 202);
    assert_eq!(push(&mirror, "app", &own).await.status, 202);
    assert_eq!(push(&mirror, "library/a", &own).await.status, 400);
}

#[tokio::test]
async fn an_overlay_is_hosted_first_and_falls_where_there_is_no_repository() {
    let world = World::new().await;
    let mirror = MirrorBuilder::of(&world.hub)
        .with(|config| {
            hosts(config, |hosted| {
                hosted.overlays.push(Overlay {
                    name: "docker.io/library".to_owned(),
                    hosted: "team".to_owned(),
                    fall: Fall::Repository,
                });
            });
        })
        .start()
        .await;
    let mirrored = mirror.get("/v2/library/nginx/manifests/1.27").await;
    assert_eq!(mirrored.status, 200);
    let digest = mirror
        .image("docker.io/library/nginx", "ours", b"layer")
        .await;
    for path in [
        "/v2/library/nginx/manifests/ours",
        "/v2/team/nginx/manifests/ours",
    ] {
        let got = mirror.get(path).await;
        assert_eq!(got.header("docker-content-digest"), digest, "{path}");
    }
    // Now that it is hosted, nobody else answers for its other tags.
    let absent = mirror.get("/v2/library/nginx/manifests/1.27").await;
    assert_eq!(
        (absent.status, absent.code()),
        (404, "MANIFEST_UNKNOWN".to_owned())
    );
}

#[tokio::test]
async fn a_web_page_cannot_push() {
    let mirror = registry().start().await;
    let address = format!("http://{}", mirror.address());
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[("origin", "http://evil.example"), ("host", "evil.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
    ] {
        let refused = push(&mirror, "team/a", headers).await;
        assert_eq!(
            (refused.status, refused.code()),
            (403, "DENIED".to_owned()),
            "{headers:?}"
        );
    }
    let own = mirror.address().to_string();
    let headers = [
        ("origin", &*address),
        ("host", &*own),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(push(&mirror, "team/a", &headers).await.status, 202);
}

#[tokio::test]
async fn hosted_repositories_are_in_the_catalog_in_pages() {
    let world = World::new().await;
    let mirror = MirrorBuilder::of(&world.hub)
        .with(|config| hosts(config, |_| {}))
        .start()
        .await;
    mirror.get("/v2/library/nginx/manifests/1.27").await;
    for repository in ["team/a", "team/b", "other/c", "a"] {
        if repository != "a" {
            mirror.image(repository, "v1", b"layer").await;
        }
    }
    let mut path = "/v2/_catalog?n=1".to_owned();
    let mut found = Vec::new();
    loop {
        let page = mirror.get(&path).await;
        let value: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
        let names = value["repositories"].as_array().unwrap();
        found.extend(names.iter().map(|it| it.as_str().unwrap().to_owned()));
        let link = page.header("link").to_owned();
        let Some(next) = link.strip_prefix('<').and_then(|it| it.split_once('>')) else {
            break;
        };
        path = next.0.to_owned();
    }
    assert_eq!(
        found,
        ["docker.io/library/nginx", "other/c", "team/a", "team/b"]
    );
}

/// The next start would undo it, and make a private namespace public again.
#[tokio::test]
async fn a_namespace_of_the_configuration_is_changed_there_alone() {
    let mirror = registry().start().await;
    let path = "/api/v1/namespaces?name=team";
    let set = format!("{path}&visibility=private");
    for (method, path) in [(Method::PUT, set.as_str()), (Method::DELETE, path)] {
        let refused = mirror
            .admin
            .ask(method, path, &[crate::common::ADMIN])
            .await;
        assert_eq!(refused.status, 409);
        assert!(refused.text().contains("[[hosted.namespace]]"));
    }
    let listed = mirror.admin.get("/api/v1/namespaces").await.text();
    assert!(listed.contains("\"team\""), "{listed}");
}
