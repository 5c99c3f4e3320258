//! Images that an operator brings, where no upstream can be asked: blobs and manifests first, then the name.
//!
//! Bytes that are brought are believed no more than what an upstream sends: they are hashed before they are kept.
//! Until the name is given nothing of it is served anywhere, for no repository is known to have it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::Semaphore;

use super::core::{Core, Upstreams};
use super::fills::{Claim, Fills, Lead};
use super::imported::{Imported, record_of};
use super::inspect::{Pins, Removal};
use super::local::{LocalManifests, Manifest};
use super::manifest_fetch::links;
use super::tag::Tags;
use super::{MirrorError, Source};
use crate::catalogue::{CatalogueError, ImportedTag};
use crate::clock::Clock;
use crate::oci::manifest::{ChildKind, inspect};
use crate::oci::{Digest, ImageName, Reference, Repository, UpstreamName};
use crate::store::{Event, Link, Partial, Store, StoreError};

/// Blobs that are brought at the same time: one client brings one after the other.
pub const IMPORTS_MAX: usize = 4;

/// Manifests of one image: an index has some ten, and as many attestations.
const MANIFESTS_MAX: usize = 1000;

/// Missing parts that are named; whoever brings them then is told of the next.
const MISSING_MAX: usize = 1000;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 512 * 1024;

/// Nothing more comes from somebody who has been silent for so long.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Number of attempts, when others begin to fetch the same blob and fail.
const ATTEMPTS_MAX: usize = 4;

/// The way in which content came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It has been stored now.
    Stored,
    /// It was there before; nothing of the body was read.
    There,
}

/// An image that can be pulled now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportedImage {
    /// Its manifests that are there.
    pub manifests: usize,
    /// Its blobs.
    pub blobs: usize,
    /// Manifests that its indexes name and that were not brought, such as those of other platforms.
    pub absent: usize,
}

/// The reason why something is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Too much is being brought already.
    #[error("{IMPORTS_MAX} blobs are being imported already; try again")]
    Busy,
    /// The name's upstream is not configured.
    #[error("upstream {0} is not configured here, so that nobody could pull the image")]
    Upstream(UpstreamName),
    /// The bytes are not what the digest says.
    #[error("{digest}: {why}")]
    Wrong {
        /// The digest that it was said to have.
        digest: Digest,
        /// The fault.
        why: String,
    },
    /// The body did not come as announced.
    #[error("{digest}: {why}")]
    Broken {
        /// The digest that was to come.
        digest: Digest,
        /// The fault of what came.
        why: String,
    },
    /// Parts of an image are not there; at most [`MISSING_MAX`] are named.
    #[error("{} parts of the image are not there, the first of them {}", .0.len(), .0.first().map(Digest::to_string).unwrap_or_default())]
    Incomplete(Vec<Digest>),
    /// An image has too many parts.
    #[error("the image has more than {MANIFESTS_MAX} manifests")]
    TooMany,
    /// It can be pulled now, but is not pinned.
    #[error("it is imported, but not pinned: {0}")]
    NotPinned(String),
    /// That it was imported could not be made durable, or could not be if it were.
    #[error("{0}")]
    NotRecorded(#[from] CatalogueError),
    /// It cannot be kept.
    #[error("it cannot be stored: {why}")]
    NotStored {
        /// The error of the store.
        why: String,
        /// True if room is what is missing.
        room: bool,
    },
}

/// Takes what an operator brings.
#[derive(Debug)]
pub struct Imports {
    upstreams: Upstreams,
    store: Store,
    clock: Arc<dyn Clock>,
    fills: Arc<Fills>,
    local: Arc<LocalManifests>,
    imported: Arc<Imported>,
    tags: Arc<Tags>,
    pins: Arc<Pins>,
    removal: Arc<Removal>,
    /// A permit for each upload.
    uploads: Semaphore,
}

