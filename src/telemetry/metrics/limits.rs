//! Open connections, and limits that were met.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::Set;

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The one where clients pull.
    Client,
    /// The operator's.
    Admin,
}

/// A limit on number, size or time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A connection was closed, or not taken, for lack of room.
    Connections,
    /// A request's head, or a TLS handshake, was not finished in time.
    Head,
    /// A body of which the client took nothing.
    BodyStall,
    /// A body that the client took too slowly, while others waited.
    BodyRate,
    /// Requests of HTTP/2 taken back as fast as they were made.
    Resets,
    /// A body waited for, or was refused, memory that other bodies had.
    Buffers,
    /// Questions to upstreams under way.
    Questions,
    /// Transfers of blobs under way.
    Transfers,
    /// Blobs that pass through because they cannot be stored.
    Passes,
    /// Connections to one upstream.
    UpstreamConnections,
    /// Requests a second of one identity or address.
    AccessRequests,
    /// Bytes a day of one.
    AccessBytesPerDay,
    /// Connections of one.
    AccessConnections,
}

impl Listener {
    /// Both.
    const ALL: [Self; 2] = [Self::Client, Self::Admin];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }
}

impl Limit {
    /// Every limit, in the order of the labels' documentation.
    const ALL: [Self; 13] = [
        Self::Questions,
        Self::Transfers,
        Self::Passes,
        Self::UpstreamConnections,
        Self::Connections,
        Self::Head,
        Self::BodyStall,
        Self::BodyRate,
        Self::Resets,
        Self::Buffers,
        Self::AccessRequests,
        Self::AccessBytesPerDay,
        Self::AccessConnections,
    ];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Questions => "questions",
            Self::Transfers => "transfers",
            Self::Passes => "passes",
            Self::UpstreamConnections => "upstream_connections",
            Self::Connections => "connections",
            Self::Head => "head",
            Self::BodyStall => "body_stall",
            Self::BodyRate => "body_rate",
            Self::Resets => "resets",
            Self::Buffers => "buffers",
            Self::AccessRequests => "access_requests",
            Self::AccessBytesPerDay => "access_bytes_per_day",
            Self::AccessConnections => "access_connections",
        }
    }
}

/// The families.
#[derive(Debug)]
pub struct Limits {
    connections: IntGaugeVec,
    limited: IntCounterVec,
}

impl Limits {
    pub(super) fn new(set: &Set) -> Self {
        let connections = set.gauges(
            "roadstead_connections",
            "Open connections, by listener.",
            &["listener"],
        );
        for listener in Listener::ALL {
            connections.with_label_values(&[listener.label()]).set(0);
        }
        let limited = set.counters(
            "roadstead_limited_total",
            "What was refused or ended because a limit was met.",
            &["limit"],
        );
        for limit in Limit::ALL {
            limited.with_label_values(&[limit.label()]);
        }
        Self {
            connections,
            limited,
        }
    }

    /// Sets the number of open connections.
    pub fn connections(&self, listener: Listener, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let gauge = &self.connections;
        gauge.with_label_values(&[listener.label()]).set(count);
    }

    /// A limit was met.
    pub fn met(&self, limit: Limit) {
        self.limited.with_label_values(&[limit.label()]).inc();
    }
}
