//! The reason why something was not done with a hosted repository.

use crate::catalogue::CatalogueError;
use crate::catalogue::hosted::Refused;
use crate::oci::Digest;
use crate::store::StoreError;

/// The reason why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// The catalogue has refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The catalogue cannot be read or written.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that no namespace may have: why.
    #[error("{0}")]
    Name(String),
    /// There is no such upload, or not any more.
    #[error("there is no such upload; begin again")]
    NoUpload,
    /// A chunk does not begin where the one before it ended.
    #[error("the upload has {0} bytes, and this does not begin there")]
    Offset(u64),
    /// Somebody else writes to the upload.
    #[error("another request writes to this upload")]
    Writing(u64),
    /// The content has another digest.
    #[error("the content has the digest {0}")]
    Digest(Digest),
    /// It is no manifest that can be kept: why.
    #[error("{0}")]
    Manifest(String),
    /// Too many uploads are under way.
    #[error("too many uploads are under way; finish or cancel some first")]
    TooMany,
    /// More is on its way into a namespace than it may have at all.
    #[error(
        "the quota of namespace {namespace} is {quota} bytes, and unfinished uploads have {coming} of them"
    )]
    OverQuota {
        /// The namespace.
        namespace: String,
        /// Bytes of its uploads under way.
        coming: u64,
        /// Bytes that it may have.
        quota: u64,
    },
    /// Too many wait for changes.
    #[error("{0} wait for events at the same time already; ask again later, or without waiting")]
    TooManyFollowers(usize),
    /// A blob that is known cannot be read.
    #[error("the blob {0} cannot be read")]
    Damaged(Digest),
    /// No file may be removed now: why.
    #[error("nothing is removed now: {0}")]
    Held(String),
    /// A tag may not be moved or deleted.
    #[error("the tag {0} is immutable (hosted.immutable)")]
    Immutable(String),
}
