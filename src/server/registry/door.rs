//! Access at the client listener: who asks, and may he?

use super::arrival::Caller;
use crate::access::credentials::Credentials;
use crate::access::limits::{Limits, Share, Spending};
use crate::access::{
    Action, Context, Guard, Identified, Principal, Resource, Scope, Verdict, result_of,
};
use crate::audit::{Denial, Login};
use crate::oci::UpstreamName;
use crate::oci::directory::{ResolveError, Source};
use crate::server::http::access_log::Exchange;
use crate::server::http::context::Request;
use crate::server::http::error::ApiError;
use crate::server::nodes::NodeDesk;
use crate::server::transparent::StandIn;
use crate::telemetry::AuthMethod;
use http::{HeaderValue, Method, header, request};
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The beginning of resources that are hosted repositories.
const REPOSITORIES: &str = "repository/";

/// The identification that a listener asks of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asks {
    /// Nobody: what anonymous clients may pull is served, and `Authorization` is ignored. For dockerd's
    /// `registry-mirrors`: a dockerd that is logged in to Docker Hub would send its Hub password to a mirror that
    /// challenges it.
    Nobody,
    /// Everybody's identity, where access is configured.
    #[default]
    Everybody,
}

/// The door of one listener. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    guard: Guard,
    asks: Asks,
    /// Clients reach the listener by HTTPS.
    is_secure: bool,
    /// Names of upstreams at which the listener answers.
    stand_in: StandIn,
    /// The answers for other nodes, where the listener is theirs.
    desk: Option<NodeDesk>,
}

/// The sender of a connection's last request, so that the same credentials are not looked at again.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: Mutex<Option<(HeaderValue, Identified)>>,
    /// Its share of the limits.
    share: Mutex<Option<Share>>,
}

/// The asker of one request: identity, address, door.
#[derive(Clone, Debug)]
pub(crate) struct Visitor<'a> {
    door: &'a Door,
    pub(crate) who: Arc<Principal>,
    /// Scopes of its token.
    scopes: Option<Arc<[Scope]>>,
    source: IpAddr,
    /// True if the client reaches the mirror by HTTPS.
    is_secure: bool,
    /// True if it can be asked for credentials of this mirror: those of the request are no upstream's.
    is_asked: bool,
}

impl Door {
    /// A door of a listener.
    pub(crate) fn new(guard: Guard, asks: Asks, is_secure: bool) -> Self {
        Self {
            guard,
            asks,
            is_secure,
            stand_in: StandIn::default(),
            desk: None,
        }
    }

    /// The door for other nodes, whose certificates have let them in.
    pub(crate) fn for_nodes(self, desk: NodeDesk) -> Self {
        let desk = Some(desk);
        Self { desk, ..self }
    }

    /// The answers for other nodes, if it is theirs.
    pub(crate) fn desk(&self) -> Option<&NodeDesk> {
        self.desk.as_ref()
    }

    /// With the names of upstreams at which the listener answers.
    pub(crate) fn standing_in(self, stand_in: StandIn) -> Self {
        Self { stand_in, ..self }
    }

    /// The names of upstreams at which the listener answers.
    pub(crate) fn stand_in(&self) -> &StandIn {
        &self.stand_in
    }

    /// The guard behind it.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// True if clients can get tokens here.
    pub(crate) fn gives_tokens(&self) -> bool {
        self.is_asking()
    }

    /// Lets clients in from where they may come.
    ///
    /// # Errors
    /// They may not.
    pub(crate) fn admit(&self, exchange: &mut Exchange) -> Result<(), ApiError> {
        if self.guard.settings().admits(exchange.source()) {
            return Ok(());
        }
        exchange.denied(
            "",
            &Denial {
                action: "connect",
                resource: "*",
                statement: "access.allow",
                enforced: true,
            },
        );
        Err(ApiError::not_admitted())
    }

    /// Lets a client ask for a token, as often as it may.
    ///
    /// # Errors
    /// It may not come from there, or has asked too often.
    pub(crate) fn admit_to_token(
        &self,
        head: &request::Parts,
        exchange: &mut Exchange,
    ) -> Result<(), ApiError> {
        self.admit(exchange)?;
        let Some(limits) = self.guard.limits() else {
            return Ok(());
        };
        // A form has credentials.
        let is_anonymous =
            head.method == Method::GET && !head.headers.contains_key(header::AUTHORIZATION);
        let admitted = if is_anonymous {
            limits.admit_anonymous(exchange.source())
        } else {
            limits.admit_address(exchange.source())
        };
        admitted.map_err(ApiError::over_limit)
    }

