//! Content that this mirror can pull by a login of its own, and that is nobody else's: anonymous clients get what the
//! upstream gives to anybody.
//!
//! An upstream whose visibility is `public` has a second client here, one without a secret. Its answer to a HEAD is the
//! verdict on a repository, remembered for a short time. Where it refuses, its refusal is what the client hears: what is
//! hidden and what is not there cannot be told apart, by words or by time.
//!
//! An upstream whose visibility is `upstream` decides for each client: [`clients`].

mod clients;
mod look;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use clients::Clients;
pub use look::{Refusal, Sought};
use look::{ask, is_refusal};

use super::core::{Core, Tasks, Upstreams, in_time};
use super::single_flight::SingleFlight;
use super::upstream_set::PublicView;
use super::{MirrorError, Source};
use crate::catalogue::{Catalogue, CatalogueError, Change};
use crate::clock::{Clock, Timestamp};
use crate::oci::UpstreamName;

/// Verdicts that are remembered, some 300 bytes each.
const VERDICTS_MAX: u64 = 50_000;

/// The time that a verdict holds while the upstream cannot be asked again: its outage must not take away what is
/// cached, also after a restart.
const OLD_VERDICT_MAX: Duration = Duration::from_hours(7 * 24);

/// Verdicts are written down so often.
const WRITE_EVERY: Duration = Duration::from_mins(1);

/// Verdicts in one write, some 100 bytes each.
const WRITTEN_AT_ONCE_MAX: usize = 10_000;

/// Verdicts on repositories: which clients see what of the upstreams.
#[derive(Debug)]
pub struct Visibility {
    clients: Arc<Clients>,
    upstreams: Upstreams,
    /// When a repository was last seen to be public.
    public: Cache<Source, Timestamp>,
    refused: Cache<(Source, Sought), (MirrorError, Timestamp)>,
    /// Verdicts that were not written down yet: in a crash some minutes of them are lost.
    unwritten: Mutex<HashMap<Source, Option<Timestamp>>>,
    catalogue: Catalogue,
    looks: Arc<SingleFlight<(Source, Sought), Result<(), MirrorError>>>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
}

impl Visibility {
    pub(super) fn new(core: &Core) -> Self {
        Self {
            clients: Arc::new(Clients::new(core)),
            upstreams: core.upstreams.clone(),
            public: Cache::builder().max_capacity(VERDICTS_MAX).build(),
            refused: Cache::builder().max_capacity(VERDICTS_MAX).build(),
            unwritten: Mutex::default(),
            catalogue: core.catalogue.clone(),
            looks: Arc::default(),
            clock: Arc::clone(&core.clock),
            tasks: core.tasks.clone(),
        }
    }

    /// An upstream whose visibility is `public`, as anybody sees it.
    fn view(&self, upstream: &UpstreamName) -> Option<PublicView> {
        self.upstreams.now().public_views.get(upstream).cloned()
    }

    fn is_public(&self, upstream: &UpstreamName) -> bool {
        self.upstreams.now().public_views.contains_key(upstream)
    }

    /// Forgets what upstreams have refused, and what they have said of clients.
    pub(super) fn forget_refusals(&self) {
        self.refused.invalidate_all();
        self.clients.forget();
    }

    /// The verdict on what an anonymous client wants.
    async fn check(self: &Arc<Self>, source: &Source, sought: Sought) -> Result<(), MirrorError> {
        let Some(view) = self.view(&source.upstream) else {
            return Ok(());
        };
        let now = self.clock.now();
        let is_fresh = |at: Timestamp| now.since(at) < view.ttl;
        let seen = self.seen(source, now);
        if seen.is_some_and(is_fresh) {
            return Ok(());
        }
        let key = (source.clone(), sought);
        if let Some((error, at)) = self.refused.get(&key)
            && is_fresh(at)
        {
            return Err(MirrorError::Remembered(Box::new(error)));
        }
        let (visibility, (asked, sought)) = (Arc::clone(self), key.clone());
        let look = move || async move { visibility.look(&asked, &sought).await };
        let (verdict, _role) = self.looks.run(key, self.tasks.runway(source), look).await?;
        match verdict {
            Err(error) if !is_refusal(&error) && seen.is_some() => {
                tracing::warn!(
                    upstream = %source.upstream, repository = %source.repository, %error,
                    "the upstream does not say whether the repository is public still; it was, and is served as such"
                );
                Ok(())
            }
            verdict => verdict,
        }
    }

    /// Asks the upstream as anybody would, and remembers what it says.
    async fn look(&self, source: &Source, sought: &Sought) -> Result<(), MirrorError> {
        let view = self
            .view(&source.upstream)
            .ok_or(MirrorError::NameUnknown)?;
        let answer = ask(&view.upstream, source, sought).await;
        let now = self.clock.now();
        match &answer {
            Ok(()) => {
                self.public.insert(source.clone(), now);
                self.unwritten().insert(source.clone(), Some(now));
            }
            Err(error) if is_refusal(error) => {
                if !matches!(
                    error,
                    MirrorError::ManifestUnknown | MirrorError::BlobUnknown
                ) {
                    self.public.invalidate(source);
                    self.unwritten().insert(source.clone(), None);
                }
                let key = (source.clone(), sought.clone());
                self.refused.insert(key, (error.clone(), now));
                tracing::info!(
                    upstream = %source.upstream, repository = %source.repository, %error,
                    "the upstream gives this to nobody without a login, so it is hidden from anonymous clients; \
                     upstream.*.visibility decides"
                );
            }
            Err(_) => {}
        }
        answer
    }

