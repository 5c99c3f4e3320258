//! Users and tokens of the catalogue, known by heart: a login asks no database.

use super::secret::{BEGINNING, Sent};
use super::{Kind, Principal};
use crate::catalogue::{Catalogue, CatalogueError, Token, TokenKind, User};
use crate::clock::Timestamp;
use std::collections::HashMap;

/// Users and tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct People {
    users: HashMap<String, User>,
    tokens: HashMap<String, Token>,
}

impl People {
    /// Reads all of them.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub(super) async fn read(from: &Catalogue) -> Result<Self, CatalogueError> {
        let (users, tokens) = (from.users().await?, from.tokens().await?);
        Ok(Self {
            users: users.into_iter().map(|it| (it.name.clone(), it)).collect(),
            tokens: tokens.into_iter().map(|it| (it.id.clone(), it)).collect(),
        })
    }

    /// True if this may be a token rather than a password.
    pub(super) fn is_token(text: &str) -> bool {
        text.starts_with(BEGINNING)
    }

    /// A user.
    pub(super) fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// All users, sorted.
    pub(super) fn users(&self) -> Vec<&User> {
        let mut users: Vec<_> = self.users.values().collect();
        users.sort_by(|one, other| one.name.cmp(&other.name));
        users
    }

    /// All tokens, sorted by their owners and by when they were made.
    pub(super) fn tokens(&self) -> Vec<&Token> {
        let mut tokens: Vec<_> = self.tokens.values().collect();
        tokens.sort_by(|one, other| {
            (&one.owner, one.created, &one.id).cmp(&(&other.owner, other.created, &other.id))
        });
        tokens
    }

    /// The token of this id, if it holds now.
    pub(super) fn token(&self, id: &str, now: Timestamp) -> Option<&Token> {
        let token = self.tokens.get(id)?;
        token.expires.is_none_or(|end| now < end).then_some(token)
    }

    /// The token that somebody has sent, if it is one and holds now.
    pub(super) fn sent(&self, text: &str, now: Timestamp) -> Option<&Token> {
        let sent = Sent::parse(text)?;
        self.token(sent.id, now).filter(|token| sent.is(token))
    }

    /// The bearer of a token. `groups`: those of the user that it is of; `None` where there is no such user any more.
    pub(super) fn bearer(token: &Token, groups: Option<Vec<String>>) -> Option<Principal> {
        let policies = token.policies.clone();
        let narrowed = if policies.is_empty() {
            Vec::new()
        } else {
            vec![policies.clone()]
        };
        Some(match token.kind {
            TokenKind::Robot => Principal {
                policies,
                ..Principal::of(Kind::Robot, &token.owner)
            },
            TokenKind::Token | TokenKind::Temporary => Principal {
                groups: groups?,
                narrowed,
                ..Principal::user(&token.owner)
            },
        })
    }
}
