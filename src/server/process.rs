//! The process around a server, as its operators ask it.

use super::describe::Describe;
use super::nodes::NodeDesk;
use super::reload::Reloader;
use super::tier::ThisTier;
use crate::clock::Clock;
use crate::hosted::Hosted;
use crate::telemetry::trace::Tracer;
use std::sync::Arc;

/// The process around a server, as its operators ask it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Reads its configuration again.
    pub reloader: Arc<dyn Reloader>,
    /// Says what its configuration is.
    pub describe: Arc<dyn Describe>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Traces requests.
    pub tracer: Tracer,
    /// Answers for the other nodes of its cluster.
    pub desk: Option<NodeDesk>,
    /// Its object store.
    pub tier: Option<Arc<dyn ThisTier>>,
    /// Hosted repositories, if there are any.
    pub hosted: Option<Hosted>,
}
