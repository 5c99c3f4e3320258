//! The contents of the store, and bytes that left it.

use prometheus::{IntCounter, IntGauge};

use super::{EvictReason, Set, signed};

/// The families.
#[derive(Debug)]
pub struct CacheMetrics {
    pub(super) bytes: IntGauge,
    max_bytes: IntGauge,
    blobs: IntGauge,
    evicted_size: IntCounter,
    evicted_damaged: IntCounter,
    evicted_removed: IntCounter,
    evicted_age: IntCounter,
}

impl CacheMetrics {
    pub(super) fn new(set: &Set) -> Self {
        let evicted = set.counters(
            "roadstead_evicted_bytes_total",
            "Bytes evicted from the cache, to make room (size), because they were damaged, because an operator removed them, or because nobody used them (age).",
            &["reason"],
        );
        let evicted = |reason: EvictReason| evicted.with_label_values(&[reason.label()]);
        Self {
            bytes: set.gauge("roadstead_cache_bytes", "Bytes the cache takes on disk."),
            max_bytes: set.gauge("roadstead_cache_max_bytes", "Bytes it may take on disk."),
            blobs: set.gauge("roadstead_cache_blobs", "Whole blobs in the cache."),
            evicted_size: evicted(EvictReason::Size),
            evicted_damaged: evicted(EvictReason::Damaged),
            evicted_removed: evicted(EvictReason::Removed),
            evicted_age: evicted(EvictReason::Age),
        }
    }

    /// The counter of a reason.
    pub(super) fn counter(&self, reason: EvictReason) -> &IntCounter {
        match reason {
            EvictReason::Size => &self.evicted_size,
            EvictReason::Damaged => &self.evicted_damaged,
            EvictReason::Removed => &self.evicted_removed,
            EvictReason::Age => &self.evicted_age,
        }
    }

    /// Sets the contents.
    pub fn holds(&self, bytes: u64, blobs: u64, max_bytes: u64) {
        self.bytes.set(signed(bytes));
        self.blobs.set(signed(blobs));
        self.max_bytes.set(signed(max_bytes));
    }

    /// Bytes were evicted.
    pub fn evicted(&self, reason: EvictReason, bytes: u64) {
        self.counter(reason).inc_by(bytes);
    }
}
