//! Manifests: read whole, digested from their bytes, stored as blobs with
//! their media type, kept hot in memory.

use std::sync::Arc;

use super::answer::ManifestAnswer;
use super::flights::Role;
use super::inspect::PinEvent;
use super::local::{Manifest, Told, children};
use super::negative::What;
use super::{Inner, Mirror, MirrorError, Source, in_time};
use crate::oci::manifest::{ChildKind, Inspection, inspect};
use crate::oci::{Accept, AcceptClass, Algorithm, Digest, Reference};
use crate::store::Link;
use crate::telemetry::{Kind, Outcome};
use crate::upstream::{FetchError, ManifestFetch, Patience};

/// RFC 7234 section 5.5.1.
pub(super) const WARNING_STALE: &str = "110 roadstead \"Response is Stale\"";

/// What a flight for a manifest ended with.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) kept: Result<Kept, MirrorError>,
    /// How it was asked: who has more patience need not be content with a failure.
    pub(super) patience: Patience,
}

/// What is asked once at a time: repository, reference, accepted formats.
pub(super) type ManifestKey = (Source, Reference, Accept);

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
        accept: impl Into<Accept>,
    ) -> Result<ManifestAnswer, MirrorError> {
        let accept = accept.into();
        if let Some(answer) = self.manifest_at_hand(source, reference, accept.class) {
            return Ok(answer);
        }
        // In a box: hits shall not carry the long way's future about.
        let found = in_time(self.inner.by_reference(source, reference, &accept));
        self.answer_manifest(Box::pin(found).await?)
    }

    /// A manifest that is in memory and, by its tag, fresh: without waiting for anything.
    #[must_use]
    pub fn manifest_at_hand(
        &self,
        source: &Source,
        reference: &Reference,
        class: AcceptClass,
    ) -> Option<ManifestAnswer> {
        let kept = self.inner.manifest_at_hand(source, reference, class)?;
        self.answer_manifest(kept).ok()
    }

    fn answer_manifest(&self, kept: Kept) -> Result<ManifestAnswer, MirrorError> {
        self.inner.expect_children(&kept.manifest);
        Ok(ManifestAnswer {
            digest: kept.manifest.digest,
            media_type: Arc::clone(&kept.manifest.media_type),
            bytes: self
                .inner
                .lent
                .lend_to_client(kept.manifest.bytes.clone())?,
            outcome: kept.outcome,
            warnings: kept.warnings,
        })
    }
}

impl Inner {
    async fn by_reference(
        self: &Arc<Self>,
        source: &Source,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<Kept, MirrorError> {
        match reference {
            Reference::Digest(digest) => {
                self.by_digest_in(source, digest, accept, Patience::Wait)
                    .await
            }
            Reference::Tag(tag) => self.by_tag(source, tag, accept).await,
        }
    }

    /// A manifest that is stored, or that upstream is asked for.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub(super) async fn by_digest(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        patience: Patience,
    ) -> Result<Kept, MirrorError> {
        let all = AcceptClass::ALL.into();
        self.by_digest_in(source, digest, &all, patience).await
    }

    /// The same, for a client that names formats which are not known here.
    pub(super) async fn by_digest_in(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        accept: &Accept,
        patience: Patience,
    ) -> Result<Kept, MirrorError> {
        if let Some(manifest) = self.local.read_for(source, digest).await {
            self.ensure_linked(source, digest, ChildKind::Manifest)
                .await?;
            return Ok(Kept::hit(manifest));
        }
        let accept = &accept.in_any_format();
        let (found, role) = self.join_digest(source, digest, accept, patience).await?;
        let hasty = found.patience == Patience::Now && patience == Patience::Wait;
        let (found, role) = match &found.kept {
            // It was asked for somebody who would rather have something else soon.
            Err(error) if hasty && role == Role::Follower && !error.is_unknown() => {
                self.join_digest(source, digest, accept, patience).await?
            }
            Ok(_) | Err(_) => (found, role),
        };
        found.kept.map(|kept| kept.seen_by(role))
    }

    /// The answer of the one question for a digest that is under way, or that begins now.
    async fn join_digest(
        self: &Arc<Self>,
        source: &Source,
        digest: &Digest,
        accept: &Accept,
        patience: Patience,
    ) -> Result<(Found, Role), MirrorError> {
        let reference = Reference::Digest(*digest);
        let key = (source.clone(), reference.clone(), accept.clone());
        let (inner, asked, accept) = (Arc::clone(self), source.clone(), accept.clone());
        let ask = move || async move {
            let what = What::Manifest(reference.clone(), accept.clone());
            let get = inner.get(&asked, &reference, &accept, patience);
            let kept = inner.negative.unless_unknown(&asked, what, get).await;
            Found { kept, patience }
        };
        self.manifests
            .run(key, self.tasks.runway(source), ask)
            .await
    }

