//! Three nodes, one or two of which are killed at any moment, with their caches or without: clients of the others notice nothing.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::bucket::{Asked, BUCKET, FakeBucket, Trouble};
use crate::common::images::sha256;
use crate::common::within;
use crate::content::{Content, Dice};
use crate::left::whole;
use crate::load::{Load, Pulled};
use crate::process::{DISAGREED, Process};

/// Kills where nobody says how many.
const KILLS: usize = 20;

/// Less than all that is pulled: what is evicted is fetched again, from a node or upstream.
const MAX_SIZE: &str = "96MiB";

/// Clients of each node.
const PULLERS: usize = 2;

/// A kill comes at most so long after the load has begun.
const LIFE_MAX_MS: usize = 900;

struct Nodes {
    dirs: Vec<TempDir>,
    addresses: Vec<SocketAddr>,
    processes: Vec<Process>,
    upstream: String,
    /// Tables that each of them has besides.
    more: String,
}

impl Nodes {
    async fn start(upstream: String, more: String) -> Self {
        // Nobody else uses them: their listeners have to be known before they are bound.
        let id = std::process::id();
        let part = |number: u32| u8::try_from(number % 250 + 1).unwrap();
        let base = if more.is_empty() { 201 } else { 211 };
        let address = |number| ([127, part(id), part(id / 250), number], 5002);
        let mut nodes = Self {
            dirs: (0..3).map(|_| TempDir::new().unwrap()).collect(),
            addresses: (base..base + 3)
                .map(|it| SocketAddr::from(address(it)))
                .collect(),
            processes: Vec::new(),
            upstream,
            more,
        };
        for number in 0..3 {
            let process = nodes.serve(number);
            nodes.processes.push(process);
        }
        for process in &mut nodes.processes {
            process.ready().await;
        }
        nodes.see_each_other().await;
        nodes
    }

    fn serve(&self, number: usize) -> Process {
        let dir = self.dirs[number].path();
        let secret = dir.join("secret");
        std::fs::write(&secret, "0123456789abcdef".repeat(4)).unwrap();
        let peers: Vec<String> = self
            .addresses
            .iter()
            .map(|it| format!("\"{it}\""))
            .collect();
        let more = format!(
            "[cluster]\nlisten = \"{}\"\npeers = [{}]\nsecret_file = \"{}\"\n{}",
            self.addresses[number],
            peers.join(", "),
            secret.display(),
            self.more,
        );
        Process::serve_with(dir, &self.upstream, MAX_SIZE, &more)
    }

