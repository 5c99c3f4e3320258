//! The images that are never evicted. What belongs to one is written down with it, so that it is kept
//! from the first moment after a start, before any manifest has been read.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::oci::directory::Source;
use crate::oci::{Digest, Reference};
use crate::store::contents::Contents;
use crate::store::metadata::schema;

/// Pinned images: what somebody wrote down by hand, or a rule that means the images of a platform, not
/// all that there are.
const PINS_MAX: usize = 10_000;

/// Digests of one image: an index of 60 platforms with 127 layers each.
const PIN_DIGESTS_MAX: usize = 8_192;

/// Digests of all pinned images together: about 30 MB of memory.
const KEPT_DIGESTS_MAX: usize = 200_000;

/// When pinned images take more than this part of the store, in percent, little else can be kept.
const PINNED_PERCENT_HIGH: u64 = 90;

/// Below this part it is over.
const PINNED_PERCENT_LOW: u64 = 85;

/// A pinned image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The repository.
    pub source: Source,
    /// The image in it.
    pub reference: Reference,
    /// Since when.
    pub since: Timestamp,
    /// True if a rule of the configuration says so, rather than somebody by hand.
    pub by_rule: bool,
    /// All that belongs to it, stored or not.
    pub digests: Vec<Digest>,
}

/// Content that is never evicted, beside the pins in the index, which may be lost with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// These images.
    Pins(Vec<Pinned>),
    /// All that is stored: it cannot be told what must stay.
    Everything,
}

impl Default for Keeping {
    fn default() -> Self {
        Self::Pins(Vec::new())
    }
}

/// The reason why an image cannot be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// There are too many.
    #[error("{PINS_MAX} images are pinned already; unpin some first")]
    TooMany,
    /// They are too large.
    #[error("pinned images have {KEPT_DIGESTS_MAX} manifests and blobs already; unpin some first")]
    TooLarge,
}

/// The pinned images, and how many of them each blob belongs to.
#[derive(Debug)]
pub struct Pins {
    contents: Arc<Contents>,
    state: Mutex<State>,
    /// True after a warning that they take too much.
    warned: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Vec<u8>, Pinned>,
    counts: HashMap<Digest, u32>,
}

impl State {
    /// Number of digests that pinned images have together once the image of this key has these, which are sorted.
    fn kept_with(&self, key: &[u8], digests: &[Digest]) -> usize {
        let more = digests.iter().filter(|it| !self.counts.contains_key(it));
        let old = self.images.get(key).map_or(&[][..], |old| &old.digests);
        let its_alone = |digest: &&Digest| {
            self.counts.get(digest) == Some(&1) && digests.binary_search(digest).is_err()
        };
        self.counts.len() + more.count() - old.iter().filter(its_alone).count()
    }
}

impl Pins {
    pub(in crate::store) fn new(contents: &Arc<Contents>) -> Self {
        Self {
            contents: Arc::clone(contents),
            state: Mutex::default(),
            warned: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is finished before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the pins of an earlier run. Blocks.
    pub(in crate::store) fn load(&self) {
        for (key, value) in self.contents.records.read_pins(PINS_MAX) {
            if let Some(pinned) = decode(&key, &value) {
                self.note_pin(&mut self.state(), key, pinned);
            } else {
                tracing::warn!("a pin in the index cannot be read; it is left out");
            }
        }
    }

    /// Keeps what the index cannot be trusted with. What it has of the same images stays as well: it may be newer. Pins
    /// end an earlier [`Keeping::Everything`].
    pub fn keep(&self, keeping: Keeping) {
        let pins = match keeping {
            Keeping::Pins(pins) => pins,
            Keeping::Everything => {
                self.contents.ledger().order_mut().keep_all(true);
                return;
            }
        };
        for mut pinned in pins {
            let key = schema::pin_key(&pinned.source, &pinned.reference);
            let mut state = self.state();
            if let Some(old) = state.images.get(&key) {
                pinned.digests.extend(&old.digests);
            }
            pinned.digests.sort_unstable();
            pinned.digests.dedup();
            let value = encode(&pinned);
            self.contents.records.write_pin(key.clone(), Some(value));
            self.note_pin(&mut state, key, pinned);
        }
        self.contents.ledger().order_mut().keep_all(false);
    }

    /// True while nothing is evicted because it is not known what is pinned.
    #[must_use]
    pub fn keeps_everything(&self) -> bool {
        self.contents.ledger().order().keeps_all()
    }

    /// The pinned images, sorted by name.
    #[must_use]
    pub fn all(&self) -> Vec<Pinned> {
        self.state().images.values().cloned().collect()
    }

    /// The pinned images of a repository.
    #[must_use]
    pub fn of(&self, source: &Source) -> Vec<Pinned> {
        let prefix = schema::repository_prefix(source);
        let state = self.state();
        let images = state.images.range(prefix.clone()..);
        images
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(_, pinned)| pinned.clone())
            .collect()
    }

    /// The pin of an image, if it has one.
    #[must_use]
    pub fn get(&self, source: &Source, reference: &Reference) -> Option<Pinned> {
        let key = schema::pin_key(source, reference);
        self.state().images.get(&key).cloned()
    }

    /// Pins an image, or says anew what belongs to it. One that was pinned by hand stays so.
    ///
    /// # Errors
    /// [`PinError`]; then it is as before.
    pub fn pin(&self, pinned: Pinned) -> Result<(), PinError> {
        self.write_pin(pinned, false)
    }

    /// Says anew what belongs to an image, if it is pinned still.
    ///
    /// # Errors
    /// [`PinError`]; then it is as before.
    pub fn renew(&self, pinned: Pinned) -> Result<(), PinError> {
        self.write_pin(pinned, true)
    }

    fn write_pin(&self, mut pinned: Pinned, only_if_there: bool) -> Result<(), PinError> {
        pinned.digests.sort_unstable();
        pinned.digests.dedup();
        pinned.digests.truncate(PIN_DIGESTS_MAX);
        let key = schema::pin_key(&pinned.source, &pinned.reference);
        let mut state = self.state();
        if let Some(old) = state.images.get(&key) {
            pinned.by_rule &= old.by_rule;
            pinned.since = old.since;
            if *old == pinned {
                return Ok(());
            }
        } else if only_if_there {
            return Ok(());
        } else if state.images.len() >= PINS_MAX {
            return Err(PinError::TooMany);
        }
        if state.kept_with(&key, &pinned.digests) > KEPT_DIGESTS_MAX {
            return Err(PinError::TooLarge);
        }
        let value = encode(&pinned);
        self.contents.records.write_pin(key.clone(), Some(value));
        self.note_pin(&mut state, key, pinned);
        Ok(())
    }

    /// Undoes [`Pins::pin`].
    pub fn unpin(&self, source: &Source, reference: &Reference) {
        let key = schema::pin_key(source, reference);
        let mut state = self.state();
        if let Some(old) = state.images.remove(&key) {
            self.let_go(&mut state, &old.digests);
            self.contents.records.write_pin(key, None);
        }
    }

    fn note_pin(&self, state: &mut State, key: Vec<u8>, pinned: Pinned) {
        let fresh: Vec<Digest> = pinned
            .digests
            .iter()
            .filter(|digest| {
                let count = state.counts.entry(**digest).or_default();
                *count += 1;
                *count == 1
            })
            .copied()
            .collect();
        for some in fresh.chunks(CHANGED_AT_ONCE_MAX) {
            let mut ledger = self.contents.ledger();
            for digest in some {
                ledger.order_mut().keep(digest);
            }
        }
        // Only now: what both have must not be evictable in between.
        if let Some(old) = state.images.insert(key, pinned) {
            self.let_go(state, &old.digests);
        }
    }

    fn let_go(&self, state: &mut State, digests: &[Digest]) {
        let mut free = Vec::new();
        for digest in digests {
            let Some(count) = state.counts.get_mut(digest) else {
                continue;
            };
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.counts.remove(digest);
                free.push(*digest);
            }
        }
        for some in free.chunks(CHANGED_AT_ONCE_MAX) {
            let mut ledger = self.contents.ledger();
            for digest in some {
                ledger.order_mut().let_go(digest);
            }
        }
    }

