//! `visibility = "upstream"`: each client gets what the upstream gives for the client's own credential.

use super::{access, basic, config, htpasswd};
use crate::common::fake_log::Counters;
use crate::common::images::{self, Image};
use crate::common::mirror::credentials;
use crate::common::{
    Answer, Auth, Dialect, FakeRegistry, Fault, Kind, Mirror, MirrorBuilder, Record, Rule,
};
use http::Method;
use roadstead::upstream::{self, EndpointConfig, Visibility};
use std::time::Duration;

mod confidence;
mod identities;

const APP: &str = "acme/app";
const OTHER: &str = "acme/other";
const ABSENT: &str = "acme/nothing";
const PUBLIC: &str = "library/alpine";
/// The upstream's own host name here.
const OWN_HOST: &str = "private.mirror.corp";

/// A registry with a token server, and a mirror of it that has no login.
struct Site {
    registry: FakeRegistry,
    mirror: Mirror,
    image: Image,
}

/// The content of the registry.
async fn registry() -> (FakeRegistry, Image) {
    let registry = FakeRegistry::start().await;
    let image = images::image(1, &[200_000], Dialect::Oci);
    for repository in [APP, OTHER, PUBLIC] {
        registry.put_image(repository, Some("v1"), &image);
    }
    registry.options(|options| {
        options.auth = Auth::token_for("alice", "upstream-password");
        options.public = vec![PUBLIC];
    });
    (registry, image)
}

fn decides(upstream: &mut upstream::Config) {
    upstream.default = true;
    upstream.visibility = Visibility::Upstream;
    upstream.hosts = vec![OWN_HOST.to_owned()];
}

impl Site {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(change: impl FnOnce(MirrorBuilder) -> MirrorBuilder) -> Self {
        let (registry, image) = registry().await;
        let builder = MirrorBuilder::new().upstream("docker.io", &registry, decides);
        let mirror = change(builder).start().await;
        Self {
            registry,
            mirror,
            image,
        }
    }

    /// With this `[access]`, where `HTPASSWD` has these users.
    async fn with_access(users: &[&str], table: &str) -> Self {
        Self::with(|builder| {
            let file = htpasswd(builder.dir(), users);
            let config = access(&table.replace("HTPASSWD", &format!("{file:?}")));
            builder.with(|all| all.access = config)
        })
        .await
    }

    /// Manifest by tag and by digest, blob, tags, referrers.
    fn paths(&self, repository: &str) -> [String; 5] {
        let (manifest, layer) = (&self.image.manifest.digest, &self.image.layers[0].digest);
        [
            format!("/v2/{repository}/manifests/v1"),
            format!("/v2/{repository}/manifests/{manifest}"),
            format!("/v2/{repository}/blobs/{layer}"),
            format!("/v2/{repository}/tags/list"),
            format!("/v2/{repository}/referrers/{manifest}"),
        ]
    }

    /// GET on the upstream's own host.
    async fn get(&self, path: &str, authorization: &str) -> Answer {
        get_at(&self.mirror, OWN_HOST, path, authorization).await
    }

    async fn statuses(&self, repository: &str, authorization: &str) -> [u16; 5] {
        let mut statuses = [0; 5];
        for (status, path) in statuses.iter_mut().zip(self.paths(repository)) {
            *status = self.get(&path, authorization).await.status;
        }
        statuses
    }

    async fn catalog(&self, authorization: &str) -> String {
        self.get("/v2/_catalog", authorization).await.text()
    }

    /// Requests to the registry so far.
    fn asked(&self) -> usize {
        self.registry.counters().records.len()
    }
}

async fn get_at(mirror: &Mirror, host: &str, path: &str, authorization: &str) -> Answer {
    let mut headers = vec![("host", host)];
    if !authorization.is_empty() {
        headers.push(("authorization", authorization));
    }
    mirror.get_with(path, &headers).await
}

