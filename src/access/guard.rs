//! The front door: looks at credentials, and asks the rules. One for all listeners.

use super::credentials::Credentials;
use super::failures::Failures;
use super::htpasswd::{Htpasswd, HtpasswdError};
use super::passwords::{HashError, Passwords};
use super::{Action, Config, Context, Decision, Enforcement, Principal, Resource, Rules, RulesError};
use crate::clock::{Clock, Timestamp};
use crate::net::Secret;
use crate::telemetry::{AuthMethod, AuthResult, Metrics};
use arc_swap::ArcSwap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long what was found out holds for a connection that sends the same credentials again.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The front door. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    active: ArcSwap<Active>,
    passwords: Passwords,
    failures: Failures,
    looked: Mutex<Timestamp>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// What holds now, as a whole.
#[derive(Debug)]
struct Active {
    config: Config,
    rules: Rules,
    htpasswd: Htpasswd,
    /// The hash that a user who there is not is checked against.
    nobody: String,
    /// Of each change another.
    generation: u64,
}

/// Who it is, as long as nothing changes.
#[derive(Clone, Debug)]
pub struct Identified {
    /// Who.
    pub principal: Arc<Principal>,
    generation: u64,
    until: Timestamp,
}

/// Why access cannot be set up: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A file of users.
    #[error("access.htpasswd: {0}")]
    Htpasswd(#[from] HtpasswdError),
    /// Policies.
    #[error("access: {0}")]
    Rules(#[from] RulesError),
}

/// Why nobody knows who it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// The credentials are wrong.
    #[error("the user name or password is wrong, or the token is not valid")]
    Invalid,
    /// Somebody has tried too often.
    #[error("too many failed logins")]
    Limited(Duration),
    /// They cannot be checked now.
    #[error("credentials cannot be checked: {0}")]
    Unavailable(String),
}

/// What the rules say of a request, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is answered.
    pub is_allowed: bool,
    /// The rules would have denied it.
    pub is_denied: bool,
    /// `deny by team#2`.
    pub reason: String,
}

