//! What to send as `Authorization`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use lru::LruCache;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded;

use super::body::BlobBody;
use super::deadline::Deadline;
use super::exchange::Endpoint;
use super::login::{Login, Source};
use super::token::{Token, TokenKey, Tokens};
use super::{Credentials, FetchError, realm, status};
use crate::oci::Repository;
use crate::oci::challenge::{self, Challenge};
use crate::telemetry::Kind;

/// The login, challenges and tokens of one endpoint.
pub(super) struct Auth {
    source: Source,
    /// What the endpoint asked for, by repository, so that later requests come with a token at once.
    challenges: Mutex<LruCache<Repository, Arc<Challenge>>>,
    tokens: Tokens,
}

/// A value for `Authorization`.
pub(super) struct Authorization {
    /// The value, marked sensitive.
    pub(super) header: HeaderValue,
    /// The token's key, when it is one.
    token: Option<TokenKey>,
}

impl Auth {
    /// Nothing learnt yet.
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            challenges: Mutex::new(LruCache::new(CHALLENGES_MAX)),
            tokens: Tokens::new(),
        }
    }

    /// What to send with a first request: the answer to the last challenge, if there was one.
    ///
    /// # Errors
    /// Those of the token server.
    pub(super) async fn known(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        deadline: Deadline,
    ) -> Result<Option<Authorization>, FetchError> {
        let known = {
            let mut challenges = self.challenges();
            challenges.get(repository).cloned()
        };
        let Some(challenge) = known else {
            return Ok(None);
        };
        let answer = self
            .answer(endpoint, repository, &challenge, deadline)
            .await;
        if answer.is_err() {
            // Perhaps the token server has moved: the next request asks without, and is told.
            self.challenges().pop(repository);
        }
        answer.map(Some)
    }

    /// What to send after a 401 with these headers.
    ///
    /// # Errors
    /// [`FetchError::Unauthorized`] when no challenge can be answered; those of the token server.
    pub(super) async fn challenged(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        headers: &HeaderMap,
        deadline: Deadline,
    ) -> Result<Authorization, FetchError> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let mut challenges = challenge::parse(values.filter_map(|value| value.to_str().ok()));
        // A token is good for one repository and a few minutes, the password for everything.
        challenges.sort_by_key(|challenge| match challenge {
            Challenge::Bearer { .. } => 0,
            Challenge::Basic => 1,
        });
        let challenge = challenges
            .into_iter()
            .next()
            .ok_or(FetchError::Unauthorized)?;
        let answer = self
            .answer(endpoint, repository, &challenge, deadline)
            .await?;
        self.challenges()
            .put(repository.clone(), Arc::new(challenge));
        Ok(answer)
    }

    /// The endpoint refused this: a token is not used again.
    pub(super) async fn refused(&self, authorization: &Authorization, deadline: Deadline) {
        if let Some(key) = &authorization.token {
            let header = &authorization.header;
            self.tokens.refuse(key, header, deadline).await;
        }
    }

    async fn answer(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        challenge: &Challenge,
        deadline: Deadline,
    ) -> Result<Authorization, FetchError> {
        let login = self.source.login(deadline).await?;
        let (realm, service, scope) = match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
                error: _,
            } => (realm, service, scope),
            Challenge::Basic => {
                let Some(Login::Basic(credentials)) = login.as_deref() else {
                    return Err(FetchError::Unauthorized);
                };
                return Ok(Authorization {
                    header: basic(credentials)?,
                    token: None,
                });
            }
        };
        let key = TokenKey {
            endpoint: endpoint.id.0,
            realm: realm.clone(),
            service: service.clone(),
            scope: scope
                .clone()
                .unwrap_or_else(|| format!("repository:{repository}:pull")),
        };
        let url = realm::check(realm, &endpoint.base, login.is_some())?;
        let credentials = match login.as_deref() {
            Some(Login::Basic(credentials)) => Some(credentials),
            Some(Login::Refresh(_) | Login::Bearer(_)) | None => None,
        };
        let fetch = fetch_token(endpoint, url, &key, credentials, deadline);
        let token = self.tokens.obtain(&key, deadline, fetch).await?;
        Ok(Authorization {
            header: token.header().clone(),
            token: Some(key),
        })
    }

    fn challenges(&self) -> std::sync::MutexGuard<'_, LruCache<Repository, Arc<Challenge>>> {
        self.challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the token server: GET first, which every server knows (distribution, token.md), and which
