//! Facts about all blobs: which there are, in the order of their digests; who has them; which tags
//! lead to them. For what goes through the whole store. Everything is read in pages: a store has a million
//! blobs, and some ten million links.

use std::collections::HashMap;

use super::Pages;
use crate::oci::directory::Source;
use crate::oci::{Digest, Tag};
use crate::store::metadata::index::Table;
use crate::store::metadata::schema::{self, TagRecord};

/// Links looked at in one transaction of the index, so that its old pages can be reused in between.
const LINKS_A_PAGE: usize = 10_000;

/// Tags of one repository that are looked at: the largest public ones have some ten thousand, of which a
/// mirror sees a few.
const TAGS_MAX: usize = 10_000;

/// The index cannot be read, so that what it says is not all.
#[derive(Debug, thiserror::Error)]
#[error("the index cannot be read: {0}")]
pub struct SurveyError(String);

impl Pages {
    /// The digests of stored blobs that come after `after`, in order, at most `limit`; empty at the end.
    ///
    /// # Errors
    /// [`SurveyError`].
    pub async fn stored_after(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, SurveyError> {
        let after = after.map(|digest| schema::digest_key(&digest));
        let page = self.access.ask_at_length(move |facts| {
            // What waits to be written is part of the answer.
            if !facts.flush() {
                return Err("it cannot be written".to_owned());
            }
            let page = facts.index().page(Table::Blobs, after.as_deref(), limit);
            page.map_err(|error| error.to_string())
        });
        let page = page
            .await
            .unwrap_or_else(|| Err("it was not asked".to_owned()));
        let page = page.map_err(SurveyError)?;
        Ok(page
            .iter()
            .filter_map(|(key, _)| schema::decode_digest(key))
            .collect())
    }

    /// The repositories that have these digests, at most `limit` for each. Reads through all links.
    pub async fn sources_of(
        &self,
        digests: &[Digest],
        limit: usize,
    ) -> HashMap<Digest, Vec<Source>> {
        let wanted: HashMap<Vec<u8>, Digest> = digests
            .iter()
            .map(|digest| (schema::digest_key(digest), *digest))
            .collect();
        let mut found: HashMap<Digest, Vec<Source>> = HashMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let from = after.take();
            let page = self.access.ask_at_length(move |facts| {
                if from.is_none() {
                    facts.flush();
                }
                facts
                    .index()
                    .scan(Table::Links, from.as_deref(), LINKS_A_PAGE)
            });
            let page = page.await.unwrap_or_default();
            for (key, _) in &page {
                if let Some((source, digest)) = schema::split_link_key(key, &wanted) {
                    let sources = found.entry(digest).or_default();
                    if sources.len() < limit {
                        sources.push(source);
                    }
                }
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return found,
            }
        }
    }

    /// The manifests that the tags of a repository name, in the order of the tags.
    pub async fn tags_of(&self, source: &Source) -> Vec<(Tag, Vec<TagRecord>)> {
        let prefix = schema::repository_prefix(source);
        let page = self.access.ask_at_length(move |facts| {
            facts.flush();
            let mut page = facts.index().scan(Table::Tags, Some(&prefix), TAGS_MAX);
            page.retain(|(key, _)| key.starts_with(&prefix));
            (prefix.len(), page)
        });
        let (prefix_length, page) = page.await.unwrap_or_default();
        let decode = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let tag = std::str::from_utf8(key.get(prefix_length..)?).ok()?;
            Some((Tag::parse(tag).ok()?, serde_json::from_slice(value).ok()?))
        };
        page.iter().filter_map(decode).collect()
    }
}
