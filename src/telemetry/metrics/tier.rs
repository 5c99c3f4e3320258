//! The object store beside the cache.

use super::Set;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// The families.
#[derive(Debug)]
pub struct Tier {
    pending: IntGauge,
    errors: IntCounterVec,
    written: IntCounter,
    redirects: IntCounter,
}

/// Something that is asked of an object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierOp {
    /// Reading.
    Get,
    /// Asking if there is an object.
    Head,
    /// Writing, in one or in parts.
    Put,
    /// Finding uploads that were left.
    List,
    /// Making a URL for a client.
    Sign,
}

impl TierOp {
    const ALL: [Self; 5] = [Self::Get, Self::Head, Self::Put, Self::List, Self::Sign];

    const fn label(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::List => "list",
            Self::Sign => "sign",
        }
    }
}

impl Tier {
    pub(super) fn new(set: &Set) -> Self {
        let errors = set.counters(
            "roadstead_tier_errors_total",
            "Requests to the object store that failed, by operation. That it does not have something is no failure.",
            &["op"],
        );
        for op in TierOp::ALL {
            errors.with_label_values(&[op.label()]);
        }
        Self {
            pending: set.gauge(
                "roadstead_tier_pending_bytes",
                "Bytes of stored blobs that are to be written to the object store.",
            ),
            errors,
            written: set.counter(
                "roadstead_tier_written_bytes_total",
                "Bytes of blobs and manifests written to the object store.",
            ),
            redirects: set.counter(
                "roadstead_tier_redirects_total",
                "Blobs for which clients were sent to the object store.",
            ),
        }
    }

    /// So many bytes wait to be written.
    pub fn pending(&self, bytes: u64) {
        self.pending.set(super::signed(bytes));
    }

    /// A request to the store failed.
    pub fn failed(&self, op: TierOp) {
        self.errors.with_label_values(&[op.label()]).inc();
    }

    /// So many bytes were written.
    pub fn written(&self, bytes: u64) {
        self.written.inc_by(bytes);
    }

    /// A client was sent to the store.
    pub fn redirected(&self) {
        self.redirects.inc();
    }
}
