//! Users of a directory (LDAP, RFC 4511; Active Directory): whoever can bind there with a name and a password can log in here.
//!
//! A login takes one connection, and two searches at most: for the user, and for all groups. It ends within
//! [`LOGIN_WAIT_MAX`], whatever the directory does. One that fails is no fault of the user's: 503, never 401; and after some
//! failures in a row it is left alone for a while.
//!
//! | file | what |
//! | --- | --- |
//! | `directory` | what is configured, and the steps of a login |
//! | `names` | names that clients send, escaped |
//! | `session`, `message` | a connection, and the bytes on it |
//! | `breaker` | a directory that fails is left alone |

mod breaker;
mod directory;
pub mod message;
pub mod names;
mod session;

pub use directory::{Directory, Groups, Server, UserSearch};

use super::found::{IdentifyError, fingerprint};
use super::queue::Queue;
use super::remembered::Remembered;
use crate::clock::Timestamp;
use crate::net::{Deadline, Dialer, Secret};
use breaker::Breaker;
use directory::Account;
use moka::sync::Cache;
use session::Failure;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The beginning of credentials of a directory's users, in tokens that are given for them.
pub(super) const CREDENTIAL: &str = "ldap:";

/// The time of a whole login: `docker login` waits 15 s in all.
pub const LOGIN_WAIT_MAX: Duration = Duration::from_secs(5);

/// The part of it for which a login waits for its turn; the rest is enough for a directory that answers.
const TURN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Logins at the same time, each with a connection: some hundred a second with a directory that is near.
const LOGINS_MAX: usize = 8;

/// Bytes of groups that are remembered: some hundred users in 200 groups each, or some ten thousand in a few.
const GROUPS_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The time for which a user's groups are remembered: no token for pulls is older.
const GROUPS_REMEMBERED: Duration = Duration::from_mins(15);

/// A directory, and what is known of its users.
#[derive(Debug)]
pub(super) struct Ldap {
    directory: Directory,
    dialer: Dialer,
    credential: String,
    state: Arc<State>,
}

/// All that outlives a reload that leaves the directory as it was.
#[derive(Debug)]
struct State {
    turns: Semaphore,
    queue: Queue,
    breaker: Breaker,
    /// Names of users whose passwords were right, by the name that was sent and the password.
    right: Remembered<Arc<str>>,
    /// Groups by the name of a user, as of the last login.
    groups: Cache<Arc<str>, Arc<[String]>>,
}

/// A user whose password was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// The name as the directory has it.
    pub(super) name: Arc<str>,
    pub(super) groups: Arc<[String]>,
}

impl Default for State {
    fn default() -> Self {
        let bytes = |name: &Arc<str>, groups: &Arc<[String]>| {
            let groups: usize = groups.iter().map(|group| group.len() + 32).sum();
            u32::try_from(name.len() + groups + 64).unwrap_or(u32::MAX)
        };
        Self {
            turns: Semaphore::new(LOGINS_MAX),
            queue: Queue::default(),
            breaker: Breaker::default(),
            right: Remembered::default(),
            groups: Cache::builder()
                .weigher(bytes)
                .max_capacity(GROUPS_BYTES_MAX)
                .time_to_live(GROUPS_REMEMBERED)
                .build(),
        }
    }
}

impl Ldap {
    /// A directory, which is not dialled yet. `before`: the one that was in use until now, whose logins stay remembered where
    /// nothing has changed. Blocks: `ca_file` is read.
    ///
    /// # Errors
    /// One line that names the file.
    pub(super) fn new(directory: &Directory, before: Option<&Self>) -> Result<Self, String> {
        let server = &directory.server;
        let dialer = Dialer::new(&server.url, server.port(), server.ca_file.as_deref());
        let same = before.filter(|before| before.directory == *directory);
        Ok(Self {
            dialer: dialer.map_err(|why| format!("access.ldap: {why}"))?,
            // It names files, and has no secret.
            credential: format!("{CREDENTIAL}{}", fingerprint(&format!("{directory:?}"))),
            directory: directory.clone(),
            state: same.map_or_else(Arc::default, |before| Arc::clone(&before.state)),
        })
    }

    /// A stand-in for the credentials of its users: another one where the directory is another.
    pub(super) fn credential(&self) -> &str {
        &self.credential
    }

    /// The user with this name and password, if they were right a moment ago.
    pub(super) fn remembered(&self, user: &str, password: &Secret) -> Option<Member> {
        let name = self.state.right.get(&[user, password.expose()])?;
        let groups = self.groups_of(&name)?;
        Some(Member { name, groups })
    }

    /// The groups of a user at the last login.
    pub(super) fn groups_of(&self, name: &str) -> Option<Arc<[String]>> {
        self.state.groups.get(name)
    }

    /// The user with this name and password; `None`: the directory does not know them.
    ///
    /// # Errors
    /// [`IdentifyError::Unavailable`].
    pub(super) async fn log_in(
        &self,
        user: &str,
        password: &Secret,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Option<Member>, IdentifyError> {
        if !names::is_name(user) || password.expose().is_empty() {
            return Ok(None);
        }
        let busy = || IdentifyError::Unavailable("too many logins are being checked".to_owned());
        let state = &*self.state;
        let deadline = Deadline::after(LOGIN_WAIT_MAX);
        let _place = state.queue.take(source).ok_or_else(busy)?;
        let turn = Deadline::after(TURN_WAIT_MAX).run("a turn", state.turns.acquire());
        let _turn = turn.await.map_err(|_| busy())?.map_err(|_| busy())?;
        // Somebody else may have waited with the same credentials.
        if let Some(member) = self.remembered(user, password) {
            return Ok(Some(member));
        }
        let Some(pass) = state.breaker.admit(now) else {
            return Err(IdentifyError::Unavailable(
                "the directory has failed: backing off (circuit open)".to_owned(),
            ));
        };
        let login = Box::pin(self.directory.log_in(&self.dialer, user, password));
        let answer = deadline.run("an answer", login).await;
        let answer = answer.unwrap_or_else(|late| Err(Failure::Down(late.to_string())));
        match answer {
            Ok(account) => {
                pass.succeeded();
                Ok(account.map(|account| self.remember(user, password, account)))
            }
            Err(Failure::Unusable(why)) => {
                pass.succeeded();
                tracing::warn!(server = %self.directory.server.url, why, "a login cannot be checked (access.ldap): it hears 503");
                Err(IdentifyError::Unavailable(why))
            }
            Err(Failure::Down(why)) => {
                let circuit_open = pass.failed(now);
                tracing::warn!(server = %self.directory.server.url, why, circuit_open, "the directory cannot be used (access.ldap): its users hear 503, others are not affected");
                Err(IdentifyError::Unavailable(why))
            }
        }
    }

    fn remember(&self, user: &str, password: &Secret, account: Account) -> Member {
        let (name, groups) = (Arc::<str>::from(account.name), account.groups.into());
        let state = &self.state;
        state.groups.insert(Arc::clone(&name), Arc::clone(&groups));
        let parts = [user, password.expose()];
        state.right.insert(&parts, Arc::clone(&name));
        Member { name, groups }
    }
}
