//! Metrics and logs, for the operator.

pub mod access;
mod format;
pub mod logging;
pub mod metrics;
mod plain;
mod sink;

pub use format::LogFormat;
pub use metrics::{
    AccessMetrics, AuthMethod, AuthResult, EvictReason, Kind, Limit, Listener, Metrics, Outcome,
};
