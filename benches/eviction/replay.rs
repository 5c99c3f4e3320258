//! Requests through the store's own ledger, and the bounds on what any policy could reach.

use std::collections::{BTreeSet, HashMap};

use roadstead::clock::Timestamp;
use roadstead::oci::Digest;
use roadstead::store::evict::{Ledger, Policy};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// One request for a whole blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) at: Timestamp,
    /// Which blob, numbered from 0 without gaps.
    pub(crate) blob: u32,
    pub(crate) size: u64,
}

/// What came of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) hit_bytes: u64,
}

impl Score {
    pub(crate) fn count(&mut self, request: &Request, hit: bool) {
        self.requests += 1;
        self.bytes += request.size;
        if hit {
            self.hits += 1;
            self.hit_bytes += request.size;
        }
    }

    /// The share of bytes that did not come from upstream, in percent.
    pub(crate) fn byte_ratio(&self) -> f64 {
        percent(self.hit_bytes, self.bytes)
    }

    /// The share of requests that did not go to upstream, in percent.
    pub(crate) fn object_ratio(&self) -> f64 {
        percent(self.hits, self.requests)
    }
}

/// Replays requests as the store serves them: a hit is pinned and touched; a miss reserves its size,
/// deletes the victims and is settled; what is larger than the store passes through. With `restart`
/// the ledger is made anew at each day's end from what the index would know.
pub(crate) fn replay<P: Policy + Default>(trace: &[Request], max: u64, restart: bool) -> Score {
    let mut ledger = Ledger::with_policy(max, P::default());
    let mut index: HashMap<Digest, (Timestamp, u64, u8)> = HashMap::new();
    let mut score = Score::default();
    let mut day = None;
    for request in trace {
        let today = Some(request.at.0 / DAY_MS);
        if restart && today != day {
            ledger = restarted(max, &index);
            day = today;
        }
        let digest = digest(request.blob);
        let hit = ledger.stored_mut().pin(&digest).is_some();
        if hit {
            if let Some(noted) = ledger.stored_mut().touch(&digest, request.at) {
                index.insert(digest, (request.at, noted.size, noted.uses));
            }
            ledger.stored_mut().unpin(&digest);
        } else if let Ok(victims) = ledger.admit(request.size) {
            for victim in victims {
                index.remove(&victim.digest);
            }
            ledger.settle(digest, request.size, request.size, request.at);
            index.insert(digest, (request.at, request.size, 1));
        }
        score.count(request, hit);
        assert!(ledger.bytes() <= max, "never over the bound");
    }
    score
}

fn restarted<P: Policy + Default>(
    max: u64,
    index: &HashMap<Digest, (Timestamp, u64, u8)>,
) -> Ledger<P> {
    let mut ledger = Ledger::with_policy(max, P::default());
    let mut records: Vec<_> = index.iter().collect();
    records.sort_by_key(|(digest, (used, _, _))| (*used, **digest));
    for (digest, (used, size, uses)) in records {
        ledger.stored_mut().load(*digest, *size, *used, *uses);
    }
    ledger
}

pub(crate) fn digest(blob: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&blob.to_be_bytes());
    Digest::Sha256(bytes)
}

/// The bytes of all blobs that are asked for.
pub(crate) fn footprint(trace: &[Request]) -> u64 {
    let mut sizes = HashMap::new();
    sizes.extend(trace.iter().map(|request| (request.blob, request.size)));
    sizes.values().sum()
}

/// How many blobs are asked for.
pub(crate) fn blobs(trace: &[Request]) -> usize {
    let blobs: std::collections::HashSet<u32> = trace.iter().map(|request| request.blob).collect();
    blobs.len()
}

/// A store that never evicts: all but the first request of each blob are hits.
pub(crate) fn unbounded(trace: &[Request]) -> Score {
    let mut seen = std::collections::HashSet::new();
    let mut score = Score::default();
    for request in trace {
        let hit = !seen.insert(request.blob);
        score.count(request, hit);
    }
    score
}

/// Belady's rule applied to sizes: what is used again last goes first, the newcomer included. It
/// knows the future and can be done, but is not the best that could be.
pub(crate) fn furthest_next_use(trace: &[Request], max: u64) -> Score {
    let next = next_uses(trace);
    let mut kept: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut sizes: HashMap<u32, u64> = HashMap::new();
    let mut used = 0;
    let mut score = Score::default();
    for (now, request) in trace.iter().enumerate() {
        let hit = kept.remove(&(now, request.blob));
        score.count(request, hit);
        kept.insert((next[now], request.blob));
        if !hit {
            used += request.size;
            sizes.insert(request.blob, request.size);
        }
        while used > max
            && let Some((_, blob)) = kept.pop_last()
        {
            used -= sizes.remove(&blob).unwrap_or_default();
        }
    }
    score
}

/// PFOO-L (Berger, Beckmann and Harchol-Balter, 2018): no policy can do better, and none may reach
/// it. Each use after the first costs the blob's size times the requests since the use before;
/// the store has its size times all requests to spend, and the cheapest uses are bought first: by
/// byte for the bytes, by use for the uses. That the store is never full on average is all it asks.
pub(crate) fn upper_bound(trace: &[Request], max: u64) -> Score {
    let mut last: HashMap<u32, usize> = HashMap::new();
    let mut score = Score::default();
    let mut uses: Vec<(u128, u64)> = Vec::new();
    for (now, request) in trace.iter().enumerate() {
        score.count(request, false);
        if let Some(before) = last.insert(request.blob, now)
            && request.size <= max
        {
            uses.push(((now - before) as u128, request.size));
        }
    }
    let budget = u128::from(max) * trace.len() as u128;
    uses.sort_unstable();
    let mut left = budget;
    for (length, size) in &uses {
        let cost = length * u128::from(*size);
        // The last one in part, as the bound does.
        let bought = if cost <= left {
            u128::from(*size)
        } else {
            left / length
        };
        score.hit_bytes += u64::try_from(bought).unwrap_or(u64::MAX);
        left -= cost.min(left);
    }
    uses.sort_unstable_by_key(|(length, size)| length * u128::from(*size));
    let mut left = budget;
    for (length, size) in &uses {
        let cost = length * u128::from(*size);
        // The last one is rounded up: this is an upper bound.
        score.hits += u64::from(left > 0);
        left -= cost.min(left);
    }
    score
}

/// For each request, which one asks for the same blob next.
fn next_uses(trace: &[Request]) -> Vec<usize> {
    let mut next = vec![usize::MAX; trace.len()];
    let mut seen: HashMap<u32, usize> = HashMap::new();
    for (now, request) in trace.iter().enumerate().rev() {
        next[now] = seen.insert(request.blob, now).unwrap_or(usize::MAX);
    }
    next
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio that is shown with one digit"
)]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / (whole.max(1)) as f64
}