impl Guard {
    /// Reads what the configuration names. Blocks.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, AccessError> {
        let active = Active::new(config, 0)?;
        Ok(Self {
            inner: Arc::new(Inner {
                active: ArcSwap::from_pointee(active),
                passwords: Passwords::default(),
                failures: Failures::default(),
                looked: Mutex::new(clock.now()),
                clock,
                metrics,
            }),
        })
    }

    /// Takes over another configuration; nothing changes where it cannot be used. Blocks.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn reload(&self, config: Config) -> Result<(), AccessError> {
        let generation = self.inner.active.load().generation + 1;
        let active = Active::new(config, generation)?;
        self.inner.active.store(Arc::new(active));
        Ok(())
    }

    /// True if nobody is asked who he is, and everything may be pulled.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.inner.active.load().config.enabled
    }

    /// True if clients that do not say who they are are asked.
    #[must_use]
    pub fn has_identities(&self) -> bool {
        self.inner.active.load().config.has_identities()
    }

    /// The URL of the token endpoint, if it is configured.
    #[must_use]
    pub fn token_url(&self) -> Option<String> {
        self.inner.active.load().config.token_url.clone()
    }

    /// True if clients from this address may come in.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        let active = self.inner.active.load();
        !active.config.enabled || active.config.admits(source)
    }

    /// True if what was found out before holds still.
    #[must_use]
    pub fn holds(&self, identified: &Identified) -> bool {
        self.inner.active.load().generation == identified.generation
            && self.inner.clock.now() < identified.until
    }

    /// Finds out who has these credentials, the value of `Authorization`.
    ///
    /// # Errors
    /// [`IdentifyError`].
    pub async fn identify(
        &self,
        authorization: &str,
        source: IpAddr,
    ) -> Result<Identified, IdentifyError> {
        self.look_for_changes().await;
        let active = self.inner.active.load_full();
        let now = self.inner.clock.now();
        let (method, found) = match Credentials::parse(authorization) {
            Some(Credentials::Basic { user, password }) => {
                let found = self.by_password(&active, &user, &password, source, now);
                (AuthMethod::Password, found.await)
            }
            Some(Credentials::Bearer(_)) => (AuthMethod::Token, Err(IdentifyError::Invalid)),
            None => (AuthMethod::Unknown, Err(IdentifyError::Invalid)),
        };
        self.inner.metrics.access().authenticated(method, result_of(&found));
        let principal = found?;
        Ok(Identified {
            principal: Arc::new(principal),
            generation: active.generation,
            until: now.plus(REMEMBERED),
        })
    }

    /// What the rules say, and what becomes of it.
    #[must_use]
    pub fn judge(
        &self,
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> Verdict {
        let active = self.inner.active.load();
        let decision = active.rules.decide(who, action, resource, at);
        let is_enforced = active.config.enforcement == Enforcement::Enforce;
        Verdict {
            is_allowed: decision.is_allowed() || !is_enforced,
            is_denied: !decision.is_allowed(),
            reason: reason(&decision),
        }
    }

    /// True if the rules allow it, or are not enforced: for lists, of which there is nothing to tell.
    #[must_use]
    pub fn shows(
        &self,
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> bool {
        let active = self.inner.active.load();
        active.config.enforcement == Enforcement::Warn
            || active.rules.decide(who, action, resource, at).is_allowed()
    }

    /// True if an upstream may have something for somebody.
    #[must_use]
    pub fn reaches(&self, who: &Principal, upstream: &str) -> bool {
        let active = self.inner.active.load();
        active.config.enforcement == Enforcement::Warn
            || active.rules.reaches(who, Action::Pull, &format!("mirror/{upstream}/"))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    async fn by_password(
        &self,
        active: &Active,
        user: &str,
        password: &Secret,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Principal, IdentifyError> {
        let hash = active.htpasswd.hash_of(user);
        let inner = &self.inner;
        if let Some(hash) = hash
            && inner.passwords.was_right(user, password, hash)
        {
            return Ok(Principal::user(user));
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
                Ok(Principal::user(user))
            }
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

    /// Reads files again that have changed.
    async fn look_for_changes(&self) {
        let now = self.inner.clock.now();
        {
            let mut looked = self.inner.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if now.since(*looked) < LOOK_EVERY {
                return;
            }
            *looked = now;
        }
        let active = self.inner.active.load_full();
        let Some(path) = active.config.htpasswd.clone() else {
            return;
        };
        let guard = self.clone();
        let looked = tokio::task::spawn_blocking(move || guard.read_again(&active, &path));
        if let Err(error) = looked.await {
            tracing::error!(%error, "cannot look whether access.htpasswd has changed");
        }
    }

    /// Takes over the users of a file that has changed.
    fn read_again(&self, active: &Arc<Active>, path: &Path) {
        if !active.htpasswd.has_changed(path) {
            return;
        }
        let htpasswd = match Htpasswd::read(path) {
            Ok(htpasswd) => {
                tracing::info!(file = %path.display(), "access.htpasswd has changed and was read again");
                htpasswd
            }
            Err(error) => {
                tracing::error!(%error, "access.htpasswd has changed and cannot be used: the users stay as they were; mend the file, it is read again then");
                let mut htpasswd = active.htpasswd.clone();
                htpasswd.skip(path);
                htpasswd
            }
        };
        let new = Active {
            config: active.config.clone(),
            rules: active.rules.clone(),
            nobody: htpasswd.hash_of_nobody(),
            htpasswd,
            generation: active.generation + 1,
        };
        // Unless a whole configuration was taken over meanwhile, which has read the file, too.
        self.inner.active.compare_and_swap(active, Arc::new(new));
    }
}

impl Active {
    fn new(config: Config, generation: u64) -> Result<Self, AccessError> {
        let rules = config.rules()?;
        let htpasswd = match &config.htpasswd {
            Some(path) => Htpasswd::read(path)?,
            None => Htpasswd::default(),
        };
        Ok(Self {
            config,
            rules,
            nobody: htpasswd.hash_of_nobody(),
            htpasswd,
            generation,
        })
    }
}

fn reason(decision: &Decision<'_>) -> String {
    decision.to_string()
}

fn result_of(found: &Result<Principal, IdentifyError>) -> AuthResult {
    match found {
        Ok(_) => AuthResult::Accepted,
        Err(IdentifyError::Invalid) => AuthResult::Rejected,
        Err(IdentifyError::Limited(_)) => AuthResult::Limited,
        Err(IdentifyError::Unavailable(_)) => AuthResult::Unavailable,
    }
}
