//! Requests for hosted repositories, and their answers.
//!
//! A request comes here after it was let in and read. Whether its client may do what it asks for is decided before
//! anything is looked up, and before any of its body is read: a client that waits for `100 Continue` is told to go on by
//! the first look at the body.

mod body;
mod lists;
mod manifests;
mod places;
mod uploads;

use super::arrival::Caller;
use super::door::Visitor;
use super::handler::Handler;
use super::named::Named;
use super::reply::Reply;
use crate::access::{Action as Verb, Resource};
use crate::hosted::{Fall, Hosted, HostedError, NameRange, Refused, Visibility};
use crate::mirror::Source;
use crate::oci::route::{Action, Route};
use crate::oci::{Reference, Repository, UpstreamName};
use crate::server::http::access_log::Exchange;
use crate::server::http::body::Content;
use crate::server::http::context::Request;
use crate::server::http::error::ApiError;
use crate::server::http::whole::throw_away;
use crate::telemetry::metrics::HOSTED;
use crate::telemetry::{Kind, Outcome};
use http::{HeaderName, Method, StatusCode};
use hyper::body::{Body as _, Incoming};
pub(super) use lists::catalog_page;
pub(super) use places::{Target, is_push, refuse_mirrored};
use std::borrow::Cow;
use std::time::Duration;

/// The name of hosted repositories among upstreams, in metrics, logs and records.
const LABEL: &str = HOSTED;

/// The header of manifests that were pushed here, with the value `hosted`: a name without an upstream may mean either.
pub(crate) const SOURCE: HeaderName = HeaderName::from_static("x-roadstead-source");

/// Bytes and time of a refused body that are taken and thrown away.
const REST_BYTES_MAX: u64 = 8 * 1024 * 1024;
const REST_WAIT_MAX: Duration = Duration::from_secs(2);

/// A request for a hosted repository.
pub(super) struct HostedRequest<'a> {
    pub(super) handler: &'a Handler,
    pub(super) hosted: &'a Hosted,
    pub(super) request: &'a Request<'a>,
    pub(super) repository: &'a Repository,
    pub(super) visitor: Option<&'a Visitor<'a>>,
    pub(super) caller: &'a Caller<'a>,
}

/// The answer for a hosted repository, or that there is none here and upstream is asked.
pub(super) enum Answered {
    /// It.
    Reply(Reply),
    /// There is none.
    Falls,
}

