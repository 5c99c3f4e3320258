//! The sources that a fill reads a blob from, in the order in which they are asked.
//!
//! The upstream is always among them, as the last one, and alone has authority: whether its repository has the blob,
//! and how large it is, is its word, or that of another node of the cluster, which has asked it. Of any other source a fill
//! takes bytes and nothing else. They are checked by the digest like the upstream's; a source that fails in any way, that stalls or
//! contradicts what is known is left for the rest of the fill, and the next one goes on at the byte reached.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all, ready};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::mirror::Source;
use crate::oci::Digest;
use crate::upstream::{
    BlobBody, BlobFetch, BlobRequest, EndpointId, FetchError, Patience, Upstream,
};

/// Sources beside the upstream that one fill asks. Each may cost it one wait of [`SOURCE_WAIT_MAX`].
const SOURCES_MAX: usize = 4;

/// Nodes of the cluster that one fill asks, one after the other.
const NODES_MAX: usize = 2;

/// Nodes of the cluster that one fill asks whether they have the blob, all at once.
const HOLDERS_MAX: usize = 2;

/// Time that an answer, or more of a body, of a source beside the upstream is waited for: it is worth asking because it
/// is near, and clients wait meanwhile.
const SOURCE_WAIT_MAX: Duration = Duration::from_secs(3);

/// A source beside the upstream that gives less than this in [`BlobSource::wait_max`] counts as one that gives nothing: it would be
/// waited for for hours.
const SOURCE_BYTES_MIN: u64 = 64 * 1024;

/// A place that blobs are read from: an upstream with its endpoints, an object store, another node.
pub trait BlobSource: fmt::Debug + Send + Sync {
    /// The name of one of its endpoints, for a log line.
    fn name(&self, endpoint: EndpointId) -> Cow<'_, str>;

    /// The kind of place that it is.
    fn kind(&self) -> SourceKind {
        SourceKind::Tier
    }

    /// The endpoints that a blob may be asked of, best first; one, where there is nothing to choose; none, where it is not
    /// to be asked.
    fn endpoints(&self, _digest: &Digest) -> Vec<EndpointId> {
        vec![EndpointId::of(0)]
    }

    /// The endpoints that may have a blob already and are asked for that alone: they fetch nothing for it. `all`: those
    /// that would fetch it, too.
    fn holders(&self, _digest: &Digest, _all: bool) -> Vec<EndpointId> {
        Vec::new()
    }

    /// The size of a blob that one of them has whole, by its word.
    fn holds<'a>(&'a self, _blob: BlobName<'a>, _: EndpointId) -> BoxFuture<'a, Option<u64>> {
        ready(None).boxed()
    }

    /// The endpoint of a node with this name.
    fn named(&self, _name: &str) -> Option<EndpointId> {
        None
    }

    /// Asks if it has the blob, and for its size if it says that.
    fn stat<'a>(&'a self, blob: BlobName<'a>) -> BoxFuture<'a, Result<Option<u64>, FetchError>>;

    /// The size of a blob that the repository has by its upstream's word, if it keeps that. Of one that does, a blob is read
    /// without a question before.
    fn word<'a>(&'a self, _blob: BlobName<'a>) -> Option<BoxFuture<'a, Option<u64>>> {
        None
    }

    /// Opens a part of a blob.
    fn read<'a>(
        &'a self,
        blob: BlobName<'a>,
        range: ReadRange<'a>,
    ) -> BoxFuture<'a, Result<BlobRead, FetchError>>;

    /// True if an endpoint gives parts of blobs.
    fn honours_range(&self, _endpoint: EndpointId) -> bool {
        true
    }

    /// An endpoint does not give parts, or wrong ones.
    fn ignores_range(&self, _endpoint: EndpointId) {}

    /// An endpoint gave wrong bytes for `digest`.
    fn distrust(&self, _endpoint: EndpointId, _digest: &Digest) {}

    /// An endpoint was waited for in vain.
    fn stalled(&self, _endpoint: EndpointId) {}

    /// Time that an answer, or more of a body, is waited for where the source has no limit of its own.
    fn wait_max(&self) -> Duration {
        SOURCE_WAIT_MAX
    }
}

