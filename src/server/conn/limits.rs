//! Limits of connections, in number and time.

use std::time::Duration;

/// The limits of the client listener's connections; those of time hold for the admin listener too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most client connections at once; fewer where the limit on open files is low.
    pub max_connections: usize,
    /// The longest time that a client may take for a request's head, its TLS handshake included.
    pub head_timeout: Duration,
    /// The longest time that a connection may be without a request.
    pub idle_timeout: Duration,
    /// A body of which the client takes no byte for this long is given up.
    pub body_stall_timeout: Duration,
    /// The least bytes a second: a body of which the client takes fewer is given up while others need room. 0: none is.
    pub body_min_rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A fleet's thousand nodes open a handful each.
            max_connections: 8192,
            // A few round trips, even on a bad line.
            head_timeout: Duration::from_secs(10),
            // Go's HTTP client, which all container clients use, closes idle connections after 90 seconds at the latest:
            // waiting longer than it does keeps a request from running into a closing connection.
            idle_timeout: Duration::from_secs(100),
            // containerd's own limit for a pull without progress. A client that unpacks pauses for shorter.
            body_stall_timeout: Duration::from_mins(5),
            // No line that pulls images is as slow: a megabyte would take a quarter of an hour.
            body_min_rate: 1024,
        }
    }
}

impl Limits {
    /// Time between checks of the limits: often enough that none lasts a tenth longer.
    pub(crate) fn tick(&self) -> Duration {
        let shortest = self.head_timeout.min(self.idle_timeout);
        let shortest = shortest.min(self.body_stall_timeout);
        (shortest / 10).clamp(TICK_MIN, TICK_MAX)
    }
}

const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_secs(1);
