//! The tools of the other tests, tested: a scripted registry that lies to its
//! users would make every other result worthless.

use std::sync::Arc;
use std::time::Duration;

use crate::common::images::{self, Blob, DOCKER_MANIFEST, OCI_MANIFEST};
use crate::common::{
    Answer, Auth, Client, Dialect, Ending, FakeRegistry, Fault, Kind, LinkForm, Rule, Samples,
};
use http::Method;
use tokio::sync::Semaphore;

async fn registry() -> (FakeRegistry, Client, Blob) {
    let registry = FakeRegistry::start().await;
    let blob = Blob::noise(1, 300_000);
    registry.put_blob("app", &blob);
    let client = Client(registry.authority().parse().unwrap());
    (registry, client, blob)
}

fn path(blob: &Blob) -> String {
    format!("/v2/app/blobs/{}", blob.digest)
}

#[tokio::test]
async fn serves_blobs_whole_and_in_ranges() {
    let (registry, client, blob) = registry().await;
    let whole = client.get(&path(&blob)).await;
    whole.assert_bytes(200, &blob.bytes);
    assert_eq!(whole.header("docker-content-digest"), blob.digest);
    let part = client
        .get_with(&path(&blob), &[("Range", "bytes=10-19")])
        .await;
    part.assert_bytes(206, &blob.bytes[10..20]);
    assert_eq!(part.header("content-range"), "bytes 10-19/300000");
    let rest = client
        .get_with(&path(&blob), &[("Range", "bytes=299990-")])
        .await;
    rest.assert_bytes(206, &blob.bytes[299_990..]);
    let beyond = client
        .get_with(&path(&blob), &[("Range", "bytes=300000-")])
        .await;
    assert_eq!(beyond.status, 416);
    let head = client.head(&path(&blob)).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, "300000")
    );
    let counters = registry.counters();
    assert_eq!(counters.blob_gets(&blob.digest), 4);
    assert_eq!(counters.blob_heads(&blob.digest), 1);
    assert_eq!(counters.sent(&blob.digest), 300_020);
}

#[tokio::test]
async fn spoils_bodies_as_told() {
    let (registry, client, blob) = registry().await;
    let mut flipped = blob.bytes.to_vec();
    flipped[7] ^= 0x20;
    registry.fault(Rule::gets(Kind::Blob).times(1), Fault::Flip(7));
    client.get(&path(&blob)).await.assert_bytes(200, &flipped);
    registry.fault(Rule::gets(Kind::Blob).times(1), Fault::Short(100));
    client
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes[..100]);
    registry.fault(Rule::gets(Kind::Blob).times(1), Fault::Long(5));
    assert_eq!(client.get(&path(&blob)).await.body.len(), 300_005);
    registry.fault(Rule::all(Kind::Blob), Fault::Cut(150_000));
    let cut = client.get(&path(&blob)).await;
    assert_eq!((cut.status, cut.ending), (200, Ending::Broken));
    assert_eq!(cut.body, blob.bytes[..150_000]);
    registry.heal();
    client
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
}

/// A GET of some bytes of the blob.
async fn part(client: &Client, blob: &Blob, range: &str) -> Answer {
    client.get_with(&path(blob), &[("Range", range)]).await
}

#[tokio::test]
async fn cuts_only_the_ranges_that_come_to_the_offset() {
    let (registry, client, blob) = registry().await;
    registry.fault(Rule::gets(Kind::Blob), Fault::Cut(150_000));
    let cut = part(&client, &blob, "bytes=100000-199999").await;
    assert_eq!((cut.status, cut.ending), (206, Ending::Broken));
    assert_eq!(cut.body, blob.bytes[100_000..150_000]);
    let before = part(&client, &blob, "bytes=100000-149998").await;
    before.assert_bytes(206, &blob.bytes[100_000..149_999]);
    let behind = part(&client, &blob, "bytes=150001-").await;
    behind.assert_bytes(206, &blob.bytes[150_001..]);
    let at_once = part(&client, &blob, "bytes=150000-").await;
    assert_eq!((at_once.body.len(), at_once.ending), (0, Ending::Broken));
    assert_eq!(registry.counters().sent(&blob.digest), 249_998);
    let asked = [
        Some((100_000, Some(200_000))),
        Some((100_000, Some(149_999))),
        Some((150_001, None)),
        Some((150_000, None)),
    ];
    assert_eq!(registry.counters().blob_ranges(&blob.digest), asked);
}

