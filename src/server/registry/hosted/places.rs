//! The place that a request's name means, and who may write from where.

use super::HostedRequest;
use crate::hosted::{Fall, Hosted, HostedError, Names, NamespaceWanted, Place, Visibility};
use crate::mirror::{Mirror, Vacancy};
use crate::oci::route::{Action, Route};
use crate::oci::{Repository, UpstreamName};
use crate::server::http::context::Request;
use crate::server::http::error::ApiError;
use http::{HeaderMap, HeaderName, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The place that a request's name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server::registry) enum Target {
    /// A hosted repository.
    Hosted(Repository),
    /// A hosted repository, and behind it an upstream's.
    Overlay(Repository, Fall),
    /// An upstream's.
    Mirrored,
}

impl Target {
    /// The hosted repository, and when an upstream is asked instead.
    pub(in crate::server::registry) fn parts(&self) -> Option<(&Repository, Option<Fall>)> {
        match self {
            Self::Hosted(repository) => Some((repository, None)),
            Self::Overlay(repository, fall) => Some((repository, Some(*fall))),
            Self::Mirrored => None,
        }
    }

    /// The place of a request.
    ///
    /// # Errors
    /// It can be no repository.
    pub(in crate::server::registry) fn of(
        request: &Request<'_>,
        hosted: &Hosted,
        mirror: &Mirror,
    ) -> Result<Self, ApiError> {
        let path = match &request.route {
            Route::Ping | Route::Catalog(_) => return Ok(Self::Mirrored),
            Route::Manifest { path, .. }
            | Route::Blob { path, .. }
            | Route::Upload { path, .. }
            | Route::Tags { path, .. }
            | Route::Referrers { path, .. } => path,
        };
        let own = request.stands_in_for.as_ref().map(UpstreamName::as_str);
        let directory = mirror.directory();
        let ns = request.ns().or(own);
        let addressed = directory.addressed(ns, request.host, Some(path));
        let is_named = addressed.is_some_and(|it| it.is_named);
        let names = hosted.names();
        let place = names.place(request.host, ns, path, is_named);
        Ok(match place.map_err(crate::oci::route::RouteError::from)? {
            Place::Hosted(repository) => Self::Hosted(repository),
            // A name that nobody has yet belongs to whoever pushes to it first, if that is allowed.
            Place::Bare(repository) if is_push(request) => Self::Hosted(repository),
            Place::Bare(_) | Place::Mirrored => {
                let source = directory.resolve(ns, request.host, path).ok();
                let overlay = source
                    .and_then(|it| names.overlay(it.upstream.as_str(), it.repository.as_str()));
                overlay.map_or(Self::Mirrored, |(repository, fall)| {
                    Self::Overlay(repository, fall)
                })
            }
        })
    }
}

/// True if something is to be written.
pub(in crate::server::registry) fn is_push(request: &Request<'_>) -> bool {
    request.action == Action::Write || matches!(request.route, Route::Upload { .. })
}

/// The refusal of a push to what is mirrored, and where to push instead.
pub(in crate::server::registry) fn refuse_mirrored(
    request: &Request<'_>,
    hosted: &Hosted,
) -> ApiError {
    let path = match &request.route {
        Route::Manifest { path, .. }
        | Route::Blob { path, .. }
        | Route::Upload { path, .. }
        | Route::Tags { path, .. }
        | Route::Referrers { path, .. } => path.as_str(),
        Route::Ping | Route::Catalog(_) => "",
    };
    if Repository::parse(path).is_err() {
        return ApiError::bad_repository(path);
    }
    let rest = path.rsplit('/').next().unwrap_or_default();
    let config = hosted.config();
    let host = config.hosts.first();
    let instead = match (host, request.host) {
        (Some(host), _) => format!("push to {host}/<namespace>/{rest}"),
        (None, Some(host)) => format!("push to {host}/<namespace>/{rest}"),
        (None, None) => format!("push to <namespace>/{rest}"),
    };
    ApiError::is_mirrored(path, &instead)
}

