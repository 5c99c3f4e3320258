//! The decisions of a mirror: hit or miss, fresh or stale, who joins which fill.
//!
//! [`Mirror`] is a façade of components. Each owns its state, keeps the handles of [`core`] that it uses, and is given
//! the components that it builds on: docs/design.md has them in their order.
//!
//! | file | what |
//! | --- | --- |
//! | `core` | handles that components are made of |
//! | `fast_path` | hits that wait for nothing |
//! | `blob` | blobs: stored, joined, or fetched by a fill |
//! | `passthrough` | blobs that cannot be stored: straight from upstream to the client |
//! | `transfer` | the fetcher: from an upstream's answer into a fill |
//! | `manifest`, `manifest_fetch`, `local` | manifests by digest; fetched; in memory and on disk |
//! | `links` | what a repository is known to have |
//! | `tag` | manifests by tag |
//! | `policy` | what is done about which tag (pure) |
//! | `freshness` | whether a tag may be served (pure) |
//! | `negative` | what upstream said a moment ago that there is not |
//! | `not_stored` | telling that something cannot be stored |
//! | `lists` | tag lists, the catalog |
//! | `seen_lists` | lists that were seen, for while upstream cannot answer |
//! | `referrers` | what refers to a digest: by the API, or by a tag |
//! | `lent` | what answers hold that clients have not read |
//! | `verify` | whether what is stored is what it should be |
//! | `repair` | what is damaged, fetched again |
//! | `import` | images that an operator brings |
//! | `imported` | what was imported, from the catalogue, where the cache does not know it any more |
//! | `opening` | the start of store and catalogue |
//! | `inspect/` | what an operator sees and removes |
//! | `fills`, `single_flight` | one transfer, or request, for all that ask for the same at the same time |
//! | `shares` | who may have how many of these |
//!
//! Work that goes upstream runs on the mirror's own tasks: the client who
//! caused it may hang up.

mod answer;
mod blob;
mod core;
mod error;
mod fast_path;
mod fills;
mod freshness;
mod import;
mod imported;
pub mod inspect;
mod lent;
mod links;
mod lists;
mod local;
mod manifest;
mod manifest_fetch;
mod negative;
mod not_stored;
mod opening;
mod parts;
mod passthrough;
mod policy;
mod referrers;
mod repair;
mod seen_lists;
mod shares;
mod single_flight;
mod tag;
#[cfg(test)]
mod testing;
mod transfer;
mod verify;
mod visibility;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

pub use answer::{BlobAnswer, BlobHead, BlobReader, ListAnswer, ManifestAnswer};
use blob::Blobs;
use core::{Core, Tasks, Upstreams};
pub use error::MirrorError;
use fast_path::Hits;
use import::Imports;
pub use import::{IMPORTS_MAX, ImportError, ImportOutcome, ImportedImage};
use imported::Imported;
use inspect::{Contents, Garbage, Images, Overview, Pins, Removal, UsageSurvey};
use lent::Lent;
use links::Links;
use lists::Lists;
use local::LocalManifests;
use manifest::Manifests;
use manifest_fetch::ManifestFetcher;
use negative::Negative;
use not_stored::NotStored;
pub use opening::{OpenMode, Opened};
pub use parts::PartReaders;
use passthrough::Passthroughs;
pub use policy::{
    Config, Failure, Pattern, PatternError, Policies, Policy, Revalidate, Rule, StaleOn, Ttl,
};
use repair::Repairs;
use tag::Tags;
use transfer::Transfers;
pub use transfer::{BlobName, BlobRead, BlobSource, FillOnRange, ReadBody, ReadRange};
use verify::Audit;
pub use verify::{
    Fault, Finding, VERIFY_IMAGES_MAX, VerifyBusy, VerifyEvent, VerifyProgress, VerifySummary,
};
use visibility::Visibility;
pub use visibility::{PublicView, Sought};

use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::oci::Directory;
pub use crate::oci::directory::Source;
use crate::store::Store;
pub use crate::store::Windows;
use crate::telemetry::Metrics;
pub use crate::upstream::{ClientId, FetchError, OnBehalf};
use crate::upstream::{Pseudonym, Upstream};

/// A request is answered or refused within this time: steps that wait for upstream one after the
/// other, each within its own limit, must not add up past containerd's 30 s (containerd,
/// core/remotes/docker/registry.go). The head may wait 2 s more for the first bytes.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(25);

/// The mirror. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {
    inner: Arc<Inner>,
}

/// The readiness of a mirror for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All is well.
    Ready,
    /// The store's disk or index fails, in one line: clients are served all the same, from what can be
    /// read and from upstream.
    Degraded(String),
    /// It is shutting down.
    Stopping,
}

/// The parts that a mirror is made of.
#[derive(Debug)]
pub struct Parts {
    /// The policies of tags.
    pub policies: Policies,
    /// The treatment of a blob of which a part was asked for.
    pub fill_on_range: FillOnRange,
    /// Finds the upstream that a request means.
    pub directory: Directory,
    /// The upstreams: one for each name in the directory.
    pub upstreams: Vec<Upstream>,
    /// Those of them of which anonymous clients get what anybody does, as anybody sees them.
    pub public_views: Vec<PublicView>,
    /// The store.
    pub store: Store,
    /// State that may not be lost.
    pub catalogue: Catalogue,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Metrics.
    pub metrics: Metrics,
}

/// The components that answer clients, and what an operator asks for.
#[derive(Debug)]
struct Inner {
    directory: Directory,
    pseudonym: Pseudonym,
    store: Store,
    catalogue: Catalogue,
    tasks: Tasks,
    imported: Arc<Imported>,
    hits: Hits,
    tags: Arc<Tags>,
    blobs: Blobs,
    lists: Arc<Lists>,
    visibility: Arc<Visibility>,
    operator: Operator,
}