#[tokio::test]
async fn stalls_without_an_end() {
    let (registry, client, blob) = registry().await;
    registry.fault(Rule::gets(Kind::Blob), Fault::Stall(150_000));
    let mut whole = client.open(&path(&blob), &[]).await;
    assert_eq!(whole.exactly(150_000).await, blob.bytes[..150_000]);
    let range = [("Range", "bytes=140000-")];
    let mut ranged = client.open(&path(&blob), &range).await;
    assert_eq!(ranged.exactly(10_000).await, blob.bytes[140_000..150_000]);
    let patience = Duration::from_millis(200);
    for stalled in [&mut whole, &mut ranged] {
        let more = tokio::time::timeout(patience, stalled.piece()).await;
        assert!(more.is_err(), "neither bytes nor an end: {more:?}");
    }
}

#[tokio::test]
async fn treats_ranges_as_told() {
    let (registry, client, blob) = registry().await;
    let range = "bytes=1000-1999";
    let next = |fault| registry.fault(Rule::gets(Kind::Blob).ranged().times(1), fault);
    next(Fault::IgnoreRange);
    client
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
    let ignored = part(&client, &blob, range).await;
    ignored.assert_bytes(200, &blob.bytes);
    assert_eq!(ignored.header("content-range"), "");
    next(Fault::LieRange);
    let lie = part(&client, &blob, range).await;
    lie.assert_bytes(206, &blob.bytes[..1000]);
    assert_eq!(lie.header("content-range"), "bytes 1000-1999/300000");
    next(Fault::OtherRange);
    let other = part(&client, &blob, range).await;
    other.assert_bytes(206, &blob.bytes[1001..2001]);
    assert_eq!(other.header("content-range"), "bytes 1001-2000/300000");
    next(Fault::OtherRange);
    let other = part(&client, &blob, "bytes=299000-").await;
    other.assert_bytes(206, &blob.bytes[298_999..299_999]);
    next(Fault::RangeLimit(10));
    let limited = part(&client, &blob, range).await;
    limited.assert_bytes(206, &blob.bytes[1000..1010]);
    assert_eq!(limited.header("content-range"), "bytes 1000-1009/300000");
    part(&client, &blob, range)
        .await
        .assert_bytes(206, &blob.bytes[1000..2000]);
}

#[tokio::test]
async fn faults_can_meet_certain_ranges_alone() {
    let (registry, client, blob) = registry().await;
    let get = Rule::gets(Kind::Blob);
    registry.fault(get.clone().whole(), Fault::Status(500));
    registry.fault(get.clone().starting_at(1000), Fault::Status(501));
    registry.fault(get.containing(5000), Fault::Status(502));
    assert_eq!(client.get(&path(&blob)).await.status, 500);
    let expected = [
        ("bytes=0-", 502),
        ("bytes=0-4999", 206),
        ("bytes=1000-1000", 501),
        ("bytes=1001-5000", 502),
        ("bytes=5001-", 206),
    ];
    for (range, status) in expected {
        assert_eq!(part(&client, &blob, range).await.status, status, "{range}");
    }
}

#[tokio::test]
async fn says_and_wants_the_headers_it_is_told_to() {
    let (registry, client, blob) = registry().await;
    let answer = Fault::Answer {
        status: 403,
        headers: vec![
            ("Retry-After", "12".to_owned()),
            ("X-Limit", "1".to_owned()),
        ],
        body: "slow down".to_owned(),
    };
    registry.fault(Rule::gets(Kind::Blob).times(1), answer);
    let said = client.get(&path(&blob)).await;
    said.assert_bytes(403, b"slow down");
    assert_eq!(
        (said.header("retry-after"), said.header("x-limit")),
        ("12", "1")
    );

    registry.options(|options| options.etag = Some("\"one\"".to_owned()));
    let headers = |validator| [("Range", "bytes=0-9"), ("If-Range", validator)];
    let same = client.get_with(&path(&blob), &headers("\"one\"")).await;
    same.assert_bytes(206, &blob.bytes[..10]);
    assert_eq!(same.header("etag"), "\"one\"");
    let changed = client.get_with(&path(&blob), &headers("\"two\"")).await;
    changed.assert_bytes(200, &blob.bytes);

    registry.options(|options| {
        options.required_headers = vec![("Via", None), ("X-Key", Some("secret".to_owned()))];
    });
    let statuses: [(&[(&str, &str)], u16); 4] = [
        (&[], 400),
        (&[("Via", "1.1 somebody")], 400),
        (&[("Via", "1.1 somebody"), ("X-Key", "other")], 400),
        (&[("Via", "1.1 somebody"), ("X-Key", "secret")], 200),
    ];
    for (headers, status) in statuses {
        assert_eq!(client.get_with(&path(&blob), headers).await.status, status);
    }
}

