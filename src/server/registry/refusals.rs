//! Refusals, with the reason why a request came here.

use super::door::Door;
use crate::access;
use crate::audit::Denial;
use crate::mirror::{Refusal, Source};
use crate::server::http::access_log::Exchange;
use crate::server::http::error::ApiError;
use crate::server::http::host;
use http::request;

/// The error of a push, with the reason why it came here.
pub(super) fn refuse_push(head: &request::Parts, door: &Door) -> ApiError {
    let host = host::of(head).unwrap_or_default();
    match door.stand_in().upstream(host) {
        Some(upstream) => ApiError::read_only_at(host, &upstream),
        None => ApiError::read_only(),
    }
}

/// The answer where the visibility of an upstream hides something. The audit log says so where the upstream has said no.
pub(super) fn hide(
    refusal: Refusal,
    action: access::Action,
    source: &Source,
    exchange: &mut Exchange,
) -> ApiError {
    if refusal.is_denial {
        let upstream = source.upstream.as_str();
        let resource = access::Resource::mirror(upstream, source.repository.as_str());
        exchange.denied(
            upstream,
            &Denial {
                action: action.name(),
                resource: resource.as_str(),
                statement: &format!("upstream.{upstream:?}.visibility"),
                enforced: true,
            },
        );
    }
    refusal.error.into()
}
