//! The admin listener with a certificate, and names of its own.

use super::pki::{self, Authority};
use crate::common::{FakeRegistry, MirrorBuilder};
use roadstead::server::{PairConfig, TlsConfig};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_reach_it_by_name_and_certificate() {
    let (registry, authority) = (FakeRegistry::start().await, Authority::new("authority"));
    let builder = MirrorBuilder::of(&registry);
    let dir = builder.dir();
    let PairConfig { cert, key } = authority.host(&["mirror.test"]).write(dir, "admin");
    let client_ca = dir.join("operators.pem");
    std::fs::write(&client_ca, authority.pem()).unwrap();
    let tls = TlsConfig {
        client_ca: Some(client_ca),
        ..TlsConfig::of(cert, key)
    };
    let mirror = builder
        .with(|config| {
            config.server.admin_tls = Some(tls);
            config.server.admin_hosts = vec!["mirror.test".to_owned()];
        })
        .start()
        .await;
    let operator = authority.client("operator", Vec::new());
    let admin = mirror.admin.0;
    let connection = pki::connect(admin, "mirror.test", &authority, Some(&operator)).await;
    let mut connection = connection.unwrap();
    for path in ["/healthz", "/metrics", "/api/v1/status"] {
        assert_eq!(connection.status(path).await, 200, "{path}");
    }
    let other = connection
        .get("/api/v1/status", &[("x-forwarded-host", "evil.test")])
        .await;
    assert_eq!(other.unwrap().0, 200);
    let strange = Authority::new("stranger").client("operator", Vec::new());
    for client in [None, Some(&strange)] {
        let refused = match pki::connect(admin, "mirror.test", &authority, client).await {
            Ok(mut connection) => connection.status("/healthz").await,
            Err(_) => 0,
        };
        assert_eq!(refused, 0);
    }
    // Clients go on as they are.
    assert_eq!(mirror.get("/v2/").await.status, 200);
}
