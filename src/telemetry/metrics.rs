//! Prometheus metrics. Labels are closed enums or configured upstream names:
//! never a repository, a tag or a digest.

/// What kind of thing a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Kind {
    Manifest,
    Blob,
    Tags,
    Referrers,
    Other,
}

/// How a request was answered: `Cache-Status` and the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the store, fresh.
    Hit,
    /// Fetched from upstream for this request, and stored.
    Miss,
    /// Joined a fetch already under way.
    Collapsed,
    /// From the store, past its freshness, because upstream could not answer.
    Stale,
    /// Partly from the store.
    Partial,
    /// Passed through without being stored.
    Bypass,
    /// An error was answered.
    Error,
}

/// Why bytes were evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvictReason {
    /// To make room.
    Size,
    /// The content was damaged.
    Damaged,
}

/// All metrics of the process. Cheap to clone (an `Arc` inside).
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: std::sync::Arc<Inner>,
}
#[derive(Debug)]
struct Inner {}

impl Kind {
    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        todo!()
    }
}
impl Outcome {
    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        todo!()
    }
    /// The `Cache-Status` value (RFC 9211): `roadstead; hit`, `roadstead; fwd=miss; stored`,
    /// `roadstead; fwd=miss; collapsed`, `roadstead; fwd=stale`, `…partial`, `…bypass`; an error: `roadstead; fwd=miss`.
    #[must_use]
    pub fn cache_status(self) -> &'static str {
        todo!()
    }
}
impl Metrics {
    /// Fresh metrics; every label set of the configured upstreams that can be known is shown as 0 from the start.
    #[must_use]
    pub fn new<'a>(upstreams: impl Iterator<Item = &'a str>) -> Self {
        todo!()
    }
    /// A request was answered. `upstream` is `""` where none was named.
    pub fn request(&self, kind: Kind, upstream: &str, outcome: Outcome) {
        todo!()
    }
    /// Time from the request's arrival to its first body byte (or its head when it has no body).
    pub fn first_byte(&self, kind: Kind, outcome: Outcome, seconds: f64) {
        todo!()
    }
    /// Body bytes were handed to a client.
    pub fn client_bytes(&self, kind: Kind, upstream: &str, bytes: u64) {
        todo!()
    }
    /// Body bytes came from an upstream.
    pub fn upstream_bytes(&self, upstream: &str, bytes: u64) {
        todo!()
    }
    /// A request to an upstream was answered with `status` (an HTTP status, or `timeout`, `connect`, `error`).
    pub fn upstream_request(&self, upstream: &str, kind: Kind, status: &str) {
        todo!()
    }
    /// What an upstream said of its limit.
    pub fn ratelimit_remaining(&self, upstream: &str, remaining: i64) {
        todo!()
    }
    /// A fill began (+1) or ended (-1).
    pub fn fills_in_flight(&self, change: i64) {
        todo!()
    }
    /// A client's body began (+1) or ended (-1).
    pub fn readers_in_flight(&self, change: i64) {
        todo!()
    }
    /// What the store holds.
    pub fn cache(&self, bytes: u64, blobs: u64, max_bytes: u64) {
        todo!()
    }
    /// Bytes were evicted.
    pub fn evicted(&self, reason: EvictReason, bytes: u64) {
        todo!()
    }
    /// The text exposition.
    #[must_use]
    pub fn render(&self) -> String {
        todo!()
    }
}
