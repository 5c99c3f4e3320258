//! Metrics, logs and traces, for the operator.

pub mod access;
mod format;
pub mod logging;
pub mod metrics;
mod plain;
mod sink;
pub mod trace;

pub use format::LogFormat;
pub use metrics::{
    AccessMetrics, AuthMethod, AuthResult, EvictReason, FillSource, Kind, Limit, Listener, Metrics,
    Outcome,
};
