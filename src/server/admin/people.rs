//! Users and tokens: `/api/v1/users` and `/api/v1/tokens`. What is secret comes and goes in bodies, which no log has.

use super::answer::{AdminBody, json};
use super::error::AdminError;
use super::query::Query;
use crate::access::{Guard, ManageError, TokenInfo, TokenWanted, UserInfo};
use crate::catalogue::CatalogueError;
use crate::net::Secret;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Users.
pub(super) const USERS: &str = "/api/v1/users";
/// Tokens.
pub(super) const TOKENS: &str = "/api/v1/tokens";

/// The longest body: a name, a password, groups.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a client may take to send it.
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

/// Answers a request for one of the paths.
pub(super) async fn answer(guard: &Guard, request: Request<Incoming>) -> Response<AdminBody> {
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let is_users = head.uri.path() == USERS;
    let answered = if is_users {
        users(guard, &head.method, query, body).await
    } else {
        tokens(guard, &head.method, query, body).await
    };
    answered.unwrap_or_else(AdminError::into_response)
}

type Answer = Result<Response<AdminBody>, AdminError>;

async fn users(guard: &Guard, method: &Method, mut query: Query, body: Incoming) -> Answer {
    match *method {
        Method::GET | Method::HEAD => {
            query.end()?;
            let users = guard.users();
            Ok(json(StatusCode::OK, &Users { users }))
        }
        Method::POST => {
            query.end()?;
            let UserBody { name, password, groups } = read(body).await?;
            guard.add_user(&name, Secret::new(password), groups).await?;
            tracing::info!(user = name, "an operator has made a user");
            Ok(json(StatusCode::CREATED, &Done { changed: 1 }))
        }
        Method::PUT => {
            query.end()?;
            let UserBody { name, password, .. } = read(body).await?;
            guard.set_password(&name, Secret::new(password)).await?;
            tracing::info!(user = name, "an operator has changed a user's password");
            Ok(json(StatusCode::OK, &Done { changed: 1 }))
        }
        Method::DELETE => {
            let name = query.need("name")?;
            query.end()?;
            guard.remove_user(&name).await?;
            tracing::info!(user = name, "an operator has removed a user");
            Ok(json(StatusCode::OK, &Done { changed: 1 }))
        }
        _ => Err(AdminError::method("GET, HEAD, POST, PUT, DELETE", "users are listed, made, changed and removed")),
    }
}

async fn tokens(guard: &Guard, method: &Method, mut query: Query, body: Incoming) -> Answer {
    match *method {
        Method::GET | Method::HEAD => {
            let user = query.take("user")?;
            query.end()?;
            let mut tokens = guard.tokens();
            tokens.retain(|token| user.as_ref().is_none_or(|user| *user == token.owner));
            Ok(json(StatusCode::OK, &Tokens { tokens }))
        }
        Method::POST => {
            query.end()?;
            let wanted: TokenWanted = read(body).await?;
            let (info, text) = guard.create_token(wanted).await?;
            tracing::info!(id = info.id, owner = info.owner, "an operator has made a token");
            let token = text.expose();
            Ok(json(StatusCode::CREATED, &NewToken { token, info }))
        }
        Method::DELETE => {
            let (id, user) = (query.take("id")?, query.take("user")?);
            query.end()?;
            let ids = match (id, user) {
                (Some(id), None) => vec![id],
                (None, Some(user)) => {
                    let tokens = guard.tokens().into_iter();
                    let own = tokens.filter(|token| token.owner == user);
                    own.map(|token| token.id).collect()
                }
                _ => return Err(AdminError::bad("write ?id=… or ?user=…")),
            };
            for id in &ids {
                guard.revoke_token(id).await?;
                tracing::info!(id, "an operator has revoked a token");
            }
            Ok(json(StatusCode::OK, &Done { changed: ids.len() }))
        }
        _ => Err(AdminError::method("GET, HEAD, POST, DELETE", "tokens are listed, made and revoked")),
    }
}

/// Reads JSON. What is wrong with it is told without what it says.
async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, AdminError> {
    let whole = Limited::new(body, BODY_BYTES_MAX).collect();
    let whole = tokio::time::timeout(BODY_WAIT_MAX, whole).await;
    let bytes: Bytes = match whole {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(_)) | Err(_) => {
            let why = format!("the body did not arrive, or has more than {BODY_BYTES_MAX} bytes");
            return Err(AdminError::bad(why));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
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
            ManageError::Exists(_) => StatusCode::CONFLICT,
            ManageError::Unknown(_) => StatusCode::NOT_FOUND,
            ManageError::Catalogue(CatalogueError::TooLarge) => StatusCode::BAD_REQUEST,
            ManageError::Catalogue(CatalogueError::Unavailable(_) | CatalogueError::Busy) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ManageError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}
