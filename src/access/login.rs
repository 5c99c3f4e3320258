//! Credentials that somebody has typed: a token or a password, of whomever it may be.

use super::Guard;
use super::active::{Active, TOKEN};
use super::found::{Found, IdentifyError, fingerprint};
use super::ldap::{Ldap, Member};
use super::passwords::HashError;
use super::people::People;
use crate::clock::Timestamp;
use crate::net::Secret;
use crate::telemetry::AuthMethod;
use std::net::IpAddr;

impl Guard {
    /// The owner of this password, or of the token that stands in its place.
    pub(super) async fn by_secret(
        &self,
        active: &Active,
        user: &str,
        secret: &Secret,
        source: IpAddr,
        now: Timestamp,
    ) -> (AuthMethod, Result<Found, IdentifyError>) {
        if People::is_token(secret.expose()) {
            return (
                AuthMethod::Token,
                self.by_token(active, secret.expose(), now),
            );
        }
        if active.is_of_another(secret.expose()) {
            let found = Box::pin(active.oidc.identify(secret.expose(), now));
            return (AuthMethod::Oidc, found.await);
        }
        if let Some(ldap) = active.ldap.as_deref().filter(|_| !active.has_user(user)) {
            let found = self.by_directory(active, ldap, (user, secret), source, now);
            return (AuthMethod::Ldap, found.await);
        }
        let found = self.by_password(active, user, secret, source, now).await;
        (AuthMethod::Password, found)
    }

    /// The bearer of a token of ours.
    pub(super) fn by_token(
        &self,
        active: &Active,
        text: &str,
        now: Timestamp,
    ) -> Result<Found, IdentifyError> {
        let Some(token) = active.people.sent(text, now) else {
            return Err(active.unknown());
        };
        let principal = active.bearer(token).ok_or(IdentifyError::Invalid)?;
        self.inner.uses().insert(token.id.clone(), now);
        Ok(Found {
            principal,
            credential: format!("{TOKEN}{}", token.id),
            until: token.expires,
        })
    }

    /// The user with this name and password.
    ///
    /// # Errors
    /// [`IdentifyError`].
    pub(super) async fn by_password(
        &self,
        active: &Active,
        user: &str,
        password: &Secret,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Found, IdentifyError> {
        let hash = active.hash_of(user);
        let found = || Found {
            principal: active.user(user),
            credential: hash.map(fingerprint).unwrap_or_default(),
            until: None,
        };
        let inner = &self.inner;
        if let Some(hash) = hash
            && inner.passwords.was_right(user, password, hash)
        {
            return Ok(found());
        }
        if let Some(wait) = inner.failures.wait(user, source, now) {
            return Err(IdentifyError::Limited(wait));
        }
        let nobody = &active.nobody;
        let checked = inner.passwords.check(user, password, hash, nobody, source);
        let checked = checked.await;
        match checked {
            Ok(true) => {
                inner.failures.forgive(user, source);
                Ok(found())
            }
            Ok(false) if hash.is_none() && active.people_trouble.is_some() => Err(active.unknown()),
            Ok(false) => {
                inner.failures.count(user, source, now);
                Err(IdentifyError::Invalid)
            }
            Err(HashError::Busy) => Err(IdentifyError::Unavailable(
                "too many logins are being checked".to_owned(),
            )),
            Err(HashError::Failed(why)) => Err(IdentifyError::Unavailable(why)),
        }
    }

    /// The user of the directory with this name and password.
    async fn by_directory(
        &self,
        active: &Active,
        ldap: &Ldap,
        (user, password): (&str, &Secret),
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Found, IdentifyError> {
        let inner = &self.inner;
        let found = |member: &Member| {
            let principal = active.member(member).ok_or(IdentifyError::Invalid)?;
            Ok(Found {
                principal,
                credential: ldap.credential().to_owned(),
                until: None,
            })
        };
        // Some of its names may be those of users who cannot be read.
        if active.people_trouble.is_some() {
            return Err(active.unknown());
        }
        if let Some(member) = ldap.remembered(user, password) {
            return found(&member);
        }
        let name = as_in_a_directory(user);
        if let Some(wait) = inner.failures.wait(&name, source, now) {
            return Err(IdentifyError::Limited(wait));
        }
        let Some(member) = ldap.log_in(user, password, source, now).await? else {
            inner.failures.count(&name, source, now);
            return Err(IdentifyError::Invalid);
        };
        inner.failures.forgive(&name, source);
        found(&member)
    }
}

/// The name that a directory takes a user's for, as far as that matters to guess passwords: case, spaces around and beside
/// each other, and the width of letters make no difference to it (RFC 4518 section 2).
fn as_in_a_directory(user: &str) -> String {
    // Halfwidth and Fullwidth Forms of Unicode: those of ASCII.
    let narrow = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        _ => c,
    };
    let name: String = user.chars().map(narrow).collect();
    let words = name.split_whitespace().collect::<Vec<_>>();
    words.join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_a_directory_takes_for_one_name_are_one() {
        for user in [
            "lena",
            " lena",
            "lena ",
            "LENA",
            "\u{ff4c}ena",
            "\u{3000}lena",
        ] {
            assert_eq!(as_in_a_directory(user), "lena", "{user:?}");
        }
        assert_eq!(as_in_a_directory("a   b"), "a b");
        assert_ne!(as_in_a_directory("ab"), as_in_a_directory("a b"));
    }
}
