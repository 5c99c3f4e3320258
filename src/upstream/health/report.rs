//! The state of an endpoint, for people.

use std::time::Duration;

use tokio::time::Instant;

use super::{Breaker, Health};
use crate::upstream::EndpointId;

/// The state of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::upstream) struct Shape {
    /// True if requests are put to it.
    pub(in crate::upstream) up: bool,
    /// Failures in a row.
    pub(in crate::upstream) failures: u32,
    /// For how long it is not asked.
    pub(in crate::upstream) asked_in: Option<Duration>,
    /// The failure that closed it.
    pub(in crate::upstream) why: Option<String>,
    /// Time until its answers begin, lately.
    pub(in crate::upstream) latency: Option<Duration>,
}

impl Health {
    /// The state of an endpoint now.
    pub(in crate::upstream) fn shape(&self, endpoint: EndpointId, now: Instant) -> Option<Shape> {
        let state = self.state();
        let record = state.endpoints.get(endpoint.0)?;
        let (up, until, why) = match &record.breaker {
            Breaker::Closed => (true, None, None),
            Breaker::Open { until, last } => (false, Some(*until), Some(last.to_string())),
            Breaker::HalfOpen { last } => (false, None, Some(last.to_string())),
        };
        let rests = record.rests.everything.filter(|until| now < *until);
        let until = until.max(rests);
        let latency = record.latency.value(now, self.timings.measured);
        Some(Shape {
            up: up && rests.is_none(),
            failures: record.failures,
            asked_in: until.map(|until| until.saturating_duration_since(now)),
            why,
            latency: latency.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        })
    }
}
