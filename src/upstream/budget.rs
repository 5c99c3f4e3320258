//! The most that one request may cost an upstream, in time and in HTTP requests.
//!
//! A [`Budget`] belongs to one request (a manifest, a HEAD, a list, the bytes of a blob from one offset on). It goes
//! through failover, accounts, redirects, challenges, tokens and repeats, and all of them take from it: what one of
//! them uses up, the others have not. `docs/design.md` has the table of worst cases, and `tests/it/retry_budget.rs`
//! counts them.

use std::time::Duration;

use super::EndpointId;
use crate::net::Deadline;
use crate::net::Sends;

/// HTTP requests to one endpoint and to where it redirects, for each of its logins: the longest chain of redirects
/// that is followed (9), the challenge before it, and two connections that were gone.
const ENDPOINT_REQUESTS_MAX: u32 = 12;

/// HTTP requests to the token services of one endpoint, for each of its logins. A service that knows the form alone,
/// and a smaller scope alone, takes four; half of all may fail for a moment.
const TOKEN_REQUESTS_MAX: u32 = 8;

/// The rest of one request's time, and of its HTTP requests to each endpoint.
#[derive(Debug)]
pub(super) struct Budget {
    deadline: Deadline,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug)]
struct Endpoint {
    registry: Sends,
    tokens: Sends,
}

/// The part of a budget that one endpoint may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share<'a> {
    /// When its time ends.
    pub(super) deadline: Deadline,
    /// Requests to the endpoint itself, and to where it redirects.
    pub(super) registry: &'a Sends,
    /// Requests to its token services.
    pub(super) tokens: &'a Sends,
}

impl Budget {
    /// For one request, over within `time`, to endpoints with so many logins each.
    pub(super) fn new(time: Duration, logins: impl IntoIterator<Item = usize>) -> Self {
        let times = |count: u32, logins: usize| {
            let logins = u32::try_from(logins.max(1)).unwrap_or(u32::MAX);
            Sends::new(count.saturating_mul(logins))
        };
        let endpoint = |logins| Endpoint {
            registry: times(ENDPOINT_REQUESTS_MAX, logins),
            tokens: times(TOKEN_REQUESTS_MAX, logins),
        };
        Self {
            deadline: Deadline::after(time),
            endpoints: logins.into_iter().map(endpoint).collect(),
        }
    }

    /// When the request's time ends.
    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The part of an endpoint, the first of `parts` that share the time left; `None` for one that is not of this
    /// upstream.
    pub(super) fn share(&self, endpoint: EndpointId, parts: usize) -> Option<Share<'_>> {
        let Endpoint { registry, tokens } = self.endpoints.get(endpoint.0)?;
        Some(Share {
            deadline: self.deadline.share(parts),
            registry,
            tokens,
        })
    }

    /// True if an endpoint may be sent nothing more.
    pub(super) fn is_spent(&self, endpoint: EndpointId) -> bool {
        let endpoint = self.endpoints.get(endpoint.0);
        endpoint.is_none_or(|endpoint| endpoint.registry.is_spent())
    }
}