/// Refuses writes that a web page has a browser make. Registry clients send none of these headers.
pub(super) fn refuse_pages(request: &Request<'_>, names: &Names) -> Result<(), ApiError> {
    let headers: &HeaderMap = &request.head.headers;
    let text = |name: &HeaderName| headers.get(name).map(|it| it.to_str().unwrap_or("?"));
    let is_foreign_site =
        text(&SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "none" | "same-origin"));
    let is_foreign_origin = text(&header::ORIGIN).is_some_and(|origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        // A name that anybody can have lead here proves nothing.
        let is_ours =
            host == request.host && host.is_some_and(|host| is_sure(host) || names.is_host(host));
        !is_ours
    });
    if is_foreign_site || is_foreign_origin {
        return Err(ApiError::may_not(
            "web pages of other sites cannot push here",
        ));
    }
    Ok(())
}

/// True if a page of another site, whose name leads to this machine, cannot have sent the request (DNS rebinding): a browser
/// says that name as the host, and nothing else of it shows in a GET. Names without a dot are nobody's on the Internet.
pub(super) fn is_no_page(host: Option<&str>, names: &Names) -> bool {
    host.is_none_or(|host| {
        let (name, _port) = crate::oci::name::split_port(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        is_sure(host) || !name.contains('.') || name.ends_with(".localhost") || names.is_host(host)
    })
}

/// True if a host is an address or this machine's own name: no foreign name leads to it.
fn is_sure(host: &str) -> bool {
    let (name, _port) = crate::oci::name::split_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<std::net::IpAddr>().is_ok()
}

impl HostedRequest<'_> {
    /// Sees to it that the namespace of a push is there.
    pub(super) async fn have_namespace(&self) -> Result<(), ApiError> {
        let names = self.hosted.names();
        if names.of(self.repository).is_some() {
            return Ok(());
        }
        if let Some(refused) = self.hosted.kept(self.repository).await? {
            return Err(HostedError::from(refused).into());
        }
        let path = self.repository.as_str();
        let name = path.split('/').next().unwrap_or_default();
        if !self.hosted.config().create_on_push {
            return Err(ApiError::may_not(format!(
                "there is no namespace {name:?} here: create it with `roadstead ns create {name}`, in [[hosted.namespace]], or set hosted.create_on_push"
            )));
        }
        let is_own_host = self.request.host.is_some_and(|host| names.is_host(host));
        if !is_own_host {
            self.is_vacant().await?;
        }
        let wanted = NamespaceWanted {
            name: name.to_owned(),
            // Without access rules nobody elsewhere could ever pull from a private one.
            visibility: if self.visitor.is_none() {
                Visibility::Public
            } else {
                Visibility::Private
            },
            quota: None,
            sparse: false,
        };
        self.hosted.put_namespace(wanted, true, &self.by()).await?;
        tracing::info!(
            namespace = name,
            by = self.by(),
            "a hosted namespace was created by a push"
        );
        Ok(())
    }

    /// Sees that a bare name is nobody else's: who pulls it has it from the default upstream.
    async fn is_vacant(&self) -> Result<(), ApiError> {
        let mirror = self.handler.mirror();
        let behalf = mirror.on_behalf(self.request.client, self.request.via())?;
        let vacancy = behalf
            .scope(mirror.for_hosted().vacancy(self.repository))
            .await;
        let name = self
            .repository
            .as_str()
            .split('/')
            .next()
            .unwrap_or_default();
        let advice = "push to a host name of its own (hosted.hosts), or to another namespace";
        match vacancy {
            Vacancy::Vacant => Ok(()),
            Vacancy::Taken(upstream) => Err(ApiError::may_not(format!(
                "{name}/… is {upstream}'s, the default upstream, and is pulled from there: {advice}"
            ))),
            Vacancy::Unknown(upstream) => Err(ApiError::may_not(format!(
                "{upstream}, the default upstream, does not say whether it has {name}/…, which pulls here would get from it: {advice}, or name it in [[hosted.namespace]]"
            ))),
        }
    }
}
