//! Wires between nodes that break, stall, trickle and swallow; lists that are out of step: every reader gets exactly its blob on
//! the connection that it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use super::processes::{Wired, names, order};
use super::wire::{Dice, Manner, seed};
use super::{path, read_everywhere};
use crate::common::images::Blob;
use crate::common::within;

const MIB: usize = 1 << 20;

/// Far more than a wait for a node that is there takes, on a busy machine too.
const SOON: Duration = Duration::from_secs(4);

impl Wired {
    /// A blob that this node owns.
    async fn blob_of(&self, owner: usize, seeds: &mut u64, size: usize) -> Blob {
        let names = names(&self.nodes).await;
        loop {
            *seeds += 1;
            let blob = Blob::noise(*seeds, size);
            if order(&names, &blob.digest)[0] == owner {
                self.registry.put_blob("team/app", &blob);
                return blob;
            }
        }
    }
}

impl Wired {
    /// Waits until each sees these nodes and no other.
    async fn see_exactly(&self, names: &[String], views: &[BTreeSet<usize>]) {
        for (node, view) in self.nodes.iter().zip(views) {
            let wanted: BTreeSet<&str> = view.iter().map(|it| names[*it].as_str()).collect();
            let seen = async {
                loop {
                    let text = node.admin.get("/api/v1/cluster").await.text();
                    let report: Value = serde_json::from_str(&text).unwrap();
                    let members = report["members"].as_array().unwrap().iter();
                    let there = members.filter(|it| it["state"] != "down");
                    let there: BTreeSet<&str> =
                        there.filter_map(|it| it["node"].as_str()).collect();
                    if there == wanted {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            within("a view", seen).await;
        }
    }
}

/// What a wire does to the bodies that pass over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_exact_whatever_the_wires_do() {
    let seed = seed("wires");
    let mut dice = Dice(seed);
    let wired = Wired::start(seed).await;
    let mut seeds = 20_000;
    for round in 0..6 {
        let at = u64::from(dice.below(3 << 20));
        let manner = match round % 3 {
            0 => Manner::CutsAt(at),
            1 => Manner::Delays(Duration::from_millis(300)),
            _ => Manner::CutsAt(20_000 + at % 100_000),
        };
        wired.all(manner);
        let owner = usize::try_from(dice.below(3)).unwrap();
        let blob = wired.blob_of(owner, &mut seeds, 3 * MIB).await;
        read_everywhere(&wired.clients(), 3, &blob).await;
        let sent = wired.registry.counters().sent(&blob.digest);
        // Those who are cut off go on at the byte reached: at the second in the order, and then upstream.
        assert!(
            sent <= 3 * blob.bytes.len() as u64,
            "{manner:?}, owner {owner}: {sent}"
        );
        wired.all(Manner::Open);
    }
}

/// A node that greets, and whose bodies stop: one wait, and then it is asked for nothing for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_bodies_stall_is_waited_for_once() {
    let seed = seed("stalls");
    let wired = Wired::start(seed).await;
    let mut seeds = 21_000;
    for manner in [Manner::StallsAt(200_000), Manner::Trickles(200)] {
        let mut blobs = Vec::new();
        for _ in 0..4 {
            blobs.push(wired.blob_of(0, &mut seeds, MIB).await);
        }
        wired.wires(&[1, 2], &[0], manner);
        let started = Instant::now();
        for blob in &blobs {
            read_everywhere(&[wired.nodes[1].client], 2, blob).await;
        }
        // A stall is six seconds, and there would be four.
        let took = started.elapsed();
        assert!(took < Duration::from_secs(16), "{manner:?}: {took:?}");
        wired.all(Manner::Open);
    }
}

/// Nothing passes between one node and the others, or in one direction alone, from the middle of a blob on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_in_the_middle_of_a_blob_is_not_noticed() {
    let seed = seed("partition");
    let wired = Wired::start(seed).await;
    let mut seeds = 22_000;
    for (number, manner) in [Manner::Silent, Manner::Deaf].into_iter().enumerate() {
        let blob = Arc::new(wired.blob_of(number, &mut seeds, 6 * MIB).await);
        let gate = wired.registry.gate(&blob.digest);
        gate.release(2 * MIB);
        let mut readers = JoinSet::new();
        for client in wired.clients() {
            let blob = Arc::clone(&blob);
            readers.spawn(async move {
                let mut streaming = client.open(&path(&blob), &[]).await;
                assert_eq!(streaming.status, 200);
                let start = streaming.exactly(1000).await;
                assert_eq!(start, blob.bytes[..1000]);
                streaming
            });
        }
        let mut reading = Vec::new();
        while let Some(reader) = within("a reader to begin", readers.join_next()).await {
            reading.push(reader.unwrap());
        }
        let others: Vec<usize> = (0..3).filter(|it| *it != number).collect();
        wired.wires(&others, &[number], manner);
        if manner == Manner::Silent {
            wired.wires(&[number], &others, manner);
        }
        gate.open();
        for streaming in &mut reading {
            streaming.assert_rest_equals(&blob.bytes[1000..]).await;
        }
        let sent = wired.registry.counters().sent(&blob.digest);
        // Each side once; where a node is too busy to greet in time, it counts as another side.
        assert!(sent <= 3 * blob.bytes.len() as u64, "{manner:?}: {sent}");
        // It heals by itself.
        wired.all(Manner::Open);
        wired.see(&[3, 3, 3]).await;
        let blob = wired.blob_of(number, &mut seeds, MIB).await;
        read_everywhere(&wired.clients(), 2, &blob).await;
        let sent = wired.registry.counters().sent(&blob.digest);
        assert_eq!(sent, blob.bytes.len() as u64, "{manner:?}");
    }
}

/// Each node sees others than the next: at most one fetch for each node that somebody takes for the owner, and no wait in a
/// circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_out_of_step_cost_one_fetch_for_each_believed_owner() {
    let seed = seed("lists");
    let mut dice = Dice(seed);
    let wired = Wired::start(seed).await;
    let names = names(&wired.nodes).await;
    let mut seeds = 23_000;
    let rounds = std::env::var("LISTS").ok().and_then(|it| it.parse().ok());
    for _ in 0..rounds.unwrap_or(6) {
        let views: Vec<BTreeSet<usize>> = (0..3)
            .map(|me| {
                let bits = dice.below(4);
                let others = (0..3).filter(|it| *it != me).enumerate();
                let chosen = others.filter(|(bit, _)| bits >> bit & 1 == 1);
                chosen.map(|(_, it)| it).chain([me]).collect()
            })
            .collect();
        for (from, view) in views.iter().enumerate() {
            for to in 0..3 {
                let manner = if view.contains(&to) {
                    Manner::Open
                } else {
                    Manner::Cut
                };
                wired.wires(&[from], &[to], manner);
            }
        }
        wired.see_exactly(&names, &views).await;
        for _ in 0..3 {
            seeds += 1;
            let blob = Blob::noise(seeds, MIB);
            wired.registry.put_blob("team/app", &blob);
            let order = order(&names, &blob.digest);
            let owner = |view: &BTreeSet<usize>| order.iter().find(|it| view.contains(it));
            let owners: BTreeSet<_> = views.iter().map(owner).collect();
            let started = Instant::now();
            read_everywhere(&wired.clients(), 2, &blob).await;
            let took = started.elapsed();
            assert!(took < SOON, "{views:?}: {took:?}");
            let sent = wired.registry.counters().sent(&blob.digest);
            let most = owners.len() * blob.bytes.len();
            assert!(sent <= most as u64, "{views:?}, {owners:?}: {sent}");
        }
    }
}
