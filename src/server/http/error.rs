//! Errors on their way out: the one place that turns them into HTTP.
//!
//! A client gets the spec's code and a fixed phrase; the cause goes to the log, with the request's id.

use crate::access::IdentifyError;
use crate::access::limits::{Exceeded, Figure};
use crate::mirror::{Challenges, MirrorError};
use crate::oci::directory::ResolveError;
use crate::oci::route::RouteError;
use crate::oci::{ErrorCode, UpstreamName, error};
use crate::server::http::JSON;
use crate::server::http::access_log::{Chain, Exchange};
use crate::server::http::body::{BodyError, Content};
use crate::server::http::reason::{self, Whose};
use crate::server::registry::reply::{self, Reply};
use crate::telemetry::{Kind, Limit, Outcome};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

mod hosted;

use hosted::UploadPlace;

/// The `Retry-After` of a 429 when upstream did not say: long enough that a fleet does not knock on
/// a limit that is counted in minutes, short enough for a rate counted in seconds.
const RETRY_AFTER_LIMITED: Duration = Duration::from_secs(10);

/// The `Retry-After` of a 503: a place among the fills or a restart takes seconds.
const RETRY_AFTER_BUSY: Duration = Duration::from_secs(2);

/// Reason why a request is answered with an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: Cow<'static, str>,
    extra: Extra,
    detail: Option<Box<serde_json::Value>>,
    found: Found,
    limit: Option<Limit>,
    /// The side that failed or refused; of an upstream, with the reason in harmless words if there are any.
    whose: Whose,
    /// For the log only.
    cause: Option<String>,
}

/// The `Cache-Status` of an answer that is no success.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// Upstream was asked, and said this if anything.
    Forwarded(Option<u16>),
    /// Upstream said it a moment ago, or this mirror knows it by itself.
    Remembered,
    /// As of the success that it would have been.
    As(Outcome),
    /// Nothing was looked for: the request makes no sense.
    Unsought,
}

/// The header that belongs to a status.
#[derive(Debug)]
enum Extra {
    Nothing,
    /// When to come back.
    RetryAfter(Duration),
    /// The methods that a resource has.
    AllowReading,
    /// The challenge: the value of `WWW-Authenticate`.
    Challenge(String),
    /// That of an upstream, as it was sent.
    Relayed(Challenges),
    /// Number of bytes that exist, if that is known.
    Total(Option<u64>),
    /// Time since the upstream said it, for another node.
    Age(Duration),
    /// Where an upload goes on, and how much of it has come.
    Upload(Box<UploadPlace>),
}

impl ApiError {
    fn new(
        status: StatusCode,
        code: ErrorCode,
        message: impl Into<Cow<'static, str>>,
        cause: &dyn Error,
    ) -> Self {
        Self {
            found: Found::Forwarded(None),
            cause: Some(Chain(cause).to_string()),
            ..Self::own(status, code, message)
        }
    }

