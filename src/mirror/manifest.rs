//! Manifests: read whole, digested from their bytes, stored as blobs with
//! their media type, kept hot in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::ManifestAnswer;
use super::flight::Role;
use super::freshness::{self, Verdict};
use super::{ANSWER_WAIT_MAX, Inner, Mirror, MirrorError, Source, in_time};
use crate::oci::manifest::{ChildKind, Inspection, MANIFEST_BYTES_MAX, inspect};
use crate::oci::{AcceptClass, Algorithm, Digest, Reference, Tag};
use crate::store::{Link, TagRecord};
use crate::telemetry::{Kind, Outcome};
use crate::upstream::{FetchError, ManifestFetch, Patience};

/// How long a client who could be given a stale answer waits for upstream to say what a tag names.
const REVALIDATE_WAIT: Duration = Duration::from_secs(5);

/// How long such a client waits in all, when what the tag names now must be fetched: so that the
/// stale answer still comes within [`ANSWER_WAIT_MAX`].
const STALE_WAIT_MAX: Duration = Duration::from_secs(20);

/// RFC 7234 section 5.5.1.
const WARNING_STALE: &str = "110 roadstead \"Response is Stale\"";

/// What is asked once at a time: repository, reference, accepted formats.
pub(super) type ManifestKey = (Source, Reference, AcceptClass);

/// A manifest in memory.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) digest: Digest,
    pub(super) media_type: Arc<str>,
    pub(super) bytes: Bytes,
}

/// A manifest and how it was found: what a flight shares.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) manifest: Arc<Manifest>,
    pub(super) outcome: Outcome,
    pub(super) warnings: Vec<String>,
}

impl Mirror {
    /// A manifest by tag or digest (HEAD asks this too, and leaves the body away).
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn manifest(
        &self,
        source: &Source,
        reference: &Reference,
        accept: AcceptClass,
    ) -> Result<ManifestAnswer, MirrorError> {
        let kept = match reference {
            Reference::Digest(digest) => in_time(self.inner.by_digest(source, digest)).await?,
            Reference::Tag(tag) => in_time(self.inner.by_tag(source, tag, accept)).await?,
        };
        Ok(ManifestAnswer {
            digest: kept.manifest.digest,
            media_type: Arc::clone(&kept.manifest.media_type),
            bytes: kept.manifest.bytes.clone(),
            outcome: kept.outcome,
            warnings: kept.warnings,
        })
    }
}

impl Inner {
    async fn by_digest(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
    ) -> Result<Kept, MirrorError> {
        if let Some(manifest) = self.local(digest).await {
            self.ensure_linked(source, digest, ChildKind::Manifest)
                .await?;
            return Ok(Kept::hit(manifest));
        }
        let reference = Reference::Digest(*digest);
        let key = (source.clone(), reference.clone(), AcceptClass::ALL);
        let (inner, asked) = (Arc::clone(self), source.clone());
        let ask = move || async move { inner.get(&asked, &reference, AcceptClass::ALL).await };
        let (kept, role) = self.manifests.run(key, &self.tasks, ask).await?;
        kept.map(|kept| kept.seen_by(role))
    }

