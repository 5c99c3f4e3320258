//! Who may come in, and who may pull what.

mod audit;
mod catalog;
mod ldap;
mod limits;
mod oidc;
mod operators;
pub(crate) mod people;
mod ram;
mod table;
mod tokens;
mod upstream;
mod visibility;

use crate::common::images::{self, Image};
use crate::common::{Dialect, FakeRegistry, Mirror, MirrorBuilder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use roadstead::access;
use roadstead::config::{Config, Overrides};
use std::path::Path;

/// What a file with this table says of access.
pub(crate) fn access(text: &str) -> access::Config {
    config(text).access
}

/// A file with these tables.
pub(crate) fn config(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("roadstead.toml");
    std::fs::write(&file, text).unwrap();
    let flags = Overrides {
        config: Some(file),
        ..Overrides::default()
    };
    Config::from_layers(&flags, [], &[]).unwrap()
}

/// Writes users whose passwords are their names with a `!`.
pub(crate) fn htpasswd(dir: &Path, users: &[&str]) -> String {
    let path = dir.join("htpasswd");
    let line = |user: &&str| {
        let hash = bcrypt::hash(format!("{user}!"), 4).unwrap();
        format!("{user}:{hash}\n")
    };
    let text: String = users.iter().map(line).collect();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A registry with two repositories, and a mirror of it with this `[access]`.
pub(crate) struct House {
    registry: FakeRegistry,
    pub(crate) mirror: Mirror,
    image: Image,
}

impl House {
    pub(crate) async fn with(users: &[&str], table: &str) -> Self {
        let registry = FakeRegistry::start().await;
        let image = images::image(1, &[2000], Dialect::Oci);
        for repository in ["library/alpine", "acme/secret"] {
            registry.put_image(repository, Some("v1"), &image);
            registry.put_image(repository, Some("dev"), &image);
        }
        let builder = MirrorBuilder::of(&registry);
        let file = htpasswd(builder.dir(), users);
        let audit = builder.dir().join("audit.log").display().to_string();
        let table = table.replace("HTPASSWD", &format!("{file:?}"));
        let config = config(&table.replace("AUDIT", &format!("{audit:?}")));
        let builder = builder.with(|all| {
            all.access = config.access;
            all.audit = config.audit;
        });
        let mirror = builder.start().await;
        Self {
            registry,
            mirror,
            image,
        }
    }

    /// The status of a GET by somebody; `""` has no credentials.
    async fn status(&self, who: &str, path: &str) -> u16 {
        let authorization = basic(who, &format!("{who}!"));
        let headers = [("authorization", authorization.as_str())];
        let headers = if who.is_empty() {
            &[][..]
        } else {
            &headers[..]
        };
        self.mirror.get_with(path, headers).await.status
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_file_of_users_they_may_pull_and_nobody_else() {
    let house = House::with(&["alice"], "[access]\nhtpasswd = HTPASSWD\n").await;
    let ping = house.mirror.get("/v2/").await;
    assert_eq!((ping.status, ping.code().as_str()), (401, "UNAUTHORIZED"));
    let challenge = ping.header("www-authenticate");
    let token = format!(
        "Bearer realm=\"{}/token\",service=\"roadstead\"",
        house.mirror.url()
    );
    assert_eq!(challenge, token);
    let path = "/v2/library/alpine/manifests/v1";
    let manifest = house.mirror.get(path).await;
    assert_eq!(manifest.status, 401);
    let scope = ",scope=\"repository:library/alpine:pull\"";
    assert_eq!(
        manifest.header("www-authenticate"),
        format!("{token}{scope}")
    );
    assert_eq!(
        house.registry.counters().records.len(),
        0,
        "nobody has looked it up"
    );

    assert_eq!(house.status("alice", "/v2/").await, 200);
    assert_eq!(house.status("alice", path).await, 200);
    assert_eq!(
        house.status("alice", "/v2/library/alpine/tags/list").await,
        200
    );
    let blob = format!("/v2/library/alpine/blobs/{}", house.image.layers[0].digest);
    assert_eq!(house.status("alice", &blob).await, 200);
    assert_eq!(house.status("", &blob).await, 401);
    let wrong = basic("alice", "wrong");
    let wrong = house
        .mirror
        .get_with(path, &[("authorization", &wrong)])
        .await;
    assert_eq!((wrong.status, wrong.code().as_str()), (401, "UNAUTHORIZED"));
    assert!(
        wrong
            .header("www-authenticate")
            .contains("error=\"invalid_token\"")
    );
    assert_eq!(house.status("bob", path).await, 401);
}

const RULES: &str = r#"
[access]
htpasswd = HTPASSWD
[[access.policy]]
name = "official"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/library/*"]
[[access.policy]]
name = "no-secrets"
[[access.policy.statement]]
effect = "deny"
actions = ["*"]
resources = ["mirror/docker.io/acme/*"]
[[access.policy]]
name = "releases"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/acme/*"]
condition = { tag = "v*", source_ip = ["127.0.0.0/8"] }
[[access.attach]]
anonymous = true
policies = ["official"]
[[access.attach]]
user = "alice"
policies = ["read-only"]
[[access.attach]]
user = "bob"
policies = ["read-only", "no-secrets"]
[[access.attach]]
user = "carol"
policies = ["releases"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_decide_who_pulls_what() {
    let house = House::with(&["alice", "bob", "carol"], RULES).await;
    let blob = &house.image.layers[0].digest;
    // Warm, so that what is denied is not denied for want of it.
    for repository in ["library/alpine", "acme/secret"] {
        for end in ["manifests/v1".to_owned(), format!("blobs/{blob}")] {
            assert_eq!(
                house
                    .status("alice", &format!("/v2/{repository}/{end}"))
                    .await,
                200
            );
        }
    }
    let by_digest = format!("manifests/{}", house.image.manifest.digest);
    let referrers = format!("referrers/{}", house.image.manifest.digest);
    let blob = format!("blobs/{blob}");
    // Who; then library/alpine and acme/secret: manifest by tags v1 and dev, by digest, blob, tags, referrers.
    let table = [
        (
            "",
            [200, 200, 200, 200, 200, 200],
            [401, 401, 401, 401, 401, 401],
        ),
        (
            "alice",
            [200, 200, 200, 200, 200, 200],
            [200, 200, 200, 200, 200, 200],
        ),
        (
            "bob",
            [200, 200, 200, 200, 200, 200],
            [403, 403, 403, 403, 403, 403],
        ),
        (
            "carol",
            [200, 200, 200, 200, 200, 200],
            [200, 403, 200, 200, 200, 200],
        ),
    ];
    for (who, official, secret) in table {
        for (repository, expected) in [("library/alpine", official), ("acme/secret", secret)] {
            let ends = [
                "manifests/v1",
                "manifests/dev",
                &by_digest,
                &blob,
                "tags/list",
                &referrers,
            ];
            for (end, expected) in ends.into_iter().zip(expected) {
                let path = format!("/v2/{repository}/{end}");
                assert_eq!(house.status(who, &path).await, expected, "{who:?} {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_shows_what_may_be_pulled_no_more_and_no_less() {
    let house = House::with(&["alice", "bob", "carol"], RULES).await;
    for repository in ["library/alpine", "acme/secret"] {
        let path = format!("/v2/{repository}/manifests/v1");
        assert_eq!(house.status("alice", &path).await, 200);
    }
    let both = r#"{"repositories":["docker.io/acme/secret","docker.io/library/alpine"]}"#;
    let one = r#"{"repositories":["docker.io/library/alpine"]}"#;
    for (who, expected) in [("", one), ("alice", both), ("bob", one), ("carol", both)] {
        let authorization = basic(who, &format!("{who}!"));
        let headers = [("authorization", authorization.as_str())];
        let headers = if who.is_empty() {
            &[][..]
        } else {
            &headers[..]
        };
        let catalog = house.mirror.get_with("/v2/_catalog", headers).await;
        assert_eq!(catalog.text(), expected, "{who:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_is_told_with_the_statement_and_counted() {
    let house = House::with(&["bob"], RULES).await;
    let bob = basic("bob", "bob!");
    let path = "/v2/acme/secret/manifests/v1";
    let answer = house
        .mirror
        .get_with(path, &[("authorization", &bob)])
        .await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
    let why = "user bob may not pull mirror/docker.io/acme/secret: deny by no-secrets#1";
    assert!(answer.text().contains(why), "{}", answer.text());
    let metrics = house.mirror.metrics().await;
    let denied = metrics.sum(
        "roadstead_denied_total",
        &[("action", "pull"), ("upstream", "docker.io")],
    );
    assert_eq!(denied, 1.0);
    let accepted = metrics.sum(
        "roadstead_auth_total",
        &[("method", "password"), ("result", "accepted")],
    );
    assert_eq!(accepted, 1.0);
    // What is hidden and what is not there are the same.
    let absent = house
        .mirror
        .get_with("/v2/acme/nothing/manifests/v1", &[("authorization", &bob)])
        .await;
    let absent = absent.text().replace("acme/nothing", "acme/secret");
    assert_eq!(absent, answer.text());
    assert_eq!(house.registry.counters().records.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warning_refuses_nothing() {
    let rules = RULES.replace("[access]\n", "[access]\nmode = \"warn\"\n");
    let house = House::with(&["bob"], &rules).await;
    assert_eq!(
        house.status("bob", "/v2/acme/secret/manifests/v1").await,
        200
    );
    assert_eq!(house.status("", "/v2/acme/secret/manifests/v1").await, 200);
    let metrics = house.mirror.metrics().await;
    let denied = metrics.sum(
        "roadstead_denied_total",
        &[("action", "pull"), ("upstream", "docker.io")],
    );
    assert_eq!(denied, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_are_one_line() {
    let inside = House::with(&[], "access.allow = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n").await;
    assert_eq!(inside.status("", "/v2/").await, 200);
    assert_eq!(
        inside.status("", "/v2/library/alpine/manifests/v1").await,
        200
    );
    let outside = House::with(&[], "access.allow = [\"10.0.0.0/8\"]\n").await;
    for path in ["/v2/", "/v2/library/alpine/manifests/v1", "/v2/_catalog"] {
        let answer = outside.mirror.get(path).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "DENIED"),
            "{path}"
        );
        assert!(answer.text().contains("access.allow"));
    }
    assert_eq!(outside.registry.counters().records.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_asks_nobody_ignores_credentials() {
    let registry = FakeRegistry::start().await;
    let image = images::image(1, &[2000], Dialect::Oci);
    registry.put_image("library/alpine", Some("v1"), &image);
    registry.put_image("acme/secret", Some("v1"), &image);
    let builder = MirrorBuilder::of(&registry);
    let file = htpasswd(builder.dir(), &["alice"]);
    let config = access(&RULES.replace("HTPASSWD", &format!("{file:?}")));
    let builder = builder.with(|all| {
        all.access = config;
        all.server.listeners[0].asks = roadstead::server::Asks::Nobody;
    });
    let mirror = builder.start().await;
    let hub = basic("hub-user", "hub-password");
    for headers in [&[][..], &[("authorization", hub.as_str())][..]] {
        assert_eq!(mirror.get_with("/v2/", headers).await.status, 200);
        let official = mirror
            .get_with("/v2/library/alpine/manifests/v1", headers)
            .await;
        assert_eq!(official.status, 200);
        let secret = mirror
            .get_with("/v2/acme/secret/manifests/v1", headers)
            .await;
        assert_eq!(secret.status, 403);
        assert_eq!(secret.header("www-authenticate"), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_change_without_a_restart() {
    let house = House::with(&["alice"], "[access]\nhtpasswd = HTPASSWD\n").await;
    let path = "/v2/library/alpine/manifests/v1";
    assert_eq!(house.status("alice", path).await, 200);
    let dir = house.mirror.store();
    let dir = dir.parent().unwrap();
    htpasswd(dir, &["bob"]);
    let second = std::time::Duration::from_secs(2);
    house.mirror.clock.advance(second);
    assert_eq!(house.status("bob", path).await, 200);
    assert_eq!(house.status("alice", path).await, 401);
    // A broken file changes nothing.
    std::fs::write(dir.join("htpasswd"), "bob:plain\n").unwrap();
    house.mirror.clock.advance(second);
    assert_eq!(house.status("bob", path).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_are_slowed_down() {
    let house = House::with(&["alice"], "[access]\nhtpasswd = HTPASSWD\n").await;
    let wrong = basic("alice", "wrong");
    let wrong = [("authorization", wrong.as_str())];
    for _ in 0..10 {
        assert_eq!(house.mirror.get_with("/v2/", &wrong).await.status, 401);
    }
    let limited = house.mirror.get_with("/v2/", &wrong).await;
    assert_eq!(limited.status, 429);
    assert_eq!(limited.header("retry-after"), "30");
    house
        .mirror
        .clock
        .advance(std::time::Duration::from_secs(31));
    assert_eq!(house.status("alice", "/v2/").await, 200);
}
