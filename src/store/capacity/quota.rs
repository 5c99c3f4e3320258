//! The part of the store that a single upstream may take, and the time that unused blobs are kept. Both are seen to
//! in the background: an upstream may have more for a moment.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Capacity, STEP_BYTES};
use crate::oci::directory::Source;
use crate::oci::{Algorithm, Digest, UpstreamName};
use crate::store::capacity::evict::{Ages, OwnerId};
use crate::store::config::{Config, Share};
use crate::store::contents::Contents;
use crate::store::metadata::schema::BlobRecord;
use crate::store::{Link, Word};
use crate::telemetry::metrics::EvictReason;
use arc_swap::ArcSwap;

/// An upstream that has too much goes down to this part of what it may have, in percent.
const LOW_PERCENT: u64 = 95;

/// So many blobs that nobody has used for too long are evicted under one lock: requests come in between.
const STEP_BLOBS: usize = 256;

/// Time between two looks for those.
const AGED_EACH: Duration = Duration::from_mins(1);

/// Sees to it that upstreams keep to what they may have, and ages.
#[derive(Debug)]
pub struct Quotas {
    contents: Arc<Contents>,
    capacity: Arc<Capacity>,
    limits: ArcSwap<Limits>,
    /// When it was last looked for blobs that nobody uses any more, in milliseconds.
    aged_at: AtomicU64,
    /// Bytes by which the store is still larger than `max_size`, which was lowered.
    excess: Mutex<u64>,
}

/// Limits of a configuration.
#[derive(Debug)]
struct Limits {
    shares: Vec<Share>,
    ages: Ages,
}

impl Quotas {
    pub(in crate::store) fn new(
        contents: &Arc<Contents>,
        capacity: &Arc<Capacity>,
        config: &Config,
    ) -> Self {
        Self {
            contents: Arc::clone(contents),
            capacity: Arc::clone(capacity),
            limits: ArcSwap::from_pointee(Limits::of(config)),
            aged_at: AtomicU64::new(0),
            excess: Mutex::default(),
        }
    }

    /// Keeps to the bounds of another configuration: of the store, of shares and ages.
    ///
    /// # Errors
    /// `max_size` is a part of a file system that cannot be measured: all is as it was.
    pub fn replace(&self, config: &Config) -> io::Result<()> {
        let bounds = &self.contents.bounds;
        let max = bounds.max_by(config)?;
        bounds.keep_free(config.min_free);
        self.resize(max);
        self.limits.store(Arc::new(Limits::of(config)));
        self.aged_at.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Changes `max_size`. More room is there at once; less, once enough has gone.
    fn resize(&self, max: u64) {
        let mut excess = self.excess.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.contents.bounds.replace_max(max);
        if max < before {
            *excess = excess.saturating_add(before - max);
        } else {
            let kept = (max - before).min(*excess);
            *excess -= kept;
            self.contents.ledger().have_back(max - before - kept);
        }
        drop(excess);
        self.contents.report();
    }

    /// Evicts until the store is as small as it should be, or what is left is in use. Requests that need room come in
    /// between. Blocks.
    fn shrink(&self) {
        let mut excess = self.excess.lock().unwrap_or_else(PoisonError::into_inner);
        while *excess > 0 {
            let step = {
                let ledger = self.contents.ledger();
                let room = ledger.max().saturating_sub(ledger.bytes());
                (*excess).min(room.max(STEP_BYTES)).min(ledger.max())
            };
            if step == 0 {
                return;
            }
            // Pinned images, or blobs that are read: it is tried again.
            if let Err(error) = self.capacity.reserve(step) {
                tracing::debug!(%error, excess = *excess, "the store is not as small as it should be yet");
                return;
            }
            self.contents.bounds.unwritten_changes(step, 0);
            self.contents.ledger().give_away(step);
            self.contents.report();
            *excess -= step;
        }
    }

    /// A blob was fetched from an upstream: it counts as that one's, if it is nobody's yet. Blobs that
    /// several have count as the first one's.
    pub fn belongs(&self, digest: &Digest, upstream: &UpstreamName) {
        let changed = self
            .contents
            .ledger()
            .stored_mut()
            .belongs(digest, owner_id(upstream));
        if let Some((used, noted)) = changed {
            let record = BlobRecord {
                size: noted.size,
                used,
                uses: noted.uses,
                owner: noted.owner,
            };
            self.contents.records.note(digest, record);
        }
    }

    /// Another node of the cluster has given a blob, and has it; or this one is now asked for it first. Copies are evicted
    /// first.
    pub fn copied(&self, digest: &Digest, is_copy: bool) {
        let mut ledger = self.contents.ledger();
        let changed = ledger.stored_mut().copied(digest, is_copy);
        drop(ledger);
        if let Some((used, noted)) = changed {
            let record = BlobRecord {
                size: noted.size,
                used,
                uses: noted.uses,
                owner: noted.owner,
            };
            self.contents.records.note(digest, record);
        }
    }

    /// True if a link is reason enough to give its repository what is stored: its upstream must have said that the
    /// repository has it, or have sent it itself and named it there. Nobody knows of old links which of the two they
    /// are: they are good for what is nobody's (imports are), or this upstream's.
    #[must_use]
    pub fn vouches(&self, source: &Source, digest: &Digest, link: &Link) -> bool {
        if link.is_given() {
            return true;
        }
        let owner = self.contents.ledger().stored().owner(digest);
        owner.is_some_and(|owner| {
            owner == owner_id(&source.upstream) || (link.word == Word::Before && owner == 0)
        })
    }

    /// Evicts what is above the bounds of the store, what upstreams have too much of, and what nobody has used for too
    /// long. Blocks.
    pub(in crate::store) fn keep(&self) {
        self.shrink();
        let limits = self.limits.load_full();
        for share in &limits.shares {
            if let Some(most) = share.max_size {
                self.cut_down(owner_id(&share.upstream), most);
            }
        }
        let now = self.contents.clock.now();
        let last = &self.aged_at;
        let due = now.0.saturating_sub(last.load(Ordering::Relaxed));
        if u128::from(due) < AGED_EACH.as_millis() || limits.ages.least().is_none() {
            return;
        }
        last.store(now.0, Ordering::Relaxed);
        loop {
            let files = self.contents.files();
            let victims = self.contents.ledger().aged(&limits.ages, now, STEP_BLOBS);
            if victims.is_empty() {
                return;
            }
            // One that the disk does not let go of is entered again as used now.
            self.contents.delete_all(&files, &victims, EvictReason::Age);
        }
    }

    fn cut_down(&self, owner: OwnerId, most: u64) {
        let has = self.contents.ledger().stored_mut().bytes_of(owner);
        if has <= most {
            return;
        }
        let over = has - most / 100 * LOW_PERCENT;
        self.capacity
            .free_in_steps(over, |ledger, bytes| ledger.free_of(owner, bytes));
    }
}

impl Limits {
    fn of(config: &Config) -> Self {
        let special = config.shares.iter();
        let special = special.filter_map(|share| Some((owner_id(&share.upstream), share.max_age?)));
        Self {
            shares: config.shares.clone(),
            ages: Ages {
                usual: config.max_age,
                special: special.collect(),
            },
        }
    }
}

/// The number that stands for an upstream: a part of a hash of its name, so that it is the same in every
/// run, whatever the configuration.
pub(in crate::store) fn owner_id(upstream: &UpstreamName) -> OwnerId {
    let name = Digest::of(Algorithm::Sha256, upstream.as_str().as_bytes());
    let part = name.bytes().first_chunk().copied().unwrap_or_default();
    OwnerId::from_be_bytes(part).max(1)
}
