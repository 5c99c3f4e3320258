//! The beginning of traces, and their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;

use super::context::Context;
use super::ended::Ended;
use super::queue::{BATCH_SPANS_MAX, Queue};
use super::sample::{Ratio, Sampler};
use super::span::{Span, Take};
use crate::telemetry::metrics::{Dropped, Metrics};

/// Time that the first span of a batch waits for others: one request a second to the collector, and a person who looks
/// for the trace of what was just done finds it.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// Begins traces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    is_on: AtomicBool,
    sampler: Sampler,
    queue: Queue,
    metrics: Metrics,
}

/// Spans that have ended, for their export.
#[derive(Clone, Debug)]
pub struct Spans(Arc<Inner>);

impl Tracer {
    /// Traces nothing yet; counts in `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            is_on: AtomicBool::new(false),
            sampler: Sampler::new(),
            queue: Queue::default(),
            metrics,
        }))
    }

    /// Traces this part of all requests that belong to no trace yet, and those that their clients trace; `None`: nothing.
    pub fn trace(&self, ratio: Option<Ratio>) {
        if let Some(ratio) = ratio {
            self.0.sampler.set(ratio);
        }
        self.0.is_on.store(ratio.is_some(), Ordering::Relaxed);
    }

    /// True if anything is traced.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    /// The span of a client's request, or the client's own if that is only sent along; `None` if it belongs to no trace.
    #[must_use]
    pub fn begin(&self, headers: &HeaderMap) -> Option<Span> {
        let inner = &self.0;
        let begin = |parent| Span::begin(parent, Arc::clone(inner) as Arc<dyn Take>);
        let Some(parent) = Context::of(headers) else {
            return inner.sampler.takes_new().then(|| begin(None));
        };
        if parent.is_sampled() {
            if inner.sampler.takes_of_client() {
                return Some(begin(Some(&parent)));
            }
            inner.metrics.traces().dropped(Dropped::Limit, 1);
        }
        Some(Span::passed_on(parent))
    }

    /// The spans that end.
    #[must_use]
    pub fn spans(&self) -> Spans {
        Spans(Arc::clone(&self.0))
    }
}

impl Take for Inner {
    fn take(&self, span: Ended) {
        if !self.queue.push(span) {
            self.metrics.traces().dropped(Dropped::Full, 1);
        }
    }
}

impl Spans {
    /// Waits for spans, and for some more to come along with them.
    pub async fn batch(&self) -> Vec<Ended> {
        self.0.queue.holds(1).await;
        let enough = self.0.queue.holds(BATCH_SPANS_MAX);
        // Enough of them, or as many as there are then.
        tokio::time::timeout(BATCH_WAIT, enough).await.ok();
        self.take()
    }

    /// The oldest spans, as many as one export takes; none if there are none.
    #[must_use]
    pub fn take(&self) -> Vec<Ended> {
        self.0.queue.take()
    }

    /// All spans that are left, the oldest first, as many at a time as one export takes.
    pub fn rest(&self) -> impl Iterator<Item = Vec<Ended>> {
        std::iter::from_fn(|| Some(self.take()).filter(|batch| !batch.is_empty()))
    }

    /// The metrics of traces.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::WAITING_SPANS_MAX;
    use super::*;
    use crate::telemetry::trace::SpanKind;

    fn tracer() -> (Tracer, Metrics) {
        let metrics = Metrics::new(std::iter::empty());
        let tracer = Tracer::new(metrics.clone());
        tracer.trace(Some(Ratio::ALL));
        (tracer, metrics)
    }

    fn of_client(flags: &str) -> HeaderMap {
        let value = format!("00-{:032x}-{:016x}-{flags}", 7, 9);
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", value.parse().unwrap());
        headers
    }

    fn dropped(metrics: &Metrics, reason: &str) -> u64 {
        let name = format!("roadstead_traces_dropped_total{{reason=\"{reason}\"}} ");
        let text = metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap().parse().unwrap()
    }

