//! HEAD, and where it is refused though GET is answered.
//!
//! Some registries do not know HEAD, or answer it by another rule than GET: with 404, 401, 403, or a redirect to a
//! URL that is signed for GET. Once that has been seen of a repository, nobody is asked in vain for a while.

use http::Method;
use http::header::HeaderMap;
use tokio::time::Instant;

use super::coding::Coding;
use super::headers::{content_length, content_type, digest};
use super::registry::{blob_request, manifest_request};
use super::request::{Answer, Inner, Wanted};
use super::{BlobRequest, FetchError, ManifestHead, Patience, Upstream};
use crate::oci::{Accept, Digest, Reference, Repository};
use crate::telemetry::Kind;

impl Upstream {
    /// HEAD of a manifest.
    ///
    /// # Errors
    /// [`FetchError`]; of one that [refuses HEAD](FetchError::refuses_head) GET may know better.
    pub async fn manifest_head(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: impl Into<Accept>,
        patience: Patience,
    ) -> Result<ManifestHead, FetchError> {
        if self.inner.knows_no_head(Kind::Manifest, repository) {
            return Err(FetchError::Status(405));
        }
        let (accept, nothing) = (accept.into(), Wanted::Nothing);
        let mut request = manifest_request(repository, reference, &accept, Method::HEAD, nothing)?;
        request.patience = patience;
        let Answer { headers, .. } = self.inner.failover(&request).await?;
        Ok(ManifestHead {
            digest: digest(&headers),
            content_type: content_type(&headers),
            size: content_length(&headers),
        })
    }

    /// HEAD of a manifest was refused, and GET answered: for a while HEAD is not tried in the repository.
    pub fn refused_manifest_head(&self, repository: &Repository) {
        self.inner.refused_head(Kind::Manifest, repository);
    }

    /// Asks for the existence of a blob, and its size, if the upstream says it: by HEAD, or by the head of a GET where
    /// that is refused or does not say the size.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn blob_head(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, FetchError> {
        let mut refused = false;
        let is_there = !self.inner.knows_no_head(Kind::Blob, repository) && {
            let request = blob_request(repository, digest, Method::HEAD, Wanted::Nothing);
            match self.inner.failover(&request).await {
                Ok(answer) => {
                    let said = said_size(&answer.headers);
                    // Some say 0 of whatever they do not know.
                    if let Some(size) = said.filter(|size| *size > 0 || is_empty(digest)) {
                        return Ok(Some(size));
                    }
                    true
                }
                // That it is not there is an answer, and as good as GET's.
                Err(error) if error.refuses_head() && !error.is_absence() => {
                    refused = true;
                    false
                }
                Err(error) => return Err(error),
            }
        };
        match self.blob_probe(repository, digest).await {
            Ok(size) => {
                if refused {
                    self.inner.refused_head(Kind::Blob, repository);
                }
                Ok(size)
            }
            Err(error) if is_there && !error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same by GET, of one byte where that can be had; the rest of the answer is left alone.
    async fn blob_probe(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, FetchError> {
        let whole = BlobRequest::whole(repository, digest);
        let first = BlobRequest {
            end: Some(1),
            ..whole
        };
        let fetched = match self.blob(&first).await {
            // There is no first byte of an empty blob; and some answer any Range with nonsense.
            Err(FetchError::RangeNotSatisfiable) if is_empty(digest) => return Ok(Some(0)),
            Err(FetchError::RangeNotSatisfiable | FetchError::Protocol(_)) => {
                self.blob(&whole).await
            }
            fetched => fetched,
        };
        let total = fetched?.total;
        Ok(total.filter(|size| *size > 0 || is_empty(digest)))
    }
}

impl Inner {
    /// HEAD was refused, and GET answered.
    fn refused_head(&self, kind: Kind, repository: &Repository) {
        if self.knows_no_head(kind, repository) {
            return;
        }
        tracing::info!(
            upstream = %self.name, %repository, kind = kind.label(),
            "HEAD is refused where GET is answered; it is not tried for a while"
        );
        self.heads.refuse(kind, repository, Instant::now());
    }

    fn knows_no_head(&self, kind: Kind, repository: &Repository) -> bool {
        self.heads.are_refused(kind, repository, Instant::now())
    }
}

/// `Content-Length`, where it is the content's own.
fn said_size(headers: &HeaderMap) -> Option<u64> {
    let size = content_length(headers)?;
    (Coding::of(headers) == Coding::Identity).then_some(size)
}

/// True if it is the digest of no bytes.
fn is_empty(digest: &Digest) -> bool {
    *digest == Digest::of(digest.algorithm(), b"")
}
