//! The reasons why the store could not do something.

use std::io;

use crate::oci::Digest;
use crate::store::capacity::evict::NoRoom;

/// The reason why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Everything evictable would not make enough room.
    #[error("{0} (cache.max_size)")]
    NoRoom(#[from] NoRoom),
    /// Not enough would be left free on the file system.
    #[error(
        "{wanted} bytes do not fit: {free} bytes are free on the file system, and {keep} shall stay free (cache.min_free)"
    )]
    NotFree {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that shall stay free.
        keep: u64,
    },
    /// Stored blobs do not go for more of what is not verified yet.
    #[error(
        "blobs that are not verified yet push out others for at most {max} bytes of them (half of cache.max_size, a quarter for those of which nobody has said how large they are)"
    )]
    Unverified {
        /// Bytes of the store that such blobs may have.
        max: u64,
    },
    /// The disk failed a moment ago, and is not tried for each request.
    #[error("{0}")]
    Failing(String),
    /// The disk failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// The disk failed while something was done to a blob.
    #[error("cannot {what} {digest}: {source}")]
    Blob {
        /// The operation that was tried.
        what: &'static str,
        /// With which blob.
        digest: Digest,
        /// The reason why it failed.
        source: io::Error,
    },
}

impl StoreError {
    /// True if it is room that is missing, rather than a disk that works.
    #[must_use]
    pub fn is_room(&self) -> bool {
        matches!(
            self,
            Self::NoRoom(_) | Self::NotFree { .. } | Self::Unverified { .. }
        )
    }

    /// True if nothing was tried: the disk failed a moment ago, or another process takes over.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Failing(_))
    }

    /// The same error, saying what was being done to which blob.
    pub(super) fn during(self, what: &'static str, digest: &Digest) -> Self {
        match self {
            Self::Disk(source) => Self::Blob {
                what,
                digest: *digest,
                source,
            },
            other @ (Self::NoRoom(_)
            | Self::NotFree { .. }
            | Self::Unverified { .. }
            | Self::Failing(_)
            | Self::Blob { .. }) => other,
        }
    }
}
