//! The questions an upstream answers.

use super::FetchError;
use crate::oci::{AcceptClass, Digest, Reference, Repository, UpstreamName, link::NextPage};
use crate::telemetry::Metrics;
use bytes::Bytes;

/// A manifest, whole.
#[derive(Clone, Debug)]
pub struct ManifestFetch {
    /// The body, at most `MANIFEST_BYTES_MAX`.
    pub bytes: Bytes,
    /// `Content-Type` without parameters.
    pub content_type: Option<String>,
    /// `Docker-Content-Digest`, if it parses: never trusted, only compared.
    pub digest_header: Option<Digest>,
    /// `Warning: 299` values to pass on (bounded).
    pub warnings: Vec<String>,
}

/// What HEAD says of a manifest.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// `Docker-Content-Digest`, if it parses.
    pub digest: Option<Digest>,
    /// `Content-Type` without parameters.
    pub content_type: Option<String>,
    /// `Content-Length`.
    pub size: Option<u64>,
}

/// A blob on its way.
#[derive(Debug)]
pub struct BlobFetch {
    /// The offset of the first byte that `body` yields: what was asked for when the upstream honours
    /// Range, 0 when it answered 200.
    pub offset: u64,
    /// The size of the whole blob, when the upstream says it.
    pub total: Option<u64>,
    /// The bytes.
    pub body: BlobBody,
}

/// The bytes of a blob as they arrive; counts upstream bytes in the metrics; enforces idle_timeout;
/// an end before Content-Length is `Broken`.
pub struct BlobBody {/* private */}

impl BlobBody {
    /// The next bytes; `None` at the clean end.
    ///
    /// # Errors
    /// [`FetchError::Broken`], [`FetchError::Timeout`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        todo!()
    }
    /// Whatever has arrived already, without waiting: `None` when nothing is ready (or it ended).
    pub fn try_next(&mut self) -> Option<Result<Bytes, FetchError>> {
        todo!()
    }
}
impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobBody")
    }
}

/// A list, whole (bounded), as the upstream gave it.
#[derive(Clone, Debug)]
pub struct ListFetch {
    /// The JSON body.
    pub bytes: Bytes,
    /// `Content-Type` without parameters.
    pub content_type: Option<String>,
    /// The next page, from `Link`.
    pub next: Option<NextPage>,
    /// `OCI-Filters-Applied`, for referrers.
    pub filters_applied: Option<String>,
}

/// One upstream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Upstream {}

/// Why an upstream cannot be set up: one line naming the file or setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream {name}: {why}")]
pub struct SetupError {
    /// The upstream.
    pub name: UpstreamName,
    /// What is wrong.
    pub why: String,
}

impl Upstream {
    /// Sets up the client of an upstream: reads its CA files, makes its pools. Dials nothing.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(config: &super::Config, metrics: Metrics) -> Result<Self, SetupError> {
        todo!()
    }
    /// Its public name.
    #[must_use]
    pub fn name(&self) -> &UpstreamName {
        todo!()
    }
    /// GET of a manifest.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptClass,
    ) -> Result<ManifestFetch, FetchError> {
        todo!()
    }
    /// HEAD of a manifest.
    ///
    /// # Errors
    /// [`FetchError`]; 405 is `Status(405)`.
    pub async fn manifest_head(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptClass,
    ) -> Result<ManifestHead, FetchError> {
        todo!()
    }
    /// GET of a blob from `offset` on (`Range: bytes=offset-` when it is not 0).
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        offset: u64,
    ) -> Result<BlobFetch, FetchError> {
        todo!()
    }
    /// HEAD of a blob: its size, if the upstream says it.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn blob_head(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, FetchError> {
        todo!()
    }
    /// One page of the tag list.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn tags(
        &self,
        repository: &Repository,
        query: &[(String, String)],
    ) -> Result<ListFetch, FetchError> {
        todo!()
    }
    /// The referrers of a digest.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<ListFetch, FetchError> {
        todo!()
    }
}
