//! The decisions of a mirror: hit or miss, fresh or stale, who joins which fill.
//!
//! | file | what |
//! | --- | --- |
//! | `blob` | blobs: stored, joined, or fetched by a fill |
//! | `at_hand` | hits that wait for nothing |
//! | `bypass` | blobs that cannot be stored: straight from upstream to the client |
//! | `transfer` | the fetcher: from an upstream's answer into a fill |
//! | `manifest` | manifests by digest |
//! | `tag` | manifests by tag |
//! | `policy` | what is done about which tag (pure) |
//! | `freshness` | whether a tag may be served (pure) |
//! | `negative` | what upstream said a moment ago that there is not |
//! | `lists` | tag lists, the catalog |
//! | `seen_lists` | lists that were seen, for while upstream cannot answer |
//! | `referrers` | what refers to a digest: by the API, or by a tag |
//! | `lent` | what answers hold that clients have not read |
//! | `verify` | whether what is stored is what it should be |
//! | `repair` | what is damaged, fetched again |
//! | `import` | images that an operator brings |
//! | `inspect/` | what an operator sees and removes |
//! | `flight`, `flights` | one transfer, or question, for all who ask at once |
//! | `shares` | who may have how many of these |
//!
//! Work that goes upstream runs on the mirror's own tasks: the client who
//! caused it may hang up.

mod answer;
mod at_hand;
mod blob;
mod bypass;
mod core;
mod error;
mod flight;
mod flights;
mod freshness;
mod import;
pub mod inspect;
mod lent;
mod links;
mod lists;
mod local;
mod manifest;
mod manifest_fetch;
mod negative;
mod not_stored;
mod parts;
mod policy;
mod referrers;
mod repair;
mod seen_lists;
mod shares;
mod tag;
mod transfer;
mod verify;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;

pub use answer::{BlobAnswer, BlobHead, BlobReader, ListAnswer, ManifestAnswer};
use bypass::PASSES_MAX;
use core::{Core, Tasks, Upstreams};
pub use error::MirrorError;
use flight::Fills;
pub use import::{IMPORTS_MAX, ImportError, Imported, ImportedImage};
use inspect::{Contents, Images, Overview, PinEvents, Pins, UsageSurvey};
use lent::Lent;
use links::Links;
use lists::Lists;
use local::LocalManifests;
use manifest::Manifests;
use manifest_fetch::ManifestFetcher;
use negative::Negative;
use not_stored::NotStored;
pub use parts::PartReaders;
pub use policy::{Config, Failure, Pattern, PatternError, Policy, Revalidate, Rule, StaleOn, Ttl};
use shares::{Shares, Stays};
use tag::Tags;
pub use transfer::FillOnRange;
pub use verify::{
    Fault, Finding, VERIFY_IMAGES_MAX, VerifyBusy, VerifyEvent, VerifyProgress, VerifySummary,
};

use crate::clock::Clock;
pub use crate::oci::directory::Source;
use crate::oci::{Directory, UpstreamName};
use crate::store::Store;
pub use crate::store::Windows;
use crate::telemetry::{Limit, Metrics};
pub use crate::upstream::{ClientId, FetchError, OnBehalf};
use crate::upstream::{Pseudonym, Upstream};

/// Fills from one upstream that go on although nobody reads them any more: slow ones of one are not in the way of
/// another's.
const FILLS_UNATTENDED_MAX: usize = 32;

/// A request is answered or refused within this time: steps that wait for upstream one after the
/// other, each within its own limit, must not add up past containerd's 30 s (containerd,
/// core/remotes/docker/registry.go). The head may wait 2 s more for the first bytes.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(25);

/// The mirror. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {
    inner: Arc<Inner>,
}

/// How ready a mirror is for clients.
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

