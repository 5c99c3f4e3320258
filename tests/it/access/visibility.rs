//! Content that the mirror can pull by a login of its own stays private.

use super::{access, basic, htpasswd};
use crate::common::images::{self, Image};
use crate::common::mirror::credentials;
use crate::common::{Auth, Dialect, FakeRegistry, Mirror, MirrorBuilder};
use roadstead::upstream::Visibility;
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
        let config = access(&table.replace("HTPASSWD", &format!("{file:?}")));
        let mirror = builder.with(|all| all.access = config).start().await;
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
        [403; 5],
        "statements do not make it public"
    );
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
