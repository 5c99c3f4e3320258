//! Lists: tags and referrers, asked of upstream each time, and the catalog of
//! what is here.

use serde_json::{Value, json};

use super::answer::ListAnswer;
use super::{Inner, Mirror, MirrorError, Source, in_time};
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
        let query = NextPage::of(page).query;
        let listed = self
            .inner
            .upstream(source)?
            .tags(&source.repository, &query);
        let listed = async {
            let listed = listed.await;
            listed.map_err(|error| MirrorError::of_fetch(Kind::Tags, error))
        };
        let listed = in_time(Box::pin(listed)).await?;
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
    async fn referrers(
        self: &std::sync::Arc<Self>,
        source: &Source,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<ListAnswer, MirrorError> {
        let upstream = self.upstream(source)?;
        let listed = upstream.referrers(&source.repository, digest, artifact_type);
        match listed.await {
            Ok(listed) => Ok(proxied(listed, media::OCI_INDEX)),
            Err(error) => {
                let error = MirrorError::of_fetch(Kind::Referrers, error);
                self.referrers_tag(source, digest, artifact_type, error)
                    .await
            }
        }
    }

    async fn referrers_tag(
        self: &std::sync::Arc<Self>,
        source: &Source,
        digest: &Digest,
        artifact_type: Option<&str>,
        error: MirrorError,
    ) -> Result<ListAnswer, MirrorError> {
        let text = format!("{}-{}", digest.algorithm().name(), digest.hex());
        let Ok(tag) = Tag::parse(&text) else {
            return Err(error);
        };
        let gone = matches!(
            error,
            MirrorError::ManifestUnknown | MirrorError::NameUnknown
        );
        // An upstream that cannot be reached is not asked a second question, but what is known is told.
        if !gone && (!error.allows_stale() || self.store.tags(source, &tag).await.is_empty()) {
            return Err(error);
        }
        let mirror = Mirror {
            inner: std::sync::Arc::clone(self),
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

fn proxied(listed: ListFetch, media_type: &str) -> ListAnswer {
    ListAnswer {
        media_type: listed.content_type.unwrap_or_else(|| media_type.to_owned()),
        bytes: listed.bytes,
        next: listed.next,
        filters_applied: listed.filters_applied,
        outcome: Outcome::Bypass,
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
