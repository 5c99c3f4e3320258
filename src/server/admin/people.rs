//! Users and tokens: `/api/v1/users` and `/api/v1/tokens`. What is secret comes and goes in bodies, which no log has.

use super::answer::{AdminBody, full, with_type};
use super::error::AdminError;
use super::query::Query;
use super::target_of;
use crate::access::{Guard, ManageError, Registrar, Secret, TokenInfo, TokenWanted, UserInfo};
use crate::audit::Change;
use crate::format;
use crate::server::http::JSON;
use crate::server::http::whole::whole;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Users.
pub(super) const USERS: &str = "/api/v1/users";
/// Tokens.
pub(super) const TOKENS: &str = "/api/v1/tokens";

/// Their methods.
const USERS_TAKE: &str = "GET, HEAD, POST, PUT, DELETE";
const TOKENS_TAKE: &str = "GET, HEAD, POST, DELETE";

/// The longest body: a name, a password, groups.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest time that a client may take to send it.
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);

/// A user to be, or to have another password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserBody {
    name: String,
    password: String,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Serialize)]
struct Users {
    users: Vec<UserInfo>,
}

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<TokenInfo>,
}

#[derive(Serialize)]
struct NewToken<'t> {
    /// Shown this once.
    token: &'t str,
    #[serde(flatten)]
    info: TokenInfo,
}

#[derive(Serialize)]
struct Done {
    changed: usize,
}

/// Answers requests for users and tokens: those of the listener, and those of a command that has opened the catalogue
/// itself.
#[derive(Clone, Debug)]
pub struct PeopleApi {
    registrar: Registrar,
}

/// Status and JSON.
type Answer = Result<(StatusCode, Bytes), AdminError>;

impl PeopleApi {
    /// Users and tokens of this guard.
    #[must_use]
    pub fn new(guard: &Guard) -> Self {
        Self {
            registrar: Registrar::of(guard),
        }
    }

    /// Answers a request, `target` being its path and query.
    pub async fn answer(&self, method: &Method, target: &str, body: &[u8]) -> (StatusCode, Bytes) {
        let answered = self.ask(method, target, body, &mut Vec::new()).await;
        answered.unwrap_or_else(|error| (error.status, error.body()))
    }

