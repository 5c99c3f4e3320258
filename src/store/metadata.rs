//! What is known beside the bytes: links, tags, media types, last uses. Hot
//! entries are in memory, all of them in the index.

pub(super) mod expiry;
pub(super) mod index;
mod pages;
pub(super) mod schema;
pub(super) mod survey;

use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use moka::sync::Cache;

pub use pages::{LinkEntry, TagEntry};

use crate::oci::directory::Source;
use crate::oci::{AcceptClass, Digest, Tag, media_type};
use crate::store::Store;
use crate::store::disk::work::{Kind, Task};
use crate::store::metadata::index::{Index, Pair, Table};
use crate::store::metadata::schema::{BlobRecord, Link, LinkRecord, TagRecord};

/// Memory for links, in bytes: some fifty thousand.
const LINKS_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// Memory for tags, in bytes: some twenty thousand.
const TAGS_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What an entry in memory takes beside its texts.
const ENTRY_BYTES: usize = 200;

/// Answers kept for one tag, one for each set of formats that clients accept.
const CLASSES_A_TAG_MAX: usize = 8;

/// Repositories listed in one scan of the catalog.
pub(super) const CATALOG_SCAN_MAX: usize = 10_000;

/// The key, among the blobs, of the note that they are not all: an earlier index was lost, and the files
/// have not been looked through since. It is no digest's.
pub(super) const INCOMPLETE: &[u8] = &[0];

type Tags = Arc<Vec<TagRecord>>;

/// The index with its hot entries.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) index: Index,
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

/// What an entry about a repository takes, beside what is its own.
fn weight(source: &Source) -> usize {
    ENTRY_BYTES + source.upstream.as_str().len() + source.repository.as_str().len()
}

fn weight_of_tags(tags: &Tags) -> usize {
    let record = |tag: &TagRecord| size_of::<TagRecord>() + tag.media_type.len();
    tags.iter().map(record).sum()
}

impl Known {
    pub(super) fn new(index: Index) -> Self {
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
    pub(super) fn flush(&self) -> bool {
        self.index.flush()
    }

    pub(super) fn note_blob(&self, digest: &Digest, record: BlobRecord) {
        self.index.change(
            Table::Blobs,
            schema::digest_key(digest),
            Some(record.encode()),
        );
    }

    pub(super) fn note_media_type(&self, digest: &Digest, media_type: &str) {
        if media_type::essence(media_type) != Some(media_type) {
            // It is seen again by looking into the manifest.
            return;
        }
        let value = media_type.as_bytes().to_vec();
        self.index
            .change(Table::MediaTypes, schema::digest_key(digest), Some(value));
    }

    pub(super) fn forget_blob(&self, digest: &Digest) {
        let key = schema::digest_key(digest);
        self.index.change(Table::Blobs, key.clone(), None);
        self.index.change(Table::MediaTypes, key, None);
    }

    /// How many blobs the index's file knows of. Reads the file.
    pub(super) fn blobs(&self) -> u64 {
        self.index.entries(Table::Blobs)
    }

    /// Notes that the index does not know all blobs, or that it does now.
    pub(super) fn note_incomplete(&self, incomplete: bool) {
        self.index
            .change(Table::Blobs, INCOMPLETE.to_vec(), incomplete.then(Vec::new));
    }

    /// Whether that is noted. Reads the file.
    pub(super) fn is_incomplete(&self) -> bool {
        self.index.read(Table::Blobs, INCOMPLETE).is_some()
    }

    /// What the index's file knows of every blob, one after the other; false if it could not be read
    /// to the end. Reads the file.
    pub(super) fn each_blob(&self, mut each: impl FnMut(Digest, BlobRecord)) -> bool {
        self.index.each(Table::Blobs, |key, value| {
            if let (Some(digest), Some(record)) =
                (schema::decode_digest(key), BlobRecord::decode(value))
            {
                each(digest, record);
            }
        })
    }

    /// What the index knows of a blob. Reads the file.
    pub(super) fn blob(&self, digest: &Digest) -> Option<BlobRecord> {
        let value = self.index.read(Table::Blobs, &schema::digest_key(digest))?;
        BlobRecord::decode(&value)
    }

    fn read_link(&self, source: &Source, digest: &Digest) -> Option<LinkRecord> {
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

    fn read_tags(&self, source: &Source, tag: &Tag) -> Tags {
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
    fn write_links(&self, source: &Source, links: &[(Digest, Link)], day: u32) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn forget_size(&self, source: &Source, digest: &Digest) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut record) = self.read_link(source, digest) {
            record.link.size = None;
            self.write_link(source, digest, record);
        }
    }

    /// Entries of a table behind `after`, as they are in the file.
    pub(super) fn page(&self, table: Table, after: Option<&[u8]>, limit: usize) -> Vec<Pair> {
        self.index.scan(table, after, limit)
    }

    /// Whether any link or tag of a repository is known.
    pub(super) fn has_any(&self, repository_key: &[u8]) -> bool {
        let prefix = schema::entries_prefix(repository_key);
        [Table::Links, Table::Tags].into_iter().any(|table| {
            let first = self.index.scan(table, Some(&prefix), 1);
            first
                .first()
                .is_some_and(|(key, _)| key.starts_with(&prefix))
        })
    }

    /// Forgets entries that are still as they were when they were read; how many.
    pub(super) fn forget_entries(&self, table: Table, entries: &[Pair]) -> usize {
        let mut forgotten = 0;
        for (key, value) in entries {
            let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
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
                Table::MediaTypes | Table::Blobs | Table::Repositories | Table::Pins => {}
            }
            forgotten += 1;
        }
        forgotten
    }

