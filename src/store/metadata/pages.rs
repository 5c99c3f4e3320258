//! Pages of what the index has, for who looks into it: each a short read of its own, so that nothing is
//! held between two of them, whatever the size of the index.

mod survey;

pub use survey::SurveyError;

use super::facts::{self, Facts};
use super::{Access, CATALOG_SCAN_MAX};
use crate::oci::directory::Source;
use crate::oci::{Digest, Tag, UpstreamName};
use crate::store::Contents;
use crate::store::metadata::index::{Pair, Table};
use crate::store::metadata::schema::{self, BlobRecord, Link, LinkRecord, TagRecord};

/// A link and its place in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEntry {
    /// The repository.
    pub source: Source,
    /// The digest that it has.
    pub digest: Digest,
    /// As what, and how large.
    pub link: Link,
}

/// A tag and what it named, for each set of formats asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagEntry {
    /// The tag.
    pub tag: Tag,
    /// The manifests that it named; at least one record.
    pub records: Vec<TagRecord>,
}

/// The pages of the index. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pages {
    access: Access,
}

impl Pages {
    /// The blobs that are stored, with their sizes in bytes, after `after`, sorted; empty at the end.
    pub async fn stored_blobs(
        &self,
        contents: &Contents,
        after: Option<&Digest>,
    ) -> Vec<(Digest, u64)> {
        let mut after = after.map(schema::digest_key);
        loop {
            let Some((known, last)) = self.blob_page(after.take()).await else {
                return Vec::new();
            };
            let stored = contents.stored(&known);
            if !stored.is_empty() {
                return stored;
            }
            after = Some(last);
        }
    }

    pub(in crate::store) fn new(access: Access) -> Self {
        Self { access }
    }

    /// Makes sure that what was changed until now is in the pages read from now on.
    pub async fn settle(&self) {
        self.access.ask_at_length(Facts::flush).await;
    }

    /// True if the index has all that was noted: not while it fails.
    pub async fn is_sound(&self) -> bool {
        // An index that is being opened again holds up whoever asks.
        let sound = self.access.ask(|facts| facts.index().is_sound()).await;
        sound == Some(true)
    }

    /// The repositories that something is known of, sorted by upstream and name,
    /// after `after`, at most `limit`.
    pub async fn repositories(&self, after: Option<&Source>, limit: usize) -> Vec<Source> {
        let after = after.map(schema::repository_key);
        let limit = limit.min(CATALOG_SCAN_MAX);
        let scanned = self.access.ask_at_length(move |facts| {
            // What waits to be written is part of the answer.
            facts.flush();
            facts
                .index()
                .scan(Table::Repositories, after.as_deref(), limit)
        });
        let pairs = scanned.await.unwrap_or_default();
        pairs
            .iter()
            .filter_map(|(key, _)| schema::decode_repository(key))
            .collect()
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

    /// The blobs that the index knows of after `after`, and the key to go on after; nothing at the end.
    pub(in crate::store) async fn blob_page(
        &self,
        after: Option<Vec<u8>>,
    ) -> Option<(Vec<Digest>, Vec<u8>)> {
        let pairs = self.page(Table::Blobs, Vec::new(), after).await;
        let (last, _) = pairs.last()?;
        let known = pairs
            .iter()
            .filter(|(_, value)| BlobRecord::decode(value).is_some())
            .filter_map(|(key, _)| schema::decode_digest(key))
            .collect();
        Some((known, last.clone()))
    }

    /// The digests that the index has a media type for: manifests, stored or not; after `after`.
    pub async fn manifest_page(&self, after: Option<&Digest>) -> Vec<Digest> {
        let after = after.map(schema::digest_key);
        let pairs = self.page(Table::MediaTypes, Vec::new(), after).await;
        let keys = pairs.iter();
        keys.filter_map(|(key, _)| schema::decode_digest(key))
            .collect()
    }

    async fn page(&self, table: Table, prefix: Vec<u8>, after: Option<Vec<u8>>) -> Vec<Pair> {
        self.access
            .ask(move |facts| {
                facts.page_below(table, &prefix, after.as_deref(), facts::PAGE_ENTRIES_MAX)
            })
            .await
            .unwrap_or_default()
    }
}
