//! Requests to a token server (distribution, token.md and oauth.md), and its answers.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use super::body::BlobBody;
use super::budget::Share;
use super::login::Login;
use super::request::Endpoint;
use super::token::{Token, TokenKey};
use super::{Credentials, FetchError, Secret, coding, redirect, status};
use crate::net::{Named, Way};
use crate::telemetry::Kind;

/// Asks the token server: GET first, which every server knows (distribution, token.md), and which
/// is one request where containerd's POST before GET is often two. With a password, a server that
/// does not know it (404, 405, 400) is asked by the `OAuth2` form (distribution, oauth.md), which is
/// the only way for a refresh token.
pub(super) async fn fetch_token(
    endpoint: &Endpoint,
    realm: &Url,
    key: &TokenKey,
    login: Option<&Login>,
    share: Share<'_>,
) -> Result<Token, FetchError> {
    let credentials = match login {
        Some(Login::Refresh(token)) => {
            let form = refresh_form(key, token);
            let post = post_request(realm, form)?;
            return Ok(ask_server(endpoint, post, share).await?);
        }
        Some(Login::Basic(credentials)) => Some(credentials),
        Some(Login::Bearer(_)) | None => None,
    };
    let get = get_request(realm, key, credentials)?;
    match (ask_server(endpoint, get, share).await, credentials) {
        (
            Err(Refusal::Status(
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST,
            )),
            Some(credentials),
        ) => {
            let post = post_request(realm, password_form(key, credentials))?;
            ask_server(endpoint, post, share).await
        }
        (result, _) => result,
    }
    .map_err(FetchError::from)
}

/// Reason why a token server gave no token.
enum Refusal {
    /// It answered with this status.
    Status(StatusCode),
    /// Anything else.
    Error(FetchError),
}

impl Refusal {
    /// True if a server fails like this for a moment.
    fn momentary(&self) -> bool {
        match self {
            Self::Status(status) => status.is_server_error(),
            Self::Error(error) => matches!(error, FetchError::Broken(_)),
        }
    }
}

impl From<Refusal> for FetchError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Status(StatusCode::UNAUTHORIZED) => Self::Unauthorized,
            Refusal::Status(StatusCode::FORBIDDEN) => Self::Denied,
            Refusal::Status(status) => Self::Token(format!("answered status {}", status.as_u16())),
            // Not the registry's connection: asking the registry again would only ask for a token again.
            Refusal::Error(error @ FetchError::Broken(_)) => Self::Token(error.to_string()),
            Refusal::Error(error) => error,
        }
    }
}

/// Asks once; once more when the server fails as servers do for a moment.
async fn ask_server(
    endpoint: &Endpoint,
    request: Request<Full<Bytes>>,
    share: Share<'_>,
) -> Result<Token, Refusal> {
    match ask_once(endpoint, request.clone(), share).await {
        Err(refusal) if refusal.momentary() && !share.tokens.is_spent() => {
            tokio::time::sleep(AGAIN_AFTER.min(share.deadline.left())).await;
            endpoint.client.count_retry();
            ask_once(endpoint, request, share).await
        }
        result => result,
    }
}

async fn ask_once(
    endpoint: &Endpoint,
    request: Request<Full<Bytes>>,
    share: Share<'_>,
) -> Result<Token, Refusal> {
    let asked = Instant::now();
    let form = request.method() == Method::POST;
    let client = &endpoint.client;
    let landed = follow(endpoint, request, share).await;
    let response = landed.map_err(Refusal::Error)?;
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let retry_after = status::retry_after(response.headers());
        return Err(Refusal::Error(FetchError::RateLimited { retry_after }));
    }
    // Some give 201, and proxies that change what passes 203.
    let taken = matches!(status.as_u16(), 200 | 201 | 203);
    if !taken && (!form || status != StatusCode::BAD_REQUEST) {
        status::drain(client, response, share.deadline).await;
        return Err(Refusal::Status(status));
    }
    let headers = response.headers().clone();
    let body = BlobBody::new(client, response, TOKEN_IDLE_TIMEOUT)
        .whole(ANSWER, TOKEN_BODY_BYTES_MAX, share.deadline)
        .await;
    // Identity was asked for; some encode whatever they send.
    let body = match body {
        Ok(body) => coding::plain(ANSWER, &headers, body, TOKEN_BODY_BYTES_MAX).await,
        Err(error) => Err(error),
    };
    if status == StatusCode::BAD_REQUEST {
        let invalid = body.is_ok_and(|body| is_invalid_grant(&body));
        let meant = if invalid {
            StatusCode::UNAUTHORIZED
        } else {
            status
        };
        return Err(Refusal::Status(meant));
    }
    let body = body.map_err(Refusal::Error)?;
    Token::parse(&body, asked, status::date(&headers)).map_err(Refusal::Error)
}

