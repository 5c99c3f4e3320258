//! The start: the catalogue first, then the store, which must not evict what the catalogue has pinned; then what a
//! cache of an earlier version has that is the catalogue's now.

use std::collections::HashSet;
use std::sync::Arc;

use super::Source;
use crate::catalogue::{
    self, Catalogue, CatalogueError, Change, HandPin, ImportedLink, ImportedTag, Legacy,
};
use crate::clock::Clock;
use crate::oci::Tag;
use crate::store::{self, Claim, Keeping, LinkEntry, OpenError, Origin, Pinned, Store};
use crate::telemetry::Metrics;

/// Entries that are taken over in one change: some megabytes.
const ADOPTED_AT_ONCE_MAX: usize = 10_000;

/// A store and the catalogue beside it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The catalogue; it may be degraded.
    pub catalogue: Catalogue,
}

/// The way in which both are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// They are made where there are none, and written.
    Write,
    /// The same, from a process that has handed them over and still reads files of the store.
    TakeOver,
    /// Nothing of them is changed.
    Look,
}

impl OpenMode {
    /// True if they may be changed.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Write | Self::TakeOver => true,
            Self::Look => false,
        }
    }
}

impl Opened {
    /// Opens both, the cache where it was [found](store::Config::found).
    ///
    /// # Errors
    /// [`OpenError`], of the store: a catalogue that cannot be opened is degraded.
    pub async fn open(
        mode: OpenMode,
        cache: store::Config,
        state: catalogue::Config,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let counts = metrics.clone();
        let claimed = blocking((state, cache), move |(state, cache)| {
            if mode.writes() && state.dir.starts_with(&cache.dir) {
                tracing::warn!(cache_dir = %cache.dir.display(), state_dir = %state.dir.display(), "the state directory is in the cache directory: deleting the cache deletes imported names and pins. Give state.dir and cache.dir directories of their own");
            }
            // First, or a second process on both would touch what it may not have.
            let claim = match mode {
                OpenMode::Write => Claim::take(&cache),
                OpenMode::TakeOver => Claim::take(&cache).map(Claim::beside_readers),
                OpenMode::Look => Claim::to_look(&cache),
            };
            let claim = claim?;
            let catalogue = match mode {
                OpenMode::Write | OpenMode::TakeOver => Catalogue::open(&state, counts),
                OpenMode::Look => Catalogue::look_into(&state, counts),
            };
            Ok::<_, OpenError>((claim, catalogue, cache))
        });
        let (claim, catalogue, cache) = claimed.await?;
        let pins = catalogue.pins().await;
        let keeping = match &pins {
            Ok(pins) => Keeping::Pins(pins.iter().map(pinned).collect()),
            Err(error) => {
                // One that could not be opened has told so.
                if catalogue.is_known() {
                    tracing::warn!(%error, "the catalogue's pins were not read in time: nothing is evicted until they are. Look at the disk of the state directory");
                }
                Keeping::Everything
            }
        };
        let opened = blocking(cache, move |cache| {
            Store::open_claimed(claim, &cache, keeping, clock, metrics)
        });
        let opened = Self {
            store: opened.await?,
            catalogue,
        };
        if mode.writes()
            && let Ok(pins) = pins
        {
            opened.settle(&pins).await;
        }
        Ok(opened)
    }

    /// Makes what the index has of hand-made pins what the catalogue has, or, the first time, the other way round.
    async fn settle(&self, pins: &[HandPin]) {
        let adopted = match self.catalogue.has_adopted().await {
            Ok(true) => {
                let known: HashSet<_> = pins.iter().map(|it| (&it.source, &it.reference)).collect();
                let by_hand = self.store.pins().all().into_iter().filter(|it| !it.by_rule);
                for pin in by_hand.filter(|it| !known.contains(&(&it.source, &it.reference))) {
                    // The index was not written after it was undone; or it was made with another state directory.
                    let image = format!(
                        "{}/{}: {}",
                        pin.source.upstream, pin.source.repository, pin.reference
                    );
                    tracing::warn!(image, "a pin that the catalogue does not have is undone");
                    self.store.pins().unpin(&pin.source, &pin.reference);
                }
                Ok(())
            }
            Ok(false) => self.adopt().await,
            Err(error) => Err(error),
        };
        if let Err(error) = adopted {
            tracing::warn!(%error, "imported names and pins of an earlier version stay in the cache's index alone until the next start");
        }
    }

