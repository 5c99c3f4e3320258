//! Pages of what the index has, for who looks into it: each a short read of its own, so that nothing is
//! held between two of them, whatever the size of the index.

use super::{Known, Store};
use crate::oci::directory::Source;
use crate::oci::{Digest, Tag, UpstreamName};
use crate::store::metadata::index::{Pair, Table};
use crate::store::metadata::schema::{self, BlobRecord, Link, LinkRecord, TagRecord};

/// Entries read at once: some hundred kilobytes.
const PAGE_ENTRIES_MAX: usize = 4096;

/// Links forgotten before they are written: a part of what may wait.
const FORGOTTEN_AT_ONCE_MAX: usize = 10_000;

/// A link and its place in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEntry {
    /// The repository.
    pub source: Source,
    /// What it has.
    pub digest: Digest,
    /// As what, and how large.
    pub link: Link,
}

/// A tag and what it named, for each set of formats asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagEntry {
    /// The tag.
    pub tag: Tag,
    /// What it named; at least one record.
    pub records: Vec<TagRecord>,
}

impl Known {
    /// The entries whose keys begin with `prefix` and lie after `after`. Reads the file.
    fn page_below(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Pair> {
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        let from = (!from.is_empty()).then_some(from);
        let mut pairs = self.index.scan(table, from, limit.min(PAGE_ENTRIES_MAX));
        let inside = pairs.partition_point(|(key, _)| key.starts_with(prefix));
        pairs.truncate(inside);
        pairs
    }

    /// Forgets that a repository has these digests.
    fn forget_links(&self, source: &Source, digests: &[Digest]) {
        for some in digests.chunks(FORGOTTEN_AT_ONCE_MAX) {
            {
                let _change = self.change();
                for digest in some {
                    self.links.invalidate(&(source.clone(), *digest));
                    let key = schema::link_key(source, digest);
                    self.index.change(Table::Links, key, None);
                }
            }
            if digests.len() > FORGOTTEN_AT_ONCE_MAX {
                // Or the changes that wait to be written would be too many.
                self.index.flush();
            }
        }
    }

    /// Forgets a repository of which neither tags nor links are left. Whether it did.
    fn forget_if_empty(&self, source: &Source) -> bool {
        let _change = self.change();
        self.index.flush();
        let prefix = schema::repository_prefix(source);
        let has = |table| !self.page_below(table, &prefix, None, 1).is_empty();
        if has(Table::Links) || has(Table::Tags) {
            return false;
        }
        let key = schema::repository_key(source);
        self.index.change(Table::Repositories, key, None);
        true
    }

    fn change(&self) -> std::sync::MutexGuard<'_, ()> {
        self.change
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes or deletes what an image is pinned as.
    pub(in crate::store) fn write_pin(&self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.index.change(Table::Pins, key, value);
    }

    /// All pins. Reads the file.
    pub(in crate::store) fn read_pins(&self, limit: usize) -> Vec<Pair> {
        self.index.scan(Table::Pins, None, limit)
    }
}

impl Store {
    /// Makes sure that what was changed until now is in the pages read from now on. Blocks.
    pub fn save(&self) {
        self.write_index();
    }

    /// The same, for async code.
    pub async fn settle_index(&self) {
        self.off_thread_at_length(Known::flush).await;
    }

    /// Whether the pages have all there is: not while the index fails, or while the files are looked
    /// through after it was lost. What nobody seems to need may be needed then.
    pub async fn knows_all(&self) -> bool {
        // An index that is being opened again holds up whoever asks.
        let sound = self.off_thread(|known| known.index.is_sound()).await;
        self.inner.scan.is_done() && sound == Some(true)
    }

    /// The repositories of an upstream (of all, when `None`) after `after`, sorted; empty at the end.
    pub async fn repository_page(
        &self,
        upstream: Option<&UpstreamName>,
        after: Option<&Source>,
    ) -> Vec<Source> {
        let prefix = upstream.map(schema::upstream_prefix).unwrap_or_default();
        let after = after.map(schema::repository_key);
        let pairs = self.page(Table::Repositories, prefix, after).await;
        let keys = pairs.iter();
        keys.filter_map(|(key, _)| schema::decode_repository(key))
            .collect()
    }

