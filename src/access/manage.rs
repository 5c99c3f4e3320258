//! Users and tokens are made, changed and removed: what the admin API and the commands do.

use super::guard::Guard;
use super::people::People;
use super::secret::Fresh;
use crate::catalogue::{CatalogueError, PeopleChange, Token, TokenKind, User};
use crate::clock::Timestamp;
use crate::net::Secret;
use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest name in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The shortest password: what is shorter is guessed in an hour.
const PASSWORD_CHARS_MIN: usize = 8;

/// The longest, in bytes; what is hashed of a longer one would cost too much.
const PASSWORD_BYTES_MAX: usize = 1024;

/// The longest life of a temporary token.
const TEMPORARY_TTL_MAX: Duration = Duration::from_hours(12);

/// Its life where nothing is said, as at Alibaba Cloud.
const TEMPORARY_TTL: Duration = Duration::from_hours(1);

/// So long tokens are kept after their end, so that people see why one does not work any more.
const ENDED_KEPT: Duration = Duration::from_hours(7 * 24);

/// The reason why users and tokens stay as they were: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManageError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The nodes of a cluster do not share what a command changes on one of them.
    #[error(
        "this is a node of a cluster, and the others would not know it: in a cluster users are in the file of access.htpasswd, in a directory (access.ldap) or of an issuer (access.oidc), the same on all nodes"
    )]
    OfNode,
    /// There is one already.
    #[error("there is a user {0:?} already; `user passwd` changes the password")]
    Exists(String),
    /// It is a user of the file of `access.htpasswd`.
    #[error(
        "user {0:?} is one of the file of access.htpasswd: change it there, with `htpasswd -B`"
    )]
    OfFile(String),
    /// There is none.
    #[error("there is no {0}")]
    Unknown(String),
    /// The catalogue cannot keep it now.
    #[error("{0}")]
    Unavailable(String),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// A user as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// The name.
    pub name: String,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// When it was made; nothing for one of the file.
    pub created: Option<Timestamp>,
    /// `catalogue` or `htpasswd`.
    pub from: String,
}

/// A token as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its public part, by which it is revoked.
    pub id: String,
    /// `token`, `temporary` or `robot`.
    pub kind: TokenKind,
    /// The user that it is of, or the robot's name.
    pub owner: String,
    /// Policies that it is narrowed to; a robot's own.
    pub policies: Vec<String>,
    /// A note for people.
    pub note: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends, or has ended.
    pub expires: Option<Timestamp>,
    /// When it was last used, to some minutes.
    pub used: Option<Timestamp>,
}

/// A token that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenWanted {
    /// Its kind.
    pub kind: TokenKind,
    /// The user that it is of, or the robot's name.
    pub owner: String,
    /// Policies that it is narrowed to; a robot's own.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Its life in seconds; a temporary one an hour where nothing is said, others for ever.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
    /// A note for people.
    #[serde(default)]
    pub note: String,
}

/// The users and tokens of the catalogue, to be changed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registrar {
    guard: Guard,
}

impl Registrar {
    /// The users and tokens of a guard.
    #[must_use]
    pub fn of(guard: &Guard) -> Self {
        Self {
            guard: guard.clone(),
        }
    }