/// Sends a request, and goes where the answers to a GET point. What holds credentials goes to the token server's
/// own scheme, host and port alone.
async fn follow(
    endpoint: &Endpoint,
    mut request: Request<Full<Bytes>>,
    share: Share<'_>,
) -> Result<Response<Incoming>, FetchError> {
    let not_a_url = |_| FetchError::Protocol("token realm refused: not a URL".to_owned());
    let realm = Url::parse(&request.uri().to_string()).map_err(not_a_url)?;
    let client = &endpoint.client;
    let secret = request.headers().contains_key(AUTHORIZATION);
    let mut visited = vec![realm.clone()];
    request.extensions_mut().insert(Named::TokenServer);
    loop {
        if share.tokens.is_spent() {
            return Err(FetchError::Token(
                "gives none however often it is asked".to_owned(),
            ));
        }
        let home = visited.last().is_some_and(|url| endpoint.is_home(url));
        let way = if home { Way::Lane(0) } else { Way::Unchecked };
        let response = client
            .send_from(
                share.tokens,
                Kind::Other,
                request.clone(),
                share.deadline,
                way,
            )
            .await?;
        if request.method() != Method::GET {
            return Ok(response);
        }
        let next = redirect::target(response.status(), response.headers(), &visited, &realm)
            .map_err(|error| FetchError::Token(error.to_string()))?;
        let Some(next) = next else {
            return Ok(response);
        };
        status::drain(client, response, share.deadline).await;
        if secret && next.origin() != realm.origin() {
            let why = "redirects to another host, where a password does not go";
            return Err(FetchError::Token(why.to_owned()));
        }
        if next.origin() != realm.origin() {
            request.extensions_mut().remove::<Named>();
        }
        *request.uri_mut() = redirect::uri(&next)?;
        visited.push(next);
    }
}

/// RFC 6749 section 5.2: this is how a refresh token or password that is no good is answered, by 400.
fn is_invalid_grant(body: &[u8]) -> bool {
    let answer: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let error = answer
        .as_ref()
        .and_then(|answer| answer.get("error")?.as_str());
    error == Some("invalid_grant")
}

/// `GET realm?service=…&scope=…` with the credentials, if any (token.md, "Requesting a token").
fn get_request(
    realm: &Url,
    key: &TokenKey,
    credentials: Option<&Credentials>,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &key.service {
            query.append_pair("service", service);
        }
        // Each scope on its own: some servers do not split them.
        for scope in key.scope.split(' ').filter(|scope| !scope.is_empty()) {
            query.append_pair("scope", scope);
        }
        if let Some(credentials) = credentials {
            query.append_pair("account", &credentials.username);
        }
    }
    let mut request = token_request(Method::GET, &url, Bytes::new())?;
    if let Some(credentials) = credentials {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, basic(credentials)?);
    }
    Ok(request)
}

/// `grant_type=password` (oauth.md, "Getting a token").
fn password_form(key: &TokenKey, credentials: &Credentials) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "password")
        .append_pair("client_id", "roadstead")
        .append_pair("service", key.service.as_deref().unwrap_or_default())
        .append_pair("scope", &key.scope)
        .append_pair("username", &credentials.username)
        .append_pair("password", credentials.password.expose())
        .finish()
}

/// `grant_type=refresh_token` (oauth.md, "Refreshing a token").
fn refresh_form(key: &TokenKey, token: &Secret) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "roadstead")
        .append_pair("service", key.service.as_deref().unwrap_or_default())
        .append_pair("scope", &key.scope)
        .append_pair("refresh_token", token.expose())
        .finish()
}

fn post_request(realm: &Url, form: String) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut request = token_request(Method::POST, realm, Bytes::from(form))?;
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form_type);
    Ok(request)
}

fn token_request(
    method: Method,
    url: &Url,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let uri = redirect::uri(url)?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(ACCEPT, json);
    Ok(request)
}

/// RFC 7617.
pub(super) fn basic(credentials: &Credentials) -> Result<HeaderValue, FetchError> {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose());
    let text = format!("Basic {}", BASE64.encode(pair));
    let mut header = HeaderValue::try_from(text)
        .map_err(|_| FetchError::Protocol("the credentials fit no header".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

const ANSWER: &str = "the token server's answer";
/// A token is a few KiB; ECR's are 4, those with many groups in them up to 20.
const TOKEN_BODY_BYTES_MAX: usize = 64 * 1024;
/// The request's deadline bounds it anyhow; this ends a stuck answer before that.
const TOKEN_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A server behind a load balancer is taken out within about a second; one that restarts is back in less.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
