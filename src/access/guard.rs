//! The front door: looks at credentials, and asks the rules. One for all listeners.

use super::active::{Active, TOKEN};
use super::credentials::Credentials;
use super::failures::Failures;
use super::found::{Found, IdentifyError, result_of};
use super::htpasswd::{Htpasswd, HtpasswdError};
use super::jwt::Use;
use super::keys::{KeyError, Keys};
use super::limits::Limits;
use super::passwords::Passwords;
use super::people::People;
use super::scope::Scope;
use super::settings::Settings;
use super::{Action, Config, Context, Enforcement, Principal, Resource, RulesError};
use crate::audit::Audit;
use crate::catalogue::Catalogue;
use crate::clock::{Clock, Timestamp};
use crate::telemetry::{AuthMethod, Metrics};
use arc_swap::ArcSwap;
use moka::sync::Cache;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The interval at which it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time for which an identity holds for a connection that sends the same credentials again.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Bytes of tokens that were verified and are remembered: some thousand.
const TOKENS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The front door. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    active: ArcSwap<Active>,
    pub(super) keys: Keys,
    /// By the value of `Authorization`.
    tokens: Cache<String, Identified>,
    pub(super) passwords: Passwords,
    pub(super) failures: Failures,
    /// The store of users and tokens.
    pub(super) catalogue: Option<Catalogue>,
    /// One change of users and tokens after the other.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// When tokens were used, since that was last written down.
    used: Mutex<HashMap<String, Timestamp>>,
    /// When it was last looked whether files have changed, in milliseconds.
    looked: AtomicU64,
    clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    /// True if other nodes of a cluster have catalogues of their own.
    pub(super) is_node: bool,
    limits: ArcSwap<Limits>,
    audit: OnceLock<Audit>,
}

/// An identity, as long as nothing changes.
#[derive(Clone, Debug)]
pub struct Identified {
    /// The identity.
    pub principal: Arc<Principal>,
    /// Scopes of a token; `None`: the credentials are not bound to any.
    pub scopes: Option<Arc<[Scope]>>,
    /// The id of the token of this server that was sent, or that stands behind what was.
    pub token: Option<Arc<str>>,
    generation: u64,
    until: Timestamp,
}