    /// Takes over imported names and links, and hand-made pins, of a cache that an earlier version filled.
    async fn adopt(&self) -> Result<(), CatalogueError> {
        let by_hand = self.store.pins().all().into_iter().filter(|it| !it.by_rule);
        let pins: Vec<HandPin> = by_hand.map(|it| hand_pin(&it)).collect();
        let (mut pinned, mut tags, mut links) = (0, 0, 0);
        for some in pins.chunks(100) {
            pinned += some.len();
            let pins = some.to_vec();
            self.take_over(Legacy {
                pins,
                ..Legacy::default()
            })
            .await?;
        }
        self.store.pages().settle().await;
        let mut at: Option<Source> = None;
        loop {
            let sources = self.store.pages().repository_page(None, at.as_ref()).await;
            let Some(last) = sources.last() else { break };
            at = Some(last.clone());
            for source in &sources {
                let imported = self.imported_tags(source).await;
                if imported.is_empty() {
                    continue;
                }
                tags += imported.len();
                for some in imported.chunks(ADOPTED_AT_ONCE_MAX) {
                    self.take_over(Legacy {
                        tags: some.to_vec(),
                        ..Legacy::default()
                    })
                    .await?;
                }
                links += self.adopt_links(source).await?;
            }
        }
        self.take_over(Legacy {
            complete: true,
            ..Legacy::default()
        })
        .await?;
        if pinned + tags + links > 0 {
            tracing::info!(
                pins = pinned,
                tags,
                links,
                "imported names and pins of an earlier version are in the catalogue now"
            );
        }
        Ok(())
    }

    async fn imported_tags(&self, source: &Source) -> Vec<(Source, Tag, ImportedTag)> {
        let mut imported = Vec::new();
        let mut after: Option<Tag> = None;
        loop {
            let tags = self.store.pages().tag_page(source, after.as_ref()).await;
            let Some(last) = tags.last() else {
                return imported;
            };
            after = Some(last.tag.clone());
            for entry in tags {
                let mut records = entry.records.into_iter();
                if let Some(record) = records.find(|it| it.origin == Origin::Import) {
                    let tag = ImportedTag {
                        digest: record.digest,
                        media_type: record.media_type,
                        imported: record.checked,
                    };
                    imported.push((source.clone(), entry.tag, tag));
                }
            }
        }
    }

    /// The links of a repository that has imported tags: which of them came by the import was not recorded.
    async fn adopt_links(&self, source: &Source) -> Result<usize, CatalogueError> {
        let (mut links, mut after) = (0, None::<LinkEntry>);
        loop {
            let page = self
                .store
                .pages()
                .link_page(Some(source), after.as_ref())
                .await;
            let Some(last) = page.last() else {
                return Ok(links);
            };
            after = Some(last.clone());
            links += page.len();
            let entries = page.into_iter();
            let entries = entries.map(|it| (it.source, imported_link(it.digest, it.link)));
            self.take_over(Legacy {
                links: entries.collect(),
                ..Legacy::default()
            })
            .await?;
        }
    }

    async fn take_over(&self, legacy: Legacy) -> Result<(), CatalogueError> {
        self.catalogue.commit(Change::Adopt(legacy)).await
    }
}

/// Keeps the catalogue's pins, which could not be read at the start, and lets evictions begin.
pub(super) async fn keep_late(store: &Store, catalogue: &Catalogue, pins: &[HandPin]) {
    let opened = Opened {
        store: store.clone(),
        catalogue: catalogue.clone(),
    };
    let (keeping, all) = (store.clone(), pins.iter().map(pinned).collect());
    blocking((), move |()| keeping.pins().keep(Keeping::Pins(all))).await;
    opened.settle(pins).await;
    tracing::info!(pins = pins.len(), "the catalogue's pins have been read");
}

/// Runs what blocks, off the async threads.
async fn blocking<I: Send + 'static, T: Send + 'static>(
    input: I,
    work: impl FnOnce(I) -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(move || work(input)).await {
        Ok(done) => done,
        // It cannot be cancelled: what is left is a panic, which goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A link, as the catalogue has it.
pub(super) fn imported_link(digest: crate::oci::Digest, link: store::Link) -> ImportedLink {
    let link = catalogue::Link {
        manifest: link.manifest,
        blob: link.blob,
        // An import of a version that did not tell that apart was an operator's word, too.
        given: link.word != store::Word::Named,
        size: link.size,
    };
    ImportedLink { digest, link }
}

/// A pin, as the store has it.
fn pinned(pin: &HandPin) -> Pinned {
    Pinned {
        source: pin.source.clone(),
        reference: pin.reference.clone(),
        since: pin.since,
        by_rule: false,
        digests: pin.digests.clone(),
    }
}

/// A pin, as the catalogue has it.
pub(super) fn hand_pin(pinned: &Pinned) -> HandPin {
    HandPin {
        source: pinned.source.clone(),
        reference: pinned.reference.clone(),
        since: pinned.since,
        digests: pinned.digests.clone(),
    }
}

#[cfg(test)]
mod tests;
