//! Pages for people: rendered here from templates, live by server-sent events, read-only. Without script they work, too.
//!
//! | file | what |
//! | --- | --- |
//! | `frame` | what all pages have, and the headers that keep them to themselves |
//! | `overview`, `sections`, `rows` | how the mirror is |
//! | `images`, `inspected` | what the cache has |
//! | `hosted` | what is hosted here |
//! | `configuration` | the configuration, clients and their files |
//! | `history`, `chart`, `charts` | the last hour and week |
//! | `events` | changes of the overview, as they come |
//! | `language`, `texts`, `show`, `escape` | words, numbers, foreign text |
//! | `assets` | styles, script and icon |

mod assets;
mod chart;
mod charts;
mod configuration;
mod escape;
mod events;
mod frame;
mod history;
mod hosted;
mod images;
mod inspected;
mod language;
mod overview;
mod rows;
mod sections;
mod show;
mod texts;

use super::answer::{AdminBody, full};
use super::api::DRAINING;
use super::query::Query;
use crate::clock::Clock;
use crate::hosted::{Hosted, HostedError, Search};
use crate::mirror::Mirror;
use crate::mirror::inspect::{Filter, InspectError};
use crate::oci::Repository;
use crate::oci::name::NameError;
use crate::server::describe::Describe;
use crate::server::nodes::NodeDesk;
use crate::server::visits::Visits;
use crate::telemetry::{EvictReason, Metrics};
use bytes::Bytes;
use configuration::{Clients, Configuration};
use events::{Audience, Events};
use frame::{Frame, Tab, html};
use history::{History, Sample};
use http::{HeaderValue, Method, Response, StatusCode, header, request};
use http_body_util::{BodyExt as _, Full, StreamBody};
use images::{IMAGES_MAX, Images};
use inspected::InspectedPage;
use language::Language;
use overview::Overview;
use rows::ClientRow;
use sections::Facts;
use show::Show;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Time between two looks at the state for those who listen; samples are taken at some of them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The wait that is proposed to a listener who finds no place.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("30");

/// Clients on a page, the latest of them: the API lists all.
const CLIENTS_MAX: usize = 200;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Characters of a search or an address that are read: names have no more.
const INPUT_CHARACTERS_MAX: usize = 512;

/// The pages' paths.
const PATHS: [&str; 9] = [
    "/",
    "/images",
    "/images/inspect",
    hosted::HOME,
    hosted::REPOSITORIES,
    hosted::TAGS,
    "/clients",
    "/configuration",
    "/events",
];

/// Answers people.
#[derive(Debug)]
pub(super) struct Page {
    mirror: Mirror,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    describe: Arc<dyn Describe>,
    visits: Visits,
    desk: Option<NodeDesk>,
    hosted: Option<Hosted>,
    history: Mutex<History>,
    events: Events,
    stop: CancellationToken,
}

/// Reason why there is no page.
struct PageError(StatusCode, String);

impl From<InspectError> for PageError {
    fn from(error: InspectError) -> Self {
        let error = super::error::AdminError::from(error);
        Self(error.status, error.message().to_owned())
    }
}

impl From<HostedError> for PageError {
    fn from(error: HostedError) -> Self {
        let error = super::error::AdminError::from(error);
        Self(error.status, error.message().to_owned())
    }
}

