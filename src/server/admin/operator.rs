//! The asker of the admin API: identity, permission, and the record of what was done.
//!
//! Without `[access]` whoever reaches the listener may everything. With it a request from this machine without credentials
//! is an operator's, unless `access.admin` is `identity`; everybody else says who he is, and the rules decide over the
//! resource `admin`. They are enforced here also where `access.mode` is `warn`: nobody has been asked before.

use super::error::AdminError;
use super::query::Query;
use crate::access::credentials::Credentials;
use crate::access::{
    Action, AdminAccess, Context, Guard, IdentifyError, Kind, Principal, Resource, Verdict,
    result_of,
};
use crate::audit::{Act, Asker, Change, Denial, Event, Login};
use crate::server::http::account;
use http::{Method, StatusCode, header, request};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

/// The place that a request to the admin listener comes from.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// The Unix socket: the kernel has said that it is root or the server's own user.
    Here,
    /// This address, and the identity in the certificate that was shown.
    At(SocketAddr, Option<Arc<Principal>>),
}

impl Caller {
    /// The address that it is logged with.
    fn address(&self) -> SocketAddr {
        match self {
            Self::Here => SocketAddr::from(([127, 0, 0, 1], 0)),
            Self::At(address, _) => *address,
        }
    }

    fn certificate(&self) -> Option<&Arc<Principal>> {
        match self {
            Self::Here => None,
            Self::At(_, certificate) => certificate.as_ref(),
        }
    }
}

/// Somebody who asks.
#[derive(Debug)]
pub(super) struct Operator {
    who: Arc<Principal>,
    /// The id of the token that says so.
    token: Option<Arc<str>>,
    client: SocketAddr,
}

impl Operator {
    /// Lets a request in.
    ///
    /// # Errors
    /// Its credentials are wrong, or may not do this.
    pub(super) async fn admit(
        guard: &Guard,
        head: &request::Parts,
        caller: &Caller,
    ) -> Result<Self, AdminError> {
        let client = caller.address();
        let mut operator = Self {
            who: Arc::new(Principal::of(Kind::Operator, "")),
            token: None,
            client,
        };
        if guard.settings().is_open() {
            return Ok(operator);
        }
        let Some(given) = head.headers.get(header::AUTHORIZATION) else {
            let is_near = client.ip().to_canonical().is_loopback();
            // An administrator who is locked out gets in by the socket.
            let is_trusted = match caller {
                Caller::Here => true,
                Caller::At(..) => is_near && guard.settings().admin_access() == AdminAccess::Local,
            };
            if is_trusted {
                return Ok(operator);
            }
            if let Some(certificate) = caller.certificate() {
                operator.who = Arc::clone(certificate);
                operator.may(guard, head)?;
                return Ok(operator);
            }
            let why = "the admin API wants to know who you are: log in with a name and password, or a token (ROADSTEAD_TOKEN)";
            return Err(AdminError::unauthorized(why));
        };
        let text = given.to_str().unwrap_or_default();
        let identified = guard.identify(text, client.ip()).await;
        if let Ok(it) = &identified {
            let who = Arc::clone(&it.principal);
            operator.who = Principal::with_certificate(who, caller.certificate());
            operator.token.clone_from(&it.token);
        } else {
            operator.who = Arc::new(Principal::anonymous());
        }
        operator.record_login(guard, text, result_of(&identified).label());
        let identified = identified.map_err(|error| refusal(&error))?;
        if identified.scopes.is_some() {
            let why = "this token is for pulls: the admin API takes a password, or a token that `roadstead token create` has made";
            return Err(AdminError::unauthorized(why));
        }
        operator.may(guard, head)?;
        Ok(operator)
    }

