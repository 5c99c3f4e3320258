//! Lists of images: what tags name, and what is known without a tag.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::tree::{Node, NodeKind, Presence};
use super::{Contents, Filter, InspectError, PARTS_MAX, When, full_name, names};
use crate::mirror::core::Core;
use crate::mirror::fills::Fills;
use crate::mirror::{Policies, Source};
use crate::oci::{Digest, Reference, Tag};
use crate::store::{LinkEntry, Store, TagEntry};

/// Images on a page, whatever is asked for: each costs some small reads.
const IMAGES_MAX: usize = 500;

/// Images on a page, unless something else is asked for.
const IMAGES_DEFAULT: usize = 100;

/// Digests of one repository that are remembered as being part of a tagged image: some 10 MB. What is
/// beyond that may be listed although it belongs to one.
const TAGGED_MAX: usize = 100_000;

/// A part of the list of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePage {
    /// The images: of each repository its tags, sorted, and then what is stored without one.
    pub images: Vec<ImageEntry>,
    /// The `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An image in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Its name in full.
    pub image: String,
    /// The upstream.
    pub upstream: String,
    /// The repository.
    pub repository: String,
    /// Its tag; absent for what is known by its digest alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The digest of its manifest: what the tag named when upstream was last asked.
    pub digest: String,
    /// The media type of its manifest, if that is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Its platforms, and what of each is stored.
    pub platforms: Vec<PlatformState>,
    /// The part of it that is stored: for an index, the most that any platform has.
    pub presence: Presence,
    /// Its bytes, all platforms together, as far as they are known: what a manifest that is not stored
    /// names is not.
    pub size_bytes: u64,
    /// Those of them that are stored.
    pub stored_bytes: u64,
    /// When upstream last said what the tag names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<When>,
    /// When it was last pulled, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_at: Option<When>,
    /// True if it is pinned.
    pub pinned: bool,
}

/// A platform of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformState {
    /// `linux/arm64`.
    pub platform: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The part of it that is stored.
    pub presence: Presence,
}

/// Lists of images for an operator.
#[derive(Debug)]
pub struct Images {
    pub(super) policies: Policies,
    pub(super) store: Store,
    pub(super) contents: Contents,
    pub(super) fills: Arc<Fills>,
}

struct Page<'a> {
    filter: &'a Filter,
    limit: usize,
    images: Vec<ImageEntry>,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.images.len() >= self.limit
    }
}

impl Images {
    pub(in crate::mirror) fn new(core: &Core, contents: &Contents, fills: &Arc<Fills>) -> Self {
        Self {
            policies: core.policies.clone(),
            store: core.store.clone(),
            contents: contents.clone(),
            fills: Arc::clone(fills),
        }
    }

