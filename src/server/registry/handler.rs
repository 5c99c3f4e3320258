//! One request of a client: admitted, read, asked of the mirror, answered.

use super::arrival::{Arrival, Caller};
use super::blob::{Delivery, Selected};
use super::door::{Door, Visitor};
use super::elsewhere;
use super::hosted::{self, Answered, HostedRequest, Target};
use super::named::Named;
use super::owner::Owner;
use super::refusals::{hide, refuse_push};
use super::reply::{CACHE_STATUS, EntityTag, Reply};
use super::restraint::Restraint;
use super::search;
use super::token;
use crate::hosted::Hosted;
use crate::mirror::{BlobAnswer, BlobHead, Mirror, Source};
use crate::oci::route::{Action, Route};
use crate::oci::{Accept, AcceptClass, ByteRanges, Digest, Reference, UpstreamName};
use crate::server::conn::buffers::Buffers;
use crate::server::http::JSON;
use crate::server::http::access_log::Exchange;
use crate::server::http::body::Body;
use crate::server::http::context::{OCI_NAMESPACE, Request, Transport};
use crate::server::http::error::ApiError;
use crate::server::http::host;
use crate::server::http::request_id::RequestIds;
use crate::server::http::request_span::RequestSpan;
use crate::server::process::Process;
use crate::server::visits::Visits;
use crate::telemetry::trace::Tracer;
use crate::telemetry::{Limit, Metrics};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header, request};
use hyper::body::Incoming;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The answer to `/`, for somebody who opened it in a browser.
const GREETING: &[u8] = b"roadstead: a registry mirror. The API is under /v2/.\n";

/// Answers clients.
#[derive(Debug)]
pub(crate) struct Handler {
    mirror: Mirror,
    metrics: Metrics,
    buffers: Buffers,
    ids: RequestIds,
    visits: Visits,
    restraint: Restraint,
    tracer: Tracer,
    hosted: Option<Hosted>,
}

impl Handler {
    /// A handler that asks `mirror`.
    pub(crate) fn new(
        mirror: Mirror,
        metrics: Metrics,
        buffers: Buffers,
        visits: Visits,
        process: &Process,
    ) -> Self {
        Self {
            mirror,
            metrics,
            buffers,
            ids: RequestIds::new(&*process.clock),
            visits,
            restraint: Restraint::new(),
            tracer: process.tracer.clone(),
            hosted: process.hosted.clone(),
        }
    }

    /// Hosted repositories, if there are any.
    pub(super) fn hosted(&self) -> Option<&Hosted> {
        self.hosted.as_ref()
    }

    /// The mirror.
    pub(super) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Answers one request. Its body, if it has one, is read for `/token` alone. `must_wait`: memory is short, and this client has
    /// more of it than others.
    pub(crate) async fn answer(
        &self,
        head: request::Parts,
        body: Incoming,
        arrival: &Arrival,
        transport: Transport,
        must_wait: bool,
    ) -> Response<Body> {
        let caller = arrival.caller(&head);
        let mut exchange = Box::new(Exchange::begin(
            self.ids.next(),
            caller.client.clone(),
            &head,
            self.metrics.clone(),
        ));
        if self.tracer.is_on() {
            let source = caller.source();
            exchange.span = RequestSpan::begin(&self.tracer, &head, source, caller.is_secure);
        }
        if arrival.door.desk().is_some() {
            exchange.of_node = true;
        } else {
            exchange.visits(&self.visits);
        }
        exchange.account.audit_to(arrival.door.guard().audit());
        let answered = self.dispatch(&head, body, &caller, transport, must_wait, &mut exchange);
        let reply = match answered.await {
            Ok(reply) => reply,
            Err(error) => {
                if let Some(limit) = error.limit() {
                    let refused = self.restraint.refuse(limit, &exchange, &self.metrics);
                    Box::pin(refused).await;
                }
                let error = error.about(exchange.upstream());
                error.log(&mut exchange);
                error.into_reply()
            }
        };
        respond(&head, reply, exchange)
    }

