//! The value of `Authorization`.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::budget::Share;
use super::login::{Login, Source};
use super::request::Endpoint;
use super::token::{self, TokenKey, Tokens};
use super::token_server::{basic, fetch_token};
use super::weighed::{ENTRY_BYTES, Weighed};
use super::{FetchError, realm};
use crate::net::Deadline;
use crate::oci::Repository;
use crate::oci::challenge::{self, Challenge};

/// The login, challenges and tokens of one endpoint.
pub(super) struct Auth {
    source: Source,
    /// The login that was used last.
    current: Mutex<Current>,
    /// Challenges of the endpoint, by repository, so that later requests come with a token at once.
    challenges: Mutex<Weighed<Repository, Arc<Challenge>>>,
    tokens: Tokens,
}

/// A value for `Authorization`.
pub(super) struct Authorization {
    /// The value, marked sensitive.
    pub(super) header: HeaderValue,
    made_of: Made,
}

impl Authorization {
    /// True if it is a token that a token server gave, which may be over.
    pub(super) fn is_token(&self) -> bool {
        matches!(self.made_of, Made::Token(_))
    }
}

/// The credential of an `Authorization`, so that the right thing is dropped when it is refused.
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
    /// True if a token server has given a token for it.
    granted: bool,
}

/// A challenge for a token.
struct TokenRequest<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scope: Scope,
}

/// The scope that is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    /// At least pull on the repository, whatever the challenge says.
    wanted: String,
    /// The challenge's own, where it is less than that: a registry may know the repository by another name, and
    /// its token server none but that.
    own: Option<String>,
}

impl Scope {
    fn of(asked: Option<&str>, repository: &Repository) -> Self {
        let usual = format!("repository:{repository}:pull");
        match asked.map(str::trim).filter(|asked| !asked.is_empty()) {
            None => Self {
                wanted: usual,
                own: None,
            },
            Some(asked) if asked.split(' ').any(|one| is_pull(one, repository)) => Self {
                wanted: asked.to_owned(),
                own: None,
            },
            Some(asked) => Self {
                wanted: format!("{asked} {usual}"),
                own: Some(asked.to_owned()),
            },
        }
    }
}

/// True if a scope (`type[(class)]:name:action[,action…]`; distribution, scope.md) covers pulls from the
/// repository. A name may hold a colon, after a host.
fn is_pull(scope: &str, repository: &Repository) -> bool {
    let parts = scope.split_once(':').and_then(|(kind, rest)| {
        let (name, actions) = rest.rsplit_once(':')?;
        Some((kind, name, actions))
    });
    parts.is_some_and(|(kind, name, actions)| {
        let kind = kind.split('(').next().unwrap_or_default();
        kind == "repository"
            && name == repository.as_str()
            && actions
                .split(',')
                .any(|action| matches!(action, "pull" | "*"))
    })
}