    /// Makes a user.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn add_user(
        &self,
        name: &str,
        password: Secret,
        groups: Vec<String>,
    ) -> Result<(), ManageError> {
        self.is_no_node()?;
        check_name("a user's name", name)?;
        for group in &groups {
            check_name("a group's name", group)?;
        }
        let _changing = self.guard.inner.changing.lock().await;
        let active = self.guard.active();
        self.is_no_user_of_the_file(name)?;
        if active.people.user(name).is_some() {
            return Err(ManageError::Exists(name.to_owned()));
        }
        let user = User {
            name: name.to_owned(),
            hash: self.hash(password).await?,
            groups,
            created: self.guard.now(),
        };
        self.change(PeopleChange::PutUser(user)).await
    }

    /// Nothing is made that other nodes would not know.
    fn is_no_node(&self) -> Result<(), ManageError> {
        if self.guard.inner.is_node {
            return Err(ManageError::OfNode);
        }
        Ok(())
    }

    /// Changes the password of a user. Tokens that clients got with the old one hold no more.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn set_password(&self, name: &str, password: Secret) -> Result<(), ManageError> {
        let _changing = self.guard.inner.changing.lock().await;
        self.is_no_user_of_the_file(name)?;
        let user = self.guard.active().people.user(name).cloned();
        let user = user.ok_or_else(|| unknown_user(name))?;
        let hash = self.hash(password).await?;
        self.change(PeopleChange::PutUser(User { hash, ..user }))
            .await
    }

    /// Removes a user and his tokens.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn remove_user(&self, name: &str) -> Result<(), ManageError> {
        let _changing = self.guard.inner.changing.lock().await;
        self.is_no_user_of_the_file(name)?;
        if self.guard.active().people.user(name).is_none() {
            return Err(unknown_user(name));
        }
        self.change(PeopleChange::DropUser(name.to_owned())).await
    }

    /// Refuses to change what is in the file of `access.htpasswd`.
    fn is_no_user_of_the_file(&self, name: &str) -> Result<(), ManageError> {
        if self.guard.active().htpasswd_has(name) {
            return Err(ManageError::OfFile(name.to_owned()));
        }
        Ok(())
    }

    /// All users, of the catalogue and of the file.
    #[must_use]
    pub fn users(&self) -> Vec<UserInfo> {
        let active = self.guard.active();
        let kept = active.people.users().into_iter().map(|user| UserInfo {
            name: user.name.clone(),
            groups: user.groups.clone(),
            created: Some(user.created),
            from: "catalogue".to_owned(),
        });
        let of_file = active.htpasswd_users().into_iter().map(|name| UserInfo {
            name,
            groups: Vec::new(),
            created: None,
            from: "htpasswd".to_owned(),
        });
        kept.chain(of_file).collect()
    }

    /// Makes a token. Its text is known to nobody but the caller from now on.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn create_token(
        &self,
        wanted: TokenWanted,
    ) -> Result<(TokenInfo, Secret), ManageError> {
        self.is_no_node()?;
        let _changing = self.guard.inner.changing.lock().await;
        let active = self.guard.active();
        match wanted.kind {
            TokenKind::Robot => {
                check_name("a robot's name", &wanted.owner)?;
                if wanted.policies.is_empty() {
                    return Err(ManageError::Invalid(
                        "a robot needs a policy, such as read-only: it may do nothing without"
                            .to_owned(),
                    ));
                }
            }
            TokenKind::Token | TokenKind::Temporary => {
                if !active.has_user(&wanted.owner) {
                    return Err(unknown_user(&wanted.owner));
                }
            }
        }
        for policy in &wanted.policies {
            if !active.rules().has_policy(policy) {
                return Err(ManageError::Unknown(format!("policy {policy:?}")));
            }
        }
        let now = self.guard.now();
        let fresh =
            Fresh::make().ok_or_else(|| ManageError::Failed("no random numbers".to_owned()))?;
        let token = Token {
            id: fresh.id,
            secret: fresh.hash,
            kind: wanted.kind,
            expires: ttl(&wanted)?.map(|ttl| now.plus(ttl)),
            owner: wanted.owner,
            policies: wanted.policies,
            note: wanted.note,
            created: now,
            used: None,
        };
        let info = TokenInfo::from(&token);
        self.commit(PeopleChange::Expire(Timestamp(now.0.saturating_sub(
            u64::try_from(ENDED_KEPT.as_millis()).unwrap_or(u64::MAX),
        ))))
        .await?;
        self.change(PeopleChange::PutToken(token)).await?;
        Ok((info, fresh.text))
    }

    /// Revokes a token; it opens nothing from now on.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn revoke_token(&self, id: &str) -> Result<(), ManageError> {
        let _changing = self.guard.inner.changing.lock().await;
        if !self
            .guard
            .active()
            .people
            .tokens()
            .iter()
            .any(|token| token.id == id)
        {
            return Err(ManageError::Unknown(format!("token {id:?}")));
        }
        self.change(PeopleChange::DropToken(id.to_owned())).await
    }

    /// All tokens.
    #[must_use]
    pub fn tokens(&self) -> Vec<TokenInfo> {
        let active = self.guard.active();
        let used = self.guard.inner.uses();
        let tokens = active.people.tokens().into_iter();
        tokens
            .map(|token| TokenInfo {
                used: used.get(&token.id).copied().or(token.used),
                ..TokenInfo::from(token)
            })
            .collect()
    }

    /// Writes down which tokens were used since the last time.
    ///
    /// # Errors
    /// [`CatalogueError`]; they are noted the next time.
    pub async fn note_uses(&self) -> Result<(), ManageError> {
        let used: Vec<_> = self
            .guard
            .inner
            .uses()
            .iter()
            .map(|(id, at)| (id.clone(), *at))
            .collect();
        if used.is_empty() {
            return Ok(());
        }
        let _changing = self.guard.inner.changing.lock().await;
        self.commit(PeopleChange::Used(used.clone())).await?;
        self.read_people().await?;
        let mut waiting = self.guard.inner.uses();
        for (id, at) in used {
            if waiting.get(&id) == Some(&at) {
                waiting.remove(&id);
            }
        }
        Ok(())
    }

    /// Makes a change, and knows it.
    async fn change(&self, change: PeopleChange) -> Result<(), ManageError> {
        self.commit(change).await?;
        self.read_people().await
    }

    async fn commit(&self, change: PeopleChange) -> Result<(), ManageError> {
        let catalogue = self.guard.inner.catalogue.as_ref();
        let catalogue =
            catalogue.ok_or_else(|| ManageError::Failed("there is no catalogue".to_owned()))?;
        Ok(catalogue
            .commit(crate::catalogue::Change::People(change))
            .await?)
    }

    async fn read_people(&self) -> Result<(), ManageError> {
        let Some(catalogue) = &self.guard.inner.catalogue else {
            return Ok(());
        };
        let people = People::read(catalogue).await?;
        self.guard.know(people);
        Ok(())
    }

    /// The hash of a password, as slow as it has to be.
    async fn hash(&self, password: Secret) -> Result<String, ManageError> {
        let text = password.expose();
        if text.chars().count() < PASSWORD_CHARS_MIN {
            let why = format!("a password has {PASSWORD_CHARS_MIN} characters at least");
            return Err(ManageError::Invalid(why));
        }
        if text.len() > PASSWORD_BYTES_MAX || text.contains('\0') {
            let why = format!("a password has {PASSWORD_BYTES_MAX} bytes at most, none of them 0");
            return Err(ManageError::Invalid(why));
        }
        let hashed = tokio::task::spawn_blocking(move || {
            Argon2::default()
                .hash_password(password.expose().as_bytes())
                .map(|hash| hash.to_string())
        });
        let failed =
            |why: String| ManageError::Failed(format!("the password cannot be hashed: {why}"));
        let hash = hashed.await.map_err(|error| failed(error.to_string()))?;
        hash.map_err(|error| failed(error.to_string()))
    }
}

