//! Manifests, tags and lists.

use super::{OCI_INDEX, Pushes as _, hosts, index, manifest, namespace, registry};
use crate::common::images::{sha256, sha512};
use crate::common::{Answer, Mirror, MirrorBuilder};
use bytes::Bytes;
use http::Method;
use roadstead::hosted::{Immutable, ImmutableMode};
use serde_json::Value;
use std::sync::Arc;

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

async fn put_if(mirror: &Mirror, tag: &str, body: &str, condition: (&str, &str)) -> u16 {
    let path = format!("/v2/team/a/manifests/{tag}");
    let body = Bytes::copy_from_slice(body.as_bytes());
    let answer = mirror
        .client
        .ask_with(Method::PUT, &path, &[condition], body)
        .await;
    answer.status
}

#[tokio::test]
async fn an_image_is_served_as_it_was_pushed() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    let digest = sha256(body.as_bytes());
    let put = mirror.put("team/a", "v1", &body).await;
    assert_eq!(
        (put.status, put.header("docker-content-digest")),
        (201, &*digest)
    );
    assert_eq!(
        put.header("location"),
        format!("/v2/team/a/manifests/{digest}")
    );
    for reference in ["v1", &digest] {
        let path = format!("/v2/team/a/manifests/{reference}");
        let got = mirror.get(&path).await;
        got.assert_bytes(200, body.as_bytes());
        assert_eq!(got.header("content-type"), super::OCI_MANIFEST);
        assert_eq!(got.header("docker-content-digest"), digest);
        let head = mirror.head(&path).await;
        assert_eq!(head.header("content-length"), body.len().to_string());
    }
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 201, "again");
    let other = mirror.get("/v2/team/b/manifests/v1").await;
    assert_eq!(
        (other.status, other.code()),
        (404, "NAME_UNKNOWN".to_owned())
    );
    let none = mirror.get("/v2/team/a/manifests/v2").await;
    assert_eq!(
        (none.status, none.code()),
        (404, "MANIFEST_UNKNOWN".to_owned())
    );
}

#[tokio::test]
async fn missing_blob_named_in_manifest_put() {
    let mirror = registry().start().await;
    let config = mirror.blob("team/a", b"{}").await;
    let absent = [sha256(b"1"), sha256(b"2"), sha256(b"3"), sha256(b"4")];
    let layers: Vec<_> = absent.iter().map(|it| (it.as_str(), 1)).collect();
    let refused = mirror
        .put("team/a", "v1", &manifest(&config, &layers))
        .await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "MANIFEST_BLOB_UNKNOWN".to_owned())
    );
    let named = &json(&refused)["errors"][0]["detail"]["digests"];
    assert_eq!(*named, serde_json::json!(absent));
    // A blob of another repository is none of this one.
    mirror.blob("team/b", b"1").await;
    let body = manifest(&config, &[(&absent[0], 1)]);
    assert_eq!(mirror.put("team/a", "v1", &body).await.status, 400);
    assert_eq!(mirror.get("/v2/team/a/manifests/v1").await.status, 404);
}

