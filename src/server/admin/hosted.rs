//! What is hosted here: `/api/v1/namespaces`, `/api/v1/uploads`, `/api/v1/tags/restore`, and what `events`, `removal` and
//! `images` have.

mod events;
mod images;
mod removal;

use super::answer::{AdminBody, full, with_type};
use super::error::AdminError;
use super::query::Query;
use crate::audit::Change;
use crate::clock::Timestamp;
use crate::format;
use crate::hosted::{
    Collected, Deleted, Hosted, HostedError, Namespace, NamespaceWanted, Refused, SessionInfo,
    Visibility,
};
use crate::mirror::{Mirror, Vacancy};
use crate::oci::{Digest, Repository, Tag};
use crate::server::http::JSON;
use bytes::Bytes;
pub use events::{EventInfo, EventList, TagHistory, TagMoveInfo};
use http::{Method, Response, StatusCode, request};
pub use removal::{DeletedInfo, DeletedList, Expired, ExpiringTag, ExpiryPlan};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use images::{HostedImage, HostedPage, HostedRepositoryUsage, HostedUsage};

const NAMESPACES: &str = "/api/v1/namespaces";
const UPLOADS: &str = "/api/v1/uploads";
const RESTORE: &str = "/api/v1/tags/restore";
const HISTORY: &str = "/api/v1/tags/history";
const EVENTS: &str = "/api/v1/events";
const EXPIRE: &str = "/api/v1/expire";
const DELETED: &str = "/api/v1/deleted";
const REPOSITORIES: &str = "/api/v1/repositories";
const RESTORE_REPOSITORY: &str = "/api/v1/repositories/restore";
const RESTORE_NAMESPACE: &str = "/api/v1/namespaces/restore";
const COLLECT: &str = "/api/v1/namespaces/gc";

/// Whoever acts, in the history of tags.
const OPERATOR: &str = "operator";

/// A namespace, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceInfo {
    /// Its name.
    pub name: String,
    /// `public` or `private`.
    pub visibility: String,
    /// Bytes that it may take.
    pub quota: Option<u64>,
    /// Manifests may name what is not there.
    pub sparse: bool,
    /// Bytes of its content, each digest once.
    pub bytes: u64,
}

/// All namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceList {
    /// They.
    pub namespaces: Vec<NamespaceInfo>,
}

/// Uploads under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadList {
    /// They.
    pub uploads: Vec<SessionInfo>,
}

/// The outcome of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedChange {
    /// Something is other than before.
    pub changed: bool,
}

/// Deleted content: what has gone now, and what could go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedContent {
    /// Deleted manifests that have gone now, and cannot be restored.
    pub gone_manifests: u64,
    /// Blobs that have gone now.
    pub gone_blobs: u64,
    /// Their bytes.
    pub gone_bytes: u64,
    /// Deleted manifests that can be restored.
    pub manifests: u64,
    /// Blobs that only deleted manifests name, or none, and that can go.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Likewise, but a client was told that they are there, and may count on it.
    pub leased_blobs: u64,
    /// Their bytes.
    pub leased_bytes: u64,
    /// When the last of these leases ends, in milliseconds since 1970.
    pub leased_until: Option<Timestamp>,
}

/// True if a path is of what is hosted.
pub(super) fn is_of_hosted(path: &str) -> bool {
    matches!(
        path,
        NAMESPACES
            | UPLOADS
            | RESTORE
            | HISTORY
            | EVENTS
            | EXPIRE
            | DELETED
            | REPOSITORIES
            | RESTORE_REPOSITORY
            | RESTORE_NAMESPACE
            | COLLECT
            | images::IMAGES
            | images::USAGE
    )
}

/// Answers a request for one of the paths.
pub(super) async fn answer(
    hosted: Option<&Hosted>,
    mirror: &Mirror,
    stop: &CancellationToken,
    head: &request::Parts,
    changes: &mut Vec<Change>,
) -> Response<AdminBody> {
    match ask(hosted, mirror, stop, head, changes).await {
        Ok((status, body)) => full(with_type(status, JSON, body)),
        Err(error) => error.into_response(),
    }
}