/// The kind of place that a blob's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// Another node of the cluster, whose word on a blob's presence and size counts as much as the upstream's. It has all
    /// that it can fetch, and is not waited for by one that other nodes wait for.
    Node,
    /// Another node, of which only what it has already is taken. It is there at once, or not at all, so that also a fill
    /// that nodes wait for may take it.
    Holder,
    /// An object store.
    Tier,
    /// The upstream.
    Upstream,
}

/// A blob, as a repository of an upstream names it.
#[derive(Clone, Copy, Debug)]
pub struct BlobName<'a> {
    /// The repository that a client asked for it in.
    pub source: &'a Source,
    /// Its digest.
    pub digest: &'a Digest,
    /// Its size, where the upstream itself has said that the repository has it.
    pub given_size: Option<u64>,
}

/// A part of a blob, and the way to ask for it.
#[derive(Clone, Copy, Debug)]
pub struct ReadRange<'a> {
    /// The first byte.
    pub start: u64,
    /// The byte after the last one; `None`: to the blob's end.
    pub end: Option<u64>,
    /// The source's endpoints to ask, in this order.
    pub endpoints: &'a [EndpointId],
    /// Requests of different pools share no connection.
    pub pool: usize,
    /// True if it is only worth a connection that is free now.
    pub extra: bool,
    /// True if only what is there already is wanted.
    pub if_stored: bool,
    /// The parts of the blob that are here, which another node may ask for.
    pub have: &'a [Range<u64>],
    /// True if the transfer has begun: it waits by itself then, and counts its retries. Two loops would multiply.
    pub is_resumed: bool,
}

/// A part of a blob on its way.
#[derive(Debug)]
pub struct BlobRead {
    /// The offset of the first byte that `body` yields: 0 where the source gives everything or nothing.
    pub offset: u64,
    /// True if it is the part that was asked for.
    pub ranged: bool,
    /// The endpoint that gives it.
    pub endpoint: EndpointId,
    /// The strong `ETag` and the host that gave it, where there is one.
    pub validator: Option<(String, String)>,
    /// The size of the whole blob, if the source says it.
    pub total: Option<u64>,
    /// The bytes.
    pub body: ReadBody,
}

/// The bytes of a blob as they arrive.
pub struct ReadBody(Bytestream);

/// Upstreams limit the waits for their bodies themselves, and need no box.
enum Bytestream {
    Upstream(Box<BlobBody>),
    Other {
        pieces: BoxStream<'static, Result<Bytes, FetchError>>,
        wait_max: Duration,
        pace: Pace,
    },
}

/// The waits for bytes, and what they brought.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Counts a wait, and what it brought.
    fn note(&mut self, waited: Duration, bytes: usize) {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes >= SOURCE_BYTES_MIN {
            *self = Self::default();
        }
    }
}

impl ReadBody {
    /// Pieces as they come, none of them empty, each at most some MiB. The waits for [`SOURCE_BYTES_MIN`] are limited by
    /// `wait_max`.
    #[must_use]
    pub fn of(pieces: BoxStream<'static, Result<Bytes, FetchError>>, wait_max: Duration) -> Self {
        // It is asked again after its end, for what has arrived already.
        let pieces = pieces.fuse().boxed();
        let pace = Pace::default();
        Self(Bytestream::Other {
            pieces,
            wait_max,
            pace,
        })
    }