impl From<CatalogueError> for ManageError {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::TooLarge => Self::Invalid(error.to_string()),
            CatalogueError::Unavailable(_) | CatalogueError::Busy => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

impl From<&Token> for TokenInfo {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id.clone(),
            kind: token.kind,
            owner: token.owner.clone(),
            policies: token.policies.clone(),
            note: token.note.clone(),
            created: token.created,
            expires: token.expires,
            used: token.used,
        }
    }
}

fn ttl(wanted: &TokenWanted) -> Result<Option<Duration>, ManageError> {
    let ttl = wanted.ttl_seconds.map(Duration::from_secs);
    if ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(ManageError::Invalid(
            "the time that a token holds must not be 0".to_owned(),
        ));
    }
    match (wanted.kind, ttl) {
        (TokenKind::Temporary, Some(ttl)) if ttl > TEMPORARY_TTL_MAX => Err(ManageError::Invalid(
            "a temporary token holds 12 hours at most; `token create` makes others".to_owned(),
        )),
        (TokenKind::Temporary, None) => Ok(Some(TEMPORARY_TTL)),
        (_, ttl) => Ok(ttl),
    }
}

fn unknown_user(name: &str) -> ManageError {
    ManageError::Unknown(format!("user {name:?}"))
}

/// Names stand in logs, tokens and Basic credentials, which end them at a colon.
fn check_name(what: &str, name: &str) -> Result<(), ManageError> {
    let is_plain = |c: char| c.is_alphanumeric() || "._-+@/".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
        return Err(ManageError::Invalid(format!(
            "{what} has letters, digits and `._-+@/`, {NAME_BYTES_MAX} bytes at most"
        )));
    }
    Ok(())
}
