//! Nodes in this process, each with directories and addresses of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use roadstead::cluster::{Config, Keys, STREAMS_MAX, Seed};
use tempfile::TempDir;

use crate::common::{Client, FakeRegistry, Mirror, MirrorBuilder};

const PORT: u16 = 5002;

/// Nodes of one cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Mirror>,
    _secret: TempDir,
}

/// A loopback address that no other test has: ports are known before their listeners are bound.
pub(crate) fn address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let part = |number: u32| u8::try_from(number % 250 + 1).unwrap();
    SocketAddr::from(([127, part(process), part(process / 250), count], PORT))
}

fn seed(address: SocketAddr) -> Seed {
    Seed {
        host: address.ip().to_string(),
        port: address.port(),
    }
}

impl Nodes {
    /// So many nodes that know each other.
    pub(crate) async fn start(registry: &FakeRegistry, count: usize) -> Self {
        let nodes = Self::with(registry, count, |_, _| {}).await;
        nodes.see(&vec![count; count]).await;
        nodes
    }

    /// So many nodes that know each other, with this changed of all of them.
    pub(crate) async fn with_all(
        registry: &FakeRegistry,
        count: usize,
        change: impl Fn(&mut roadstead::config::Config),
    ) -> Self {
        Self::alike(registry, count, secret(), change).await
    }

    async fn alike(
        registry: &FakeRegistry,
        count: usize,
        secret: TempDir,
        change: impl Fn(&mut roadstead::config::Config),
    ) -> Self {
        let all: Vec<SocketAddr> = (0..count).map(|_| address()).collect();
        let seeds: Vec<Seed> = all.iter().copied().map(seed).collect();
        let mut nodes = Vec::new();
        for address in &all {
            let cluster = config(*address, seeds.clone(), &secret);
            let builder = MirrorBuilder::of(registry).with(|config| {
                config.cluster = Some(Box::new(cluster));
                change(config);
            });
            nodes.push(builder.start().await);
        }
        let nodes = Self {
            nodes,
            _secret: secret,
        };
        nodes.see(&vec![count; count]).await;
        nodes
    }

    /// Nodes with these lists of nodes.
    pub(crate) async fn listing(registry: &FakeRegistry, lists: &[&[usize]]) -> Self {
        let all: Vec<SocketAddr> = lists.iter().map(|_| address()).collect();
        let secret = secret();
        let mut nodes = Vec::new();
        for (address, list) in all.iter().zip(lists) {
            let seeds = list.iter().map(|it| seed(all[*it])).collect();
            let config = config(*address, seeds, &secret);
            nodes.push(start(registry, config).await);
        }
        let nodes = Self {
            nodes,
            _secret: secret,
        };
        let counts: Vec<usize> = lists.iter().map(|list| list.len()).collect();
        nodes.see(&counts).await;
        nodes
    }

    /// So many nodes that know each other, with these rules of access.
    pub(crate) async fn guarded(registry: &FakeRegistry, count: usize, access: &str) -> Self {
        let secret = secret();
        let users = crate::access::htpasswd(secret.path(), &["alice"]);
        let access = access.replace("HTPASSWD", &format!("{users:?}"));
        Self::alike(registry, count, secret, |config| {
            config.access = crate::access::access(&access);
        })
        .await
    }

    /// So many nodes that are told of each other, with this changed.
    pub(crate) async fn with(
        registry: &FakeRegistry,
        count: usize,
        change: impl Fn(usize, &mut Config),
    ) -> Self {
        let all: Vec<SocketAddr> = (0..count).map(|_| address()).collect();
        let seeds: Vec<Seed> = all.iter().copied().map(seed).collect();
        let secret = secret();
        let mut nodes = Vec::new();
        for (number, address) in all.iter().enumerate() {
            let mut config = config(*address, seeds.clone(), &secret);
            change(number, &mut config);
            nodes.push(start(registry, config).await);
        }
        Self {
            nodes,
            _secret: secret,
        }
    }

    /// Waits until each sees so many.
    pub(crate) async fn see(&self, counts: &[usize]) {
        for (node, count) in self.nodes.iter().zip(counts) {
            let wanted = f64::from(u32::try_from(*count).unwrap());
            node.wait_for_metrics("the other nodes", |metrics| {
                metrics.sum("roadstead_cluster_members", &[]) == wanted
            })
            .await;
        }
    }

    pub(crate) fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(|node| node.client).collect()
    }
}

fn secret() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), "0123456789abcdef".repeat(4)).unwrap();
    dir
}

fn config(listen: SocketAddr, seeds: Vec<Seed>, secret: &TempDir) -> Config {
    let file: PathBuf = secret.path().join("secret");
    Config {
        listen,
        seeds,
        keys: Keys::Secret(file),
        zone: None,
        streams_max: STREAMS_MAX,
    }
}

async fn start(registry: &FakeRegistry, cluster: Config) -> Mirror {
    let builder = MirrorBuilder::of(registry);
    let builder = builder.with(|config| config.cluster = Some(Box::new(cluster)));
    builder.start().await
}