    /// An answer of this mirror's own, for which nothing was looked for.
    fn own(status: StatusCode, code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            extra: Extra::Nothing,
            detail: None,
            found: Found::Unsought,
            limit: None,
            whose: Whose::Ours,
            cause: None,
        }
    }

    /// 400: the request is not HTTP as it should be.
    pub(crate) fn malformed(why: &'static str) -> Self {
        Self::own(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, why)
    }

    /// 405: what is mirrored is written to at its upstream.
    pub(crate) fn read_only() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let message = "this registry is a read-only mirror";
        Self {
            extra: Extra::AllowReading,
            ..Self::own(status, ErrorCode::Unsupported, message)
        }
    }

    /// 405: a push to an upstream's own name, at which this mirror answers.
    pub(crate) fn read_only_at(host: &str, upstream: &UpstreamName) -> Self {
        Self {
            message: format!("{host} leads to a read-only mirror of {upstream} here (transparent mode), which takes no pushes: push from a machine where the name leads to the registry itself").into(),
            ..Self::read_only()
        }
    }

    /// 421: the token server of an upstream, which nothing here is (RFC 9110 section 15.5.20).
    pub(crate) fn misdirected(host: &str, upstream: &UpstreamName) -> Self {
        let message = format!(
            "{host} is the token server of {upstream}, and this is a mirror: take that name out of the DNS override"
        );
        let status = StatusCode::MISDIRECTED_REQUEST;
        Self::own(status, ErrorCode::Unsupported, message)
    }

    /// 429: this client has more bodies than others, and there is no memory for more of them.
    pub(crate) fn too_much() -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let message = "too many requests at once; try again in a moment";
        Self {
            extra: Extra::RetryAfter(RETRY_AFTER_BUSY),
            found: Found::Remembered,
            ..Self::own(status, ErrorCode::TooManyRequests, message)
        }
    }

    /// 503: other nodes read as many bodies here as they may.
    pub(crate) fn too_many_streams() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let message =
            "as many bodies as cluster.streams_max are read by other nodes; ask another one";
        Self {
            extra: Extra::RetryAfter(RETRY_AFTER_BUSY),
            ..Self::own(status, ErrorCode::Unavailable, message)
        }
    }

    /// 404: a node wanted what is there, and it is not.
    pub(crate) fn not_stored() -> Self {
        let message = "it is not stored here";
        Self::own(StatusCode::NOT_FOUND, ErrorCode::BlobUnknown, message)
    }

    /// 401: who is it? `challenge`: the value of `WWW-Authenticate`.
    pub(crate) fn unauthorized(why: &dyn Error, challenge: String) -> Self {
        Self {
            extra: Extra::Challenge(challenge),
            found: Found::Unsought,
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                ErrorCode::Unauthorized,
                why.to_string(),
                why,
            )
        }
    }

    /// 401, 429 or 503: it is not known who asks. `challenge`: the credentials to send instead of wrong ones.
    pub(crate) fn unidentified(error: &IdentifyError, challenge: impl FnOnce() -> String) -> Self {
        match error {
            IdentifyError::Invalid => Self::unauthorized(error, challenge()),
            IdentifyError::Limited(wait) => Self::too_many_logins(error, *wait),
            IdentifyError::Unavailable(_) => Self::cannot_identify(error),
        }
    }

    /// 403: the rules of access deny it.
    pub(crate) fn denied(why: &dyn Error) -> Self {
        let (status, code) = (StatusCode::FORBIDDEN, ErrorCode::Denied);
        Self {
            found: Found::Unsought,
            ..Self::new(status, code, why.to_string(), why)
        }
    }

    /// 404: tokens are not given in this way.
    pub(crate) fn no_such_grant() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::malformed("this grant_type is not known here: password and refresh_token are")
        }
    }

    /// 403: clients may not come from there.
    pub(crate) fn not_admitted() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            code: ErrorCode::Denied,
            ..Self::malformed("this registry does not serve clients at this address (access.allow)")
        }
    }

    /// 429: too many failed logins.
    fn too_many_logins(why: &dyn Error, wait: Duration) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests);
        Self {
            extra: Extra::RetryAfter(wait),
            found: Found::Unsought,
            ..Self::new(status, code, why.to_string(), why)
        }
    }

    /// 429: the client has all that `[[access.limit]]` gives it.
    pub(crate) fn over_limit(exceeded: Exceeded) -> Self {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests);
        let what = exceeded.figure.phrase();
        let limit = match exceeded.figure {
            Figure::Requests => Limit::AccessRequests,
            Figure::Connections => Limit::AccessConnections,
            Figure::BytesPerDay => Limit::AccessBytesPerDay,
        };
        Self {
            extra: Extra::RetryAfter(exceeded.wait),
            limit: Some(limit),
            ..Self::own(
                status,
                code,
                format!("{what} (access.limit); try again later"),
            )
        }
    }

    /// 503: credentials cannot be checked now, which says nothing of them.
    fn cannot_identify(why: &dyn Error) -> Self {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable);
        let message = "credentials cannot be checked now; try again in a moment";
        Self {
            extra: Extra::RetryAfter(RETRY_AFTER_BUSY),
            found: Found::Unsought,
            ..Self::new(status, code, message, why)
        }
    }

    /// 416: `total` bytes exist, and none of those asked for. `found`: how the blob was.
    pub(crate) fn range(total: Option<u64>, found: Outcome) -> Self {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        let message = "the range asked for does not exist";
        Self {
            extra: Extra::Total(total),
            found: Found::As(found),
            ..Self::own(status, ErrorCode::RangeInvalid, message)
        }
    }

    /// The limit of ours that the client has met.
    pub(crate) fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// Leaves an upstream's challenge out for clients that it is not meant for: they hear that it refuses.
    pub(crate) fn challenging(self, is_meant: bool) -> Self {
        let has_values = match &self.extra {
            Extra::Relayed(challenges) => challenges.values().next().is_some(),
            Extra::Nothing
            | Extra::RetryAfter(_)
            | Extra::AllowReading
            | Extra::Challenge(_)
            | Extra::Total(_)
            | Extra::Age(_)
            | Extra::Upload(_) => return self,
        };
        if is_meant && has_values {
            return self;
        }
        Self {
            status: StatusCode::FORBIDDEN,
            code: ErrorCode::Denied,
            message: phrase::UNAUTHORIZED.into(),
            extra: Extra::Nothing,
            ..self
        }
    }

    /// True if there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Says to another node how long ago the upstream said it, if it did.
    pub(crate) fn of_age(self, age: Option<Duration>) -> Self {
        match age {
            Some(age) => Self {
                extra: Extra::Age(age),
                ..self
            },
            None => self,
        }
    }

    /// Says which upstream it was, and why, as far as that is nobody's secret.
    pub(crate) fn about(mut self, upstream: Option<&UpstreamName>) -> Self {
        if let (Whose::Upstream(why), Some(upstream)) = (&self.whose, upstream) {
            let message = match why {
                Some(why) => format!("{upstream}: {}: {why}", self.message),
                None => format!("{upstream}: {}", self.message),
            };
            self.message = message.into();
        }
        self
    }

    /// Tells the request's log lines why.
    pub(crate) fn log(&self, exchange: &mut Exchange) {
        let cause = self.cause.as_deref().unwrap_or(&self.message);
        exchange.refused(self.status, self.code, cause);
    }

    /// The response: the spec's envelope.
    pub(crate) fn into_reply(self) -> Reply {
        let mut headers = HeaderMap::with_capacity(reply::HEADERS_USUAL);
        headers.insert(header::CONTENT_TYPE, JSON);
        if let Some((name, value)) = self.extra.header() {
            headers.insert(name, value);
        } else if let Extra::Relayed(challenges) = &self.extra {
            for value in challenges.values() {
                headers.append(header::WWW_AUTHENTICATE, value.clone());
            }
        }
        headers.insert(reply::CACHE_STATUS, self.found.cache_status());
        self.extra.say_upload(&mut headers);
        let body = error::envelope(self.code, &self.message, self.detail.map(|it| *it));
        Reply {
            status: self.status,
            headers,
            content: Content::Full(Bytes::from(body)),
            outcome: outcome(self.status),
        }
    }
}