    /// Says once when pinned images take so much that little else can be kept.
    pub(in crate::store) fn watch(&self) {
        let (pinned, max) = {
            let ledger = self.contents.ledger();
            (ledger.order().kept_bytes(), ledger.max())
        };
        let percent = u128::from(pinned) * 100 / u128::from(max.max(1));
        let warned = &self.warned;
        if percent > u128::from(PINNED_PERCENT_HIGH) {
            if !warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    pinned_bytes = pinned,
                    max_bytes = max,
                    "pinned images take almost the whole cache: other blobs pass through without being kept. Unpin some, or raise cache.max_size"
                );
            }
        } else if percent < u128::from(PINNED_PERCENT_LOW) {
            warned.store(false, Ordering::Relaxed);
        }
    }
}

/// A byte of flags, the time, and the digests.
fn encode(pinned: &Pinned) -> Vec<u8> {
    let mut bytes = vec![u8::from(pinned.by_rule)];
    bytes.extend(pinned.since.0.to_be_bytes());
    for digest in &pinned.digests {
        bytes.extend(schema::digest_key(digest));
    }
    bytes
}

fn decode(key: &[u8], value: &[u8]) -> Option<Pinned> {
    let (source, reference) = schema::decode_pin_key(key)?;
    let (flags, rest) = value.split_first()?;
    let (since, mut rest) = rest.split_at_checked(8)?;
    let mut digests = Vec::new();
    while let Some(algorithm) = rest.first() {
        let length = if *algorithm == 1 { 33 } else { 65 };
        let (digest, after) = rest.split_at_checked(length)?;
        digests.push(schema::decode_digest(digest)?);
        rest = after;
    }
    Some(Pinned {
        source,
        reference,
        since: Timestamp(u64::from_be_bytes(since.try_into().ok()?)),
        by_rule: flags & 1 != 0,
        digests,
    })
}

/// Blobs changed under one lock of the ledger: requests come in between.
const CHANGED_AT_ONCE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Repository, Tag, UpstreamName};

    #[test]
    fn a_pin_is_read_back_and_a_damaged_one_is_none() {
        let pinned = Pinned {
            source: Source {
                upstream: UpstreamName::parse("registry.k8s.io").unwrap(),
                repository: Repository::parse("pause").unwrap(),
            },
            reference: Reference::Tag(Tag::parse("3.9").unwrap()),
            since: Timestamp(77),
            by_rule: true,
            digests: vec![Digest::Sha256([1; 32]), Digest::Sha512([0; 64])],
        };
        let key = schema::pin_key(&pinned.source, &pinned.reference);
        let value = encode(&pinned);
        assert_eq!(decode(&key, &value), Some(pinned));
        assert_eq!(decode(&key, &value[..value.len() - 1]), None);
        assert_eq!(decode(&key, b""), None);
        assert_eq!(decode(b"x", &value), None);
    }
}