/// The reason why access cannot be set up: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A file of users.
    #[error("access.htpasswd: {0}")]
    Htpasswd(#[from] HtpasswdError),
    /// The keys of tokens.
    #[error("keys of tokens: {0}")]
    Keys(#[from] KeyError),
    /// Issuers of other tokens.
    #[error("{0}")]
    Oidc(String),
    /// A directory.
    #[error("{0}")]
    Ldap(String),
    /// Policies.
    #[error("access: {0}")]
    Rules(#[from] RulesError),
}

/// The verdict of the rules on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They allow it.
    Allowed,
    /// They deny it.
    Denied {
        /// `team#2`, or `default` where no statement says anything.
        statement: String,
        /// False: they are being tried out, and it is answered all the same.
        is_enforced: bool,
    },
}

impl Guard {
    /// Reads what the configuration names. `catalogue`: users and tokens, and its directory has the keys of tokens;
    /// without one they are gone with the process. Blocks for as long as small files take.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn open(
        config: Config,
        catalogue: Option<Catalogue>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, AccessError> {
        let keys = keys(&config, catalogue.as_ref())?;
        let is_node = config.cluster.is_some();
        let (people, people_trouble) = match &catalogue {
            Some(catalogue) => match People::read(catalogue).await {
                Ok(people) => (people, None),
                Err(error) => {
                    tracing::error!(%error, "users and tokens cannot be read: those of access.htpasswd can log in, others get 503");
                    (People::default(), Some(error.to_string()))
                }
            },
            None => (People::default(), None),
        };
        let limits = config.limits.clone();
        let mut active = Active::new(config, &metrics, None)?;
        active.people = Arc::new(people);
        active.people_trouble = people_trouble;
        Ok(Self {
            inner: Arc::new(Inner {
                active: ArcSwap::from_pointee(active),
                keys,
                is_node,
                tokens: Cache::builder()
                    .weigher(|token: &String, _| u32::try_from(2 * token.len()).unwrap_or(u32::MAX))
                    .max_capacity(TOKENS_BYTES_MAX)
                    .time_to_live(REMEMBERED)
                    .build(),
                passwords: Passwords::default(),
                failures: Failures::default(),
                catalogue,
                changing: tokio::sync::Mutex::new(()),
                used: Mutex::default(),
                looked: AtomicU64::new(clock.now().0),
                limits: ArcSwap::from_pointee(Limits::new(limits, Arc::clone(&clock))),
                audit: OnceLock::new(),
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
        let before = self.active();
        let limits = config.limits.clone();
        let active = Active::new(config, &self.inner.metrics, Some(&*before))?;
        if !self.inner.limits.load().are(&limits) {
            let limits = Limits::new(limits, Arc::clone(&self.inner.clock));
            self.inner.limits.store(Arc::new(limits));
        }
        self.inner.active.rcu(|now| Active {
            // Users and tokens may have changed since it was begun: a token that was revoked stays so.
            people: Arc::clone(&now.people),
            people_trouble: now.people_trouble.clone(),
            generation: now.generation + 1,
            ..active.clone()
        });
        Ok(())
    }

    /// Other users and tokens.
    pub(super) fn know(&self, people: People) {
        let people = Arc::new(people);
        self.inner.active.rcu(|before| {
            let mut active = Active::clone(before);
            active.people = Arc::clone(&people);
            active.people_trouble = None;
            active.generation += 1;
            active
        });
    }

    /// Has logins, denials and the like recorded there from now on.
    pub fn audit_to(&self, audit: Audit) {
        // A server has one, from its start on.
        let _other = self.inner.audit.set(audit).is_err();
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        static OFF: Audit = Audit::off();
        self.inner.audit.get().unwrap_or(&OFF)
    }

    /// Limits by identity or address; `None` where there are none.
    #[must_use]
    pub fn limits(&self) -> Option<Arc<Limits>> {
        let limits = self.inner.limits.load();
        (!limits.is_empty()).then(|| Arc::clone(&limits))
    }

    /// The part of the configuration that listeners ask for, as it holds now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings::of(self.inner.active.load())
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
        let active = self.active();
        let now = self.inner.clock.now();
        if let Some(known) = self.inner.tokens.get(authorization)
            && self.holds(&known)
        {
            return Ok(known);
        }
        let mut scopes = None;
        let (method, found) = match Credentials::parse(authorization) {
            Some(Credentials::Basic { user, password }) => {
                let found = self.by_secret(&active, &user, &password, source, now);
                found.await
            }
            Some(Credentials::Bearer(token)) if People::is_token(token.expose()) => (
                AuthMethod::Token,
                self.by_token(&active, token.expose(), now),
            ),
            Some(Credentials::Bearer(token)) if active.is_of_another(token.expose()) => (
                AuthMethod::Oidc,
                active.oidc.identify(token.expose(), now).await,
            ),
            Some(Credentials::Bearer(token)) => {
                let claims = active.verified(token.expose(), Use::Access, &self.inner.keys, now);
                let found = claims.ok_or_else(|| active.unknown()).and_then(|claims| {
                    scopes = Some(claims.access.clone().into());
                    let who = claims.principal().ok_or(IdentifyError::Invalid)?;
                    Ok(Found {
                        principal: active.as_now(who, &claims.credential),
                        until: Some(claims.expires()),
                        credential: claims.credential,
                    })
                });
                (AuthMethod::Token, found)
            }
            None => (AuthMethod::Unknown, Err(IdentifyError::Invalid)),
        };
        self.inner
            .metrics
            .access()
            .authenticated(method, result_of(&found));
        let found = found?;
        let remembered = now.plus(REMEMBERED);
        let token = found.credential.strip_prefix(TOKEN);
        let identified = Identified {
            token: token.map(Arc::from),
            principal: Arc::new(found.principal),
            scopes,
            generation: active.generation,
            until: found.until.map_or(remembered, |end| end.min(remembered)),
        };
        // Public keys are slow; passwords have a memory of their own.
        if identified.scopes.is_some() || method == AuthMethod::Oidc {
            let tokens = &self.inner.tokens;
            tokens.insert(authorization.to_owned(), identified.clone());
        }
        Ok(identified)
    }

    /// Everything that holds now.
    pub(super) fn active(&self) -> Arc<Active> {
        self.inner.active.load_full()
    }

    /// The verdict of the rules.
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
        if decision.is_allowed() {
            return Verdict::Allowed;
        }
        Verdict::Denied {
            statement: match decision.statement {
                Some((policy, number)) => format!("{policy}#{number}"),
                None => "default".to_owned(),
            },
            is_enforced: active.config.enforcement == Enforcement::Enforce,
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
            || active
                .rules
                .reaches(who, Action::Pull, Resource::mirror(upstream, "").as_str())
    }

    /// The beginnings of names of resources of which somebody may perhaps pull something.
    #[must_use]
    pub fn beginnings(&self, who: &Principal) -> Vec<String> {
        let active = self.inner.active.load();
        if active.config.enforcement == Enforcement::Warn {
            return vec![String::new()];
        }
        let all = active.rules.beginnings(who, Action::Pull);
        all.into_iter().map(str::to_owned).collect()
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Reads files again that have changed.
    pub async fn look_for_changes(&self) {
        let now = self.inner.clock.now();
        let looked = self.inner.looked.load(Ordering::Relaxed);
        if now.since(Timestamp(looked)) < LOOK_EVERY {
            return;
        }
        let is_first =
            self.inner
                .looked
                .compare_exchange(looked, now.0, Ordering::Relaxed, Ordering::Relaxed);
        if is_first.is_err() {
            return;
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
            nobody: htpasswd.hash_of_nobody(),
            htpasswd,
            generation: active.generation + 1,
            ..Active::clone(active)
        };
        // Unless a whole configuration was taken over meanwhile, which has read the file, too.
        self.inner.active.compare_and_swap(active, Arc::new(new));
    }
}

impl Inner {
    /// When tokens were used.
    pub(super) fn uses(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of tokens. Without access nobody gets a token, and nothing is written.
fn keys(config: &Config, catalogue: Option<&Catalogue>) -> Result<Keys, KeyError> {
    let seeds = config.cluster.as_ref().map(|it| &it.seeds[..]);
    if let Some(shared) = Keys::shared(seeds.unwrap_or_default())? {
        return Ok(shared);
    }
    match catalogue.filter(|it| config.enabled && it.is_known()) {
        Some(catalogue) => Keys::open(catalogue.dir()),
        None => Keys::ephemeral(),
    }
}