    /// The next bytes; `None` at the clean end. May be dropped and called again: no byte is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        match &mut self.0 {
            Bytestream::Upstream(body) => body.next().await,
            Bytestream::Other {
                pieces,
                wait_max,
                pace,
            } => {
                let (began, left) = (Instant::now(), wait_max.saturating_sub(pace.waited));
                let next = tokio::time::timeout(left, pieces.next()).await;
                let next = next.map_err(|_late| FetchError::Timeout("more of a blob"))?;
                let next = next.map(checked).transpose()?;
                pace.note(began.elapsed(), next.as_ref().map_or(0, Bytes::len));
                Ok(next)
            }
        }
    }

    /// Bytes that have arrived already, without waiting.
    pub(super) fn try_next(&mut self) -> Option<Result<Bytes, FetchError>> {
        match &mut self.0 {
            Bytestream::Upstream(body) => body.try_next(),
            Bytestream::Other { pieces, pace, .. } => {
                let next = pieces.next().now_or_never()?.map(checked);
                if let Some(Ok(bytes)) = &next {
                    pace.note(Duration::ZERO, bytes.len());
                }
                next
            }
        }
    }
}

/// Nothing is no piece: one who has only that to give would be read for ever.
fn checked(piece: Result<Bytes, FetchError>) -> Result<Bytes, FetchError> {
    piece.and_then(|bytes| {
        if bytes.is_empty() {
            return Err(FetchError::Protocol("an empty piece of a blob".to_owned()));
        }
        Ok(bytes)
    })
}

impl fmt::Debug for ReadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadBody")
    }
}

impl From<BlobFetch> for BlobRead {
    fn from(fetched: BlobFetch) -> Self {
        Self {
            offset: fetched.offset,
            ranged: fetched.ranged,
            endpoint: fetched.endpoint,
            validator: fetched.validator,
            total: fetched.total,
            body: ReadBody(Bytestream::Upstream(Box::new(fetched.body))),
        }
    }
}

impl BlobSource for Upstream {
    fn name(&self, endpoint: EndpointId) -> Cow<'_, str> {
        self.endpoint_host(endpoint).into()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Upstream
    }

    fn endpoints(&self, digest: &Digest) -> Vec<EndpointId> {
        self.endpoints_for(digest)
    }

    fn stat<'a>(&'a self, blob: BlobName<'a>) -> BoxFuture<'a, Result<Option<u64>, FetchError>> {
        self.blob_head(&blob.source.repository, blob.digest).boxed()
    }

    fn read<'a>(
        &'a self,
        blob: BlobName<'a>,
        range: ReadRange<'a>,
    ) -> BoxFuture<'a, Result<BlobRead, FetchError>> {
        async move {
            let request = BlobRequest {
                start: range.start,
                end: range.end,
                endpoints: range.endpoints,
                lane: range.pool,
                extra: range.extra,
                patience: if range.is_resumed {
                    Patience::Now
                } else {
                    Patience::Wait
                },
                ..BlobRequest::whole(&blob.source.repository, blob.digest)
            };
            Ok(self.blob(&request).await?.into())
        }
        .boxed()
    }

    fn honours_range(&self, endpoint: EndpointId) -> bool {
        Self::honours_range(self, endpoint)
    }

    fn ignores_range(&self, endpoint: EndpointId) {
        Self::ignores_range(self, endpoint);
    }

    fn distrust(&self, endpoint: EndpointId, digest: &Digest) {
        Self::distrust(self, endpoint, digest);
    }
}

/// An endpoint of one of a fill's sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Origin {
    /// `None`: the upstream; else the place among the others.
    other: Option<usize>,
    /// True if it is asked for what it has, and for nothing else.
    is_holder: bool,
    pub(super) endpoint: EndpointId,
}

impl Origin {
    /// An endpoint of the upstream.
    pub(super) const fn upstream(endpoint: EndpointId) -> Self {
        Self {
            other: None,
            is_holder: false,
            endpoint,
        }
    }

    #[cfg(test)]
    pub(super) const fn other(place: usize) -> Self {
        Self {
            other: Some(place),
            is_holder: false,
            endpoint: EndpointId::of(0),
        }
    }