    /// Fetches a manifest and keeps it.
    pub(super) async fn get(
        &self,
        source: &Source,
        reference: &Reference,
        accept: &Accept,
        patience: Patience,
    ) -> Result<Kept, MirrorError> {
        let Checked {
            fetched,
            inspection,
            digest,
        } = self.download(source, reference, accept, patience).await?;
        let manifest = Arc::new(Manifest {
            digest,
            media_type: inspection.media_type.as_str().into(),
            by_header: inspection.by_header,
            bytes: fetched.bytes,
            children: children(&inspection),
            told: Told::default(),
        });
        if manifest.by_header {
            self.local
                .note_said_type(source, &digest, &manifest.media_type);
        }
        let said = self.local.as_said_to(source, Arc::clone(&manifest));
        // The digest of signed schema 1 is not that of its bytes, so that its writer can choose it: what
        // is kept under a digest serves all repositories, and such a manifest is passed on alone.
        let passed_on = inspection.schema1_payload.is_some();
        if !passed_on {
            self.local.keep(&manifest);
            let put = self
                .store
                .put(&digest, &manifest.media_type, manifest.bytes.clone());
            if let Err(error) = put.await {
                self.not_stored.note(source, &digest, &error.into());
            }
            self.store.belongs(&digest, &source.upstream);
        }
        let links = links(&manifest, &inspection);
        for (digest, link) in &links {
            // The repository has what its manifest names, whatever it lacked a moment ago.
            if link.manifest {
                for accept in [AcceptClass::ALL.into(), Accept::anything()] {
                    let what = What::Manifest(Reference::Digest(*digest), accept);
                    self.negative.forget(source, what);
                }
            } else {
                self.negative.forget(source, What::Blob(*digest));
            }
        }
        self.store.record_links(source, links).await;
        if let Reference::Digest(digest) = reference {
            self.pin_events
                .notify(PinEvent::Manifest(source.clone(), *digest));
        }
        let outcome = if passed_on {
            Outcome::Bypass
        } else {
            Outcome::Miss
        };
        Ok(Kept {
            manifest: said.unwrap_or(manifest),
            outcome,
            warnings: fetched.warnings,
        })
    }

    /// Fetches a manifest and checks it. Of several endpoints one may give wrong bytes, or no manifest: the
    /// others are asked then, and for a digest it is left out from then on.
    async fn download(
        &self,
        source: &Source,
        reference: &Reference,
        accept: &Accept,
        patience: Patience,
    ) -> Result<Checked, MirrorError> {
        let upstream = self.upstreams.of(source)?;
        let repository = &source.repository;
        let mut wrong: Option<MirrorError> = None;
        let (mut wrong_ones, mut endpoints) = (Vec::new(), Vec::new());
        loop {
            let asked = upstream.manifest_from(repository, reference, accept, patience, &endpoints);
            let fetched = match asked.await {
                Ok(fetched) => fetched,
                // That one endpoint lies tells more than that the others are silent, or lack it.
                Err(error) => {
                    let error = MirrorError::of_fetch(Kind::Manifest, error);
                    return Err(wrong.unwrap_or(error));
                }
            };
            let endpoint = fetched.endpoint;
            let error = match Checked::new(reference, fetched) {
                Ok(checked) => return Ok(checked),
                Err(error) => error,
            };
            // What hashes to the digest and is no manifest is the same everywhere.
            let may_differ = match reference {
                Reference::Digest(_) => matches!(error, MirrorError::WrongContent { .. }),
                Reference::Tag(_) => true,
            };
            if !may_differ {
                return Err(error);
            }
            tracing::error!(
                upstream = %source.upstream, %repository, %reference,
                endpoint = upstream.endpoint_host(endpoint), %error,
                "an endpoint sent a wrong manifest; it is not kept"
            );
            wrong_ones.push(endpoint);
            endpoints = match reference {
                Reference::Digest(digest) => {
                    upstream.distrust(endpoint, digest);
                    upstream.endpoints_for(digest)
                }
                Reference::Tag(_) => upstream.endpoints(),
            };
            // Each turn needs an endpoint that was not asked before.
            endpoints.retain(|id| !wrong_ones.contains(id));
            if endpoints.is_empty() {
                return Err(error);
            }
            wrong = Some(error);
        }
    }

