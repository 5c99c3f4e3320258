//! The upstreams of a configuration, as a mirror is given them.

use std::time::Duration;

use crate::oci::Directory;
use crate::upstream::Upstream;

/// The upstreams of a configuration.
#[derive(Debug)]
pub struct UpstreamSet {
    /// Finds the upstream that a request means.
    pub directory: Directory,
    /// The upstreams: one for each name in the directory.
    pub upstreams: Vec<Upstream>,
    /// Those of them of which anonymous clients get what anybody does, as anybody sees them.
    pub public_views: Vec<PublicView>,
    /// Those of them that decide for each client, as clients see them.
    pub client_views: Vec<PublicView>,
}

/// An upstream as anybody sees it.
#[derive(Clone, Debug)]
pub struct PublicView {
    /// A client of the upstream without a secret.
    pub upstream: Upstream,
    /// The time for which a verdict is remembered.
    pub ttl: Duration,
}
