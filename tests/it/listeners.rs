//! Several listeners, each with rules of its own; what a balancer or a proxy says of its clients.

mod balancers;
mod inherited;
mod proxies;
mod socket;

use crate::common::images::{self, Image};
use crate::common::{Dialect, FakeRegistry, Mirror, MirrorBuilder};
use roadstead::access;
use roadstead::config::{Config, Overrides};
use roadstead::server::{Asks, ListenerConfig};
use std::net::SocketAddr;

/// A listener without anything special.
fn any() -> ListenerConfig {
    ListenerConfig::at(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// The access of a file with this.
fn rules(text: &str) -> access::Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("roadstead.toml");
    std::fs::write(&file, text).unwrap();
    let flags = Overrides {
        config: Some(file),
        ..Overrides::default()
    };
    Config::from_layers(&flags, [], &[]).unwrap().access
}

/// A registry with one image, and a mirror of it to be.
async fn house() -> (FakeRegistry, Image, MirrorBuilder) {
    let registry = FakeRegistry::start().await;
    let image = images::image(1, &[2000], Dialect::Oci);
    registry.put_image("library/alpine", Some("v1"), &image);
    registry.put_image("acme/secret", Some("v1"), &image);
    let builder = MirrorBuilder::of(&registry);
    (registry, image, builder)
}

const OFFICIAL: &str = r#"
[access]
[[access.policy]]
name = "official"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/library/*"]
[[access.attach]]
anonymous = true
policies = ["official"]
"#;

const ALPINE: &str = "/v2/library/alpine/manifests/v1";
const SECRET: &str = "/v2/acme/secret/manifests/v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_listener_never_challenges_beside_one_that_does() {
    let (registry, _image, builder) = house().await;
    let mirror = builder
        .with(|all| {
            all.access = rules(OFFICIAL);
            let open = ListenerConfig {
                name: Some("dockerd".to_owned()),
                asks: Asks::Nobody,
                ..any()
            };
            all.server.listeners = vec![any(), open];
        })
        .start()
        .await;
    let (asking, open) = (mirror.listener(0), mirror.listener(1));
    assert_ne!(asking.0, open.0);
    assert_eq!(asking.get("/v2/").await.status, 401);
    assert_eq!(asking.get(SECRET).await.status, 401);
    // A dockerd that is logged in to Docker Hub sends this.
    let hub = [("authorization", "Basic aHViOmh1Yg==")];
    assert_eq!(asking.get_with("/v2/", &hub).await.status, 401);
    for headers in [&[][..], &hub] {
        let ping = open.get_with("/v2/", headers).await;
        assert_eq!((ping.status, ping.header("www-authenticate")), (200, ""));
        assert_eq!(open.get_with(ALPINE, headers).await.status, 200);
        let secret = open.get_with(SECRET, headers).await;
        assert_eq!(
            (secret.status, secret.header("www-authenticate")),
            (403, "")
        );
        assert_eq!(
            open.get_with("/token?service=roadstead", headers)
                .await
                .status,
            404
        );
    }
    let sent = registry.counters().records;
    assert!(
        sent.iter()
            .all(|it| !format!("{it:?}").contains("aHViOmh1Yg")),
        "{sent:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_listeners_share_the_limit_and_end_together() {
    let (_registry, _image, builder) = house().await;
    let mirror: Mirror = builder
        .with(|all| {
            all.server.listeners = vec![any(), any(), any()];
            all.server.limits.max_connections = 2;
        })
        .start()
        .await;
    for number in [0, 1, 2, 1, 0] {
        assert_eq!(mirror.listener(number).get(ALPINE).await.status, 200);
    }
    let mut held = Vec::new();
    for number in [0, 1, 2] {
        held.push(
            tokio::net::TcpStream::connect(mirror.listener(number).0)
                .await
                .unwrap(),
        );
    }
    // Three are more than two places: one of them was closed for another.
    mirror
        .wait_for_metrics("a place that was given up", |samples| {
            samples.sum("roadstead_limited_total", &[("limit", "connections")]) >= 1.0
        })
        .await;
    let addresses: Vec<_> = (0..3).map(|number| mirror.listener(number).0).collect();
    mirror.stop().await;
    for address in addresses {
        tokio::net::TcpStream::connect(address).await.unwrap_err();
    }
}
