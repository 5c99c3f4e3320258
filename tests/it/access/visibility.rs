//! Content that the mirror can pull by a login of its own stays private.

use super::audit::records;
use super::{basic, config, htpasswd};
use crate::common::images::{self, Image};
use crate::common::mirror::credentials;
use crate::common::{Auth, Dialect, FakeRegistry, Kind, Mirror, MirrorBuilder};
use http::Method;
use roadstead::upstream::Visibility;
use serde_json::json;
use std::time::Duration;

const PUBLIC: &str = "library/alpine";
const PRIVATE: &str = "acme/secret";
const ABSENT: &str = "acme/nothing";

/// A registry with a public and a private repository, and a mirror that has a login for it.
struct Site {
    registry: FakeRegistry,
    mirror: Mirror,
    image: Image,
}

impl Site {
    async fn new(visibility: Visibility, table: &str) -> Self {
        let registry = FakeRegistry::start().await;
        let image = images::image(1, &[2000], Dialect::Oci);
        registry.put_image(PUBLIC, Some("v1"), &image);
        registry.put_image(PRIVATE, Some("v1"), &image);
        registry.options(|options| {
            options.auth = Auth::Basic {
                username: "robot".to_owned(),
                password: "hub".to_owned(),
            };
            options.public = vec![PUBLIC];
        });
        let builder = MirrorBuilder::new().upstream("docker.io", &registry, |upstream| {
            upstream.default = true;
            upstream.logins = vec![credentials("robot", "hub")];
            upstream.visibility = visibility;
        });
        let file = htpasswd(builder.dir(), &["alice"]);
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

    /// What is asked of a repository.
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

    async fn statuses(&self, repository: &str) -> [u16; 5] {
        let mut statuses = [0; 5];
        for (status, path) in statuses.iter_mut().zip(self.paths(repository)) {
            *status = self.mirror.get(&path).await.status;
        }
        statuses
    }

    async fn catalog(&self) -> String {
        self.mirror.get("/v2/_catalog").await.text()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_clients_get_what_the_upstream_gives_anybody() {
    let site = Site::new(Visibility::Public, "").await;
    assert_eq!(site.statuses(PRIVATE).await, [403; 5]);
    assert_eq!(site.statuses(PUBLIC).await, [200; 5]);
    // Although the mirror has all of it, and the same bytes are public elsewhere.
    assert_eq!(site.statuses(PRIVATE).await, [403; 5]);
    assert_eq!(
        site.catalog().await,
        r#"{"repositories":["docker.io/library/alpine"]}"#
    );
    // One look for a whole pull.
    let before = site.registry.counters().records.len();
    assert_eq!(site.mirror.get(&site.paths(PUBLIC)[0]).await.status, 200);
    assert_eq!(site.registry.counters().records.len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hidden_and_what_is_absent_are_the_same() {
    let site = Site::new(Visibility::Public, "").await;
    for (hidden, absent) in site.paths(PRIVATE).into_iter().zip(site.paths(ABSENT)) {
        for _ in ["cold", "warm"] {
            let before = site.registry.counters().records.len();
            let one = site.mirror.get(&hidden).await;
            let asked = site.registry.counters().records.len() - before;
            let other = site.mirror.get(&absent).await;
            let asked_too = site.registry.counters().records.len() - before - asked;
            assert_eq!(one.status, other.status, "{hidden}");
            assert_eq!(one.text(), other.text(), "{hidden}");
            assert_eq!(asked, asked_too, "{hidden}: the same work");
            for name in ["cache-status", "content-type", "docker-content-digest"] {
                assert_eq!(one.header(name), other.header(name), "{hidden} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_logged_in_gets_what_the_rules_allow() {
    let site = Site::new(Visibility::Public, "[access]\nhtpasswd = HTPASSWD\n").await;
    let alice = basic("alice", "alice!");
    for path in site.paths(PRIVATE) {
        let answer = site
            .mirror
            .get_with(&path, &[("authorization", &alice)])
            .await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let table = r#"
        [access]
        htpasswd = HTPASSWD
        [[access.attach]]
        anonymous = true
        policies = ["read-only"]
    "#;
    let site = Site::new(Visibility::Public, table).await;
    assert_eq!(site.statuses(PUBLIC).await, [200; 5]);
    assert_eq!(
        site.statuses(PRIVATE).await,
        [401; 5],
        "statements do not make it public, and a login may"
    );
    for path in site.paths(PRIVATE) {
        let answer = site.mirror.get(&path).await;
        let challenge = answer.header("www-authenticate");
        let scope = format!("scope=\"repository:{PRIVATE}:pull\"");
        assert!(challenge.contains(&scope), "{path}: {challenge}");
        assert!(!answer.text().contains("upstream"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_to_anyone_is_written_out() {
    let site = Site::new(Visibility::Anyone, "").await;
    assert_eq!(site.statuses(PRIVATE).await, [200; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_ends_and_lasts_while_nobody_can_say_another() {
    let site = Site::new(Visibility::Public, "").await;
    assert_eq!(site.statuses(PUBLIC).await, [200; 5]);
    let [by_tag, by_digest, ..] = site.paths(PUBLIC);
    site.registry.go_down().await;
    site.mirror.clock.advance(Duration::from_mins(6));
    assert_eq!(
        site.mirror.get(&by_digest).await.status,
        200,
        "nobody can say that it is private now"
    );
    site.registry.come_back();
    site.registry.options(|options| options.public.clear());
    site.mirror.clock.advance(Duration::from_mins(6));
    assert_eq!(site.mirror.get(&by_tag).await.status, 403);
    assert_eq!(site.mirror.get(&by_digest).await.status, 403);
    assert_eq!(site.catalog().await, r#"{"repositories":[]}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_is_known_after_a_restart_without_the_upstream() {
    let site = Site::new(Visibility::Public, "").await;
    assert_eq!(site.statuses(PUBLIC).await, [200; 5]);
    assert_eq!(site.statuses(PRIVATE).await, [403; 5]);
    site.registry.go_down().await;
    let [_, by_digest, blob, ..] = site.paths(PUBLIC);
    let [_, hidden, ..] = site.paths(PRIVATE);
    let mirror = site.mirror.restart().await;
    mirror.clock.advance(Duration::from_hours(6 * 24));
    for path in [by_digest.as_str(), &blob] {
        let served = async {
            // It is read in the background of the start.
            while mirror.get(path).await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        crate::common::within("the verdict", served).await;
    }
    assert!(
        mirror.get(&hidden).await.status >= 500,
        "nobody can say that it is public"
    );
    mirror.clock.advance(Duration::from_hours(2 * 24));
    assert!(
        mirror.get(&by_digest).await.status >= 500,
        "it does not last for ever"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_says_which_key_hides_it() {
    let site = Site::new(Visibility::Public, "[audit]\npath = AUDIT\n").await;
    let [by_tag, .., tags, _] = site.paths(PRIVATE);
    for path in [&by_tag, &tags] {
        assert_eq!(site.mirror.get(path).await.status, 403);
    }
    let dir = site.mirror.store();
    let denied = |action: &str| {
        json!({
            "event": "denied", "who": { "kind": "anonymous" }, "action": action,
            "resource": "mirror/docker.io/acme/secret", "enforced": true,
            "statement": "upstream.\"docker.io\".visibility",
        })
    };
    let found = records(dir.parent().unwrap(), 2).await;
    assert_eq!(found, [denied("pull"), denied("list")]);
    let metrics = site.mirror.metrics().await;
    let counted = [("action", "pull"), ("upstream", "docker.io")];
    assert_eq!(metrics.sum("roadstead_denied_total", &counted), 1.0);
}

/// Names of private images, and as many of nothing.
const NAMES: usize = 1000;

/// All that somebody can see of an answer, but for its number, and the work that it was for the upstream.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    asked: Vec<(Method, Kind, bool)>,
}

impl Site {
    /// A manifest is asked for, by its digest.
    async fn trace(&self, host: &str, repository: &str) -> Trace {
        let before = self.registry.counters().records.len();
        let path = format!("/v2/{repository}/manifests/{}", self.image.manifest.digest);
        let answer = self.mirror.get_with(&path, &[("host", host)]).await;
        let records = self.registry.counters().records.split_off(before);
        let headers = answer.headers.iter().filter(|(name, _)| {
            let varies = ["x-request-id", "date"];
            !varies.contains(&name.as_str())
        });
        let text = |value: &str| value.replace(repository, "NAME");
        Trace {
            status: answer.status,
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value.to_str().unwrap())))
                .collect(),
            body: text(&answer.text()),
            asked: records
                .iter()
                .map(|it| {
                    let has_login = it.headers.contains_key("authorization");
                    (it.method.clone(), it.kind, has_login)
                })
                .collect(),
        }
    }

    /// Compares names of private images, all of which are here, with names of nothing, in turns.
    async fn tell_apart(&self, host: &str, known: &str) {
        let named = |kind: &str, number: usize| format!("acme/{kind}-{number:04}");
        for number in 0..NAMES {
            let name = named("hidden", number);
            self.registry
                .put_manifest(&name, None, &self.image.manifest);
            let path = format!("/v2/{name}/manifests/{}", self.image.manifest.digest);
            let headers = [("authorization", known), ("host", host)];
            let answer = self.mirror.get_with(&path, &headers).await;
            assert_eq!(answer.status, 200, "it is in the cache");
        }
        self.registry.reset();
        let mut one = None;
        for round in ["cold", "warm"] {
            for number in 0..NAMES {
                // Names of one length, so that sizes say nothing of them.
                let hidden = self.trace(host, &named("hidden", number)).await;
                let absent = self.trace(host, &named("absent", number)).await;
                assert!((401..=404).contains(&hidden.status), "{hidden:?}");
                assert_eq!(hidden, absent, "{round} {number}");
                assert_eq!(hidden.asked.is_empty(), round == "warm", "{hidden:?}");
                if round == "cold" {
                    assert_eq!(&hidden, one.get_or_insert(absent), "all are the same");
                }
                self.registry.reset();
            }
        }
        let metrics = self.mirror.metrics().await;
        assert_eq!(metrics.sum("roadstead_fills_in_flight", &[]), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_private_names_are_the_same_work_as_a_thousand_of_nothing() {
    let site = Site::new(Visibility::Public, "[access]\nhtpasswd = HTPASSWD\n[[access.attach]]\nanonymous = true\npolicies = [\"read-only\"]\n").await;
    site.tell_apart("mirror", &basic("alice", "alice!")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_they_are_where_the_upstream_decides_for_each_client() {
    let site = Site::new(Visibility::Upstream, "").await;
    let robot = basic("robot", "hub");
    site.tell_apart("mirror", &robot).await;
}
