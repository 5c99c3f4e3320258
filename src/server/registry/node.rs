//! Requests of other nodes of a cluster. They have judged their clients themselves; what they ask for is fetched from the
//! upstream, and never from a node.

use super::arrival::Caller;
use super::blob::Selected;
use super::handler::Handler;
use super::named::Named;
use super::reply::{EntityTag, Reply};
use crate::mirror::{BlobHead, ForNodes, Offer, Source, StoredPart};
use crate::oci::nodes::{ASK_NOW, HAVE, HELLO_PATH, IF_STORED, LEAVING_PATH, NODE, SIZE};
use crate::oci::route::{Action, Route};
use crate::oci::{Accept, AcceptClass, ByteRanges, Digest, Reference};
use crate::server::http::JSON;
use crate::server::http::access_log::Exchange;
use crate::server::http::context::{Request, Transport};
use crate::server::http::error::ApiError;
use crate::server::nodes::NodeDesk;
use crate::telemetry::Outcome;
use http::{HeaderValue, Method, header, request};
use std::ops::Range;

/// Parts of a blob that are read of an offer: a node has its beginning, and little else.
const PARTS_MAX: usize = 8;

impl Handler {
    /// Answers a node.
    pub(super) async fn answer_node(
        &self,
        head: &request::Parts,
        caller: &Caller<'_>,
        desk: &NodeDesk,
        transport: Transport,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        if head.uri.path() == HELLO_PATH {
            exchange.is_greeting = true;
            return Ok(Reply::own(JSON, desk.node().greeting()));
        }
        if head.uri.path() == LEAVING_PATH && head.method == Method::POST {
            let is_leaving = head.uri.query() == Some("leaving=true");
            desk.node().leave(is_leaving);
            return Ok(Reply::own(JSON, desk.node().greeting()));
        }
        let request = Request::read(head, caller.client.id(), transport)?;
        let named = match request.action {
            Action::Write => None,
            Action::Describe | Action::Read => Named::by(&request.route),
        };
        let named = named.ok_or_else(ApiError::read_only)?;
        exchange.asks_for(named.kind, named.reference());
        let source = self.resolve(&request, named.path, None, exchange)?;
        let behalf = self.mirror().on_behalf(request.client, request.via())?;
        let behalf = behalf
            .with_trace(exchange.span.as_ref().map(|span| span.trace()))
            .for_node();
        let asked = NodeRequest {
            handler: self,
            request: &request,
            source: &source,
            desk,
        };
        behalf.scope(asked.give(exchange)).await
    }
}

/// A request of another node.
struct NodeRequest<'a> {
    handler: &'a Handler,
    request: &'a Request<'a>,
    source: &'a Source,
    desk: &'a NodeDesk,
}

impl NodeRequest<'_> {
    fn nodes(&self) -> &ForNodes {
        self.handler.mirror().for_nodes()
    }

    async fn give(&self, exchange: &mut Exchange) -> Result<Reply, ApiError> {
        let Self {
            handler,
            request,
            source,
            desk,
        } = *self;
        match &request.route {
            Route::Manifest { reference, .. } => {
                if let Reference::Tag(tag) = reference
                    && wants(request, ASK_NOW)
                {
                    let class = AcceptClass::from_headers(request.accepted());
                    Box::pin(self.nodes().refresh(source, tag, class)).await;
                }
                let answer = handler.manifest(request, source, reference, exchange).await;
                let mut reply = answer.map_err(|error| match reference {
                    Reference::Tag(tag) if error.is_not_found() => {
                        let accept = Accept::from_headers(request.accepted());
                        let nodes = self.nodes();
                        error.of_age(nodes.no_tag_age(source, tag, &accept))
                    }
                    Reference::Tag(_) | Reference::Digest(_) => error,
                })?;
                if let Reference::Tag(tag) = reference {
                    let class = AcceptClass::from_headers(request.accepted());
                    let age = self.nodes().tag_age(source, tag, class).await;
                    if let Some(age) = age {
                        let age = HeaderValue::from(age.as_secs());
                        reply.headers.insert(header::AGE, age);
                    }
                }
                Ok(reply)
            }
            Route::Blob { digest, .. } => {
                self.vouch(digest).await;
                self.take_offer(digest);
                if request.action == Action::Read {
                    let place = desk.stream().ok_or_else(ApiError::too_many_streams)?;
                    exchange.account.holds(place);
                }
                if wants(request, IF_STORED) {
                    return self.stored_blob(digest).await;
                }
                handler.blob(request, source, digest, exchange).await
            }
            Route::Tags { .. }
            | Route::Referrers { .. }
            | Route::Ping
            | Route::Catalog(_)
            | Route::Upload { .. } => Err(ApiError::read_only()),
        }
    }

    /// Gives what there is of a blob, and fetches nothing.
    async fn stored_blob(&self, digest: &Digest) -> Result<Reply, ApiError> {
        let (request, source) = (self.request, self.source);
        let (nodes, tag) = (self.nodes(), EntityTag::new(digest));
        if request.action == Action::Describe {
            let size = nodes.stored_size(source, digest).await;
            let total = Some(size.ok_or_else(ApiError::not_stored)?);
            let outcome = Outcome::Hit;
            return Ok(Reply::blob_head(tag, false, BlobHead { total, outcome }));
        }
        let asked = request.conditions.ranges().and_then(ByteRanges::first);
        let stored = nodes.stored(source, digest, asked).await;
        let StoredPart { answer, range } = stored.ok_or_else(ApiError::not_stored)?;
        let is_whole = answer.total == Some(range.end) && range.start == 0;
        let selected = if is_whole {
            Selected::Whole
        } else {
            Selected::Part(range)
        };
        self.handler.deliver(request, tag, answer, selected).await
    }

    /// Notes which parts of the blob the node that asks has.
    fn take_offer(&self, digest: &Digest) {
        let headers = &self.request.head.headers;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some((node, parts)) = text(&NODE).zip(text(&HAVE)) {
            let parts = parts.split(',').take(PARTS_MAX).filter_map(part);
            let offer = Offer {
                node: node.to_owned(),
                parts: parts.collect(),
            };
            self.nodes().offered(self.source, digest, offer);
        }
    }

    /// Takes the word of the node that asks for the blob.
    async fn vouch(&self, digest: &Digest) {
        let size = self.request.head.headers.get(SIZE);
        let size = size.and_then(|size| size.to_str().ok()?.parse().ok());
        if let Some(size) = size {
            self.nodes().vouch(self.source, digest, size).await;
        }
    }
}

/// True if a node says this of the answer that it wants.
fn wants(request: &Request<'_>, directive: &str) -> bool {
    let value = request.head.headers.get(header::CACHE_CONTROL);
    value.is_some_and(|value| value == directive)
}

/// Reads a part as `Range` has it: both ends are in it.
fn part(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.trim().split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some(first..last.checked_add(1)?)
}
