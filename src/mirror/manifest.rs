//! Manifests: from memory or disk, or by the one request for all who ask at once.

use std::sync::Arc;

use super::core::{Core, Tasks};
use super::links::Links;
use super::local::{LocalManifests, Manifest};
use super::manifest_fetch::ManifestFetcher;
use super::negative::{Negative, What};
use super::neighbours::Neighbours;
use super::single_flight::{Role, Shared, SingleFlight};
use super::{MirrorError, Source};
use crate::oci::manifest::ChildKind;
use crate::oci::{Accept, AcceptClass, Digest, Reference};
use crate::telemetry::Outcome;
use crate::upstream::Patience;

/// RFC 7234 section 5.5.1.
pub(super) const WARNING_STALE: &str = "110 roadstead \"Response is Stale\"";

/// The end of a request for a manifest.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) kept: Result<Kept, MirrorError>,
    /// The patience with which it was asked: a request that has more need not be content with a failure.
    pub(super) patience: Patience,
}

impl Shared for Found {
    fn is_the_askers_own(&self) -> bool {
        self.kept.is_the_askers_own()
    }
}

/// Requests for manifests under way, by repository, reference, accepted formats, and whether another node is asked.
pub(super) type ManifestRequests = Arc<SingleFlight<(Source, Reference, Accept, bool), Found>>;

/// A manifest and how it was found: the part of an answer that is shared.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) manifest: Arc<Manifest>,
    pub(super) outcome: Outcome,
    pub(super) warnings: Vec<String>,
}

/// Manifests by digest: those that are here, or that upstream is asked for.
#[derive(Debug)]
pub(super) struct Manifests {
    tasks: Tasks,
    local: Arc<LocalManifests>,
    negative: Arc<Negative>,
    links: Arc<Links>,
    fetcher: Arc<ManifestFetcher>,
    neighbours: Neighbours,
    requests: ManifestRequests,
}

impl Manifests {
    pub(super) fn new(
        core: &Core,
        local: &Arc<LocalManifests>,
        negative: &Arc<Negative>,
        links: &Arc<Links>,
        fetcher: &Arc<ManifestFetcher>,
    ) -> Self {
        Self {
            tasks: core.tasks.clone(),
            local: Arc::clone(local),
            negative: Arc::clone(negative),
            links: Arc::clone(links),
            fetcher: Arc::clone(fetcher),
            neighbours: core.neighbours.clone(),
            requests: Arc::default(),
        }
    }

    /// A manifest that is stored, or that upstream is asked for.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub(super) async fn by_digest(
        &self,
        source: &Source,
        digest: &Digest,
        patience: Patience,
    ) -> Result<Kept, MirrorError> {
        let all = AcceptClass::ALL.into();
        self.by_digest_in(source, digest, &all, patience).await
    }

    /// The same, for a client that names formats which are not known here.
    pub(super) async fn by_digest_in(
        &self,
        source: &Source,
        digest: &Digest,
        accept: &Accept,
        patience: Patience,
    ) -> Result<Kept, MirrorError> {
        if let Some(manifest) = self.local.read_for(source, digest).await {
            self.links
                .ensure_linked(source, digest, ChildKind::Manifest)
                .await?;
            return Ok(Kept::hit(manifest));
        }
        let accept = &accept.in_any_format();
        let (found, role) = self.join_digest(source, digest, accept, patience).await?;
        let hasty = found.patience == Patience::Now && patience == Patience::Wait;
        let (found, role) = match &found.kept {
            // It was asked for somebody who would rather have something else soon.
            Err(error) if hasty && role == Role::Follower && !error.is_unknown() => {
                self.join_digest(source, digest, accept, patience).await?
            }
            Ok(_) | Err(_) => (found, role),
        };
        found.kept.map(|kept| kept.seen_by(role))
    }

    /// The answer of the one question for a digest that is under way, or that begins now.
    async fn join_digest(
        &self,
        source: &Source,
        digest: &Digest,
        accept: &Accept,
        patience: Patience,
    ) -> Result<(Found, Role), MirrorError> {
        let reference = Reference::Digest(*digest);
        let asks_nodes = self.neighbours.are_asked(source, &reference, accept);
        let key = (
            source.clone(),
            reference.clone(),
            accept.clone(),
            asks_nodes,
        );
        let (fetcher, negative) = (Arc::clone(&self.fetcher), Arc::clone(&self.negative));
        let (asked, accept, digest) = (source.clone(), accept.clone(), *digest);
        let ask = move || async move {
            let what = What::Manifest(reference.clone(), accept.clone());
            if asks_nodes && let Some(kept) = fetcher.ask_node(&asked, digest, &accept).await {
                let kept = Ok(kept);
                return Found { kept, patience };
            }
            if let Some(kept) = fetcher.take_archived(&asked, digest).await {
                let kept = Ok(kept);
                return Found { kept, patience };
            }
            let get = fetcher.fetch(&asked, &reference, &accept, patience);
            let kept = negative.unless_unknown(&asked, what, get).await;
            Found { kept, patience }
        };
        self.requests.run(key, self.tasks.runway(source), ask).await
    }
}

impl Kept {
    pub(super) fn hit(manifest: Arc<Manifest>) -> Self {
        Self {
            manifest,
            outcome: Outcome::Hit,
            warnings: Vec::new(),
        }
    }

    pub(super) fn stale(manifest: Arc<Manifest>) -> Self {
        Self {
            manifest,
            outcome: Outcome::Stale,
            warnings: vec![WARNING_STALE.to_owned()],
        }
    }

    /// Whoever joined a fetch did not cause it.
    pub(super) fn seen_by(mut self, role: Role) -> Self {
        if role == Role::Follower && self.outcome == Outcome::Miss {
            self.outcome = Outcome::Collapsed;
        }
        self
    }
}
