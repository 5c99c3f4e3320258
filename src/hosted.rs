//! Hosted repositories: the decisions about what is pushed here. It knows no HTTP.
//!
//! What is acknowledged is durable: the bytes of a blob are in a store of their own below the state directory, which
//! evicts nothing, and everything else is in the catalogue. The store has a file before the catalogue has its row, and
//! the row goes before the file.
//!
//! | file | what |
//! | --- | --- |
//! | `config` | what is configured |
//! | `names` | which names are hosted |
//! | `ranges` | which parts of a sorted list somebody may see something of |
//! | `intake` | memory for the bodies of pushes |
//! | `sessions` | uploads under way, and their bounds |
//! | `uploads` | from the first byte of an upload to a blob of a repository |
//! | `blobs` | blobs: reading, mounts, deletes |
//! | `manifests` | manifests and tags |
//! | `shape` | the fields that a manifest must have |
//! | `lists` | tags, repositories, referrers |
//! | `surveys` | lists for an operator, and the names that he writes |
//! | `operator` | what an operator's pages show |
//! | `caches` | what was read from the catalogue, for those who ask again |
//! | `removal` | whole repositories and namespaces: deleted, and restored |
//! | `expire` | tags that go by a rule |
//! | `events` | changes, for those who follow |
//! | `collect` | the garbage collector, and the expiry of uploads |
//! | `verify` | whether what is hosted is what it should be |
//! | `error` | why something was not done |
//!
//! Order of locks: an upload's writer, then the digest's, then those of the store; the catalogue's writer is a queue.
//! Nothing waits for a network while it has one.

mod blobs;
mod caches;
mod collect;
mod config;
mod error;
mod events;
mod expire;
mod intake;
mod lists;
mod manifests;
mod names;
mod operator;
mod ranges;
mod removal;
mod sessions;
mod shape;
mod surveys;
mod uploads;
mod verify;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use caches::Caches;
pub use collect::Collected;
pub use config::{Config, Expire, Fall, Immutable, ImmutableMode, Overlay};
pub use error::HostedError;
pub use events::{Consumer, EventPage, Follower};
pub use expire::{Planned, Preview, RUN_TAGS_MAX};
use intake::Intake;
pub use intake::Share;
pub use lists::{ReferrerPage, TagPage};
pub use manifests::{ManifestWanted, Put, Served};
pub use names::{Names, Place, check as check_namespace};
pub use operator::Holdings;
pub use ranges::NameRange;
use sessions::Sessions;
pub use sessions::{Session, SessionInfo};
pub use uploads::Writer;
pub use verify::{Flaw, FlawKind, Verifying};

use crate::catalogue::Catalogue;
pub use crate::catalogue::CatalogueError;
use crate::catalogue::hosted::{Act, Done, HostedAct};
pub use crate::catalogue::hosted::{AllBytes, ImageRow, ImagesWanted, RepositoryBytes};
pub use crate::catalogue::hosted::{
    AtLeast, Condition, Deleted, DeletedRow, EventRow, Looked, Namespace, NamespaceWanted, Queue,
    Refused, RepositoryRow, Search, TagMove, TagRow, Visibility,
};
use crate::clock::Clock;
use crate::oci::Digest;
use crate::store::{HandOver, Store, StoreError};
use crate::telemetry::Metrics;

/// Locks of digests: two that share one wait for each other for no reason, rarely.
const DIGEST_LOCKS: usize = 256;

/// Whoever does something, for the history.
pub type Actor = String;

/// Hosted repositories. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hosted {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ArcSwap<Config>,
    catalogue: Catalogue,
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    names: Names,
    caches: Arc<Caches>,
    sessions: Sessions,
    intake: Intake,
    digests: Vec<tokio::sync::Mutex<()>>,
    tasks: TaskTracker,
    /// Whoever learns which namespaces there are has it: what was read last is known last.
    learning: tokio::sync::Mutex<()>,
    news: events::News,
    pace: expire::Paces,
    /// Garbage is collected by one at a time.
    collecting: tokio::sync::Mutex<()>,
    /// Files are removed by one at a time: the lock that keeps them from a backup is the process's.
    removing: tokio::sync::Mutex<()>,
    /// Files without a row that could not be removed yet.
    strays: Mutex<Vec<Digest>>,
    /// The last trouble of the garbage collector that was told.
    told: Mutex<Option<String>>,
}

impl Hosted {
    /// Puts the parts together: a store that is permanent, and the catalogue beside it.
    #[must_use]
    pub fn new(
        config: Config,
        catalogue: Catalogue,
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        metrics.counts_hosted();
        let caches = Arc::new(Caches::new());
        let told = Arc::clone(&caches);
        catalogue.watch_hosted(move |act| told.acted(act));
        Self {
            inner: Arc::new(Inner {
                names: Names::new(&config),
                config: ArcSwap::from_pointee(config),
                catalogue,
                store,
                clock,
                metrics,
                caches,
                sessions: Sessions::default(),
                intake: Intake::default(),
                digests: (0..DIGEST_LOCKS)
                    .map(|_| tokio::sync::Mutex::default())
                    .collect(),
                tasks: TaskTracker::new(),
                learning: tokio::sync::Mutex::default(),
                news: events::News::default(),
                pace: expire::Paces::default(),
                collecting: tokio::sync::Mutex::default(),
                removing: tokio::sync::Mutex::default(),
                strays: Mutex::default(),
                told: Mutex::default(),
            }),
        }
    }

