//! Lists: tags and referrers, asked of upstream each time, and the catalog of
//! what is here.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::ListAnswer;
use super::flight::Role;
use super::negative::{List, What};
use super::{Failure, Inner, Mirror, MirrorError, Source, in_time};
use crate::oci::link::NextPage;
use crate::oci::manifest::media;
use crate::oci::{AcceptClass, Digest, Page, Reference, Repository, Tag, UpstreamName};
use crate::telemetry::{Kind, Outcome};
use crate::upstream::ListFetch;

/// Entries on a page of the catalog, whatever the client asks for.
const CATALOG_PAGE_MAX: usize = 1000;

impl Mirror {
    /// The tags of a repository, as upstream lists them now.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn tags(&self, source: &Source, page: &Page) -> Result<ListAnswer, MirrorError> {
        if page.limit == Some(0) {
            // dist-spec, "Listing tags": an empty list, and no `Link`.
            let body = json!({ "name": source.repository.as_str(), "tags": [] });
            return Ok(local_list("application/json", &body));
        }
        let list = List::Tags(NextPage::of(page).query);
        let listed = in_time(self.inner.list(source, list)).await?;
        Ok(proxied(listed, "application/json"))
    }

    /// What refers to a digest. Where upstream has no referrers API, the
    /// referrers tag (dist-spec, "Referrers tag schema") is looked up instead.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn referrers(
        &self,
        source: &Source,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<ListAnswer, MirrorError> {
        let asked = self.inner.referrers(source, digest, artifact_type);
        in_time(asked).await
    }

    /// The repositories that something is cached of, as `upstream/repository`,
    /// sorted, and where the next page begins.
    pub async fn catalog(&self, page: &Page) -> (Vec<String>, Option<NextPage>) {
        let limit = page.limit.unwrap_or(CATALOG_PAGE_MAX).min(CATALOG_PAGE_MAX);
        let after = page.last.as_deref().and_then(parse_entry);
        let found = self.inner.store.repositories(after.as_ref(), limit).await;
        let names: Vec<String> = found
            .iter()
            .map(|source| format!("{}/{}", source.upstream, source.repository))
            .collect();
        let full = names.len() == limit;
        let next = names.last().filter(|_| full).map(|last| {
            NextPage::of(&Page {
                limit: Some(limit),
                last: Some(last.clone()),
                ..Page::default()
            })
        });
        (names, next)
    }
}

impl Inner {
    /// A list, asked of upstream once for all who want it now.
    async fn list(
        self: &Arc<Self>,
        source: &Source,
        list: List,
    ) -> Result<(ListFetch, Role), MirrorError> {
        let (inner, asked, wanted) = (Arc::clone(self), source.clone(), list.clone());
        let ask = move || async move {
            let what = What::List(wanted.clone());
            let ask = inner.ask_list(&asked, &wanted);
            inner.unless_unknown(&asked, what, ask).await
        };
        let key = (source.clone(), list);
        let (listed, role) = self.lists.run(key, &self.tasks, ask).await?;
        listed.map(|listed| (listed, role))
    }

    async fn ask_list(&self, source: &Source, list: &List) -> Result<ListFetch, MirrorError> {
        let (upstream, repository) = (self.upstream(source)?, &source.repository);
        let (kind, listed) = match list {
            List::Tags(query) => (Kind::Tags, upstream.tags(repository, query).await),
            List::Referrers(digest, artifact_type) => {
                let artifact_type = artifact_type.as_deref();
                let listed = upstream.referrers(repository, digest, artifact_type);
                (Kind::Referrers, listed.await)
            }
        };
        listed.map_err(|error| MirrorError::of_fetch(kind, error))
    }

    async fn referrers(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<ListAnswer, MirrorError> {
        let list = List::Referrers(*digest, artifact_type.map(str::to_owned));
        match self.list(source, list).await {
            Ok(listed) => Ok(proxied(listed, media::OCI_INDEX)),
            Err(error) => {
                self.referrers_tag(source, digest, artifact_type, error)
                    .await
            }
        }
    }

    async fn referrers_tag(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        artifact_type: Option<&str>,
        error: MirrorError,
    ) -> Result<ListAnswer, MirrorError> {
        let text = format!("{}-{}", digest.algorithm().name(), digest.hex());
        let Ok(tag) = Tag::parse(&text) else {
            return Err(error);
        };
        // An upstream that cannot be reached is not asked a second question, but what is known is told.
        let failure = error.failure();
        let tells_old = self.config.of_tag(source, &tag).serves_stale(failure);
        let gone = failure == Failure::Deleted;
        if !gone && (!tells_old || self.store.tags(source, &tag).await.is_empty()) {
            return Err(error);
        }
        let mirror = Mirror {
            inner: Arc::clone(self),
        };
        let found = mirror
            .manifest(source, &Reference::Tag(tag), AcceptClass::ALL)
            .await;
        let Ok(found) = found else { return Err(error) };
        let Ok(mut index) = serde_json::from_slice::<Value>(&found.bytes) else {
            return Err(error);
        };
        let Some(manifests) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Err(error);
        };
        if let Some(wanted) = artifact_type {
            manifests.retain(|m| m.get("artifactType").and_then(Value::as_str) == Some(wanted));
        }
        Ok(ListAnswer {
            filters_applied: artifact_type.map(|_| "artifactType".to_owned()),
            outcome: found.outcome,
            warnings: found.warnings,
            ..local_list(media::OCI_INDEX, &index)
        })
    }
}

fn proxied((listed, role): (ListFetch, Role), media_type: &str) -> ListAnswer {
    ListAnswer {
        media_type: listed.content_type.unwrap_or_else(|| media_type.to_owned()),
        bytes: listed.bytes,
        next: listed.next,
        filters_applied: listed.filters_applied,
        outcome: match role {
            Role::Leader => Outcome::Bypass,
            Role::Follower => Outcome::Collapsed,
        },
        warnings: Vec::new(),
    }
}

fn local_list(media_type: &str, body: &Value) -> ListAnswer {
    ListAnswer {
        media_type: media_type.to_owned(),
        bytes: body.to_string().into(),
        next: None,
        filters_applied: None,
        outcome: Outcome::Hit,
        warnings: Vec::new(),
    }
}

fn parse_entry(text: &str) -> Option<Source> {
    let (upstream, repository) = text.split_once('/')?;
    Some(Source {
        upstream: UpstreamName::parse(upstream).ok()?,
        repository: Repository::parse(repository).ok()?,
    })
}