impl Page {
    /// The pages of a process; `stop` is cancelled when its drain begins.
    pub(super) fn new(
        mirror: Mirror,
        metrics: Metrics,
        clock: Arc<dyn Clock>,
        describe: Arc<dyn Describe>,
        visits: Visits,
        desk: Option<NodeDesk>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            mirror,
            metrics,
            clock,
            describe,
            visits,
            desk,
            hosted: None,
            history: Mutex::default(),
            events: Events::new(stop.clone()),
            stop,
        }
    }

    /// With what is hosted.
    pub(super) fn with_hosted(self, hosted: Option<Hosted>) -> Self {
        Self { hosted, ..self }
    }

    /// True if a path is a page's.
    pub(super) fn has(path: &str) -> bool {
        PATHS.contains(&path) || path.starts_with(assets::PREFIX)
    }

    /// A page that says why a request is refused.
    pub(super) fn refuse(
        head: &request::Parts,
        status: StatusCode,
        why: &str,
        challenge: Option<HeaderValue>,
    ) -> Response<AdminBody> {
        let mut response = frame::error(head, status, why);
        let headers = response.headers_mut();
        frame::secure(headers);
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        full(response)
    }

    /// The file that a path names; `None`: it names none. Files say nothing about the process, and ask nobody who he is.
    pub(super) fn asset(head: &request::Parts) -> Option<Response<AdminBody>> {
        let mut response = assets::answer(head.uri.path())?;
        frame::secure(response.headers_mut());
        Some(full(response))
    }

    /// Answers somebody who may read.
    pub(super) async fn answer(&self, head: &request::Parts) -> Response<AdminBody> {
        if head.uri.path() == "/events" {
            return self.listen(head);
        }
        match self.page(head).await {
            Ok(mut response) => {
                let headers = response.headers_mut();
                frame::secure(headers);
                if let Some(language) = Language::asked(head) {
                    headers.insert(header::SET_COOKIE, language.cookie());
                }
                full(response)
            }
            Err(PageError(status, why)) => Self::refuse(head, status, &why, None),
        }
    }

    async fn page(&self, head: &request::Parts) -> Result<Response<Full<Bytes>>, PageError> {
        let query = Query::parse(head.uri.query().unwrap_or_default());
        match head.uri.path() {
            "/" => self.overview(head, query).await,
            "/images" => self.images(head, query).await,
            "/images/inspect" => self.inspect(head, query).await,
            hosted::HOME | hosted::REPOSITORIES | hosted::TAGS => self.hosted(head, query).await,
            "/clients" => self.clients(head, query).await,
            "/configuration" => {
                let text = self.described(|it| Some(it.configuration())).await;
                let page = Configuration {
                    frame: Frame::new(head, Tab::Configuration),
                    text,
                };
                Ok(html(StatusCode::OK, &page))
            }
            _ => {
                let why = Language::of(head).texts().not_found_page;
                Err(PageError(StatusCode::NOT_FOUND, why.to_owned()))
            }
        }
    }

    async fn overview(
        &self,
        head: &request::Parts,
        mut query: Query,
    ) -> Result<Response<Full<Bytes>>, PageError> {
        let frame = Frame::new(head, Tab::Overview);
        let audience = audience(head, &mut query);
        let facts = self.facts(audience).await?;
        let parts = sections::render(&facts, audience.window, self.show(audience.language));
        let page = Overview::new(frame, parts, audience);
        Ok(html(StatusCode::OK, &page))
    }

    async fn images(
        &self,
        head: &request::Parts,
        mut query: Query,
    ) -> Result<Response<Full<Bytes>>, PageError> {
        let frame = Frame::new(head, Tab::Images);
        let search = input(&mut query, "q");
        let after = Some(input(&mut query, "after")).filter(|it| !it.is_empty());
        let filter = Filter::like(&search);
        let images = self.mirror.operator().images();
        let page = images.page(&filter, after.as_deref(), Some(IMAGES_MAX));
        let page = page.await?;
        let show = self.show(frame.language);
        let page = Images::new(frame, &search, after.is_none(), &page, show);
        Ok(html(StatusCode::OK, &page))
    }

    async fn inspect(
        &self,
        head: &request::Parts,
        mut query: Query,
    ) -> Result<Response<Full<Bytes>>, PageError> {
        let frame = Frame::new(head, Tab::Images);
        let name = input(&mut query, "image");
        let images = self.mirror.operator().images();
        let image = images.inspect(&name).await?;
        let sharers = images.sharers(&image).await;
        let show = self.show(frame.language);
        let page = InspectedPage::new(frame, &image, sharers.as_ref(), show);
        Ok(html(StatusCode::OK, &page))
    }

    async fn clients(
        &self,
        head: &request::Parts,
        mut query: Query,
    ) -> Result<Response<Full<Bytes>>, PageError> {
        let frame = Frame::new(head, Tab::Clients);
        let show = self.show(frame.language);
        let server = input(&mut query, "server");
        let asked = Some(server.trim().to_owned()).filter(|it| !it.is_empty());
        let made = self
            .described(move |it| Some(it.clients(asked.as_deref())))
            .await;
        let (setups, error) = match made {
            Some(Ok(setups)) => (setups, String::new()),
            Some(Err(why)) => (Vec::new(), why),
            None => (Vec::new(), frame.t.not_known_here.to_owned()),
        };
        let status = if error.is_empty() || server.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        };
        let clients = self.visits.clients();
        let page = Clients {
            rows: clients
                .iter()
                .take(CLIENTS_MAX)
                .map(|it| ClientRow::of(it, show))
                .collect(),
            frame,
            server,
            setups,
            error,
        };
        Ok(html(status, &page))
    }

    async fn hosted(
        &self,
        head: &request::Parts,
        mut query: Query,
    ) -> Result<Response<Full<Bytes>>, PageError> {
        let frame = Frame::new(head, Tab::Hosted);
        let show = self.show(frame.language);
        let Some(hosted) = &self.hosted else {
            return Ok(html(StatusCode::OK, &hosted::Home::of_nothing(frame)));
        };
        let search = Search {
            part: input(&mut query, "q").trim().to_owned(),
            after: input(&mut query, "after"),
            limit: hosted::ROWS_MAX,
        };
        Ok(match head.uri.path() {
            hosted::HOME => {
                let page = hosted::Home::of(hosted, frame, search, show);
                html(StatusCode::OK, &page.await?)
            }
            hosted::REPOSITORIES => {
                let page = hosted::Repositories::of(hosted, frame, search, show);
                html(StatusCode::OK, &page.await?)
            }
            _ => {
                let name = input(&mut query, "repository");
                let wrong =
                    |error: NameError| PageError(StatusCode::BAD_REQUEST, error.to_string());
                let repository = Repository::parse(name.trim()).map_err(wrong)?;
                let page = hosted::Tags::of(hosted, &repository, frame, search, show);
                html(StatusCode::OK, &page.await?)
            }
        })
    }

    /// Asks what describes the process, which takes a while for a large configuration.
    async fn described<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Describe) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let describe = Arc::clone(&self.describe);
        let told = tokio::task::spawn_blocking(move || ask(&*describe)).await;
        told.ok().flatten()
    }

    fn listen(&self, head: &request::Parts) -> Response<AdminBody> {
        let mut query = Query::parse(head.uri.query().unwrap_or_default());
        let Some(events) = self.events.listen(audience(head, &mut query)) else {
            let why = "too many listen, or the mirror is about to end\n";
            let mut response = super::text(StatusCode::SERVICE_UNAVAILABLE, why);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            frame::secure(headers);
            return full(response);
        };
        let mut response = Response::new(StreamBody::new(events).boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        frame::secure(headers);
        response
    }

    fn show(&self, language: Language) -> Show {
        Show {
            language,
            now: self.clock.now(),
        }
    }

    async fn facts(&self, audience: Audience) -> Result<Facts, InspectError> {
        let mut status = self.mirror.operator().overview().status(true).await?;
        if self.stop.is_cancelled() {
            DRAINING.clone_into(&mut status.health);
        }
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let evicted = |reason| (reason, self.metrics.so_far().evicted(reason));
        Ok(Facts {
            status,
            steps: history.steps(audience.window),
            sum: history.sum(audience.window),
            evicted: EvictReason::ALL.map(evicted).into(),
            pulls: self.visits.pulls(),
            nodes: self.desk.as_ref().map(|desk| desk.node().report()),
        })
    }

    /// Takes samples, and tells listeners what has changed, for as long as it is polled.
    pub(super) async fn keep(&self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let sample = self.sample();
            {
                let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
                history.take(sample);
            }
            for audience in self.events.present() {
                match self.facts(audience).await {
                    Ok(facts) => {
                        let show = self.show(audience.language);
                        let parts = sections::render(&facts, audience.window, show);
                        self.events.tell(audience, parts);
                    }
                    Err(error) => tracing::debug!(%error, "the overview cannot be told"),
                }
            }
        }
    }

    fn sample(&self) -> Sample {
        let totals = self.mirror.operator().overview().totals();
        let evicted = EvictReason::ALL.map(|it| self.metrics.so_far().evicted(it));
        Sample {
            at: self.clock.now(),
            pulls: totals.pulls,
            hits: totals.hits,
            client_bytes: totals.client_bytes,
            upstream_bytes: totals.upstream_bytes,
            used_bytes: self.metrics.so_far().cache_bytes(),
            evicted_bytes: evicted.iter().sum(),
        }
    }
}

/// True for a method that reads.
pub(super) fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn audience(head: &request::Parts, query: &mut Query) -> Audience {
    Audience {
        language: Language::of(head),
        window: overview::window(Some(&input(query, "window"))),
    }
}

/// The first value that was typed in for a name; empty where there is none.
fn input(query: &mut Query, name: &str) -> String {
    let values = query.take_all(name);
    let first = values.into_iter().next().unwrap_or_default();
    first.chars().take(INPUT_CHARACTERS_MAX).collect()
}