    /// Answers that come before a request is looked into: `/` has no route, and what is mirrored is not written to.
    fn admit(
        &self,
        head: &request::Parts,
        door: &Door,
        must_wait: bool,
    ) -> Result<Option<Reply>, ApiError> {
        let path = head.uri.path();
        if must_wait && path != "/v2/" {
            self.metrics.limits().met(Limit::Buffers);
            return Err(ApiError::too_much());
        }
        if let Some(why) = host::refusal(head) {
            return Err(ApiError::malformed(why));
        }
        let host = host::of(head).unwrap_or_default();
        // Not ours to answer, its `/token` least of all: what comes there are passwords for somebody else.
        if let Some(upstream) = door.stand_in().token_server_of(host) {
            return Err(ApiError::misdirected(host, &upstream));
        }
        let action = Action::of(&head.method);
        if path == "/" && action != Action::Write {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            return Ok(Some(Reply::own(text, Bytes::from_static(GREETING))));
        }
        if action == Action::Write && is_of_the_api(path) && self.hosted.is_none() {
            return Err(refuse_push(head, door));
        }
        Ok(None)
    }

    /// Refuses a login at the name of an upstream that decides for each client: the password is for its token server.
    fn refuse_others_login(&self, head: &request::Parts, door: &Door) -> Result<(), ApiError> {
        let host = host::of(head).unwrap_or_default();
        match door.stand_in().upstream(host) {
            Some(upstream) if self.mirror.visibility().shows_credentials_to(&upstream) => {
                Err(ApiError::misdirected(host, &upstream))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Gives a token.
    async fn token(
        &self,
        caller: &Caller<'_>,
        head: &request::Parts,
        body: Incoming,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        caller.arrival.door.admit_to_token(head, exchange)?;
        let answer = token::answer(
            caller,
            head,
            body,
            exchange,
            &self.mirror,
            self.hosted.as_ref(),
        );
        Box::pin(answer).await
    }

    async fn dispatch(
        &self,
        head: &request::Parts,
        body: Incoming,
        caller: &Caller<'_>,
        transport: Transport,
        must_wait: bool,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let door = &caller.arrival.door;
        if let Some(desk) = door.desk() {
            let answer = self.answer_node(head, caller, desk, transport, exchange);
            return Box::pin(answer).await;
        }
        if let Some(greeting) = self.admit(head, door, must_wait)? {
            return Ok(greeting);
        }
        if head.uri.path() == token::PATH {
            self.refuse_others_login(head, door)?;
        }
        if door.gives_tokens() && head.uri.path() == token::PATH {
            return self.token(caller, head, body, exchange).await;
        }
        if self.hosted.is_some() && search::is_search(head.uri.path()) {
            return Box::pin(self.search(head, caller, transport, exchange)).await;
        }
        let Entered {
            request,
            owner,
            visitor,
            target,
        } = self.enter(head, caller, transport, exchange).await?;
        if let (Some(hosted), Some((repository, fall))) = (&self.hosted, target.parts()) {
            let visitor = visitor.as_ref();
            let request = &request;
            let asked = HostedRequest {
                handler: self,
                hosted,
                request,
                repository,
                visitor,
                caller,
            };
            let answered = asked.answer(body, fall, exchange);
            if let Answered::Reply(reply) = Box::pin(answered).await? {
                return Ok(reply);
            }
        } else if hosted::is_push(&request) {
            // It is refused as one whichever way it came: nobody would be asked, so no loop is looked for.
            return Err(match &self.hosted {
                Some(hosted) if request.stands_in_for.is_none() => {
                    hosted::refuse_mirrored(&request, hosted)
                }
                Some(_) | None => refuse_push(head, door),
            });
        }
        let behalf = self.mirror.on_behalf(request.client, request.via())?;
        let behalf = behalf
            .with_credential(owner.credential().cloned())
            .with_trace(exchange.span.as_ref().map(|span| span.trace()));
        let answer = behalf.scope(self.route(request, &owner, visitor, caller, exchange));
        // A client that has sent our own credentials would send them where an upstream's challenge says.
        answer
            .await
            .map_err(|error| error.challenging(!owner.is_us()))
    }

    /// Lets a request in, and reads it.
    pub(super) async fn enter<'h>(
        &self,
        head: &'h request::Parts,
        caller: &Caller<'h>,
        transport: Transport,
        exchange: &mut Exchange,
    ) -> Result<Entered<'h>, ApiError> {
        let door = &caller.arrival.door;
        let request = Request::read(head, caller.client.id(), transport);
        let request = request.map(|mut request| {
            request.stands_in_for = request.host.and_then(|host| door.stand_in().upstream(host));
            request
        });
        let target = match (&request, &self.hosted) {
            (Ok(request), Some(hosted)) => Target::of(request, hosted, &self.mirror),
            (Ok(_) | Err(_), _) => Ok(Target::Mirrored),
        };
        let owner = match (&request, &target) {
            (Ok(request), Ok(Target::Mirrored)) => Owner::of(request, &self.mirror, door),
            // What is hosted here is nobody else's.
            (Ok(_) | Err(_), _) => Ok(Owner::Us),
        };
        let is_ours = owner.as_ref().map_or(true, Owner::is_us);
        // Whoever may not come in hears nothing of what is wrong with the request.
        let visitor = door.enter(head, is_ours, caller, exchange).await?;
        Ok(Entered {
            request: request?,
            owner: owner?,
            visitor,
            target: target?,
        })
    }

    async fn route(
        &self,
        request: Request<'_>,
        owner: &Owner,
        visitor: Option<Visitor<'_>>,
        caller: &Caller<'_>,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let Some(named) = Named::by(&request.route) else {
            return match &request.route {
                Route::Catalog(page) => {
                    Box::pin(self.catalog(page, &request, visitor, caller)).await
                }
                Route::Ping => self.greet(&request, owner, visitor).await,
                // They name no content that can be given.
                Route::Upload { .. }
                | Route::Manifest { .. }
                | Route::Blob { .. }
                | Route::Tags { .. }
                | Route::Referrers { .. } => Err(ApiError::read_only()),
            };
        };
        exchange.asks_for(named.kind, named.reference());
        let edition = self.mirror.in_use().edition();
        let source = self
            .open(&request, named, visitor.as_ref(), exchange)
            .await?;
        let sent = if self.mirror.elsewhere().is_there() {
            let (mirror, visitor) = (&self.mirror, visitor.as_ref());
            let sent = elsewhere::send(mirror, &request, &source, named, visitor, exchange);
            Box::pin(sent).await
        } else {
            None
        };
        let reply = match sent {
            Some(reply) => reply,
            None => self.give(&request, &source, exchange).await?,
        };
        // Upstreams were replaced meanwhile: what one gave may be another login's, and is judged by its new visibility. One
        // that is gone gave it before.
        if edition != self.mirror.in_use().edition() && self.mirror.in_use().has(&source.upstream) {
            let allowed = self.allow(&request, &source, named, visitor.as_ref(), exchange);
            Box::pin(allowed).await?;
        }
        Ok(reply)
    }

