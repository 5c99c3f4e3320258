//! Manifests from upstream: read whole, digested from their bytes, stored as blobs with their media type, and what
//! they say of the repository.

use std::sync::Arc;

use super::archive::Archived;
use super::core::{Core, Upstreams};
use super::local::{LocalManifests, Manifest, Told, children};
use super::manifest::Kept;
use super::negative::{Negative, What};
use super::neighbours::Neighbours;
use super::not_stored::NotStored;
use super::{MirrorError, Source};
use crate::oci::manifest::{ChildKind, Inspection, inspect};
use crate::oci::{Accept, AcceptClass, Algorithm, Digest, Reference};
use crate::store::{Event, Link, Store};
use crate::telemetry::trace::Value;
use crate::telemetry::{Kind, Outcome};
use crate::upstream::{EndpointId, FetchError, ManifestFetch, OnBehalf, Patience};

/// Fetches manifests, and records what their repositories have because of them.
#[derive(Debug)]
pub(super) struct ManifestFetcher {
    upstreams: Upstreams,
    store: Store,
    local: Arc<LocalManifests>,
    negative: Arc<Negative>,
    not_stored: Arc<NotStored>,
    neighbours: Neighbours,
    archived: Archived,
}

impl ManifestFetcher {
    pub(super) fn new(
        core: &Core,
        local: &Arc<LocalManifests>,
        negative: &Arc<Negative>,
        not_stored: &Arc<NotStored>,
    ) -> Self {
        Self {
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            local: Arc::clone(local),
            negative: Arc::clone(negative),
            not_stored: Arc::clone(not_stored),
            neighbours: core.neighbours.clone(),
            archived: core.archived.clone(),
        }
    }

    /// The other nodes of a cluster.
    pub(super) fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Fetches a manifest and keeps it.
    pub(super) async fn fetch(
        &self,
        source: &Source,
        reference: &Reference,
        accept: &Accept,
        patience: Patience,
    ) -> Result<Kept, MirrorError> {
        let checked = self.download(source, reference, accept, patience).await?;
        Ok(self.keep_checked(source, reference, checked).await)
    }

    /// Fetches a manifest from the node of the cluster that asks upstream for all, and keeps it.
    pub(super) async fn ask_node(
        &self,
        source: &Source,
        digest: Digest,
        accept: &Accept,
    ) -> Option<Kept> {
        let nodes = self.neighbours.to_ask()?;
        let fetched = nodes.manifest(source, &digest, accept).await?;
        let reference = Reference::Digest(digest);
        let kept = self.keep(source, &reference, fetched).await;
        kept.inspect_err(|error| {
            tracing::warn!(upstream = %source.upstream, repository = %source.repository, %digest, %error, "another node of the cluster sent a wrong manifest; asking upstream");
        })
        .ok()
    }

    /// The object store that keeps what upstreams have said.
    pub(super) fn archived(&self) -> &Archived {
        &self.archived
    }

    /// Takes a manifest from the object store, if the upstream has said that the repository has it.
    pub(super) async fn take_archived(&self, source: &Source, digest: Digest) -> Option<Kept> {
        let kind = ChildKind::Manifest;
        let known = self.store.metadata().link(source, &digest).await;
        let media_type = if known.is_some_and(|link| link.covers(kind) && link.is_given()) {
            None
        } else {
            self.archived.link(source, &digest, kind).await?.media_type
        };
        let bytes = self.archived.manifest(source, &digest).await?;
        let fetched = ManifestFetch {
            endpoint: EndpointId::of(0),
            bytes,
            content_type: media_type,
            digest_header: None,
            warnings: Vec::new(),
        };
        let kept = self.keep(source, &Reference::Digest(digest), fetched).await;
        kept.inspect_err(|error| {
            tracing::warn!(upstream = %source.upstream, repository = %source.repository, %digest, %error, "the object store has a wrong manifest; asking upstream");
        })
        .ok()
    }

