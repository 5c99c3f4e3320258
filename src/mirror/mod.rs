//! The decisions of a mirror: hit or miss, fresh or stale, who joins which fill.
//!
//! [`Mirror`] is a façade of components. Each owns its state, keeps the handles of [`core`] that it uses, and is given
//! the components that it builds on: docs/design.md has them in their order.
//!
//! | file | what |
//! | --- | --- |
//! | `core` | handles that components are made of |
//! | `fast_path` | hits that wait for nothing |
//! | `beside` | what hosted repositories beside it need: names that are free, blobs to mount |
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
//! | `archive` | an object store that keeps what upstreams have said |
//! | `elsewhere` | clients that are sent to the object store |
//! | `neighbours` | other nodes of a cluster, and what they are asked for |
//! | `ending` | the end, and what is done when another process takes the store over |
//! | `in_use` | the upstreams in use, which a reload replaces |
//! | `opening` | the start of store and catalogue |
//! | `inspect/` | what an operator sees and removes |
//! | `fills`, `single_flight` | one transfer, or request, for all that ask for the same at the same time |
//! | `shares` | who may have how many of these |
//!
//! Work that goes upstream runs on the mirror's own tasks: the client who
//! caused it may hang up.

mod answer;
mod archive;
mod beside;
mod blob;
mod core;
mod elsewhere;
mod ending;
mod error;
mod fast_path;
mod fills;
mod for_nodes;
mod freshness;
mod import;
mod imported;
mod in_use;
pub mod inspect;
mod lent;
mod links;
mod lists;
mod local;
mod manifest;
mod manifest_fetch;
mod negative;
mod neighbours;
mod not_stored;
mod offers;
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
mod upstream_set;
mod verify;
mod visibility;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use answer::{BlobAnswer, BlobHead, BlobReader, ListAnswer, ManifestAnswer};
use archive::Archived;
pub use archive::{Archive, KeptLink};
pub use beside::{ForHosted, Vacancy};
use blob::Blobs;
use core::{Core, Tasks, Upstreams, in_time};
pub use elsewhere::Elsewhere;
use ending::Ending;
pub use ending::NotHandedOver;
pub use error::MirrorError;
use fast_path::Hits;
pub use for_nodes::{ForNodes, StoredPart};
use import::Imports;
pub use import::{IMPORTS_MAX, ImportError, ImportOutcome, ImportedImage};
use imported::Imported;
pub use in_use::InUse;
pub use inspect::Readiness;
use inspect::{Contents, Garbage, Images, Overview, Pins, Refresher, Removal, UsageSurvey};
use lent::Lent;
use links::Links;
use lists::Lists;
use local::LocalManifests;
use manifest::Manifests;
use manifest_fetch::ManifestFetcher;
use negative::Negative;
use neighbours::Neighbours;
pub use neighbours::{Nodes, Owned, TagSaid, TagWanted, TagWord};
use not_stored::NotStored;
pub use offers::Offer;
pub use opening::{OpenMode, Opened};
pub use parts::PartReaders;
use passthrough::Passthroughs;
pub use policy::{
    Config, Failure, Pattern, PatternError, Policies, Policy, Revalidate, Rule, StaleOn, Ttl,
};
use repair::Repairs;
use tag::Tags;
use transfer::Transfers;
pub use transfer::{BlobName, BlobRead, BlobSource, FillOnRange, ReadBody, ReadRange, SourceKind};
pub use upstream_set::{PublicView, UpstreamSet};
use verify::Audit;
pub use verify::{
    Fault, Finding, VERIFY_IMAGES_MAX, VerifyBusy, VerifyEvent, VerifyProgress, VerifySummary,
};
pub use visibility::{Refusal, Sought, Visibility};

use crate::catalogue::Catalogue;
use crate::clock::Clock;
pub use crate::oci::directory::Source;
use crate::oci::{Accept, AcceptClass, ByteRange, Digest, Directory, Reference};
pub use crate::store::Windows;
use crate::store::{EventKinds, Store};
use crate::telemetry::Metrics;
use crate::upstream::Pseudonym;
pub use crate::upstream::{Challenges, ClientCredential, ClientId, FetchError, OnBehalf};

/// The mirror. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {
    inner: Arc<Inner>,
}

/// The parts that a mirror is made of.
#[derive(Debug)]
pub struct Parts {
    /// The policies of tags.
    pub policies: Policies,
    /// The treatment of a blob of which a part was asked for.
    pub fill_on_range: FillOnRange,
    /// The upstreams.
    pub upstreams: UpstreamSet,
    /// The store.
    pub store: Store,
    /// State that may not be lost.
    pub catalogue: Catalogue,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Metrics.
    pub metrics: Metrics,
}

