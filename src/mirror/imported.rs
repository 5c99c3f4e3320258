//! Imports, where the cache does not know them any more: its index was lost, or the whole cache. The catalogue
//! is asked only then, and what it says is put back into the cache's facts.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::core::Core;
use super::inspect::InspectError;
use super::{MirrorError, Source};
use crate::catalogue::{self, Catalogue, CatalogueError, Change, ImportedTag, Name};
use crate::oci::manifest::ChildKind;
use crate::oci::{AcceptClass, Digest, Reference, Tag};
use crate::store::{Link, Origin, Store, TagRecord, Word};
use crate::telemetry::Kind;

/// Names that are forgotten in one change.
const FORGOTTEN_AT_ONCE_MAX: usize = 10_000;

/// Imported names and links.
#[derive(Debug)]
pub(super) struct Imported {
    store: Store,
    catalogue: Catalogue,
    /// Set once the cache's facts have all that the catalogue has.
    restored: OnceCell<()>,
}

impl Imported {
    pub(super) fn new(core: &Core) -> Self {
        Self {
            store: core.store.clone(),
            catalogue: core.catalogue.clone(),
            restored: OnceCell::new(),
        }
    }

    /// The manifests that a tag named, as the cache knows it, or by its import.
    pub(super) async fn tags(&self, source: &Source, tag: &Tag) -> Arc<Vec<TagRecord>> {
        let known = self.store.metadata().tags(source, tag).await;
        if !known.is_empty() || !self.catalogue.may_have(source) {
            return known;
        }
        match self.catalogue.imported_tag(source, tag).await {
            Ok(Some(imported)) => {
                let record = record_of(imported);
                let metadata = self.store.metadata();
                metadata.restore_tag(source, tag, record.clone()).await;
                Arc::new(vec![record])
            }
            // That it cannot be read is told of where it is read.
            Ok(None) | Err(_) => known,
        }
    }

    /// The knowledge that a repository has a digest by an import, if the catalogue has it.
    pub(super) async fn link(&self, source: &Source, digest: &Digest) -> Option<Link> {
        if !self.catalogue.may_have(source) {
            return None;
        }
        let found = self.catalogue.imported_link(source, digest).await;
        let link = link_of(found.ok().flatten()?);
        let links = vec![(*digest, link)];
        self.store.metadata().record_links(source, links).await;
        Some(link)
    }

    /// Records an image, durably.
    pub(super) async fn record(
        &self,
        source: &Source,
        tag: Option<(Tag, ImportedTag)>,
        links: &[(Digest, Link)],
    ) -> Result<(), CatalogueError> {
        let links = links.iter();
        let links = links.map(|(digest, link)| super::opening::imported_link(*digest, *link));
        let change = Change::Import {
            source: source.clone(),
            tag,
            links: links.collect(),
        };
        self.catalogue.commit(change).await
    }

    /// Refuses an import, if it could not be recorded.
    pub(super) fn must_be_writable(&self) -> Result<(), CatalogueError> {
        self.catalogue.must_be_writable()
    }

    /// Forgets names of a repository, durably, if it has imports at all.
    pub(super) async fn forget(
        &self,
        source: &Source,
        names: impl IntoIterator<Item = Name>,
    ) -> Result<(), CatalogueError> {
        if !self.catalogue.may_have(source) {
            return Ok(());
        }
        let names: Vec<Name> = names.into_iter().collect();
        for some in names.chunks(FORGOTTEN_AT_ONCE_MAX) {
            let change = Change::Forget(source.clone(), some.to_vec());
            self.catalogue.commit(change).await?;
        }
        Ok(())
    }

    /// Forgets the import of a tag, durably, if clients of `class` can read what it names.
    pub(super) async fn forget_tag(
        &self,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<(), CatalogueError> {
        let imported = self.catalogue.imported_tag(source, tag).await?;
        if imported.is_some_and(|imported| class.allows(&imported.media_type)) {
            self.forget(source, [Name::Tag(tag.clone())]).await?;
        }
        Ok(())
    }

    /// Puts what was imported back into the cache's facts, where those do not have it; once.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub(super) async fn restore(&self) -> Result<(), CatalogueError> {
        let restored = self.restored.get_or_try_init(|| self.put_back());
        restored.await?;
        Ok(())
    }

