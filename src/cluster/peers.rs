//! Asking other nodes for blobs and manifests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::header::{
    ACCEPT, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName,
    HeaderValue, IF_NONE_MATCH, RANGE, USER_AGENT, VIA, WARNING,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use lru::LruCache;
use tokio::time::Instant;
use url::form_urlencoded;

use super::identity::Identity;
use super::members::{Members, Node};
use crate::mirror::{
    BlobName, BlobRead, BlobSource, Nodes, Owned, ReadBody, ReadRange, Source, SourceKind, TagSaid,
    TagWanted, TagWord,
};
use crate::net::{Error, NodeClient, OnBehalf};
use crate::oci::nodes::{ASK_NOW, HAVE, HOP, IF_STORED, LEAVING_PATH, NODE, SIZE};
use crate::oci::{Accept, Digest, Tag};
use crate::telemetry::Metrics;
use crate::upstream::{EndpointId, FetchError, ManifestFetch};

/// Time for TCP and TLS.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(1);

/// Time that a node may take until the first byte of a blob: it may have to ask the upstream, as this one would. That it is
/// there at all is known from its greetings, and one that is gone is waited for no longer.
const BLOB_WAIT_MAX: Duration = Duration::from_secs(6);

/// Time that a node may take to say what a tag names, or how large a blob is. It may have to ask the upstream.
const WORD_WAIT_MAX: Duration = Duration::from_secs(3);

/// Time that a node may take to say whether it has a blob: it asks nobody. It is not worth more, as others have to be asked if it
/// does not.
const STORED_WAIT_MAX: Duration = Duration::from_millis(500);

/// A node that does not say that in time is not asked for it for so long.
const QUIET: Duration = Duration::from_secs(10);

/// Blobs that are remembered as not to be asked of nodes: some 100 bytes each.
const DISTRUSTED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Larger than any manifest that is kept.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The value of `User-Agent`.
const AGENT: &str = concat!("roadstead-node/", env!("CARGO_PKG_VERSION"));

/// The other nodes.
pub struct Peers {
    client: NodeClient,
    members: Arc<Members>,
    metrics: Metrics,
    /// Blobs of which nodes said or gave something wrong, which are not asked of nodes.
    distrusted: Mutex<LruCache<Digest, ()>>,
    /// The zone of this node.
    zone: Option<String>,
    /// The times until which nodes are not asked for what they have, by their numbers, of which there are not many.
    quiet: Mutex<HashMap<usize, Instant>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    pub(super) fn new(
        identity: &Identity,
        members: Arc<Members>,
        zone: Option<String>,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let client = NodeClient::new(identity.client(), CONNECT_WAIT_MAX)?;
        Ok(Self {
            client,
            members,
            metrics,
            distrusted: Mutex::new(LruCache::new(DISTRUSTED_MAX)),
            zone,
            quiet: Mutex::default(),
        })
    }

    pub(super) fn client(&self) -> NodeClient {
        self.client.clone()
    }

    /// Tells a node to own nothing from now on, or again.
    ///
    /// # Errors
    /// It does not answer, or does not take it.
    pub(super) async fn have_leave(
        &self,
        address: SocketAddr,
        is_leaving: bool,
    ) -> Result<(), FetchError> {
        let path = format!("{LEAVING_PATH}?leaving={is_leaving}");
        let mut request = NodeClient::request(address, &path)?;
        *request.method_mut() = Method::POST;
        let response = self.client.send(request, WORD_WAIT_MAX).await?;
        match response.status() {
            StatusCode::OK => Ok(()),
            other => Err(FetchError::Status(other.as_u16())),
        }
    }

    fn is_distrusted(&self, digest: &Digest) -> bool {
        self.distrusted().peek(digest).is_some()
    }

    fn distrusted(&self) -> MutexGuard<'_, LruCache<Digest, ()>> {
        // Each change leaves it whole.
        self.distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn quiet(&self) -> MutexGuard<'_, HashMap<usize, Instant>> {
        // Each change leaves it whole.
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a node for what it has, and nothing else.
    async fn send_if_stored(
        &self,
        node: &Node,
        mut request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, FetchError> {
        let headers = request.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(IF_STORED));
        // What fetches nothing goes round in no circle; and the node that has most may be the one that asks here.
        headers.remove(VIA);
        let sending = self.send(node, request, BLOB_WAIT_MAX);
        match tokio::time::timeout(STORED_WAIT_MAX, sending).await {
            Ok(sent) => sent,
            Err(_elapsed) => {
                let until = Instant::now() + QUIET;
                self.quiet().insert(node.slot, until);
                Err(FetchError::Timeout("a node that may have a blob"))
            }
        }
    }

