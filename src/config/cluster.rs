//! `[cluster]`: this node and the others.

use super::keys::File;
use super::table::{About, Context, Given, List, Values as _, name, table, texts};
use super::values::{Address, Path, UpTo};
use crate::cluster::{self, Keys, Seed};

/// More bodies than a node has the egress for.
const STREAMS_MAX: usize = 65_536;

table! {
    /// `[cluster]`.
    ClusterKey {
        /// The address at which other nodes reach this one, over TLS: `IP:PORT`, or `:PORT` for every IPv4 address. Clients have nothing to do there. Required.
        listen: Address,
        /// The nodes, this one among them or not: `HOST:PORT` of their `cluster.listen`. A name stands for all addresses that it has, and is looked up every 5 s. This or `dns`.
        peers: List<SeedKey>,
        /// One name for all nodes, such as a headless Service in Kubernetes: `HOST:PORT`. This or `peers`.
        dns: SeedKey,
        /// A file with a secret that all nodes share, of at least 32 characters (`openssl rand -hex 32`). It is never sent: nodes know each other by keys that are derived from it. To replace it, write the new one on a second line everywhere and restart, then the other way round, then alone. This, or `ca`, `cert` and `key`.
        secret_file: Path,
        /// The authority of the cluster's own, in PEM: whatever it has signed is a node.
        ca: Path,
        /// The certificate of this node, in PEM.
        cert: Path,
        /// Its private key, in PEM.
        key: Path,
        /// The zone that this node is in: traffic between zones is billed, and what nodes of the own one have is taken from them.
        zone: Zone,
        /// Bodies of blobs that other nodes may read from this one at once; the next one is told to ask elsewhere. Default: `64`.
        streams_max: UpTo<STREAMS_MAX>,
    }
}

texts! {
    /// A name or address with a port.
    SeedKey: Seed = |text: &str| Seed::parse(text), r"^.+:[0-9]{1,5}$";
    /// The name of a zone.
    Zone: String = zone, "^[A-Za-z0-9][A-Za-z0-9._-]*$";
}

/// A name may stand for many nodes.
const SEEDS_MAX: usize = 256;

impl About for SeedKey {
    const MAX: usize = SEEDS_MAX;

    fn about_list() -> String {
        "must be a list like [\"roadstead-0:5002\", \"roadstead-1:5002\"]".to_owned()
    }
}

fn zone(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("must be a name like \"cn-hangzhou-b\"".to_owned())
}

/// Resolves `[cluster]`.
pub(super) fn resolve(file: &File, context: &Context<'_>) -> Option<Box<cluster::Config>> {
    let Given { value: keys, place } = file.cluster.as_ref()?;
    let why = "is missing; write listen = \":5002\"";
    let listen = keys
        .keys
        .required(keys.listen.as_ref(), "listen", why, context);
    let peers = keys.peers.value().unwrap_or_default();
    let peers = peers.into_iter().map(|given| given.value);
    let seeds: Vec<Seed> = peers.chain(keys.dns.value()).collect();
    if let (Some(peers), Some(dns)) = (&keys.peers, &keys.dns) {
        let why = format!(
            "and {} are two ways to name the nodes; only one of them can be",
            peers.place.key
        );
        context.wrong(&dns.place, why);
    } else if seeds.is_empty() {
        let why = "names no nodes: write peers = [\"HOST:PORT\", …] or dns = \"HOST:PORT\"";
        context.wrong(place, why);
    }
    let keys_of = keys_of(keys, context);
    Some(Box::new(cluster::Config {
        listen: listen.ok()?.value,
        seeds,
        keys: keys_of?,
        zone: keys.zone.value(),
        streams_max: keys.streams_max.value_or(cluster::STREAMS_MAX),
    }))
}

/// The files of the keys: a secret, or a certificate of an authority.
fn keys_of(keys: &ClusterKey, context: &Context<'_>) -> Option<Keys> {
    let place = &keys.keys.place;
    match (&keys.secret_file, &keys.ca, &keys.cert, &keys.key) {
        (Some(secret), None, None, None) => Some(Keys::Secret(secret.value.clone())),
        (None, Some(ca), Some(cert), Some(key)) => Some(Keys::Authority {
            ca: ca.value.clone(),
            cert: cert.value.clone(),
            key: key.value.clone(),
        }),
        (None, None, None, None) => {
            let why = "has no keys: write secret_file, or ca, cert and key";
            context.wrong(place, why);
            None
        }
        (Some(secret), ..) => {
            let why = "and ca, cert and key are two kinds of keys; only one of them can be";
            context.wrong(&secret.place, why);
            None
        }
        (None, ..) => {
            context.wrong(place, "takes ca, cert and key together");
            None
        }
    }
}
