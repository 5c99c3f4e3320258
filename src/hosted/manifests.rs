//! Manifests of hosted repositories, and their tags.

use std::sync::Arc;

use bytes::Bytes;

use super::{Hosted, HostedError, shape};
use crate::catalogue::hosted::{
    ANNOTATIONS_BYTES_MAX, Act, Condition, Done, Found, ManifestPut, REFERENCES_MAX, Refused,
    TagPut,
};
use crate::oci::manifest::{ChildKind, Inspection, inspect, media};
use crate::oci::{Algorithm, Digest, Reference, Repository, Tag, media_type, referrer};

/// Attempts to delete a manifest that is given tags meanwhile.
const DELETES_MAX: usize = 5;

/// A manifest, as it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: Arc<str>,
    /// It.
    pub bytes: Bytes,
}

/// A manifest that somebody puts.
#[derive(Clone, Debug)]
pub struct ManifestWanted<'a> {
    /// The tag or digest that it is put under.
    pub reference: &'a Reference,
    /// Its digest, if that is said besides.
    pub digest: Option<Digest>,
    /// Its `Content-Type`.
    pub content_type: Option<&'a str>,
    /// It.
    pub bytes: Bytes,
    /// Further tags.
    pub tags: &'a [Tag],
    /// The condition on the tag that it is put under.
    pub condition: Option<Condition>,
}

/// A manifest that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Its digest.
    pub digest: Digest,
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
}

impl Hosted {
    /// A manifest.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Arc<Served>, HostedError> {
        let caches = &self.inner.caches;
        if let Some(served) = caches.manifest(repository, reference) {
            return Ok(served);
        }
        let before = caches.before(repository);
        let catalogue = &self.inner.catalogue;
        let row = match catalogue.hosted_manifest(repository, reference).await? {
            Found::NoRepository => return Err(Refused::NoRepository.into()),
            Found::Deleted(refused) => return Err(refused.into()),
            Found::Nothing => return Err(Refused::NoManifest.into()),
            Found::This(row) => row,
        };
        let served = Arc::new(Served {
            digest: row.digest,
            media_type: row.media_type.into(),
            bytes: row.bytes,
        });
        caches.put_manifest(repository, reference, &served, before);
        Ok(served)
    }

    /// Puts a manifest, and its tags.
    ///
    /// # Errors
    /// [`HostedError`]; nothing has changed.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        wanted: ManifestWanted<'_>,
        by: &str,
    ) -> Result<Put, HostedError> {
        let digest = digest_of(&wanted)?;
        let inspection = inspected(&wanted)?;
        let facts = referrer::facts(&wanted.bytes);
        let facts = facts.map_err(|why| HostedError::Manifest(why.to_owned()))?;
        let config = self.config();
        let own = match wanted.reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        let tags = own.into_iter().chain(wanted.tags).map(|tag| TagPut {
            tag: tag.clone(),
            immutable: config.stays(repository, tag),
        });
        let annotations = facts
            .annotations
            .map(|it| serde_json::Value::from(it).to_string());
        let mut put = ManifestPut {
            repository: repository.clone(),
            digest,
            media_type: inspection.media_type,
            bytes: wanted.bytes.clone(),
            artifact_type: facts.artifact_type,
            subject: facts.subject,
            annotations: annotations.filter(|it| it.len() <= ANNOTATIONS_BYTES_MAX),
            blobs: Vec::new(),
            foreign: Vec::new(),
            manifests: Vec::new(),
            tags: tags.collect(),
            condition: wanted.condition,
        };
        for child in inspection.children {
            match child.kind {
                ChildKind::Manifest => put.manifests.push(child.digest),
                ChildKind::Blob if child.foreign => put.foreign.push(child.digest),
                ChildKind::Blob => put.blobs.push(child.digest),
            }
        }
        let subject = put.subject;
        self.act(Act::PutManifest(Box::new(put)), by).await?;
        Ok(Put { digest, subject })
    }

    /// Deletes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// [`HostedError`]; nothing has changed.
    pub async fn delete_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        by: &str,
    ) -> Result<(), HostedError> {
        match reference {
            Reference::Tag(tag) => self.delete_tag(repository, tag, by).await,
            Reference::Digest(digest) => self.delete_by_digest(repository, digest, by).await,
        }
    }

    async fn delete_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        by: &str,
    ) -> Result<(), HostedError> {
        if self.config().keeps(repository, tag.as_str()) {
            return Err(HostedError::Immutable(tag.to_string()));
        }
        let act = Act::DeleteTag {
            repository: repository.clone(),
            tag: tag.clone(),
        };
        self.act(act, by).await.map(drop)
    }

    async fn delete_by_digest(
        &self,
        repository: &Repository,
        digest: &Digest,
        by: &str,
    ) -> Result<(), HostedError> {
        let mut tags: Vec<String> = Vec::new();
        for _ in 0..DELETES_MAX {
            let act = Act::DeleteManifest {
                repository: repository.clone(),
                digest: *digest,
                until: self.undelete(),
                tags: tags.clone(),
            };
            let more = match self.act(act, by).await {
                Err(HostedError::Refused(Refused::HasTags(more))) => more,
                done => return done.map(drop),
            };
            let config = self.config();
            if let Some(kept) = more.iter().find(|tag| config.keeps(repository, tag)) {
                return Err(HostedError::Immutable(kept.clone()));
            }
            tags.extend(more);
        }
        Err(Refused::InUse("somebody who gives it tags".to_owned()).into())
    }

    /// Has a tag name again what it named before.
    ///
    /// # Errors
    /// [`HostedError`].
    pub async fn restore_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: Option<Digest>,
        by: &str,
    ) -> Result<bool, HostedError> {
        let act = Act::RestoreTag {
            repository: repository.clone(),
            tag: tag.clone(),
            digest,
        };
        Ok(self.act(act, by).await? == Done::Changed)
    }
}

