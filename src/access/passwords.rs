//! Passwords against slow hashes: off the async threads, a few at a time, and what was right is remembered for a while.

use crate::net::Secret;
use aws_lc_rs::{hmac, rand};
use moka::sync::Cache;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Time for which a password that was right is not hashed again. A changed hash is noticed at once.
const REMEMBERED: Duration = Duration::from_mins(5);

/// Passwords that are remembered, some 100 bytes each.
const REMEMBERED_MAX: u64 = 20_000;

/// Logins that wait for their turn, or have it: a hash takes some 100 ms, and `docker login` waits 15 s.
const WAITING_MAX: usize = 64;

/// Of one address: so many that others have room, and a CI host that starts many jobs at once gets through.
const WAITING_OF_ONE_MAX: usize = 16;

/// Checks passwords.
#[derive(Debug)]
pub(super) struct Passwords {
    right: Cache<[u8; 32], ()>,
    key: hmac::Key,
    turns: Arc<Semaphore>,
    waiting: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The reason why a password was not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HashError {
    /// Too many wait.
    Busy,
    /// Something else.
    Failed(String),
}

/// A place among those who wait.
#[derive(Debug)]
struct Place {
    waiting: Arc<Mutex<HashMap<IpAddr, usize>>>,
    source: IpAddr,
}

impl Default for Passwords {
    fn default() -> Self {
        let mut secret = [0; 32];
        // Without random numbers nothing is remembered by a key that others know.
        let is_random = rand::fill(&mut secret).is_ok();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            right: Cache::builder()
                .max_capacity(if is_random { REMEMBERED_MAX } else { 0 })
                .time_to_live(REMEMBERED)
                .build(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            // Half of the machine, so that logins do not slow pulls down.
            turns: Arc::new(Semaphore::new((threads / 2).max(1))),
            waiting: Arc::default(),
        }
    }
}

impl Passwords {
    /// True if this password was right for this hash a moment ago.
    pub(super) fn was_right(&self, user: &str, password: &Secret, hash: &str) -> bool {
        self.right.contains_key(&self.tag(user, password, hash))
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
        let place = Place::take(&self.waiting, source).ok_or(HashError::Busy)?;
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
        self.right.insert(self.tag(user, password, hash), ());
        Ok(true)
    }

    fn tag(&self, user: &str, password: &Secret, hash: &str) -> [u8; 32] {
        let mut signing = hmac::Context::with_key(&self.key);
        for part in [user, password.expose(), hash] {
            // Its length, so that no two are the same in a row.
            signing.update(&(part.len() as u64).to_be_bytes());
            signing.update(part.as_bytes());
        }
        let tag = signing.sign();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref().get(..32).unwrap_or(&[0; 32]));
        bytes
    }
}

impl Place {
    fn take(waiting: &Arc<Mutex<HashMap<IpAddr, usize>>>, source: IpAddr) -> Option<Self> {
        let mut all = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= WAITING_MAX {
            return None;
        }
        let own = all.entry(source).or_default();
        if *own >= WAITING_OF_ONE_MAX {
            return None;
        }
        *own += 1;
        Some(Self {
            waiting: Arc::clone(waiting),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.source);
            }
        }
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

    #[test]
    fn one_address_leaves_room_for_others() {
        let passwords = Passwords::default();
        let take = |last| Place::take(&passwords.waiting, [10, 0, 0, last].into());
        let mut places: Vec<_> = (0..WAITING_OF_ONE_MAX).map(|_| take(1)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(take(1).is_none());
        assert!(take(2).is_some());
        places.pop();
        assert!(take(1).is_some());
        drop(places);
        assert!(passwords.waiting.lock().unwrap().is_empty());
    }
}
