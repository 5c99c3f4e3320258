//! What the server gets.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::MirrorError;
use crate::oci::Digest;
use crate::oci::link::NextPage;
use crate::store::{Blob, Fill, Reader, StoredReader};
use crate::telemetry::Outcome;

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
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Stored(Blob),
    Filling(Fill<MirrorError>),
}

/// The bytes of a blob, as fast as the client takes them. Dropping it is the
/// normal early end.
#[derive(Debug)]
pub struct BlobReader(Reading);

#[derive(Debug)]
enum Reading {
    Stored(StoredReader),
    Filling(Reader<MirrorError>),
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

impl BlobAnswer {
    /// A reader of `range` (of everything when `None`), which must lie within
    /// `total`.
    #[must_use]
    pub fn reader(self, range: Option<Range<u64>>) -> BlobReader {
        BlobReader(match self.content {
            Content::Stored(blob) => Reading::Stored(blob.reader(range)),
            Content::Filling(fill) => Reading::Filling(fill.reader(range)),
        })
    }
}

impl BlobReader {
    /// The next bytes; `None` at the clean end.
    ///
    /// # Errors
    /// The connection must then be broken, never ended cleanly.
    pub async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        match &mut self.0 {
            Reading::Stored(reader) => reader.next().await.map_err(MirrorError::Store),
            Reading::Filling(reader) => Ok(reader.next().await?),
        }
    }
}
