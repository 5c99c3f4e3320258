//! `/token`: credentials for a token (distribution, docs/spec/auth/token.md and oauth.md).

use super::arrival::Caller;
use super::door::SERVICE;
use super::reply::Reply;
use crate::access::credentials::Credentials;
use crate::access::{Grant, Granted, Resource, Scope, Secret, Wanted, result_of};
use crate::audit::Login;
use crate::hosted::{Hosted, Place};
use crate::mirror::Mirror;
use crate::oci::{Directory, UpstreamName};
use crate::server::http::JSON;
use crate::server::http::access_log::Exchange;
use crate::server::http::error::ApiError;
use crate::server::http::whole::{WholeError, whole};
use bytes::Bytes;
use http::{HeaderValue, Method, header, request};
use hyper::body::Incoming;
use std::time::Duration;
use url::form_urlencoded;

/// The path.
pub(crate) const PATH: &str = "/token";

/// The longest form: a token of an identity provider with many groups, and scopes.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// The longest time that a client may take to send it.
const FORM_WAIT_MAX: Duration = Duration::from_secs(10);

/// Fields of a request for a token, from its query or its form.
#[derive(Debug, Default)]
struct Asked {
    scopes: Vec<String>,
    grant_type: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
    refresh_token: Option<Secret>,
    offline: bool,
}

/// Answers a request for a token.
///
/// # Errors
/// The credentials are wrong, or cannot be checked; the request makes no sense.
pub(crate) async fn answer(
    caller: &Caller<'_>,
    head: &request::Parts,
    body: Incoming,
    exchange: &mut Exchange,
    mirror: &Mirror,
    hosted: Option<&Hosted>,
) -> Result<Reply, ApiError> {
    let door = &caller.arrival.door;
    let asked = match head.method {
        Method::GET => Asked::read(head.uri.query().unwrap_or_default().as_bytes()),
        Method::POST => {
            let form = whole(body, FORM_BYTES_MAX, FORM_WAIT_MAX).await;
            Asked::read(&form.map_err(|error| refused(&error))?)
        }
        _ => return Err(ApiError::malformed("tokens are for GET and POST")),
    };
    let grant = asked.grant(head)?;
    let claim = grant
        .claim()
        .map(|(method, user)| (method, user.map(str::to_owned)));
    let wanted = Wanted {
        grant,
        scopes: Scope::parse_all(asked.scopes.iter().map(String::as_str)),
        offline: asked.offline,
        source: exchange.source(),
        certificate: caller.certificate.cloned(),
    };
    let host = crate::server::http::host::of(head);
    let own = host.and_then(|host| door.stand_in().upstream(host));
    let resources = |name: &str| {
        let mut all = resources(&mirror.directory(), own.as_ref(), host, name);
        all.extend(hosted.and_then(|hosted| hosted_resource(hosted, host, name)));
        all
    };
    let granted = Box::pin(door.guard().issue(wanted, resources)).await;
    if let Ok(granted) = &granted {
        exchange
            .account
            .belongs_to(&granted.who, granted.of_token.clone());
    }
    if let Some((method, user)) = claim {
        exchange.logged_in(&Login {
            method: method.label(),
            result: result_of(&granted).label(),
            user: user.as_deref(),
        });
    }
    // Not our own scheme: the client is to ask its user for a password.
    let challenge = || format!("Basic realm=\"{SERVICE}\"");
    let granted = granted.map_err(|error| ApiError::unidentified(&error, challenge))?;
    let mut reply = Reply::own(JSON, Bytes::from(render(&granted)));
    let never = HeaderValue::from_static("no-store");
    reply.headers.insert(header::CACHE_CONTROL, never);
    Ok(reply)
}

fn refused(error: &WholeError) -> ApiError {
    ApiError::malformed(match error {
        WholeError::TooLong(_) => "the form is longer than 64 KiB",
        WholeError::Late(_) | WholeError::Broken(_) => "the form did not arrive",
    })
}

/// Repositories that a client may mean by this name: it says nothing of `ns` when it asks for a token. `own`: the upstream
/// whose name it has asked at.
fn resources(
    directory: &Directory,
    own: Option<&UpstreamName>,
    host: Option<&str>,
    name: &str,
) -> Vec<Resource<'static>> {
    let by_itself = directory.resolve(own.map(UpstreamName::as_str), host, name);
    let by_ns = directory
        .names()
        .map(|upstream| directory.resolve(Some(upstream.as_str()), None, name));
    let sources = std::iter::once(by_itself).chain(by_ns).flatten();
    sources
        .map(|it| Resource::mirror(it.upstream.as_str(), it.repository.as_str()))
        .collect()
}

/// The hosted repository that a client may mean by this name.
fn hosted_resource(hosted: &Hosted, host: Option<&str>, name: &str) -> Option<Resource<'static>> {
    match hosted.names().place(host, None, name, false) {
        Ok(Place::Hosted(repository) | Place::Bare(repository)) => {
            Some(Resource::repository(repository.as_str()))
        }
        Ok(Place::Mirrored) | Err(_) => None,
    }
}

impl Asked {
    fn read(form: &[u8]) -> Self {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(form) {
            let value = value.into_owned();
            match &*name {
                "scope" => asked.scopes.push(value),
                "grant_type" => asked.grant_type = Some(value),
                "username" => asked.username = Some(value),
                "password" => asked.password = Some(Secret::new(value)),
                "refresh_token" => asked.refresh_token = Some(Secret::new(value)),
                "offline_token" => asked.offline |= value == "true",
                "access_type" => asked.offline |= value == "offline",
                _ => {}
            }
        }
        asked
    }

    fn grant(&self, head: &request::Parts) -> Result<Grant, ApiError> {
        if head.method == Method::GET {
            let given = head.headers.get(header::AUTHORIZATION);
            let Some(given) = given else {
                return Ok(Grant::Anonymous);
            };
            return match given.to_str().ok().and_then(Credentials::parse) {
                Some(Credentials::Basic { user, password }) => {
                    Ok(Grant::Password { user, password })
                }
                Some(Credentials::Bearer(token)) => Ok(Grant::Refresh(token)),
                None => Err(ApiError::malformed(
                    "the Authorization header makes no sense",
                )),
            };
        }
        match (
            self.grant_type.as_deref(),
            &self.username,
            &self.password,
            &self.refresh_token,
        ) {
            (Some("password"), Some(user), Some(password), _) => Ok(Grant::Password {
                user: user.clone(),
                password: password.clone(),
            }),
            (Some("refresh_token"), _, _, Some(token)) => Ok(Grant::Refresh(token.clone())),
            // With 404 clients ask by GET instead; with 403 containerd gives up (containerd#4982).
            _ => Err(ApiError::no_such_grant()),
        }
    }
}

fn render(granted: &Granted) -> String {
    let scope: Vec<String> = granted
        .scopes
        .iter()
        .map(|it| format!("{}:{}:{}", it.kind, it.name, it.actions.join(",")))
        .collect();
    let issued = Duration::from_millis(granted.issued.0);
    let issued = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + issued);
    let token = granted.token.expose();
    let mut json = serde_json::json!({
        "token": token,
        "access_token": token,
        "expires_in": granted.expires_in,
        "issued_at": issued.to_string(),
        "scope": scope.join(" "),
    });
    if let (Some(refresh), Some(object)) = (&granted.refresh, json.as_object_mut()) {
        object.insert("refresh_token".to_owned(), refresh.expose().into());
    }
    json.to_string()
}
