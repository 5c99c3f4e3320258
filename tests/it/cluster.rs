//! Several nodes that share one cache.

mod attacks;
mod doctor;
mod intruders;
mod killed;
mod liar;
pub(crate) mod nodes;
mod processes;
mod wire;
mod zones;

use std::sync::Arc;

use http::Method;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::access::basic;
use crate::common::images::{self, Blob, Dialect, Image};
use crate::common::mirror::TTL;
use crate::common::{ADMIN, Client, FakeRegistry, within};
use nodes::Nodes;
use roadstead::clock::Timestamp;

const MIB: usize = 1 << 20;

fn path(blob: &Blob) -> String {
    format!("/v2/team/app/blobs/{}", blob.digest)
}

/// An image that the registry has.
fn image(registry: &FakeRegistry, seed: u64, layer: usize) -> Image {
    let image = images::image(seed, &[layer], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    image
}

/// Readers of a blob at each of these nodes, all of whom must get exactly it.
async fn read_everywhere(clients: &[Client], readers: usize, blob: &Blob) {
    let blob = Arc::new(blob.clone());
    let mut reading = JoinSet::new();
    for client in clients {
        for _ in 0..readers {
            let (client, blob) = (*client, Arc::clone(&blob));
            reading.spawn(async move {
                let answer = client.get(&path(&blob)).await;
                answer.assert_bytes(200, &blob.bytes);
            });
        }
    }
    let all = async {
        while let Some(read) = reading.join_next().await {
            read.unwrap();
        }
    };
    within("all readers", all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_readers_at_three_nodes_cost_one_fetch() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 3).await;
    let blob = Blob::noise(801, 24 * MIB);
    registry.put_blob("team/app", &blob);
    let mut said = Vec::new();
    for client in nodes.clients() {
        let streaming = client.open(&path(&blob), &[]).await;
        let status = streaming.headers["cache-status"].to_str().unwrap();
        said.push(status.ends_with("stored; detail=peer"));
    }
    said.sort_unstable();
    assert_eq!(said, [false, true, true], "two have it from the third");
    read_everywhere(&nodes.clients(), 20, &blob).await;
    let counters = registry.counters();
    assert_eq!(counters.sent(&blob.digest), blob.bytes.len() as u64);
    assert!(counters.blob_heads(&blob.digest) <= 1, "one asks for all");
    // Two of three have it from the third.
    let from = async |source: &str| {
        let mut sum = 0.0;
        for node in &nodes.nodes {
            let labels = [("source", source), ("upstream", "docker.io")];
            let metrics = node.metrics().await;
            sum += metrics.sum("roadstead_fill_bytes_total", &labels);
        }
        sum
    };
    let size = f64::from(u32::try_from(blob.bytes.len()).unwrap());
    assert_eq!(
        (from("upstream").await, from("peer").await),
        (size, 2.0 * size)
    );
    // Each has it for itself now.
    registry.go_down().await;
    read_everywhere(&nodes.clients(), 1, &blob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_asks_what_a_tag_names_for_all() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 3).await;
    let image = image(&registry, 802, 1000);
    let pull = async |image: &Image| {
        for client in nodes.clients() {
            let answer = client.get("/v2/team/app/manifests/v1").await;
            answer.assert_bytes(200, &image.manifest.bytes);
        }
    };
    pull(&image).await;
    let asked = |heads: usize, gets: usize| {
        let counters = registry.counters();
        let found = (counters.manifest_heads("v1"), counters.manifest_gets("v1"));
        assert_eq!(found, (heads, gets));
    };
    asked(0, 1);
    // Fresh everywhere as long as at the node that has asked.
    for node in &nodes.nodes {
        node.clock.advance(TTL * 2);
    }
    pull(&image).await;
    asked(1, 1);
    let moved = images::image(803, &[1000], Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &moved);
    pull(&image).await;
    asked(1, 1);
    for node in &nodes.nodes {
        node.clock.advance(TTL * 2);
    }
    pull(&moved).await;
    let counters = registry.counters();
    assert_eq!(counters.manifest_heads("v1"), 2);
    let digest = &moved.manifest.digest;
    assert_eq!(
        counters.manifest_gets("v1") + counters.manifest_gets(digest),
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_down_is_stale_for_all() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 2).await;
    let image = image(&registry, 804, 1000);
    // One node alone has it, whichever owns the tag.
    let [one, other] = &nodes.nodes[..] else {
        panic!("two nodes")
    };
    one.get("/v2/team/app/manifests/v1")
        .await
        .assert_bytes(200, &image.manifest.bytes);
    registry.go_down().await;
    for node in [one, other] {
        node.clock.advance(TTL * 2);
    }
    let answer = one.get("/v2/team/app/manifests/v1").await;
    answer.assert_bytes(200, &image.manifest.bytes);
    assert!(answer.header("warning").starts_with("110"), "it is stale");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_disagree_about_the_members_wait_for_nobody() {
    let registry = FakeRegistry::start().await;
    // The second does not know the first; the third knows the second alone.
    let nodes = Nodes::listing(&registry, &[&[0, 1, 2], &[1, 2], &[1, 2]]).await;
    let blobs: Vec<Blob> = (0..20).map(|seed| Blob::noise(850 + seed, MIB)).collect();
    for blob in &blobs {
        registry.put_blob("team/app", blob);
    }
    let started = std::time::Instant::now();
    for blob in &blobs {
        read_everywhere(&nodes.clients(), 1, blob).await;
        let sent = registry.counters().sent(&blob.digest);
        let believed_owners = 2;
        assert!(sent <= believed_owners * blob.bytes.len() as u64, "{sent}");
    }
    // A circle would wait ten seconds.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_another_secret_is_no_node() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::with(&registry, 2, |number, config| {
        if number == 1 {
            let roadstead::cluster::Keys::Secret(path) = &config.keys else {
                panic!("a secret")
            };
            let other = path.with_extension("other");
            std::fs::write(&other, "f".repeat(64)).unwrap();
            config.keys = roadstead::cluster::Keys::Secret(other);
        }
    })
    .await;
    let blob = Blob::noise(805, 100_000);
    registry.put_blob("team/app", &blob);
    // Both have greeted each other in vain by the time that they have answered this.
    read_everywhere(&nodes.clients(), 3, &blob).await;
    for node in &nodes.nodes {
        node.wait_for_metrics("the node alone", |metrics| {
            metrics.sum("roadstead_cluster_members", &[]) == 1.0
        })
        .await;
        let report = node.cluster().members().report();
        let states: Vec<_> = report.iter().map(|it| it.state.as_str()).collect();
        assert!(
            states.contains(&"down") && states.contains(&"this"),
            "{report:?}"
        );
    }
    assert_eq!(
        registry.counters().sent(&blob.digest),
        2 * blob.bytes.len() as u64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_not_believed_what_nodes_are() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 1).await;
    let blob = Blob::noise(806, 5000);
    registry.put_blob("team/app", &blob);
    read_everywhere(&nodes.clients(), 1, &blob).await;
    // Another repository has it not, whatever a client says.
    let elsewhere = format!("/v2/team/other/blobs/{}", blob.digest);
    let claims = [("roadstead-hop", "1"), ("roadstead-size", "5000")];
    for path in [&elsewhere, &elsewhere] {
        let answer = nodes.nodes[0].get_with(path, &claims).await;
        assert_eq!(answer.status, 404);
    }
    // The greeting is for nodes.
    assert_eq!(nodes.nodes[0].get("/cluster/v1/hello").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_as_many_streams_as_it_may_is_gone_round() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::with(&registry, 2, |_, config| config.streams_max = 0).await;
    let blob = Blob::noise(807, MIB);
    registry.put_blob("team/app", &blob);
    read_everywhere(&nodes.clients(), 5, &blob).await;
    let sent = registry.counters().sent(&blob.digest);
    assert_eq!(sent, 2 * blob.bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_the_nodes_and_has_one_leave() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 2).await;
    let report = async |method: Method, path: &str| -> Value {
        let answer = nodes.nodes[0].admin.ask(method, path, &[ADMIN]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_str(&answer.text()).unwrap()
    };
    let seen = report(Method::GET, "/api/v1/cluster").await;
    let state = |seen: &Value, at: usize| seen["members"][at]["state"].clone();
    assert_eq!(
        (state(&seen, 0), state(&seen, 1)),
        ("this".into(), "up".into())
    );
    assert_eq!(
        seen["node"],
        nodes.nodes[0].cluster().members().me().to_string()
    );
    // The second leaves, and says so itself; whatever it owned is the first one's now.
    let second = nodes.nodes[1].cluster();
    let name = second.members().me().to_string();
    let path = format!("/api/v1/cluster?leaving=true&node={}", &name[..8]);
    report(Method::POST, &path).await;
    assert!(second.members().is_leaving());
    nodes.see(&[1, 2]).await;
    let seen = report(Method::GET, "/api/v1/cluster").await;
    assert_eq!(state(&seen, 1), "leaving");
    let page = nodes.nodes[0].admin.get("/").await.text();
    for shown in [
        "<h2 id=\"nodes-title\">Cluster</h2>",
        "this node",
        "about to leave",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let address = second.config().listen.to_string();
    assert!(page.contains(&address), "{page}");
    for seed in 0..8 {
        let blob = Blob::noise(880 + seed, 10_000);
        registry.put_blob("team/app", &blob);
        read_everywhere(&nodes.clients(), 1, &blob).await;
        assert_eq!(registry.counters().sent(&blob.digest), 10_000);
    }
    let path = path.replace("true", "false");
    report(Method::POST, &path).await;
    nodes.see(&[2, 2]).await;
    for (path, status) in [
        ("/api/v1/cluster?leaving=true&node=nobody", 502),
        ("/api/v1/cluster?leaving=perhaps", 400),
        ("/api/v1/cluster", 400),
    ] {
        let answer = nodes.nodes[0].admin.ask(Method::POST, path, &[ADMIN]).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
}

/// A load balancer sends each request to another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_one_node_opens_all_and_what_others_would_not_know_is_not_made() {
    let registry = FakeRegistry::start().await;
    let image = image(&registry, 810, 1000);
    let nodes = Nodes::guarded(&registry, 2, "[access]\nhtpasswd = HTPASSWD\n").await;
    let authorization = basic("alice", "alice!");
    let path = "/token?service=roadstead&scope=repository:team/app:pull&offline_token=true";
    let [one, other] = &nodes.nodes[..] else {
        panic!("two nodes")
    };
    let given = one
        .get_with(path, &[("authorization", &authorization)])
        .await;
    let given: Value = serde_json::from_str(&given.text()).unwrap();
    let bearer = format!("Bearer {}", given["token"].as_str().unwrap());
    let manifest = "/v2/team/app/manifests/v1";
    let pulled = other
        .get_with(manifest, &[("authorization", &bearer)])
        .await;
    pulled.assert_bytes(200, &image.manifest.bytes);
    assert_eq!(other.get(manifest).await.status, 401);
    // What `docker login` keeps.
    let refresh = given["refresh_token"].as_str().unwrap();
    let form = format!(
        "grant_type=refresh_token&service=roadstead&client_id=docker&refresh_token={refresh}"
    );
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    let again = other
        .client
        .ask_with(Method::POST, "/token", &kind, form.into_bytes().into())
        .await;
    assert_eq!(again.status, 200, "{}", again.text());
    let user = r#"{"name":"bob","password":"a long password"}"#;
    let kind = [("content-type", "application/json"), ADMIN];
    let made = one
        .admin
        .ask_with(Method::POST, "/api/v1/users", &kind, user.into())
        .await;
    assert_eq!(made.status, 409, "{}", made.text());
    assert!(made.text().contains("node of a cluster"), "{}", made.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_its_name_over_a_restart_and_others_go_on_without_it() {
    let registry = FakeRegistry::start().await;
    let mut nodes = Nodes::start(&registry, 2).await;
    let blob = Blob::noise(808, MIB);
    registry.put_blob("team/app", &blob);
    let second = nodes.nodes.pop().unwrap();
    let name = second.cluster().members().me();
    let second = second.restart().await;
    assert_eq!(second.cluster().members().me(), name);
    second.stop().await;
    let first = &nodes.nodes[0];
    first
        .wait_for_metrics("the other to be gone", |metrics| {
            metrics.sum("roadstead_cluster_members", &[]) == 1.0
        })
        .await;
    read_everywhere(&nodes.clients(), 3, &blob).await;
    let now = roadstead::clock::Clock::now(&*first.clock);
    assert!(now > Timestamp(0));
}

/// Nodes whose tags may be stale, or are not there: one of them asks for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_asks_in_the_background_and_for_what_is_not_there() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::with_all(&registry, 3, |config| {
        config.tags.defaults.revalidate = roadstead::mirror::Revalidate::Background;
        config.tags.defaults.negative_ttl = TTL;
    })
    .await;
    let image = image(&registry, 820, 1000);
    let pull = async |tag: &str, status: u16| {
        for client in nodes.clients() {
            let path = format!("/v2/team/app/manifests/{tag}");
            let answer = client.get(&path).await;
            assert_eq!(answer.status, status, "{}", answer.text());
        }
    };
    for tag in ["v1", "v2", "v3", "v4", "v5", "v6"] {
        registry.put_image("team/app", Some(tag), &image);
        pull(tag, 200).await;
        for node in &nodes.nodes {
            node.clock.advance(TTL * 2);
        }
        // All are answered at once, and ask behind that.
        pull(tag, 200).await;
        registry
            .wait_for("a tag to be asked for", |counters| {
                counters.manifest_heads(tag) == 1
            })
            .await;
        for node in &nodes.nodes {
            let fresh = async {
                let path = format!("/v2/team/app/manifests/{tag}");
                while !node.get(&path).await.header("warning").is_empty() {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            };
            within("a fresh tag", fresh).await;
        }
        let counters = registry.counters();
        let found = (counters.manifest_heads(tag), counters.manifest_gets(tag));
        assert_eq!(found, (1, 1), "{tag}");
    }
    for tag in ["x1", "x2", "x3", "x4", "x5", "x6"] {
        for _ in 0..2 {
            pull(tag, 404).await;
            let counters = registry.counters();
            assert_eq!(counters.manifest_gets(tag), 1, "{tag}");
        }
        // It counts on all nodes from when the upstream said so.
        for node in &nodes.nodes {
            node.clock.advance(TTL * 2);
        }
        registry.put_image("team/app", Some(tag), &image);
        pull(tag, 200).await;
        assert_eq!(registry.counters().manifest_gets(tag), 2, "{tag}");
    }
    // One that was there is gone by the upstream's own word alone.
    registry.delete_tag("team/app", "x1");
    for node in &nodes.nodes {
        node.clock.advance(TTL * 2);
    }
    let client = nodes.nodes[0].client;
    let gone = async {
        while client.get("/v2/team/app/manifests/x1").await.status != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within("a tag to be gone", gone).await;
}

/// `refresh` on one node: the node that asks for all asks now, and both know it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_goes_to_the_node_that_asks_for_all() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::start(&registry, 3).await;
    let image = image(&registry, 830, 1000);
    let moved = images::image(831, &[1000], Dialect::Oci);
    for tag in ["r1", "r2", "r3", "r4"] {
        let path = format!("/v2/team/app/manifests/{tag}");
        registry.put_image("team/app", Some(tag), &image);
        for client in nodes.clients() {
            client
                .get(&path)
                .await
                .assert_bytes(200, &image.manifest.bytes);
        }
        registry.put_image("team/app", Some(tag), &moved);
        let ask = format!("/api/v1/refresh?image=docker.io/team/app:{tag}");
        let answer = nodes.nodes[0].admin.ask(Method::POST, &ask, &[ADMIN]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(
            answer.text().contains(&moved.manifest.digest),
            "{}",
            answer.text()
        );
        assert_eq!(registry.counters().manifest_heads(tag), 1, "{tag}");
        // Whichever node owns it knows it, too, and so do all that ask it from now on.
        for node in &nodes.nodes {
            node.clock
                .advance(TTL / 2 + std::time::Duration::from_secs(1));
        }
        let mut new = 0;
        for client in nodes.clients() {
            let answer = client.get(&path).await;
            new += usize::from(answer.body == moved.manifest.bytes);
        }
        assert!(new >= 1, "{tag}");
        for node in &nodes.nodes {
            node.clock.advance(TTL / 2);
        }
        for client in nodes.clients() {
            let answer = client.get(&path).await;
            answer.assert_bytes(200, &moved.manifest.bytes);
        }
    }
}
