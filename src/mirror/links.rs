//! Links: what a repository is known to have, by its upstream's word, and the requests that ask for it.

use std::sync::Arc;

use super::core::{Core, Tasks, Upstreams};
use super::imported::Imported;
use super::local::LocalManifests;
use super::manifest_fetch::ManifestFetcher;
use super::negative::{Negative, What};
use super::neighbours::{Neighbours, Owned};
use super::single_flight::SingleFlight;
use super::{BlobName, MirrorError, Source};
use crate::oci::Digest;
use crate::oci::manifest::ChildKind;
use crate::store::{Link, Store};
use crate::telemetry::Kind;

/// Requests under way, by repository, digest, whether it is a manifest's, and whether another node is asked: the size,
/// where upstream says it.
type Heads = Arc<SingleFlight<(Source, Digest, bool, bool), Result<Option<u64>, MirrorError>>>;

/// Says whether a repository has a digest, or asks its upstream.
#[derive(Debug)]
pub(super) struct Links {
    upstreams: Upstreams,
    store: Store,
    tasks: Tasks,
    local: Arc<LocalManifests>,
    negative: Arc<Negative>,
    imported: Arc<Imported>,
    fetcher: Arc<ManifestFetcher>,
    neighbours: Neighbours,
    heads: Heads,
}

impl Links {
    pub(super) fn new(
        core: &Core,
        local: &Arc<LocalManifests>,
        negative: &Arc<Negative>,
        imported: &Arc<Imported>,
        fetcher: &Arc<ManifestFetcher>,
    ) -> Self {
        Self {
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            tasks: core.tasks.clone(),
            local: Arc::clone(local),
            negative: Arc::clone(negative),
            imported: Arc::clone(imported),
            fetcher: Arc::clone(fetcher),
            neighbours: core.neighbours.clone(),
            heads: Arc::default(),
        }
    }

    /// Makes sure that the repository has the digest that is stored, by its
    /// upstream's word: a HEAD asks for that where it has not said so yet, as
    /// where a manifest names what came from another upstream (invariants 10
    /// and 16).
    pub(super) async fn ensure_linked(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        kind: ChildKind,
    ) -> Result<(), MirrorError> {
        let link = self.store.metadata().link(source, digest).await;
        if let Some(link) = link.filter(|link| self.is_good(source, digest, link, kind)) {
            if !link.is_given() {
                // From now on it needs no look at who fetched it.
                match kind {
                    ChildKind::Manifest => {
                        if let Some(manifest) = self.local.read(digest).await {
                            self.fetcher.relink(source, &manifest).await;
                        }
                    }
                    ChildKind::Blob => {
                        let links = vec![(*digest, link.given())];
                        self.store.metadata().record_links(source, links).await;
                    }
                }
            }
            return Ok(());
        }
        if self.imported.brought(source, digest, kind).await {
            return Ok(());
        }
        self.ask_link(source, digest, kind).await
    }

    /// The same for what its upstream is sending for another of its repositories.
    pub(super) async fn ensure_named(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        kind: ChildKind,
    ) -> Result<(), MirrorError> {
        let link = self.store.metadata().link(source, digest).await;
        if link.is_some_and(|link| link.covers(kind))
            || self.imported.brought(source, digest, kind).await
        {
            return Ok(());
        }
        self.ask_link(source, digest, kind).await
    }

    /// True if a link is reason enough to serve what is stored.
    fn is_good(&self, source: &Source, digest: &Digest, link: &Link, kind: ChildKind) -> bool {
        link.covers(kind) && self.store.quotas().vouches(source, digest, link)
    }

    /// Asks upstream, once at a time, whether a repository has a digest.
    async fn ask_link(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        kind: ChildKind,
    ) -> Result<(), MirrorError> {
        self.ask_head(source, digest, kind).await.map(drop)
    }

    /// The same; of a blob it is told how large it is, if upstream says so.
    pub(super) async fn ask_head(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        kind: ChildKind,
    ) -> Result<Option<u64>, MirrorError> {
        let is_manifest = kind == ChildKind::Manifest;
        let asks_nodes = !is_manifest && self.asks_nodes(digest);
        let key = (source.clone(), *digest, is_manifest, asks_nodes);
        let (links, asked, wanted) = (Arc::clone(self), source.clone(), *digest);
        let ask = move || async move {
            match kind {
                ChildKind::Manifest => {
                    let linked = links.fetcher.confirm(&asked, &wanted).await;
                    linked.map(|()| None)
                }
                ChildKind::Blob => links.head_blob(&asked, &wanted).await,
            }
        };
        self.heads.run(key, self.tasks.runway(source), ask).await?.0
    }

    /// Asks upstream whether the repository has a blob, and remembers it.
    async fn head_blob(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<Option<u64>, MirrorError> {
        let ask = self.ask_blob_head(source, digest);
        self.negative
            .unless_unknown(source, What::Blob(*digest), ask)
            .await
    }

    /// True if another node asks upstream for all.
    fn asks_nodes(&self, digest: &Digest) -> bool {
        let nodes = self.neighbours.to_ask();
        nodes.is_some_and(|nodes| nodes.own(&Owned::Content(digest)))
    }

    /// The size, as that node says it.
    async fn ask_node(&self, source: &Source, digest: &Digest) -> Option<u64> {
        let nodes = self.neighbours.to_ask()?;
        let blob = BlobName {
            source,
            digest,
            given_size: None,
        };
        nodes.blob_size(blob).await
    }

    async fn ask_blob_head(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<Option<u64>, MirrorError> {
        let upstream = self.upstreams.of(source)?;
        let kind = ChildKind::Blob;
        let archived = self.fetcher.archived();
        let said = if let Some(size) = self.ask_node(source, digest).await {
            Some(size)
        } else if let Some(kept) = archived.link(source, digest, kind).await {
            kept.link.size
        } else {
            let said = upstream.blob_head(&source.repository, digest).await;
            said.map_err(|error| MirrorError::of_fetch(Kind::Blob, error))?
        };
        // A manifest's word goes before a header's.
        let known = self.store.metadata().link(source, digest).await;
        let size = known.and_then(|link| link.size).or(said);
        let link = Link::of(ChildKind::Blob, size).given();
        self.store
            .metadata()
            .record_links(source, vec![(*digest, link)])
            .await;
        Ok(size)
    }
}