#[tokio::test]
async fn index_with_missing_child_refused_or_sparse_by_rule() {
    let mirror = MirrorBuilder::secluded(&["docker.io"])
        .with(|config| {
            hosts(config, |hosted| {
                let mut sparse = namespace("sparse");
                sparse.sparse = true;
                hosted.namespaces.push(sparse);
            });
        })
        .start()
        .await;
    let child = mirror.image("team/a", "v1", b"layer").await;
    let full = index(&[(&child, 3)]);
    assert_eq!(mirror.put("team/a", "all", &full).await.status, 201);
    let half = index(&[(&child, 3), (&sha256(b"x"), 3)]);
    assert_eq!(
        mirror.put("team/a", "all", &half).await.code(),
        "MANIFEST_BLOB_UNKNOWN"
    );
    assert_eq!(mirror.put("sparse/a", "all", &half).await.status, 201);
    let got = mirror.get("/v2/sparse/a/manifests/all").await;
    assert_eq!(got.header("content-type"), OCI_INDEX);
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let mirror = registry().start().await;
    let digest = mirror.image("team/a", "v1", b"layer").await;
    for body in ["", "no json", "{}", "[]", r#"{"errors":[]}"#] {
        let refused = mirror.put("team/a", "v2", body).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "MANIFEST_INVALID".to_owned()),
            "{body}"
        );
    }
    let body = mirror.get("/v2/team/a/manifests/v1").await.body;
    let path = format!("/v2/team/a/manifests/{}", sha256(b"other"));
    let refused = mirror.send(Method::PUT, &path, &body).await;
    assert_eq!(refused.code(), "DIGEST_INVALID");
    let headers = [("content-type", OCI_INDEX)];
    let path = "/v2/team/a/manifests/v2";
    let refused = mirror
        .client
        .ask_with(Method::PUT, path, &headers, body.into())
        .await;
    assert_eq!(refused.code(), "MANIFEST_INVALID");
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(5_000_000));
    assert!(matches!(
        mirror.put("team/a", "v2", &large).await.status,
        0 | 413
    ));
    let got = mirror.get("/v2/team/a/manifests/v1").await;
    assert_eq!(got.header("docker-content-digest"), digest);
}

#[tokio::test]
async fn a_manifest_is_put_by_its_digest_and_under_several_tags() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    for digest in [sha256(body.as_bytes()), sha512(body.as_bytes())] {
        let reference = format!("{digest}?tag=a&tag=b");
        let put = mirror.put("team/a", &reference, &body).await;
        assert_eq!(put.status, 201, "{}", put.text());
        assert_eq!(put.all("oci-tag"), ["a", "b"]);
        for tag in ["a", "b"] {
            let got = mirror.head(&format!("/v2/team/a/manifests/{tag}")).await;
            assert_eq!(got.header("docker-content-digest"), digest);
        }
    }
}

#[tokio::test]
async fn a_condition_on_a_tag_holds_or_the_push_is_refused() {
    let mirror = registry().start().await;
    let (one, two) = (
        mirror.parts("team/a", b"1").await,
        mirror.parts("team/a", b"2").await,
    );
    let named = |body: &str| format!("\"{}\"", sha256(body.as_bytes()));
    assert_eq!(put_if(&mirror, "t", &one, ("if-match", "*")).await, 412);
    assert_eq!(
        put_if(&mirror, "t", &one, ("if-none-match", "*")).await,
        201
    );
    assert_eq!(
        put_if(&mirror, "t", &two, ("if-none-match", "*")).await,
        412
    );
    assert_eq!(
        put_if(&mirror, "t", &two, ("if-match", &named(&two))).await,
        412
    );
    assert_eq!(
        put_if(&mirror, "t", &two, ("if-match", &named(&one))).await,
        201
    );
    assert_eq!(
        put_if(&mirror, "t", &two, ("if-match", "nonsense")).await,
        400
    );
    let got = mirror.head("/v2/team/a/manifests/t").await;
    assert_eq!(got.header("docker-content-digest"), sha256(two.as_bytes()));
}

fn with_rule(mode: ImmutableMode) -> MirrorBuilder {
    MirrorBuilder::secluded(&["docker.io"]).with(|config| {
        hosts(config, |hosted| {
            hosted.immutable.push(Immutable {
                repository: "team/*".to_owned(),
                tag: "v*".to_owned(),
                mode,
            });
        });
    })
}

