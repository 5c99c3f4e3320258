//! Three nodes that share what they fetch, beside one node with all their disks.

use std::cmp::Reverse;

use roadstead::clock::Timestamp;
use roadstead::oci::Digest;
use roadstead::store::evict::policy::cheapest;
use roadstead::store::evict::{Blobs, IdleByUses, Ledger, Place, Policy};

use crate::replay::{self, Request, Score, digest};
use crate::trace::Random;

/// The nodes of a cluster.
pub(crate) const NODES: usize = 3;

/// The mark of a copy that another node gave, where the ledger has a blob's upstream.
const COPY: u32 = 2;
const OWN: u32 = 1;

/// What came of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shared {
    /// Of all requests, those that the upstream heard nothing of.
    pub(crate) cluster: Score,
    /// Those that no other node heard of, either.
    pub(crate) alone: Score,
}

/// Replays requests that a load balancer spreads over nodes, each with its part of `max`. A node that does not have a blob
/// asks its owner, which fetches it; both keep it.
pub(crate) fn replay<P: Policy + Default>(trace: &[Request], max: u64) -> Shared {
    let part = max / NODES as u64;
    let new = || {
        let mut ledger = Ledger::with_policy(part, P::default());
        // Owners get numbers as they come: the policy knows these.
        for owner in [OWN, COPY] {
            ledger.stored_mut().bytes_of(owner);
        }
        ledger
    };
    let mut nodes: Vec<Ledger<P>> = (0..NODES).map(|_| new()).collect();
    let mut balancer = Random::new(1);
    let mut shared = Shared::default();
    for request in trace {
        let bound = NODES as u64;
        let node = usize::try_from(balancer.next() % bound).unwrap();
        let owner = usize::try_from(Random::new(u64::from(request.blob)).next() % bound).unwrap();
        let local = used(&mut nodes[node], request);
        let shared_hit = local || node != owner && used(&mut nodes[owner], request);
        if !shared_hit {
            keep(&mut nodes[owner], request, OWN);
        }
        if !local && node != owner {
            keep(&mut nodes[node], request, COPY);
        }
        shared.alone.count(request, local);
        shared.cluster.count(request, shared_hit);
    }
    shared
}

/// True if a node has a blob, which is used then.
fn used<P: Policy>(ledger: &mut Ledger<P>, request: &Request) -> bool {
    let digest = digest(request.blob);
    let local = ledger.stored_mut().pin(&digest).is_some();
    if local {
        ledger.stored_mut().touch(&digest, request.at);
        ledger.stored_mut().unpin(&digest);
    }
    local
}

fn keep<P: Policy>(ledger: &mut Ledger<P>, request: &Request, owner: u32) {
    let digest: Digest = digest(request.blob);
    if ledger.admit(request.size).is_ok() {
        ledger.settle(digest, request.size, request.size, request.at);
        (ledger.stored_mut()).load_of(digest, request.size, request.at, 1, owner);
    }
}

/// The policy kept, to which a copy seems idle for this many times as long.
#[derive(Debug, Default)]
pub(crate) struct CopiesFirst<const TIMES: u32>;

const USES_MAX: u16 = 16;

impl<const TIMES: u32> Policy for CopiesFirst<TIMES> {
    const LISTS: u16 = 2 * USES_MAX;

    fn entered(&mut self, blobs: &mut Blobs, place: Place) {
        let entry = blobs.entry(place).copied();
        let uses = entry.map_or(1, |it| it.uses);
        let is_copy = entry.is_some_and(|it| it.owner == 2);
        let list = u16::from(uses).clamp(1, USES_MAX) - 1;
        blobs.put(place, list + if is_copy { USES_MAX } else { 0 });
    }

    fn used(&mut self, blobs: &mut Blobs, place: Place, _: bool) {
        self.entered(blobs, place);
    }

    fn victims(&mut self, blobs: &mut Blobs, need: u64, now: Timestamp) -> Vec<Place> {
        cheapest(blobs, need, |place| {
            let entry = blobs.entry(place)?;
            let idle = u128::from(now.0.saturating_sub(entry.used.0)) + 1;
            let uses = u128::from(entry.list % USES_MAX) + 1;
            let times = if entry.list < USES_MAX { 1 } else { TIMES };
            Some(Reverse((idle << 30) * u128::from(times) / uses))
        })
    }

    fn evicted(&mut self, _: &Blobs, _: Place) {}
}

type Run = fn(&[Request], u64) -> Shared;

const ROWS: [(&str, Run); 6] = [
    ("as on one node", replay::<IdleByUses>),
    ("copies 2 times as idle", replay::<CopiesFirst<2>>),
    ("copies 4 times as idle", replay::<CopiesFirst<4>>),
    ("copies 16 times as idle", replay::<CopiesFirst<16>>),
    ("copies 64 times as idle", replay::<CopiesFirst<64>>),
    ("copies first of all", replay::<CopiesFirst<{ u32::MAX }>>),
];

/// Prints how much less the upstream is spared than by one node with all the disks.
pub(crate) fn table(name: &str, trace: &[Request], sizes: &[u64]) {
    let footprint = replay::footprint(trace);
    println!("\n{name}: {NODES} nodes with a third of the store each, beside one with all of it");
    println!("share of its hit bytes that the cluster has (share of all bytes from the own disk)");
    for (row, run) in ROWS {
        print!("{row:<28}");
        for size in sizes {
            let max = footprint / 100 * size;
            let one = replay::replay::<IdleByUses>(trace, max, false);
            let all = run(trace, max);
            let ratio = all.cluster.byte_ratio() / one.byte_ratio();
            let cell = format!("{ratio:.3} ({:.0} %)", all.alone.byte_ratio());
            print!("{cell:>16}");
        }
        println!();
    }
}
