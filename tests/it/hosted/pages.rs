//! The pages about what is hosted: what they show, and how much they look at for that.

use super::{Pushes as _, hosts, registry};
use crate::common::images::sha256;
use crate::common::{Mirror, MirrorBuilder};
use http::Method;
use roadstead::catalogue::hosted::{
    Act, Found, HostedAct, LOOKED_AT_MAX, ManifestPut, NamespaceWanted, Search, TagPut,
};
use roadstead::catalogue::{Catalogue, Config};
use roadstead::clock::Timestamp;
use roadstead::hosted::Visibility;
use roadstead::oci::digest::Algorithm;
use roadstead::oci::{Digest, Repository, Tag};
use roadstead::telemetry::Metrics;
use std::time::Duration;

async fn page(mirror: &Mirror, path: &str) -> String {
    let answer = mirror.admin.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text()
}

/// The next page's link.
fn next(text: &str) -> Option<String> {
    let (_, link) = text.split_once("<a rel=\"next\" href=\"")?;
    Some(link.split('"').next()?.replace("&amp;", "&"))
}

#[tokio::test]
async fn pages_show_namespaces_repositories_tags_uploads_and_the_queue() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| {
            hosts(config, |hosted| {
                hosted.namespaces[1].quota = Some(1_000_000);
            });
        })
        .start()
        .await;
    let digest = mirror.image("team/app", "v1", &[7; 5000]).await;
    mirror.blob("other/orphan", b"nobody names it").await;
    let upload = mirror.begin("team/next").await;
    let sent = mirror.send(Method::PATCH, &upload, &[1; 2000]).await;
    assert_eq!(sent.status, 202);
    mirror.clock.advance(Duration::from_mins(5));
    let home = page(&mirror, "/hosted").await;
    for text in [
        ">team</a>",
        ">other</a>",
        "1.0 MB",
        "public",
        "team/next",
        "127.0.0.1",
        "2.0 kB",
        "5 min ago",
        "Garbage collector",
        "the first is due in",
        "Hosted on the disk",
    ] {
        assert!(home.contains(text), "{text}: {home}");
    }
    let repositories = page(&mirror, "/hosted/repositories?q=APP").await;
    assert!(repositories.contains(">team/app</a>"), "{repositories}");
    assert!(!repositories.contains("other/orphan"));
    let tags = page(&mirror, "/hosted/tags?repository=team/app").await;
    // The manifest, its config and its layer.
    for text in [digest.as_str(), ">v1<", "5.4 kB", "5 min ago", "127.0.0.1"] {
        assert!(tags.contains(text), "{text}: {tags}");
    }
    let chinese = page(&mirror, "/hosted?lang=zh").await;
    assert!(chinese.contains("垃圾回收队列") && chinese.contains("命名空间"));
    for (path, status) in [
        ("/hosted/tags?repository=team/none", 404),
        ("/hosted/tags?repository=%3Cscript%3E", 400),
        ("/hosted/tags", 400),
        ("/hosted/other", 404),
    ] {
        assert_eq!(mirror.admin.get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn an_index_has_the_size_of_its_images_and_a_blob_to_be_collected_is_counted() {
    let mirror = registry().start().await;
    let layer = vec![3; 20_000];
    let manifest = mirror.parts("team/app", &layer).await;
    let digest = sha256(manifest.as_bytes());
    let put = mirror.put("team/app", &digest, &manifest).await;
    assert_eq!(put.status, 201);
    let index = super::index(&[(&digest, manifest.len())]);
    let path = "/v2/team/app/manifests/all";
    let kind = [("content-type", super::OCI_INDEX)];
    let put = mirror
        .client
        .ask_with(Method::PUT, path, &kind, index.clone().into());
    assert_eq!(put.await.status, 201);
    let tags = page(&mirror, "/hosted/tags?repository=team/app").await;
    let size = roadstead::format::size((index.len() + layer.len() + 2) as u64);
    assert!(tags.contains(&size), "{size}: {tags}");
    mirror.blob("team/app", &vec![4; 30_000]).await;
    super::collect_after(&mirror, Duration::from_hours(25)).await;
    let home = page(&mirror, "/hosted").await;
    assert!(home.contains("30.0 kB"), "{home}");
}

#[tokio::test]
async fn lists_go_on_page_by_page() {
    let mirror = registry().start().await;
    let manifest = mirror.parts("team/app", b"layer").await;
    for number in 0..60 {
        let put = mirror
            .put("team/app", &format!("v{number:02}"), &manifest)
            .await;
        assert_eq!(put.status, 201);
    }
    let first = page(&mirror, "/hosted/tags?repository=team/app&q=V").await;
    assert!(first.contains(">v49<") && !first.contains(">v50<"));
    let second = page(&mirror, &next(&first).unwrap()).await;
    assert!(second.contains(">v50<") && second.contains(">v59<"));
    assert!(!second.contains(">v49<"));
    assert_eq!(next(&second), None);
    for number in 0..60 {
        mirror.blob(&format!("team/r{number:02}"), b"layer").await;
    }
    let first = page(&mirror, "/hosted/repositories?q=team/r").await;
    assert!(first.contains(">team/r49<") && !first.contains(">team/r50<"));
    let second = page(&mirror, &next(&first).unwrap()).await;
    assert!(second.contains(">team/r59<") && !second.contains(">team/r49<"));
}

#[tokio::test]
async fn what_others_named_is_only_text() {
    let mirror = registry().start().await;
    let evil = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%E2%80%AE";
    mirror.image("team/app", "v1", b"x").await;
    for path in [
        format!("/hosted?q={evil}&after={evil}"),
        format!("/hosted/repositories?q={evil}&after={evil}"),
        format!("/hosted/tags?repository=team/app&q={evil}&after={evil}"),
        format!("/hosted/tags?repository={evil}"),
    ] {
        let text = mirror.admin.get(&path).await.text();
        assert!(!text.contains("<script>alert"), "{path}");
        assert!(!text.contains('\u{202e}'), "{path}");
    }
}

/// A catalogue with a repository of so many tags.
async fn tagged(dir: &std::path::Path, tags: usize) -> (Catalogue, Repository) {
    let config = Config::of(dir.join("state"));
    let opened = tokio::task::spawn_blocking(move || {
        Catalogue::open(&config, Metrics::new(std::iter::empty()))
    });
    let catalogue = opened.await.unwrap();
    let repository = Repository::parse("team/app").unwrap();
    let act = |act| {
        let at = Timestamp(1_790_000_000_000);
        let by = "somebody".to_owned();
        catalogue.act(HostedAct { act, at, by })
    };
    let wanted = NamespaceWanted {
        name: "team".to_owned(),
        visibility: Visibility::Public,
        quota: None,
        sparse: true,
    };
    let only_new = true;
    act(Act::PutNamespace { wanted, only_new })
        .await
        .unwrap()
        .unwrap();
    let numbers: Vec<usize> = (0..tags).collect();
    for some in numbers.chunks(100) {
        let bytes = format!("{{\"number\":{}}}", some[0]);
        let put = |number: &usize| TagPut {
            tag: Tag::parse(&format!("v{number:06}")).unwrap(),
            immutable: false,
        };
        let put = ManifestPut {
            repository: repository.clone(),
            digest: Digest::of(Algorithm::Sha256, bytes.as_bytes()),
            media_type: super::OCI_MANIFEST.to_owned(),
            bytes: bytes.into(),
            artifact_type: None,
            subject: None,
            annotations: None,
            blobs: Vec::new(),
            foreign: Vec::new(),
            manifests: Vec::new(),
            tags: some.iter().map(put).collect(),
            condition: None,
        };
        act(Act::PutManifest(Box::new(put))).await.unwrap().unwrap();
    }
    (catalogue, repository)
}

#[tokio::test]
async fn a_page_looks_at_as_many_rows_at_the_end_of_a_long_list_as_at_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let tags = LOOKED_AT_MAX + 2_000;
    let (catalogue, repository) = tagged(dir.path(), tags).await;
    let look = async |part: &str, after: &str| {
        let search = Search {
            part: part.to_owned(),
            after: after.to_owned(),
            limit: 50,
        };
        match catalogue.hosted_tag_page(&repository, search).await {
            Ok(Found::This(page)) => page,
            other => panic!("{other:?}"),
        }
    };
    for after in [String::new(), format!("v{:06}", tags / 2)] {
        let page = look("", &after).await;
        assert_eq!((page.rows.len(), page.looked_at), (50, 50), "{after}");
        assert_eq!(
            page.next.as_deref(),
            page.rows.last().map(|it| it.name.as_str())
        );
    }
    let page = look("", &format!("v{:06}", tags - 10)).await;
    assert_eq!((page.rows.len(), page.looked_at), (9, 9));
    assert_eq!(page.next, None);
    // A search gives up after a while, and goes on from there.
    let page = look("v01", "").await;
    assert_eq!((page.rows.len(), page.looked_at), (0, LOOKED_AT_MAX));
    let last = page.next.unwrap();
    let page = look("V01", &last).await;
    assert_eq!(
        (page.rows.len(), page.rows[0].name.as_str()),
        (50, "v010000")
    );
    let queue = catalogue.hosted_queue_ahead().await.unwrap();
    assert_eq!(queue.length.number, 0);
    catalogue.close().await;
}
