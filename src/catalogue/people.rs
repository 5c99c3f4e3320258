//! Users and tokens.

use rusqlite::{Connection, Row};

use super::records::{TOKENS_MAX, Token, TokenKind, USERS_MAX, User};
use super::{Catalogue, CatalogueError};
use crate::clock::Timestamp;

impl Catalogue {
    /// All users.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn users(&self) -> Result<Vec<User>, CatalogueError> {
        self.ask(|from| {
            rows(
                from,
                "SELECT name, hash, groups, created_ms FROM users ORDER BY name",
                user,
            )
        })
        .await
    }

    /// All tokens.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn tokens(&self) -> Result<Vec<Token>, CatalogueError> {
        let sql = "SELECT id, secret, kind, owner, policies, note, created_ms, expires_ms, used_ms FROM tokens ORDER BY owner, created_ms";
        self.ask(move |from| rows(from, sql, token)).await
    }
}

/// Rows, those left out that make no sense to this version.
fn rows<T>(
    from: &Connection,
    sql: &str,
    read: fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = from.prepare_cached(sql)?;
    let rows = statement.query_map([], read)?;
    let rows = rows.filter_map(Result::transpose);
    rows.take(USERS_MAX.max(TOKENS_MAX)).collect()
}

fn user(row: &Row<'_>) -> rusqlite::Result<Option<User>> {
    let groups: String = row.get(2)?;
    Ok(serde_json::from_str(&groups).ok().and_then(|groups| {
        Some(User {
            name: row.get(0).ok()?,
            hash: row.get(1).ok()?,
            groups,
            created: at(row.get(3).ok()?),
        })
    }))
}

fn token(row: &Row<'_>) -> rusqlite::Result<Option<Token>> {
    let (secret, kind): (Vec<u8>, String) = (row.get(1)?, row.get(2)?);
    let policies: String = row.get(4)?;
    let (expires, used): (Option<i64>, Option<i64>) = (row.get(7)?, row.get(8)?);
    let read = || {
        Some(Token {
            id: row.get(0).ok()?,
            secret: secret.try_into().ok()?,
            kind: TokenKind::parse(&kind)?,
            owner: row.get(3).ok()?,
            policies: serde_json::from_str(&policies).ok()?,
            note: row.get(5).ok()?,
            created: at(row.get(6).ok()?),
            expires: expires.map(at),
            used: used.map(at),
        })
    };
    Ok(read())
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp(u64::try_from(milliseconds).unwrap_or_default())
}