impl Auth {
    /// Nothing learnt yet.
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            current: Mutex::default(),
            challenges: Mutex::new(Weighed::new(CHALLENGES_BYTES_MAX)),
            tokens: Tokens::new(),
        }
    }

    /// The authorization of a first request: the answer to the last challenge, if there was one.
    ///
    /// # Errors
    /// Those of the token server and of the login's source.
    pub(super) async fn known(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        share: Share<'_>,
    ) -> Result<Option<Authorization>, FetchError> {
        let known = {
            let mut challenges = self.challenges();
            challenges.get(repository).cloned()
        };
        let Some(challenge) = known else {
            return Ok(None);
        };
        let answer = self.answer(endpoint, repository, &challenge, share).await;
        match &answer {
            // What the endpoint wants is known; only the login cannot be had.
            Ok(_) | Err(FetchError::Login(_) | FetchError::LoginRefused(_)) => {}
            // Perhaps the token server has moved: the next request asks without, and is told.
            Err(_) => drop(self.challenges().pop(repository)),
        }
        answer.map(Some)
    }

    /// The authorization after a 401 with these headers.
    ///
    /// # Errors
    /// [`FetchError::Unauthorized`] when no challenge can be answered; those of the token server and of
    /// the login's source.
    pub(super) async fn challenged(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        headers: &HeaderMap,
        share: Share<'_>,
    ) -> Result<Authorization, FetchError> {
        let mut challenges = in_order(headers).into_iter();
        let mut challenge = challenges.next().ok_or(FetchError::Unauthorized)?;
        let mut answer = self.answer(endpoint, repository, &challenge, share).await;
        // A realm that cannot be used; another challenge may do.
        while let Err(FetchError::Protocol(_) | FetchError::Inside(_)) = &answer
            && let Some(next) = challenges.next()
        {
            challenge = next;
            answer = self.answer(endpoint, repository, &challenge, share).await;
        }
        if matches!(
            answer,
            Ok(_) | Err(FetchError::Login(_) | FetchError::LoginRefused(_))
        ) {
            let weight = ENTRY_BYTES + repository.as_str().len() + challenge.bytes();
            self.challenges()
                .put(repository.clone(), Arc::new(challenge), weight);
        }
        answer
    }

    /// True if there is a login, and not nobody in particular.
    pub(super) fn has_login(&self) -> bool {
        self.source.is_login()
    }

    /// The authorization of this login for nothing in particular, as `docker login` asks for it: the answer to a 401 of
    /// `/v2/` with these headers.
    ///
    /// # Errors
    /// As for `challenged`.
    pub(super) async fn at_base(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        share: Share<'_>,
    ) -> Result<HeaderValue, FetchError> {
        let login = self.source.login(share.deadline).await?;
        let login = login.ok_or(FetchError::Unauthorized)?;
        let mut last = FetchError::Unauthorized;
        for challenge in in_order(headers) {
            let answer = match (&challenge, login.as_ref()) {
                (Challenge::Basic, Login::Basic(credentials)) => basic(credentials),
                (Challenge::Basic, Login::Bearer(_) | Login::Refresh(_)) => continue,
                (Challenge::Bearer { .. }, Login::Bearer(token)) => {
                    token::bearer(token.expose()).map_err(|why| FetchError::Login(why.to_owned()))
                }
                (
                    Challenge::Bearer {
                        realm,
                        service,
                        scope,
                        error: _,
                    },
                    given,
                ) => {
                    let key = TokenKey {
                        endpoint: endpoint.id.0,
                        realm: realm.clone(),
                        service: service.clone(),
                        scope: scope.clone().unwrap_or_default(),
                        login: self.number(Some(&login)),
                    };
                    let url = realm::check(realm, &endpoint.base, true)?;
                    let token = fetch_token(endpoint, &url, &key, Some(given), share).await;
                    token.map(|token| token.header().clone())
                }
            };
            match answer {
                Ok(header) => return Ok(header),
                Err(error) => last = error,
            }
        }
        Err(last)
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
        share: Share<'_>,
    ) -> Result<Authorization, FetchError> {
        let login = self.source.login(share.deadline).await?;
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
                let request = TokenRequest {
                    realm,
                    service: service.as_deref(),
                    scope: Scope::of(scope.as_deref(), repository),
                };
                self.bearer(endpoint, &request, login, share).await
            }
        }
    }

    /// A token for `login`; for another one, when the token server refuses this and the source has
    /// another.
    async fn bearer(
        &self,
        endpoint: &Endpoint,
        request: &TokenRequest<'_>,
        login: Option<Arc<Login>>,
        share: Share<'_>,
    ) -> Result<Authorization, FetchError> {
        let first = self
            .bearer_of(endpoint, request, login.as_ref(), share)
            .await;
        let (Err(refusal), Some(refused)) = (&first, &login) else {
            return first;
        };
        if !self.blames(refused, refusal) {
            return first;
        }
        self.source.refused(refused);
        let other = match self.source.login(share.deadline).await {
            Ok(other) if other != login => other,
            Ok(_) | Err(_) => return first,
        };
        let second = self
            .bearer_of(endpoint, request, other.as_ref(), share)
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
        request: &TokenRequest<'_>,
        login: Option<&Arc<Login>>,
        share: Share<'_>,
    ) -> Result<Authorization, FetchError> {
        let login_value = login.map(Arc::as_ref);
        if let Some(Login::Bearer(token)) = login_value {
            let wrong = |why: &str| FetchError::Login(why.to_owned());
            return Ok(Authorization {
                header: token::bearer(token.expose()).map_err(wrong)?,
                made_of: Made::GivenToken,
            });
        }
        let mut key = TokenKey {
            endpoint: endpoint.id.0,
            realm: request.realm.to_owned(),
            service: request.service.map(str::to_owned),
            scope: request.scope.wanted.clone(),
            login: self.number(login),
        };
        let url = realm::check(request.realm, &endpoint.base, login.is_some())?;
        // Boxed, and below: few requests need a token, and all would be large for it.
        let fetch = Box::pin(fetch_token(endpoint, &url, &key, login_value, share));
        let mut token = self.tokens.obtain(&key, share.deadline, fetch).await;
        if let (Err(error), Some(own)) = (&token, &request.scope.own)
            && refuses_scope(error)
        {
            key.scope.clone_from(own);
            let fetch = Box::pin(fetch_token(endpoint, &url, &key, login_value, share));
            token = self.tokens.obtain(&key, share.deadline, fetch).await;
        }
        let token = token?;
        {
            let mut current = self.current();
            current.granted |= current.number == key.login;
        }
        Ok(Authorization {
            header: token.header().clone(),
            made_of: Made::Token(key),
        })
    }

    /// True if the token server meant the login when it refused a token. By 403 it may mean the scope
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

    fn challenges(&self) -> std::sync::MutexGuard<'_, Weighed<Repository, Arc<Challenge>>> {
        self.challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The challenges of a 401, in the order in which they are answered.