/// The outcome of an answer with such a status.
fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::NOT_FOUND => Outcome::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Denied,
        StatusCode::TOO_MANY_REQUESTS => Outcome::Limited,
        status if status.is_client_error() => Outcome::Rejected,
        _ => Outcome::Error,
    }
}

impl Found {
    fn cache_status(self) -> HeaderValue {
        match self {
            Self::Forwarded(None) => HeaderValue::from_static("roadstead; fwd=miss"),
            Self::Forwarded(Some(status)) => {
                let text = format!("roadstead; fwd=miss; fwd-status={status}");
                HeaderValue::try_from(text)
                    .unwrap_or(HeaderValue::from_static("roadstead; fwd=miss"))
            }
            Self::Remembered => HeaderValue::from_static("roadstead; hit; detail=negative"),
            Self::Unsought => HeaderValue::from_static("roadstead; detail=invalid"),
            Self::As(outcome) => HeaderValue::from_static(outcome.cache_status()),
        }
    }
}

impl Extra {
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Nothing | Self::Relayed(_) | Self::Total(None) | Self::Upload(_) => None,
            Self::RetryAfter(wait) => {
                // Whole seconds, rounded up: earlier would be too early.
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Some((header::RETRY_AFTER, HeaderValue::from(seconds.max(1))))
            }
            Self::Age(age) => Some((header::AGE, HeaderValue::from(age.as_secs()))),
            Self::AllowReading => Some((header::ALLOW, HeaderValue::from_static("GET, HEAD"))),
            Self::Challenge(challenge) => HeaderValue::from_str(challenge)
                .ok()
                .map(|value| (header::WWW_AUTHENTICATE, value)),
            Self::Total(Some(total)) => HeaderValue::try_from(format!("bytes */{total}"))
                .ok()
                .map(|value| (header::CONTENT_RANGE, value)),
        }
    }
}