/// What a mirror is made of.
#[derive(Debug)]
pub struct Parts {
    /// What is done about which tag.
    pub config: Config,
    /// What comes of a blob of which a part was asked for.
    pub fill_on_range: FillOnRange,
    /// Which upstream a request means.
    pub directory: Directory,
    /// The upstreams: one for each name in the directory.
    pub upstreams: Vec<Upstream>,
    /// The store.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Metrics.
    pub metrics: Metrics,
}

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    fill_on_range: FillOnRange,
    directory: Directory,
    upstreams: Upstreams,
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    fills: Arc<Fills>,
    links: Arc<Links>,
    manifests: Arc<Manifests>,
    tags: Arc<Tags>,
    lists: Arc<Lists>,
    local: Arc<LocalManifests>,
    /// What answers hold that clients have not read.
    lent: Lent,
    negative: Arc<Negative>,
    unattended: HashMap<UpstreamName, Arc<Shares>>,
    passes: Arc<Shares>,
    not_stored: Arc<NotStored>,
    /// A permit for the one run of `verify`.
    verifying: Arc<Semaphore>,
    /// A permit for each upload of an import.
    importing: Arc<Semaphore>,
    tasks: Tasks,
    pseudonym: Pseudonym,
    pin_events: Arc<PinEvents>,
    pins: Arc<Pins>,
    contents: Contents,
    images: Images,
    overview: Overview,
    usage: Arc<UsageSurvey>,
    /// Held while an operator removes something.
    removing: tokio::sync::Mutex<()>,
}

impl Mirror {
    /// Puts a mirror together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let names = parts
            .upstreams
            .iter()
            .map(|upstream| upstream.name().clone());
        let unattended = names
            .map(|name| {
                (
                    name,
                    Shares::new(Limit::Transfers, FILLS_UNATTENDED_MAX, Stays::Nothing),
                )
            })
            .collect();
        let core = Core {
            config: Arc::new(parts.config),
            upstreams: Upstreams::new(parts.upstreams),
            store: parts.store,
            clock: parts.clock,
            metrics: parts.metrics,
            tasks: Tasks::new(),
        };
        let local = Arc::new(LocalManifests::new(&core.store));
        let fills = Arc::default();
        let contents = Contents::new(&core.store, &local);
        let pins = Pins::new(&core, &contents);
        let usage = Arc::new(UsageSurvey::new(&core));
        let lent = Lent::default();
        let negative = Arc::new(Negative::new(&core.config, &core.clock));
        let not_stored = Arc::new(NotStored::new(&core.store, &core.clock));
        let fetcher = ManifestFetcher::new(&core, &local, &negative, &not_stored, pins.events());
        let fetcher = Arc::new(fetcher);
        let links = Arc::new(Links::new(&core, &local, &negative, &fetcher));
        let manifests = Manifests::new(&core, &local, &negative, &links, &fetcher);
        let manifests = Arc::new(manifests);
        let tags = Tags::new(
            &core,
            &local,
            &negative,
            &fetcher,
            &manifests,
            pins.events(),
        );
        let tags = Arc::new(tags);
        Self {
            inner: Arc::new(Inner {
                fill_on_range: parts.fill_on_range,
                directory: parts.directory,
                links,
                manifests,
                lists: Arc::new(Lists::new(&core, &negative, &tags, &lent)),
                tags,
                local,
                lent,
                negative,
                unattended,
                passes: Shares::new(Limit::Passes, PASSES_MAX, Stays::Sent),
                not_stored,
                verifying: Arc::new(Semaphore::new(1)),
                importing: Arc::new(Semaphore::new(IMPORTS_MAX)),
                pseudonym: Pseudonym::random(),
                pin_events: pins.events(),
                pins: Arc::new(pins),
                images: Images::new(&core, &contents, &fills),
                overview: Overview::new(&core, &fills, &usage),
                contents,
                fills,
                usage,
                removing: tokio::sync::Mutex::default(),
                config: core.config,
                upstreams: core.upstreams,
                store: core.store,
                clock: core.clock,
                metrics: core.metrics,
                tasks: core.tasks,
            }),
        }
    }

    /// Which upstream a request means.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    /// How many files of stored blobs are kept open.
    #[must_use]
    pub fn open_files_max(&self) -> usize {
        self.inner.store.open_files_max()
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

    /// Whether clients are served, and how well: `/readyz`. Waits for nothing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.inner.overview.readiness()
    }

    /// Ends the mirror's own tasks; fills under way are left so that a later
    /// run can take them up.
    pub async fn stop(&self) {
        self.inner.tasks.end().await;
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