    async fn by_tag(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<Kept, MirrorError> {
        let records = self.store.tags(source, tag).await;
        let failed = self.failed_tags.get(&(source.clone(), tag.clone()));
        match freshness::judge(&records, class, &self.config, failed, self.clock.now()) {
            Verdict::Fresh(record) => {
                if let Some(manifest) = self.local(&record.digest).await {
                    return Ok(Kept::hit(manifest));
                }
            }
            Verdict::StaleForNow(record) => {
                if let Some(manifest) = self.local(&record.digest).await {
                    return Ok(Kept::stale(manifest));
                }
            }
            Verdict::Revalidate(_) | Verdict::Absent => {}
        }
        let key = (source.clone(), Reference::Tag(tag.clone()), class);
        let (inner, asked, tag) = (Arc::clone(self), source.clone(), tag.clone());
        let ask = move || async move { inner.ask_tag(&asked, &tag, class).await };
        let (kept, role) = self.manifests.run(key, &self.tasks, ask).await?;
        kept.map(|kept| kept.seen_by(role))
    }

    /// Asks upstream what a tag names now; falls back on what it named.
    async fn ask_tag(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<Kept, MirrorError> {
        let records = self.store.tags(source, tag).await;
        let now = self.clock.now();
        let known = match freshness::judge(&records, class, &self.config, None, now) {
            Verdict::Fresh(record) | Verdict::StaleForNow(record) | Verdict::Revalidate(record) => {
                Some(record)
            }
            Verdict::Absent => None,
        };
        let stale = match freshness::fallback(&records, class, &self.config, now) {
            Some(record) => self.local(&record.digest).await,
            None => None,
        };
        // Who has nothing else waits as long as anybody may.
        let (wait, head_wait) = match stale {
            Some(_) => (STALE_WAIT_MAX, REVALIDATE_WAIT),
            None => (ANSWER_WAIT_MAX, ANSWER_WAIT_MAX),
        };
        let asking = async {
            match known {
                Some(record) => self.revalidate(source, tag, class, record, head_wait).await,
                None => self.get_tag(source, tag, class).await,
            }
        };
        let asked = tokio::time::timeout(wait, asking).await;
        match asked.unwrap_or(Err(MirrorError::Timeout(FetchError::Timeout("a tag")))) {
            Err(error) if error.allows_stale() => {
                let Some(manifest) = stale else {
                    return Err(error);
                };
                tracing::warn!(
                    upstream = %source.upstream, repository = %source.repository, %tag, digest = %manifest.digest, %error,
                    "upstream cannot say what a tag names; serving what it named before"
                );
                self.failed_tags
                    .insert((source.clone(), tag.clone()), self.clock.now());
                Ok(Kept::stale(manifest))
            }
            Err(error) => {
                if matches!(
                    error,
                    MirrorError::ManifestUnknown | MirrorError::NameUnknown
                ) && !records.is_empty()
                {
                    tracing::info!(upstream = %source.upstream, repository = %source.repository, %tag, "upstream has deleted a tag");
                    self.store.forget_tag(source, tag, class).await;
                }
                Err(error)
            }
            Ok(kept) => {
                self.failed_tags.invalidate(&(source.clone(), tag.clone()));
                Ok(kept)
            }
        }
    }

    /// Asks with HEAD, which costs no quota, whether a tag still names `known`.
    async fn revalidate(
        self: &Arc<Self>,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
        known: &TagRecord,
        head_wait: Duration,
    ) -> Result<Kept, MirrorError> {
        let reference = Reference::Tag(tag.clone());
        let head = self.upstream(source)?.manifest_head(
            &source.repository,
            &reference,
            class,
            Patience::Now,
        );
        let head = tokio::time::timeout(head_wait, head).await;
        let digest = match head.unwrap_or(Err(FetchError::Timeout("a tag's digest"))) {
            Ok(head) => head.digest,
            Err(FetchError::Status(405)) => None,
            Err(error) => return Err(MirrorError::of_fetch(Kind::Manifest, error)),
        };
        // An upstream that does not say the digest must be asked for the manifest itself.
        let Some(digest) = digest else {
            return self.get_tag(source, tag, class).await;
        };
        let found = match self.local(&digest).await {
            Some(manifest) => {
                self.relink(source, &manifest).await;
                Ok(Kept::hit(manifest))
            }
            None => self.by_digest(source, &digest).await,
        };
        match found {
            Ok(kept) => {
                if digest != known.digest {
                    tracing::info!(upstream = %source.upstream, repository = %source.repository, %tag, old = %known.digest, new = %digest, "a tag has moved");
                }
                self.note_tag(source, tag, class, &kept.manifest).await;
                Ok(kept)
            }
            // What HEAD named is no stored manifest but one converted for this client (schema 1).
            Err(MirrorError::ManifestUnknown) => self.get_tag(source, tag, class).await,
            Err(error) => Err(error),
        }
    }

    async fn get_tag(
        &self,
        source: &Source,
        tag: &Tag,
        class: AcceptClass,
    ) -> Result<Kept, MirrorError> {
        let kept = self
            .get(source, &Reference::Tag(tag.clone()), class)
            .await?;
        if kept.outcome != Outcome::Bypass {
            self.note_tag(source, tag, class, &kept.manifest).await;
        }
        Ok(kept)
    }

    async fn note_tag(&self, source: &Source, tag: &Tag, class: AcceptClass, manifest: &Manifest) {
        let record = TagRecord {
            class,
            digest: manifest.digest,
            media_type: manifest.media_type.to_string(),
            checked: self.clock.now(),
        };
        self.store.record_tag(source, tag, record).await;
    }

    /// Fetches a manifest and keeps it.
    async fn get(
        &self,
        source: &Source,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<Kept, MirrorError> {
        let fetched = self
            .upstream(source)?
            .manifest(&source.repository, reference, class, Patience::Wait)
            .await;
        let fetched = fetched.map_err(|error| MirrorError::of_fetch(Kind::Manifest, error))?;
        let inspection = inspect(fetched.content_type.as_deref(), &fetched.bytes)
            .map_err(|error| MirrorError::ManifestInvalid(error.to_string()))?;
        let digest = digest_of(reference, &fetched, &inspection).inspect_err(|error| {
            tracing::error!(upstream = %source.upstream, repository = %source.repository, %reference, %error, "upstream sent a wrong manifest; it is not kept");
        })?;
        let manifest = Arc::new(Manifest {
            digest,
            media_type: inspection.media_type.as_str().into(),
            bytes: fetched.bytes,
        });
        // The digest of signed schema 1 is not that of its bytes, so that its writer can choose it: what
        // is kept under a digest serves all repositories, and such a manifest is passed on alone.
        let passed_on = inspection.schema1_payload.is_some();
        if !passed_on {
            self.hot.insert(digest, Arc::clone(&manifest));
            let put = self
                .store
                .put(&digest, &manifest.media_type, manifest.bytes.clone());
            if let Err(error) = put.await {
                tracing::warn!(%digest, %error, "a manifest is served but cannot be stored. Is the disk full or read-only?");
            }
        }
        self.store
            .record_links(source, links(&manifest, &inspection))
            .await;
        let outcome = if passed_on {
            Outcome::Bypass
        } else {
            Outcome::Miss
        };
        Ok(Kept {
            manifest,
            outcome,
            warnings: fetched.warnings,
        })
    }

    /// A manifest from memory or disk. What does not hash to its name is
    /// removed, and fetched again by whoever wants it.
    async fn local(&self, digest: &Digest) -> Option<Arc<Manifest>> {
        if let Some(manifest) = self.hot.get(digest) {
            self.store.touch(digest);
            return Some(manifest);
        }
        let bytes = self
            .store
            .blob(digest)
            .await?
            .read_all(MANIFEST_BYTES_MAX)
            .await?;
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            self.store
                .damaged(digest, &format!("its content hashes to {found}"))
                .await;
            return None;
        }
        let known = self.store.media_type(digest).await;
        let media_type = match known {
            Some(media_type) => media_type,
            None => inspect(None, &bytes).ok()?.media_type,
        };
        let manifest = Arc::new(Manifest {
            digest: *digest,
            media_type: media_type.into(),
            bytes,
        });
        self.hot.insert(*digest, Arc::clone(&manifest));
        Some(manifest)
    }

    /// Asks upstream whether the repository has a manifest that is stored, and
    /// remembers it with all that the manifest names.
    pub(super) async fn head_manifest_link(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<(), MirrorError> {
        let reference = Reference::Digest(*digest);
        let upstream = self.upstream(source)?;
        let head = upstream
            .manifest_head(
                &source.repository,
                &reference,
                AcceptClass::ALL,
                Patience::Wait,
            )
            .await;
        if matches!(head, Err(FetchError::Status(405))) {
            // Without HEAD, GET must do: it records the links, too.
            let fetched = self.get(source, &reference, AcceptClass::ALL).await;
            return fetched.map(drop);
        }
        head.map_err(|error| MirrorError::of_fetch(Kind::Manifest, error))?;
        if let Some(manifest) = self.local(digest).await {
            self.relink(source, &manifest).await;
        } else {
            let link = Link::of(ChildKind::Manifest, None);
            self.store.record_links(source, vec![(*digest, link)]).await;
        }
        Ok(())
    }

    /// Records the links of a stored manifest that upstream has just confirmed
    /// for this repository, unless they are known.
    async fn relink(&self, source: &Source, manifest: &Manifest) {
        let known = self.store.link(source, &manifest.digest).await;
        if !known.is_some_and(|link| link.covers(ChildKind::Manifest))
            && let Ok(inspection) = inspect(Some(&manifest.media_type), &manifest.bytes)
        {
            self.store
                .record_links(source, links(manifest, &inspection))
                .await;
        }
    }
}

impl Kept {
    fn hit(manifest: Arc<Manifest>) -> Self {
        Self {
            manifest,
            outcome: Outcome::Hit,
            warnings: Vec::new(),
        }
    }

    fn stale(manifest: Arc<Manifest>) -> Self {
        Self {
            manifest,
            outcome: Outcome::Stale,
            warnings: vec![WARNING_STALE.to_owned()],
        }
    }

    /// Whoever joined a fetch did not cause it.
    fn seen_by(mut self, role: Role) -> Self {
        if role == Role::Follower && self.outcome == Outcome::Miss {
            self.outcome = Outcome::Collapsed;
        }
        self
    }
}

/// The digest of what was fetched, computed from its bytes; it must be the one
/// asked for, and not contradict the one upstream announced.
fn digest_of(
    reference: &Reference,
    fetched: &ManifestFetch,
    inspection: &Inspection,
) -> Result<Digest, MirrorError> {
    let (wanted, algorithm) = match reference {
        Reference::Digest(digest) => (Some(*digest), digest.algorithm()),
        // Only sha256 is compared with the header: an upstream may announce another algorithm.
        Reference::Tag(_) => (fetched.digest_header, Algorithm::Sha256),
    };
    let computed = inspection
        .schema1_payload
        .unwrap_or_else(|| Digest::of(algorithm, &fetched.bytes));
    match wanted.filter(|wanted| wanted.algorithm() == computed.algorithm() && *wanted != computed)
    {
        Some(wanted) => Err(MirrorError::WrongContent {
            digest: wanted,
            why: format!("the bytes have the digest {computed}"),
        }),
        None => Ok(computed),
    }
}

/// What a repository is known to have because it has this manifest.
fn links(manifest: &Manifest, inspection: &Inspection) -> Vec<(Digest, Link)> {
    let own = Link::of(ChildKind::Manifest, Some(manifest.bytes.len() as u64));
    let children = inspection.children.iter().filter(|child| !child.foreign);
    let children = children.map(|child| (child.digest, Link::of(child.kind, child.size)));
    std::iter::once((manifest.digest, own))
        .chain(children)
        .collect()
}