/// The parts of an image, as far as they are there.
#[derive(Default)]
struct Walk {
    root: Option<Arc<Manifest>>,
    image: ImportedImage,
    links: Vec<(Digest, Link)>,
    missing: Vec<Digest>,
}

impl Imports {
    pub(super) fn new(
        core: &Core,
        fills: &Arc<Fills>,
        local: &Arc<LocalManifests>,
        imported: &Arc<Imported>,
        tags: &Arc<Tags>,
        pins: &Arc<Pins>,
        removal: &Arc<Removal>,
    ) -> Self {
        Self {
            upstreams: core.upstreams.clone(),
            store: core.store.clone(),
            clock: Arc::clone(&core.clock),
            fills: Arc::clone(fills),
            local: Arc::clone(local),
            imported: Arc::clone(imported),
            tags: Arc::clone(tags),
            pins: Arc::clone(pins),
            removal: Arc::clone(removal),
            uploads: Semaphore::new(IMPORTS_MAX),
        }
    }

    /// The size of a blob or manifest that need not be brought.
    pub async fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.store.scan().find(digest).await
    }

    /// Takes a blob of `size` bytes.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is kept then.
    pub async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        body: impl Stream<Item = Result<Bytes, String>> + Send + Unpin,
    ) -> Result<ImportOutcome, ImportError> {
        // Or much would be brought for nothing.
        self.imported.must_be_writable()?;
        let _permit = self.uploads.try_acquire().map_err(|_| ImportError::Busy)?;
        let nobody = nobodys().ok_or(ImportError::Busy)?;
        // A lost index may not know it yet; from here on it does.
        self.store.scan().find(digest).await;
        for _ in 0..ATTEMPTS_MAX {
            let stored = || self.store.contains(digest).is_some();
            let seat = self.fills.claim(digest, &nobody, stored);
            match seat.map_err(|_| ImportError::Busy)? {
                Claim::Stored => return Ok(ImportOutcome::There),
                // Upstream may be faster, or dead: then it is our turn.
                Claim::Follow { fill, .. } => {
                    // Somebody needs all of it: else it might never be over.
                    let _reader = fill.reader(None);
                    drop(fill.over().await);
                    // It may be some moments until its seat is free.
                    if self.store.contains(digest).is_some() {
                        return Ok(ImportOutcome::There);
                    }
                }
                Claim::Lead(lead, _waits) => {
                    lead.work.needs_no_turn();
                    return self.receive(lead, digest, size, body).await;
                }
            }
        }
        Err(ImportError::Busy)
    }

    /// Takes a manifest.
    ///
    /// # Errors
    /// [`ImportError`].
    pub async fn manifest(
        &self,
        digest: &Digest,
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<ImportOutcome, ImportError> {
        self.imported.must_be_writable()?;
        let wrong = |why: String| ImportError::Wrong {
            digest: *digest,
            why,
        };
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(wrong(format!("the bytes have the digest {found}")));
        }
        let inspection = inspect(content_type, &bytes).map_err(|error| wrong(error.to_string()))?;
        // Its digest in a registry is another one.
        if inspection.schema1_payload.is_some() {
            return Err(wrong(
                "a signed schema 1 manifest cannot be imported".to_owned(),
            ));
        }
        let was_there = self.store.scan().find(digest).await.is_some();
        let put = self.store.put(digest, &inspection.media_type, bytes);
        put.await?;
        Ok(if was_there {
            ImportOutcome::There
        } else {
            ImportOutcome::Stored
        })
    }

    /// Gives an image its name: from now on it can be pulled. All of it must be there, but for manifests that an
    /// index names, of which one will do. An operator's removal that is under way is waited for: it does not know
    /// yet that the image needs what it is about to remove, and the image lacks what it has removed. With `pin` it is
    /// pinned as well, as by [`Pins::pin`].
    ///
    /// # Errors
    /// [`ImportError`]; what the name meant before it means on, but for [`ImportError::NotPinned`].
    pub async fn image(
        &self,
        name: &ImageName,
        digest: &Digest,
        pin: bool,
    ) -> Result<ImportedImage, ImportError> {
        if !self.upstreams.contains(&name.upstream) {
            return Err(ImportError::Upstream(name.upstream.clone()));
        }
        // Until the links and the tag are recorded: by them the next removal knows what is needed.
        let _no_removal = self.removal.hold().await;
        let walk = self.walk(digest).await?;
        let Some(root) = walk.root.filter(|_| walk.missing.is_empty()) else {
            return Err(ImportError::Incomplete(walk.missing));
        };
        let source = Source {
            upstream: name.upstream.clone(),
            repository: name.repository.clone(),
        };
        let named: Vec<Digest> = walk.links.iter().map(|(digest, _)| *digest).collect();
        self.store.contents().expect(&named);
        // What is there is the repository's by the operator's word; what is not is only named.
        let brought = |(digest, link): (Digest, Link)| match self.store.contains(&digest) {
            Some(_) => (digest, link.given()),
            None => (digest, link),
        };
        let links: Vec<(Digest, Link)> = walk.links.into_iter().map(brought).collect();
        let now = self.clock.now();
        let named_by = match &name.reference {
            Reference::Tag(tag) => {
                let imported = ImportedTag {
                    digest: *digest,
                    media_type: root.media_type.to_string(),
                    imported: now,
                };
                Some((tag.clone(), imported))
            }
            Reference::Digest(_) => None,
        };
        // Durable before it is answered, and before anybody can pull it.
        self.imported
            .record(&source, named_by.clone(), &links)
            .await?;
        self.store.metadata().record_links(&source, links).await;
        if let Some((tag, imported)) = named_by {
            let metadata = self.store.metadata();
            metadata
                .record_tag(&source, &tag, record_of(imported))
                .await;
            self.tags.forget_failure(&source, &tag);
        }
        self.store
            .events()
            .tell(imported(source, &name.reference, *digest));
        tracing::info!(image = %name, %digest, manifests = walk.image.manifests, blobs = walk.image.blobs, "an image was imported");
        if pin {
            let pinned = self.pins.pin(&name.to_string()).await;
            pinned.map_err(|error| ImportError::NotPinned(error.to_string()))?;
        }
        Ok(walk.image)
    }

    async fn receive(
        &self,
        lead: Lead,
        digest: &Digest,
        size: u64,
        body: impl Stream<Item = Result<Bytes, String>> + Send + Unpin,
    ) -> Result<ImportOutcome, ImportError> {
        // Given up when this function ends, after the fill has.
        let Lead {
            opening,
            fill,
            place: _place,
            ..
        } = lead;
        drop(fill);
        let partial = match self.store.begin(opening, Some(size)).await {
            Ok(partial) => partial,
            Err(Some((opening, error))) => {
                opening.fail(BROKE_OFF);
                return Err(error.into());
            }
            Err(None) => return Err(ImportError::Busy),
        };
        if let Err(error) = fill_from(&partial, size, body).await {
            partial.fail(BROKE_OFF);
            return Err(error);
        }
        match partial.verify().await {
            Ok(verified) => {
                verified.commit().await?;
                Ok(ImportOutcome::Stored)
            }
            Err((partial, error)) => {
                partial.fail(BROKE_OFF);
                Err(ImportError::Wrong {
                    digest: *digest,
                    why: error.to_string(),
                })
            }
        }
    }

    /// A manifest that is on disk: one that is in memory alone is gone after the next start.
    async fn stored_manifest(&self, digest: &Digest) -> Option<Arc<Manifest>> {
        self.store.scan().find(digest).await?;
        self.local.read(digest).await
    }

    async fn walk(&self, digest: &Digest) -> Result<Walk, ImportError> {
        let mut walk = Walk::default();
        let mut seen = HashSet::from([*digest]);
        let mut left = Vec::new();
        match self.stored_manifest(digest).await {
            Some(root) => {
                walk.root = Some(Arc::clone(&root));
                left.push(root);
            }
            None => walk.missing.push(*digest),
        }
        while let Some(manifest) = left.pop() {
            if walk.image.manifests >= MANIFESTS_MAX {
                return Err(ImportError::TooMany);
            }
            walk.image.manifests += 1;
            let inspection = inspect(Some(&manifest.media_type), &manifest.bytes);
            let inspection = inspection.map_err(|error| ImportError::Wrong {
                digest: manifest.digest,
                why: error.to_string(),
            })?;
            walk.links.extend(links(&manifest, &inspection));
            let (mut there, mut absent) = (0_usize, Vec::new());
            for child in inspection.children.iter().filter(|it| !it.foreign) {
                if !seen.insert(child.digest) {
                    there += 1;
                    continue;
                }
                match child.kind {
                    ChildKind::Blob if self.store.scan().find(&child.digest).await.is_some() => {
                        self.store.contents().touch(&child.digest);
                        walk.image.blobs += 1;
                    }
                    ChildKind::Blob => walk.missing.push(child.digest),
                    ChildKind::Manifest => match self.stored_manifest(&child.digest).await {
                        Some(manifest) => {
                            there += 1;
                            left.push(manifest);
                        }
                        None => absent.push(child.digest),
                    },
                }
            }
            walk.image.absent += absent.len();
            if there == 0 {
                walk.missing.append(&mut absent);
            }
        }
        walk.missing.truncate(MISSING_MAX);
        Ok(walk)
    }
}