    /// The images that `filter` means, after the one of this name (as a page's `next` says it).
    ///
    /// # Errors
    /// [`InspectError::Bad`].
    pub async fn page(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<ImagePage, InspectError> {
        let limit = limit.unwrap_or(IMAGES_DEFAULT).clamp(1, IMAGES_MAX);
        let after = after.map(names::parse_image).transpose()?;
        self.store.pages().settle().await;
        let mut page = Page {
            filter,
            limit,
            images: Vec::new(),
        };
        let mut at: Option<Source> = None;
        if let Some((source, reference)) = &after {
            self.list_repository(source, Some(reference), &mut page)
                .await;
            at = Some(source.clone());
        }
        while !page.is_full() {
            let upstream = filter.upstream();
            let sources = self
                .store
                .pages()
                .repository_page(upstream, at.as_ref())
                .await;
            let Some(last) = sources.last() else { break };
            at = Some(last.clone());
            for source in sources.iter().filter(|source| filter.means(source)) {
                self.list_repository(source, None, &mut page).await;
                if page.is_full() {
                    break;
                }
            }
        }
        let next = page.is_full().then(|| page.images.last()).flatten();
        let next = next.map(|entry| entry.image.clone());
        Ok(ImagePage {
            images: page.images,
            next,
        })
    }

    /// Adds a repository's images after `after`.
    async fn list_repository(
        &self,
        source: &Source,
        after: Option<&Reference>,
        page: &mut Page<'_>,
    ) {
        let after_digest = match after {
            None => {
                self.list_tags(source, None, page).await;
                None
            }
            Some(Reference::Tag(tag)) => {
                self.list_tags(source, Some(tag), page).await;
                None
            }
            Some(Reference::Digest(digest)) => Some(*digest),
        };
        if !page.is_full() {
            self.list_untagged(source, after_digest, page).await;
        }
    }

    async fn list_tags(&self, source: &Source, after: Option<&Tag>, page: &mut Page<'_>) {
        let mut after = after.cloned();
        loop {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else { return };
            after = Some(last.tag.clone());
            for entry in tags {
                let reference = Reference::Tag(entry.tag.clone());
                if !page.filter.means_reference(&reference) {
                    continue;
                }
                if page.is_full() {
                    return;
                }
                let image = self.tag_entry(source, &entry, &reference).await;
                page.images.extend(image);
            }
        }
    }

    async fn tag_entry(
        &self,
        source: &Source,
        entry: &TagEntry,
        reference: &Reference,
    ) -> Option<ImageEntry> {
        // Clients that accept little may have been told another digest; the newest answer is the image.
        let newest = entry.records.iter().max_by_key(|record| record.checked)?;
        let node = self
            .tree(source, &newest.digest, &mut PARTS_MAX.clone())
            .await;
        let mut image = self.entry(source, reference, &node);
        image.tag = Some(entry.tag.to_string());
        image.checked_at = Some(When(newest.checked));
        image
            .media_type
            .get_or_insert_with(|| newest.media_type.clone());
        Some(image)
    }

    /// Manifests that are stored, and that no tagged image of the repository has.
    async fn list_untagged(&self, source: &Source, after: Option<Digest>, page: &mut Page<'_>) {
        let mut after = after.map(|digest| LinkEntry {
            source: source.clone(),
            digest,
            link: crate::store::Link::default(),
        });
        let mut part_of_tagged: Option<BTreeSet<Digest>> = None;
        loop {
            let links = self
                .store
                .pages()
                .link_page(Some(source), after.as_ref())
                .await;
            let Some(last) = links.last() else { return };
            after = Some(last.clone());
            let manifests = links.iter().filter(|entry| entry.link.manifest);
            for digest in manifests.map(|entry| entry.digest) {
                let reference = Reference::Digest(digest);
                if self.store.contains(&digest).is_none()
                    || !page.filter.means_reference(&reference)
                {
                    continue;
                }
                if page.is_full() {
                    return;
                }
                if part_of_tagged.is_none() {
                    part_of_tagged = Some(self.part_of_tagged(source).await);
                }
                let is_part = part_of_tagged
                    .as_ref()
                    .is_some_and(|it| it.contains(&digest));
                // Who asks for it by its digest wants to see it.
                if is_part && !matches!(page.filter, Filter::Image(_)) {
                    continue;
                }
                let node = self.tree(source, &digest, &mut PARTS_MAX.clone()).await;
                page.images.push(self.entry(source, &reference, &node));
            }
        }
    }

    /// The manifests that belong to what the tags of a repository name.
    async fn part_of_tagged(&self, source: &Source) -> BTreeSet<Digest> {
        let mut found = BTreeSet::new();
        let mut after: Option<Tag> = None;
        loop {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else {
                return found;
            };
            after = Some(last.tag.clone());
            for record in tags.iter().flat_map(|entry| &entry.records) {
                if found.len() >= TAGGED_MAX {
                    return found;
                }
                if !found.contains(&record.digest) {
                    found.extend(
                        self.contents
                            .closure(&[record.digest])
                            .await
                            .parts
                            .into_keys(),
                    );
                }
            }
        }
    }

    fn entry(&self, source: &Source, reference: &Reference, node: &Node) -> ImageEntry {
        let (size_bytes, stored_bytes) = node.bytes();
        let is_index = node.kind == NodeKind::Index;
        let images: Vec<&Node> = if is_index {
            node.parts.iter().collect()
        } else {
            vec![node]
        };
        let platforms: Vec<PlatformState> = images
            .into_iter()
            .filter_map(|image| {
                Some(PlatformState {
                    platform: image.platform.clone()?,
                    digest: image.digest.clone(),
                    presence: image.whole(),
                })
            })
            .collect();
        let best = platforms.iter().map(|it| it.presence);
        let best = best.min_by_key(|presence| match presence {
            Presence::Stored => 0,
            Presence::Partial => 1,
            Presence::Absent => 2,
        });
        ImageEntry {
            image: full_name(source, reference),
            upstream: source.upstream.to_string(),
            repository: source.repository.to_string(),
            tag: None,
            digest: node.digest.clone(),
            media_type: node.media_type.clone(),
            presence: best.filter(|_| is_index).unwrap_or_else(|| node.whole()),
            platforms,
            size_bytes,
            stored_bytes,
            checked_at: None,
            used_at: node.used_at,
            pinned: self.store.pins().get(source, reference).is_some(),
        }
    }
}