impl HostedRequest<'_> {
    /// Answers it. `fall`: when an upstream is asked instead.
    pub(super) async fn answer(
        &self,
        mut body: Incoming,
        fall: Option<Fall>,
        exchange: &mut Exchange,
    ) -> Result<Answered, ApiError> {
        self.note(fall, exchange);
        let reply = if self.request.action == Action::Write || self.is_upload() {
            let announced = body.size_hint().lower();
            let written = self.write(&mut body, exchange).await;
            if written.is_err() {
                let headers = &self.request.head.headers;
                throw_away(&mut body, headers, announced, REST_BYTES_MAX, REST_WAIT_MAX).await;
            }
            written
        } else {
            self.read(fall, exchange).await
        };
        match reply {
            Ok(reply) => Ok(Answered::Reply(reply)),
            Err(Failed::Falls) => Ok(Answered::Falls),
            Err(Failed::Error(error)) => Err(error),
        }
    }

    async fn read(&self, fall: Option<Fall>, exchange: &mut Exchange) -> Result<Reply, Failed> {
        let falls = |error: &HostedError| match (fall, error) {
            (None | Some(Fall::Never), _) => false,
            (Some(_), HostedError::Refused(Refused::NoRepository)) => true,
            (Some(Fall::Tag), error) => error.is_absent(),
            (Some(Fall::Repository), _) => false,
        };
        // Whoever reads is told nothing of what was; and an upstream is not asked for a name that is kept.
        let hidden = |error: HostedError| {
            let is_deleted = matches!(error, HostedError::Refused(Refused::Deleted { .. }));
            if is_deleted {
                Refused::NoRepository.into()
            } else {
                error
            }
        };
        let verb = match self.request.route {
            Route::Tags { .. } | Route::Referrers { .. } => Verb::List,
            Route::Ping
            | Route::Catalog(_)
            | Route::Manifest { .. }
            | Route::Blob { .. }
            | Route::Upload { .. } => Verb::Pull,
        };
        self.may(verb, exchange)?;
        let answered = match &self.request.route {
            Route::Manifest { reference, .. } => self.manifest(reference, exchange).await,
            Route::Blob { digest, .. } => self.blob(digest, exchange).await,
            Route::Tags { page, .. } => self.tags(page).await,
            Route::Referrers {
                digest,
                artifact_type,
                cursor,
                ..
            } => {
                self.referrers(digest, artifact_type.as_deref(), cursor)
                    .await
            }
            Route::Ping | Route::Catalog(_) | Route::Upload { .. } => {
                return Err(ApiError::no_repository().into());
            }
        };
        let is_of_referrers = matches!(self.request.route, Route::Referrers { .. });
        answered.or_else(|error| match error {
            Asked::Hosted(error) if falls(&error) => Err(Failed::Falls),
            Asked::Hosted(error) => {
                let error = hidden(error);
                let is_absent = matches!(error, HostedError::Refused(Refused::NoRepository));
                // Nothing refers to what is not there: clients take 404 for a registry without the API.
                if is_absent && is_of_referrers {
                    Ok(self.no_referrers())
                } else {
                    Err(Failed::Error(error.into()))
                }
            }
            Asked::Api(error) => Err(Failed::Error(error)),
        })
    }

    async fn write(&self, body: &mut Incoming, exchange: &mut Exchange) -> Result<Reply, Failed> {
        places::refuse_pages(self.request, self.hosted.names())?;
        let method = &self.request.head.method;
        let is_delete = *method == Method::DELETE;
        let verb = match self.request.route {
            // A client that may push may end what it has begun.
            Route::Manifest { .. } | Route::Blob { .. } if is_delete => Verb::Delete,
            Route::Ping
            | Route::Catalog(_)
            | Route::Manifest { .. }
            | Route::Blob { .. }
            | Route::Upload { .. }
            | Route::Tags { .. }
            | Route::Referrers { .. } => Verb::Push,
        };
        self.may(verb, exchange)?;
        let reply = match &self.request.route {
            Route::Manifest { reference, .. } if is_delete => {
                let by = self.by();
                let deleted = self.hosted.delete_manifest(self.repository, reference, &by);
                deleted.await.map_err(ApiError::from)?;
                accepted()
            }
            Route::Blob { digest, .. } if is_delete => {
                let by = self.by();
                let deleted = self.hosted.delete_blob(self.repository, digest, &by);
                deleted.await.map_err(ApiError::from)?;
                accepted()
            }
            Route::Manifest { reference, .. } if *method == Method::PUT => {
                self.put_manifest(reference, body, exchange).await?
            }
            Route::Upload { session, .. } => self.upload(session, body).await?,
            Route::Manifest { .. } => {
                return Err(ApiError::no_such_method("GET, HEAD, PUT and DELETE").into());
            }
            Route::Blob { .. } => {
                return Err(ApiError::no_such_method("GET, HEAD and DELETE").into());
            }
            Route::Tags { .. } | Route::Referrers { .. } | Route::Ping | Route::Catalog(_) => {
                return Err(ApiError::no_such_method("GET").into());
            }
        };
        Ok(reply)
    }

    /// Notes for logs and counts what is asked for.
    fn note(&self, fall: Option<Fall>, exchange: &mut Exchange) {
        let (kind, reference) = match &self.request.route {
            Route::Manifest { reference, .. } => (Kind::Manifest, Some(reference.clone())),
            Route::Blob { digest, .. } => (Kind::Blob, Some(Reference::Digest(*digest))),
            Route::Referrers { digest, .. } => (Kind::Referrers, Some(Reference::Digest(*digest))),
            Route::Tags { .. } => (Kind::Tags, None),
            Route::Upload { .. } => (Kind::Upload, None),
            Route::Ping | Route::Catalog(_) => (Kind::Other, None),
        };
        exchange.asks_for(kind, reference);
        if fall.is_none()
            && let Ok(label) = UpstreamName::parse(LABEL)
        {
            exchange.goes_to(&label, self.repository);
        }
    }

    /// Lets the client of the request do something with the repository.
    fn may(&self, verb: Verb, exchange: &mut Exchange) -> Result<(), ApiError> {
        let named = Named::by(&self.request.route);
        let tag = named.and_then(|it| it.tag);
        let path = self.path();
        let Some(visitor) = self.visitor else {
            return self.may_without_rules(verb);
        };
        let resource = Resource::repository(self.repository.as_str());
        visitor.may_with(verb, &resource, (LABEL, tag), self.request, path, exchange)?;
        if visitor.who.is_anonymous() && self.is_private() {
            // The same for what there is and what there is not.
            let asked = visitor.asks(verb, path, self.request.head, None);
            return Err(asked.unwrap_or_else(ApiError::no_repository));
        }
        Ok(())
    }

    /// Without access rules this machine may do all, and others pull what is public.
    fn may_without_rules(&self, verb: Verb) -> Result<(), ApiError> {
        match verb {
            _ if is_local(self.caller, self.request, self.hosted) => Ok(()),
            // What a page writes was refused before, by the header that tells it.
            Verb::Push | Verb::Delete if self.caller.is_this_machine(self.request.head) => Ok(()),
            Verb::Pull | Verb::List if self.is_private() => Err(ApiError::no_repository()),
            Verb::Pull | Verb::List => Ok(()),
            Verb::Push | Verb::Delete | Verb::Admin => Err(ApiError::may_not(
                "pushing and deleting from other machines needs an identity: configure [access] (users, tokens), and log in",
            )),
        }
    }

    /// True if clients without an identity get nothing of it.
    fn is_private(&self) -> bool {
        let namespace = self.hosted.names().of(self.repository);
        // One that there is not looks like one that is hidden.
        namespace.is_none_or(|it| it.visibility == Visibility::Private)
    }

    /// True if the client may pull from a hosted repository.
    fn sees(&self, repository: &Repository) -> bool {
        sees(
            self.hosted,
            self.visitor,
            self.caller,
            self.request,
            repository,
        )
    }

    /// True if the client may pull from a mirrored repository.
    fn sees_mirrored(&self, source: &Source) -> bool {
        let is_known = self.visitor.is_some_and(|it| !it.who.is_anonymous());
        let is_allowed = self.visitor.is_none_or(|it| it.sees(source));
        is_allowed && self.handler.mirror().visibility().may_be_listed(is_known)(source)
    }

    /// The repository as the client names it.
    fn path(&self) -> &str {
        match &self.request.route {
            Route::Manifest { path, .. }
            | Route::Blob { path, .. }
            | Route::Upload { path, .. }
            | Route::Tags { path, .. }
            | Route::Referrers { path, .. } => path,
            Route::Ping | Route::Catalog(_) => "",
        }
    }

    /// Whoever asks, for the history: an account, or an address.
    fn by(&self) -> String {
        let account = self.visitor.and_then(|it| it.who.account());
        account.map_or_else(|| self.caller.source().to_string(), Cow::into_owned)
    }

    /// Whoever may go on with an upload: an account, or anybody without one.
    fn owner(&self) -> String {
        let account = self.visitor.and_then(|it| it.who.account());
        account.map(Cow::into_owned).unwrap_or_default()
    }

    fn is_upload(&self) -> bool {
        matches!(self.request.route, Route::Upload { .. })
    }
}