    /// The size of a blob that a node has whole.
    async fn ask_stored(&self, blob: BlobName<'_>, holder: EndpointId) -> Option<u64> {
        let node = self.members.by_slot(holder.place())?;
        let mut request = request(&node, blob.source, "blobs", &blob.digest.to_string()).ok()?;
        *request.method_mut() = Method::HEAD;
        let response = self.send_if_stored(&node, request).await.ok()?;
        let is_there = response.status() == StatusCode::OK;
        is_there.then(|| number(response.headers(), &CONTENT_LENGTH))?
    }

    /// The owner of something, unless that is this node.
    fn owner(&self, key: &str) -> Option<Arc<Node>> {
        self.members.before_me(key).into_iter().next()
    }

    /// Sends a request to a node. Whoever waits for one that is gone waits no longer.
    async fn send(
        &self,
        node: &Node,
        request: Request<Empty<Bytes>>,
        within: Duration,
    ) -> Result<Response<Incoming>, FetchError> {
        let sent = tokio::select! {
            sent = self.client.send(request, within) => sent,
            () = node.gone.cancelled() => Err(gone()),
        };
        match &sent {
            // It is greeted again in a second.
            Err(error @ Error::Connect(_)) => {
                self.members.silent(node.address, &error.to_string(), true);
            }
            Err(Error::Timeout(_)) => self.members.rests(node.address),
            Ok(_) | Err(_) => {}
        }
        let result = match &sent {
            Ok(response) => response.status().as_str().to_owned(),
            Err(_) => "error".to_owned(),
        };
        self.metrics.cluster().asked(&result);
        Ok(sent?)
    }

    /// Asks for something small, and reads it whole.
    async fn ask(
        &self,
        node: &Node,
        request: Request<Empty<Bytes>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), FetchError> {
        let asking = async {
            let response = self.send(node, request, WORD_WAIT_MAX).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MANIFEST_BYTES_MAX).collect().await;
            let body = body.map_err(|error| FetchError::Broken(error.to_string()))?;
            Ok((head.status, head.headers, body.to_bytes()))
        };
        let answer = tokio::time::timeout(WORD_WAIT_MAX, asking).await;
        answer.unwrap_or(Err(FetchError::Timeout("another node")))
    }

    async fn read_from(
        &self,
        blob: BlobName<'_>,
        range: ReadRange<'_>,
    ) -> Result<BlobRead, FetchError> {
        let endpoint = range.endpoints.first().copied();
        let endpoint = endpoint.ok_or_else(|| FetchError::Protocol("no node".to_owned()))?;
        let node = self.members.by_slot(endpoint.place());
        let node = node.ok_or_else(|| FetchError::Connect("the node is gone".to_owned()))?;
        let mut request = request(&node, blob.source, "blobs", &blob.digest.to_string())?;
        let headers = request.headers_mut();
        if let Some(size) = blob.given_size {
            headers.insert(SIZE, HeaderValue::from(size));
        }
        if let Some(value) = range_header(&range) {
            headers.insert(RANGE, value);
        }
        if let Some(value) = have_header(range.have) {
            headers.insert(HAVE, value);
            let me = HeaderValue::try_from(self.members.me().to_string());
            headers.extend(me.ok().map(|me| (NODE, me)));
        }
        let response = if range.if_stored {
            self.send_if_stored(&node, request).await?
        } else {
            self.send(&node, request, BLOB_WAIT_MAX).await?
        };
        let (head, body) = response.into_parts();
        let extent = extent(head.status, &head.headers, range.start)?;
        // A piece is read until the node is gone: silence alone does not end it before the time for a piece is over.
        let body = stream::unfold((body, node), |(mut body, node)| async move {
            let piece = tokio::select! {
                piece = next_piece(&mut body) => piece,
                () = node.gone.cancelled() => Some(Err(gone().into())),
            };
            piece.map(|piece| (piece, (body, node)))
        });
        Ok(BlobRead {
            offset: extent.offset,
            ranged: extent.is_part,
            endpoint,
            validator: None,
            total: extent.total,
            body: ReadBody::of(body.boxed(), BLOB_WAIT_MAX),
        })
    }

    async fn ask_tag(
        &self,
        source: &Source,
        tag: &Tag,
        accept: &Accept,
        wanted: TagWanted,
    ) -> Option<TagWord> {
        let node = self.owner(&tag_key(source, tag, accept))?;
        let mut request = request(&node, source, "manifests", tag.as_str()).ok()?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::try_from(accept.header()).ok()?);
        if wanted.now {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(ASK_NOW));
        }
        if let Some(known) = wanted.known {
            let known = HeaderValue::try_from(format!("\"{known}\"")).ok()?;
            headers.insert(IF_NONE_MATCH, known);
        }
        let (status, headers, bytes) = self.told(&node, request).await?;
        let age = headers
            .get(AGE)
            .and_then(|age| age.to_str().ok()?.parse().ok());
        let said = match status {
            StatusCode::OK => TagSaid::Names(manifest(&headers, bytes)),
            StatusCode::NOT_MODIFIED if wanted.known.is_some() => TagSaid::TheSame,
            // With an age it is the upstream's word, and not this node's alone.
            StatusCode::NOT_FOUND if contains(&bytes, b"\"NAME_UNKNOWN\"") => TagSaid::NoRepository,
            StatusCode::NOT_FOUND => TagSaid::NoTag,
            _ => return None,
        };
        Some(TagWord {
            said,
            age: Duration::from_secs(age?),
            is_stale: headers.contains_key(WARNING),
        })
    }

    async fn ask_manifest(
        &self,
        source: &Source,
        digest: &Digest,
        accept: &Accept,
    ) -> Option<ManifestFetch> {
        let text = digest.to_string();
        let node = self.owner(&text)?;
        let mut request = request(&node, source, "manifests", &text).ok()?;
        let accepted = HeaderValue::try_from(accept.header()).ok()?;
        request.headers_mut().insert(ACCEPT, accepted);
        let (status, headers, bytes) = self.told(&node, request).await?;
        (status == StatusCode::OK).then(|| manifest(&headers, bytes))
    }

    async fn ask_size(&self, blob: BlobName<'_>) -> Result<Option<u64>, FetchError> {
        let text = blob.digest.to_string();
        let Some(node) = self.owner(&text) else {
            return Ok(None);
        };
        let mut request = request(&node, blob.source, "blobs", &text)?;
        *request.method_mut() = Method::HEAD;
        let (status, headers, _) = self.ask(&node, request).await?;
        if status != StatusCode::OK {
            return Err(FetchError::Status(status.as_u16()));
        }
        Ok(number(&headers, &CONTENT_LENGTH))
    }

    /// The answer to a question; `None`: none that is of use, and the upstream is asked.
    async fn told(
        &self,
        node: &Node,
        request: Request<Empty<Bytes>>,
    ) -> Option<(StatusCode, HeaderMap, Bytes)> {
        let told = self.ask(node, request).await;
        told.inspect_err(|error| {
            tracing::debug!(node = %node.id, %error, "a node does not say it; asking upstream");
        })
        .ok()
    }
}

