//! Lists of hosted repositories: tags, the repositories themselves, referrers.

use serde_json::{Map, Value};

use super::{Hosted, HostedError, NameRange};
use crate::catalogue::hosted::{Found, ReferrerRow, Refused};
use crate::oci::referrer::{self, Entry};
use crate::oci::{Digest, Reference, Repository, Tag};

/// Entries on a page, whatever the client asks for.
const PAGE_MAX: usize = 1_000;

/// Bytes of a page of referrers, beside the last entry: clients take no more than of a manifest.
const REFERRERS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A page of tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagPage {
    /// They.
    pub tags: Vec<String>,
    /// There are more.
    pub more: bool,
}

/// A page of referrers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferrerPage {
    /// They.
    pub entries: Vec<Entry>,
    /// The next page begins behind this one.
    pub next: Option<i64>,
}

impl Hosted {
    /// Tags after `after`.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn tags(
        &self,
        repository: &Repository,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<TagPage, HostedError> {
        let limit = limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let catalogue = &self.inner.catalogue;
        let mut tags = match catalogue.hosted_tags(repository, after, limit + 1).await? {
            Found::NoRepository => return Err(Refused::NoRepository.into()),
            Found::Deleted(refused) => return Err(refused.into()),
            Found::Nothing => Vec::new(),
            Found::This(tags) => tags,
        };
        let more = tags.len() > limit && limit > 0;
        tags.truncate(limit);
        Ok(TagPage { tags, more })
    }

    /// Repositories that have a manifest, of these parts of the sorted list of all.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn repositories(
        &self,
        ranges: &[NameRange],
        limit: usize,
    ) -> Result<Vec<Repository>, HostedError> {
        let catalogue = &self.inner.catalogue;
        let parts = ranges.iter().map(|it| (it.from.clone(), it.to.clone()));
        let parts: Vec<_> = parts.collect();
        let limit = limit.min(PAGE_MAX);
        Ok(catalogue.hosted_repositories_in(parts, limit).await?)
    }

    /// Manifests that refer to a digest, of one type or all, behind the one with this number; with those that a client
    /// without the API has listed under a tag.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<i64>,
        limit: Option<usize>,
    ) -> Result<ReferrerPage, HostedError> {
        let limit = limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let from = after.unwrap_or_default();
        let found = self.inner.catalogue.hosted_referrers(
            repository,
            subject,
            artifact_type,
            from,
            limit + 1,
        );
        let rows = match found.await? {
            Found::NoRepository => return Err(Refused::NoRepository.into()),
            Found::Deleted(refused) => return Err(refused.into()),
            Found::Nothing => Vec::new(),
            Found::This(rows) => rows,
        };
        let mut page = ReferrerPage::default();
        let mut bytes = 0;
        let all = rows.len();
        for row in rows.into_iter().take(limit) {
            let id = row.id;
            bytes += 300 + row.annotations.as_ref().map_or(0, String::len);
            page.entries.push(entry(row));
            if bytes > REFERRERS_BYTES_MAX || page.entries.len() == limit {
                page.next = Some(id);
                break;
            }
        }
        if page.entries.len() == all {
            page.next = None;
        }
        if page.next.is_none() {
            let listed = self.listed(repository, subject).await;
            let wanted = |it: &Entry| {
                artifact_type.is_none_or(|wanted| it.artifact_type.as_deref() == Some(wanted))
            };
            let known = |it: &Entry| page.entries.iter().any(|known| known.digest == it.digest);
            let more: Vec<Entry> = listed
                .into_iter()
                .filter(|it| wanted(it) && !known(it))
                .take(PAGE_MAX)
                .collect();
            page.entries.extend(more);
        }
        Ok(page)
    }

    /// The entries of the tag under which clients without the API list referrers (dist-spec, "Referrers tag schema").
    async fn listed(&self, repository: &Repository, subject: &Digest) -> Vec<Entry> {
        let name = format!("{}-{}", subject.algorithm().name(), subject.hex());
        let name: String = name.chars().take(128).collect();
        let Ok(tag) = Tag::parse(&name) else {
            return Vec::new();
        };
        match self.manifest(repository, &Reference::Tag(tag)).await {
            Ok(served) => referrer::entries(&served.bytes),
            Err(_none) => Vec::new(),
        }
    }
}

fn entry(row: ReferrerRow) -> Entry {
    let annotations = row.annotations.and_then(|text| {
        let parsed: Option<Map<String, Value>> = serde_json::from_str(&text).ok();
        parsed
    });
    Entry {
        digest: row.digest,
        media_type: row.media_type,
        size: row.size,
        artifact_type: row.artifact_type,
        annotations,
    }
}