#[tokio::test]
async fn cuts_chunked_bodies_visibly() {
    let (registry, client, blob) = registry().await;
    registry.options(|options| options.content_length = false);
    let whole = client.get(&path(&blob)).await;
    whole.assert_bytes(200, &blob.bytes);
    assert_eq!(whole.header("content-length"), "");
    registry.fault(Rule::all(Kind::Blob), Fault::Cut(10));
    assert_eq!(client.get(&path(&blob)).await.ending, Ending::Broken);
}

#[tokio::test]
async fn answers_errors_as_told_and_only_so_often() {
    let (registry, client, blob) = registry().await;
    registry.fault(
        Rule::gets(Kind::Blob).of(&blob.digest).times(1),
        Fault::RateLimited(7),
    );
    let limited = client.get(&path(&blob)).await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, "7"));
    assert_eq!(limited.code(), "TOOMANYREQUESTS");
    registry.fault(Rule::gets(Kind::Blob).times(1), Fault::Status(503));
    assert_eq!(client.get(&path(&blob)).await.status, 503);
    let instead = Fault::Instead {
        content_type: "text/html",
        body: "<html>log in</html>",
    };
    registry.fault(Rule::gets(Kind::Blob).times(1), instead);
    client
        .get(&path(&blob))
        .await
        .assert_bytes(200, b"<html>log in</html>");
    client
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
}

#[tokio::test]
async fn gates_let_through_what_the_test_releases() {
    let (registry, client, blob) = registry().await;
    registry.options(|options| options.chunk_bytes = 1000);
    let gate = registry.gate(&blob.digest);
    let mut streaming = client.open(&path(&blob), &[]).await;
    gate.release(2000);
    assert_eq!(streaming.exactly(2000).await, blob.bytes[..2000]);
    assert_eq!(registry.counters().sent(&blob.digest), 2000);
    gate.open();
    streaming.assert_rest_equals(&blob.bytes[2000..]).await;
    let permit = Arc::new(Semaphore::new(0));
    registry.fault(Rule::all(Kind::Ping), Fault::Wait(Arc::clone(&permit)));
    let asking = tokio::spawn(async move { client.get("/v2/").await.status });
    registry
        .wait_for("the ping", |c| c.of(&Method::GET, Kind::Ping) == 1)
        .await;
    assert!(!asking.is_finished());
    permit.add_permits(1);
    assert_eq!(asking.await.unwrap(), 200);
}

#[tokio::test]
async fn wants_the_tokens_it_issued() {
    let (registry, client, blob) = registry().await;
    registry.options(|options| options.auth = Auth::token_for("robot", "secret"));
    let refused = client.get(&path(&blob)).await;
    assert_eq!(refused.status, 401);
    let expected = format!(
        "Bearer realm=\"{}/token\",service=\"fake\",scope=\"repository:app:pull\"",
        registry.url()
    );
    assert_eq!(refused.header("www-authenticate"), expected);
    let token_path = "/token?service=fake&scope=repository%3Aapp%3Apull";
    assert_eq!(client.get(token_path).await.status, 401);
    let basic = ("Authorization", "Basic cm9ib3Q6c2VjcmV0");
    let answer = client.get_with(token_path, &[basic]).await;
    let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let bearer = format!("Bearer {}", value["token"].as_str().unwrap());
    let headers = [("Authorization", bearer.as_str())];
    client
        .get_with(&path(&blob), &headers)
        .await
        .assert_bytes(200, &blob.bytes);
    assert_eq!(
        client
            .get_with("/v2/other/tags/list", &headers)
            .await
            .status,
        401
    );
    registry.expire_tokens();
    assert_eq!(client.get_with(&path(&blob), &headers).await.status, 401);
    registry.options(|options| options.auth = Auth::basic("robot", "secret"));
    client
        .get_with(&path(&blob), &[basic])
        .await
        .assert_bytes(200, &blob.bytes);
}