    /// Keeps a manifest that another node of the cluster has fetched.
    ///
    /// # Errors
    /// It is not what was asked for.
    pub(super) async fn keep(
        &self,
        source: &Source,
        reference: &Reference,
        fetched: ManifestFetch,
    ) -> Result<Kept, MirrorError> {
        let checked = Checked::new(reference, fetched)?;
        Ok(self.keep_checked(source, reference, checked).await)
    }

    async fn keep_checked(&self, source: &Source, reference: &Reference, checked: Checked) -> Kept {
        let Checked {
            fetched,
            inspection,
            digest,
        } = checked;
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
            let span = OnBehalf::span("store commit");
            let put = self
                .store
                .put(&digest, &manifest.media_type, manifest.bytes.clone());
            if let Err(error) = put.await {
                if let Some(span) = &span {
                    span.trace().fail(Value::fixed("store"), &error.to_string());
                }
                self.not_stored.note(source, &digest, &error.into());
            }
            drop(span);
            self.store.quotas().belongs(&digest, &source.upstream);
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
        self.store.metadata().record_links(source, links).await;
        if let Reference::Digest(digest) = reference {
            self.tell_stored(source, digest);
        }
        let outcome = if passed_on {
            Outcome::Bypass
        } else {
            Outcome::Miss
        };
        Kept {
            manifest: said.unwrap_or(manifest),
            outcome,
            warnings: fetched.warnings,
        }
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
    pub(super) async fn confirm(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<(), MirrorError> {
        let reference = Reference::Digest(*digest);
        let what = What::Manifest(reference.clone(), Accept::anything());
        let ask = self.ask_head(source, digest, &reference);
        self.negative.unless_unknown(source, what, ask).await
    }

    async fn ask_head(
        &self,
        source: &Source,
        digest: &Digest,
        reference: &Reference,
    ) -> Result<(), MirrorError> {
        let (accept, patience) = (Accept::anything(), Patience::Wait);
        let kind = ChildKind::Manifest;
        if self.archived.link(source, digest, kind).await.is_some() {
            self.confirmed(source, digest).await;
            return Ok(());
        }
        let upstream = self.upstreams.of(source)?;
        let head = upstream
            .manifest_head(&source.repository, reference, accept.clone(), patience)
            .await;
        let other = |said: Digest| said.algorithm() == digest.algorithm() && said != *digest;
        let of_another = matches!(&head, Ok(head) if head.digest.is_some_and(other));
        let refused = head.as_ref().is_err_and(FetchError::refuses_head);
        if of_another || refused {
            // Without HEAD, or where it is no word about this digest, GET must do: it records the links, too.
            self.fetch(source, reference, &accept, patience).await?;
            if refused {
                upstream.refused_manifest_head(&source.repository);
            }
            return Ok(());
        }
        head.map_err(|error| MirrorError::of_fetch(Kind::Manifest, error))?;
        self.confirmed(source, digest).await;
        Ok(())
    }

    /// Remembers that the repository has a manifest, with all that it names.
    async fn confirmed(&self, source: &Source, digest: &Digest) {
        if let Some(manifest) = self.local.read(digest).await {
            self.relink(source, &manifest).await;
        } else {
            let link = Link::of(ChildKind::Manifest, None).given();
            self.store
                .metadata()
                .record_links(source, vec![(*digest, link)])
                .await;
        }
    }

    fn tell_stored(&self, source: &Source, digest: &Digest) {
        self.store.events().tell(Event::ManifestStored {
            source: source.clone(),
            digest: *digest,
        });
    }

    /// Records the links of a stored manifest that upstream has just confirmed
    /// for this repository, unless they are known.
    pub(super) async fn relink(&self, source: &Source, manifest: &Manifest) {
        let known = self.store.metadata().link(source, &manifest.digest).await;
        let given = |link: Link| link.covers(ChildKind::Manifest) && link.is_given();
        if !known.is_some_and(given)
            && let Ok(inspection) = inspect(Some(&manifest.media_type), &manifest.bytes)
        {
            self.store
                .metadata()
                .record_links(source, links(manifest, &inspection))
                .await;
            self.tell_stored(source, &manifest.digest);
        }
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

/// The links that a repository has because upstream says that it has this manifest.
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
