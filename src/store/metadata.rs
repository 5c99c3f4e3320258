//! Facts beside the bytes: links, tags, media types, last uses. All of it may be lost: it is asked of
//! upstream again, or found in the files.

pub(super) mod expiry;
pub(super) mod facts;
pub(super) mod index;
pub(super) mod pages;
pub(super) mod records;
pub(super) mod schema;
pub(super) mod tiered;

use std::io;
use std::sync::Arc;

use facts::Facts;
pub use pages::{LinkEntry, Pages, SurveyError, TagEntry};

use crate::clock::Clock;
use crate::oci::directory::Source;
use crate::oci::{AcceptClass, Digest, Tag, media_type};
use crate::store::disk::work::{Kind, Task, Work};
use crate::store::events::{Event, EventKinds, Events};
use crate::store::metadata::index::Table;
use crate::store::metadata::schema::{Link, TagRecord};

/// Repositories listed in one scan of the catalog.
const CATALOG_SCAN_MAX: usize = 10_000;

/// Facts about repositories: the digests that they have, and what their tags name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metadata {
    access: Access,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
}

/// The way to the facts off the async threads: asking them may read the index's file. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Access {
    facts: Arc<Facts>,
    work: Arc<Work>,
}

impl Metadata {
    pub(in crate::store) fn new(
        access: Access,
        clock: Arc<dyn Clock>,
        events: Arc<Events>,
    ) -> Self {
        Self {
            access,
            clock,
            events,
        }
    }

    /// The knowledge that a repository has a digest.
    pub async fn link(&self, source: &Source, digest: &Digest) -> Option<Link> {
        if let Some(link) = self.link_in_memory(source, digest) {
            return Some(link);
        }
        let (source, digest) = (source.clone(), *digest);
        self.access
            .ask(move |facts| facts.read_link(&source, &digest))
            .await
            .flatten()
            .map(|record| record.link)
    }

    /// The same, as far as it is in memory.
    #[must_use]
    pub fn link_in_memory(&self, source: &Source, digest: &Digest) -> Option<Link> {
        let record = self.access.facts.link_in_memory(source, digest)?;
        Some(record.link)
    }

    /// Records that a repository has these digests.
    pub async fn record_links(&self, source: &Source, links: Vec<(Digest, Link)>) {
        let day = schema::day(self.clock.now());
        let given = links.iter().filter(|(_, link)| link.is_given());
        let given: Vec<Digest> = given.map(|(digest, _)| *digest).collect();
        let recorded = source.clone();
        self.access
            .ask(move |facts| facts.write_links(&recorded, &links, day))
            .await;
        for digest in given {
            self.events
                .tell_if_wanted(EventKinds::LINKED, || Event::Linked {
                    source: source.clone(),
                    digest,
                });
        }
    }

    /// Forgets the size that a repository is said to have a digest with: it turned out wrong.
    pub async fn forget_size(&self, source: &Source, digest: &Digest) {
        let (source, digest) = (source.clone(), *digest);
        self.access
            .ask(move |facts| facts.forget_size(&source, &digest))
            .await;
    }

    /// The manifests that a tag named, for each set of formats asked for.
    pub async fn tags(&self, source: &Source, tag: &Tag) -> Arc<Vec<TagRecord>> {
        if let Some(tags) = self.tags_in_memory(source, tag) {
            return tags;
        }
        let key = (source.clone(), tag.clone());
        self.access
            .ask(move |facts| facts.read_tags(&key.0, &key.1))
            .await
            .unwrap_or_default()
    }

    /// The same, as far as it is in memory.
    #[must_use]
    pub fn tags_in_memory(&self, source: &Source, tag: &Tag) -> Option<Arc<Vec<TagRecord>>> {
        self.access.facts.tags_in_memory(source, tag)
    }

    /// Records what a tag names.
    pub async fn record_tag(&self, source: &Source, tag: &Tag, record: TagRecord) {
        let (source, tag) = (source.clone(), tag.clone());
        self.access
            .ask(move |facts| {
                facts.write_tag(&source, &tag, |tags| {
                    tags.retain(|old| old.class != record.class);
                    tags.push(record);
                });
            })
            .await;
    }