/// The mapping of everything that the mirror can fail with.
///
/// Upstream's refusals of our credentials (401, 403) become 403 DENIED and not 401: a 401 without
/// a challenge is no HTTP (RFC 9110 section 15.5.2), and one with a challenge makes dockerd send its
/// Docker Hub password here (moby#30880). What is 401 is an upstream's own challenge, to clients whose credentials it
/// decides by. Docker Hub answers 401 for repositories that do not
/// exist, so the phrase leaves that open, as Hub's own does.
impl From<MirrorError> for ApiError {
    fn from(error: MirrorError) -> Self {
        use ErrorCode as Code;
        use MirrorError as E;
        use StatusCode as Status;
        let (error, found) = if let E::Remembered(said) = error {
            (*said, Found::Remembered)
        } else {
            let found = Found::Forwarded(error.upstream_status());
            (error, found)
        };
        let (status, code, message) = match &error {
            E::ManifestUnknown => (
                Status::NOT_FOUND,
                Code::ManifestUnknown,
                phrase::NO_MANIFEST,
            ),
            E::NameUnknown => (Status::NOT_FOUND, Code::NameUnknown, phrase::NO_NAME),
            E::BlobUnknown => (Status::NOT_FOUND, Code::BlobUnknown, phrase::NO_BLOB),
            E::ImportGone(kind, _) => (Status::NOT_FOUND, unknown(*kind), phrase::IMPORT_GONE),
            E::Unauthorized => (Status::FORBIDDEN, Code::Denied, phrase::UNAUTHORIZED),
            E::Challenged(_) => CHALLENGED,
            E::Denied => (Status::FORBIDDEN, Code::Denied, phrase::DENIED),
            E::RateLimited { .. } => {
                let status = Status::TOO_MANY_REQUESTS;
                (status, Code::TooManyRequests, phrase::RATE_LIMITED)
            }
            E::Upstream(_) => (Status::BAD_GATEWAY, Code::Unknown, phrase::UPSTREAM),
            E::Timeout(_) => (Status::GATEWAY_TIMEOUT, Code::Unknown, phrase::TIMEOUT),
            E::WrongContent { .. } => (Status::BAD_GATEWAY, Code::Unknown, phrase::WRONG),
            E::ManifestInvalid(_) => {
                let status = Status::BAD_GATEWAY;
                (status, Code::ManifestInvalid, phrase::MANIFEST_INVALID)
            }
            E::Loop(_) => (Status::LOOP_DETECTED, Code::Unknown, phrase::LOOP),
            E::Busy(_) => (Status::SERVICE_UNAVAILABLE, Code::Unavailable, phrase::BUSY),
            E::Limited(_) => {
                let status = Status::TOO_MANY_REQUESTS;
                (status, Code::TooManyRequests, phrase::LIMITED)
            }
            E::ShuttingDown => (
                Status::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                phrase::STOPPING,
            ),
            // What is remembered is what upstream said, and not that it was remembered.
            E::Remembered(_) | E::NotStored { .. } | E::Store(_) => {
                let status = Status::INTERNAL_SERVER_ERROR;
                (status, Code::Unknown, phrase::STORE)
            }
        };
        let mut refusal = Self::new(status, code, message, &error);
        refusal.found = found;
        refusal.whose = reason::of(&error);
        if let E::Busy(what) = error {
            refusal.message = format!("{message}: {what}").into();
        }
        if let E::Challenged(challenges) = error {
            refusal.extra = Extra::Relayed(challenges);
        } else if let E::RateLimited { retry_after } = error {
            refusal.extra = Extra::RetryAfter(retry_after.unwrap_or(RETRY_AFTER_LIMITED));
        } else if let E::Limited(limit) = error {
            refusal.limit = Some(limit);
            refusal.extra = Extra::RetryAfter(RETRY_AFTER_BUSY);
        } else if status == Status::SERVICE_UNAVAILABLE {
            refusal.extra = Extra::RetryAfter(RETRY_AFTER_BUSY);
        }
        refusal
    }
}

