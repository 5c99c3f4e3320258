//! Tokens and credentials: fetched once, renewed in time, sent nowhere else.

use crate::common::images::{self, Blob};
use crate::common::mirror::credentials;
use crate::common::{Auth, Dialect, FakeRegistry, Fault, Image, Kind, Mirror, MirrorBuilder, Rule};
use tokio::task::JoinSet;

const TAG: &str = "/v2/team/app/manifests/v1";

async fn registry(auth: Auth) -> (FakeRegistry, Image) {
    let registry = FakeRegistry::start().await;
    let image = images::image(51, &[50_000; 3], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    registry.options(|options| options.auth = auth);
    (registry, image)
}

async fn with_credentials(registry: &FakeRegistry) -> Mirror {
    MirrorBuilder::new()
        .upstream("docker.io", registry, |upstream| {
            upstream.default = true;
            upstream.logins = vec![credentials("robot", "s3cret")];
        })
        .start()
        .await
}

async fn pull(mirror: &Mirror, image: &Image) {
    mirror
        .get(TAG)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    for blob in image.blobs() {
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    }
}

/// Public images of Docker Hub want a token too; goharbor/harbor#23750: one for each pull hits
/// the token server's own limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anonymous_token_is_fetched_once_for_a_pull() {
    let (registry, image) = registry(Auth::anonymous_token()).await;
    let mirror = Mirror::of(&registry).await;
    pull(&mirror, &image).await;
    let counters = registry.counters();
    assert_eq!(counters.token_requests(), 1);
    let token = counters
        .records
        .iter()
        .find(|r| r.kind == Kind::Token)
        .unwrap();
    assert_eq!(token.header("authorization"), "", "nothing to send");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_with_credentials_in_either_field() {
    for (field, expires_in) in [("token", Some(300)), ("access_token", None)] {
        let (registry, image) = registry(Auth::Token {
            credentials: Some(("robot".to_owned(), "s3cret".to_owned())),
            expires_in,
            realm: None,
            field,
        })
        .await;
        let mirror = with_credentials(&registry).await;
        pull(&mirror, &image).await;
        assert_eq!(registry.counters().token_requests(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basic_credentials() {
    let (registry, image) = registry(Auth::basic("robot", "s3cret")).await;
    let mirror = with_credentials(&registry).await;
    pull(&mirror, &image).await;
    let anonymous = Mirror::of(&registry).await;
    let refused = anonymous.get(TAG).await;
    assert!(refused.status >= 400, "{}", refused.status);
    assert!(!refused.text().contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_fetch_serves_many_cold_blobs() {
    let (registry, _) = registry(Auth::anonymous_token()).await;
    let blobs: Vec<Blob> = (0..50).map(|seed| Blob::noise(500 + seed, 2000)).collect();
    for blob in &blobs {
        registry.put_blob("team/app", blob);
    }
    let mirror = Mirror::of(&registry).await;
    let mut pulls = JoinSet::new();
    for blob in blobs {
        let client = mirror.client;
        pulls.spawn(async move {
            let path = format!("/v2/team/app/blobs/{}", blob.digest);
            client.get(&path).await.assert_bytes(200, &blob.bytes);
        });
    }
    while let Some(pull) = pulls.join_next().await {
        pull.unwrap();
    }
    assert_eq!(registry.counters().token_requests(), 1);
}

/// sonatype/nexus-public#639: a bad token was kept until the restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_is_renewed_once() {
    let (registry, image) = registry(Auth::anonymous_token()).await;
    let mirror = Mirror::of(&registry).await;
    mirror
        .get(TAG)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    registry.expire_tokens();
    let layer = &image.layers[0];
    let path = format!("/v2/team/app/blobs/{}", layer.digest);
    mirror.get(&path).await.assert_bytes(200, &layer.bytes);
    assert_eq!(registry.counters().token_requests(), 2);
}

/// A server that refuses even fresh tokens is asked a bounded number of times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_always_refuses_is_left_alone() {
    let (registry, image) = registry(Auth::anonymous_token()).await;
    registry.fault(Rule::all(Kind::Manifest), Fault::Status(401));
    let mirror = Mirror::of(&registry).await;
    let answer = mirror.get(TAG).await;
    assert!(answer.status >= 400, "{}", answer.status);
    let counters = registry.counters();
    assert!(
        counters.records.len() <= 12,
        "{} requests",
        counters.records.len()
    );
    registry.heal();
    mirror
        .get(TAG)
        .await
        .assert_bytes(200, &image.manifest.bytes);
}

/// docker.io and auth.docker.io: the token server is another host, named by the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_server_may_be_another_host() {
    let token_server = FakeRegistry::start_on("127.0.0.2").await;
    token_server.options(|options| options.auth = Auth::token_for("robot", "s3cret"));
    let (registry, image) = registry(Auth::Token {
        credentials: None,
        expires_in: Some(300),
        realm: Some(format!("{}/token", token_server.url())),
        field: "token",
    })
    .await;
    let mirror = with_credentials(&registry).await;
    registry.trust_tokens_of(&token_server);
    pull(&mirror, &image).await;
    assert_eq!(token_server.counters().token_requests(), 1);
    assert_eq!(registry.counters().token_requests(), 0);
    for record in registry.counters().records {
        let sent = record.header("authorization").to_owned();
        assert!(
            !sent.starts_with("Basic"),
            "the registry asked for Bearer and got {sent}"
        );
    }
}

/// dist-spec: Authorization must not cross hosts; S3 answers 400 where it does
/// (open-policy-agent/opa#6580).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_carries_no_credentials_to_another_host() {
    for auth in [
        Auth::token_for("robot", "s3cret"),
        Auth::basic("robot", "s3cret"),
    ] {
        let (registry, image) = registry(auth).await;
        let cdn = FakeRegistry::start_on("127.0.0.2").await;
        cdn.options(|options| options.refuse_authorization = true);
        cdn.put_image("team/app", None, &image);
        registry.options(|options| options.redirect_blobs = Some(cdn.url()));
        let mirror = with_credentials(&registry).await;
        pull(&mirror, &image).await;
        let records = cdn.counters().records;
        assert!(!records.is_empty());
        for record in records {
            assert_eq!(record.header("authorization"), "", "{}", record.path);
            assert_eq!(record.query, "signature=secret");
        }
    }
}

/// rpardini/docker-registry-proxy#147: redirect hosts need not be listed; a relative Location
/// stays on the same host, where the token is still needed for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relative_redirects_and_redirected_manifests() {
    let (registry, image) = registry(Auth::Open).await;
    registry.options(|options| options.redirect_blobs = Some(String::new()));
    let mirror = Mirror::of(&registry).await;
    pull(&mirror, &image).await;

    let (front, _) = self::registry(Auth::Open).await;
    let regional = FakeRegistry::start_on("127.0.0.2").await;
    regional.put_image("team/app", Some("v1"), &image);
    front.options(|options| {
        options.redirect_manifests = Some(regional.url());
        options.redirect_blobs = Some(regional.url());
    });
    pull(&Mirror::of(&front).await, &image).await;
}

/// Signed URLs expire: the redirect is asked for anew each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_not_remembered_and_not_endless() {
    let (registry, image) = registry(Auth::Open).await;
    let cdn = FakeRegistry::start_on("127.0.0.2").await;
    cdn.put_image("team/app", None, &image);
    registry.options(|options| options.redirect_blobs = Some(cdn.url()));
    let mirror = Mirror::of(&registry).await;
    let layer = &image.layers[0];
    let path = format!("/v2/team/app/blobs/{}", layer.digest);
    cdn.fault(Rule::all(Kind::Cdn), Fault::Flip(0));
    mirror.get(&path).await.assert_no_clean_success();
    mirror.wait_for_fills().await;
    cdn.heal();
    let before = registry.counters().blob_gets(&layer.digest);
    mirror.get(&path).await.assert_bytes(200, &layer.bytes);
    assert!(registry.counters().blob_gets(&layer.digest) > before);

    // Two hosts that send each other round and round.
    registry.options(|options| options.redirect_manifests = Some(cdn.url()));
    cdn.options(|options| options.redirect_manifests = Some(registry.url()));
    let answer = mirror.get("/v2/team/app/manifests/other").await;
    assert!((500..600).contains(&answer.status), "{}", answer.status);
    let asked = registry.counters().records.len() + cdn.counters().records.len();
    assert!(asked < 100, "{asked} requests");
}

/// moby/moby#30880: credentials of one registry went to another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_stay_with_their_upstream() {
    let (first, image) = registry(Auth::basic("robot", "s3cret")).await;
    let (second, _) = registry(Auth::basic("other", "hidden")).await;
    let mirror = MirrorBuilder::new()
        .upstream("docker.io", &first, |upstream| {
            upstream.default = true;
            upstream.logins = vec![credentials("robot", "s3cret")];
        })
        .upstream("ghcr.io", &second, |upstream| {
            upstream.logins = vec![credentials("other", "hidden")];
        })
        .start()
        .await;
    pull(&mirror, &image).await;
    let path = "/v2/ghcr.io/team/app/manifests/v1";
    mirror
        .get(path)
        .await
        .assert_bytes(200, &image.manifest.bytes);
    for (registry, own) in [
        (&first, "Basic cm9ib3Q6czNjcmV0"),
        (&second, "Basic b3RoZXI6aGlkZGVu"),
    ] {
        for record in registry.counters().records {
            let sent = record.header("authorization").to_owned();
            assert!(sent.is_empty() || sent == own, "{sent}");
        }
    }
}

/// The token server failing is upstream's failure, not "no such image" (goharbor/harbor#23750).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_token_server_is_no_404() {
    let (registry, image) = registry(Auth::anonymous_token()).await;
    for status in [429, 500, 503] {
        registry.fault(Rule::all(Kind::Token), Fault::Status(status));
        let answer = Mirror::of(&registry).await.get(TAG).await;
        assert!(
            matches!(answer.status, 429 | 502..=504),
            "{status} became {}",
            answer.status
        );
        registry.heal();
    }
    pull(&Mirror::of(&registry).await, &image).await;
}