/// True if a client may pull from a hosted repository: the one question of mounts and lists.
pub(super) fn sees(
    hosted: &Hosted,
    visitor: Option<&Visitor<'_>>,
    caller: &Caller<'_>,
    request: &Request<'_>,
    repository: &Repository,
) -> bool {
    let namespace = hosted.names().of(repository);
    let is_private = namespace.is_none_or(|it| it.visibility == Visibility::Private);
    match visitor {
        None => !is_private || is_local(caller, request, hosted),
        Some(visitor) => {
            let resource = Resource::repository(repository.as_str());
            visitor.sees_resource(&resource) && !(is_private && visitor.who.is_anonymous())
        }
    }
}

/// True if this machine asks, and no web page that it shows.
fn is_local(caller: &Caller<'_>, request: &Request<'_>, hosted: &Hosted) -> bool {
    caller.is_this_machine(request.head) && places::is_no_page(request.host, hosted.names())
}

/// The parts of a sorted list of hosted repositories of which [`sees`] may be true.
pub(super) fn ranges(
    hosted: &Hosted,
    visitor: Option<&Visitor<'_>>,
    caller: &Caller<'_>,
    request: &Request<'_>,
) -> Vec<NameRange> {
    let names = hosted.names();
    match visitor {
        None => {
            let with_private = caller.is_this_machine(request.head);
            names.ranges(&[String::new()], with_private)
        }
        Some(visitor) => names.ranges(&visitor.beginnings(), !visitor.who.is_anonymous()),
    }
}

fn accepted() -> Reply {
    Reply::new(StatusCode::ACCEPTED, Content::Empty, Outcome::Hit)
}

/// The reason why there is no answer.
enum Failed {
    Falls,
    Error(ApiError),
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// The reason why there is nothing to be given.
enum Asked {
    Hosted(HostedError),
    Api(ApiError),
}

impl From<HostedError> for Asked {
    fn from(error: HostedError) -> Self {
        Self::Hosted(error)
    }
}

impl From<ApiError> for Asked {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}
