//! The decisions of a mirror. (skeleton: types that the server sees)

use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

pub use crate::oci::directory::Source;
use crate::oci::{AcceptClass, Digest, Directory, Page, Reference, link::NextPage};
use crate::telemetry::Outcome;

mod error;
pub use error::MirrorError;

/// How long tags are fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A tag is fresh this long.
    pub ttl: std::time::Duration,
    /// How long past that it may be served when upstream cannot answer.
    pub stale_if_error: std::time::Duration,
}

/// The mirror. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mirror {}

/// A manifest to serve.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// Its digest: `Docker-Content-Digest` and `ETag`.
    pub digest: Digest,
    /// `Content-Type`.
    pub media_type: Arc<str>,
    /// The body.
    pub bytes: Bytes,
    /// How it was found.
    pub outcome: Outcome,
    /// `Warning` headers to send (a stale tag carries `110 - "Response is Stale"`).
    pub warnings: Vec<String>,
}

/// A blob to serve.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Its size, unless neither a manifest nor upstream has said it (then: chunked).
    pub total: Option<u64>,
    /// How it was found.
    pub outcome: Outcome,
    // private: stored blob or fill
}

impl BlobAnswer {
    /// A reader of `range` (of everything when `None`). The range must lie within `total`.
    #[must_use]
    pub fn reader(self, range: Option<Range<u64>>) -> BlobReader {
        todo!()
    }
}

/// The bytes of a blob, as fast as the client takes them. Dropping it is the normal early end.
pub struct BlobReader {}

impl BlobReader {
    /// The next bytes; `None` at the clean end.
    ///
    /// # Errors
    /// The connection must then be broken, never ended cleanly.
    pub async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        todo!()
    }
}

/// What HEAD of a blob says.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    /// `Content-Length`, if known.
    pub total: Option<u64>,
    /// How it was found.
    pub outcome: Outcome,
}

/// A list (tags or referrers) to serve.
#[derive(Clone, Debug)]
pub struct ListAnswer {
    /// `Content-Type`.
    pub media_type: String,
    /// The body.
    pub bytes: Bytes,
    /// Where the next page begins.
    pub next: Option<NextPage>,
    /// `OCI-Filters-Applied`.
    pub filters_applied: Option<String>,
    /// How it was found.
    pub outcome: Outcome,
    /// `Warning` headers to send.
    pub warnings: Vec<String>,
}

impl Mirror {
    /// Which upstream a request means.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        todo!()
    }
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
        todo!()
    }
    /// A blob.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn blob(&self, source: &Source, digest: &Digest) -> Result<BlobAnswer, MirrorError> {
        todo!()
    }
    /// What HEAD of a blob says.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn blob_head(
        &self,
        source: &Source,
        digest: &Digest,
    ) -> Result<BlobHead, MirrorError> {
        todo!()
    }
    /// The tags of a repository.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn tags(&self, source: &Source, page: &Page) -> Result<ListAnswer, MirrorError> {
        todo!()
    }
    /// What refers to a digest, with the tag-schema fallback.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn referrers(
        &self,
        source: &Source,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<ListAnswer, MirrorError> {
        todo!()
    }
    /// The repositories that have something cached, as `upstream/repository`, sorted.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub async fn catalog(
        &self,
        page: &Page,
    ) -> Result<(Vec<String>, Option<NextPage>), MirrorError> {
        todo!()
    }
    /// Whether the store is open and can be written: `/readyz`.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn ready(&self) -> Result<(), String> {
        todo!()
    }
}
