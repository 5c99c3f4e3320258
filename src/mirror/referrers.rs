//! Manifests that refer to a digest: by the referrers API, or by a tag where upstream has no such API.
//!
//! That nothing refers to it is said only where upstream has said so: by an empty list, or by having neither the
//! API nor the tag. Whatever else it answers (it cannot be reached, limits us, refuses us) is no empty list: who
//! looks for signatures must not take it for there being none.

use std::sync::Arc;

use super::core::{Core, Upstreams};
use super::lists::{Listed, look_through, other_page};
use super::negative::{List, Negative, What};
use super::tag::Tags;
use super::{MirrorError, Policies, Source};
use crate::oci::manifest::{ChildKind, media};
use crate::oci::{AcceptClass, Digest, Reference, Tag, list};
use crate::store::Store;
use crate::telemetry::{Kind, Outcome};
use crate::upstream::{FetchError, Patience};

/// Of a digest, so many digits stand in the tag (dist-spec, "Referrers tag schema").
const TAG_DIGITS_MAX: usize = 64;

/// Asks what refers to a digest.
#[derive(Debug)]
pub(super) struct Referrers {
    policies: Policies,
    upstreams: Upstreams,
    store: Store,
    negative: Arc<Negative>,
    tags: Arc<Tags>,
}

impl Referrers {
    pub(super) fn new(core: &Core, negative: &Arc<Negative>, tags: &Arc<Tags>) -> Self {
        Self {
            policies: core.policies.clone(),
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            negative: Arc::clone(negative),
            tags: Arc::clone(tags),
        }
    }

