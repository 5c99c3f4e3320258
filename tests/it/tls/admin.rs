//! The admin listener with a certificate, and names of its own.

use super::pki::{self, Authority};
use crate::common::{FakeRegistry, MirrorBuilder};
use crate::process::program;
use roadstead::server::{PairConfig, TlsConfig};
use std::path::Path;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_ask_over_tls_with_a_certificate_and_over_the_socket() {
    let (registry, authority) = (FakeRegistry::start().await, Authority::new("authority"));
    let builder = MirrorBuilder::of(&registry);
    let dir = builder.dir().to_owned();
    let PairConfig { cert, key } = authority.host(&["127.0.0.1"]).write(&dir, "admin");
    let operator = authority
        .client("operator", Vec::new())
        .write(&dir, "operator");
    let client_ca = dir.join("authority.pem");
    std::fs::write(&client_ca, authority.pem()).unwrap();
    let tls = TlsConfig {
        client_ca: Some(client_ca.clone()),
        ..TlsConfig::of(cert, key)
    };
    let socket = dir.join("admin.sock");
    let mirror = builder
        .with(|config| {
            config.server.admin_tls = Some(tls);
            config.server.admin_socket = Some(socket.clone());
        })
        .start()
        .await;
    let (path, at) = (|path: &Path| path.display().to_string(), mirror.admin.0);
    let (ca, cert, key) = (path(&client_ca), path(&operator.cert), path(&operator.key));
    let url = format!("https://{at}");
    let flags = [
        "--admin-ca",
        &ca,
        "--admin-cert",
        &cert,
        "--admin-key",
        &key,
    ];
    for command in [&["status"][..], &["health"], &["verify"], &["ls"]] {
        let asked = [command, &["--admin", &url], &flags].concat();
        let (is_well, said) = program(&dir, &asked, &[]).await;
        assert!(is_well, "{command:?}: {said}");
    }
    let variables = [
        ("ROADSTEAD_ADMIN", url.as_str()),
        ("ROADSTEAD_ADMIN_CA", &ca),
        ("ROADSTEAD_ADMIN_CERT", &cert),
        ("ROADSTEAD_ADMIN_KEY", &key),
    ];
    let (is_well, said) = program(&dir, &["status"], &variables).await;
    assert!(is_well, "{said}");

    // Without what it takes it is said what is missing.
    let (is_well, said) = program(&dir, &["status", "--admin", &url], &[]).await;
    assert!(!is_well && said.contains("--admin-ca"), "{said}");
    let alone = ["status", "--admin", &url, "--admin-ca", &ca];
    let (is_well, said) = program(&dir, &alone, &[]).await;
    assert!(!is_well && said.contains("--admin-cert"), "{said}");
    let half = [&alone[..], &["--admin-cert", &cert]].concat();
    let (is_well, said) = program(&dir, &half, &[]).await;
    assert!(!is_well && said.contains("--admin-key"), "{said}");

    let by_socket = format!("unix://{}", socket.display());
    let (is_well, said) = program(&dir, &["status", "--admin", &by_socket], &[]).await;
    assert!(is_well, "{said}");
    let (is_well, said) = program(&dir, &["status", "--admin", "unix:///none.sock"], &[]).await;
    assert!(!is_well && said.contains("/none.sock"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_says_how_commands_reach_the_server() {
    let (registry, authority) = (FakeRegistry::start().await, Authority::new("authority"));
    let builder = MirrorBuilder::of(&registry);
    let dir = builder.dir().to_owned();
    // For a name that is not the address: the file is believed, not the name.
    let pair = authority.host(&["mirror.test"]).write(&dir, "admin");
    let tls = TlsConfig::of(pair.cert.clone(), pair.key.clone());
    let socket = dir.join("admin.sock");
    let mirror = builder
        .with(|config| {
            config.server.admin_tls = Some(tls);
            config.server.admin_socket = Some(socket.clone());
        })
        .start()
        .await;
    let (at, cert, key) = (mirror.admin.0, pair.cert.display(), pair.key.display());
    let certificate = format!("[server.admin_tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n");
    let none = dir.join("none.sock");
    for (name, admin_listen, socket) in [
        ("by the address", at.to_string(), &none),
        ("by the socket", "127.0.0.1:1".to_owned(), &socket),
    ] {
        let config = format!(
            "[server]\nadmin_listen = \"{admin_listen}\"\nadmin_socket = \"{}\"\n{certificate}",
            socket.display()
        );
        std::fs::write(dir.join("roadstead.toml"), config).unwrap();
        let (is_well, said) = program(&dir, &["health"], &[]).await;
        assert!(is_well, "{name}: {said}");
    }
    // Another certificate than the server has is not believed.
    authority.host(&["mirror.test"]).write(&dir, "admin");
    let config = format!("[server]\nadmin_listen = \"{at}\"\n{certificate}");
    std::fs::write(dir.join("roadstead.toml"), config).unwrap();
    let (is_well, said) = program(&dir, &["health"], &[]).await;
    assert!(!is_well && said.contains("--admin-ca"), "{said}");
}
