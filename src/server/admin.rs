//! The operator's listener: metrics, health, the admin API, and pages for people.

mod answer;
mod api;
mod audit;
mod cluster;
mod error;
mod guard;
mod hosted;
mod import;
mod operator;
mod page;
mod people;
mod query;
mod reload;
mod tier;
mod visits;

pub use api::AdminApi;

use super::http::{JSON, host};
use super::nodes::NodeDesk;
use super::process::Process;
use super::reload::Reloader;
use super::tier::ThisTier;
use super::visits::Visits;
use crate::access::Guard;
use crate::audit::Change;
use crate::hosted::Hosted;
use crate::mirror::{Mirror, Readiness};
use crate::telemetry::Metrics;
use answer::{AdminBody, full, head_of, with_type};
use bytes::Bytes;
use error::AdminError;
pub use hosted::{
    DeletedContent, DeletedInfo, DeletedList, EventInfo, EventList, Expired, ExpiringTag,
    ExpiryPlan, HostedChange, HostedImage, HostedPage, HostedRepositoryUsage, HostedUsage,
    NamespaceInfo, NamespaceList, TagHistory, TagMoveInfo, UploadList,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::Full;
use hyper::body::Incoming;
pub(super) use operator::Caller;
use operator::Operator;
use page::Page;
pub use people::PeopleApi;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The Prometheus text format.
const EXPOSITION: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers the operator's tools.
#[derive(Debug)]
pub(super) struct Admin {
    /// The front door.
    guard: Guard,
    /// The mirror, which is asked for its readiness.
    pub(super) mirror: Mirror,
    /// Users and tokens.
    pub(super) people: PeopleApi,
    /// The admin API.
    pub(super) api: AdminApi,
    /// The metrics that are shown.
    pub(super) metrics: Metrics,
    /// Names beside addresses that the listener has.
    hosts: Vec<String>,
    reloader: Arc<dyn Reloader>,
    /// The nodes of its cluster.
    desk: Option<NodeDesk>,
    /// Its object store.
    tier: Option<Arc<dyn ThisTier>>,
    /// What is hosted, if anything is.
    hosted: Option<Hosted>,
    /// Pages for people.
    page: Page,
    visits: Visits,
    /// Changes under way, which go on although their clients have left.
    acts: TaskTracker,
    /// Cancelled when the drain begins.
    pub(super) stop: CancellationToken,
}

impl Admin {
    /// A listener's answers.
    pub(super) fn new(
        mirror: Mirror,
        guard: &Guard,
        metrics: Metrics,
        hosts: Vec<String>,
        process: Process,
        visits: Visits,
        stop: CancellationToken,
    ) -> Self {
        let Process {
            reloader,
            describe,
            clock,
            tracer: _,
            desk,
            tier,
            hosted,
        } = process;
        Self {
            page: Page::new(
                mirror.clone(),
                metrics.clone(),
                clock,
                describe,
                visits.clone(),
                desk.clone(),
                stop.clone(),
            )
            .with_hosted(hosted.clone()),
            api: AdminApi::of_server(mirror.clone(), stop.clone()),
            mirror,
            people: PeopleApi::new(guard),
            guard: guard.clone(),
            metrics,
            hosts,
            reloader,
            desk,
            tier,
            hosted,
            visits,
            acts: TaskTracker::new(),
            stop,
        }
    }

    /// Waits for the changes under way.
    pub(super) async fn end(&self, wait_max: Duration) {
        self.acts.close();
        if tokio::time::timeout(wait_max, self.acts.wait())
            .await
            .is_err()
        {
            tracing::warn!("a change by the admin API did not end in time and is broken off");
        }
    }

    /// Answers one request. Its body is read where something is imported, and nowhere else.
    pub(super) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Caller,
    ) -> Response<AdminBody> {
        let is_head = request.method() == Method::HEAD;
        let response = Box::pin(self.answer(request, caller)).await;
        // hyper leaves the body away over HTTP/1 alone.
        if is_head { head_of(response) } else { response }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Caller,
    ) -> Response<AdminBody> {
        let (head, body) = request.into_parts();
        if let Some(why) = host::refusal(&head) {
            return full(text(StatusCode::BAD_REQUEST, format!("{why}\n")));
        }
        let path = head.uri.path();
        if Page::has(path) {
            return Box::pin(self.page(&head, caller)).await;
        }
        if !path.starts_with(api::PREFIX) {
            return full(self.tell(&head));
        }
        if let Some(why) = guard::refusal(&head, &self.hosts) {
            return AdminError::new(StatusCode::FORBIDDEN, why).into_response();
        }
        let operator = match Operator::admit(&self.guard, &head, &caller).await {
            Ok(operator) => operator,
            Err(error) => return error.into_response(),
        };
        if !operator::is_finished(&head) {
            return Box::pin(self.act(&operator, head, body)).await;
        }
        let admin = Arc::clone(&self);
        let acting = async move { admin.act(&operator, head, body).await };
        let acted = self.acts.spawn(acting).await;
        acted.unwrap_or_else(|error| {
            let why = format!("the change was broken off: {error}");
            AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        })
    }

    /// Does what is asked, and records it.
    async fn act(
        &self,
        operator: &Operator,
        head: request::Parts,
        body: Incoming,
    ) -> Response<AdminBody> {
        let act = (operator::is_act(&head) && self.guard.audit().is_on())
            .then(|| (head.method.clone(), target_of(&head).to_owned()));
        let mut changes = Vec::new();
        let response = self.route(head, body, &mut changes).await;
        if let Some((method, target)) = act {
            let status = response.status();
            if status.is_success() {
                changes.extend(operator::change_of_images(&method, &target));
            }
            operator.record_act(&self.guard, &method, &target, status, &changes);
        }
        response
    }

    /// Keeps the pages up to date, for as long as it is polled.
    pub(super) async fn keep_pages(&self) {
        self.page.keep().await;
    }

    /// Answers a person, who reads.
    async fn page(&self, head: &request::Parts, caller: Caller) -> Response<AdminBody> {
        if !page::reads(&head.method) {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            return Page::refuse(head, status, "only GET and HEAD", None);
        }
        if let Some(why) = guard::refusal_of_page(head, &self.hosts) {
            return Page::refuse(head, StatusCode::FORBIDDEN, why, None);
        }
        if let Some(asset) = Page::asset(head) {
            return asset;
        }
        match Operator::admit(&self.guard, head, &caller).await {
            Ok(_operator) => self.page.answer(head).await,
            Err(error) => Page::refuse(head, error.status, error.message(), error.challenge()),
        }
    }

    async fn route(
        &self,
        head: request::Parts,
        body: Incoming,
        changes: &mut Vec<Change>,
    ) -> Response<AdminBody> {
        let path = head.uri.path();
        if path.starts_with(import::PREFIX) {
            let request = Request::from_parts(head, body);
            return Box::pin(import::answer(&self.mirror, request)).await;
        }
        if matches!(path, people::USERS | people::TOKENS) {
            let request = Request::from_parts(head, body);
            return Box::pin(people::answer(&self.people, request, changes)).await;
        }
        if path == audit::PATH {
            let stores = audit::Stores {
                mirror: &self.mirror,
                hosted: self.hosted.as_ref(),
                tasks: &self.acts,
                stop: &self.stop,
            };
            return audit::answer(&stores, &head);
        }
        if matches!(path, visits::CLIENTS | visits::PULLS) {
            return visits::answer(&self.visits, &head);
        }
        if path == cluster::PATH {
            return Box::pin(cluster::answer(self.desk.as_ref(), &head)).await;
        }
        if path == tier::PATH {
            return tier::answer(self.tier.as_deref(), &head);
        }
        if hosted::is_of_hosted(path) || hosted::is_of_image(self.hosted.as_ref(), &head) {
            let answer = hosted::answer(
                self.hosted.as_ref(),
                &self.mirror,
                &self.stop,
                &head,
                changes,
            );
            return Box::pin(answer).await;
        }
        if path == reload::PATH {
            return Box::pin(reload::answer(&self.reloader, &head, changes)).await;
        }
        match self.api.ask(&head.method, target_of(&head)).await {
            Ok(body) => full(with_type(StatusCode::OK, JSON, body)),
            Err(error) => error.into_response(),
        }
    }

    /// Answers a scraper or a probe.
    fn tell(&self, request: &request::Parts) -> Response<Full<Bytes>> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let allow = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allow);
            return response;
        }
        match request.uri.path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.stop.is_cancelled() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            // With a disk that fails every client still gets its bytes. A 503 would have a balancer or an
            // orchestrator take away a mirror that serves, and on a disk that all of them share, every one.
            "/readyz" => match self.mirror.operator().overview().readiness() {
                Readiness::Ready => text(StatusCode::OK, "ok\n"),
                Readiness::Degraded(why) => text(StatusCode::OK, format!("degraded: {why}\n")),
                Readiness::Stopping => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            },
            "/metrics" => with_type(StatusCode::OK, EXPOSITION, self.metrics.render()),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }
}

/// The path and query.
fn target_of(head: &request::Parts) -> &str {
    let target = head.uri.path_and_query();
    target.map_or("/", http::uri::PathAndQuery::as_str)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, TEXT, body)
}
