//! The ways of the clouds: temporary passwords by their own HTTP APIs.

use std::time::Duration;

use super::{CloudConfig, Login};
use crate::upstream::FetchError;
use crate::upstream::client::HttpClient;
use crate::upstream::deadline::Deadline;

/// A login and how long it may be used.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) login: Login,
    pub(super) good_for: Duration,
}

/// Asks a cloud for a login to `registry` (host, and port if it has one).
///
/// # Errors
/// [`FetchError::Login`], naming the service and what it said, without secrets; [`FetchError::Timeout`].
#[expect(clippy::unused_async, reason = "replaced by the real thing")]
pub(super) async fn fetch(
    _config: &CloudConfig,
    _registry: &str,
    _api: &HttpClient,
    _deadline: Deadline,
) -> Result<Fetched, FetchError> {
    Err(FetchError::Login("no cloud is known yet".to_owned()))
}