    /// True if what it says of a blob counts, beside the bytes.
    pub(super) const fn has_authority(self) -> bool {
        self.other.is_none()
    }
}

/// The sources of one fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origins<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) others: &'a [Arc<dyn BlobSource>],
    pub(super) blob: BlobName<'a>,
}

impl<'a> Origins<'a> {
    /// The same, with the size that the upstream, or a node, has said the blob has in its repository.
    pub(super) fn given(&self, given_size: Option<u64>) -> Self {
        let blob = BlobName {
            given_size,
            ..self.blob
        };
        Self { blob, ..*self }
    }

    fn source(&self, origin: Origin) -> &'a dyn BlobSource {
        let other = origin.other.and_then(|place| self.others.get(place));
        other.map_or(self.upstream as &dyn BlobSource, |other| &**other)
    }

    /// The upstream's endpoints, best first. Never empty.
    pub(super) fn endpoints(&self) -> Vec<Origin> {
        let endpoints = self.upstream.endpoints_for(self.blob.digest);
        endpoints.into_iter().map(Origin::upstream).collect()
    }

    /// The name for a log line.
    pub(super) fn name(&self, origin: Origin) -> Cow<'a, str> {
        self.source(origin).name(origin.endpoint)
    }

    /// The kind of place that it is.
    pub(super) fn kind(&self, origin: Origin) -> SourceKind {
        if origin.is_holder {
            return SourceKind::Holder;
        }
        self.source(origin).kind()
    }

    /// True if it is another node, whatever is asked of it.
    pub(super) fn is_node(&self, origin: Origin) -> bool {
        match self.kind(origin) {
            SourceKind::Node | SourceKind::Holder => true,
            SourceKind::Tier | SourceKind::Upstream => false,
        }
    }

    /// It was waited for in vain.
    pub(super) fn stalled(&self, origin: Origin) {
        self.source(origin).stalled(origin.endpoint);
    }

    /// The node of this name, as one that is asked for what it has.
    pub(super) fn holder(&self, name: &str) -> Option<Origin> {
        self.sources().find_map(|(place, source)| {
            Some(Origin {
                other: Some(place),
                is_holder: true,
                endpoint: source.named(name)?,
            })
        })
    }

    /// The nodes that have all of the blob already, and its size as they say it. `all`: those that would fetch it are asked,
    /// too.
    pub(super) async fn holders(&self, all: bool) -> Vec<(Origin, u64)> {
        let sources = self.sources();
        let nodes = sources.filter(|(_, it)| it.kind() == SourceKind::Node);
        let asked = nodes.flat_map(|(place, node)| {
            let holders = node.holders(self.blob.digest, all).into_iter();
            let holder = move |endpoint| Origin {
                other: Some(place),
                is_holder: true,
                endpoint,
            };
            let blob = self.blob;
            holders.take(HOLDERS_MAX).map(move |it| async move {
                let size = node.holds(blob, it).await;
                size.map(|size| (holder(it), size))
            })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// True if there are other nodes among the sources that come before this one for the blob.
    pub(super) fn has_nodes(&self) -> bool {
        let mut nodes = self.sources();
        nodes.any(|(_, it)| it.kind() == SourceKind::Node && self.may_have(it))
    }

    /// True if there is another source to ask.
    pub(super) fn has_others(&self, nodes: bool) -> bool {
        let mut others = self.sources();
        others.any(|(_, it)| (nodes || it.kind() != SourceKind::Node) && self.may_have(it))
    }

    pub(super) fn may_have(&self, source: &Arc<dyn BlobSource>) -> bool {
        !source.endpoints(self.blob.digest).is_empty()
    }

    pub(super) fn honours_range(&self, origin: Origin) -> bool {
        self.source(origin).honours_range(origin.endpoint)
    }

    pub(super) fn ignores_range(&self, origin: Origin) {
        self.source(origin).ignores_range(origin.endpoint);
    }

    /// It gave wrong bytes of this blob.
    pub(super) fn distrust(&self, origin: Origin) {
        self.source(origin)
            .distrust(origin.endpoint, self.blob.digest);
    }

    /// Another node said something wrong of this blob.
    pub(super) fn distrust_nodes(&self) {
        for (_, node) in self.sources() {
            if node.kind() == SourceKind::Node {
                node.distrust(EndpointId::of(0), self.blob.digest);
            }
        }
    }

    /// Asks if the upstream's repository has the blob, and for its size: the upstream itself, or, where `nodes` may be
    /// asked, another node of the cluster, which asks it for all.
    pub(super) async fn stat(&self, nodes: bool) -> Result<Option<u64>, FetchError> {
        for (_, node) in self.sources().filter(|_| nodes) {
            if node.kind() == SourceKind::Node
                && let Ok(Ok(Some(size))) =
                    tokio::time::timeout(node.wait_max(), node.stat(self.blob)).await
            {
                return Ok(Some(size));
            }
        }
        BlobSource::stat(self.upstream, self.blob).await
    }

    /// The endpoints of other sources that have a blob of this size, in their order. Other nodes are asked for the blob
    /// without a question before: they fetch what they do not have. `given`: the upstream has said that the repository has it; other sources than nodes are no proof of that.
    pub(super) async fn others_with(&self, size: u64, nodes: bool, given: bool) -> Vec<Origin> {
        let asked = self.sources().map(async |(place, other)| {
            let origin = |endpoint| Origin {
                other: Some(place),
                is_holder: false,
                endpoint,
            };
            let endpoints = other.endpoints(self.blob.digest);
            if other.kind() == SourceKind::Node {
                let endpoints = endpoints.into_iter().filter(|_| nodes);
                return endpoints.take(NODES_MAX).map(origin).collect();
            }
            let Some(endpoint) = endpoints.first().filter(|_| given) else {
                return Vec::new();
            };
            if other.word(self.blob).is_some() {
                return vec![origin(*endpoint)];
            }
            let stat = tokio::time::timeout(other.wait_max(), other.stat(self.blob)).await;
            match stat {
                Ok(Ok(said)) if said.is_none_or(|said| said == size) => vec![origin(*endpoint)],
                Ok(_) | Err(_) => Vec::new(),
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = (usize, &'a Arc<dyn BlobSource>)> {
        self.others.iter().take(SOURCES_MAX).enumerate()
    }

    /// Opens a part of the blob at the first of these origins; the upstream goes on to its further endpoints itself.
    pub(super) async fn read(
        &self,
        order: &[Origin],
        range: ReadRange<'_>,
    ) -> Result<(Origin, BlobRead), FetchError> {
        let Some(first) = order.first().copied() else {
            return Err(FetchError::Protocol("no endpoint".to_owned()));
        };
        let is_same = |it: &&Origin| (it.other, it.is_holder) == (first.other, first.is_holder);
        let same = order.iter().filter(is_same);
        let endpoints: Vec<EndpointId> = same.map(|origin| origin.endpoint).collect();
        let endpoints = endpoints.as_slice();
        let range = ReadRange {
            endpoints,
            if_stored: first.is_holder,
            ..range
        };
        let source = self.source(first);
        let answer = source.read(self.blob, range);
        let read = if first.has_authority() {
            answer.await?
        } else {
            let in_time = tokio::time::timeout(source.wait_max(), answer).await;
            let read = in_time.map_err(|_late| FetchError::Timeout("an answer"))??;
            let begins_at = if read.ranged { range.start } else { 0 };
            if read.offset != begins_at {
                let why = format!("a blob from byte {} on, not {begins_at}", read.offset);
                return Err(FetchError::Protocol(why));
            }
            read
        };
        let origin = Origin {
            endpoint: read.endpoint,
            ..first
        };
        Ok((origin, read))
    }
}
