//! A mirror that would ask itself.

use crate::common::{
    Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Rule, images, within,
};
use http::Method;

const MANIFEST: &str = "/v2/team/app/manifests/v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_is_led_back_to_itself_says_so_at_once() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    registry.options(|options| options.redirect_manifests = Some(mirror.url()));
    let answer = within("the loop to be refused", mirror.get(MANIFEST)).await;
    assert_eq!(answer.status, 508, "{}", answer.text());
    assert!(
        answer.text().contains("leads back here"),
        "{}",
        answer.text()
    );
    let asked = registry.counters().records.len();
    assert!(asked <= 2, "{asked} requests: they went round");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mirrors_that_lead_to_each_other_say_so() {
    let registry = FakeRegistry::start().await;
    let first = Mirror::of(&registry).await;
    let second = MirrorBuilder::new()
        .upstream_at("docker.io", &first.url(), |upstream| {
            upstream.default = true;
        })
        .start()
        .await;
    registry.options(|options| options.redirect_manifests = Some(second.url()));
    let answer = within("the loop to be refused", first.get(MANIFEST)).await;
    assert_eq!(answer.status, 508, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_mirrors_is_no_loop() {
    let registry = FakeRegistry::start().await;
    let image = images::image(5, &[200_000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let second = Mirror::of(&registry).await;
    let first = MirrorBuilder::new()
        .upstream_at("docker.io", &second.url(), |upstream| {
            upstream.default = true;
        })
        .start()
        .await;
    first
        .get(MANIFEST)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    let layer = &image.layers[0];
    let path = format!("/v2/team/app/blobs/{}", layer.digest);
    first.get(&path).await.assert_bytes(200, &layer.bytes);
    let counters = registry.counters();
    let names = |value: &str| value.matches("roadstead-").count();
    assert!(
        counters.records.iter().all(|r| names(r.header("via")) == 2),
        "both are named"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redirect_makes_a_client_read_the_admin_listener() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    let port = mirror.admin.0.port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "2130706433"] {
        registry.heal();
        registry.fault(
            Rule::all(Kind::Tags),
            away(&format!("http://{host}:{port}/api/v1/status")),
        );
        let away = || away(&format!("http://{host}:{port}/metrics"));
        for kind in [Kind::Referrers, Kind::Manifest, Kind::Blob] {
            registry.fault(Rule::all(kind), away());
        }
        for path in [
            "/v2/team/app/tags/list".to_owned(),
            format!("/v2/team/app/referrers/{digest}"),
            "/v2/team/app/manifests/v1".to_owned(),
            format!("/v2/team/app/manifests/{digest}"),
            format!("/v2/team/app/blobs/{digest}"),
        ] {
            let answer = within("the loop to be refused", mirror.get(&path)).await;
            assert_eq!(answer.status, 508, "{host} {path}: {}", answer.text());
            assert!(
                !answer.text().contains("roadstead_"),
                "{path}: {}",
                answer.text()
            );
        }
    }
}

/// A push that had passed through this mirror was 508, as if the mirror would have asked anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_comes_back_is_refused_as_a_push() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    mirror.get(MANIFEST).await;
    let asked = registry.counters();
    let via = asked.records[0].header("via");
    assert!(!via.is_empty());
    let session = "/v2/team/app/blobs/uploads/session";
    for (method, path) in [
        (Method::GET, session),
        (Method::HEAD, session),
        (Method::PATCH, session),
        (Method::POST, "/v2/team/app/blobs/uploads/"),
        (Method::PUT, MANIFEST),
    ] {
        let headers = [("via", via)];
        let answer = mirror.client.ask(method.clone(), path, &headers).await;
        assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text());
        assert_eq!(answer.header("allow"), "GET, HEAD", "{method} {path}");
    }
    let read = mirror.get_with(MANIFEST, &[("via", via)]).await;
    assert_eq!(read.status, 508, "{}", read.text());
    assert_eq!(registry.counters().records.len(), asked.records.len());
}

fn away(target: &str) -> Fault {
    Fault::Answer {
        status: 307,
        headers: vec![("Location", target.to_owned())],
        body: String::new(),
    }
}
