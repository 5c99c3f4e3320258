//! Facts beside the bytes: links, tags, media types. Hot entries are in memory, all of them in the index.
//! Whoever asks may read the index's file, and blocks.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use moka::sync::Cache;

use crate::oci::directory::Source;
use crate::oci::{Digest, Tag, media_type};
use crate::store::metadata::index::{Index, Pair, Table};
use crate::store::metadata::schema::{self, Link, LinkRecord, TagRecord};

/// Entries read at once: some hundred kilobytes.
pub(super) const PAGE_ENTRIES_MAX: usize = 4096;

/// Links forgotten before they are written: a part of what may wait.
const FORGOTTEN_AT_ONCE_MAX: usize = 10_000;

/// Memory for links, in bytes: some fifty thousand.
const LINKS_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// Memory for tags, in bytes: some twenty thousand.
const TAGS_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bytes that an entry in memory takes beside its texts.
const ENTRY_BYTES: usize = 200;

/// Answers kept for one tag, one for each set of formats that clients accept.
const CLASSES_A_TAG_MAX: usize = 8;

pub(super) type Tags = Arc<Vec<TagRecord>>;

/// The index with its hot entries.
#[derive(Debug)]
pub(in crate::store) struct Facts {
    index: Arc<Index>,
    links: Cache<(Source, Digest), LinkRecord, RandomState>,
    tags: Cache<(Source, Tag), Tags, RandomState>,
    /// Held while a link or tag is read, changed and written back.
    change: Mutex<()>,
}

/// A cache whose hash function costs little: it is asked for every hit. It has so many bytes, by `weigh`.
fn hashed<K, V>(
    bytes_max: u64,
    weigh: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
) -> Cache<K, V, RandomState>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let weigh = move |key: &K, value: &V| u32::try_from(weigh(key, value)).unwrap_or(u32::MAX);
    let builder = Cache::builder().max_capacity(bytes_max).weigher(weigh);
    builder.build_with_hasher(RandomState::default())
}

/// Bytes that an entry about a repository takes, beside what is its own.
fn weight(source: &Source) -> usize {
    ENTRY_BYTES + source.upstream.as_str().len() + source.repository.as_str().len()
}

fn weight_of_tags(tags: &Tags) -> usize {
    let record = |tag: &TagRecord| size_of::<TagRecord>() + tag.media_type.len();
    tags.iter().map(record).sum()
}

impl Facts {
    pub(in crate::store) fn new(index: Arc<Index>) -> Self {
        Self {
            index,
            links: hashed(LINKS_BYTES_MAX, |(source, _): &(Source, Digest), _| {
                weight(source)
            }),
            tags: hashed(TAGS_BYTES_MAX, |(source, tag): &(Source, Tag), tags| {
                weight(source) + tag.as_str().len() + weight_of_tags(tags)
            }),
            change: Mutex::default(),
        }
    }

    /// Writes what is waiting; whether all of it is in the file.
    pub(in crate::store) fn flush(&self) -> bool {
        self.index.flush()
    }

    pub(in crate::store) fn note_media_type(&self, digest: &Digest, media_type: &str) {
        if media_type::essence(media_type) != Some(media_type) {
            // It is seen again by looking into the manifest.
            return;
        }
        let value = media_type.as_bytes().to_vec();
        self.index
            .change(Table::MediaTypes, schema::digest_key(digest), Some(value));
    }

    pub(super) fn read_link(&self, source: &Source, digest: &Digest) -> Option<LinkRecord> {
        let key = (source.clone(), *digest);
        if let Some(link) = self.links.get(&key) {
            return Some(link);
        }
        let bytes = self
            .index
            .read(Table::Links, &schema::link_key(source, digest))?;
        let link = LinkRecord::decode(&bytes)?;
        self.links.insert(key, link);
        Some(link)
    }

    fn write_link(&self, source: &Source, digest: &Digest, record: LinkRecord) {
        self.links.insert((source.clone(), *digest), record);
        let key = schema::link_key(source, digest);
        self.index.change(Table::Links, key, Some(record.encode()));
    }