    /// Asks upstream what refers to a digest.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub(super) async fn ask(
        &self,
        source: &Source,
        digest: &Digest,
        query: &[(String, String)],
        patience: Patience,
    ) -> Result<Listed, MirrorError> {
        let what = What::List(List::Referrers(*digest, query.to_vec()));
        let ask = self.ask_api(source, digest, query, patience);
        let error = match self.negative.unless_unknown(source, what, ask).await {
            Ok(listed) => return Ok(listed),
            Err(error) => error,
        };
        // A later page is one of the API's.
        let is_first = query.iter().all(|(name, _)| name == "artifactType");
        let Some(tag) = referrers_tag(digest).filter(|_| is_first) else {
            return Err(error);
        };
        let wanted = wanted(query);
        if !has_no_api(&error) {
            // Who cannot be reached is not asked a second question, but what is known is told.
            let tells_old = self.policies.of_tag(source, &tag);
            let tells_old = tells_old.serves_stale(error.failure());
            if !tells_old || self.store.metadata().tags(source, &tag).await.is_empty() {
                return Err(error);
            }
            let found = self.referrers_by_tag(source, &tag, wanted, patience).await;
            return found.ok().flatten().ok_or(error);
        }
        if let Some(listed) = self
            .referrers_by_tag(source, &tag, wanted, patience)
            .await?
        {
            return Ok(listed);
        }
        // That there is no such repository, some say of the API that they have not: not where they gave something of it.
        let known = self.store.metadata().link(source, digest).await;
        if says_no_name(&error) && !known.is_some_and(|link| link.covers(ChildKind::Manifest)) {
            return Err(error);
        }
        Ok(Listed {
            bytes: list::no_referrers().into(),
            next: None,
            filtered: wanted.is_some(),
            empty: true,
            outcome: Outcome::Bypass,
            warnings: Vec::new(),
        })
    }

    async fn ask_api(
        &self,
        source: &Source,
        digest: &Digest,
        query: &[(String, String)],
        patience: Patience,
    ) -> Result<Listed, MirrorError> {
        let upstream = self.upstreams.of(source)?;
        let fetched = upstream
            .referrers(&source.repository, digest, query, patience)
            .await;
        let fetched = fetched.map_err(|error| MirrorError::of_fetch(Kind::Referrers, error))?;
        let wanted = wanted(query);
        let filter = wanted.map(str::to_owned).filter(|_| !fetched.filtered);
        let found = look_through(fetched.bytes.clone(), move |bytes| {
            list::referrers(bytes, filter.as_deref())
        })
        .await?;
        let next = other_page(fetched.next, query).map(|mut next| {
            // The next page is filtered, too, whoever does it.
            let named = next.query.iter().any(|(name, _)| name == "artifactType");
            if let Some(wanted) = wanted.filter(|_| !named) {
                let filter = ("artifactType".to_owned(), wanted.to_owned());
                next.query.insert(0, filter);
            }
            next
        });
        Ok(Listed {
            bytes: found.filtered.map_or(fetched.bytes, Into::into),
            empty: found.count == 0 && next.is_none(),
            next,
            filtered: wanted.is_some(),
            outcome: Outcome::Bypass,
            warnings: Vec::new(),
        })
    }

    /// The index that the referrers tag names; `None` where there is no such tag, or it names something else (cosign has put
    /// signatures under such names).
    async fn referrers_by_tag(
        &self,
        source: &Source,
        tag: &Tag,
        wanted: Option<&str>,
        patience: Patience,
    ) -> Result<Option<Listed>, MirrorError> {
        if self.store.metadata().tags(source, tag).await.is_empty()
            && !self.may_have_tag(source, tag, patience).await?
        {
            return Ok(None);
        }
        let kept = match self
            .tags
            .by_tag(source, tag, &AcceptClass::ALL.into())
            .await
        {
            Err(error) if error.is_unknown() => return Ok(None),
            kept => kept?,
        };
        if !kept
            .manifest
            .media_type
            .eq_ignore_ascii_case(media::OCI_INDEX)
        {
            return Ok(None);
        }
        let (bytes, filter) = (kept.manifest.bytes.clone(), wanted.map(str::to_owned));
        let found = look_through(bytes.clone(), move |bytes| {
            list::referrers(bytes, filter.as_deref())
        });
        let Ok(found) = found.await else {
            return Ok(None);
        };
        Ok(Some(Listed {
            bytes: found.filtered.map_or(bytes, Into::into),
            next: None,
            filtered: wanted.is_some(),
            empty: found.count == 0,
            outcome: kept.outcome,
            warnings: kept.warnings,
        }))
    }

    /// Asks with HEAD, which costs no quota, whether there is a tag. Most images have no referrers.
    async fn may_have_tag(
        &self,
        source: &Source,
        tag: &Tag,
        patience: Patience,
    ) -> Result<bool, MirrorError> {
        let reference = Reference::Tag(tag.clone());
        let what = What::Manifest(reference.clone(), AcceptClass::ALL.into());
        let ask = async {
            let (upstream, repository) = (self.upstreams.of(source)?, &source.repository);
            let head = upstream.manifest_head(repository, &reference, AcceptClass::ALL, patience);
            match head.await {
                Ok(_) => Ok(()),
                // GET says what HEAD would not.
                Err(error) if error.refuses_head() && !error.is_absence() => Ok(()),
                Err(error) => Err(MirrorError::of_fetch(Kind::Manifest, error)),
            }
        };
        match self.negative.unless_unknown(source, what, ask).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_unknown() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The artifact type that is asked for.
fn wanted(query: &[(String, String)]) -> Option<&str> {
    let mut filters = query.iter().filter(|(name, _)| name == "artifactType");
    filters.next().map(|(_, value)| value.as_str())
}

/// True if upstream says, or said a moment ago, that there is no such repository.
fn says_no_name(error: &MirrorError) -> bool {
    if let MirrorError::Remembered(said) = error {
        return says_no_name(said);
    }
    matches!(error, MirrorError::NameUnknown)
}

/// True if upstream says, in one of the ways in which registries do, that it has no such API.
fn has_no_api(error: &MirrorError) -> bool {
    let refused = matches!(
        error,
        MirrorError::Upstream(FetchError::Status(400 | 405 | 406 | 501))
    );
    refused || error.is_unknown()
}

/// The tag that stands for the referrers of a digest.
fn referrers_tag(digest: &Digest) -> Option<Tag> {
    let hex = digest.hex();
    let digits = hex.get(..TAG_DIGITS_MAX).unwrap_or(&hex);
    Tag::parse(&format!("{}-{digits}", digest.algorithm().name())).ok()
}