    /// Answers `/v2/`.
    async fn greet(
        &self,
        request: &Request<'_>,
        owner: &Owner,
        visitor: Option<Visitor<'_>>,
    ) -> Result<Reply, ApiError> {
        match owner {
            Owner::Upstream(upstream, _) => {
                Box::pin(self.mirror.visibility().greet(upstream)).await?;
            }
            Owner::Us => visitor.map_or(Ok(()), |it| it.greet(request.head))?,
        }
        Ok(Reply::own(JSON, Bytes::from_static(b"{}")))
    }

    /// Gives what a request names, which its client may have.
    async fn give(
        &self,
        request: &Request<'_>,
        source: &Source,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let listed = match &request.route {
            Route::Manifest { reference, .. } => {
                return self.manifest(request, source, reference, exchange).await;
            }
            Route::Blob { digest, .. } => {
                return self.blob(request, source, digest, exchange).await;
            }
            Route::Tags { page, .. } => Box::pin(self.mirror.lists().tags(source, page)).await?,
            Route::Referrers {
                digest,
                artifact_type,
                cursor,
                ..
            } => {
                let (lists, wanted) = (self.mirror.lists(), artifact_type.as_deref());
                Box::pin(lists.referrers(source, digest, wanted, cursor)).await?
            }
            // They name no content.
            Route::Ping | Route::Catalog(_) | Route::Upload { .. } => {
                return Err(ApiError::read_only());
            }
        };
        Ok(Reply::list(listed, request.path, request.ns()))
    }