    pub(super) fn read_tags(&self, source: &Source, tag: &Tag) -> Tags {
        let key = (source.clone(), tag.clone());
        if let Some(tags) = self.tags.get(&key) {
            return tags;
        }
        let bytes = self.index.read(Table::Tags, &schema::tag_key(source, tag));
        let records: Option<Vec<TagRecord>> =
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let tags: Tags = Arc::new(records.unwrap_or_default());
        self.tags.insert(key, Arc::clone(&tags));
        tags
    }

    /// Records links as upstream told them on `day`.
    pub(super) fn write_links(&self, source: &Source, links: &[(Digest, Link)], day: u32) {
        let _change = self.change();
        let mut changed = false;
        for (digest, link) in links {
            let old = self.read_link(source, digest);
            let link = old.map(|old| old.link).unwrap_or_default().union(*link);
            let new = LinkRecord { link, day };
            if old != Some(new) {
                self.write_link(source, digest, new);
                changed = true;
            }
        }
        if changed {
            let key = schema::repository_key(source);
            self.index
                .change(Table::Repositories, key, Some(Vec::new()));
        }
    }

    pub(super) fn forget_size(&self, source: &Source, digest: &Digest) {
        let _change = self.change();
        if let Some(mut record) = self.read_link(source, digest) {
            record.link.size = None;
            self.write_link(source, digest, record);
        }
    }

    /// True if any link or tag of a repository is known.
    pub(in crate::store) fn has_any(&self, repository_key: &[u8]) -> bool {
        let prefix = schema::entries_prefix(repository_key);
        [Table::Links, Table::Tags].into_iter().any(|table| {
            let first = self.index.scan(table, Some(&prefix), 1);
            first
                .first()
                .is_some_and(|(key, _)| key.starts_with(&prefix))
        })
    }

    /// Forgets entries that are still as they were when they were read; how many.
    pub(in crate::store) fn forget_entries(&self, table: Table, entries: &[Pair]) -> usize {
        let mut forgotten = 0;
        for (key, value) in entries {
            let _change = self.change();
            // A repository's entry is written anew with each link of it.
            if self.index.unwritten(table, key).is_some()
                || self.index.read(table, key).as_ref() != Some(value)
            {
                continue;
            }
            self.index.change(table, key.clone(), None);
            match table {
                Table::Links => {
                    let link = schema::decode_link_key(key);
                    link.inspect(|link| self.links.invalidate(link));
                }
                Table::Tags => {
                    let tag = schema::decode_tag_key(key);
                    tag.inspect(|tag| self.tags.invalidate(tag));
                }
                Table::MediaTypes
                | Table::Blobs
                | Table::Repositories
                | Table::Pins
                | Table::Tiered => {}
            }
            forgotten += 1;
        }
        forgotten
    }

    pub(super) fn write_tag(
        &self,
        source: &Source,
        tag: &Tag,
        change: impl FnOnce(&mut Vec<TagRecord>),
    ) {
        let _change = self.change();
        let mut tags = self.read_tags(source, tag).to_vec();
        change(&mut tags);
        tags.sort_by_key(|record| std::cmp::Reverse(record.checked));
        tags.truncate(CLASSES_A_TAG_MAX);
        // A list of plain records always has a JSON form; without one the tag is asked again.
        let value = (!tags.is_empty())
            .then(|| serde_json::to_vec(&tags).ok())
            .flatten();
        self.tags
            .insert((source.clone(), tag.clone()), Arc::new(tags));
        self.index
            .change(Table::Tags, schema::tag_key(source, tag), value);
    }

    /// A link, as far as it is in memory.
    pub(super) fn link_in_memory(&self, source: &Source, digest: &Digest) -> Option<LinkRecord> {
        self.links.get(&(source.clone(), *digest))
    }

    /// The manifests that a tag named, as far as they are in memory.
    pub(super) fn tags_in_memory(&self, source: &Source, tag: &Tag) -> Option<Tags> {
        self.tags.get(&(source.clone(), tag.clone()))
    }

    /// The index, for what only reads it.
    pub(in crate::store) fn index(&self) -> &Index {
        &self.index
    }

    /// The entries whose keys begin with `prefix` and lie after `after`. Reads the file.
    pub(super) fn page_below(
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
    pub(super) fn forget_links(&self, source: &Source, digests: &[Digest]) {
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
    pub(super) fn forget_if_empty(&self, source: &Source) -> bool {
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

    fn change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