impl BlobSource for Peers {
    fn name(&self, endpoint: EndpointId) -> Cow<'_, str> {
        self.members.name_of(endpoint.place()).into()
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Node
    }

    fn endpoints(&self, digest: &Digest) -> Vec<EndpointId> {
        if self.is_distrusted(digest) {
            return Vec::new();
        }
        let before = self.members.before_me(&digest.to_string());
        before
            .into_iter()
            .map(|node| EndpointId::of(node.slot))
            .collect()
    }

    fn holders(&self, digest: &Digest, all: bool) -> Vec<EndpointId> {
        if self.is_distrusted(digest) {
            return Vec::new();
        }
        let near = (self.members).near(&digest.to_string(), self.zone.as_deref(), all);
        let now = Instant::now();
        let mut quiet = self.quiet();
        quiet.retain(|_, until| *until > now);
        let asked = near.iter().filter(|node| !quiet.contains_key(&node.slot));
        asked.map(|node| EndpointId::of(node.slot)).collect()
    }

    fn holds<'a>(&'a self, blob: BlobName<'a>, holder: EndpointId) -> BoxFuture<'a, Option<u64>> {
        self.ask_stored(blob, holder).boxed()
    }

    fn named(&self, name: &str) -> Option<EndpointId> {
        let node = self.members.by_name(name)?;
        Some(EndpointId::of(node.slot))
    }

    fn stalled(&self, endpoint: EndpointId) {
        if let Some(node) = self.members.by_slot(endpoint.place()) {
            self.members.rests(node.address);
        }
    }

    fn stat<'a>(&'a self, blob: BlobName<'a>) -> BoxFuture<'a, Result<Option<u64>, FetchError>> {
        self.ask_size(blob).boxed()
    }

    fn read<'a>(
        &'a self,
        blob: BlobName<'a>,
        range: ReadRange<'a>,
    ) -> BoxFuture<'a, Result<BlobRead, FetchError>> {
        self.read_from(blob, range).boxed()
    }

    fn distrust(&self, endpoint: EndpointId, digest: &Digest) {
        if self.distrusted().put(*digest, ()).is_none() {
            tracing::warn!(node = self.members.name_of(endpoint.place()), %digest, "another node of the cluster gave wrong bytes of a blob, or said another size: it is not asked of nodes any more");
        }
    }

    fn wait_max(&self) -> Duration {
        BLOB_WAIT_MAX
    }
}

