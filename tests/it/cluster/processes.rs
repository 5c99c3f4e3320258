//! Nodes as processes of their own, with a wire between each pair where a test wants one.

use std::cmp::Reverse;
use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::nodes::address;
use super::wire::{Manner, Wire};
use crate::common::images::sha256;
use crate::common::{Client, FakeRegistry, Samples, within};
use crate::process::Process;

/// Requests of one fill at once, and the most that each asks for.
pub(super) const CONNECTIONS: usize = 2;
pub(super) const SEGMENT: usize = 4 << 20;

/// A node in a process of its own.
pub(super) struct Node {
    pub(super) process: Process,
    pub(super) client: Client,
    pub(super) admin: Client,
}

impl Node {
    fn start(dir: TempDir) -> Self {
        let mut process = Process::start(dir, &["serve", "--config", "config.toml"]);
        let (client, admin, _output) = process.ready();
        // Nobody reads it.
        drop(process.child.stderr.take());
        Self {
            process,
            client,
            admin,
        }
    }

    /// Drains, and starts again on the same directories.
    pub(super) fn restart(mut self) -> Self {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait().success());
        self.again()
    }

    /// Starts again on the directories of a process that has ended.
    pub(super) fn again(mut self) -> Self {
        let other = TempDir::new().unwrap();
        Self::start(std::mem::replace(&mut self.process.dir, other))
    }

    pub(super) fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }

    pub(super) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.admin.get("/metrics").await.text();
        Samples::parse(&text).sum(name, labels)
    }

    /// Waits until a metric is this.
    pub(super) async fn wait_for(&self, name: &str, wanted: f64) {
        let reached = async {
            while self.metric(name, &[]).await != wanted {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within(name, reached).await;
    }
}

/// The names of nodes.
pub(super) async fn names(nodes: &[Node]) -> Vec<String> {
    let mut names = Vec::new();
    for node in nodes {
        let text = node.admin.get("/api/v1/cluster").await.text();
        let report: Value = serde_json::from_str(&text).unwrap();
        names.push(report["node"].as_str().unwrap().to_owned());
    }
    names
}

/// The order of nodes for a key, the owner first, as `cluster::members` computes it.
pub(super) fn order(names: &[String], key: &str) -> Vec<usize> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|it| Reverse(score(&names[*it], key)));
    order
}

/// The place of a node in the order of a key.
pub(super) fn score(node: &str, key: &str) -> String {
    let id = u128::from_str_radix(node, 16).unwrap().to_be_bytes();
    sha256(&[&id[..], key.as_bytes()].concat())["sha256:".len()..][..16].to_owned()
}

/// Three nodes that know each other.
pub(super) async fn three(registry: &FakeRegistry, secret: &TempDir) -> Vec<Node> {
    let listens: Vec<SocketAddr> = (0..3).map(|_| address()).collect();
    let peers = vec![listens.clone(); 3];
    let nodes = start(registry, secret, &listens, &peers);
    see(&nodes, &[3, 3, 3]).await;
    nodes
}

/// Nodes that listen at these addresses, each with a list of its own.
fn start(
    registry: &FakeRegistry,
    secret: &TempDir,
    listens: &[SocketAddr],
    peers: &[Vec<SocketAddr>],
) -> Vec<Node> {
    let secret = secret.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef".repeat(4)).unwrap();
    let nodes = listens.iter().zip(peers).map(|(listen, peers)| {
        let dir = TempDir::new().unwrap();
        let root = dir.path().display();
        let (url, secret) = (registry.url(), secret.display());
        let peers: Vec<String> = peers.iter().map(|it| format!("\"{it}\"")).collect();
        let peers = peers.join(", ");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"
[cache]\ndir = \"{root}/cache\"\n[state]\ndir = \"{root}/state\"
[tags]\nttl = \"1s\"
[cluster]\nlisten = \"{listen}\"\npeers = [{peers}]\nsecret_file = \"{secret}\"
[upstream.\"docker.io\"]\nendpoints = [\"{url}\"]\ndefault = true\nparallel = {CONNECTIONS}\nparallel_above = \"1MiB\"\nsegment_size = \"4MiB\"\n"
        );
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        Node::start(dir)
    });
    nodes.collect()
}

/// Waits until each sees this many.
async fn see(nodes: &[Node], counts: &[u32]) {
    for (node, count) in nodes.iter().zip(counts) {
        let count = f64::from(*count);
        node.wait_for("roadstead_cluster_members", count).await;
    }
}

/// Three nodes, with a wire from each to each other.
pub(super) struct Wired {
    pub(super) registry: FakeRegistry,
    pub(super) nodes: Vec<Node>,
    /// By the node that asks, and the one that answers.
    wires: Vec<Vec<Option<Wire>>>,
    _secret: TempDir,
}

impl Wired {
    /// All know each other.
    pub(super) async fn start(seed: u64) -> Self {
        Self::listing(&[&[0, 1, 2][..]; 3], seed).await
    }

    /// Each has these in its list, itself among them.
    pub(super) async fn listing(lists: &[&[usize]], seed: u64) -> Self {
        let (registry, secret) = (FakeRegistry::start().await, TempDir::new().unwrap());
        let listens: Vec<SocketAddr> = lists.iter().map(|_| address()).collect();
        let mut wires = Vec::new();
        let mut peers = Vec::new();
        for (from, list) in lists.iter().enumerate() {
            let mut row = Vec::new();
            let mut addresses = vec![listens[from]];
            for (to, listen) in listens.iter().enumerate() {
                let wire = if to != from && list.contains(&to) {
                    let wire = Wire::to(*listen, seed ^ (from * 8 + to) as u64).await;
                    addresses.push(wire.address);
                    Some(wire)
                } else {
                    None
                };
                row.push(wire);
            }
            wires.push(row);
            peers.push(addresses);
        }
        let nodes = start(&registry, &secret, &listens, &peers);
        let counts: Vec<u32> = lists
            .iter()
            .map(|list| u32::try_from(list.len()).unwrap())
            .collect();
        see(&nodes, &counts).await;
        Self {
            registry,
            nodes,
            wires,
            _secret: secret,
        }
    }

    /// Waits until each sees this many nodes.
    pub(super) async fn see(&self, counts: &[u32]) {
        see(&self.nodes, counts).await;
    }

    pub(super) fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(|node| node.client).collect()
    }

    /// The wires from these nodes to those.
    pub(super) fn wires(&self, from: &[usize], to: &[usize], manner: Manner) {
        for from in from {
            for to in to {
                if let Some(wire) = &self.wires[*from][*to] {
                    wire.be(manner);
                }
            }
        }
    }

    /// All wires.
    pub(super) fn all(&self, manner: Manner) {
        self.wires(&[0, 1, 2], &[0, 1, 2], manner);
    }
}
