//! What the operator sees: metrics and logs.

pub mod logging;
pub mod metrics;

pub use metrics::{Kind, Metrics, Outcome};
