//! Errors between roadstead and an upstream.

use std::time::Duration;

use super::Challenges;
use crate::net;

/// Reason why an upstream did not give what was asked. Cloneable, because every waiter gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// 404: the upstream answered, and has it not. `code` is the upstream's error code, if it gave one
    /// (`NAME_UNKNOWN`, `MANIFEST_UNKNOWN`, …).
    #[error("upstream has no such content")]
    NotFound {
        /// The code in the upstream's error envelope.
        code: Option<String>,
    },
    /// 401 after a token was tried: no (valid) credentials.
    #[error("upstream wants other credentials")]
    Unauthorized,
    /// 401, where the client that has caused the request is to answer the challenge.
    #[error("upstream wants the client's credentials")]
    Challenged(Challenges),
    /// 403.
    #[error("upstream denies access")]
    Denied,
    /// 429: now, or before, so that it was not asked.
    #[error("upstream limits our requests")]
    RateLimited {
        /// Time until asking makes sense: what was said, or else a guess.
        retry_after: Option<Duration>,
    },
    /// 503 with `Retry-After`: now, or before, so that it was not asked.
    #[error("upstream answered status 503, and to come back in {:.0} s", retry_after.as_secs_f64().ceil())]
    Unavailable {
        /// Time until asking makes sense.
        retry_after: Duration,
    },
    /// 416: the offset asked for does not exist.
    #[error("upstream does not have the range asked for")]
    RangeNotSatisfiable,
    /// Any other status that is no success.
    #[error("upstream answered status {0}")]
    Status(u16),
    /// No connection: refused, no route, no such host, TLS failure. The text names the cause.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Nothing came in time; the text says what was waited for.
    #[error("timed out waiting for {0}")]
    Timeout(&'static str),
    /// The connection broke in the middle.
    #[error("connection broken: {0}")]
    Broken(String),
    /// A body or header over its bound.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// The part that was too large.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The answer makes no sense: a bad redirect, a wrong Content-Range, an encoding not asked for.
    #[error("upstream answered nonsense: {0}")]
    Protocol(String),
    /// 508: the host that is named says that the request has been there before.
    #[error("{0} answered status 508: it says that the request has been there before")]
    Loop(String),
    /// A redirect or token server lies where it is not followed; the text names host and address.
    #[error(
        "it leads to {0}: what no digest checks is not fetched there, unless `redirect_networks` of the endpoint names it"
    )]
    Inside(String),
    /// The address to dial is one of our own listeners; the text names it.
    #[error("{0} is this mirror itself")]
    Ourselves(String),
    /// The credentials cannot be had; the text says why, without secrets.
    #[error("credentials: {0}")]
    Login(String),
    /// The credentials were refused less than a minute ago, and are not tried again yet; the text says
    /// which, without secrets.
    #[error("credentials: {0}")]
    LoginRefused(String),
    /// No connection is free within `max_connections`, or was needed more by somebody else.
    #[error("all connections to upstream are in use")]
    Busy,
    /// No connection is free, because this client has its part of them in use.
    #[error("all connections to upstream that are this client's part of them are in use")]
    Limited,
    /// The token server failed; the text says how, without secrets.
    #[error("token server: {0}")]
    Token(String),
}

impl From<net::Error> for FetchError {
    fn from(error: net::Error) -> Self {
        match error {
            net::Error::Connect(why) => Self::Connect(why),
            net::Error::Timeout(what) => Self::Timeout(what),
            net::Error::Broken(why) => Self::Broken(why),
            net::Error::TooLarge { what, limit } => Self::TooLarge { what, limit },
            net::Error::Protocol(why) => Self::Protocol(why),
            net::Error::Inside(place) => Self::Inside(place),
            net::Error::Ourselves(listener) => Self::Ourselves(listener),
        }
    }
}
