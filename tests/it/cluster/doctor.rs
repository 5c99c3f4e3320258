//! `doctor` on a node of a cluster.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::nodes::address;
use crate::common::{Client, FakeRegistry, Samples, within};
use crate::process::{Process, program};

/// The state and the text of each check whose name begins with `cluster`.
async fn checks(dir: &Path, admin: Option<Client>) -> BTreeMap<String, (String, String)> {
    let config = dir.join("config.toml").display().to_string();
    let admin = admin.map_or("http://127.0.0.1:1".to_owned(), |it| {
        format!("http://{}", it.0)
    });
    let arguments = ["doctor", "--json", "--config", &config, "--admin", &admin];
    let (_, text) = program(dir, &arguments, &[]).await;
    let end = text.rfind('}').unwrap();
    let report: Value = serde_json::from_str(&text[..=end]).unwrap();
    let all = report["checks"].as_array().unwrap().iter();
    let ours = all.filter(|it| it["id"].as_str().unwrap().starts_with("cluster"));
    ours.map(|it| {
        let word = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
        let said = format!("{} {}", word("summary"), word("advice"));
        (word("id"), (word("status"), said))
    })
    .collect()
}

fn write(dir: &Path, registry: &FakeRegistry, listen: SocketAddr, peers: &str) {
    let (root, url) = (dir.display(), registry.url());
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"
[cache]\ndir = \"{root}/cache\"\nmax_size = \"100MB\"\n[state]\ndir = \"{root}/state\"
[cluster]\nlisten = \"{listen}\"\npeers = [{peers}]\nsecret_file = \"{root}/secret\"
[upstream.\"docker.io\"]\nendpoints = [\"{url}\"]\ndefault = true\n"
    );
    std::fs::write(dir.join("config.toml"), text).unwrap();
    let secret = dir.join("secret");
    std::fs::write(&secret, "0123456789abcdef".repeat(4)).unwrap();
    std::fs::set_permissions(secret, Permissions::from_mode(0o600)).unwrap();
}

#[track_caller]
fn is(checks: &BTreeMap<String, (String, String)>, id: &str, status: &str, part: &str) {
    let (found, text) = &checks[id];
    assert_eq!(found, status, "{id}: {text}");
    assert!(text.contains(part), "{id}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_node_is_named() {
    let registry = FakeRegistry::start().await;
    let dir = TempDir::new().unwrap();
    let (listen, nobody) = (address(), address());
    write(dir.path(), &registry, listen, "\"nowhere.invalid:5002\"");
    let found = checks(dir.path(), None).await;
    is(&found, "cluster-names", "fail", "nowhere.invalid:5002");
    is(&found, "cluster-keys", "ok", "a secret");
    is(&found, "cluster", "skipped", "no server answers");
    let secret = dir.path().join("secret");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    let found = checks(dir.path(), None).await;
    is(&found, "cluster-keys", "warn", "mode 644");
    std::fs::write(&secret, "short").unwrap();
    let found = checks(dir.path(), None).await;
    is(&found, "cluster-keys", "fail", "secret");
    // A server, and another node that is not there.
    let peers = format!("\"{listen}\", \"{nobody}\"");
    write(dir.path(), &registry, listen, &peers);
    let path = dir.path().to_owned();
    let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
    let (_, admin, _output) = process.ready();
    let greeted = async {
        loop {
            let text = admin.get("/api/v1/cluster").await.text();
            if text.contains("\"this\"") && text.contains("refused") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the node to look around", greeted).await;
    let found = checks(&path, Some(admin)).await;
    is(&found, "cluster", "fail", "this one is alone");
    is(&found, "cluster", "fail", &nobody.to_string());
    is(&found, "cluster-names", "ok", "2 addresses");
    // The other one comes.
    let dir = TempDir::new().unwrap();
    write(dir.path(), &registry, nobody, &peers);
    let mut other = Process::start(dir, &["serve", "--config", "config.toml"]);
    let (_, _, _other_output) = other.ready();
    let seen = async {
        loop {
            let text = admin.get("/metrics").await.text();
            if Samples::parse(&text).sum("roadstead_cluster_members", &[]) == 2.0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the other node", seen).await;
    let found = checks(&path, Some(admin)).await;
    is(&found, "cluster", "ok", "2 nodes, all answer");
}