#[tokio::test]
async fn redirects_to_a_host_that_refuses_authorization() {
    let (registry, client, blob) = registry().await;
    let cdn = FakeRegistry::start_on("127.0.0.2").await;
    cdn.put_blob("any", &blob);
    cdn.options(|options| options.refuse_authorization = true);
    registry.options(|options| options.redirect_blobs = Some(cdn.url()));
    let answer = client.get(&path(&blob)).await;
    assert_eq!(answer.status, 307);
    let location = answer
        .header("location")
        .strip_prefix(&cdn.url())
        .unwrap()
        .to_owned();
    let at_cdn = Client(cdn.authority().parse().unwrap());
    at_cdn.get(&location).await.assert_bytes(200, &blob.bytes);
    let leaked = at_cdn
        .get_with(&location, &[("Authorization", "Bearer x")])
        .await;
    assert_eq!(leaked.status, 400);
    assert_eq!(cdn.counters().blob_gets(&blob.digest), 2);
}

#[tokio::test]
async fn negotiates_manifests_by_accept() {
    let (registry, client, _) = registry().await;
    let new = images::image(1, &[10], Dialect::Oci);
    let old = images::image(1, &[10], Dialect::Docker);
    registry.put_variants("app", "v1", &[&new.manifest, &old.manifest]);
    for image in [&new, &old] {
        let accept = [("Accept", image.manifest.media_type.as_str())];
        let answer = client.get_with("/v2/app/manifests/v1", &accept).await;
        answer.assert_bytes(200, &image.manifest.bytes);
    }
    let fallback = client.get("/v2/app/manifests/v1").await;
    assert_eq!(fallback.header("content-type"), DOCKER_MANIFEST);
    let by_digest = format!("/v2/app/manifests/{}", new.manifest.digest);
    assert_eq!(
        client.get(&by_digest).await.header("content-type"),
        OCI_MANIFEST
    );
    registry.options(|options| {
        options.head = false;
        options.digest_header = false;
    });
    assert_eq!(client.head("/v2/app/manifests/v1").await.status, 405);
    assert_eq!(
        client.get(&by_digest).await.header("docker-content-digest"),
        ""
    );
}

#[tokio::test]
async fn pages_tags_and_lists_referrers() {
    let (registry, client, _) = registry().await;
    let image = images::image(1, &[10], Dialect::Oci);
    for tag in ["a", "b", "c"] {
        registry.put_manifest("app", Some(tag), &image.manifest);
    }
    let page = client.get("/v2/app/tags/list?n=2").await;
    assert_eq!(page.text(), r#"{"name":"app","tags":["a","b"]}"#);
    assert_eq!(
        page.header("link"),
        "</v2/app/tags/list?last=b&n=2>; rel=\"next\""
    );
    registry.options(|options| options.link = LinkForm::Absolute);
    let link = client.get("/v2/app/tags/list?n=2").await;
    assert!(
        link.header("link")
            .starts_with(&format!("<{}/v2/", registry.url()))
    );
    let last = client.get("/v2/app/tags/list?last=b&n=2").await;
    assert_eq!(
        (last.text().as_str(), last.header("link")),
        (r#"{"name":"app","tags":["c"]}"#, "")
    );

    let sbom = images::artifact(&image.manifest, "application/sbom", &Blob::noise(9, 20));
    registry.put_image("app", None, &sbom);
    let path = format!("/v2/app/referrers/{}", image.manifest.digest);
    let all = client.get(&path).await;
    assert!(all.text().contains(&sbom.manifest.digest));
    let none = client.get(&format!("{path}?artifactType=other")).await;
    assert_eq!(none.header("oci-filters-applied"), "artifactType");
    assert!(!none.text().contains(&sbom.manifest.digest));
    registry.options(|options| options.referrers = false);
    assert_eq!(client.get(&path).await.status, 404);
}

#[tokio::test]
async fn goes_down_and_comes_back_on_the_same_port() {
    let (registry, client, blob) = registry().await;
    client
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
    registry.go_down().await;
    assert_eq!(client.get(&path(&blob)).await.status, 0);
    registry.come_back();
    client
        .get(&path(&blob))
        .await
        .assert_bytes(200, &blob.bytes);
}

#[test]
fn metrics_are_parsed() {
    let text = "# HELP a b\nm{kind=\"blob\",upstream=\"\"} 2\nm{kind=\"tags\",upstream=\"x\"} 3\nplain 1.5\n";
    let samples = Samples::parse(text);
    assert_eq!(samples.sum("m", &[]).to_string(), "5");
    assert_eq!(samples.sum("m", &[("kind", "blob")]).to_string(), "2");
    assert_eq!(samples.sum("plain", &[]).to_string(), "1.5");
    assert!(samples.has("plain") && !samples.has("absent"));
}