    /// True if `Authorization` is ignored here, and nobody is challenged.
    pub(crate) fn asks_nobody(&self) -> bool {
        self.asks == Asks::Nobody
    }

    /// True if clients have to say who they are.
    pub(crate) fn is_asking(&self) -> bool {
        self.asks == Asks::Everybody && self.guard.settings().has_identities()
    }

    /// True if clients reach the listener by HTTPS.
    pub(crate) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Lets a request in, and says who it comes from; `None` where access is not configured. `is_ours`: its credentials are
    /// no upstream's.
    ///
    /// # Errors
    /// The client may not come from where it does, or its credentials are wrong.
    pub(crate) async fn enter(
        &self,
        head: &request::Parts,
        is_ours: bool,
        caller: &Caller<'_>,
        exchange: &mut Exchange,
    ) -> Result<Option<Visitor<'_>>, ApiError> {
        if self.guard.settings().is_open() {
            return Ok(None);
        }
        let source = caller.source();
        self.admit(exchange)?;
        let given = head.headers.get(header::AUTHORIZATION);
        let is_asked = is_ours && self.is_asking();
        let (who, scopes, token) = match given.filter(|_| is_asked) {
            Some(given) => {
                let identified = Box::pin(self.identify(head, given, caller, exchange)).await;
                let identified = identified.or_else(|error| self.count_refused(source, error))?;
                (identified.principal, identified.scopes, identified.token)
            }
            None => (self.without_credentials(caller), None, None),
        };
        exchange.account.belongs_to(&who, token);
        if let Some(limits) = self.guard.limits() {
            if who.is_anonymous() && is_asked && given.is_none() && is_ping(head) {
                // Whoever has a login begins so, and is told only there that he is to use it.
                limits.admit_address(source).map_err(ApiError::over_limit)?;
            } else {
                exchange
                    .account
                    .spends(Self::spend(&limits, &who, source, caller)?);
            }
        }
        Ok(Some(Visitor {
            door: self,
            who,
            scopes,
            source,
            is_secure: caller.is_secure,
            is_asked,
        }))
    }

    /// Counts a request of somebody.
    ///
    /// # Errors
    /// A limit is met.
    fn spend(
        limits: &Arc<Limits>,
        who: &Arc<Principal>,
        source: IpAddr,
        caller: &Caller<'_>,
    ) -> Result<Option<Spending>, ApiError> {
        let memory = &caller.arrival.memory;
        let mut share = memory.share.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = limits.admit(who, source, &mut share);
        admitted.map_err(ApiError::over_limit)
    }

    /// Counts a request whose credentials are wrong as one of an anonymous client: else a header that makes no sense would be
    /// a way around all limits.
    fn count_refused<T>(&self, source: IpAddr, error: ApiError) -> Result<T, ApiError> {
        if let Some(limits) = self.guard.limits() {
            let admitted = limits.admit_anonymous(source);
            admitted.map_err(ApiError::over_limit)?;
        }
        Err(error)
    }

    /// The identity of a client without credentials: the one in its certificate, where clients are asked who they are.
    fn without_credentials(&self, caller: &Caller<'_>) -> Arc<Principal> {
        match caller.certificate {
            Some(certificate) if self.is_asking() => Arc::clone(certificate),
            certificate => Arc::new(Principal {
                certificate: certificate.is_some(),
                ..Principal::anonymous()
            }),
        }
    }

    async fn identify(
        &self,
        head: &request::Parts,
        given: &HeaderValue,
        caller: &Caller<'_>,
        exchange: &mut Exchange,
    ) -> Result<Identified, ApiError> {
        let memory = &caller.arrival.memory;
        self.guard.look_for_changes().await;
        let mut is_new = true;
        {
            let known = memory.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((before, identified)) = &*known
                && before == given
            {
                if self.guard.holds(identified) {
                    return Ok(with_certificate(identified.clone(), caller));
                }
                is_new = false;
            }
        }
        let text = given.to_str().unwrap_or_default();
        let identified = self.guard.identify(text, exchange.source()).await;
        if let Ok(it) = &identified {
            exchange.account.belongs_to(&it.principal, it.token.clone());
        }
        // What is checked again after a while is no other login.
        if is_new || identified.is_err() {
            let credentials = Credentials::parse(text);
            let claim = credentials.as_ref().map(Credentials::claim);
            let (method, user) = claim.unwrap_or((AuthMethod::Unknown, None));
            exchange.logged_in(&Login {
                method: method.label(),
                result: result_of(&identified).label(),
                user,
            });
        }
        let identified = identified.map_err(|error| {
            ApiError::unidentified(&error, || {
                self.challenge(head, caller.is_secure, None, Some("invalid_token"))
            })
        })?;
        let mut known = memory.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((given.clone(), identified.clone()));
        Ok(with_certificate(identified, caller))
    }

    /// The value of `WWW-Authenticate` (distribution, docs/spec/auth/token.md). `scope`: the repository as the client
    /// names it, and what it wants to do there.
    fn challenge(
        &self,
        head: &request::Parts,
        is_secure: bool,
        scope: Option<(&str, Action)>,
        error: Option<&str>,
    ) -> String {
        let host = crate::server::http::host::of(head);
        let realm = match self.guard.settings().token_url() {
            Some(url) => url,
            None => url_of_token(host, is_secure),
        };
        let scope = scope.map(|(name, action)| {
            let verb = action.verb();
            format!(",scope=\"repository:{name}:{verb}\"")
        });
        let error = error.map(|error| format!(",error=\"{error}\""));
        let (scope, error) = (scope.unwrap_or_default(), error.unwrap_or_default());
        format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"{scope}{error}")
    }
}

