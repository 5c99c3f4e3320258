//! Other nodes of a cluster, as they are asked for manifests and for sizes: one of them asks the upstream for all. The
//! bytes of blobs come from them by `BlobSource`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{BlobName, Source};
use crate::oci::{Accept, Digest, Reference, Tag};
use crate::upstream::{ManifestFetch, OnBehalf};

/// The other nodes of a cluster. None of them is asked for what another node waits for.
pub trait Nodes: fmt::Debug + Send + Sync {
    /// True if one of them is asked before the upstream.
    fn own(&self, what: &Owned<'_>) -> bool;

    /// Asks what a tag names. `None`: none of them answers, or this node is the one to ask the upstream.
    fn tag<'a>(
        &'a self,
        source: &'a Source,
        tag: &'a Tag,
        accept: &'a Accept,
        wanted: TagWanted,
    ) -> BoxFuture<'a, Option<TagWord>>;

    /// Asks for a manifest by its digest. The upstream has said that the repository has it.
    fn manifest<'a>(
        &'a self,
        source: &'a Source,
        digest: &'a Digest,
        accept: &'a Accept,
    ) -> BoxFuture<'a, Option<ManifestFetch>>;

    /// Asks for the size of a blob, which the upstream has said that the repository has.
    fn blob_size<'a>(&'a self, blob: BlobName<'a>) -> BoxFuture<'a, Option<u64>>;
}

/// Something that one node asks the upstream for, for all.
#[derive(Clone, Copy, Debug)]
pub enum Owned<'a> {
    /// A blob, or a manifest by its digest.
    Content(&'a Digest),
    /// The manifest that a tag names for clients that accept these formats.
    Tagged(&'a Source, &'a Tag, &'a Accept),
}

/// The word on a tag that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct TagWanted {
    /// The manifest that is here: it need not be sent.
    pub known: Option<Digest>,
    /// True if the upstream is to be asked now, however fresh the tag is.
    pub now: bool,
}

/// The word of another node on what a tag names.
#[derive(Clone, Debug)]
pub struct TagWord {
    /// What the upstream said.
    pub said: TagSaid,
    /// Time since the upstream said so.
    pub age: Duration,
    /// True if the upstream did not answer, and this is what the tag named before.
    pub is_stale: bool,
}

/// The upstream's answer about a tag, as another node passes it on.
#[derive(Clone, Debug)]
pub enum TagSaid {
    /// This manifest.
    Names(ManifestFetch),
    /// What is known already.
    TheSame,
    /// There is no such tag.
    NoTag,
    /// There is no such repository.
    NoRepository,
}

/// The other nodes, if there are any. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours(Option<Arc<dyn Nodes>>);

impl Neighbours {
    pub(super) fn new(nodes: Option<Arc<dyn Nodes>>) -> Self {
        Self(nodes)
    }

    /// The nodes, where they may be asked.
    pub(super) fn to_ask(&self) -> Option<&dyn Nodes> {
        let nodes = self.0.as_deref();
        nodes.filter(|_| OnBehalf::may_ask_nodes())
    }

    /// True if the answer to a question about a manifest comes from another node, which may be the one that asks: whoever
    /// may not wait for a node does not join it.
    pub(super) fn are_asked(
        &self,
        source: &Source,
        reference: &Reference,
        accept: &Accept,
    ) -> bool {
        let wanted = match reference {
            Reference::Digest(digest) => Owned::Content(digest),
            Reference::Tag(tag) => Owned::Tagged(source, tag, accept),
        };
        self.to_ask().is_some_and(|nodes| nodes.own(&wanted))
    }
}