    /// Asks upstream whether the repository has a manifest that is stored, and
    /// remembers it with all that the manifest names.
    pub(super) async fn head_manifest_link(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<(), MirrorError> {
        let reference = Reference::Digest(*digest);
        let what = What::Manifest(reference.clone(), Accept::anything());
        let ask = self.ask_manifest_link(source, digest, &reference);
        self.negative.unless_unknown(source, what, ask).await
    }

    async fn ask_manifest_link(
        &self,
        source: &Source,
        digest: &Digest,
        reference: &Reference,
    ) -> Result<(), MirrorError> {
        let (accept, patience) = (Accept::anything(), Patience::Wait);
        let upstream = self.upstreams.of(source)?;
        let head = upstream
            .manifest_head(&source.repository, reference, accept.clone(), patience)
            .await;
        let other = |said: Digest| said.algorithm() == digest.algorithm() && said != *digest;
        let of_another = matches!(&head, Ok(head) if head.digest.is_some_and(other));
        let refused = head.as_ref().is_err_and(FetchError::refuses_head);
        if of_another || refused {
            // Without HEAD, or where it is no word about this digest, GET must do: it records the links, too.
            self.get(source, reference, &accept, patience).await?;
            if refused {
                upstream.refused_manifest_head(&source.repository);
            }
            return Ok(());
        }
        head.map_err(|error| MirrorError::of_fetch(Kind::Manifest, error))?;
        if let Some(manifest) = self.local.read(digest).await {
            self.relink(source, &manifest).await;
        } else {
            let link = Link::of(ChildKind::Manifest, None).given();
            self.store.record_links(source, vec![(*digest, link)]).await;
        }
        Ok(())
    }

    /// Records the links of a stored manifest that upstream has just confirmed
    /// for this repository, unless they are known.
    pub(super) async fn relink(&self, source: &Source, manifest: &Manifest) {
        let known = self.store.link(source, &manifest.digest).await;
        let given = |link: Link| link.covers(ChildKind::Manifest) && link.is_given();
        if !known.is_some_and(given)
            && let Ok(inspection) = inspect(Some(&manifest.media_type), &manifest.bytes)
        {
            self.store
                .record_links(source, links(manifest, &inspection))
                .await;
            self.pin_events
                .notify(PinEvent::Manifest(source.clone(), manifest.digest));
        }
    }
}

impl Kept {
    pub(super) fn hit(manifest: Arc<Manifest>) -> Self {
        Self {
            manifest,
            outcome: Outcome::Hit,
            warnings: Vec::new(),
        }
    }

    pub(super) fn stale(manifest: Arc<Manifest>) -> Self {
        Self {
            manifest,
            outcome: Outcome::Stale,
            warnings: vec![WARNING_STALE.to_owned()],
        }
    }

    /// Whoever joined a fetch did not cause it.
    pub(super) fn seen_by(mut self, role: Role) -> Self {
        if role == Role::Follower && self.outcome == Outcome::Miss {
            self.outcome = Outcome::Collapsed;
        }
        self
    }
}

/// A manifest that is what was asked for, as far as can be told.
struct Checked {
    fetched: ManifestFetch,
    inspection: Inspection,
    digest: Digest,
}

impl Checked {
    /// The digest is computed from the bytes; it must be the one asked for, and not contradict the one
    /// that upstream announced.
    fn new(reference: &Reference, fetched: ManifestFetch) -> Result<Self, MirrorError> {
        let (wanted, algorithm) = match reference {
            Reference::Digest(digest) => (Some(*digest), digest.algorithm()),
            // Only sha256 is compared with the header: an upstream may announce another algorithm.
            Reference::Tag(_) => (fetched.digest_header, Algorithm::Sha256),
        };
        let computed = Digest::of(algorithm, &fetched.bytes);
        let differs =
            |computed: Digest| wanted.filter(|w| w.algorithm() == algorithm && *w != computed);
        let wrong = |digest: Digest, computed: Digest| MirrorError::WrongContent {
            digest,
            why: format!("the bytes have the digest {computed}"),
        };
        let inspection = match inspect(fetched.content_type.as_deref(), &fetched.bytes) {
            Ok(inspection) => inspection,
            Err(error) => {
                // A page under 200 is no manifest; asked for by digest, it is one endpoint's fault.
                return Err(match (reference, differs(computed)) {
                    (Reference::Digest(_), Some(digest)) => wrong(digest, computed),
                    (Reference::Digest(_) | Reference::Tag(_), _) => {
                        MirrorError::ManifestInvalid(error.to_string())
                    }
                });
            }
        };
        // By digest, nothing but what hashes to it is given. A tag may name a signed schema 1 manifest, which its
        // registry knows by the digest of its payload.
        let digest = match reference {
            Reference::Digest(_) => computed,
            Reference::Tag(_) => inspection.schema1_payload.unwrap_or(computed),
        };
        match differs(digest) {
            Some(wanted) => Err(wrong(wanted, digest)),
            None => Ok(Self {
                fetched,
                inspection,
                digest,
            }),
        }
    }
}

/// What a repository is known to have because upstream says that it has this manifest.
pub(super) fn links(manifest: &Manifest, inspection: &Inspection) -> Vec<(Digest, Link)> {
    let named = Link::of(ChildKind::Manifest, Some(manifest.bytes.len() as u64));
    let own = if inspection.schema1_payload.is_some() {
        // These bytes do not hash to it: what does may be somebody else's.
        named
    } else {
        named.given()
    };
    let children = inspection.children.iter().filter(|child| !child.foreign);
    let children = children.map(|child| (child.digest, Link::of(child.kind, child.size)));
    std::iter::once((manifest.digest, own))
        .chain(children)
        .collect()
}
