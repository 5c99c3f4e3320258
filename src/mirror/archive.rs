//! An object store that keeps what upstreams have said: which repository has what, and what its tags name. Its words are
//! this cluster's own, from before; it is asked for them, and for manifests, before the upstream is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use url::Url;

use super::Source;
use super::core::Upstreams;
use crate::oci::manifest::ChildKind;
use crate::oci::{Digest, Tag};
use crate::store::{Link, TagRecord};

/// Time for one answer of it, whatever that takes: a slow one is a miss.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(3);

/// An object store that keeps what upstreams have said.
pub trait Archive: fmt::Debug + Send + Sync {
    /// The word of a repository's upstream on a blob or manifest.
    fn link<'a>(
        &'a self,
        source: &'a Source,
        digest: &'a Digest,
        kind: ChildKind,
    ) -> BoxFuture<'a, Option<KeptLink>>;

    /// The manifests that a tag named, for each set of formats that was asked for.
    fn tag<'a>(&'a self, source: &'a Source, tag: &'a Tag)
    -> BoxFuture<'a, Option<Vec<TagRecord>>>;

    /// The bytes of a manifest, which nothing has checked.
    fn manifest<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Option<Bytes>>;

    /// True if a client may be sent there while so many bodies are on their way.
    fn takes(&self, client: IpAddr, bodies: usize) -> bool;

    /// A URL at which anybody who has it reads a blob for some minutes, if the store is known to have the blob.
    fn url<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Option<Url>>;
}

/// The word of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLink {
    /// The repository has it.
    pub link: Link,
    /// The media type that a manifest came with.
    pub media_type: Option<String>,
}

/// The object store, if there is one. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Archived {
    archive: Option<Arc<dyn Archive>>,
    upstreams: Upstreams,
}

impl Archived {
    pub(super) fn new(archive: Option<Arc<dyn Archive>>, upstreams: &Upstreams) -> Self {
        Self {
            archive,
            upstreams: upstreams.clone(),
        }
    }

    /// True if there is one.
    pub(super) fn is_there(&self) -> bool {
        self.archive.is_some()
    }

    /// The store, where words of this upstream are kept: not if it answers each client for itself.
    pub(super) fn of(&self, source: &Source) -> Option<&dyn Archive> {
        let archive = self.archive.as_deref()?;
        let is_for_all = !self.upstreams.decides_for_each(&source.upstream);
        is_for_all.then_some(archive)
    }

    /// The word of a repository's upstream on a blob or manifest.
    pub(super) async fn link(
        &self,
        source: &Source,
        digest: &Digest,
        kind: ChildKind,
    ) -> Option<KeptLink> {
        in_time(self.of(source)?.link(source, digest, kind)).await
    }

    /// The manifests that a tag named.
    pub(super) async fn tag(&self, source: &Source, tag: &Tag) -> Option<Vec<TagRecord>> {
        in_time(self.of(source)?.tag(source, tag)).await
    }

    /// The bytes of a manifest, which nothing has checked.
    pub(super) async fn manifest(&self, source: &Source, digest: &Digest) -> Option<Bytes> {
        in_time(self.of(source)?.manifest(digest)).await
    }
}

pub(super) async fn in_time<T>(answer: BoxFuture<'_, Option<T>>) -> Option<T> {
    tokio::time::timeout(WAIT_MAX, answer).await.ok().flatten()
}