/// The answer that comes with an upstream's own challenge.
const CHALLENGED: (StatusCode, ErrorCode, &str) = (
    StatusCode::UNAUTHORIZED,
    ErrorCode::Unauthorized,
    phrase::CHALLENGED,
);

/// The code of what is not there.
fn unknown(kind: Kind) -> ErrorCode {
    if kind == Kind::Blob {
        ErrorCode::BlobUnknown
    } else {
        ErrorCode::ManifestUnknown
    }
}

/// Texts for clients.
mod phrase {
    pub(crate) const NO_MANIFEST: &str = "manifest unknown to upstream";
    pub(crate) const NO_NAME: &str = "repository unknown to upstream";
    pub(crate) const NO_BLOB: &str = "blob unknown to upstream";
    pub(crate) const IMPORT_GONE: &str = "it was imported here, but its content is not in the cache any more, \
        and upstream does not supply it: it has to be imported again";
    pub(crate) const UNAUTHORIZED: &str = "upstream refuses this mirror's credentials, \
        or the repository is private or does not exist";
    pub(crate) const CHALLENGED: &str = "upstream wants this client's own credentials for it";
    pub(crate) const DENIED: &str = "upstream denies this mirror access to the repository";
    pub(crate) const RATE_LIMITED: &str = "upstream limits this mirror's requests";
    pub(crate) const UPSTREAM: &str = "upstream cannot be reached, or failed";
    pub(crate) const TIMEOUT: &str = "upstream did not answer in time";
    pub(crate) const WRONG: &str = "upstream sent content that does not match its digest";
    pub(crate) const MANIFEST_INVALID: &str = "upstream sent something that is no usable manifest";
    pub(crate) const LOOP: &str = "this mirror was asked by itself: one of its upstreams' endpoints, \
        or those of a mirror behind it, leads back here";
    pub(crate) const BUSY: &str = "this mirror is too busy";
    pub(crate) const LIMITED: &str = "this client has more requests under way at this mirror \
        than its share: try again in a moment";
    pub(crate) const STOPPING: &str = "this mirror is shutting down";
    pub(crate) const STORE: &str = "this mirror's store failed";
    pub(crate) const SIZE: &str = "upstream sent content of another size than it promised";
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        // Its texts are fixed phrases, but for the name of an unknown digest algorithm, which the
        // grammar keeps harmless.
        let status = match &error {
            RouteError::NotFound => StatusCode::NOT_FOUND,
            RouteError::Name(_) | RouteError::Page => StatusCode::BAD_REQUEST,
        };
        let refusal = Self::new(status, error.code(), error.to_string(), &error);
        Self {
            found: Found::Unsought,
            ..refusal
        }
    }
}

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        use StatusCode as Status;
        let (status, code, found) = match &error {
            ResolveError::Unknown { .. } => {
                (Status::NOT_FOUND, ErrorCode::NameUnknown, Found::Remembered)
            }
            ResolveError::Repository => {
                (Status::BAD_REQUEST, ErrorCode::NameInvalid, Found::Unsought)
            }
        };
        // The text says which upstreams exist: clients print the message, never the detail.
        let mut refusal = Self::new(status, code, error.to_string(), &error);
        refusal.found = found;
        refusal
    }
}

/// A body that failed before its head was sent.
impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Mirror(error) => error.into(),
            BodyError::Short { .. } | BodyError::Long | BodyError::Late => Self {
                whose: Whose::Upstream(None),
                ..Self::new(
                    StatusCode::BAD_GATEWAY,
                    ErrorCode::Unknown,
                    phrase::SIZE,
                    &error,
                )
            },
        }
    }
}

#[cfg(test)]
mod tests;
