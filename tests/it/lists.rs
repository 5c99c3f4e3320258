//! Lists: tags and their pages, the catalog, referrers.

use crate::common::images::{self, Blob, OCI_INDEX};
use crate::common::{Answer, Dialect, Image, LinkForm, World};

/// GET of an index, which must come.
async fn index_at(world: &World, path: &str) -> Answer {
    let answer = world.mirror.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), OCI_INDEX);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tag_lists_page_on_this_server() {
    let world = World::new().await;
    for tag in ["a", "b", "c", "d"] {
        world
            .ghcr
            .put_manifest("org/app", Some(tag), &world.app.manifest);
    }
    for link in [LinkForm::Relative, LinkForm::Absolute] {
        world.ghcr.options(|options| options.link = link);
        let mut path = "/v2/ghcr.io/org/app/tags/list?n=2".to_owned();
        let mut seen = Vec::new();
        loop {
            let answer = world.mirror.get(&path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            let tags = value["tags"].as_array().unwrap();
            seen.extend(tags.iter().map(|tag| tag.as_str().unwrap().to_owned()));
            let link = answer.header("link").to_owned();
            if link.is_empty() {
                break;
            }
            assert!(link.ends_with(">; rel=\"next\""), "{link}");
            path = link[1..link.find('>').unwrap()].to_owned();
            assert!(path.starts_with("/v2/ghcr.io/org/app/tags/list?"), "{path}");
        }
        assert_eq!(seen, ["a", "b", "c", "d", "v1"]);
    }
    // With `ns` the next page must go the same way.
    let by_ns = world
        .mirror
        .get("/v2/org/app/tags/list?n=2&ns=ghcr.io")
        .await;
    let link = by_ns.header("link");
    let next = world.mirror.get(&link[1..link.find('>').unwrap()]).await;
    assert!(next.text().contains("\"d\""), "{link} gave {}", next.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_page_is_empty() {
    let world = World::new().await;
    let answer = world.mirror.get("/v2/library/nginx/tags/list?n=0").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("link"), "");
    let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(value["tags"].as_array().unwrap().len(), 0);
    let whole = world.mirror.get("/v2/library/nginx/tags/list").await;
    assert!(whole.text().contains("1.27"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalog_lists_what_is_cached() {
    let world = World::new().await;
    let catalog = async || {
        let answer = world.mirror.get("/v2/_catalog").await;
        assert_eq!(answer.status, 200);
        let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        value["repositories"].to_string()
    };
    assert_eq!(catalog().await, "[]");
    world.mirror.get("/v2/ghcr.io/org/app/manifests/v1").await;
    world.mirror.get("/v2/library/nginx/manifests/1.27").await;
    assert_eq!(
        catalog().await,
        r#"["docker.io/library/nginx","ghcr.io/org/app"]"#
    );
}

/// goharbor/harbor#20808, #23024: referrers and signatures through the proxy, with an upstream
/// that has the API and with one that has it not (Docker Hub).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_come_by_api_or_by_tag() {
    let world = World::new().await;
    let subject = &world.image.manifest;
    let sbom = images::artifact(subject, "application/sbom", &Blob::noise(5, 30));
    let signature = images::artifact(subject, "application/signature", &Blob::noise(6, 30));
    world.hub.put_image("library/nginx", None, &sbom);
    world.hub.put_image("library/nginx", None, &signature);
    let path = format!("/v2/library/nginx/referrers/{}", subject.digest);
    let has = |answer: &Answer, image: &Image| answer.text().contains(&image.manifest.digest);

    let all = index_at(&world, &path).await;
    assert!(has(&all, &sbom) && has(&all, &signature));
    let filtered = format!("{path}?artifactType=application/sbom");
    let some = index_at(&world, &filtered).await;
    assert!(has(&some, &sbom));
    if some.header("oci-filters-applied") == "artifactType" {
        assert!(!has(&some, &signature));
    }

    // Without the API: the tag `sha256-<hex>`; without the tag: none, as an empty index or 404.
    world.hub.options(|options| options.referrers = false);
    let other = images::image(7, &[100], Dialect::Oci);
    let path = format!("/v2/library/nginx/referrers/{}", other.manifest.digest);
    world.hub.put_image("library/nginx", None, &other);
    let none = world.mirror.get(&path).await;
    assert!(matches!(none.status, 200 | 404), "{}", none.status);
    let late = images::artifact(&other.manifest, "application/sbom", &Blob::noise(8, 30));
    let index = images::referrers_index(&[(&late, "application/sbom")]);
    let third = images::image(9, &[100], Dialect::Oci);
    world.hub.put_manifest(
        "library/nginx",
        Some(&third.manifest.digest.replace(':', "-")),
        &index,
    );
    let path = format!("/v2/library/nginx/referrers/{}", third.manifest.digest);
    let by_tag = index_at(&world, &path).await;
    assert!(has(&by_tag, &late));
}