    /// Learns what is there: namespaces, and uploads that an earlier process has left. What the configuration says of
    /// namespaces is written down.
    pub async fn open(&self) {
        self.open_names().await;
        self.find_sessions().await;
        self.open_pace().await;
    }

    /// Learns which namespaces there are. Until they are known, names without an upstream are answered with 503: they may
    /// be hosted, and then nobody else must be asked for them.
    async fn open_names(&self) {
        if let Err(error) = self.declare().await {
            tracing::error!(%error, "hosted namespaces cannot be read: names without an upstream are answered with 503 until they can");
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.inner.config.load_full()
    }

    /// Takes over another configuration. Its namespaces are written down in the background.
    pub fn reload(&self, config: Config) {
        self.inner.names.replace(&config);
        if self.config().expire != config.expire {
            self.expire_later();
        }
        self.inner.config.store(Arc::new(config));
        let hosted = self.clone();
        self.inner.tasks.spawn(async move {
            if let Err(error) = hosted.declare().await {
                tracing::error!(%error, "hosted namespaces of the new configuration are not written down");
            }
        });
    }

    /// The names that are hosted.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.inner.names
    }

    /// Writes down the namespaces of the configuration, and learns all.
    async fn declare(&self) -> Result<(), HostedError> {
        // Also while nothing can be written.
        self.learn().await?;
        for wanted in self.config().namespaces.clone() {
            let act = Act::PutNamespace {
                wanted,
                only_new: false,
            };
            match self.act(act, "configuration").await {
                Ok(_) => {}
                Err(HostedError::Refused(error @ Refused::Deleted { .. })) => {
                    tracing::warn!(%error, "a namespace of the configuration is not made: roadstead ns restore NAME, or roadstead ns rm --forever NAME");
                }
                Err(error) => return Err(error),
            }
        }
        self.learn().await
    }

    /// Learns which namespaces there are.
    async fn learn(&self) -> Result<(), HostedError> {
        let _one = self.inner.learning.lock().await;
        let all = self.inner.catalogue.hosted_namespaces().await?;
        let kept = self.inner.catalogue.hosted_kept_names().await?;
        self.inner.names.know(all, kept);
        Ok(())
    }

    /// All namespaces, with what they use now.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, HostedError> {
        Ok(self.inner.catalogue.hosted_namespaces().await?)
    }

    /// Makes a namespace, or changes one; whether anything changed.
    ///
    /// # Errors
    /// [`HostedError`]: for example that it may not have that name.
    pub async fn put_namespace(
        &self,
        wanted: NamespaceWanted,
        only_new: bool,
        by: &str,
    ) -> Result<bool, HostedError> {
        names::check(&wanted.name)?;
        let (hosted, by) = (self.clone(), by.to_owned());
        // What it means is learnt, also where its client has gone.
        let putting = async move {
            let act = Act::PutNamespace { wanted, only_new };
            let done = hosted.act(act, &by).await?;
            hosted.learn().await?;
            Ok(done == Done::Changed)
        };
        self.to_its_end("the namespace was not made", putting).await
    }

    /// Memory for what a client is sending.
    #[must_use]
    pub fn take_in(&self, client: IpAddr) -> Share {
        self.inner.intake.enter(client)
    }

    /// The trouble that keeps anything from being written, in one line.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let store = self.inner.store.trouble();
        self.inner.catalogue.trouble().or(store)
    }

    /// Lets go of the store, when another process takes it over. Blocks.
    pub fn hand_over(&self) {
        HandOver(self.inner.store.contents()).begin();
        HandOver(self.inner.store.contents()).finish();
    }

    /// Ends uploads that are being written down.
    pub async fn end(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Does what the store and the garbage collector do by themselves, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let store = self.inner.store.clone();
        tokio::join!(store.run(stop.clone()), self.collect(&stop));
    }

    /// Does something that goes on if the caller does not wait. `undone`: what it means if it ends without an answer.
    async fn to_its_end<T: Send + 'static>(
        &self,
        undone: &str,
        work: impl Future<Output = Result<T, HostedError>> + Send + 'static,
    ) -> Result<T, HostedError> {
        let done = self.inner.tasks.spawn(work).await;
        done.unwrap_or_else(|error| {
            let why = format!("{undone}: {error}");
            Err(HostedError::Store(StoreError::Failing(why)))
        })
    }

    /// Does an act, which is durable when this returns.
    async fn act(&self, act: Act, by: &str) -> Result<Done, HostedError> {
        let act = HostedAct {
            act,
            at: self.inner.clock.now(),
            by: by.to_owned(),
        };
        let is_told = act.is_told();
        let done = self.inner.catalogue.act(act).await;
        if is_told {
            // Also where the disk has not answered in time: it may do it yet.
            self.inner.news.come();
        }
        Ok(done??)
    }

    /// Nobody publishes or drops a blob of this digest meanwhile.
    async fn lock(&self, digest: &Digest) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        digest.hash(&mut hasher);
        let all = u64::try_from(DIGEST_LOCKS).unwrap_or(1);
        let number = usize::try_from(hasher.finish() % all).unwrap_or_default();
        match self.inner.digests.get(number) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}