/// The digest of a manifest, which must be the one that it is put under.
fn digest_of(wanted: &ManifestWanted<'_>) -> Result<Digest, HostedError> {
    let named = match wanted.reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => wanted.digest,
    };
    let algorithm = named.map_or(Algorithm::Sha256, |it| it.algorithm());
    let digest = Digest::of(algorithm, &wanted.bytes);
    match named {
        Some(named) if named != digest => Err(HostedError::Digest(digest)),
        Some(_) | None => Ok(digest),
    }
}

/// Reads a manifest, and refuses what could be read as something else.
fn inspected(wanted: &ManifestWanted<'_>) -> Result<Inspection, HostedError> {
    let refused = |why: String| Err(HostedError::Manifest(why));
    let inspection = match inspect(wanted.content_type, &wanted.bytes) {
        Ok(inspection) => inspection,
        Err(error) => return refused(error.to_string()),
    };
    let said = wanted.content_type.and_then(media_type::essence);
    let names_kind = |said: &&str| said.starts_with("application/vnd.");
    if let Some(said) = said.filter(names_kind)
        && !said.eq_ignore_ascii_case(&inspection.media_type)
    {
        let own = &inspection.media_type;
        return refused(format!(
            "its Content-Type is {said:?}, and it is {own:?} itself"
        ));
    }
    let schema1 = [media::DOCKER_SCHEMA1, media::DOCKER_SCHEMA1_SIGNED];
    if schema1.contains(&inspection.media_type.as_str()) {
        return refused("schema 1 is not kept here: convert the image".to_owned());
    }
    shape::check(&inspection.media_type, &wanted.bytes).map_err(HostedError::Manifest)?;
    if inspection.children.len() > REFERENCES_MAX {
        return refused(format!("it names more than {REFERENCES_MAX} digests"));
    }
    Ok(inspection)
}