    /// Records what a tag names, where nothing is known of it.
    pub async fn restore_tag(&self, source: &Source, tag: &Tag, record: TagRecord) {
        let (source, tag) = (source.clone(), tag.clone());
        self.access
            .ask(move |facts| {
                facts.write_tag(&source, &tag, |tags| {
                    if tags.is_empty() {
                        tags.push(record);
                    }
                });
            })
            .await;
    }

    /// Forgets what a tag named in the formats of `class`: upstream says that it is gone. Some
    /// registries say so to whoever cannot read what is there, which is nothing about the others.
    pub async fn forget_tag(&self, source: &Source, tag: &Tag, class: AcceptClass) {
        let (source, tag) = (source.clone(), tag.clone());
        self.access
            .ask(move |facts| {
                facts.write_tag(&source, &tag, |tags| {
                    tags.retain(|record| {
                        record.class != class && !class.allows(&record.media_type)
                    });
                });
            })
            .await;
    }

    /// The media type that a manifest was stored with.
    pub async fn media_type(&self, digest: &Digest) -> Option<String> {
        let key = schema::digest_key(digest);
        let bytes = self
            .access
            .ask(move |facts| facts.index().read(Table::MediaTypes, &key))
            .await;
        let text = String::from_utf8(bytes??).ok()?;
        // Versions before took any text for one.
        media_type::essence(&text).map(str::to_owned)
    }

    /// Notes the media type of a stored manifest that the index does not know.
    pub fn note_media_type(&self, digest: &Digest, media_type: &str) {
        self.access.facts.note_media_type(digest, media_type);
    }

    /// Forgets that a repository has these digests: the next pull asks upstream.
    pub async fn forget_links(&self, source: &Source, digests: Vec<Digest>) {
        let source = source.clone();
        self.access
            .ask(move |facts| facts.forget_links(&source, &digests))
            .await;
    }

    /// Forgets what a tag named, in all formats.
    pub async fn drop_tag(&self, source: &Source, tag: &Tag) {
        let (source, tag) = (source.clone(), tag.clone());
        self.access
            .ask(move |facts| facts.write_tag(&source, &tag, Vec::clear))
            .await;
    }

    /// Forgets the media type of a digest that is not stored.
    pub async fn forget_media_type(&self, digest: &Digest) {
        let key = schema::digest_key(digest);
        self.access
            .ask(move |facts| facts.index().change(Table::MediaTypes, key, None))
            .await;
    }

    /// Forgets a repository of which neither tags nor links are left. Whether it did.
    pub async fn forget_if_empty(&self, source: &Source) -> bool {
        let source = source.clone();
        self.access
            .ask(move |facts| facts.forget_if_empty(&source))
            .await
            .unwrap_or(false)
    }
}

impl Access {
    pub(super) fn new(facts: Facts, work: &Arc<Work>) -> Self {
        Self {
            facts: Arc::new(facts),
            work: Arc::clone(work),
        }
    }

    /// The facts, for whoever may block.
    pub(super) fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Runs something that may read the index's file.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Facts) -> T + Send + 'static,
    ) -> Option<T> {
        self.run(Kind::Index, ask).await
    }

    /// The same for what writes the index first, or reads much of it.
    pub(super) async fn ask_at_length<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Facts) -> T + Send + 'static,
    ) -> Option<T> {
        self.run(Kind::Keep, ask).await
    }

    async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        ask: impl FnOnce(&Facts) -> T + Send + 'static,
    ) -> Option<T> {
        let facts = Arc::clone(&self.facts);
        let asked = self
            .work
            .run(kind, Task::new("ask the index"), move || ask(&facts));
        match asked.await {
            Ok(said) => Some(said),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                // That the disk does not answer is told once.
                tracing::debug!(%error, "the index was not asked");
                None
            }
            Err(error) => {
                tracing::error!(%error, "the index was not asked");
                None
            }
        }
    }
}
