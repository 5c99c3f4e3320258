//! Passwords against slow hashes: off the async threads, a few at a time, and what was right is remembered for a while.

use super::queue::Queue;
use super::remembered::Remembered;
use crate::net::Secret;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest wait for the check of the same password, for which others have asked: `docker login` waits 15 s in all.
const SAME_WAIT_MAX: Duration = Duration::from_secs(10);

/// Checks passwords.
#[derive(Debug)]
pub(super) struct Passwords {
    /// By user, password and hash: a changed hash is noticed at once.
    right: Remembered<()>,
    turns: Arc<Semaphore>,
    queue: Queue,
    /// Checks of one password for one hash, which come at once where a whole fleet has one login: the first one is hashed, and the
    /// others wait for what comes of it.
    same: Remembered<Arc<tokio::sync::Mutex<()>>>,
}

/// The reason why a password was not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HashError {
    /// Too many wait.
    Busy,
    /// Something else.
    Failed(String),
}

impl Default for Passwords {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            right: Remembered::default(),
            // Half of the machine, so that logins do not slow pulls down.
            turns: Arc::new(Semaphore::new((threads / 2).max(1))),
            queue: Queue::default(),
            same: Remembered::default(),
        }
    }
}

impl Passwords {
    /// True if this password was right for this hash a moment ago.
    pub(super) fn was_right(&self, user: &str, password: &Secret, hash: &str) -> bool {
        let parts = [user, password.expose(), hash];
        self.right.get(&parts).is_some()
    }

    /// True if the password is right. `nobody`: what is hashed where there is no such user, so that it takes as long.
    ///
    /// # Errors
    /// [`HashError`].
    pub(super) async fn check(
        &self,
        user: &str,
        password: &Secret,
        hash: Option<&str>,
        nobody: &str,
        source: IpAddr,
    ) -> Result<bool, HashError> {
        let parts = [user, password.expose(), hash.unwrap_or_default()];
        let same = self.same.get_or_insert(&parts, Arc::default);
        let first = tokio::time::timeout(SAME_WAIT_MAX, same.lock()).await;
        let _first = first.map_err(|_late| HashError::Busy)?;
        if let Some(hash) = hash
            && self.was_right(user, password, hash)
        {
            return Ok(true);
        }
        let place = self.queue.take(source).ok_or(HashError::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_closed| HashError::Busy)?;
        let (password_there, hash_there) = (password.clone(), hash.unwrap_or(nobody).to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            // Held until the hash is done, although the client may have left.
            let _held = (place, turn);
            verify(password_there.expose(), &hash_there)
        });
        let is_right = checked
            .await
            .map_err(|error| HashError::Failed(error.to_string()))?;
        let Some(hash) = hash.filter(|_| is_right) else {
            return Ok(false);
        };
        self.right.insert(&[user, password.expose(), hash], ());
        Ok(true)
    }
}

/// True if this is the password of the hash: bcrypt, or argon2 in the format of PHC.
fn verify(password: &str, hash: &str) -> bool {
    if hash.starts_with("$argon2") {
        use argon2::password_hash::PasswordVerifier as _;
        use argon2::password_hash::phc::PasswordHash;
        return PasswordHash::new(hash).is_ok_and(|hash| {
            argon2::Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok()
        });
    }
    bcrypt::verify(password, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    /// A fleet behind one address that has one login.
    #[tokio::test]
    async fn one_password_that_many_send_at_once_is_hashed_once() {
        let passwords = Passwords::default();
        let source = [127, 0, 0, 1].into();
        let hash = bcrypt::hash("right", 4).unwrap();
        let password = secret("right");
        let check = || passwords.check("alice", &password, Some(&hash), &hash, source);
        let checked = futures_util::future::join_all((0..200).map(|_| check())).await;
        assert!(checked.iter().all(|it| *it == Ok(true)), "{checked:?}");
    }

    #[tokio::test]
    async fn what_was_right_is_remembered_for_this_hash_alone() {
        let passwords = Passwords::default();
        let source = [127, 0, 0, 1].into();
        let hash = bcrypt::hash("right", 4).unwrap();
        let check = |password: &'static str| {
            let (passwords, hash) = (&passwords, &hash);
            async move {
                let password = secret(password);
                passwords
                    .check("alice", &password, Some(hash), hash, source)
                    .await
            }
        };
        assert!(!passwords.was_right("alice", &secret("right"), &hash));
        assert_eq!(check("wrong").await, Ok(false));
        assert_eq!(check("right").await, Ok(true));
        assert!(passwords.was_right("alice", &secret("right"), &hash));
        assert!(!passwords.was_right("alice", &secret("wrong"), &hash));
        assert!(!passwords.was_right("bob", &secret("right"), &hash));
        let other = bcrypt::hash("right", 4).unwrap();
        assert!(!passwords.was_right("alice", &secret("right"), &other));
        let password = secret("right");
        let nobody = passwords.check("nobody", &password, None, &other, source);
        assert_eq!(nobody.await, Ok(false));
    }
}