/// is one request where containerd's POST before GET is often two. With credentials, a server that
/// does not know it (404, 405, 400) is asked by the `OAuth2` form (distribution, oauth.md).
/// Redirects are not followed: a password must not wander, and no token server needs them.
async fn fetch_token(
    endpoint: &Endpoint,
    realm: Url,
    key: &TokenKey,
    credentials: Option<&Credentials>,
    deadline: Deadline,
) -> Result<Token, FetchError> {
    let get = get_request(&realm, key, credentials)?;
    match (ask_server(endpoint, get, deadline).await, credentials) {
        (
            Err(Refusal::Status(
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST,
            )),
            Some(credentials),
        ) => {
            let post = post_request(&realm, key, credentials)?;
            ask_server(endpoint, post, deadline).await
        }
        (result, _) => result,
    }
    .map_err(FetchError::from)
}

/// Why a token server gave no token.
enum Refusal {
    /// It answered with this status.
    Status(StatusCode),
    /// Anything else.
    Error(FetchError),
}

impl From<Refusal> for FetchError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Status(StatusCode::UNAUTHORIZED) => Self::Unauthorized,
            Refusal::Status(StatusCode::FORBIDDEN) => Self::Denied,
            Refusal::Status(status) => Self::Token(format!("answered status {}", status.as_u16())),
            Refusal::Error(error) => error,
        }
    }
}

async fn ask_server(
    endpoint: &Endpoint,
    request: Request<Full<Bytes>>,
    deadline: Deadline,
) -> Result<Token, Refusal> {
    let asked = Instant::now();
    let client = &endpoint.client;
    let sent = client.send(Kind::Other, request, deadline, 0).await;
    let response = sent.map_err(Refusal::Error)?;
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let retry_after = status::retry_after(response.headers());
        return Err(Refusal::Error(FetchError::RateLimited { retry_after }));
    }
    if status != StatusCode::OK {
        return Err(Refusal::Status(status));
    }
    status::check_encoding(response.headers()).map_err(Refusal::Error)?;
    let body = BlobBody::new(client, response, TOKEN_IDLE_TIMEOUT)
        .whole("the token server's answer", TOKEN_BODY_BYTES_MAX, deadline)
        .await
        .map_err(Refusal::Error)?;
    Token::parse(&body, asked).map_err(Refusal::Error)
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

/// `POST realm` with `grant_type=password` (oauth.md, "Getting a token").
fn post_request(
    realm: &Url,
    key: &TokenKey,
    credentials: &Credentials,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "password")
        .append_pair("client_id", "roadstead")
        .append_pair("service", key.service.as_deref().unwrap_or_default())
        .append_pair("scope", &key.scope)
        .append_pair("username", &credentials.username)
        .append_pair("password", credentials.password.expose());
    let mut request = token_request(Method::POST, realm, Bytes::from(form.finish()))?;
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, form_type);
    Ok(request)
}

fn token_request(
    method: Method,
    url: &Url,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let uri = Uri::try_from(url.as_str())
        .map_err(|_| FetchError::Protocol("token realm refused: not a URI".to_owned()))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(ACCEPT, json);
    Ok(request)
}

/// RFC 7617.
fn basic(credentials: &Credentials) -> Result<HeaderValue, FetchError> {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose());
    let text = format!("Basic {}", BASE64.encode(pair));
    let mut header = HeaderValue::try_from(text)
        .map_err(|_| FetchError::Protocol("the credentials fit no header".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Challenges remembered for one upstream, about one for each repository in use (some 100 bytes each).
const CHALLENGES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// A token is a few KiB; ECR's are 4, those with many groups in them up to 20.
const TOKEN_BODY_BYTES_MAX: usize = 64 * 1024;
/// The request's deadline bounds it anyhow; this ends a stuck answer before that.
const TOKEN_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