/// The places that a mirror asks before the upstream.
#[derive(Debug, Default)]
pub struct Beside {
    /// Sources of blobs, in the order in which they are asked.
    pub sources: Vec<Arc<dyn BlobSource>>,
    /// The other nodes of a cluster.
    pub nodes: Option<Arc<dyn Nodes>>,
    /// An object store that keeps what upstreams have said.
    pub archive: Option<Arc<dyn Archive>>,
}

/// The components that answer clients, and what an operator asks for.
#[derive(Debug)]
struct Inner {
    in_use: InUse,
    pseudonym: Pseudonym,
    ending: Ending,
    tasks: Tasks,
    imported: Arc<Imported>,
    hits: Hits,
    tags: Arc<Tags>,
    blobs: Blobs,
    lists: Arc<Lists>,
    for_nodes: ForNodes,
    elsewhere: Elsewhere,
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
    refresher: Refresher,
}

impl Operator {
    /// The images that are known.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The state of the process.
    #[must_use]
    pub fn overview(&self) -> &Overview {
        &self.overview
    }

    /// The space that upstreams and repositories take.
    #[must_use]
    pub fn usage(&self) -> &Arc<UsageSurvey> {
        &self.usage
    }

    /// The pinned images.
    #[must_use]
    pub fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// The removal of images.
    #[must_use]
    pub fn removal(&self) -> &Removal {
        &self.removal
    }

    /// The removal of what nothing refers to.
    #[must_use]
    pub fn garbage(&self) -> &Garbage {
        &self.garbage
    }

    /// Images that an operator brings.
    #[must_use]
    pub fn imports(&self) -> &Imports {
        &self.imports
    }

    /// The check of what is stored.
    #[must_use]
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// Questions to upstream before a tag's time has run out.
    #[must_use]
    pub fn refresher(&self) -> &Refresher {
        &self.refresher
    }
}

/// The handles that components are made of; what becomes of a blob of which a part is read; the sources of blobs.
fn core_of(parts: Parts, beside: Beside) -> (Core, FillOnRange, Vec<Arc<dyn BlobSource>>) {
    let upstreams = Upstreams::new(parts.upstreams);
    let core = Core {
        policies: parts.policies,
        archived: Archived::new(beside.archive, &upstreams),
        upstreams,
        store: parts.store,
        catalogue: parts.catalogue,
        clock: parts.clock,
        metrics: parts.metrics,
        tasks: Tasks::new(),
        neighbours: Neighbours::new(beside.nodes),
    };
    (core, parts.fill_on_range, beside.sources)
}

impl Inner {
    /// Makes the components, each of those that it needs.
    fn new(parts: Parts, beside: Beside) -> Self {
        let (core, fill_on_range, sources) = core_of(parts, beside);
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
        let transfers = Transfers::new(&core, fill_on_range, &fills, &not_stored, sources);
        let transfers = Arc::new(transfers);
        let passthroughs = Arc::new(Passthroughs::new(&core, &links));
        let usage = Arc::new(UsageSurvey::new(&core));
        let removal = Arc::new(Removal::new(&core, &local, &imported, &tags, &contents));
        let repairs = Repairs::new(&core, &fills, &local, &manifests, &transfers);
        let repairs = Arc::new(repairs);
        let ending = Ending::new(&core, &fills);
        let in_use = InUse {
            upstreams: core.upstreams.clone(),
            negative: Arc::clone(&negative),
            visibility: Arc::new(Visibility::new(&core)),
        };
        let operator = Operator {
            images: Images::new(&core, &contents, &fills),
            overview: Overview::new(&core, &fills, &usage),
            garbage: Garbage::new(&core, &contents, &removal),
            imports: Imports::new(&core, &fills, &local, &imported, &tags, &pins, &removal),
            audit: Arc::new(Audit::new(&core, &contents, &repairs)),
            refresher: Refresher::new(&core, &tags),
            usage,
            pins,
            removal,
            repairs,
        };
        Self {
            pseudonym: Pseudonym::random(),
            for_nodes: ForNodes::new(&core, &negative, &tags, &fills, &passthroughs),
            elsewhere: Elsewhere::new(&core, &fills),
            hits: Hits::new(&core, &local, &passthroughs, &lent),
            blobs: Blobs::new(&core, &negative, &links, &fills, &transfers, &passthroughs),
            in_use,
            lists: Arc::new(Lists::new(&core, &negative, &tags, &lent)),
            tags,
            operator,
            imported,
            ending,
            tasks: core.tasks,
        }
    }
}

