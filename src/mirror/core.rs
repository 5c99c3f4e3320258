//! Handles that the mirror's components are made of: configuration, upstreams, store, time and tasks.
//!
//! A component is given a [`Core`] and keeps the handles that it uses. State of its own (caches, requests, places) is
//! nobody else's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::shares::{Shares, Stays};
use super::single_flight::{REQUESTS_MAX, Runway};
use super::{MirrorError, Policies, Source};
use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::oci::UpstreamName;
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
}

/// The configured upstreams, by name. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Upstreams(Arc<HashMap<UpstreamName, Upstream>>);

/// The mirror's own tasks, and the places for their requests to upstreams. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    requests: Arc<Shares>,
}

impl Upstreams {
    pub(super) fn new(upstreams: Vec<Upstream>) -> Self {
        let by_name = upstreams.into_iter().map(|it| (it.name().clone(), it));
        Self(Arc::new(by_name.collect()))
    }

    /// The upstream of a repository.
    ///
    /// # Errors
    /// [`MirrorError::NameUnknown`]: it is not configured.
    pub(super) fn of(&self, source: &Source) -> Result<&Upstream, MirrorError> {
        // The directory and the upstreams come from one list, so it is always there.
        self.0.get(&source.upstream).ok_or(MirrorError::NameUnknown)
    }

    /// True if there is one of this name.
    pub(super) fn contains(&self, name: &UpstreamName) -> bool {
        self.0.contains_key(name)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&UpstreamName, &Upstream)> {
        self.0.iter()
    }
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
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