#[tokio::test]
async fn immutable_same_digest_again_is_201() {
    let mirror = with_rule(ImmutableMode::NoMove).start().await;
    let (one, two) = (
        mirror.parts("team/a", b"1").await,
        mirror.parts("team/a", b"2").await,
    );
    for _ in 0..2 {
        assert_eq!(mirror.put("team/a", "v1", &one).await.status, 201);
    }
    let refused = mirror.put("team/a", "v1", &two).await;
    assert_eq!((refused.status, refused.code()), (403, "DENIED".to_owned()));
    let by_digest = format!("{}?tag=v1", sha256(two.as_bytes()));
    assert_eq!(mirror.put("team/a", &by_digest, &two).await.status, 403);
    assert_eq!(mirror.put("team/a", "latest", &two).await.status, 201);
    assert_eq!(mirror.put("team/a", "latest", &one).await.status, 201);
    assert_eq!(mirror.delete("/v2/team/a/manifests/v1").await.status, 202);
    assert_eq!(mirror.put("team/a", "v1", &two).await.status, 201);
}

#[tokio::test]
async fn immutable_tag_is_not_deleted_and_nor_is_its_manifest() {
    let mirror = with_rule(ImmutableMode::NoMoveNoDelete).start().await;
    let digest = mirror.image("team/a", "v1", b"1").await;
    for reference in ["v1", &digest] {
        let refused = mirror
            .delete(&format!("/v2/team/a/manifests/{reference}"))
            .await;
        assert_eq!((refused.status, refused.code()), (403, "DENIED".to_owned()));
    }
    assert_eq!(mirror.head("/v2/team/a/manifests/v1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_first_pushes_of_an_immutable_tag_one_wins() {
    let mirror = Arc::new(with_rule(ImmutableMode::NoMove).start().await);
    for round in 0..5 {
        let mut pushes = Vec::new();
        for number in 0..4 {
            let body = mirror
                .parts("team/a", format!("{round} {number}").as_bytes())
                .await;
            let mirror = Arc::clone(&mirror);
            pushes.push(tokio::spawn(async move {
                mirror
                    .put("team/a", &format!("v{round}"), &body)
                    .await
                    .status
            }));
        }
        let mut statuses: Vec<u16> = Vec::new();
        for push in pushes {
            statuses.push(push.await.unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 403, 403, 403]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_tag_two_pushers_one_order() {
    let mirror = Arc::new(registry().start().await);
    let mut pushes = Vec::new();
    for number in 0..8 {
        let body = mirror.parts("team/a", &[number]).await;
        let mirror = Arc::clone(&mirror);
        pushes.push(tokio::spawn(async move {
            mirror.put("team/a", "t", &body).await.status
        }));
    }
    for push in pushes {
        assert_eq!(push.await.unwrap(), 201);
    }
    let by_tag = mirror.get("/v2/team/a/manifests/t").await;
    let digest = by_tag.header("docker-content-digest").to_owned();
    let by_digest = mirror.get(&format!("/v2/team/a/manifests/{digest}")).await;
    assert_eq!(by_tag.body, by_digest.body);
}

#[tokio::test]
async fn tags_come_in_order_and_in_pages() {
    let mirror = registry().start().await;
    let body = mirror.parts("team/a", b"layer").await;
    for tag in ["b", "A", "c", "a", "B10", "b2"] {
        assert_eq!(mirror.put("team/a", tag, &body).await.status, 201);
    }
    let all = json(&mirror.get("/v2/team/a/tags/list").await);
    assert_eq!(all["name"], "team/a");
    assert_eq!(
        all["tags"],
        serde_json::json!(["A", "a", "b", "B10", "b2", "c"])
    );
    let mut path = "/v2/team/a/tags/list?n=2".to_owned();
    let mut found: Vec<Value> = Vec::new();
    loop {
        let page = mirror.get(&path).await;
        found.extend(json(&page)["tags"].as_array().unwrap().clone());
        let link = page.header("link").to_owned();
        let Some(next) = link.strip_prefix('<').and_then(|it| it.split_once('>')) else {
            break;
        };
        path = next.0.to_owned();
    }
    assert_eq!(Value::from(found), all["tags"]);
    let none = mirror.get("/v2/team/a/tags/list?n=0").await;
    assert_eq!(json(&none)["tags"], serde_json::json!([]));
    assert_eq!(none.header("link"), "");
    let after = mirror.get("/v2/team/a/tags/list?last=b").await;
    assert_eq!(json(&after)["tags"], serde_json::json!(["B10", "b2", "c"]));
    assert_eq!(
        mirror.get("/v2/team/none/tags/list").await.code(),
        "NAME_UNKNOWN"
    );
}

fn referrer(config: &str, subject: &str, artifact: &str) -> String {
    let mut body: Value = serde_json::from_str(&manifest(config, &[])).unwrap();
    body["artifactType"] = artifact.into();
    body["annotations"] = serde_json::json!({ "of": artifact });
    body["subject"] =
        serde_json::json!({ "mediaType": super::OCI_MANIFEST, "digest": subject, "size": 3 });
    body.to_string()
}

#[tokio::test]
async fn referrers_are_listed_filtered_and_paged() {
    let mirror = registry().start().await;
    let config = mirror.blob("team/a", b"{}").await;
    let subject = sha256(b"a subject that is not there");
    let list = format!("/v2/team/a/referrers/{subject}");
    let empty = mirror.get(&list).await;
    assert_eq!(
        (empty.status, empty.header("content-type")),
        (200, OCI_INDEX)
    );
    assert_eq!(json(&empty)["manifests"], serde_json::json!([]));
    let mut digests = Vec::new();
    for artifact in ["application/x", "application/y", "application/z"] {
        let body = referrer(&config, &subject, artifact);
        let digest = sha256(body.as_bytes());
        let put = mirror.put("team/a", &digest, &body).await;
        assert_eq!((put.status, put.header("oci-subject")), (201, &*subject));
        digests.push(digest);
    }
    let all = json(&mirror.get(&list).await);
    let found: Vec<&str> = all["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["digest"].as_str().unwrap())
        .collect();
    assert_eq!(found, digests);
    assert_eq!(all["manifests"][1]["artifactType"], "application/y");
    assert_eq!(all["manifests"][1]["annotations"]["of"], "application/y");
    let some = mirror
        .get(&format!("{list}?artifactType=application/y"))
        .await;
    assert_eq!(some.header("oci-filters-applied"), "artifactType");
    assert_eq!(json(&some)["manifests"].as_array().unwrap().len(), 1);
    let page = mirror.get(&format!("{list}?n=2")).await;
    assert_eq!(json(&page)["manifests"].as_array().unwrap().len(), 2);
    let link = page.header("link").to_owned();
    let next = link
        .strip_prefix('<')
        .and_then(|it| it.split_once('>'))
        .unwrap()
        .0;
    let rest = mirror.get(next).await;
    assert_eq!(json(&rest)["manifests"][0]["digest"], *digests[2]);
    assert_eq!(rest.header("link"), "");
    let path = format!("/v2/team/a/manifests/{}", digests[0]);
    assert_eq!(mirror.delete(&path).await.status, 202);
    let left = json(&mirror.get(&list).await);
    assert_eq!(left["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(
        mirror.get("/v2/team/a/referrers/sha256:00").await.status,
        400
    );
}

#[tokio::test]
async fn entries_of_a_fallback_tag_are_merged() {
    let mirror = registry().start().await;
    let subject = sha256(b"subject");
    let other = mirror.image("team/a", "other", b"layer").await;
    let tag = subject.replace(':', "-");
    let listed = index(&[(&other, 3)]);
    assert_eq!(mirror.put("team/a", &tag, &listed).await.status, 201);
    let found = json(&mirror.get(&format!("/v2/team/a/referrers/{subject}")).await);
    assert_eq!(found["manifests"][0]["digest"], *other);
    let got = mirror.get(&format!("/v2/team/a/manifests/{tag}")).await;
    got.assert_bytes(200, listed.as_bytes());
}
