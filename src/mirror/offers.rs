//! Parts of blobs that other nodes of a cluster have, as they say while they ask for the rest: so much need not come from the
//! upstream again. An offer is worth a question, and nothing depends on it.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::store::FillKey;

/// Blobs of which parts are offered at once: those of many images.
const BLOBS_MAX: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Nodes that offer parts of one blob. Each has about the same of it.
const OFFERS_MAX: usize = 4;

/// Parts that one node offers of a blob: it has the beginning, and little else.
pub(crate) const PARTS_MAX: usize = 8;

/// The part of a blob that a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The node's name.
    pub node: String,
    /// The bytes that it has.
    pub parts: Vec<Range<u64>>,
}

/// The offers for blobs that are fetched here, or will be in a moment.
#[derive(Debug)]
pub(super) struct Offers(Mutex<LruCache<FillKey, Arc<[Offer]>>>);

impl Default for Offers {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(BLOBS_MAX)))
    }
}

impl Offers {
    /// A node offers what it has. What it offered before is forgotten.
    pub(super) fn take(&self, key: FillKey, mut offer: Offer) {
        offer.parts.retain(|part| !part.is_empty());
        offer.parts.truncate(PARTS_MAX);
        if offer.parts.is_empty() {
            return;
        }
        let mut table = self.table();
        let known = table.get(&key).into_iter().flat_map(|it| it.iter());
        let others = known.filter(|it| it.node != offer.node).cloned();
        let others: Vec<Offer> = others.take(OFFERS_MAX - 1).collect();
        let all = std::iter::once(offer).chain(others).collect();
        table.put(key, all);
    }

    /// The offers for a blob, the newest first.
    pub(super) fn of(&self, key: &FillKey) -> Option<Arc<[Offer]>> {
        self.table().peek(key).cloned()
    }

    /// The blob is here, or nobody fetches it any more.
    pub(super) fn forget(&self, key: &FillKey) {
        self.table().pop(key);
    }

    fn table(&self) -> MutexGuard<'_, LruCache<FillKey, Arc<[Offer]>>> {
        // Each change is one insert or remove.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, UpstreamName};

    fn offer(node: &str, parts: &[Range<u64>]) -> Offer {
        Offer {
            node: node.to_owned(),
            parts: parts.to_vec(),
        }
    }

    #[test]
    fn the_newest_offers_of_a_few_nodes_are_kept() {
        let offers = Offers::default();
        let key = FillKey::new(
            &UpstreamName::parse("docker.io").unwrap(),
            Digest::Sha256([1; 32]),
        );
        assert_eq!(offers.of(&key), None);
        offers.take(key, offer("a", &[0..10, 20..20]));
        offers.take(key, offer("b", &[5..5, 6..6]));
        offers.take(key, offer("a", &[0..30, 40..50]));
        let known = offers.of(&key).unwrap();
        assert_eq!(known.to_vec(), [offer("a", &[0..30, 40..50])]);
        for node in ["b", "c", "d", "e"] {
            offers.take(key, offer(node, &[0..7, 8..9]));
        }
        let known = offers.of(&key).unwrap();
        let nodes: Vec<_> = known.iter().map(|it| it.node.as_str()).collect();
        assert_eq!(nodes, ["e", "d", "c", "b"]);
        offers.forget(&key);
        assert_eq!(offers.of(&key), None);
    }
}