fn in_order(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    // A quoted text may hold bytes that are not ASCII (RFC 9110 section 5.6.4).
    let values: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    let mut challenges = challenge::parse(values.iter().map(AsRef::as_ref));
    // A token is good for one repository and a few minutes, the password for everything.
    challenges.sort_by_key(|challenge| match challenge {
        Challenge::Bearer { .. } => 0,
        Challenge::Basic => 1,
    });
    challenges
}

/// True if a token server may have meant the scope.
fn refuses_scope(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Unauthorized | FetchError::Denied | FetchError::Token(_)
    )
}

/// Memory for the challenges of one login at one endpoint, about one for each repository in use: ten thousand.
const CHALLENGES_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_pull_on_the_repository_is_asked_for() {
        let repository = Repository::parse("a/b").unwrap();
        let usual = "repository:a/b:pull";
        let wanted = |asked: Option<&str>| Scope::of(asked, &repository);
        for (asked, wanted_text) in [
            (None, usual),
            (Some(""), usual),
            (Some(" "), usual),
            (Some(usual), usual),
            (Some("repository:a/b:pull,push"), "repository:a/b:pull,push"),
            (Some("repository(plugin):a/b:*"), "repository(plugin):a/b:*"),
            (
                Some("registry:catalog:* repository:a/b:push,pull"),
                "registry:catalog:* repository:a/b:push,pull",
            ),
        ] {
            let scope = wanted(asked);
            assert_eq!(
                (scope.wanted.as_str(), scope.own),
                (wanted_text, None),
                "{asked:?}"
            );
        }
        for less in [
            "repository:a/b:push",
            "repository:a/b:",
            "repository:x:pull",
            "repository:a/bb:pull",
            "repository:a/b:pullx",
            "a/b:pull",
            "pull",
            "registry:a/b:pull",
        ] {
            let scope = wanted(Some(less));
            assert_eq!(scope.wanted, format!("{less} {usual}"));
            assert_eq!(scope.own.as_deref(), Some(less));
        }
    }
}
