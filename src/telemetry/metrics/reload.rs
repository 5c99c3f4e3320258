//! The configuration that is in use, and the one that is written.

use prometheus::IntGauge;

use super::{Set, signed};

/// The families, under the names that Prometheus uses for its own.
#[derive(Debug)]
pub struct Reload {
    success: IntGauge,
    succeeded: IntGauge,
    restart_required: IntGauge,
}

impl Reload {
    pub(super) fn new(set: &Set) -> Self {
        Self {
            success: set.gauge(
                "roadstead_config_reload_success",
                "1 if the configuration was taken over when it was last read; 0 if it had an error, and the one before is in use.",
            ),
            succeeded: set.gauge(
                "roadstead_config_reload_success_timestamp_seconds",
                "Time at which a configuration was last taken over, in seconds since the Unix epoch.",
            ),
            restart_required: set.gauge(
                "roadstead_config_restart_required",
                "1 if the configuration that was last read has keys that are used after a restart only.",
            ),
        }
    }

    /// A configuration was taken over at this time, in seconds since the Unix epoch; some of its keys may need a restart.
    pub fn succeeded(&self, seconds: u64, needs_restart: bool) {
        self.success.set(1);
        self.succeeded.set(signed(seconds));
        self.restart_required.set(i64::from(needs_restart));
    }

    /// A configuration could not be taken over.
    pub fn failed(&self) {
        self.success.set(0);
    }
}