/// True if a request that mirrored images have as well is about a hosted one.
pub(super) fn is_of_image(hosted: Option<&Hosted>, head: &request::Parts) -> bool {
    let query = head.uri.query().unwrap_or_default();
    hosted.is_some_and(|it| images::is_of_hosted(it, &head.method, head.uri.path(), query))
}

type Answer = Result<(StatusCode, Bytes), AdminError>;

async fn ask(
    hosted: Option<&Hosted>,
    mirror: &Mirror,
    stop: &CancellationToken,
    head: &request::Parts,
    changes: &mut Vec<Change>,
) -> Answer {
    let hosted = hosted.ok_or_else(|| {
        let why = "nothing is hosted here: hosted.enabled is not set in the configuration";
        AdminError::new(StatusCode::NOT_FOUND, why)
    })?;
    let query = Query::parse(head.uri.query().unwrap_or_default());
    match head.uri.path() {
        NAMESPACES => namespaces(hosted, mirror, &head.method, query, changes).await,
        UPLOADS => uploads(hosted, &head.method, query).await,
        HISTORY => events::history(hosted, &head.method, query).await,
        EVENTS => events::events(hosted, stop, &head.method, query).await,
        EXPIRE => removal::expire(hosted, &head.method, query, changes).await,
        DELETED => removal::deleted(hosted, &head.method, query).await,
        REPOSITORIES => removal::repositories(hosted, &head.method, query, changes).await,
        RESTORE_REPOSITORY => {
            removal::restore_repository(hosted, &head.method, query, changes).await
        }
        RESTORE_NAMESPACE => removal::restore_namespace(hosted, &head.method, query, changes).await,
        COLLECT => collect(hosted, &head.method, query, changes).await,
        RESTORE => restore(hosted, &head.method, query, changes).await,
        path => images::answer(hosted, &head.method, path, query).await,
    }
}

async fn namespaces(
    hosted: &Hosted,
    mirror: &Mirror,
    method: &Method,
    mut query: Query,
    changes: &mut Vec<Change>,
) -> Answer {
    match *method {
        Method::GET | Method::HEAD => {
            query.end()?;
            let all = hosted.namespaces().await?;
            let namespaces = all.iter().map(info).collect();
            json(StatusCode::OK, &NamespaceList { namespaces })
        }
        Method::POST => {
            let takes_name = query.flag("take_name")?;
            let wanted = wanted(&mut query, None)?;
            if hosted.names().namespace(&wanted.name).is_some() {
                let why = format!("there is a namespace {:?} already", wanted.name);
                return Err(AdminError::new(StatusCode::CONFLICT, why));
            }
            if !takes_name {
                may_be_named(mirror, &wanted.name).await?;
            }
            change(hosted, wanted, true, "namespace created", changes).await
        }
        Method::PUT => {
            let name = query.need("name")?;
            let before = hosted.names().namespace(&name);
            let before = before.ok_or_else(|| AdminError::from(Refused::NoNamespace(name)))?;
            is_not_of_the_file(hosted, &before.name)?;
            let wanted = wanted(&mut query, Some(before))?;
            change(hosted, wanted, false, "namespace changed", changes).await
        }
        Method::DELETE => {
            let name = query.need("name")?;
            let (content, forever) = (query.flag("content")?, query.flag("forever")?);
            query.end()?;
            is_not_of_the_file(hosted, &name)?;
            hosted
                .drop_namespace(&name, content, forever, OPERATOR)
                .await?;
            let after = serde_json::json!({ "content": content, "forever": forever });
            changes.push(told("namespace deleted", name, after));
            json(StatusCode::OK, &HostedChange { changed: true })
        }
        _ => Err(AdminError::method("GET, HEAD, POST, PUT, DELETE")),
    }
}

