//! An object store beside the cache: it is read before upstreams are, and has what was fetched.
//!
//! | file | what |
//! | --- | --- |
//! | `config` | what is configured |
//! | `bucket`, `connect` | objects by their keys, over our own connections and with our own keys |
//! | `health` | whether it is asked at all |
//! | `facts`, `seal` | tags and links there, and what keeps others from writing any |
//! | `source` | reading: bytes for fills, and what upstreams have said |
//! | `writer`, `queue`, `notes` | writing, after the commit; what waits; what is there already |
//! | `upload` | one blob on its way there, in parts that are taken up again |
//! | `survey` | finding what is not there yet |
//! | `leftovers` | uploads that nobody goes on with |
//! | `probe` | what the store can do |
//!
//! Nothing that is read is served before its digest is checked, or its seal. Nothing here is needed for an answer: a store
//! that is slow, broken or lying is a miss. No read deletes anything there, and no write needs a condition: the same key
//! always has the same bytes.

mod bucket;
mod config;
mod connect;
mod facts;
mod health;
mod leftovers;
mod notes;
mod probe;
mod queue;
mod seal;
mod source;
mod survey;
mod upload;
mod writer;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio_util::sync::CancellationToken;

use bucket::{Bucket, BucketError};
pub use config::{Access, Config, Encryption, Place, Redirect, Scheme, When, Write};
use facts::Keys;
use probe::Abilities;
use queue::Queue;
use seal::Seal;
use writer::Writer;

use crate::clock::Clock;
use crate::mirror::{Mirror, Nodes};
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
    bucket: Bucket,
    keys: Keys,
    seal: Option<Seal>,
    store: Store,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    config: Arc<Config>,
    abilities: Arc<Abilities>,
    queue: Arc<Queue>,
    distrusted: Arc<Mutex<LruCache<Digest, ()>>>,
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

    /// Writes what is stored to the bucket, and keeps it in order there, until `stop`. What another of `nodes` owns is left
    /// to that one, for a time.
    pub async fn run(self, mirror: Mirror, nodes: Option<Arc<dyn Nodes>>, stop: CancellationToken) {
        if self.seal.is_none() {
            tracing::info!(
                bucket = self.bucket.name(),
                "tags and links are not kept in the object store: that needs tier.secret_file or cluster.secret_file"
            );
        }
        let writer = Writer::new(self, mirror, nodes);
        stop.run_until_cancelled(writer.run()).await;
    }

    /// The state of it, for people.
    #[must_use]
    pub fn report(&self) -> TierReport {
        let (pending, pending_bytes, pending_facts) = self.queue.waiting();
        let trouble = self.queue.trouble();
        let state = if self.bucket.rest().is_some() {
            "resting"
        } else if trouble.is_some() {
            "refused"
        } else if self.abilities.are_known() {
            "ok"
        } else {
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

    fn is_distrusted(&self, digest: &Digest) -> bool {
        self.distrusted().peek(digest).is_some()
    }

    /// An object has other bytes than its key says: it is not read any more, and written again once the blob is here.
    fn distrust_now(&self, digest: &Digest) {
        if self.distrusted().put(*digest, ()).is_none() {
            tracing::warn!(bucket = self.bucket.name(), %digest, "the object store has wrong bytes of a blob: it is fetched elsewhere, and written there again");
            self.queue.wrong(*digest);
        }
    }

    /// An object that was there is not: what was noted of it is forgotten.
    async fn absent(&self, error: &BucketError, digest: &Digest) {
        if *error == BucketError::Absent && notes::has_blob(&self.store, digest).await {
            self.store.tiered().forget(notes::blob_key(digest)).await;
        }
    }

    fn distrusted(&self) -> MutexGuard<'_, LruCache<Digest, ()>> {
        // Each change leaves it whole.
        self.distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
