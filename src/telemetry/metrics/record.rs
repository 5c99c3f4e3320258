//! What the parts of the program count and measure.

use super::labels::{EvictReason, Kind, Outcome};
use super::{DiskOp, Limit, Listener, Metrics, NO_UPSTREAM, signed};

impl Metrics {
    /// Sets the contents of the store.
    pub fn cache(&self, bytes: u64, blobs: u64, max_bytes: u64) {
        let cache = &self.inner.cache;
        cache.bytes.set(signed(bytes));
        cache.blobs.set(signed(blobs));
        cache.max_bytes.set(signed(max_bytes));
    }

    /// Bytes were evicted.
    pub fn evicted(&self, reason: EvictReason, bytes: u64) {
        self.inner.cache.evicted(reason).inc_by(bytes);
    }
}

impl Metrics {
    /// Sets if the catalogue cannot be opened or written.
    pub fn catalogue_degraded(&self, degraded: bool) {
        self.inner.catalogue.degraded.set(i64::from(degraded));
    }

    /// Changes of the catalogue are durable, or were refused because it could not be written.
    pub fn catalogue_changes(&self, count: usize, committed: bool) {
        let families = &self.inner.catalogue;
        let counter = if committed {
            &families.committed
        } else {
            &families.failed
        };
        counter.inc_by(count as u64);
    }
}

impl Metrics {
    /// An operation of the store on its disk failed.
    pub fn store_error(&self, op: DiskOp) {
        let counters = &self.inner.disk.errors;
        if let Some((_, counter)) = counters.iter().find(|(of, _)| *of == op) {
            counter.inc();
        }
    }

    /// Sets if the store's disk fails.
    pub fn store_degraded(&self, degraded: bool) {
        self.inner.disk.degraded.set(i64::from(degraded));
    }
}

impl Metrics {
    /// So many connections are open.
    pub fn connections(&self, listener: Listener, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let gauge = &self.inner.limits.connections;
        gauge.with_label_values(&[listener.label()]).set(count);
    }

    /// A limit was met.
    pub fn limited(&self, limit: Limit) {
        let counter = &self.inner.limits.limited;
        counter.with_label_values(&[limit.label()]).inc();
    }
}

impl Metrics {
    /// A request was answered. `upstream` is `""` where none was named.
    pub fn request(&self, kind: Kind, upstream: &str, outcome: Outcome) {
        let requests = &self.inner.requests;
        let counted = requests.of(upstream, |it| it.requests.of(kind).of(outcome).inc());
        if counted.is_none() {
            let labels = [kind.label(), NO_UPSTREAM, outcome.label()];
            requests.answered.with_label_values(&labels).inc();
        }
    }

    /// So many clients were here within the last hour.
    pub fn clients_seen(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.inner.requests.clients_seen.set(count);
    }

    /// Time from the request's arrival to its first body byte (or its head when it has no body).
    pub fn first_byte(&self, kind: Kind, outcome: Outcome, seconds: f64) {
        let first_byte = &self.inner.requests.first_byte;
        first_byte.of(kind, outcome).observe(seconds);
    }

    /// Body bytes were handed to a client.
    pub fn client_bytes(&self, kind: Kind, upstream: &str, bytes: u64) {
        let requests = &self.inner.requests;
        let counted = requests.of(upstream, |it| it.bytes.of(kind).inc_by(bytes));
        if counted.is_none() {
            let labels = [kind.label(), NO_UPSTREAM];
            requests.bytes.with_label_values(&labels).inc_by(bytes);
        }
    }
}