    async fn see_each_other(&self) {
        for process in &self.processes {
            let seen = async {
                while members(process).await != 3 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            within("the nodes to see each other", seen).await;
        }
    }
}

async fn members(process: &Process) -> u64 {
    let metrics = process.metrics().await;
    whole(metrics.sum("roadstead_cluster_members", &[]))
}

#[derive(Debug, Default)]
struct Summary {
    kills: usize,
    wiped: usize,
    /// Of nodes that live.
    pulled: Pulled,
    /// Of those that were killed.
    cut: Pulled,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_killed_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("NODE_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("nodes: NODE_KILLS={kills} SEED={seed}");
    let content = Content::new(seed).await;
    let nodes = Nodes::start(content.registry.url(), String::new()).await;
    let nodes = killed(nodes, &content, kills, seed).await;
    drop(nodes);
}

/// The same with an object store beside them, which asks for patience now and then: what it has in the end is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_a_bucket_are_killed_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("NODE_KILLS").map_or(KILLS / 2, |kills| usize::try_from(kills).unwrap());
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("nodes with a bucket: NODE_KILLS={kills} SEED={seed}");
    let content = Content::new(seed).await;
    let bucket = FakeBucket::start().await;
    let fails = Mutex::new(Dice(seed));
    let now_and_then = move |_: &Asked| fails.lock().unwrap().one_in(20);
    bucket.trouble(now_and_then, Trouble::Status(503, "SlowDown"), usize::MAX);
    let more = format!(
        "[tier]\nurl = \"s3://{BUCKET}/cache\"\nendpoint = \"{}\"\naccess_key_id = \"key\"\nsecret_access_key = \"secret\"\n",
        bucket.url()
    );
    let mut nodes = Nodes::start(content.registry.url(), more).await;
    nodes = killed(nodes, &content, kills, seed).await;
    bucket.heal();
    for (key, object) in bucket.objects() {
        if let Some(hex) = key.strip_prefix("cache/blobs/sha256/") {
            let digest = format!("sha256:{}", &hex[3..]);
            assert_eq!(sha256(&object), digest, "what is there is right");
        }
    }
    drop(nodes);
    println!(
        "nodes with a bucket: SEED={seed}: {} objects",
        bucket.objects().len()
    );
}

/// Kills nodes so often; each time, and at the end, all of them give everything.
async fn killed(mut nodes: Nodes, content: &Content, kills: usize, seed: u64) -> Nodes {
    let mut dice = Dice(seed);
    let mut summary = Summary::default();
    while summary.kills < kills {
        round(&mut nodes, content, &mut dice, &mut summary).await;
    }
    content.open();
    for process in &nodes.processes {
        for image in content.images.iter() {
            for blob in image.blobs() {
                let path = format!("/v2/team/app/blobs/{}", blob.digest);
                let answer = process.client().get(&path).await;
                answer.assert_bytes(200, &blob.bytes);
            }
        }
    }
    for process in std::mem::take(&mut nodes.processes) {
        let log = process.log();
        assert!(!log.contains(DISAGREED), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        process.stop();
    }
    println!("nodes: SEED={seed} {summary:#?}");
    nodes
}

/// Kills one node under load, or two, and starts them again.
async fn round(nodes: &mut Nodes, content: &Content, dice: &mut Dice, summary: &mut Summary) {
    let first = dice.below(3);
    let second = dice.one_in(4).then(|| (first + 1 + dice.below(2)) % 3);
    let victims: Vec<usize> = std::iter::once(first).chain(second).collect();
    let mut loads: Vec<Option<Load>> = nodes
        .processes
        .iter()
        .map(|process| Some(Load::with(PULLERS, process, content, dice)))
        .collect();
    for victim in &victims {
        tokio::time::sleep(Duration::from_millis(dice.below(LIFE_MAX_MS) as u64)).await;
        nodes.processes[*victim].kill();
        let load = loads[*victim].take().unwrap();
        summary.cut += load.end().await;
        summary.kills += 1;
    }
    // The others have a while without them.
    tokio::time::sleep(Duration::from_millis(dice.below(LIFE_MAX_MS) as u64)).await;
    for victim in &victims {
        if dice.one_in(2) {
            std::fs::remove_dir_all(nodes.dirs[*victim].path().join("cache")).unwrap();
            summary.wiped += 1;
        }
        let log = nodes.processes[*victim].log();
        assert!(!log.contains("panicked"), "{log}");
        let mut process = nodes.serve(*victim);
        process.ready().await;
        nodes.processes[*victim] = process;
    }
    for (number, load) in loads.into_iter().enumerate() {
        let Some(load) = load else { continue };
        let pulled = load.end().await;
        summary.pulled += pulled;
        assert_eq!(
            (pulled.broken, pulled.errors),
            (0, 0),
            "clients of node {number} noticed that {victims:?} were killed: {}",
            nodes.processes[number].log()
        );
    }
    nodes.see_each_other().await;
    // Whatever a node was killed in, it gives all of this now.
    let images = &content.images;
    let image = &images[dice.below(images.len())];
    content.open();
    for process in &nodes.processes {
        for blob in image.blobs() {
            let path = format!("/v2/team/app/blobs/{}", blob.digest);
            let answer = process.client().get(&path).await;
            answer.assert_bytes(200, &blob.bytes);
        }
    }
    content.throttle();
}