async fn fill_from(
    partial: &Partial<MirrorError>,
    size: u64,
    mut body: impl Stream<Item = Result<Bytes, String>> + Send + Unpin,
) -> Result<(), ImportError> {
    let broken = |why: String| ImportError::Broken {
        digest: *partial.digest(),
        why,
    };
    // What an earlier fetch left is not what is brought now.
    partial.restart().await?;
    partial.start(Some(size)).await?;
    let (mut at, mut chunks, mut gathered) = (0_u64, Vec::new(), 0_usize);
    loop {
        let next = tokio::time::timeout(IDLE_TIMEOUT, body.next()).await;
        let next = next.map_err(|_elapsed| broken("nothing came for a minute".to_owned()))?;
        let ended = next.is_none();
        if let Some(data) = next {
            let data = data.map_err(broken)?;
            gathered += data.len();
            if at + gathered as u64 > size {
                return Err(broken(format!("more than {size} bytes came")));
            }
            chunks.push(data);
        }
        if gathered >= WRITE_BYTES || (ended && gathered > 0) {
            let written = gathered as u64;
            partial.write(at, std::mem::take(&mut chunks)).await?;
            at += written;
            gathered = 0;
        }
        if ended {
            break;
        }
    }
    if at != size {
        return Err(broken(format!("{at} bytes came of {size}")));
    }
    Ok(())
}

/// The repository for whose sake an import is: one that no upstream has (RFC 2606 section 2), so that whoever
/// joins must be known to have the blob himself.
fn nobodys() -> Option<Source> {
    Some(Source {
        upstream: UpstreamName::parse("import.invalid").ok()?,
        repository: Repository::parse("import").ok()?,
    })
}

/// The error for those who wait for a blob that was being brought: they ask upstream then.
const BROKE_OFF: MirrorError = MirrorError::Busy("an import of the blob broke off");

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::NotStored {
            room: error.is_room(),
            why: error.to_string(),
        }
    }
}

/// The event of an image that was imported under this name.
fn imported(source: Source, name: &Reference, digest: Digest) -> Event {
    match name {
        Reference::Tag(tag) => Event::TagMoved {
            source,
            tag: tag.clone(),
            digest,
            before: None,
        },
        Reference::Digest(_) => Event::ManifestStored { source, digest },
    }
}

#[cfg(test)]
mod tests;