    /// Answers a request, and notes what it has changed.
    async fn ask(
        &self,
        method: &Method,
        target: &str,
        body: &[u8],
        changes: &mut Vec<Change>,
    ) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = Query::parse(query);
        if path == USERS {
            self.users(method, query, body, changes).await
        } else {
            self.tokens(method, query, body, changes).await
        }
    }

    /// A user as others see it.
    fn user(&self, name: &str) -> Value {
        let mut users = self.registrar.users().into_iter();
        shown(users.find(|user| user.name == name))
    }

    /// A token as others see it.
    fn token(&self, id: &str) -> Value {
        let mut tokens = self.registrar.tokens().into_iter();
        shown(tokens.find(|token| token.id == id))
    }

    async fn users(
        &self,
        method: &Method,
        mut query: Query,
        body: &[u8],
        changes: &mut Vec<Change>,
    ) -> Answer {
        let registrar = &self.registrar;
        match *method {
            Method::GET | Method::HEAD => {
                query.end()?;
                let users = registrar.users();
                json(StatusCode::OK, &Users { users })
            }
            Method::POST => {
                query.end()?;
                let UserBody {
                    name,
                    password,
                    groups,
                } = read(body)?;
                registrar
                    .add_user(&name, Secret::new(password), groups)
                    .await?;
                tracing::info!(user = name, "an operator has made a user");
                let after = self.user(&name);
                changes.push(change("user added", name, Value::Null, after));
                json(StatusCode::CREATED, &Done { changed: 1 })
            }
            Method::PUT => {
                query.end()?;
                let UserBody { name, password, .. } = read(body)?;
                registrar.set_password(&name, Secret::new(password)).await?;
                tracing::info!(user = name, "an operator has changed a user's password");
                changes.push(change("password changed", name, Value::Null, Value::Null));
                json(StatusCode::OK, &Done { changed: 1 })
            }
            Method::DELETE => {
                let name = query.need("name")?;
                query.end()?;
                let before = self.user(&name);
                registrar.remove_user(&name).await?;
                tracing::info!(user = name, "an operator has removed a user");
                changes.push(change("user removed", name, before, Value::Null));
                json(StatusCode::OK, &Done { changed: 1 })
            }
            _ => Err(AdminError::method(USERS_TAKE)),
        }
    }

    async fn tokens(
        &self,
        method: &Method,
        mut query: Query,
        body: &[u8],
        changes: &mut Vec<Change>,
    ) -> Answer {
        let registrar = &self.registrar;
        match *method {
            Method::GET | Method::HEAD => {
                let user = query.take("user")?;
                query.end()?;
                let mut tokens = registrar.tokens();
                tokens.retain(|token| user.as_ref().is_none_or(|user| *user == token.owner));
                json(StatusCode::OK, &Tokens { tokens })
            }
            Method::POST => {
                query.end()?;
                let wanted: TokenWanted = read(body)?;
                let (info, text) = registrar.create_token(wanted).await?;
                tracing::info!(
                    id = info.id,
                    owner = info.owner,
                    "an operator has made a token"
                );
                let (id, after) = (info.id.clone(), shown(Some(&info)));
                changes.push(change("token created", id, Value::Null, after));
                let token = text.expose();
                json(StatusCode::CREATED, &NewToken { token, info })
            }
            Method::DELETE => {
                let (id, user) = (query.take("id")?, query.take("user")?);
                query.end()?;
                let ids = match (id, user) {
                    (Some(id), None) => vec![id],
                    (None, Some(user)) => {
                        let tokens = registrar.tokens().into_iter();
                        let own = tokens.filter(|token| token.owner == user);
                        own.map(|token| token.id).collect()
                    }
                    _ => return Err(AdminError::bad("write ?id=… or ?user=…")),
                };
                for id in &ids {
                    let before = self.token(id);
                    registrar.revoke_token(id).await?;
                    tracing::info!(id, "an operator has revoked a token");
                    changes.push(change("token revoked", id.clone(), before, Value::Null));
                }
                json(StatusCode::OK, &Done { changed: ids.len() })
            }
            _ => Err(AdminError::method(TOKENS_TAKE)),
        }
    }
}

/// Answers a request of the listener for one of the paths.
pub(super) async fn answer(
    api: &PeopleApi,
    request: Request<Incoming>,
    changes: &mut Vec<Change>,
) -> Response<AdminBody> {
    let (head, body) = request.into_parts();
    let answered = async {
        let body = whole(body, BODY_BYTES_MAX, BODY_WAIT_MAX).await?;
        api.ask(&head.method, target_of(&head), &body, changes)
            .await
    };
    match answered.await {
        Ok((status, answer)) => full(with_type(status, JSON, answer)),
        Err(error) => error.into_response(),
    }
}

fn change(change: &'static str, name: String, before: Value, after: Value) -> Change {
    Change {
        change,
        name,
        before,
        after,
    }
}

/// As it stands in a record: nothing in it is a secret.
fn shown(value: Option<impl Serialize>) -> Value {
    value.map_or(Value::Null, |value| {
        serde_json::to_value(value).unwrap_or_default()
    })
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let failed = |error: serde_json::Error| {
        AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    let body = format::json(value).map_err(failed)?;
    Ok((status, body.into()))
}

/// Reads JSON. What is wrong with it is told without what it says.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, AdminError> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        AdminError::bad(format!(
            "the body is not the JSON that is taken here (line {line}, column {column}): docs/admin.md has it"
        ))
    })
}

impl From<ManageError> for AdminError {
    fn from(error: ManageError) -> Self {
        let status = match &error {
            ManageError::Invalid(_) => StatusCode::BAD_REQUEST,
            ManageError::Exists(_) | ManageError::OfFile(_) | ManageError::OfNode => {
                StatusCode::CONFLICT
            }
            ManageError::Unknown(_) => StatusCode::NOT_FOUND,
            ManageError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ManageError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}
