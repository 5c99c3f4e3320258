//! The keys that a reload takes over while requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use roadstead::app::{App, Launch};
use roadstead::clock::SystemClock;
use roadstead::config::{Config, Overrides, Snapshot};
use roadstead::server::Inherited;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::images::{self, Dialect, Image};
use crate::common::{ADMIN, Answer, Client, FakeRegistry, Gate, WAIT_MAX};
use crate::process::{Process, program};

/// The real program with a file that can be written again.
struct Server {
    process: Process,
    client: Client,
    admin: Client,
}

impl Server {
    fn start(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        write(&dir, text);
        let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
        let (client, admin, _output) = process.ready();
        // Nobody reads it, and the server waits for nobody.
        drop(process.child.stderr.take());
        Self {
            process,
            client,
            admin,
        }
    }

    async fn try_reload(&self, text: &str) -> Answer {
        write(&self.process.dir, text);
        self.admin
            .ask(Method::POST, "/api/v1/reload", &[ADMIN])
            .await
    }

    /// Reloads, and returns the keys that were taken over and those that need a restart.
    async fn reload(&self, text: &str) -> (Vec<String>, Vec<String>) {
        let answer = self.try_reload(text).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: Value = serde_json::from_str(&answer.text()).unwrap();
        let keys = |list: &str| {
            let changes = answer[list].as_array().unwrap();
            let keys = changes.iter().map(|it| it["key"].as_str().unwrap());
            keys.map(str::to_owned).collect()
        };
        (keys("applied"), keys("after_restart"))
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.admin.get("/metrics").await.text();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }
}

fn write(dir: &TempDir, text: &str) {
    let root = dir.path().display();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{text}\n[state]\ndir = \"{root}/state\"\n"
    );
    // As editors and Kubernetes do: whoever reads sees the old file or the new one.
    let new = dir.path().join("config.new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, dir.path().join("config.toml")).unwrap();
}

fn upstream(name: &str, registry: &FakeRegistry, more: &str) -> String {
    let url = registry.url();
    format!("[upstream.{name:?}]\nendpoints = [{url:?}]\n{more}\n")
}

