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
use super::token::{self, Token, TokenKey, Tokens};
use super::{Credentials, FetchError, Secret, realm, status};
use crate::oci::Repository;
use crate::oci::challenge::{self, Challenge};
use crate::telemetry::Kind;

/// The login, challenges and tokens of one endpoint.
pub(super) struct Auth {
    source: Source,
    /// The login that was used last.
    current: Mutex<Current>,
    /// What the endpoint asked for, by repository, so that later requests come with a token at once.
    challenges: Mutex<LruCache<Repository, Arc<Challenge>>>,
    tokens: Tokens,
}

/// A value for `Authorization`.
pub(super) struct Authorization {
    /// The value, marked sensitive.
    pub(super) header: HeaderValue,
    made_of: Made,
}

/// What an `Authorization` was made of, so that the right thing is dropped when it is refused.
enum Made {
    /// A token of a token server.
    Token(TokenKey),
    /// A user name and password, sent as they are.
    Password(Arc<Login>),
    /// A token that the source gave.
    GivenToken,
}

/// The login that was used last.
#[derive(Default)]
struct Current {
    login: Option<Arc<Login>>,
    /// Counts the logins, from 1 on.
    number: u64,
    /// Whether a token server has given a token for it.
    granted: bool,
}

/// What a challenge for a token says.
struct TokenAsk<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    /// As the challenge has it, or the usual one.
    scope: String,
}