    /// The same, for who would remove what it may need.
    pub(super) async fn must_be_restored(&self) -> Result<(), InspectError> {
        let restored = self.restore().await;
        restored.map_err(|error| InspectError::Unavailable(error.to_string()))
    }

    async fn put_back(&self) -> Result<(), CatalogueError> {
        let (mut tags, mut links) = (0_usize, 0_usize);
        let mut after: Option<(Source, Tag)> = None;
        loop {
            let page = self.catalogue.tag_page(after.as_ref()).await?;
            let Some((source, tag, _)) = page.last() else {
                break;
            };
            after = Some((source.clone(), tag.clone()));
            for (source, tag, imported) in page {
                if self.store.metadata().tags(&source, &tag).await.is_empty() {
                    let metadata = self.store.metadata();
                    metadata
                        .restore_tag(&source, &tag, record_of(imported))
                        .await;
                    tags += 1;
                }
            }
            self.store.pages().settle().await;
        }
        let mut after: Option<(Source, Digest)> = None;
        loop {
            let page = self.catalogue.link_page(after.as_ref()).await?;
            let Some((source, last)) = page.last() else {
                break;
            };
            after = Some((source.clone(), last.digest));
            let mut missing: HashMap<Source, Vec<(Digest, Link)>> = HashMap::new();
            for (source, entry) in page {
                let link = link_of(entry.link);
                let known = self.store.metadata().link(&source, &entry.digest).await;
                if known.is_none_or(|known| known.union(link) != known) {
                    missing
                        .entry(source)
                        .or_default()
                        .push((entry.digest, link));
                }
            }
            for (source, missing) in missing {
                links += missing.len();
                self.store.metadata().record_links(&source, missing).await;
            }
            self.store.pages().settle().await;
        }
        if tags + links > 0 {
            tracing::info!(
                tags,
                links,
                "names and links of imported images were put back into the cache's index"
            );
        }
        Ok(())
    }

    /// The error for a client when upstream does not supply what was imported and is not stored any more.
    pub(super) async fn explain_manifest(
        &self,
        source: &Source,
        reference: &Reference,
        error: MirrorError,
    ) -> MirrorError {
        if !error.leaves_no_hope() || !self.catalogue.may_have(source) {
            return error;
        }
        let digest = match reference {
            Reference::Tag(tag) => {
                let tag = self.catalogue.imported_tag(source, tag).await;
                tag.ok().flatten().map(|tag| tag.digest)
            }
            Reference::Digest(digest) => {
                let brought = self.brought(source, digest, ChildKind::Manifest).await;
                brought.then_some(*digest)
            }
        };
        match digest {
            Some(digest) => self.gone(Kind::Manifest, &digest, error).await,
            None => error,
        }
    }

    /// The error for a client when upstream does not supply an imported blob that is not stored any more.
    pub(super) async fn explain_blob(
        &self,
        source: &Source,
        digest: &Digest,
        error: MirrorError,
    ) -> MirrorError {
        if !error.leaves_no_hope() || !self.catalogue.may_have(source) {
            return error;
        }
        if self.brought(source, digest, ChildKind::Blob).await {
            return self.gone(Kind::Blob, digest, error).await;
        }
        error
    }

    /// True if an import has brought a digest itself.
    pub(super) async fn brought(&self, source: &Source, digest: &Digest, kind: ChildKind) -> bool {
        let link = self.link(source, digest).await;
        link.is_some_and(|link| link.is_given() && link.covers(kind))
    }

    /// The error, or if what was imported is not stored any more, that.
    async fn gone(&self, kind: Kind, digest: &Digest, error: MirrorError) -> MirrorError {
        if self.store.scan().find(digest).await.is_some() {
            return error;
        }
        MirrorError::ImportGone(kind, Box::new(error))
    }
}

/// The record of an imported tag in the cache.
pub(super) fn record_of(imported: ImportedTag) -> TagRecord {
    TagRecord {
        class: AcceptClass::ALL,
        digest: imported.digest,
        media_type: imported.media_type,
        checked: imported.imported,
        origin: Origin::Import,
    }
}

fn link_of(link: catalogue::Link) -> Link {
    Link {
        manifest: link.manifest,
        blob: link.blob,
        size: link.size,
        word: if link.given { Word::Given } else { Word::Named },
    }
}
