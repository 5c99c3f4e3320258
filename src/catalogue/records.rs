//! Users and tokens, and changes of them.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The most users. All are known by heart, some 300 bytes each.
pub(super) const USERS_MAX: usize = 100_000;

/// The most tokens, likewise.
pub(super) const TOKENS_MAX: usize = 100_000;

/// The longest name of a user, a robot or a group, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The most groups of a user, and policies of a token.
const NAMES_MAX: usize = 100;

/// A user with a password of this server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The hash of the password (argon2id, in the format of PHC).
    pub hash: String,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Of a user, until it is revoked or expires.
    Token,
    /// Of a user, for a short time.
    Temporary,
    /// Of no user: a program of its own name.
    Robot,
}

impl TokenKind {
    /// Its name in answers and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Temporary => "temporary",
            Self::Robot => "robot",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let all = [Self::Token, Self::Temporary, Self::Robot];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// A token. Its secret is known to its bearer alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// SHA-256 of its secret.
    pub secret: [u8; 32],
    /// Its kind.
    pub kind: TokenKind,
    /// The user that it is of, or the name of the robot.
    pub owner: String,
    /// Policies that it is narrowed to; a robot's own policies.
    pub policies: Vec<String>,
    /// A note for people.
    pub note: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// When it was last used, to some minutes.
    pub used: Option<Timestamp>,
}

/// A change of users and tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeopleChange {
    /// A user is made, or changed.
    PutUser(User),
    /// A user is removed, and his tokens.
    DropUser(String),
    /// A token is made.
    PutToken(Token),
    /// A token is revoked.
    DropToken(String),
    /// Tokens that ended before this are forgotten.
    Expire(Timestamp),
    /// Tokens were used.
    Used(Vec<(String, Timestamp)>),
}

impl PeopleChange {
    /// Roughly what it takes in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        let names = |names: &[String]| names.iter().map(|name| name.len() + 24).sum::<usize>();
        match self {
            Self::PutUser(user) => user.name.len() + user.hash.len() + names(&user.groups),
            Self::PutToken(token) => token.owner.len() + token.note.len() + names(&token.policies),
            Self::DropUser(name) | Self::DropToken(name) => name.len(),
            Self::Expire(_) => 0,
            Self::Used(used) => used.len() * 64,
        }
    }

    /// True if it is no more than may be written at once.
    pub(super) fn is_bounded(&self) -> bool {
        let all_short = |names: &[String]| {
            names.len() <= NAMES_MAX && names.iter().all(|name| name.len() <= NAME_BYTES_MAX)
        };
        match self {
            Self::PutUser(user) => user.name.len() <= NAME_BYTES_MAX && all_short(&user.groups),
            Self::PutToken(token) => {
                token.owner.len() <= NAME_BYTES_MAX
                    && token.note.len() <= 2 * NAME_BYTES_MAX
                    && all_short(&token.policies)
            }
            Self::DropUser(_) | Self::DropToken(_) | Self::Expire(_) => true,
            Self::Used(used) => used.len() <= TOKENS_MAX,
        }
    }

    /// Makes it, as a part of a transaction.
    pub(super) fn apply(&self, to: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::PutUser(user) => {
                let sql = "INSERT OR REPLACE INTO users (name, hash, groups, created_ms) VALUES (?1, ?2, ?3, ?4)";
                let groups = list(&user.groups);
                let row = params![user.name, user.hash, groups, whole(user.created)];
                to.prepare_cached(sql)?.execute(row)?;
            }
            Self::DropUser(name) => {
                to.execute("DELETE FROM users WHERE name = ?1", params![name])?;
                let sql = "DELETE FROM tokens WHERE owner = ?1 AND kind <> 'robot'";
                to.execute(sql, params![name])?;
            }
            Self::PutToken(token) => {
                let sql = "INSERT INTO tokens (id, secret, kind, owner, policies, note, created_ms, expires_ms, used_ms)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                to.prepare_cached(sql)?.execute(params![
                    token.id,
                    token.secret.as_slice(),
                    token.kind.name(),
                    token.owner,
                    list(&token.policies),
                    token.note,
                    whole(token.created),
                    token.expires.map(whole),
                    token.used.map(whole),
                ])?;
            }
            Self::DropToken(id) => {
                to.execute("DELETE FROM tokens WHERE id = ?1", params![id])?;
            }
            Self::Expire(before) => {
                let sql = "DELETE FROM tokens WHERE expires_ms < ?1";
                to.execute(sql, params![whole(*before)])?;
            }
            Self::Used(used) => {
                let mut update =
                    to.prepare_cached("UPDATE tokens SET used_ms = ?2 WHERE id = ?1")?;
                for (id, at) in used {
                    update.execute(params![id, whole(*at)])?;
                }
            }
        }
        Ok(())
    }
}

/// Names as one value.
fn list(names: &[String]) -> String {
    serde_json::Value::from(names).to_string()
}

fn whole(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}