async fn registry(seed: u64) -> (FakeRegistry, Image) {
    let registry = FakeRegistry::start().await;
    let image = images::image(seed, &[3000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    (registry, image)
}

fn manifest(upstream: &str) -> String {
    format!("/v2/{upstream}/team/app/manifests/v1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_come_go_and_come_back() {
    let ((a, of_a), (b, of_b)) = (registry(310).await, registry(311).await);
    let only_a = upstream("a.example", &a, "");
    let server = Server::start(&only_a);
    let get = async |name: &str| server.client.get(&manifest(name)).await;
    get("a.example")
        .await
        .assert_bytes(200, &of_a.manifest.bytes);
    assert_eq!(get("b.example").await.status, 404);

    let both = format!("{only_a}{}", upstream("b.example", &b, ""));
    let (applied, after_restart) = server.reload(&both).await;
    assert!(
        applied.contains(&"upstream.\"b.example\".endpoints".to_owned()),
        "{applied:?}"
    );
    assert_eq!(after_restart, [""; 0]);
    get("b.example")
        .await
        .assert_bytes(200, &of_b.manifest.bytes);
    assert_eq!(
        server
            .metric("roadstead_requests_total{kind=\"manifest\",outcome=\"miss\",upstream=\"b.example\"}")
            .await,
        1.0
    );

    let metrics = server.admin.get("/metrics").await.text();
    let up = format!(
        "roadstead_upstream_endpoint_up{{endpoint=\"{}\",upstream=\"b.example\"}} 1",
        b.authority()
    );
    assert!(metrics.contains(&up), "{metrics}");

    // Gone, with what is cached of it; and an unknown name says which there are.
    server.reload(&only_a).await;
    let gone = get("b.example").await;
    assert_eq!((gone.status, gone.code()), (404, "NAME_UNKNOWN".to_owned()));
    let metrics = server.admin.get("/metrics").await.text();
    let up = format!(
        "roadstead_upstream_endpoint_up{{endpoint=\"{}\"",
        b.authority()
    );
    assert!(!metrics.contains(&up), "{metrics}");
    assert!(metrics.contains(&a.authority()), "{metrics}");
    let catalog = server.client.get("/v2/_catalog").await.text();
    assert!(
        catalog.contains("a.example") && !catalog.contains("b.example"),
        "{catalog}"
    );

    b.go_down().await;
    server.reload(&both).await;
    get("b.example")
        .await
        .assert_bytes(200, &of_b.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_endpoint_and_login_count_at_once_and_what_was_refused_is_forgotten() {
    let ((wrong, _), (right, image)) = (registry(312).await, registry(313).await);
    wrong.delete_tag("team/app", "v1");
    let options = "default = true\nusername = \"robot\"\npassword = ";
    let with = |registry: &FakeRegistry, password: &str| {
        let login = format!("{options}{password:?}");
        format!(
            "[tags]\nnegative_ttl = \"1h\"\n{}",
            upstream("a.example", registry, &login)
        )
    };
    let server = Server::start(&with(&wrong, "one"));
    let get = async || server.client.get("/v2/team/app/manifests/v1").await;
    assert_eq!(get().await.status, 404);
    let asked = wrong.counters().manifest_heads("v1") + wrong.counters().manifest_gets("v1");
    assert_eq!(get().await.status, 404);
    let again = wrong.counters().manifest_heads("v1") + wrong.counters().manifest_gets("v1");
    assert_eq!(asked, again, "it is remembered for an hour");

    let (applied, _) = server.reload(&with(&right, "one")).await;
    assert_eq!(applied, ["upstream.\"a.example\".endpoints"]);
    get().await.assert_bytes(200, &image.manifest.bytes);
    // The password is not told.
    let answer = server.try_reload(&with(&right, "two-secret")).await.text();
    assert!(
        answer.contains("credentials") && !answer.contains("secret"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_transfer_ends_with_the_upstream_that_it_began_with() {
    let (old, new) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = images::image(314, &[400_000], Dialect::Oci);
    old.put_image("team/app", Some("v1"), &image);
    let layer = image.layers[0].clone();
    let gate: Gate = old.gate(&layer.digest);
    let server = Server::start(&upstream("a.example", &old, "parallel = 1"));
    server
        .client
        .get(&manifest("a.example"))
        .await
        .assert_bytes(200, &image.manifest.bytes);
    let path = format!("/v2/a.example/team/app/blobs/{}", layer.digest);
    let client = server.client;
    let reading = tokio::spawn(async move { client.get(&path).await });
    old.wait_for("the blob", |it| it.blob_gets(&layer.digest) == 1)
        .await;
    // The upstream is another one, and then none.
    server.reload(&upstream("a.example", &new, "")).await;
    server.reload(&upstream("b.example", &new, "")).await;
    gate.open();
    let answer = tokio::time::timeout(WAIT_MAX, reading)
        .await
        .unwrap()
        .unwrap();
    answer.assert_bytes(200, &layer.bytes);
    assert_eq!(new.counters().blob_gets(&layer.digest), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_is_refused_as_a_whole_and_prometheus_hears_of_it() {
    let (registry, image) = registry(315).await;
    let good = upstream("a.example", &registry, "");
    let server = Server::start(&good);
    let success = "roadstead_config_reload_success";
    let restart = "roadstead_config_restart_required";
    assert_eq!(
        (server.metric(success).await, server.metric(restart).await),
        (1.0, 0.0)
    );
    for (wrong, said) in [
        (
            format!("[tags]\nttl = 5\n{good}"),
            "config.toml:5: tags.ttl: 5 has no unit",
        ),
        ("[upstream.\"a.example\"]\n".to_owned(), "endpoints"),
        (
            "[upstream.\"a.example\"]\nendpoints = [{ url = \"https://127.0.0.1:9\", ca_file = \"/nowhere/ca.pem\" }]\n".to_owned(),
            "/nowhere/ca.pem",
        ),
        (
            format!("[access]\nhtpasswd = \"/nowhere/users\"\n{good}"),
            "/nowhere/users",
        ),
        (format!("drain_timeout = \n{good}"), "config.toml:4:"),
    ] {
        let answer = server.try_reload(&wrong).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains(said), "{said}: {}", answer.text());
        assert_eq!(server.metric(success).await, 0.0);
        let pulled = server.client.get(&manifest("a.example")).await;
        pulled.assert_bytes(200, &image.manifest.bytes);
    }
    server.reload(&good).await;
    assert_eq!(server.metric(success).await, 1.0);
    // The command finds the server by a file that is no TOML, and it is the server that finds the fault.
    let dir = &server.process.dir;
    let at = server.admin.0;
    let text =
        format!("[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"{at}\"\ndrain_timeout =\n");
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
    let (is_done, said) = program(dir.path(), &["reload", "--config", "config.toml"], &[]).await;
    assert!(!is_done && said.contains("config.toml:4:"), "{said}");
    assert_eq!(server.metric(success).await, 0.0);
    let (_, after_restart) = server
        .reload(&format!("drain_timeout = \"7s\"\n{good}"))
        .await;
    assert_eq!(after_restart, ["server.drain_timeout"]);
    assert_eq!(
        (server.metric(success).await, server.metric(restart).await),
        (1.0, 1.0)
    );
    server.reload(&good).await;
    assert_eq!(server.metric(restart).await, 0.0);
    // Nobody reloads by a link.
    assert_eq!(server.admin.get("/api/v1/reload").await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_cache_shrinks_and_a_larger_one_has_room() {
    let registry = FakeRegistry::start().await;
    let layers: Vec<usize> = vec![2_000_000; 12];
    let image = images::image(316, &layers, Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let of_size = |size: &str| {
        let upstream = upstream("a.example", &registry, "");
        format!("[cache]\ndir = \"cache\"\nmax_size = {size:?}\nmin_free = 0\n{upstream}")
    };
    let server = Server::start(&of_size("200MB"));
    server
        .client
        .get(&manifest("a.example"))
        .await
        .assert_bytes(200, &image.manifest.bytes);
    let pull = async |layer: &images::Blob| {
        let path = format!("/v2/a.example/team/app/blobs/{}", layer.digest);
        server
            .client
            .get(&path)
            .await
            .assert_bytes(200, &layer.bytes);
    };
    for layer in &image.layers {
        pull(layer).await;
    }
    let bytes = async || server.metric("roadstead_cache_bytes").await;
    assert!(bytes().await > 24e6);

    let (applied, _) = server.reload(&of_size("20MB")).await;
    assert_eq!(applied, ["cache.max_size"]);
    assert_eq!(server.metric("roadstead_cache_max_bytes").await, 20e6);
    let fits = async || bytes().await < 20e6;
    tokio::time::timeout(WAIT_MAX, async {
        while !fits().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    let before = registry
        .counters()
        .of(&Method::GET, crate::common::Kind::Blob);
    for layer in &image.layers {
        pull(layer).await;
    }
    assert!(
        registry
            .counters()
            .of(&Method::GET, crate::common::Kind::Blob)
            > before
    );

    server.reload(&of_size("200MB")).await;
    for layer in &image.layers {
        pull(layer).await;
    }
    let all = registry
        .counters()
        .of(&Method::GET, crate::common::Kind::Blob);
    for layer in &image.layers {
        pull(layer).await;
    }
    assert_eq!(
        registry
            .counters()
            .of(&Method::GET, crate::common::Kind::Blob),
        all
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request() {
    let ((a, of_a), (b, _)) = (registry(317).await, registry(318).await);
    let one = format!(
        "[tags]\nttl = \"0s\"\n{}",
        upstream("a.example", &a, "default = true")
    );
    let more = upstream("b.example", &b, "");
    let other = format!(
        "[tags]\nttl = \"1h\"\n{}{more}",
        upstream("a.example", &a, "default = true\nparallel = 2")
    );
    let server = Server::start(&one);
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let pullers: Vec<_> = (0..4)
        .map(|_| {
            let (client, image, stop, answered) = (
                server.client,
                of_a.clone(),
                Arc::clone(&stop),
                Arc::clone(&answered),
            );
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let pulled = client.get("/v2/team/app/manifests/v1").await;
                    pulled.assert_bytes(200, &image.manifest.bytes);
                    let layer = &image.layers[0];
                    let blob = client
                        .get(&format!("/v2/team/app/blobs/{}", layer.digest))
                        .await;
                    blob.assert_bytes(200, &layer.bytes);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..20 {
        server
            .reload(if round % 2 == 0 { &other } else { &one })
            .await;
        let so_far = answered.load(Ordering::Relaxed);
        // Requests and reloads alternate, however slow the machine is.
        tokio::time::timeout(WAIT_MAX, async {
            while answered.load(Ordering::Relaxed) < so_far + 4 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for puller in pullers {
        puller.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_file_is_read_again_when_its_link_is_moved() {
    let ((a, _), (b, of_b)) = (registry(319).await, registry(320).await);
    let text =
        |name: &str, registry| format!("watch_config = true\n{}", upstream(name, registry, ""));
    let dir = TempDir::new().unwrap();
    // As Kubernetes mounts a ConfigMap: the file leads through a link to the directory of its version.
    for (version, text) in [
        ("..one", text("a.example", &a)),
        ("..two", text("b.example", &b)),
    ] {
        let inner = dir.path().join(version);
        std::fs::create_dir(&inner).unwrap();
        let root = dir.path().display();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{text}\n[state]\ndir = \"{root}/state\"\n"
        );
        std::fs::write(inner.join("config.toml"), text).unwrap();
    }
    let link = |to: &str| {
        let new = dir.path().join("..new");
        std::os::unix::fs::symlink(to, &new).unwrap();
        std::fs::rename(new, dir.path().join("..data")).unwrap();
    };
    link("..one");
    std::os::unix::fs::symlink("..data/config.toml", dir.path().join("config.toml")).unwrap();
    let path = dir.path().join("config.toml").display().to_string();
    let mut process = Process::start(TempDir::new().unwrap(), &["serve", "--config", &path]);
    let (client, _admin, _output) = process.ready();
    drop(process.child.stderr.take());
    assert_eq!(client.get(&manifest("b.example")).await.status, 404);
    link("..two");
    tokio::time::timeout(WAIT_MAX, async {
        while client.get(&manifest("b.example")).await.status == 404 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    let pulled = client.get(&manifest("b.example")).await;
    pulled.assert_bytes(200, &of_b.manifest.bytes);
}

/// Between the reading of the file and the first look at it the store is opened, and another process may have to hand
/// over: what is written then would else never be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_the_server_starts_is_read_too() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().display();
    let write_upstream = |name: &str| {
        let cache = format!("[cache]\ndir = \"{root}/cache\"");
        let upstream = format!("[upstream.\"{name}\"]\nendpoints = [\"http://127.0.0.1:1\"]");
        write(&dir, &format!("watch_config = true\n{upstream}\n{cache}"));
    };
    write_upstream("a.example");
    let flags = Overrides {
        config: Some(dir.path().join("config.toml")),
        ..Overrides::default()
    };
    let loaded = Config::load_with_notes(&flags).unwrap();
    write_upstream("b.example");
    let snapshot = Snapshot::new(loaded.config);
    let launch = Launch {
        flags: Some(flags),
        stamp: loaded.stamp,
        ..Launch::default()
    };
    let start = App::start_with(
        snapshot.clone(),
        launch,
        Arc::new(SystemClock),
        Inherited::default(),
    );
    let app = Box::pin(start).await.unwrap();
    tokio::time::timeout(WAIT_MAX, async {
        while snapshot.now().upstreams[0].name.as_str() != "b.example" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    app.stop().await;
}