    /// The tags of a repository after `after`, sorted; empty at the end.
    pub async fn tag_page(&self, source: &Source, after: Option<&Tag>) -> Vec<TagEntry> {
        let prefix = schema::repository_prefix(source);
        let after = after.map(|tag| schema::tag_key(source, tag));
        let pairs = self.page(Table::Tags, prefix, after).await;
        let entry = |(key, value): Pair| {
            let (_, tag) = schema::decode_tag_key(&key)?;
            let records: Vec<TagRecord> = serde_json::from_slice(&value).ok()?;
            (!records.is_empty()).then_some(TagEntry { tag, records })
        };
        pairs.into_iter().filter_map(entry).collect()
    }

    /// The links of a repository (of all, when `None`) after `after`, sorted; empty at the end.
    pub async fn link_page(
        &self,
        source: Option<&Source>,
        after: Option<&LinkEntry>,
    ) -> Vec<LinkEntry> {
        let prefix = source.map(schema::repository_prefix).unwrap_or_default();
        let after = after.map(|entry| schema::link_key(&entry.source, &entry.digest));
        let pairs = self.page(Table::Links, prefix, after).await;
        let entry = |(key, value): Pair| {
            let (source, digest) = schema::decode_link_key(&key)?;
            let link = LinkRecord::decode(&value)?.link;
            Some(LinkEntry {
                source,
                digest,
                link,
            })
        };
        pairs.into_iter().filter_map(entry).collect()
    }

    /// The blobs that are stored, with their sizes in bytes, after `after`, sorted; empty at the end.
    pub async fn blob_page(&self, after: Option<&Digest>) -> Vec<(Digest, u64)> {
        let mut after = after.map(schema::digest_key);
        loop {
            let pairs = self.page(Table::Blobs, Vec::new(), after.take()).await;
            let Some((last, _)) = pairs.last() else {
                return Vec::new();
            };
            let next = last.clone();
            let known: Vec<Digest> = pairs
                .iter()
                .filter(|(_, value)| BlobRecord::decode(value).is_some())
                .filter_map(|(key, _)| schema::decode_digest(key))
                .collect();
            let stored = self.stored(&known);
            if !stored.is_empty() {
                return stored;
            }
            after = Some(next);
        }
    }

    /// The digests that the index has a media type for: manifests, stored or not; after `after`.
    pub async fn manifest_page(&self, after: Option<&Digest>) -> Vec<Digest> {
        let after = after.map(schema::digest_key);
        let pairs = self.page(Table::MediaTypes, Vec::new(), after).await;
        let keys = pairs.iter();
        keys.filter_map(|(key, _)| schema::decode_digest(key))
            .collect()
    }

    /// Forgets that a repository has these digests: the next pull asks upstream.
    pub async fn forget_links(&self, source: &Source, digests: Vec<Digest>) {
        let source = source.clone();
        self.off_thread(move |known| known.forget_links(&source, &digests))
            .await;
    }

    /// Forgets what a tag named, in all formats.
    pub async fn drop_tag(&self, source: &Source, tag: &Tag) {
        let (source, tag) = (source.clone(), tag.clone());
        self.off_thread(move |known| known.write_tag(&source, &tag, Vec::clear))
            .await;
    }

    /// Forgets the media type of a digest that is not stored.
    pub async fn forget_media_type(&self, digest: &Digest) {
        let key = schema::digest_key(digest);
        self.off_thread(move |known| known.index.change(Table::MediaTypes, key, None))
            .await;
    }

    /// Forgets a repository of which neither tags nor links are left. Whether it did.
    pub async fn forget_if_empty(&self, source: &Source) -> bool {
        let source = source.clone();
        self.off_thread(move |known| known.forget_if_empty(&source))
            .await
            .unwrap_or(false)
    }

    async fn page(&self, table: Table, prefix: Vec<u8>, after: Option<Vec<u8>>) -> Vec<Pair> {
        self.off_thread(move |known| {
            known.page_below(table, &prefix, after.as_deref(), PAGE_ENTRIES_MAX)
        })
        .await
        .unwrap_or_default()
    }
}