    /// Asks the rules.
    fn may(&self, guard: &Guard, head: &request::Parts) -> Result<(), AdminError> {
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let actions: &[Action] = if reads {
            &[Action::List, Action::Admin]
        } else {
            &[Action::Admin]
        };
        let at = Context {
            source: self.client.ip(),
            tag: None,
            now: guard.now(),
        };
        let resource = Resource::admin();
        let mut denied = None;
        for action in actions {
            match guard.judge(&self.who, *action, &resource, &at) {
                Verdict::Allowed => return Ok(()),
                // The admin API is never only tried out.
                Verdict::Denied { statement, .. } => {
                    denied = denied.or(Some((*action, statement)));
                }
            }
        }
        let Some((action, statement)) = denied else {
            return Ok(());
        };
        self.record(
            guard,
            &Event::Denied(Denial {
                action: action.name(),
                resource: resource.as_str(),
                statement: &statement,
                enforced: true,
            }),
        );
        let who = self.who.label();
        let why = format!("{who} may not {action} {resource}: deny by {statement}");
        Err(AdminError::new(StatusCode::FORBIDDEN, why))
    }

    /// Records what was done, if it is something that changes.
    pub(super) fn record_act(
        &self,
        guard: &Guard,
        method: &Method,
        path: &str,
        status: StatusCode,
        changes: &[Change],
    ) {
        let status = status.as_u16();
        let method = method.as_str();
        self.record(
            guard,
            &Event::Admin(Act {
                method,
                path,
                status,
                changes,
            }),
        );
    }

    fn record_login(&self, guard: &Guard, authorization: &str, result: &str) {
        if !guard.audit().is_on() {
            return;
        }
        let credentials = Credentials::parse(authorization);
        let (method, user) = match credentials.as_ref().map(Credentials::claim) {
            Some((method, user)) => (method.label(), user),
            None => ("unknown", None),
        };
        self.record(
            guard,
            &Event::Login(Login {
                method,
                result,
                user,
            }),
        );
    }

    fn record(&self, guard: &Guard, event: &Event<'_>) {
        if !guard.audit().is_on() {
            return;
        }
        let client = self.client.to_string();
        let asker = Asker {
            who: account::who(Some(&self.who)),
            token: self.token.as_deref(),
            client: &client,
            request_id: None,
        };
        guard.audit().record(&asker, event);
    }
}

/// True if a request changes something that is worth a record. The parts of an image that is brought are none: it has
/// one when it gets its name.
pub(super) fn is_act(head: &request::Parts) -> bool {
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let is_part = head.method == Method::PUT && head.uri.path().starts_with(super::import::PREFIX);
    !reads && !is_part
}

/// True if a request is carried out to its end and recorded, although its client hangs up: what is known, what is written
/// and what the audit log says would differ. Not what may take long and can be asked for again.
pub(super) fn is_finished(head: &request::Parts) -> bool {
    let path = head.uri.path();
    let is_long = LONG.contains(&path) || path.starts_with(super::import::PREFIX);
    is_act(head) && !is_long
}

/// Requests that take as long as the store is large, or as an upstream takes.
const LONG: [&str; 3] = ["/api/v1/gc", "/api/v1/verify", "/api/v1/refresh"];

/// The change that a request for images, which was done, has made.
pub(super) fn change_of_images(method: &Method, target: &str) -> Option<Change> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let change = match (path, method) {
        ("/api/v1/images", &Method::DELETE) => "image removed",
        ("/api/v1/pins", &Method::PUT) => "image pinned",
        ("/api/v1/pins", &Method::DELETE) => "image unpinned",
        ("/api/v1/refresh", &Method::POST) => "image refreshed",
        ("/api/v1/gc", &Method::POST) => "garbage collected",
        ("/api/v1/verify", &Method::POST) => "store verified",
        ("/api/v1/import/images", &Method::POST) => "image imported",
        _ => return None,
    };
    let mut query = Query::parse(query);
    if query.flag("dry_run").unwrap_or(false) {
        return None;
    }
    let names = ["image", "name"].map(|name| query.take_all(name).join(","));
    Some(Change {
        change,
        name: names.concat(),
        before: Value::Null,
        after: Value::Null,
    })
}

fn refusal(error: &IdentifyError) -> AdminError {
    let why = error.to_string();
    match error {
        IdentifyError::Invalid => AdminError::unauthorized(why),
        IdentifyError::Limited(_) => AdminError::new(StatusCode::TOO_MANY_REQUESTS, why),
        IdentifyError::Unavailable(_) => AdminError::new(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}
