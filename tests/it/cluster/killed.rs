//! Nodes as processes, one of which is killed at a bad moment.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::path;
use super::processes::{CONNECTIONS, Node, SEGMENT, names, order, three};
use super::wire::{Dice, seed};
use crate::common::images::Blob;
use crate::common::{FakeRegistry, within};

const SIZE: usize = 40 << 20;

/// The node that has asked upstream, once the others have what it has. What only the owner has is lost with it.
async fn owner(nodes: &[Node], first: usize) -> usize {
    let had = first.saturating_sub(CONNECTIONS * SEGMENT);
    let had = f64::from(u32::try_from(had).unwrap());
    let come = async {
        for node in nodes {
            while node.metric("roadstead_fill_bytes_total", &[]).await < had {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    };
    within("all nodes to have it", come).await;
    let mut owner = None;
    for (number, node) in nodes.iter().enumerate() {
        let upstream = [("source", "upstream")];
        if node.metric("roadstead_fill_bytes_total", &upstream).await > 0.0 {
            assert_eq!(owner.replace(number), None, "one node alone asks upstream");
        }
    }
    owner.unwrap()
}

/// The owner is killed when `percent` of a blob have come: readers at the other nodes get all of it on the connection that
/// they have, and the upstream sends again no more than what was under way.
async fn killed_at(percent: usize, seed: u64) {
    let (registry, secret) = (FakeRegistry::start().await, TempDir::new().unwrap());
    let mut nodes = three(&registry, &secret).await;
    let blob = Arc::new(Blob::noise(seed, SIZE));
    registry.put_blob("team/app", &blob);
    let gate = registry.gate(&blob.digest);
    let first = SIZE * percent / 100;
    gate.release(first);
    let mut readers = JoinSet::new();
    let (sender, mut begun) = tokio::sync::mpsc::channel(64);
    for client in nodes.iter().map(|node| node.client).collect::<Vec<_>>() {
        for _ in 0..3 {
            let (blob, sender) = (Arc::clone(&blob), sender.clone());
            readers.spawn(async move {
                let mut streaming = client.open(&path(&blob), &[]).await;
                assert_eq!(streaming.status, 200);
                let start = streaming.exactly(1000).await;
                assert_eq!(start, blob.bytes[..1000]);
                sender.send(()).await.unwrap();
                (client, streaming)
            });
        }
    }
    for _ in 0..9 {
        within("all readers to begin", begun.recv()).await.unwrap();
    }
    registry
        .wait_for("so much to be sent", |counters| {
            counters.sent(&blob.digest) + SEGMENT as u64 >= first as u64
        })
        .await;
    let owner = owner(&nodes, first).await;
    let mut owner = nodes.remove(owner);
    owner.kill();
    gate.open();
    let mut exact = 0;
    while let Some(reader) = within("a reader", readers.join_next()).await {
        let (client, mut streaming) = reader.unwrap();
        if client.0 != owner.client.0 {
            streaming.assert_rest_equals(&blob.bytes[1000..]).await;
            exact += 1;
        }
    }
    assert_eq!(exact, 6);
    let excess = registry.counters().sent(&blob.digest) - SIZE as u64;
    let max = (CONNECTIONS * SEGMENT) as u64;
    assert!(
        excess <= max,
        "{percent} %: {excess} bytes more than the blob has, and {max} were under way"
    );
    for node in &nodes {
        assert_eq!(node.client.get(&path(&blob)).await.body.len(), SIZE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_dies_early_is_not_noticed() {
    killed_at(15, 811).await;
}

/// At any percent: `PERCENTS` of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_dies_at_any_moment_is_not_noticed() {
    let seed = seed("killed at");
    let mut dice = Dice(seed);
    let times = std::env::var("PERCENTS")
        .ok()
        .and_then(|it| it.parse().ok());
    for number in 0..times.unwrap_or(2) {
        let percent = usize::try_from(1 + dice.below(98)).unwrap();
        killed_at(percent, 30_000 + number).await;
    }
}

/// The second in the order has nothing of a blob when the owner dies, and one node has most of it: that part does not come from
/// the upstream again, whoever asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_owner_takes_from_the_node_that_asks_what_that_has() {
    let (registry, secret) = (FakeRegistry::start().await, TempDir::new().unwrap());
    let mut nodes = three(&registry, &secret).await;
    let blob = Arc::new(Blob::noise(813, SIZE));
    registry.put_blob("team/app", &blob);
    let [owner, next, asker] = order(&names(&nodes).await, &blob.digest)[..] else {
        panic!("three nodes")
    };
    let gate = registry.gate(&blob.digest);
    let first = SIZE * 70 / 100;
    gate.release(first);
    let mut streaming = nodes[asker].client.open(&path(&blob), &[]).await;
    let had = f64::from(u32::try_from(first - CONNECTIONS * SEGMENT).unwrap());
    let come = async {
        while nodes[asker].metric("roadstead_fill_bytes_total", &[]).await < had {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let start = streaming.exactly(1000).await;
    assert_eq!(start, blob.bytes[..1000]);
    within("the asker to have it", come).await;
    nodes[owner].kill();
    gate.open();
    streaming.assert_rest_equals(&blob.bytes[1000..]).await;
    let answer = nodes[next].client.get(&path(&blob)).await;
    answer.assert_bytes(200, &blob.bytes);
    let excess = registry.counters().sent(&blob.digest) - SIZE as u64;
    let max = (CONNECTIONS * SEGMENT) as u64;
    assert!(excess <= max, "{excess} bytes more than the blob has");
    let from_nodes = [("source", "peer")];
    let given = nodes[next].metric("roadstead_fill_bytes_total", &from_nodes);
    assert!(given.await >= had, "it has the beginning from the asker");
}

/// Clients of the other nodes notice nothing while one node after the other is restarted, whatever it owns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_the_others_no_request() {
    let (registry, secret) = (FakeRegistry::start().await, TempDir::new().unwrap());
    let mut nodes = three(&registry, &secret).await;
    let blobs: Vec<Blob> = (0..400)
        .map(|seed| Blob::noise(9000 + seed, 60_000))
        .collect();
    for blob in &blobs {
        registry.put_blob("team/app", blob);
    }
    let blobs = Arc::new(blobs);
    let mut begun = 0;
    for _ in 0..3 {
        let victim = nodes.remove(0);
        let stop = CancellationToken::new();
        let mut pulls = JoinSet::new();
        for (number, node) in nodes.iter().enumerate() {
            let (client, blobs, stop) = (node.client, Arc::clone(&blobs), stop.clone());
            pulls.spawn(async move {
                let mut count = 0;
                // Each blob is new to the cluster: its owner may be the one that leaves.
                for blob in blobs.iter().skip(begun + number * 60).take(60) {
                    let answer = client.get(&path(blob)).await;
                    answer.assert_bytes(200, &blob.bytes);
                    count += 1;
                    if stop.is_cancelled() && count > 20 {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                }
                count
            });
        }
        let restarted = tokio::task::spawn_blocking(move || victim.restart());
        let restarted = within("a restart", restarted).await.unwrap();
        nodes.push(restarted);
        for node in &nodes {
            node.wait_for("roadstead_cluster_members", 3.0).await;
        }
        stop.cancel();
        while let Some(count) = within("the pulls", pulls.join_next()).await {
            assert!(count.unwrap() > 20, "there was load");
        }
        begun += 120;
    }
}
