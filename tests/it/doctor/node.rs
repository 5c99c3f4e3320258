//! `doctor --from-client`: files of a node's clients, and pulls that the mirror saw or did not see.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Answers, Checks, doctor};
use crate::common::{FakeRegistry, MirrorBuilder};
use crate::common::{World, secure};
use crate::tls::pki::Authority;
use roadstead::server::TlsConfig;

/// A node's files.
struct Node {
    dir: TempDir,
    server: String,
    admin: String,
}

impl Node {
    fn of(world: &World) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            server: format!("http://{}", world.mirror.client.0),
            admin: world.mirror.admin.0.to_string(),
        }
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join("root").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A program of this name, in the only directory of PATH.
    fn program(&self, name: &str, script: &str) {
        let folder = self.dir.path().join("bin");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    async fn doctor(&self, more: &[&str]) -> Checks {
        let root = self.dir.path().join("root");
        std::fs::create_dir_all(&root).unwrap();
        let root = root.display().to_string();
        let path = self.dir.path().join("bin").display().to_string();
        let mut arguments = vec![
            "--from-client",
            "--json",
            "--server",
            &self.server,
            "--root",
            &root,
            "--admin",
            &self.admin,
        ];
        arguments.extend(more);
        doctor(self.dir.path(), &arguments, &[("PATH", &path)]).await
    }

    fn authority(&self) -> &str {
        self.server.split_once("//").unwrap().1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_lead_to_the_mirror_are_well() {
    let world = World::new().await;
    let node = Node::of(&world);
    let checks = node.doctor(&[]).await;
    checks.is("server", "ok", &["answers at /v2/"]);
    for client in ["docker", "containerd", "podman"] {
        checks.is(
            &format!("{client}:configuration"),
            "skipped",
            &["on this node"],
        );
    }
    assert_eq!(checks.code, 0, "{}", checks.text);
    let root = node.dir.path().join("root");
    for client in ["docker", "containerd", "podman"] {
        write_files(&node, &root, client);
    }
    let checks = node.doctor(&[]).await;
    assert_eq!(checks.code, 0, "{}", checks.text);
    checks.is("docker:configuration", "ok", &["registry-mirrors"]);
    // The upstreams are those that the mirror has.
    let both = ["docker.io/hosts.toml", "ghcr.io/hosts.toml"];
    checks.is("containerd:configuration", "ok", &both);
    checks.is(
        "podman:configuration",
        "ok",
        &["leads docker.io", "leads ghcr.io"],
    );
}

/// Has `client-config` write a client's files.
fn write_files(node: &Node, root: &Path, client: &str) {
    let config = node.dir.path().join("mirror.toml");
    let text = "[upstream.\"docker.io\"]\nendpoints = [\"http://a\"]\ndefault = true\n[upstream.\"ghcr.io\"]\nendpoints = [\"http://b\"]\n";
    std::fs::write(&config, text).unwrap();
    let written = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .args(["client-config", client, "--write", "--server", &node.server])
        .arg("--root")
        .arg(root)
        .arg("--config")
        .arg(config)
        .current_dir(node.dir.path())
        .env_clear()
        .output()
        .unwrap();
    assert!(written.status.success(), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_lead_past_the_mirror_are_named() {
    let world = World::new().await;
    let node = Node::of(&world);
    node.put(
        "etc/docker/daemon.json",
        "{\"registry-mirrors\": [\"http://other:5000\"]}",
    );
    node.put("etc/containerd/config.toml", "version = 2\n");
    node.put(
        "etc/containers/registries.conf",
        "unqualified-search-registries = []\n",
    );
    let checks = node.doctor(&["--client", "all"]).await;
    assert_eq!(checks.code, 1);
    let advice = "roadstead client-config docker --server http://127.0.0.1";
    checks.is(
        "docker:configuration",
        "fail",
        &["http://other:5000, and not", advice],
    );
    checks.is("containerd:configuration", "fail", &["no config_path"]);
    checks.is(
        "podman:configuration",
        "fail",
        &["no [[registry]] for docker.io"],
    );

    node.put("etc/docker/daemon.json", "{\"registry-mirrors\": [}");
    let certs = "[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    node.put(
        "etc/containerd/config.toml",
        &format!("version = 2\n{certs}"),
    );
    let https = format!("[host.\"https://{}\"]\n", node.authority());
    node.put("etc/containerd/certs.d/docker.io/hosts.toml", &https);
    let hub = format!(
        "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{}/docker.io\"\n",
        node.authority()
    );
    node.put("etc/containers/registries.conf.d/50.conf", &hub);
    let checks = node.doctor(&[]).await;
    checks.is(
        "docker:configuration",
        "fail",
        &["daemon.json cannot be read"],
    );
    let lacks = ["and not http://127.0.0.1", "ghcr.io has no hosts.toml"];
    checks.is("containerd:configuration", "fail", &lacks);
    checks.is("podman:configuration", "fail", &["lacks insecure = true"]);
    let checks = node.doctor(&["--client", "docker"]).await;
    assert!(!checks.text.contains("podman"), "{}", checks.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_clients_do_not_know_is_found() {
    let registry = FakeRegistry::start().await;
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("own");
    let pair = authority.host(&["localhost"]).write(dir.path(), "mirror");
    let tls = TlsConfig::of(pair.cert, pair.key);
    let mirror = MirrorBuilder::of(&registry)
        .with(|config| secure(config, tls))
        .start()
        .await;
    let node = Node {
        dir: TempDir::new().unwrap(),
        server: format!("https://localhost:{}", mirror.client.0.port()),
        admin: mirror.admin.0.to_string(),
    };
    let server = &node.server;
    node.put(
        "etc/docker/daemon.json",
        &format!("{{\"registry-mirrors\": [\"{server}/\"]}}"),
    );
    let checks = node.doctor(&[]).await;
    checks.is("server", "warn", &["--ca-file"]);
    let missing = format!("/etc/docker/certs.d/{}/ca.crt is missing", node.authority());
    checks.is("docker:configuration", "fail", &[&missing]);
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    let path = format!("etc/docker/certs.d/{}/ca.crt", node.authority());
    node.put(&path, &authority.pem());
    let checks = node.doctor(&["--ca-file", ca.to_str().unwrap()]).await;
    checks.is("server", "ok", &[]);
    checks.is("docker:configuration", "ok", &[]);
}

/// An admin listener that knows of a pull as soon as a file is there.
async fn admin(mark: &Path) -> Answers {
    let mark = mark.to_owned();
    let answer = move |path: &str| {
        let pull = r#"{"image":"docker.io/library/nginx:1.27","client":"10.0.0.7","user_agent":"docker/27.0","started_at":"2026-01-01T00:00:00Z","requests":4,"bytes":10,"cache_bytes":10,"upstream_bytes":0}"#;
        let body = match (path, mark.exists()) {
            ("/api/v1/pulls", true) => format!("{{\"pulls\":[{pull}]}}"),
            ("/api/v1/pulls", false) => "{\"pulls\":[]}".to_owned(),
            _ => return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    Answers::by(Arc::new(answer)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_looked_for_in_the_mirror() {
    let world = World::new().await;
    let mut node = Node::of(&world);
    let mark = node.dir.path().join("pulled");
    let admin = admin(&mark).await;
    node.admin = admin.address.to_string();
    let server = node.server.clone();
    let daemon = format!("{{\"registry-mirrors\": [\"{server}\"]}}");
    node.put("etc/docker/daemon.json", &daemon);
    let image = ["--client", "docker", "--image", "nginx:1.27"];

    let checks = node.doctor(&image).await;
    checks.is("docker:pull", "skipped", &["no program"]);

    node.program("docker", &format!(": > {}", mark.display()));
    let checks = node.doctor(&image).await;
    let through = [
        "came through the mirror",
        "4 requests of 10.0.0.7",
        "all from the cache",
    ];
    checks.is("docker:pull", "ok", &through);
    assert_eq!(checks.code, 0, "{}", checks.text);

    // It was there before, so that nothing is new: the pull went past.
    let checks = node.doctor(&image).await;
    checks.is(
        "docker:pull",
        "fail",
        &["went past the mirror", "docker info"],
    );
    assert_eq!(checks.code, 1);
    node.put("etc/docker/daemon.json", "{}");
    let checks = node.doctor(&image).await;
    let likely = ["went past the mirror", "likely: registry-mirrors of"];
    checks.is("docker:pull", "fail", &likely);
    node.put("etc/docker/daemon.json", &daemon);
    let gone = ["--client", "docker", "--image", "nginx:none"];
    let checks = node.doctor(&gone).await;
    checks.is("docker:pull", "fail", &["likely: the mirror answers 404"]);

    node.program("docker", "echo no such host >&2; exit 1");
    let checks = node.doctor(&image).await;
    checks.is(
        "docker:pull",
        "fail",
        &["failed: no such host", "the mirror has the image"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_can_confirm_is_said_to_be_that() {
    let world = World::new().await;
    let mut node = Node::of(&world);
    node.admin = "127.0.0.1:1".to_owned();
    let server = node.server.clone();
    node.put(
        "etc/docker/daemon.json",
        &format!("{{\"registry-mirrors\": [\"{server}\"]}}"),
    );
    node.program("docker", "exit 0");
    let checks = node
        .doctor(&["--client", "docker", "--image", "nginx:1.27"])
        .await;
    checks.is(
        "docker:pull",
        "warn",
        &["could not be confirmed", "--admin"],
    );
    assert_eq!(checks.code, 0, "{}", checks.text);
}