/// The parameter of a challenge.
fn parameter<'c>(challenge: &'c str, name: &str) -> &'c str {
    let begin = challenge.split_once(&format!("{name}=\"")).unwrap().1;
    begin.split_once('"').unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_answers_the_upstreams_own_challenge() {
    let site = Site::new().await;
    let [by_tag, ..] = site.paths(APP);
    let ping = site.get("/v2/", "").await;
    assert_eq!((ping.status, ping.code().as_str()), (401, "UNAUTHORIZED"));
    let realm = format!("{}/token", site.registry.url());
    assert_eq!(parameter(ping.header("www-authenticate"), "realm"), realm);
    let refused = site.get(&by_tag, "").await;
    assert_eq!(refused.status, 401);
    let challenge = refused.header("www-authenticate");
    // As the registry has written it.
    assert_eq!(
        challenge,
        format!(r#"Bearer realm="{realm}",service="fake",scope="repository:{APP}:pull""#)
    );

    // The client logs in there, and not here.
    let scope = parameter(challenge, "scope");
    let tokens = crate::common::Client(site.registry.authority().parse().unwrap());
    let path = format!("/token?service=fake&scope={scope}");
    let alice = basic("alice", "upstream-password");
    let token = tokens.get_with(&path, &[("authorization", &alice)]).await;
    let token: serde_json::Value = serde_json::from_slice(&token.body).unwrap();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());

    assert_eq!(site.get("/v2/", &bearer).await.status, 200);
    assert_eq!(site.get("/v2/", "Bearer wrong").await.status, 401);
    assert_eq!(site.statuses(APP, &bearer).await, [200; 5]);
    assert_eq!(site.statuses(APP, "").await, [401; 5], "others do not");
    assert_eq!(site.statuses(APP, "Bearer wrong").await, [401; 5]);
    assert_eq!(
        site.statuses(OTHER, &bearer).await,
        [401; 5],
        "although the mirror has all of it, by another name"
    );
    assert_eq!(site.statuses(PUBLIC, "").await, [200; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_send_a_password_where_the_upstream_wants_one() {
    let site = Site::new().await;
    site.registry
        .options(|options| options.auth = Auth::basic("alice", "upstream-password"));
    assert_eq!(
        site.get("/v2/", "").await.header("www-authenticate"),
        "Basic realm=\"fake\""
    );
    let alice = basic("alice", "upstream-password");
    assert_eq!(site.get("/v2/", &alice).await.status, 200);
    assert_eq!(site.statuses(APP, &alice).await, [200; 5]);
    let wrong = basic("alice", "guess");
    assert_eq!(site.get("/v2/", &wrong).await.status, 401);
    assert_eq!(site.statuses(APP, &wrong).await, [401; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_look_is_enough_for_a_pull_and_is_forgotten_soon() {
    let site = Site::new().await;
    site.registry.grant("t1", APP);
    assert_eq!(site.statuses(APP, "Bearer t1").await, [200; 5]);
    let before = site.asked();
    let [by_tag, by_digest, blob, ..] = site.paths(APP);
    for path in [&by_tag, &by_digest, &blob] {
        assert_eq!(site.get(path, "Bearer t1").await.status, 200);
    }
    assert_eq!(site.asked(), before, "all of it is here, and may be seen");
    // Another credential is another client, whoever has it.
    site.registry.grant("t2", APP);
    assert_eq!(site.get(&by_digest, "Bearer t2").await.status, 200);
    assert_eq!(site.asked(), before + 1, "one HEAD");

    site.registry.expire_tokens();
    assert_eq!(
        site.get(&by_digest, "Bearer t1").await.status,
        200,
        "the verdict lasts for visibility_ttl"
    );
    site.mirror.clock.advance(Duration::from_mins(5));
    for path in [&by_tag, &by_digest, &blob] {
        let answer = site.get(path, "Bearer t1").await;
        assert_eq!(answer.status, 401);
        assert_ne!(answer.header("www-authenticate"), "");
    }
    // A refusal is remembered for less.
    site.registry.grant("t1", APP);
    let before = site.asked();
    assert_eq!(site.get(&by_digest, "Bearer t1").await.status, 401);
    assert_eq!(site.asked(), before);
    site.mirror.clock.advance(Duration::from_secs(15));
    assert_eq!(site.get(&by_digest, "Bearer t1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_does_not_outlive_the_token_that_says_when_it_ends() {
    use base64::Engine as _;
    let site = Site::new().await;
    let ends = 1_790_000_000 + 60;
    let claims = format!("{{\"exp\":{ends}}}");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    let token = format!("e30.{claims}.sig");
    site.registry.grant(&token, APP);
    let bearer = format!("Bearer {token}");
    let [_, by_digest, ..] = site.paths(APP);
    assert_eq!(site.get(&by_digest, &bearer).await.status, 200);
    site.registry.expire_tokens();
    site.mirror.clock.advance(Duration::from_secs(59));
    assert_eq!(site.get(&by_digest, &bearer).await.status, 200);
    site.mirror.clock.advance(Duration::from_secs(1));
    assert_eq!(site.get(&by_digest, &bearer).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_upstream_is_away_nothing_is_served_without_a_verdict() {
    let site = Site::new().await;
    for token in ["t1", "t2"] {
        site.registry.grant(token, APP);
    }
    assert_eq!(site.statuses(APP, "Bearer t1").await, [200; 5]);
    assert_eq!(site.get("/v2/", "").await.status, 401);
    site.registry.go_down().await;
    let [by_tag, by_digest, blob, ..] = site.paths(APP);
    for path in [&by_tag, &by_digest, &blob] {
        assert_eq!(site.get(path, "Bearer t1").await.status, 200, "{path}");
        for nobody in ["Bearer t2", ""] {
            let answer = site.get(path, nobody).await;
            assert!((502..=504).contains(&answer.status), "{path} {nobody:?}");
        }
    }
    assert_eq!(
        site.get("/v2/", "").await.status,
        401,
        "its challenge is remembered, so that clients get as far as that"
    );
    site.mirror.clock.advance(Duration::from_mins(5));
    for path in [&by_tag, &by_digest, &blob] {
        let answer = site.get(path, "Bearer t1").await;
        assert!((502..=504).contains(&answer.status), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_on_one_fill_has_a_verdict_of_its_own() {
    let site = Site::new().await;
    for token in ["t1", "t2"] {
        site.registry.grant(token, APP);
    }
    site.registry.grant("t3", OTHER);
    let layer = &site.image.layers[0];
    let [_, _, blob, ..] = site.paths(APP);
    let [_, _, other, ..] = site.paths(OTHER);
    let gate = site.registry.gate(&layer.digest);
    gate.release(100_000);
    let open = async |path: &str, authorization: &str| {
        let headers = [("host", OWN_HOST), ("authorization", authorization)];
        site.mirror.client.open(path, &headers).await
    };
    let mut first = open(&blob, "Bearer t1").await;
    let mut second = open(&blob, "Bearer t2").await;
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.exactly(50_000).await, layer.bytes[..50_000]);
    assert_eq!(second.exactly(50_000).await, layer.bytes[..50_000]);
    // Whoever has a right elsewhere has none here, on the same fill.
    for nobody in ["Bearer t3", "Bearer wrong", ""] {
        let answer = site.get(&blob, nobody).await;
        assert_eq!(answer.status, 401, "{nobody:?}");
        assert!(!answer.text().contains("\u{fffd}"), "no content");
    }
    // And with the right to another repository that has it, it joins the same fill by that.
    let mut third = open(&other, "Bearer t3").await;
    assert_eq!(third.status, 200);
    assert_eq!(third.exactly(50_000).await, layer.bytes[..50_000]);
    gate.open();
    for reader in [&mut first, &mut second, &mut third] {
        reader.assert_rest_equals(&layer.bytes[50_000..]).await;
    }
    assert_eq!(site.registry.counters().blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_is_refused_in_the_middle_is_its_owners_alone() {
    let site = Site::new().await;
    site.registry.grant("t1", APP);
    let [by_tag, _, blob, ..] = site.paths(APP);
    assert_eq!(site.get(&by_tag, "Bearer t1").await.status, 200);
    // The token ends before the verdict does; another client has a good one.
    site.registry.expire_tokens();
    site.registry.grant("t2", APP);
    let answer = site.get(&blob, "Bearer t1").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "UNAUTHORIZED")
    );
    assert_ne!(answer.header("www-authenticate"), "", "it gets a new one");
    assert_eq!(site.get(&blob, "Bearer t2").await.status, 200);
    // What is here needs the verdict alone.
    assert_eq!(site.get(&blob, "Bearer t1").await.status, 200);

    // One that waits behind it asks again, with its own.
    site.mirror.clock.advance(Duration::from_mins(2));
    let hold = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let asked = |record: &Record| record.kind == Kind::Manifest && record.reference == "v1";
    let before = site.registry.counters().count(asked);
    let rule = Rule::all(Kind::Manifest).of("v1").times(1);
    site.registry.grant("t1", OTHER);
    site.registry.fault(rule, Fault::Wait(hold.clone()));
    assert_eq!(site.get(&site.paths(APP)[1], "Bearer t2").await.status, 200);
    let first = site.get(&by_tag, "Bearer t1");
    let second = async {
        site.registry
            .wait_for("the first one", |counters: &Counters| {
                counters.count(asked) > before
            })
            .await;
        let second = site.get(&by_tag, "Bearer t2");
        tokio::join!(second, async { hold.add_permits(1) }).0
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.status, second.status), (401, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_and_what_is_absent_are_the_same() {
    let site = Site::new().await;
    let hidden = "acme/hidden";
    site.registry.put_image(hidden, Some("secret"), &site.image);
    // This registry says 403 of what the client may not see, and 404 of what is not there.
    site.registry.options(|options| options.auth = Auth::Open);
    for kind in [Kind::Manifest, Kind::Blob] {
        let hidden = [&site.image.manifest.digest, &site.image.layers[0].digest];
        for reference in hidden.into_iter().chain([&"secret".to_owned()]) {
            let rule = Rule::all(kind).of(reference);
            site.registry.fault(rule, Fault::Status(403));
        }
    }
    let none = images::sha256(b"nothing");
    let pairs = [
        (
            "manifests/secret".to_owned(),
            "manifests/nothing".to_owned(),
        ),
        (
            format!("manifests/{}", site.image.manifest.digest),
            format!("manifests/{none}"),
        ),
        (
            format!("blobs/{}", site.image.layers[0].digest),
            format!("blobs/{none}"),
        ),
    ];
    for (hidden_end, absent_end) in pairs {
        for round in ["cold", "warm"] {
            let one = site
                .get(&format!("/v2/{hidden}/{hidden_end}"), "Bearer x")
                .await;
            let other = site
                .get(&format!("/v2/{ABSENT}/{absent_end}"), "Bearer x")
                .await;
            assert_eq!(one.status, 404, "{hidden_end} {round}");
            assert_eq!(one.status, other.status);
            assert_eq!(one.text(), other.text(), "{hidden_end} {round}");
            for name in [
                "cache-status",
                "content-type",
                "content-length",
                "www-authenticate",
            ] {
                assert_eq!(one.header(name), other.header(name), "{hidden_end} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_what_the_client_was_shown() {
    let site = Site::new().await;
    site.registry.grant("t1", APP);
    site.registry.grant("t2", OTHER);
    let none = r#"{"repositories":[]}"#;
    assert_eq!(site.catalog("Bearer t1").await, none);
    assert_eq!(site.statuses(APP, "Bearer t1").await, [200; 5]);
    assert_eq!(site.statuses(OTHER, "Bearer t2").await, [200; 5]);
    assert_eq!(site.statuses(PUBLIC, "").await, [200; 5]);
    let of = |name: &str| format!(r#"{{"repositories":["docker.io/{name}"]}}"#);
    assert_eq!(site.catalog("Bearer t1").await, of(APP));
    assert_eq!(site.catalog("Bearer t2").await, of(OTHER));
    assert_eq!(site.catalog("").await, of(PUBLIC));
    assert_eq!(site.catalog("Bearer wrong").await, none);
    let [.., tags, _] = site.paths(APP);
    assert_eq!(site.get(&tags, "Bearer t2").await.status, 401);
    site.mirror.clock.advance(Duration::from_mins(5));
    assert_eq!(site.catalog("Bearer t1").await, none);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_of_the_mirrors_own_fetches_and_opens_nothing() {
    let site = Site::with(|builder| {
        builder
            .with(|all| all.upstreams[0].logins = vec![credentials("alice", "upstream-password")])
    })
    .await;
    site.registry.grant("t1", APP);
    assert_eq!(site.statuses(APP, "").await, [401; 5]);
    assert_eq!(site.statuses(APP, "Bearer wrong").await, [401; 5]);
    assert_eq!(site.statuses(APP, "Bearer t1").await, [200; 5]);
    let counters = site.registry.counters();
    let gets = counters.records.iter().filter(|record| {
        let content = matches!(record.kind, Kind::Manifest | Kind::Blob);
        content && record.method == Method::GET && !record.header("authorization").is_empty()
    });
    let gets: Vec<_> = gets.collect();
    assert!(!gets.is_empty());
    for get in gets {
        assert_ne!(get.header("authorization"), "Bearer t1", "{}", get.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_refused_where_it_cannot_work() {
    let wrong = |text: &str| {
        let result = std::panic::catch_unwind(|| config(text));
        result.is_err()
    };
    let table = |rest: &str| format!("[upstream.\"a.io\"]\nvisibility = \"upstream\"\n{rest}\n");
    assert!(!wrong(&table("endpoints = [\"https://a.io\"]")));
    assert!(wrong(&table("endpoints = [\"http://a.io\"]")), "plain HTTP");
    assert!(wrong(&table(
        "endpoints = [{ url = \"https://a.io\", credentials = [] }]"
    )));
    let asking = "[access]\nrealm = \"https://x/token\"\n";
    assert!(wrong(&format!(
        "{asking}{}",
        table("endpoints = [\"https://a.io\"]")
    )));
    let own = "endpoints = [\"https://a.io\"]\nhosts = [\"a.mirror.corp\"]";
    assert!(!wrong(&format!("{asking}{}", table(own))));
}
