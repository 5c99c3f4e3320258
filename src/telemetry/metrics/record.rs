//! What the server counts and measures of requests.

use super::labels::{Kind, Outcome};
use super::{Metrics, NO_UPSTREAM};

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
