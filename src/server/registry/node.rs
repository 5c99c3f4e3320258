//! Requests of other nodes of a cluster. They have judged their clients themselves; what they ask for is fetched from the
//! upstream, and never from a node.

use super::arrival::Caller;
use super::handler::Handler;
use super::named::Named;
use super::reply::Reply;
use crate::mirror::Source;
use crate::oci::nodes::{HELLO_PATH, LEAVING_PATH, SIZE};
use crate::oci::route::{Action, Route};
use crate::oci::{AcceptClass, Digest, Reference};
use crate::server::http::JSON;
use crate::server::http::access_log::Exchange;
use crate::server::http::context::{Request, Transport};
use crate::server::http::error::ApiError;
use crate::server::nodes::NodeDesk;
use http::{HeaderValue, Method, header, request};

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
        behalf
            .scope(self.give_node(&request, &source, desk, exchange))
            .await
    }

    async fn give_node(
        &self,
        request: &Request<'_>,
        source: &Source,
        desk: &NodeDesk,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        match &request.route {
            Route::Manifest { reference, .. } => {
                let mut reply = self.manifest(request, source, reference, exchange).await?;
                if let Reference::Tag(tag) = reference {
                    let class = AcceptClass::from_headers(request.accepted());
                    let age = self.mirror().for_nodes().tag_age(source, tag, class).await;
                    if let Some(age) = age {
                        let age = HeaderValue::from(age.as_secs());
                        reply.headers.insert(header::AGE, age);
                    }
                }
                Ok(reply)
            }
            Route::Blob { digest, .. } => {
                self.vouch(request, source, digest).await;
                if request.action == Action::Read {
                    let place = desk.stream().ok_or_else(ApiError::too_many_streams)?;
                    exchange.account.holds(place);
                }
                self.blob(request, source, digest, exchange).await
            }
            Route::Tags { .. }
            | Route::Referrers { .. }
            | Route::Ping
            | Route::Catalog(_)
            | Route::Upload { .. } => Err(ApiError::read_only()),
        }
    }

    /// Takes the word of the node that asks for the blob.
    async fn vouch(&self, request: &Request<'_>, source: &Source, digest: &Digest) {
        let size = request.head.headers.get(SIZE);
        let size = size.and_then(|size| size.to_str().ok()?.parse().ok());
        if let Some(size) = size {
            self.mirror().for_nodes().vouch(source, digest, size).await;
        }
    }
}
