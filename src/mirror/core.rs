//! Handles that the mirror's components are made of: configuration, upstreams, store, time and tasks.
//!
//! A component is given a [`Core`] and keeps the handles that it uses. State of its own (caches, requests, places) is
//! nobody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::archive::Archived;
use super::neighbours::Neighbours;
use super::shares::{Shares, Stays};
use super::single_flight::{REQUESTS_MAX, Runway};
use super::upstream_set::{PublicView, UpstreamSet};
use super::{MirrorError, Policies, Source};
use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::oci::{Directory, UpstreamName};
use crate::store::Store;
use crate::telemetry::{Limit, Metrics};
use crate::upstream::{FetchError, Upstream};

/// Time that the mirror's own tasks may take to end after they were told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A request is answered or refused within this time: steps that wait for upstream one after the
/// other, each within its own limit, must not add up past containerd's 30 s (containerd,
/// core/remotes/docker/registry.go). The head may wait 2 s more for the first bytes.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(25);

/// The handles that components are made of. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Core {
    pub(super) policies: Policies,
    pub(super) upstreams: Upstreams,
    pub(super) store: Store,
    pub(super) catalogue: Catalogue,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    pub(super) neighbours: Neighbours,
    pub(super) archived: Archived,
}

/// The configured upstreams, which may be replaced while requests run. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Upstreams(Arc<ArcSwap<Configured>>);

/// The upstreams of one configuration. They are replaced as a whole, so that no name means two things at once.
#[derive(Debug)]
pub(super) struct Configured {
    /// Finds the upstream that a request means.
    pub(super) directory: Directory,
    by_name: HashMap<UpstreamName, Upstream>,
    /// Those whose visibility is `public`, as anybody sees them.
    pub(super) public_views: HashMap<UpstreamName, PublicView>,
    /// Those whose visibility is `upstream`, as clients see them.
    pub(super) client_views: HashMap<UpstreamName, PublicView>,
    /// Another number for each configuration of the process.
    edition: u64,
}

/// The mirror's own tasks, and the places for their requests to upstreams. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when fills are to be suspended; then another one takes its place.
    suspend: Arc<Mutex<CancellationToken>>,
    requests: Arc<Shares>,
}

impl Configured {
    fn of(set: UpstreamSet, edition: u64) -> Self {
        let by_name = set.upstreams.into_iter();
        let views = |views: Vec<PublicView>| {
            let views = views.into_iter();
            views.map(|it| (it.upstream.name().clone(), it)).collect()
        };
        Self {
            directory: set.directory,
            by_name: by_name.map(|it| (it.name().clone(), it)).collect(),
            public_views: views(set.public_views),
            client_views: views(set.client_views),
            edition,
        }
    }

    /// All upstreams, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&UpstreamName, &Upstream)> {
        self.by_name.iter()
    }
}

impl Upstreams {
    pub(super) fn new(set: UpstreamSet) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Configured::of(set, 0))))
    }

    /// Those that are configured now. Not to be kept while something is waited for.
    pub(super) fn now(&self) -> arc_swap::Guard<Arc<Configured>> {
        self.0.load()
    }

    /// Configures others. Whoever has an upstream goes on with it.
    pub(super) fn replace(&self, set: UpstreamSet) {
        let edition = self.edition() + 1;
        self.0.store(Arc::new(Configured::of(set, edition)));
    }

    /// The number of the configuration: another one after each change.
    pub(super) fn edition(&self) -> u64 {
        self.now().edition
    }

    /// The upstream of a repository.
    ///
    /// # Errors
    /// [`MirrorError::NameUnknown`]: it is not configured, or not any more.
    pub(super) fn of(&self, source: &Source) -> Result<Upstream, MirrorError> {
        let configured = self.now();
        let upstream = configured.by_name.get(&source.upstream);
        upstream.cloned().ok_or(MirrorError::NameUnknown)
    }

    /// True if an upstream decides for each client what that may see.
    pub(super) fn decides_for_each(&self, name: &UpstreamName) -> bool {
        self.now().client_views.contains_key(name)
    }

    /// True if there is one of this name.
    pub(super) fn contains(&self, name: &UpstreamName) -> bool {
        self.now().by_name.contains_key(name)
    }
}

impl Tasks {
    pub(super) fn new() -> Self {
        let stop = CancellationToken::new();
        Self {
            tracker: TaskTracker::new(),
            suspend: Arc::new(Mutex::new(stop.child_token())),
            stop,
            requests: Shares::new(Limit::Questions, REQUESTS_MAX, Stays::Asking),
        }
    }

    /// Runs work that the mirror waits for when it stops.
    pub(super) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(work)
    }

    /// Cancelled when the mirror stops.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled when the mirror stops, and when the fills that are under way now are to be suspended.
    pub(super) fn suspending(&self) -> CancellationToken {
        let suspend = self.suspend.lock();
        suspend.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Suspends the fills that are under way.
    pub(super) fn suspend_fills(&self) {
        let mut suspend = self.suspend.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *suspend, self.stop.child_token()).cancel();
    }

    /// Tasks and places for a request about this source.
    pub(super) fn runway<'a>(&'a self, source: &'a Source) -> Runway<'a> {
        self.runway_to(&source.upstream)
    }

    /// Tasks and places for a request to this upstream.
    pub(super) fn runway_to<'a>(&'a self, upstream: &'a UpstreamName) -> Runway<'a> {
        Runway {
            tasks: &self.tracker,
            shares: &self.requests,
            upstream,
            for_later: false,
        }
    }

    /// Tells all tasks to end, and waits for them.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                tasks = self.tracker.len(),
                "tasks did not end in time and are dropped"
            );
        }
    }
}

/// The answer, or a failure when it does not come in time. The work that it waits for goes on.
pub(super) fn in_time<T>(
    answer: impl Future<Output = Result<T, MirrorError>>,
) -> impl Future<Output = Result<T, MirrorError>> {
    // No async function, which would hold the whole answer twice.
    let late = || Err(MirrorError::Timeout(FetchError::Timeout("an answer")));
    tokio::time::timeout(ANSWER_WAIT_MAX, answer)
        .map(move |answer| answer.unwrap_or_else(|_| late()))
}