    /// Finds the repository that a request names, and lets its client have something of it.
    ///
    /// # Errors
    /// It leads nowhere, or the rules or the upstream deny it.
    async fn open(
        &self,
        request: &Request<'_>,
        named: Named<'_>,
        visitor: Option<&Visitor<'_>>,
        exchange: &mut Exchange,
    ) -> Result<Source, ApiError> {
        let source = self.resolve(request, named.path, visitor, exchange)?;
        self.allow(request, &source, named, visitor, exchange)
            .await?;
        Ok(source)
    }

    /// Lets the client of a request have something of a repository.
    ///
    /// # Errors
    /// The rules or the upstream deny it.
    async fn allow(
        &self,
        request: &Request<'_>,
        source: &Source,
        named: Named<'_>,
        visitor: Option<&Visitor<'_>>,
        exchange: &mut Exchange,
    ) -> Result<(), ApiError> {
        if let Some(visitor) = visitor {
            let Named {
                path, action, tag, ..
            } = named;
            visitor.may(action, source, tag, request, path, exchange)?;
        }
        if self.mirror.visibility().hides_something() {
            let is_known = visitor.is_some_and(|it| !it.who.is_anonymous());
            let Named { action, path, .. } = named;
            let verdict =
                self.mirror
                    .visibility()
                    .may_be_seen(source, named.sought.into(), is_known);
            let verdict = Box::pin(verdict).await;
            verdict.map_err(|refusal| {
                let asked = visitor.filter(|_| refusal.is_denial);
                let asked = asked.and_then(|it| it.asks(action, path, request.head, None));
                let hidden = hide(refusal, action, source, exchange);
                asked.unwrap_or(hidden)
            })?;
        }
        Ok(())
    }

    pub(super) fn resolve(
        &self,
        request: &Request<'_>,
        path: &str,
        visitor: Option<&Visitor<'_>>,
        exchange: &mut Exchange,
    ) -> Result<Source, ApiError> {
        let directory = self.mirror.directory();
        let own = request.stands_in_for.as_ref().map(UpstreamName::as_str);
        let resolved = directory.resolve(request.ns().or(own), request.host, path);
        let source = resolved.map_err(|error| match visitor {
            Some(visitor) => visitor.hide(error, directory.names()),
            None => error,
        })?;
        exchange.goes_to(&source.upstream, &source.repository);
        exchange.echoes_upstream(request.ns().is_some());
        Ok(source)
    }

    pub(super) async fn manifest(
        &self,
        request: &Request<'_>,
        source: &Source,
        reference: &Reference,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let (class, by_digest) = match reference {
            Reference::Tag(_) => (AcceptClass::from_headers(request.accepted()), false),
            Reference::Digest(_) => (AcceptClass::ALL, true),
        };
        // An answer that the client did not list is served all the same, as registries do: it may
        // well understand it, and 406 is nothing that any client handles.
        let hit = self.mirror.try_manifest_hit(source, reference, class);
        let answer = if let Some(answer) = hit {
            answer
        } else {
            let accept = match reference {
                Reference::Tag(_) => Accept::from_headers(request.accepted()),
                Reference::Digest(_) => Accept::of_digest(request.accepted()),
            };
            self.mirror.manifest(source, reference, accept).await?
        };
        exchange.found(&answer.digest);
        Ok(Reply::manifest(&request.conditions, answer, by_digest))
    }