    #[test]
    fn a_span_ends_once_with_all_that_was_said_of_it() {
        let (tracer, _) = tracer();
        let span = tracer.begin(&of_client("01")).unwrap();
        span.name("GET");
        let fill = span.trace().child("fill", SpanKind::Internal).unwrap();
        span.trace().link(fill.trace());
        span.trace().link(fill.trace());
        let late = span.trace().clone();
        drop(fill);
        drop(span);
        late.set("late", "nobody hears it");
        let ended = tracer.spans().take();
        let [fill, server] = ended.as_slice() else {
            panic!("{ended:?}")
        };
        assert_eq!(
            (&*fill.facts.name, &*server.facts.name),
            ("fill", "GET"),
            "the first that ended is the first"
        );
        assert_eq!(server.context.trace_id(), 7);
        let parent = server.parent.unwrap();
        assert_eq!((parent.span_id, parent.is_remote), (9, true));
        let parent = fill.parent.unwrap();
        assert_eq!(
            (parent.span_id, parent.is_remote),
            (server.context.span_id(), false)
        );
        assert_eq!(server.facts.links, std::slice::from_ref(&fill.context));
        assert_eq!(server.facts.attributes, []);
        assert!(tracer.spans().take().is_empty());
    }

    #[test]
    fn a_client_that_records_nothing_is_heard() {
        let (tracer, _) = tracer();
        let span = tracer.begin(&of_client("00")).unwrap();
        assert!(!span.trace().is_recorded());
        assert!(span.trace().child("fill", SpanKind::Internal).is_none());
        let mut headers = HeaderMap::new();
        span.trace().context().write_to(&mut headers);
        assert_eq!(headers, of_client("00"), "it goes along as it came");
        drop(span);
        assert!(tracer.spans().take().is_empty());
        tracer.trace(Some(Ratio::of(0.0).unwrap()));
        assert!(tracer.begin(&HeaderMap::new()).is_none());
    }

    #[test]
    fn clients_cannot_make_everything_be_recorded() {
        let (tracer, metrics) = tracer();
        let spans: Vec<Span> = (0..1000)
            .filter_map(|_| tracer.begin(&of_client("01")))
            .collect();
        assert_eq!(spans.len(), 1000, "the trace goes along in any case");
        let recorded = spans.iter().filter(|it| it.trace().is_recorded()).count();
        // The test may see two seconds, or three.
        assert!((100..=300).contains(&recorded), "{recorded}");
        assert_eq!(dropped(&metrics, "limit"), 1000 - recorded as u64);
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (tracer, metrics) = tracer();
        for _ in 0..WAITING_SPANS_MAX + 3 {
            drop(tracer.begin(&HeaderMap::new()));
        }
        assert_eq!(dropped(&metrics, "full"), 3);
        let spans = tracer.spans();
        let mut all = 0;
        loop {
            let batch = spans.take();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= BATCH_SPANS_MAX);
            all += batch.len();
        }
        assert_eq!(all, WAITING_SPANS_MAX);
        // There is room again, as many bytes as before.
        let long = "x".repeat(512);
        let taken = (0..WAITING_SPANS_MAX).filter(|_| {
            let span = tracer.begin(&HeaderMap::new()).unwrap();
            for _ in 0..10 {
                span.set("key", long.as_str());
            }
            drop(span);
            dropped(&metrics, "full") == 3
        });
        let taken = taken.count();
        assert!((1000..2000).contains(&taken), "{taken} of 5 KiB each");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_more_and_not_for_long() {
        let (tracer, _) = tracer();
        let spans = tracer.spans();
        drop(tracer.begin(&HeaderMap::new()));
        let began = tokio::time::Instant::now();
        assert_eq!(spans.batch().await.len(), 1);
        assert_eq!(began.elapsed(), BATCH_WAIT);
        for _ in 0..=BATCH_SPANS_MAX {
            drop(tracer.begin(&HeaderMap::new()));
        }
        let began = tokio::time::Instant::now();
        assert_eq!(spans.batch().await.len(), BATCH_SPANS_MAX);
        assert!(began.elapsed() < BATCH_WAIT);
        assert_eq!(spans.batch().await.len(), 1);
    }
}
