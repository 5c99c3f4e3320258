//! What nodes have beside what they own: zones, between which traffic is billed, a node that comes, and copies.

use roadstead::store::Amount;

use super::nodes::Nodes;
use super::processes::score;
use super::{path, read_everywhere};
use crate::common::images::{self, Blob, Dialect};
use crate::common::{FakeRegistry, Mirror};

const SIZE: usize = 1 << 20;

/// Bytes that nodes of one zone have given to others.
async fn given(nodes: &[&Mirror]) -> f64 {
    let mut sum = 0.0;
    for node in nodes {
        let metrics = node.metrics().await;
        sum += metrics.sum("roadstead_node_served_bytes_total", &[("kind", "blob")]);
    }
    sum
}

/// Two zones of two nodes. The second node of a zone has from the first what that has, whoever owns it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asks_its_own_zone_first_for_what_is_there() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::with(&registry, 4, |number, config| {
        let zone = if number < 2 { "a" } else { "b" };
        config.zone = Some(zone.to_owned());
    })
    .await;
    nodes.see(&[4; 4]).await;
    let blobs: Vec<Blob> = (0..12).map(|it| Blob::noise(31_000 + it, SIZE)).collect();
    let layers = blobs.clone();
    let image = images::image_of(31_100, layers, Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    let clients = nodes.clients();
    for client in &clients {
        let manifest = client.get("/v2/team/app/manifests/v1").await;
        assert_eq!(manifest.status, 200, "{}", manifest.text());
    }
    let (a, b) = nodes.nodes.split_at(2);
    let (a, b): (Vec<&Mirror>, Vec<&Mirror>) = (a.iter().collect(), b.iter().collect());
    for blob in &blobs {
        // Each zone has it after this, at one node at least.
        read_everywhere(&[clients[0]], 1, blob).await;
        read_everywhere(&[clients[2]], 1, blob).await;
    }
    for node in &nodes.nodes {
        node.wait_for_fills().await;
    }
    let before = (given(&a).await, given(&b).await);
    for blob in &blobs {
        read_everywhere(&[clients[1]], 1, blob).await;
    }
    let after = (given(&a).await, given(&b).await);
    assert_eq!(after.1, before.1, "nothing came from the other zone");
    assert!(after.0 > before.0);
    for blob in &blobs {
        let sent = registry.counters().sent(&blob.digest);
        assert_eq!(sent, blob.bytes.len() as u64, "one fetch for all zones");
    }
}

/// A node that comes takes its part of the digests over, and what the others have of it does not come from the upstream again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_fetches_nothing_that_the_others_have() {
    let registry = FakeRegistry::start().await;
    let mut nodes = Nodes::start(&registry, 3).await;
    let blobs: Vec<Blob> = (0..12).map(|it| Blob::noise(32_000 + it, SIZE)).collect();
    let image = images::image_of(32_100, blobs.clone(), Dialect::Oci);
    registry.put_image("team/app", Some("v1"), &image);
    // Two of them have all, and the third has nothing: it is as one that comes.
    let third = nodes.nodes.pop().unwrap();
    for client in nodes.clients() {
        assert_eq!(client.get("/v2/team/app/manifests/v1").await.status, 200);
        for blob in &blobs {
            read_everywhere(&[client], 1, blob).await;
        }
    }
    for node in &nodes.nodes {
        node.wait_for_fills().await;
    }
    let empty = |cache: &std::path::Path| std::fs::remove_dir_all(cache).unwrap();
    let third = third.restart_after(empty).await;
    nodes.see(&[3, 3]).await;
    third
        .wait_for_metrics("the others", |metrics| {
            metrics.sum("roadstead_cluster_members", &[]) == 3.0
        })
        .await;
    registry.reset();
    assert_eq!(third.get("/v2/team/app/manifests/v1").await.status, 200);
    for blob in &blobs {
        let answer = third.get(&path(blob)).await;
        answer.assert_bytes(200, &blob.bytes);
        assert_eq!(registry.counters().sent(&blob.digest), 0);
    }
}

/// Room is made by evicting what another node has before what this one alone has, however lately that was used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_what_others_have_go_first() {
    let registry = FakeRegistry::start().await;
    let nodes = Nodes::with_all(&registry, 2, |config| {
        config.cache.max_size = Amount::Bytes(8 * SIZE as u64);
    })
    .await;
    let node = &nodes.nodes[0];
    let names: Vec<String> = (nodes.nodes.iter())
        .map(|node| node.cluster().members().me().to_string())
        .collect();
    let of_first = |blob: &Blob| score(&names[0], &blob.digest) > score(&names[1], &blob.digest);
    let blobs = (33_000..33_100).map(|it| Blob::noise(it, SIZE));
    let (own, others): (Vec<Blob>, Vec<Blob>) = blobs.partition(of_first);
    let (own, copies) = (&own[..12], &others[..3]);
    for blob in own.iter().chain(copies) {
        registry.put_blob("team/app", blob);
    }
    let has = |blob: &Blob| node.blob_path(&blob.digest).exists();
    let minutes = |count| std::time::Duration::from_mins(count);
    for blob in &own[..3] {
        read_everywhere(&[node.client], 1, blob).await;
    }
    node.clock.advance(minutes(60));
    for blob in copies {
        read_everywhere(&[node.client], 1, blob).await;
    }
    node.clock.advance(minutes(10));
    node.wait_for_fills().await;
    assert!(own[..3].iter().chain(copies).all(has));
    // One after the other, until the first has to go.
    let evicted = async || {
        let metrics = node.metrics().await;
        metrics.sum("roadstead_evicted_bytes_total", &[])
    };
    let mut more = own[3..].iter();
    while evicted().await == 0.0 {
        let blob = more.next().expect("the store is small");
        read_everywhere(&[node.client], 1, blob).await;
        node.wait_for_fills().await;
    }
    let lost = |blobs: &[Blob]| blobs.iter().filter(|blob| !has(blob)).count();
    assert!(lost(copies) > 0, "the other node has them");
    assert!(
        lost(copies) == 3 || lost(&own[..3]) == 0,
        "they were used longer ago"
    );
}