impl Nodes for Peers {
    fn own(&self, what: &Owned<'_>) -> bool {
        let key = match what {
            Owned::Content(digest) => digest.to_string(),
            Owned::Tagged(source, tag, accept) => tag_key(source, tag, accept),
        };
        self.owner(&key).is_some()
    }

    fn tag<'a>(
        &'a self,
        source: &'a Source,
        tag: &'a Tag,
        accept: &'a Accept,
        wanted: TagWanted,
    ) -> BoxFuture<'a, Option<TagWord>> {
        self.ask_tag(source, tag, accept, wanted).boxed()
    }

    fn manifest<'a>(
        &'a self,
        source: &'a Source,
        digest: &'a Digest,
        accept: &'a Accept,
    ) -> BoxFuture<'a, Option<ManifestFetch>> {
        self.ask_manifest(source, digest, accept).boxed()
    }

    fn blob_size<'a>(&'a self, blob: BlobName<'a>) -> BoxFuture<'a, Option<u64>> {
        async move { self.ask_size(blob).await.ok().flatten() }.boxed()
    }
}

/// The key of a tag's owner: who accepts other formats is given another manifest.
fn tag_key(source: &Source, tag: &Tag, accept: &Accept) -> String {
    let Source {
        upstream,
        repository,
    } = source;
    format!("{upstream}\n{repository}\n{tag}\n{}", accept.class.header())
}

fn gone() -> Error {
    Error::Broken("the node is gone".to_owned())
}

/// A request for something of a repository.
fn request(
    node: &Node,
    source: &Source,
    kind: &str,
    reference: &str,
) -> Result<Request<Empty<Bytes>>, FetchError> {
    let ns: String = form_urlencoded::byte_serialize(source.upstream.as_str().as_bytes()).collect();
    let path = format!("/v2/{}/{kind}/{reference}?ns={ns}", source.repository);
    let mut request = NodeClient::request(node.address, &path)?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(HOP, HeaderValue::from_static("1"));
    if let Some(via) = OnBehalf::via() {
        headers.insert(VIA, via);
    }
    Ok(request)
}

/// The `Range` to ask for; `None`: all of it.
fn range_header(range: &ReadRange<'_>) -> Option<HeaderValue> {
    let text = match (range.start, range.end) {
        (0, None) => return None,
        (start, None) => format!("bytes={start}-"),
        (start, Some(end)) => format!("bytes={start}-{}", end.saturating_sub(1)),
    };
    HeaderValue::try_from(text).ok()
}

/// The parts that are here.
fn have_header(parts: &[Range<u64>]) -> Option<HeaderValue> {
    let parts = parts.iter().filter(|part| !part.is_empty());
    let texts = parts.map(|part| format!("{}-{}", part.start, part.end.saturating_sub(1)));
    let text = texts.collect::<Vec<_>>().join(",");
    HeaderValue::try_from(text).ok().filter(|it| !it.is_empty())
}

/// The part of a blob that an answer has.
struct Extent {
    offset: u64,
    is_part: bool,
    total: Option<u64>,
}

fn extent(status: StatusCode, headers: &HeaderMap, start: u64) -> Result<Extent, FetchError> {
    match status {
        StatusCode::OK => Ok(Extent {
            offset: 0,
            is_part: false,
            total: number(headers, &CONTENT_LENGTH),
        }),
        StatusCode::PARTIAL_CONTENT => {
            let range = headers.get(CONTENT_RANGE).and_then(|it| it.to_str().ok());
            // RFC 9110 section 14.4.
            let range = range.and_then(|it| it.strip_prefix("bytes ")?.split_once('/'));
            let (range, total) = range.unwrap_or_default();
            let first = range.split_once('-').and_then(|it| it.0.parse().ok());
            if first != Some(start) {
                let why = "another part of the blob than was asked for".to_owned();
                return Err(FetchError::Protocol(why));
            }
            Ok(Extent {
                offset: start,
                is_part: true,
                total: total.parse().ok(),
            })
        }
        StatusCode::NOT_FOUND => Err(FetchError::NotFound { code: None }),
        other => Err(FetchError::Status(other.as_u16())),
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The next bytes of a body; `None` at its clean end.
async fn next_piece(body: &mut Incoming) -> Option<Result<Bytes, FetchError>> {
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some(Ok(bytes)),
                // Trailers.
                Err(_) => {}
            },
            Err(error) => return Some(Err(FetchError::Broken(error.to_string()))),
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|it| it == part)
}

/// A manifest as a node gives it: checked like an upstream's.
fn manifest(headers: &HeaderMap, bytes: Bytes) -> ManifestFetch {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let digest = text("docker-content-digest").and_then(|it| Digest::parse(it).ok());
    ManifestFetch {
        endpoint: EndpointId::of(0),
        bytes,
        content_type: text(CONTENT_TYPE.as_str()).map(str::to_owned),
        digest_header: digest,
        warnings: Vec::new(),
    }
}
