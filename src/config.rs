//! Configuration, resolved. (skeleton)
use crate::{mirror, server, store, telemetry::logging::LogFormat, upstream};

/// Everything `serve` needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listeners.
    pub server: server::Config,
    /// The store.
    pub cache: store::Config,
    /// Tag freshness.
    pub tags: mirror::Config,
    /// The upstreams, in the order of the file; at least one, at most one of them the default.
    pub upstreams: Vec<upstream::Config>,
    /// How log lines look.
    pub log_format: LogFormat,
}