/// The components that answer an operator.
#[derive(Debug)]
pub struct Operator {
    images: Images,
    overview: Overview,
    usage: Arc<UsageSurvey>,
    pins: Arc<Pins>,
    removal: Arc<Removal>,
    garbage: Garbage,
    imports: Imports,
    repairs: Arc<Repairs>,
    audit: Arc<Audit>,
}

impl Inner {
    /// Makes the components, each of those that it needs.
    fn new(parts: Parts, sources: Vec<Arc<dyn BlobSource>>) -> Self {
        let core = Core {
            policies: parts.policies,
            upstreams: Upstreams::new(parts.upstreams),
            store: parts.store,
            catalogue: parts.catalogue,
            clock: parts.clock,
            metrics: parts.metrics,
            tasks: Tasks::new(),
        };
        let imported = Arc::new(Imported::new(&core));
        let lent = Lent::default();
        let fills = Arc::default();
        let local = Arc::new(LocalManifests::new(&core.store));
        let negative = Arc::new(Negative::new(&core.policies, &core.clock));
        let not_stored = Arc::new(NotStored::new(&core.store, &core.clock));
        let contents = Contents::new(&core.store, &local);
        let pins = Arc::new(Pins::new(&core, &contents));
        let fetcher = ManifestFetcher::new(&core, &local, &negative, &not_stored);
        let fetcher = Arc::new(fetcher);
        let links = Arc::new(Links::new(&core, &local, &negative, &imported, &fetcher));
        let manifests = Manifests::new(&core, &local, &negative, &links, &fetcher);
        let manifests = Arc::new(manifests);
        let tags = Tags::new(&core, &local, &negative, &imported, &fetcher, &manifests);
        let tags = Arc::new(tags);
        let transfers = Transfers::new(&core, parts.fill_on_range, &fills, &not_stored, sources);
        let transfers = Arc::new(transfers);
        let passthroughs = Arc::new(Passthroughs::new(&core, &links));
        let usage = Arc::new(UsageSurvey::new(&core));
        let removal = Arc::new(Removal::new(&core, &local, &imported, &tags, &contents));
        let repairs = Repairs::new(&core, &fills, &local, &manifests, &transfers);
        let repairs = Arc::new(repairs);
        let operator = Operator {
            images: Images::new(&core, &contents, &fills),
            overview: Overview::new(&core, &fills, &usage),
            garbage: Garbage::new(&core, &contents, &removal),
            imports: Imports::new(&core, &fills, &local, &imported, &tags, &pins, &removal),
            audit: Arc::new(Audit::new(&core, &contents, &repairs)),
            usage,
            pins,
            removal,
            repairs,
        };
        Self {
            directory: parts.directory,
            pseudonym: Pseudonym::random(),
            hits: Hits::new(&core, &local, &passthroughs, &lent),
            blobs: Blobs::new(&core, &negative, &links, &fills, &transfers, &passthroughs),
            visibility: Arc::new(Visibility::new(&core, parts.public_views)),
            lists: Arc::new(Lists::new(&core, &negative, &tags, &lent)),
            tags,
            operator,
            imported,
            catalogue: core.catalogue,
            store: core.store,
            tasks: core.tasks,
        }
    }
}

impl Mirror {
    /// Puts a mirror together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self::with_sources(parts, Vec::new())
    }

    /// Puts a mirror together that asks these sources for blobs before their upstream, in this order.
    #[must_use]
    pub fn with_sources(parts: Parts, sources: Vec<Arc<dyn BlobSource>>) -> Self {
        Self {
            inner: Arc::new(Inner::new(parts, sources)),
        }
    }

    /// Finds the upstream that a request means.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    /// Number of stored blobs' files that are kept open at most.
    #[must_use]
    pub fn open_files_max(&self) -> usize {
        self.inner.store.contents().open_files_max()
    }

    /// For whom a request is answered that a client sent with these values of `Via`.
    ///
    /// # Errors
    /// [`MirrorError::Loop`] when the request has been here before.
    pub fn on_behalf<'a>(
        &self,
        client: ClientId,
        via: impl Iterator<Item = &'a str>,
    ) -> Result<OnBehalf, MirrorError> {
        Ok(OnBehalf::of(client, self.inner.pseudonym.join(via)?))
    }

    /// The readiness for clients: `/readyz`. Waits for nothing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.inner.operator.overview.readiness()
    }

    /// Puts what was imported back into the cache's index, where that does not have it any more, in the background.
    pub fn restore_imports(&self) {
        let imported = Arc::clone(&self.inner.imported);
        let stop = self.inner.tasks.stopping().clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                restored = imported.restore() => if let Err(error) = restored {
                    tracing::warn!(%error, "names and links of imported images are not in the cache's index as long as the catalogue cannot be read");
                },
                () = stop.cancelled() => {}
            }
        });
    }

    /// The components that answer an operator.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.inner.operator
    }

    /// Ends the mirror's own tasks; fills under way are left so that a later
    /// run can take them up. Lets go of the catalogue.
    pub async fn stop(&self) {
        self.inner.tasks.end().await;
        self.inner.catalogue.close().await;
    }
}

/// The answer, or a failure when it does not come in time. The work that it waits for goes on.
fn in_time<T>(
    answer: impl Future<Output = Result<T, MirrorError>>,
) -> impl Future<Output = Result<T, MirrorError>> {
    // No async function, which would hold the whole answer twice.
    let late = || Err(MirrorError::Timeout(FetchError::Timeout("an answer")));
    tokio::time::timeout(ANSWER_WAIT_MAX, answer)
        .map(move |answer| answer.unwrap_or_else(|_| late()))
}