/// True for `/v2/`.
fn is_ping(head: &request::Parts) -> bool {
    matches!(head.uri.path(), "/v2/" | "/v2")
}

fn url_of_token(host: Option<&str>, is_secure: bool) -> String {
    let scheme = if is_secure { "https" } else { "http" };
    // A host that could end the quoted string is none.
    let host = host
        .filter(|host| !host.contains(['"', '\\']))
        .unwrap_or("localhost");
    format!("{scheme}://{host}/token")
}

/// Adds the certificate to an identity by credentials, which win. A token that is nobody's is no identity.
fn with_certificate(mut identified: Identified, caller: &Caller<'_>) -> Identified {
    identified.principal = Principal::with_certificate(identified.principal, caller.certificate);
    identified
}

/// The service that tokens of this server are for.
pub(crate) const SERVICE: &str = "roadstead";

impl Visitor<'_> {
    /// Answers the ping: whoever can say who he is is asked, since clients take their challenges from there alone.
    ///
    /// # Errors
    /// The client has not said who it is.
    pub(crate) fn greet(&self, head: &request::Parts) -> Result<(), ApiError> {
        if self.who.is_anonymous() && self.is_asked {
            let challenge = self.door.challenge(head, self.is_secure, None, None);
            return Err(ApiError::unauthorized(&Unidentified, challenge));
        }
        Ok(())
    }

    /// True if anybody at this address may have such a thing of a repository.
    pub(crate) fn everybody_may(&self, action: Action, source: &Source) -> bool {
        let resource = Resource::mirror(source.upstream.as_str(), source.repository.as_str());
        let nobody = Principal::anonymous();
        let verdict = self
            .door
            .guard
            .judge(&nobody, action, &resource, &self.at(None));
        !matches!(verdict, Verdict::Denied { .. })
    }

    /// Lets a request have something of a repository.
    ///
    /// # Errors
    /// The rules deny it.
    pub(crate) fn may(
        &self,
        action: Action,
        source: &Source,
        tag: Option<&str>,
        request: &Request<'_>,
        path: &str,
        exchange: &mut Exchange,
    ) -> Result<(), ApiError> {
        let resource = Resource::mirror(source.upstream.as_str(), source.repository.as_str());
        let of = (source.upstream.as_str(), tag);
        self.may_with(action, &resource, of, request, path, exchange)
    }

    /// Lets a request have something of a resource, which is counted for `label`.
    ///
    /// # Errors
    /// The rules deny it.
    pub(crate) fn may_with(
        &self,
        action: Action,
        resource: &Resource<'_>,
        (label, tag): (&str, Option<&str>),
        request: &Request<'_>,
        path: &str,
        exchange: &mut Exchange,
    ) -> Result<(), ApiError> {
        let guard = &self.door.guard;
        let verdict = guard.judge(&self.who, action, resource, &self.at(tag));
        let Verdict::Denied {
            statement,
            is_enforced,
        } = verdict
        else {
            return self.has_scope(action, path, request.head);
        };
        exchange.denied(
            label,
            &Denial {
                action: action.name(),
                resource: resource.as_str(),
                statement: &statement,
                enforced: is_enforced,
            },
        );
        let reason = format!("deny by {statement}");
        if !is_enforced {
            tracing::warn!(
                client = %self.source, who = self.who.label(), %action, %resource, reason,
                "access.mode is \"warn\": with \"enforce\" this request would be refused"
            );
            return Ok(());
        }
        Err(self.refuse(action, resource, &reason, request.head, path))
    }

    /// A token is for what its bearer has asked for, and he can ask for another.
    fn has_scope(&self, action: Action, path: &str, head: &request::Parts) -> Result<(), ApiError> {
        let Some(scopes) = &self.scopes else {
            return Ok(());
        };
        if scopes.iter().any(|scope| scope.allows(path, action)) {
            return Ok(());
        }
        let challenge = self.door.challenge(
            head,
            self.is_secure,
            Some((path, action)),
            Some("insufficient_scope"),
        );
        Err(ApiError::unauthorized(&OtherScope, challenge))
    }

    fn refuse(
        &self,
        action: Action,
        resource: &Resource<'_>,
        reason: &str,
        head: &request::Parts,
        path: &str,
    ) -> ApiError {
        let denied = Denied(format!(
            "{} may not {action} {resource}: {reason}",
            self.who.label()
        ));
        // The same for what there is and what there is not: nothing was looked up.
        let asked = self.asks(action, path, head, Some(&denied));
        asked.unwrap_or_else(|| ApiError::denied(&denied))
    }

    /// The answer to somebody who has not said who he is where the visibility of an upstream hides something: he is asked.
    /// containerd and `BuildKit` send their credentials after that alone. `None`: he cannot be asked, or has said it.
    pub(crate) fn asks(
        &self,
        action: Action,
        path: &str,
        head: &request::Parts,
        why: Option<&dyn Error>,
    ) -> Option<ApiError> {
        if !self.who.is_anonymous() || !self.is_asked {
            return None;
        }
        let scope = Some((path, action));
        let challenge = self.door.challenge(head, self.is_secure, scope, None);
        Some(ApiError::unauthorized(why.unwrap_or(&Hidden), challenge))
    }

    /// True if a repository may be shown in a list.
    pub(crate) fn sees(&self, source: &Source) -> bool {
        let resource = Resource::mirror(source.upstream.as_str(), source.repository.as_str());
        self.sees_resource(&resource)
    }

    /// True if a resource may be pulled.
    pub(crate) fn sees_resource(&self, resource: &Resource<'_>) -> bool {
        self.door
            .guard
            .shows(&self.who, Action::Pull, resource, &self.at(None))
    }

    /// The beginnings of names of hosted repositories of which it may perhaps pull something.
    pub(crate) fn beginnings(&self) -> Vec<String> {
        let all = self.door.guard.beginnings(&self.who);
        let hosted = all.into_iter().filter_map(|it| {
            if REPOSITORIES.starts_with(&it) {
                return Some(String::new());
            }
            it.strip_prefix(REPOSITORIES).map(str::to_owned)
        });
        hosted.collect()
    }

    /// The error of a name that leads nowhere, with those upstreams alone that the client may use.
    pub(crate) fn hide<'n>(
        &self,
        error: ResolveError,
        names: impl Iterator<Item = &'n UpstreamName>,
    ) -> ResolveError {
        match error {
            ResolveError::Unknown { name, .. } => {
                let may_use = |upstream: &&UpstreamName| {
                    self.door.guard.reaches(&self.who, upstream.as_str())
                };
                let known: Vec<&str> = names.filter(may_use).map(UpstreamName::as_str).collect();
                let known = known.join(", ");
                ResolveError::Unknown { name, known }
            }
            error @ ResolveError::Repository => error,
        }
    }

    fn at<'t>(&self, tag: Option<&'t str>) -> Context<'t> {
        Context {
            source: self.source,
            tag,
            now: self.door.guard.now(),
        }
    }
}

/// A client that has not said who it is.
#[derive(Debug, thiserror::Error)]
#[error("authentication required")]
struct Unidentified;

/// A token that is for something else.
#[derive(Debug, thiserror::Error)]
#[error("the token is for something else: get one for this scope")]
struct OtherScope;

/// The visibility of an upstream hides something, which is all that is told of it.
#[derive(Debug, thiserror::Error)]
#[error("not for clients without credentials, or not there: log in")]
struct Hidden;

/// The verdict of the rules.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Denied(String);