impl Auth {
    /// Nothing learnt yet.
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            current: Mutex::default(),
            challenges: Mutex::new(LruCache::new(CHALLENGES_MAX)),
            tokens: Tokens::new(),
        }
    }

    /// What to send with a first request: the answer to the last challenge, if there was one.
    ///
    /// # Errors
    /// Those of the token server and of the login's source.
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
        match &answer {
            // What the endpoint wants is known; only the login cannot be had.
            Ok(_) | Err(FetchError::Login(_) | FetchError::LoginRefused(_)) => {}
            // Perhaps the token server has moved: the next request asks without, and is told.
            Err(_) => drop(self.challenges().pop(repository)),
        }
        answer.map(Some)
    }

    /// What to send after a 401 with these headers.
    ///
    /// # Errors
    /// [`FetchError::Unauthorized`] when no challenge can be answered; those of the token server and of
    /// the login's source.
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
            .await;
        if matches!(
            answer,
            Ok(_) | Err(FetchError::Login(_) | FetchError::LoginRefused(_))
        ) {
            self.challenges()
                .put(repository.clone(), Arc::new(challenge));
        }
        answer
    }

    /// The endpoint refused this. A token is not used again; the login behind it is not blamed, because
    /// registries refuse so what they do not have (Docker Hub) or what the login may not see. That goes
    /// for a token of the source's, too, which may be for one repository only. A user name and password
    /// are not used for a minute.
    pub(super) async fn refused(&self, authorization: &Authorization, deadline: Deadline) {
        match &authorization.made_of {
            Made::Token(key) => {
                let header = &authorization.header;
                self.tokens.refuse(key, header, deadline).await;
            }
            Made::Password(login) => self.source.refused(login),
            Made::GivenToken => {}
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
        match challenge {
            Challenge::Basic => {
                let Some((login, Login::Basic(credentials))) =
                    login.as_ref().map(|login| (login, login.as_ref()))
                else {
                    return Err(FetchError::Unauthorized);
                };
                Ok(Authorization {
                    header: basic(credentials)?,
                    made_of: Made::Password(Arc::clone(login)),
                })
            }
            Challenge::Bearer {
                realm,
                service,
                scope,
                error: _,
            } => {
                let usual = || format!("repository:{repository}:pull");
                let ask = TokenAsk {
                    realm,
                    service: service.as_deref(),
                    scope: scope.clone().unwrap_or_else(usual),
                };
                self.bearer(endpoint, &ask, login, deadline).await
            }
        }
    }

    /// A token for `login`; for another one, when the token server refuses this and the source has
    /// another.
    async fn bearer(
        &self,
        endpoint: &Endpoint,
        ask: &TokenAsk<'_>,
        login: Option<Arc<Login>>,
        deadline: Deadline,
    ) -> Result<Authorization, FetchError> {
        let first = self
            .bearer_of(endpoint, ask, login.as_ref(), deadline)
            .await;
        let (Err(refusal), Some(refused)) = (&first, &login) else {
            return first;
        };
        if !self.blames(refused, refusal) {
            return first;
        }
        self.source.refused(refused);
        let other = match self.source.login(deadline).await {
            Ok(other) if other != login => other,
            Ok(_) | Err(_) => return first,
        };
        let second = self
            .bearer_of(endpoint, ask, other.as_ref(), deadline)
            .await;
        if let (Err(refusal), Some(refused)) = (&second, &other)
            && self.blames(refused, refusal)
        {
            self.source.refused(refused);
        }
        second
    }

    async fn bearer_of(
        &self,
        endpoint: &Endpoint,
        ask: &TokenAsk<'_>,
        login: Option<&Arc<Login>>,
        deadline: Deadline,
    ) -> Result<Authorization, FetchError> {
        let login_value = login.map(Arc::as_ref);
        if let Some(Login::Bearer(token)) = login_value {
            let wrong = |why: &str| FetchError::Login(why.to_owned());
            return Ok(Authorization {
                header: token::bearer(token.expose()).map_err(wrong)?,
                made_of: Made::GivenToken,
            });
        }
        let key = TokenKey {
            endpoint: endpoint.id.0,
            realm: ask.realm.to_owned(),
            service: ask.service.map(str::to_owned),
            scope: ask.scope.clone(),
            login: self.number(login),
        };
        let url = realm::check(ask.realm, &endpoint.base, login.is_some())?;
        let fetch = fetch_token(endpoint, url, &key, login_value, deadline);
        let token = self.tokens.obtain(&key, deadline, fetch).await?;
        {
            let mut current = self.current();
            current.granted |= current.number == key.login;
        }
        Ok(Authorization {
            header: token.header().clone(),
            made_of: Made::Token(key),
        })
    }

    /// Whether the token server meant the login when it refused a token. By 403 it may mean the scope
    /// (GHCR, GitLab), and does where the same login has been given tokens before.
    fn blames(&self, login: &Arc<Login>, refusal: &FetchError) -> bool {
        let current = self.current();
        let granted = current.granted && current.login.as_ref() == Some(login);
        *refusal == FetchError::Unauthorized || (*refusal == FetchError::Denied && !granted)
    }

    /// The number of a login: another one than that of the login before, unless they are equal.
    fn number(&self, login: Option<&Arc<Login>>) -> u64 {
        let Some(login) = login else { return 0 };
        let mut current = self.current();
        if current.login.as_ref() != Some(login) {
            *current = Current {
                login: Some(Arc::clone(login)),
                number: current.number + 1,
                granted: false,
            };
        }
        current.number
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn challenges(&self) -> std::sync::MutexGuard<'_, LruCache<Repository, Arc<Challenge>>> {
        self.challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the token server: GET first, which every server knows (distribution, token.md), and which
/// is one request where containerd's POST before GET is often two. With a password, a server that
/// does not know it (404, 405, 400) is asked by the `OAuth2` form (distribution, oauth.md), which is
/// the only way for a refresh token.
/// Redirects are not followed: a password must not wander, and no token server needs them.
async fn fetch_token(
    endpoint: &Endpoint,
    realm: Url,
    key: &TokenKey,
    login: Option<&Login>,
    deadline: Deadline,
) -> Result<Token, FetchError> {
    let credentials = match login {
        Some(Login::Refresh(token)) => {
            let form = refresh_form(key, token);
            let post = post_request(&realm, form)?;
            return Ok(ask_server(endpoint, post, deadline).await?);
        }
        Some(Login::Basic(credentials)) => Some(credentials),
        Some(Login::Bearer(_)) | None => None,
    };
    let get = get_request(&realm, key, credentials)?;
    match (ask_server(endpoint, get, deadline).await, credentials) {
        (
            Err(Refusal::Status(
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST,
            )),
            Some(credentials),
        ) => {
            let post = post_request(&realm, password_form(key, credentials))?;
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
    let form = request.method() == Method::POST;
    let client = &endpoint.client;
    let sent = client.send(Kind::Other, request, deadline, 0).await;
    let response = sent.map_err(Refusal::Error)?;
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let retry_after = status::retry_after(response.headers());
        return Err(Refusal::Error(FetchError::RateLimited { retry_after }));
    }
    if status != StatusCode::OK && !(form && status == StatusCode::BAD_REQUEST) {
        return Err(Refusal::Status(status));
    }
    status::check_encoding(response.headers()).map_err(Refusal::Error)?;
    let body = BlobBody::new(client, response, TOKEN_IDLE_TIMEOUT)
        .whole("the token server's answer", TOKEN_BODY_BYTES_MAX, deadline)
        .await;
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
    Token::parse(&body, asked).map_err(Refusal::Error)
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