impl Mirror {
    /// Puts a mirror together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self::among(parts, Beside::default())
    }

    /// Puts a mirror together that has others beside it.
    #[must_use]
    pub fn among(parts: Parts, beside: Beside) -> Self {
        Self {
            inner: Arc::new(Inner::new(parts, beside)),
        }
    }

    /// What other nodes of a cluster are told here, and tell.
    #[must_use]
    pub fn for_nodes(&self) -> &ForNodes {
        &self.inner.for_nodes
    }

    /// The object store that clients may be sent to.
    #[must_use]
    pub fn elsewhere(&self) -> &Elsewhere {
        &self.inner.elsewhere
    }

    /// Tells which clients see what of the upstreams.
    #[must_use]
    pub fn visibility(&self) -> &Arc<Visibility> {
        &self.inner.in_use.visibility
    }

    /// The mirror, as hosted repositories see it.
    #[must_use]
    pub fn for_hosted(&self) -> ForHosted<'_> {
        ForHosted { mirror: self }
    }

    /// Finds the upstream that a request means. Not to be kept while something is waited for.
    #[must_use]
    pub fn directory(&self) -> impl Deref<Target = Directory> {
        self.inner.in_use.directory()
    }

    /// The upstreams in use, which can be replaced.
    #[must_use]
    pub fn in_use(&self) -> &InUse {
        &self.inner.in_use
    }

    /// Number of stored blobs' files that are kept open at most.
    #[must_use]
    pub fn open_files_max(&self) -> usize {
        self.inner.ending.store.contents().open_files_max()
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

    /// A blob, of which the client asks for this range, or for all.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn blob(
        &self,
        source: &Source,
        digest: &Digest,
        asked: Option<ByteRange>,
    ) -> Result<BlobAnswer, MirrorError> {
        if let Some(answer) = self.inner.hits.blob(source, digest) {
            return Ok(answer);
        }
        // In a box: hits shall not carry the long way's future about.
        let found = Box::pin(in_time(self.inner.blobs.get(source, digest, asked))).await;
        self.explained(source, digest, found).await
    }

    /// Answers HEAD of a blob.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn blob_head(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<BlobHead, MirrorError> {
        if let Some(head) = self.inner.hits.blob_head(source, digest) {
            return Ok(head);
        }
        let found = Box::pin(in_time(self.inner.blobs.head(source, digest))).await;
        self.explained(source, digest, found).await
    }

    async fn explained<T>(
        &self,
        source: &Source,
        digest: &Digest,
        found: Result<T, MirrorError>,
    ) -> Result<T, MirrorError> {
        match found {
            Ok(found) => Ok(found),
            Err(error) => {
                let explained = self.inner.imported.explain_blob(source, digest, error);
                Err(Box::pin(explained).await)
            }
        }
    }

    /// A manifest by tag or digest (HEAD asks this too, and leaves the body away).
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn manifest(
        &self,
        source: &Source,
        reference: &Reference,
        accept: impl Into<Accept>,
    ) -> Result<ManifestAnswer, MirrorError> {
        let accept = accept.into();
        if let Some(answer) = self.try_manifest_hit(source, reference, accept.class) {
            return Ok(answer);
        }
        // In a box: hits shall not carry the long way's future about.
        let found = in_time(self.inner.tags.by_reference(source, reference, &accept));
        match Box::pin(found).await {
            Ok(found) => self.inner.hits.answer(source, found),
            Err(error) => {
                let imported = &self.inner.imported;
                let explained = imported.explain_manifest(source, reference, error);
                Err(Box::pin(explained).await)
            }
        }
    }

    /// A manifest that is in memory and, by its tag, fresh: without waiting for anything.
    #[must_use]
    pub fn try_manifest_hit(
        &self,
        source: &Source,
        reference: &Reference,
        class: AcceptClass,
    ) -> Option<ManifestAnswer> {
        let kept = self.inner.hits.manifest(source, reference, class)?;
        self.inner.hits.answer(source, kept).ok()
    }

    /// The lists of tags, referrers and repositories.
    #[must_use]
    pub fn lists(&self) -> &Arc<Lists> {
        &self.inner.lists
    }

    /// Goes through the store for ever (if `cache.scrub` says so), and fetches again, one after the other, what
    /// turned out damaged, until `stop`.
    pub async fn scrub(self, store: Store, period: Duration, stop: CancellationToken) {
        let damaged = store.events().subscribe(EventKinds::BLOB_DAMAGED);
        let scrubbing = store.scrub(period, stop.clone());
        let repairing = stop.run_until_cancelled(self.operator().repairs.repair_all(damaged));
        tokio::join!(scrubbing, repairing);
    }

    /// The components that answer an operator.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.inner.operator
    }

    /// Ends the mirror's own tasks; fills under way are left so that a later
    /// run can take them up. Lets go of the catalogue.
    pub async fn stop(&self) {
        self.inner.ending.stop().await;
    }

    /// Suspends all fills, whose readers go on past the store, and lets go of store and catalogue for another process.
    /// What is stored can be read on.
    ///
    /// # Errors
    /// [`NotHandedOver`].
    pub async fn hand_over(&self) -> Result<(), NotHandedOver> {
        self.inner.ending.hand_over().await
    }
}