/// Refuses to change what the configuration says of a namespace: the next start would undo it.
fn is_not_of_the_file(hosted: &Hosted, name: &str) -> Result<(), AdminError> {
    if hosted.config().namespaces.iter().any(|it| it.name == name) {
        let why = format!(
            "the namespace {name:?} is in the configuration ([[hosted.namespace]]): change it there, and `roadstead reload`"
        );
        return Err(AdminError::new(StatusCode::CONFLICT, why));
    }
    Ok(())
}

async fn change(
    hosted: &Hosted,
    wanted: NamespaceWanted,
    only_new: bool,
    what: &'static str,
    changes: &mut Vec<Change>,
) -> Answer {
    let name = wanted.name.clone();
    let after = serde_json::json!({
        "visibility": wanted.visibility.name(), "quota": wanted.quota, "sparse": wanted.sparse,
    });
    let is_new = hosted.put_namespace(wanted, only_new, OPERATOR).await?;
    changes.push(told(what, name, after));
    let status = if only_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    json(status, &HostedChange { changed: is_new })
}

/// Reads what a namespace is to be; what is not said stays as before.
fn wanted(
    query: &mut Query,
    before: Option<NamespaceWanted>,
) -> Result<NamespaceWanted, AdminError> {
    let mut wanted = match before {
        Some(before) => before,
        None => NamespaceWanted {
            name: query.need("name")?,
            visibility: Visibility::default(),
            quota: None,
            sparse: false,
        },
    };
    match query.take("visibility")?.as_deref() {
        None => {}
        Some("public") => wanted.visibility = Visibility::Public,
        Some("private") => wanted.visibility = Visibility::Private,
        Some(_) => return Err(AdminError::bad("visibility must be public or private")),
    }
    match query.take("quota")?.as_deref() {
        None => {}
        Some("none") => wanted.quota = None,
        Some(bytes) => {
            let bytes = bytes
                .parse()
                .map_err(|_| AdminError::bad("quota must be a number of bytes, or none"));
            wanted.quota = Some(bytes?);
        }
    }
    match query.take("sparse")?.as_deref() {
        None => {}
        Some("true") => wanted.sparse = true,
        Some("false") => wanted.sparse = false,
        Some(_) => return Err(AdminError::bad("sparse must be true or false")),
    }
    query.end()?;
    Ok(wanted)
}

/// Refuses a name that means something else here.
async fn may_be_named(mirror: &Mirror, name: &str) -> Result<(), AdminError> {
    let conflict = |why: String| Err(AdminError::new(StatusCode::CONFLICT, why));
    if mirror.directory().names().any(|it| it.as_str() == name) {
        return conflict(format!("{name:?} is the name of an upstream"));
    }
    let Ok(repository) = Repository::parse(&format!("{name}/{name}")) else {
        return Ok(());
    };
    match mirror.for_hosted().vacancy(&repository).await {
        Vacancy::Vacant => Ok(()),
        Vacancy::Taken(upstream) => conflict(format!(
            "{upstream}, the default upstream, has repositories below {name}/, which clients pull without its name"
        )),
        Vacancy::Unknown(upstream) => conflict(format!(
            "{upstream}, the default upstream, does not say whether it has repositories below {name}/. Clients that pull them without its name would get hosted ones; take_name=true (--take-name) accepts that"
        )),
    }
}

async fn uploads(hosted: &Hosted, method: &Method, mut query: Query) -> Answer {
    match *method {
        Method::GET | Method::HEAD => {
            query.end()?;
            let uploads = hosted.sessions();
            json(StatusCode::OK, &UploadList { uploads })
        }
        Method::DELETE => {
            let id = query.need("id")?;
            query.end()?;
            hosted.cancel_any(&id).await?;
            json(StatusCode::OK, &HostedChange { changed: true })
        }
        _ => Err(AdminError::method("GET, HEAD, DELETE")),
    }
}