    fn write_tag(&self, source: &Source, tag: &Tag, change: impl FnOnce(&mut Vec<TagRecord>)) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
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
}

impl Store {
    /// The knowledge that a repository has a digest.
    pub async fn link(&self, source: &Source, digest: &Digest) -> Option<Link> {
        if let Some(link) = self.link_in_memory(source, digest) {
            return Some(link);
        }
        let (source, digest) = (source.clone(), *digest);
        self.off_thread(move |known| known.read_link(&source, &digest))
            .await
            .flatten()
            .map(|record| record.link)
    }

    /// The same, as far as it is in memory.
    #[must_use]
    pub fn link_in_memory(&self, source: &Source, digest: &Digest) -> Option<Link> {
        let record = self.inner.known.links.get(&(source.clone(), *digest))?;
        Some(record.link)
    }

    /// Records that a repository has these digests.
    pub async fn record_links(&self, source: &Source, links: Vec<(Digest, Link)>) {
        let source = source.clone();
        let day = schema::day(self.inner.clock.now());
        self.off_thread(move |known| known.write_links(&source, &links, day))
            .await;
    }

    /// Forgets the size that a repository is said to have a digest with: it turned out wrong.
    pub async fn forget_size(&self, source: &Source, digest: &Digest) {
        let (source, digest) = (source.clone(), *digest);
        self.off_thread(move |known| known.forget_size(&source, &digest))
            .await;
    }

    /// What a tag named, for each set of formats asked for.
    pub async fn tags(&self, source: &Source, tag: &Tag) -> Arc<Vec<TagRecord>> {
        if let Some(tags) = self.tags_in_memory(source, tag) {
            return tags;
        }
        let key = (source.clone(), tag.clone());
        self.off_thread(move |known| known.read_tags(&key.0, &key.1))
            .await
            .unwrap_or_default()
    }

    /// The same, as far as it is in memory.
    #[must_use]
    pub fn tags_in_memory(&self, source: &Source, tag: &Tag) -> Option<Arc<Vec<TagRecord>>> {
        let key = (source.clone(), tag.clone());
        self.inner.known.tags.get(&key)
    }

    /// Records what a tag names.
    pub async fn record_tag(&self, source: &Source, tag: &Tag, record: TagRecord) {
        let (source, tag) = (source.clone(), tag.clone());
        self.off_thread(move |known| {
            known.write_tag(&source, &tag, |tags| {
                tags.retain(|old| old.class != record.class);
                tags.push(record);
            });
        })
        .await;
    }

    /// Forgets what a tag named in the formats of `class`: upstream says that it is gone. Some
    /// registries say so to whoever cannot read what is there, which is nothing about the others.
    pub async fn forget_tag(&self, source: &Source, tag: &Tag, class: AcceptClass) {
        let (source, tag) = (source.clone(), tag.clone());
        self.off_thread(move |known| {
            known.write_tag(&source, &tag, |tags| {
                tags.retain(|record| record.class != class && !class.allows(&record.media_type));
            });
        })
        .await;
    }

    /// The media type that a manifest was stored with.
    pub async fn media_type(&self, digest: &Digest) -> Option<String> {
        let key = schema::digest_key(digest);
        let bytes = self
            .off_thread(move |known| known.index.read(Table::MediaTypes, &key))
            .await;
        let text = String::from_utf8(bytes??).ok()?;
        // Versions before took any text for one.
        media_type::essence(&text).map(str::to_owned)
    }

    /// The repositories that something is known of, sorted by upstream and name,
    /// after `after`, at most `limit`.
    pub async fn repositories(&self, after: Option<&Source>, limit: usize) -> Vec<Source> {
        let after = after.map(schema::repository_key);
        let limit = limit.min(CATALOG_SCAN_MAX);
        let scanned = self.off_thread_at_length(move |known| {
            // What waits to be written is part of the answer.
            known.flush();
            known
                .index
                .scan(Table::Repositories, after.as_deref(), limit)
        });
        let pairs = scanned.await.unwrap_or_default();
        pairs
            .iter()
            .filter_map(|(key, _)| schema::decode_repository(key))
            .collect()
    }

    /// The same for what writes the index first, or reads much of it.
    pub(super) async fn off_thread_at_length<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Known) -> T + Send + 'static,
    ) -> Option<T> {
        self.ask_index(Kind::Keep, work).await
    }

    async fn ask_index<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce(&Known) -> T + Send + 'static,
    ) -> Option<T> {
        let store = self.clone();
        let asked = self.work().run(kind, Task::new("ask the index"), move || {
            work(&store.inner.known)
        });
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

    /// Runs something that may read the index's file, off the async threads.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Known) -> T + Send + 'static,
    ) -> Option<T> {
        self.ask_index(Kind::Index, work).await
    }
}