    pub(super) async fn blob(
        &self,
        request: &Request<'_>,
        source: &Source,
        digest: &Digest,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let tag = EntityTag::new(digest);
        let client_has = request.conditions.client_has(tag.digest());
        // A client that has the blob needs no fill, only to hear that the repository has it too.
        if client_has || request.action == Action::Describe {
            let head = self.mirror.blob_head(source, digest).await?;
            return Ok(Reply::blob_head(tag, client_has, head));
        }
        let ranges = request.conditions.ranges();
        let first = ranges.and_then(ByteRanges::first);
        let answer = self.mirror.blob(source, digest, first).await?;
        self.give_blob(request, tag, answer, exchange).await
    }

    /// Gives the part of a blob that a request selects.
    pub(super) async fn give_blob(
        &self,
        request: &Request<'_>,
        tag: EntityTag,
        answer: BlobAnswer,
        exchange: &mut Exchange,
    ) -> Result<Reply, ApiError> {
        let head = BlobHead {
            total: answer.total,
            outcome: answer.outcome,
        };
        let fed_by = answer.fed_by;
        let selected = Selected::of(&request.conditions, &tag, head, answer.is_stored())?;
        if let Some(span) = &mut exchange.span {
            span.finds_stored(answer.stored_bytes(&selected.ranges(answer.total)));
        }
        let mut reply = self.deliver(request, tag, answer, selected).await?;
        reply.says_source(fed_by);
        Ok(reply)
    }

    /// Answers with this part of a blob.
    pub(super) async fn deliver(
        &self,
        request: &Request<'_>,
        tag: EntityTag,
        answer: BlobAnswer,
        selected: Selected,
    ) -> Result<Reply, ApiError> {
        let head = BlobHead {
            total: answer.total,
            outcome: answer.outcome,
        };
        let delivery = Delivery {
            transport: &request.transport,
            buffers: &self.buffers,
            metrics: &self.metrics,
        };
        let mut content = delivery.open(answer, &selected);
        content.prime().await?;
        Ok(selected.describe(tag, head, content))
    }
}

/// A request that was let in.
pub(super) struct Entered<'h> {
    pub(super) request: Request<'h>,
    /// The owner of its credentials.
    pub(super) owner: Owner,
    pub(super) visitor: Option<Visitor<'h>>,
    pub(super) target: Target,
}

/// True if a path is the registry API's.
fn is_of_the_api(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// Puts a response together: what all of them have, the body, the end of the request's story.
fn respond(
    request: &request::Parts,
    mut reply: Reply,
    mut exchange: Box<Exchange>,
) -> Response<Body> {
    reply.answer_head(&request.method);
    reply.add_cache_status(exchange.kind());
    let headers = &mut reply.headers;
    if is_of_the_api(request.uri.path()) {
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    }
    // A client must not be told that a digest's text is a web page.
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    if let Ok(id) = exchange.id().with_text(HeaderValue::from_str) {
        headers.insert(REQUEST_ID, id);
    }
    let echoed = exchange.echoed_upstream();
    if let Some(Ok(name)) = echoed.map(|name| HeaderValue::from_str(name.as_str())) {
        headers.insert(OCI_NAMESPACE, name);
    }
    if let Some(span) = &exchange.span {
        span.says(reply.headers.get(CACHE_STATUS));
    }
    exchange.answered(reply.status, reply.outcome);
    let mut response = Response::new(Body::new(reply.content, exchange));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}