    /// Verdicts that wait to be written down: those that an upstream can give in a minute.
    fn unwritten(&self) -> MutexGuard<'_, HashMap<Source, Option<Timestamp>>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what was found out since the last time.
    async fn write(&self) -> Result<(), CatalogueError> {
        let verdicts: Vec<_> = std::mem::take(&mut *self.unwritten()).into_iter().collect();
        for some in verdicts.chunks(WRITTEN_AT_ONCE_MAX) {
            self.catalogue.commit(Change::Public(some.to_vec())).await?;
        }
        Ok(())
    }

    /// Reads what was written down before.
    async fn read(&self) -> Result<(), CatalogueError> {
        let now = self.clock.now();
        for (source, seen) in self.catalogue.public_repositories().await? {
            if now.since(seen) < OLD_VERDICT_MAX && !self.public.contains_key(&source) {
                self.public.insert(source, seen);
            }
        }
        Ok(())
    }

    /// True if a repository may stand in an anonymous client's list: nothing is looked up for that.
    fn is_shown(&self, source: &Source) -> bool {
        !self.is_public(&source.upstream) || self.seen(source, self.clock.now()).is_some()
    }

    /// The time at which a repository was last seen to be public, unless that is too long ago to mean anything.
    fn seen(&self, source: &Source, now: Timestamp) -> Option<Timestamp> {
        let seen = self.public.get(source)?;
        (now.since(seen) < OLD_VERDICT_MAX).then_some(seen)
    }

    /// True if something of some upstream may be hidden from some clients.
    #[must_use]
    pub fn hides_something(&self) -> bool {
        let configured = self.upstreams.now();
        !configured.public_views.is_empty() || !configured.client_views.is_empty()
    }

    /// True if some upstream decides for each client by the client's own credential.
    #[must_use]
    pub fn shows_credentials(&self) -> bool {
        !self.upstreams.now().client_views.is_empty()
    }

    /// True if this upstream decides for each client.
    #[must_use]
    pub fn shows_credentials_to(&self, upstream: &UpstreamName) -> bool {
        self.clients.decides(upstream)
    }

    /// Answers `/v2/` as an upstream that decides for each client does.
    ///
    /// # Errors
    /// [`MirrorError::Challenged`], or the upstream's failure to answer.
    pub async fn greet(&self, upstream: &UpstreamName) -> Result<(), MirrorError> {
        in_time(Box::pin(self.clients.greet(upstream))).await
    }

    /// Knows again which repositories were public, and writes down now and then which are, until the mirror stops.
    pub fn keep_verdicts(self: &Arc<Self>) {
        let visibility = Arc::clone(self);
        let stop = self.tasks.stopping().clone();
        self.tasks.spawn(async move {
            if let Err(error) = visibility.read().await {
                tracing::warn!(%error, "it is not known which repositories were public before the start: upstreams are asked again");
            }
            let mut is_over = false;
            while !is_over {
                tokio::select! {
                    () = tokio::time::sleep(WRITE_EVERY) => {}
                    () = stop.cancelled() => is_over = true,
                }
                if let Err(error) = visibility.write().await {
                    tracing::debug!(%error, "which repositories are public could not be written down");
                }
            }
        });
    }

    /// Refuses a client what its upstream would refuse it: an anonymous one what the upstream would refuse anybody, where
    /// its visibility is `public`; any, what the upstream refuses for its own credential, where that is `upstream`.
    ///
    /// # Errors
    /// The upstream's refusal, or its failure to answer.
    pub async fn may_be_seen(
        self: &Arc<Self>,
        source: &Source,
        sought: Sought,
        is_identified: bool,
    ) -> Result<(), Refusal> {
        if self.clients.decides(&source.upstream) {
            return in_time_or(Box::pin(self.clients.check(source, sought))).await;
        }
        if is_identified || !self.is_public(&source.upstream) {
            return Ok(());
        }
        in_time_or(Box::pin(async {
            let verdict = self.check(source, sought).await;
            verdict.map_err(Refusal::of_anybody)
        }))
        .await
    }

    /// Tells which repositories may stand in the list of the present client. Nothing is looked up.
    pub fn may_be_listed(&self, is_identified: bool) -> impl Fn(&Source) -> bool {
        let shown = self.clients.shown();
        move |source| {
            // What is cached of an upstream stays when it is configured no more.
            if !self.upstreams.contains(&source.upstream) {
                return false;
            }
            if self.clients.decides(&source.upstream) {
                return shown(source);
            }
            is_identified || self.is_shown(source)
        }
    }
}

/// The verdict, or a failure when it does not come in time.
async fn in_time_or(verdict: impl Future<Output = Result<(), Refusal>>) -> Result<(), Refusal> {
    let late = in_time(async { Ok(verdict.await) });
    late.await
        .unwrap_or_else(|error| Err(Refusal::failure(error)))
}
