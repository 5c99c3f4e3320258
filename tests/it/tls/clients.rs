//! Certificates of clients.

use super::pki::{self, Authority, Pair};
use crate::common::images::{self, Dialect};
use crate::common::{FakeRegistry, Mirror, MirrorBuilder, WAIT_MAX, secure};
use rcgen::SanType;
use roadstead::access;
use roadstead::config::{Config, Overrides};
use roadstead::server::{Asks, ClientAuth, ListenerConfig, PairConfig, TlsConfig};
use std::time::Duration;

/// Nodes may pull everything, one of them alone acme's, and others what is official.
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
name = "with-certificate"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/acme/*"]
condition = { certificate = true }
[[access.attach]]
anonymous = true
policies = ["official"]
[[access.attach]]
claim = "cert.san=spiffe://corp/node/*"
policies = ["with-certificate"]
[[access.attach]]
user = "builder"
policies = ["with-certificate"]
[[access.attach]]
user = "alice"
policies = ["with-certificate"]
"#;

const OFFICIAL: &str = "/v2/library/alpine/manifests/v1";
const SECRET: &str = "/v2/acme/secret/manifests/v1";

struct House {
    authority: Authority,
    mirror: Mirror,
    _registry: FakeRegistry,
}

impl House {
    async fn with(client_auth: ClientAuth, trusted_proxies: &[&str]) -> Self {
        let (registry, authority) = (FakeRegistry::start().await, Authority::new("authority"));
        let image = images::image(1, &[2000], Dialect::Oci);
        for repository in ["library/alpine", "acme/secret"] {
            registry.put_image(repository, Some("v1"), &image);
        }
        let builder = MirrorBuilder::of(&registry);
        let dir = builder.dir();
        let PairConfig { cert, key } = authority.host(&["mirror.test"]).write(dir, "server");
        let client_ca = dir.join("clients.pem");
        std::fs::write(&client_ca, authority.pem()).unwrap();
        let users = dir.join("htpasswd");
        std::fs::write(
            &users,
            format!("alice:{}\n", bcrypt::hash("alice!", 4).unwrap()),
        )
        .unwrap();
        let file = dir.join("rules.toml");
        let users = users.display().to_string();
        std::fs::write(&file, RULES.replace("HTPASSWD", &format!("{users:?}"))).unwrap();
        let flags = Overrides {
            config: Some(file),
            ..Overrides::default()
        };
        let tls = TlsConfig {
            client_ca: Some(client_ca),
            client_auth,
            ..TlsConfig::of(cert, key)
        };
        let builder = builder.with(|config| {
            config.access = access::Config {
                certificates: true,
                ..Config::from_layers(&flags, [], &[]).unwrap().access
            };
            secure(config, tls);
            let networks = trusted_proxies
                .iter()
                .map(|network| network.parse().unwrap());
            config.server.trusted_proxies = networks.collect();
            let open = ListenerConfig {
                asks: Asks::Nobody,
                ..config.server.listeners[0].clone()
            };
            config.server.listeners.push(open);
        });
        Self {
            authority,
            mirror: builder.start().await,
            _registry: registry,
        }
    }

    async fn get(
        &self,
        client: Option<&Pair>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, String) {
        let address = self.mirror.address();
        let connection = pki::connect(address, "mirror.test", &self.authority, client).await;
        let Ok(mut connection) = connection else {
            return (0, String::new());
        };
        let answer = connection.get(path, headers).await;
        answer.map_or((0, String::new()), |(status, _, text)| (status, text))
    }

    async fn status(&self, client: Option<&Pair>, path: &str) -> u16 {
        self.get(client, path, &[]).await.0
    }

    async fn counted(&self, result: &str) -> f64 {
        let labels = [("method", "certificate"), ("result", result)];
        self.mirror
            .metrics()
            .await
            .sum("roadstead_auth_total", &labels)
    }
}

fn uri(text: &str) -> Vec<SanType> {
    vec![SanType::URI(text.try_into().unwrap())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_an_identity() {
    let house = House::with(ClientAuth::Required, &[]).await;
    let node = house.authority.client("n7", uri("spiffe://corp/node/7"));
    let builder = house.authority.client("builder", Vec::new());
    let other = house.authority.client("other", uri("spiffe://corp/job/1"));
    for (who, client, secret) in [
        ("node", &node, 200),
        ("builder", &builder, 200),
        ("other", &other, 403),
    ] {
        assert_eq!(house.status(Some(client), "/v2/").await, 200, "{who}");
        assert_eq!(house.status(Some(client), OFFICIAL).await, 200, "{who}");
        assert_eq!(house.status(Some(client), SECRET).await, secret, "{who}");
    }
    let (_, text) = house.get(Some(&other), SECRET, &[]).await;
    assert!(
        text.contains("certificate spiffe://corp/job/1 may not pull"),
        "{text}"
    );
    assert!(house.counted("accepted").await >= 9.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_one_or_with_a_strange_one_nobody_gets_in() {
    let house = House::with(ClientAuth::Required, &[]).await;
    let strange = Authority::new("authority").client("builder", Vec::new());
    assert_eq!(house.status(None, "/v2/").await, 0);
    assert_eq!(house.status(Some(&strange), "/v2/").await, 0);
    house
        .mirror
        .wait_for_metrics("two refusals", |samples| {
            let labels = [("method", "certificate"), ("result", "rejected")];
            samples.sum("roadstead_auth_total", &labels) == 2.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_optional_others_are_asked() {
    let house = House::with(ClientAuth::Optional, &[]).await;
    let node = house.authority.client("n7", uri("spiffe://corp/node/7"));
    assert_eq!(house.status(None, "/v2/").await, 401);
    assert_eq!(house.status(None, OFFICIAL).await, 200);
    assert_eq!(house.status(None, SECRET).await, 401);
    assert_eq!(house.status(Some(&node), SECRET).await, 200);
    let strange = Authority::new("stranger").client("builder", Vec::new());
    assert_eq!(house.status(Some(&strange), "/v2/").await, 0);
    // Credentials win; that there is a certificate stays true.
    let alice = [("authorization", "Basic YWxpY2U6YWxpY2Uh")];
    let other = house.authority.client("other", Vec::new());
    assert_eq!(house.get(None, SECRET, &alice).await.0, 403);
    assert_eq!(house.get(Some(&other), SECRET, &alice).await.0, 200);
    let wrong = [("authorization", "Basic YWxpY2U6d3Jvbmc=")];
    assert_eq!(house.get(Some(&node), SECRET, &wrong).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_listener_knows_nobody() {
    let house = House::with(ClientAuth::Optional, &[]).await;
    let node = house.authority.client("n7", uri("spiffe://corp/node/7"));
    let open = house.mirror.listener(1).0;
    let connection = pki::connect(open, "mirror.test", &house.authority, Some(&node)).await;
    let mut connection = connection.unwrap();
    assert_eq!(connection.status("/v2/").await, 200);
    assert_eq!(connection.status(OFFICIAL).await, 200);
    assert_eq!(connection.status(SECRET).await, 403);
}

/// A proxy's certificate is not that of whoever comes through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_lends_its_certificate_to_nobody() {
    let house = House::with(ClientAuth::Optional, &["127.0.0.0/8"]).await;
    let proxy = house.authority.client("builder", Vec::new());
    assert_eq!(house.status(Some(&proxy), SECRET).await, 200);
    let through = [("x-forwarded-for", "192.0.2.7")];
    assert_eq!(house.get(Some(&proxy), SECRET, &through).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_authorities_end_what_the_old_ones_let_in() {
    let house = House::with(ClientAuth::Required, &[]).await;
    let node = house.authority.client("n7", uri("spiffe://corp/node/7"));
    let address = house.mirror.address();
    let connection = pki::connect(address, "mirror.test", &house.authority, Some(&node)).await;
    let mut connection = connection.unwrap();
    assert_eq!(connection.status(SECRET).await, 200);
    let others = Authority::new("others");
    let dir = house.mirror.store();
    std::fs::write(dir.parent().unwrap().join("clients.pem"), others.pem()).unwrap();
    let certificates = house.mirror.certificates().clone();
    let unusable = tokio::task::spawn_blocking(move || certificates.reload()).await;
    assert_eq!(unusable.unwrap(), Vec::<String>::new());
    let deadline = tokio::time::Instant::now() + WAIT_MAX;
    while connection.status(SECRET).await != 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the connection lives on"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(house.status(Some(&node), SECRET).await, 0);
    let new = others.client("n8", uri("spiffe://corp/node/8"));
    assert_eq!(house.status(Some(&new), SECRET).await, 200);
}
