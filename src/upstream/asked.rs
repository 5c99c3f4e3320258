//! Parts of a request to an upstream: the endpoints, the bytes, the patience.

use crate::oci::{Digest, Repository};

/// One of an upstream's endpoints, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub(super) usize);

impl EndpointId {
    /// The endpoint at this place of the configuration.
    #[must_use]
    pub const fn of(place: usize) -> Self {
        Self(place)
    }

    /// That place.
    #[must_use]
    pub const fn place(self) -> usize {
        self.0
    }
}

/// Behaviour while an upstream limits our requests or fails for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Wait and ask again, within `header_timeout`: there is nothing else to answer with.
    Wait,
    /// Fail at once.
    Now,
}

/// Bytes of a blob, and the endpoints to ask.
#[derive(Clone, Copy, Debug)]
pub struct BlobRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// The blob.
    pub digest: &'a Digest,
    /// The first byte.
    pub start: u64,
    /// The byte after the last one; `None`: to the blob's end. With `start` 0 and no end no Range is sent.
    pub end: Option<u64>,
    /// The endpoints to ask, in this order; empty: all, in the upstream's own order.
    pub endpoints: &'a [EndpointId],
    /// Requests in different lanes do not share a connection (one HTTP/2 connection has one flow window).
    pub lane: usize,
    /// True if this is only worth a connection that is free now: [`FetchError::Busy`] where none is.
    pub extra: bool,
    /// Behaviour while the upstream limits us or fails for a moment.
    pub patience: Patience,
}

impl<'a> BlobRequest<'a> {
    /// All of it, from anybody.
    #[must_use]
    pub fn whole(repository: &'a Repository, digest: &'a Digest) -> Self {
        Self {
            repository,
            digest,
            start: 0,
            end: None,
            endpoints: &[],
            lane: 0,
            extra: false,
            patience: Patience::Wait,
        }
    }
}
