//! The object store of a process: what its parts have in common.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::abilities::Abilities;
use super::bucket::Bucket;
use super::config::Config;
use super::error::BucketError;
use super::facts::Keys;
use super::notes;
use super::queue::Queue;
use super::seal::Seal;

use crate::clock::Clock;
use crate::oci::{Digest, UpstreamName};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::{OwnListeners, StorageLogins};

/// Blobs whose objects were wrong, which are not read there: some 100 bytes each.
const DISTRUSTED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The name under which requests for keys are logged.
const NAME: &str = "tier.invalid";

/// The object store of this process. Cheap to clone.
#[derive(Clone)]
pub struct Tier {
    pub(super) bucket: Bucket,
    pub(super) keys: Keys,
    pub(super) seal: Option<Seal>,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: Arc<Config>,
    pub(super) abilities: Arc<Abilities>,
    pub(super) queue: Arc<Queue>,
    pub(super) distrusted: Arc<Mutex<LruCache<Digest, ()>>>,
}

/// The state of the object store, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierReport {
    /// The bucket.
    pub bucket: String,
    /// `ok`, `resting`, `refused` or `unknown`.
    pub state: &'static str,
    /// The reason, where it is not well.
    pub trouble: Option<String>,
    /// Blobs that are to be written.
    pub pending: usize,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Tags and links that are to be written.
    pub pending_facts: usize,
}

impl fmt::Debug for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tier").field(&self.bucket).finish()
    }
}

impl Tier {
    /// Reads the files of secrets. Dials nothing.
    ///
    /// # Errors
    /// One line that names what cannot be used.
    pub fn new(
        config: Config,
        store: &Store,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        own: &OwnListeners,
    ) -> Result<Self, String> {
        let name = UpstreamName::parse(NAME).map_err(|error| error.to_string())?;
        let (login, proxy) = (config.login.clone(), &config.access.proxy);
        let logins = StorageLogins::new(login, name, proxy, metrics.clone(), own.clone());
        let logins = Arc::new(logins.map_err(|why| format!("tier: {why}"))?);
        let seal = config.secret_file.as_deref().map(|path| {
            let read = Seal::read(path);
            read.map_err(|why| format!("tier.secret_file {}: {why}", path.display()))
        });
        Ok(Self {
            bucket: Bucket::new(&config, &logins, metrics.clone(), own)?,
            keys: Keys::new(&config.place.prefix),
            seal: seal.transpose()?,
            store: store.clone(),
            queue: Arc::new(Queue::new(metrics.clone())),
            metrics,
            clock,
            config: Arc::new(config),
            abilities: Arc::default(),
            distrusted: Arc::new(Mutex::new(LruCache::new(DISTRUSTED_MAX))),
        })
    }

    /// The state of it, for people.
    #[must_use]
    pub fn report(&self) -> TierReport {
        let (pending, pending_bytes, pending_facts) = self.queue.waiting();
        let refused = self.queue.trouble();
        let mut trouble = refused.clone();
        let state = if self.bucket.rest().is_some() {
            trouble = self.bucket.why().or(trouble);
            "resting"
        } else if refused.is_some() {
            "refused"
        } else if self.abilities.are_known() {
            "ok"
        } else {
            trouble = self.bucket.why();
            "unknown"
        };
        TierReport {
            bucket: self.bucket.name().to_owned(),
            state,
            trouble,
            pending,
            pending_bytes,
            pending_facts,
        }
    }

    pub(super) fn is_distrusted(&self, digest: &Digest) -> bool {
        self.distrusted().peek(digest).is_some()
    }

    /// An object has other bytes than its key says: it is not read any more, and written again once the blob is here.
    pub(super) fn distrust_now(&self, digest: &Digest) {
        if self.distrusted().put(*digest, ()).is_none() {
            tracing::warn!(bucket = self.bucket.name(), %digest, "the object store has wrong bytes of a blob: it is fetched elsewhere, and written there again");
            self.queue.wrong(*digest);
        }
    }

    /// An object that was there is not: what was noted of it is forgotten.
    pub(super) async fn absent(&self, error: &BucketError, digest: &Digest) {
        if *error == BucketError::Absent && notes::has_blob(&self.store, digest).await {
            self.store.tiered().forget(notes::blob_key(digest)).await;
        }
    }

    pub(super) fn distrusted(&self) -> MutexGuard<'_, LruCache<Digest, ()>> {
        // Each change leaves it whole.
        self.distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