async fn collect(
    hosted: &Hosted,
    method: &Method,
    query: Query,
    changes: &mut Vec<Change>,
) -> Answer {
    query.end()?;
    let gone = match *method {
        Method::GET | Method::HEAD => Collected::default(),
        Method::POST => {
            let gone = hosted.let_go(OPERATOR).await?;
            let after = serde_json::json!({
                "manifests": gone.manifests, "blobs": gone.blobs, "bytes": gone.bytes,
            });
            changes.push(told("deleted content let go", String::new(), after));
            gone
        }
        _ => return Err(AdminError::method("GET, HEAD, POST")),
    };
    let Deleted {
        manifests,
        blobs,
        bytes,
        leased_blobs,
        leased_bytes,
        leased_until,
    } = hosted.garbage().await?;
    let answer = DeletedContent {
        gone_manifests: gone.manifests,
        gone_blobs: gone.blobs,
        gone_bytes: gone.bytes,
        manifests,
        blobs,
        bytes,
        leased_blobs,
        leased_bytes,
        leased_until,
    };
    json(StatusCode::OK, &answer)
}

async fn restore(
    hosted: &Hosted,
    method: &Method,
    mut query: Query,
    changes: &mut Vec<Change>,
) -> Answer {
    if *method != Method::POST {
        return Err(AdminError::method("POST"));
    }
    let wrong = |error: &dyn std::fmt::Display| AdminError::bad(error.to_string());
    let repository = query.need("repository")?;
    let repository = Repository::parse(&repository).map_err(|error| wrong(&error))?;
    let tag = Tag::parse(&query.need("tag")?).map_err(|error| wrong(&error))?;
    let digest = query.take("digest")?.map(|text| Digest::parse(&text));
    let digest = digest.transpose().map_err(|error| wrong(&error))?;
    query.end()?;
    let is_moved = hosted
        .restore_tag(&repository, &tag, digest, OPERATOR)
        .await?;
    let after = digest.map_or(Value::Null, |it| it.to_string().into());
    changes.push(told("tag restored", format!("{repository}:{tag}"), after));
    json(StatusCode::OK, &HostedChange { changed: is_moved })
}

fn info(namespace: &Namespace) -> NamespaceInfo {
    let NamespaceWanted {
        name,
        visibility,
        quota,
        sparse,
    } = &namespace.wanted;
    NamespaceInfo {
        name: name.clone(),
        visibility: visibility.name().to_owned(),
        quota: *quota,
        sparse: *sparse,
        bytes: namespace.bytes,
    }
}

fn told(change: &'static str, name: String, after: Value) -> Change {
    Change {
        change,
        name,
        before: Value::Null,
        after,
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let failed = |error: serde_json::Error| {
        AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    Ok((status, format::json(value).map_err(failed)?.into()))
}

impl From<Refused> for AdminError {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::NoNamespace(_)
            | Refused::NoRepository
            | Refused::NoManifest
            | Refused::NoBlob
            | Refused::NoTag => StatusCode::NOT_FOUND,
            Refused::Deleted { .. }
            | Refused::Missing(_)
            | Refused::Immutable { .. }
            | Refused::Condition(_)
            | Refused::HasTags(_)
            | Refused::InUse(_)
            | Refused::OverQuota { .. } => StatusCode::CONFLICT,
        };
        Self::new(status, refused.to_string())
    }
}

impl From<HostedError> for AdminError {
    fn from(error: HostedError) -> Self {
        let status = match error {
            HostedError::Refused(refused) => return refused.into(),
            HostedError::Name(_) | HostedError::Manifest(_) | HostedError::Digest(_) => {
                StatusCode::BAD_REQUEST
            }
            HostedError::NoUpload => StatusCode::NOT_FOUND,
            HostedError::Offset(_)
            | HostedError::Writing(_)
            | HostedError::OverQuota { .. }
            | HostedError::Held(_)
            | HostedError::Immutable(_) => StatusCode::CONFLICT,
            HostedError::TooManyFollowers(_) => StatusCode::TOO_MANY_REQUESTS,
            HostedError::Catalogue(_)
            | HostedError::Store(_)
            | HostedError::TooMany
            | HostedError::Damaged(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
