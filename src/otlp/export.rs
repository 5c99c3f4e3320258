//! Exports, one after the other. A collector that takes none costs spans, and one line of the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::collector::{Again, Collector, RETRY_AFTER_MAX, Refused};
use super::message;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Dropped;
use crate::telemetry::trace::{Ended, Spans, Tracer, random_id};

/// The first wait before the same is sent again; each further one is twice as long.
const RETRY_WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest: a collector that is back is found within this time.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);
/// So often the same spans are sent: what waits behind them is newer.
const ATTEMPTS_MAX: u32 = 4;
/// Time that the end of the process waits for the last spans.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(2);

/// Exports the spans of a tracer to the collector that is configured, if there is one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exporter {
    tracer: Tracer,
    collector: Arc<watch::Sender<Option<Arc<Collector>>>>,
}

/// A collector that can be used.
#[derive(Debug)]
pub struct Prepared(Option<Arc<Collector>>);

/// The work of an exporter.
struct Work {
    spans: Spans,
    collector: watch::Receiver<Option<Arc<Collector>>>,
    stop: CancellationToken,
    instance: String,
    /// Spans that are being sent.
    in_hand: usize,
    health: Health,
}

/// The fate of the last export.
#[derive(Debug)]
enum Health {
    Well,
    /// Spans dropped since, and the wait before the next attempt.
    Failing {
        dropped: usize,
        wait: Duration,
    },
}

impl Exporter {
    /// An exporter to the collector that is configured; without one nothing is traced. Blocks: files are read.
    ///
    /// # Errors
    /// One line.
    pub fn of(config: Option<&Config>, metrics: Metrics) -> Result<Self, String> {
        let exporter = Self {
            tracer: Tracer::new(metrics),
            collector: Arc::new(watch::Sender::new(None)),
        };
        exporter.replace(exporter.prepare(config)?);
        Ok(exporter)
    }

    /// The tracer whose spans it exports.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Sets up what is configured. Nothing is dialled, and nothing is changed. Blocks: files are read.
    ///
    /// # Errors
    /// One line.
    pub fn prepare(&self, config: Option<&Config>) -> Result<Prepared, String> {
        let now = self.collector.borrow().clone();
        let is_same = |it: &&Arc<Collector>| Some(it.config()) == config;
        if let Some(same) = now.as_ref().filter(is_same) {
            return Ok(Prepared(Some(Arc::clone(same))));
        }
        let collector = config.map(Collector::new).transpose()?;
        Ok(Prepared(collector.map(Arc::new)))
    }

    /// Takes over what was set up.
    pub fn replace(&self, Prepared(new): Prepared) {
        let sample = new.as_ref().map(|new| new.config().sample);
        self.collector.send_if_modified(|now| {
            let is_same = match (&*now, &new) {
                (Some(now), Some(new)) => Arc::ptr_eq(now, new),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            *now = new;
            !is_same
        });
        self.tracer.trace(sample);
    }

    /// Exports until `stop` is cancelled, and then what is left, if that can be done soon.
    pub async fn run(self, stop: CancellationToken) {
        let work = Work {
            spans: self.tracer.spans(),
            collector: self.collector.subscribe(),
            stop: stop.clone(),
            instance: format!("{:032x}", random_id()),
            in_hand: 0,
            health: Health::Well,
        };
        let enough = async {
            stop.cancelled().await;
            tokio::time::sleep(FLUSH_WAIT_MAX).await;
        };
        let in_hand = work.run_until(enough).await;
        let rest: usize = self.tracer.spans().rest().map(|batch| batch.len()).sum();
        let left = in_hand + rest;
        if left > 0 {
            tracing::warn!(spans = left, "the last spans of traces were not exported");
        }
    }
}

impl Work {
    /// Works until there is no more to do, or no more time; gives the number of spans that were being sent then.
    async fn run_until(mut self, enough: impl Future<Output = ()>) -> usize {
        tokio::select! {
            () = self.work() => {}
            () = enough => {}
        }
        self.in_hand
    }

    async fn work(&mut self) {
        while !self.stop.is_cancelled() {
            let Some(collector) = self.collector.borrow_and_update().clone() else {
                self.forget();
                tokio::select! {
                    changed = self.collector.changed() => if changed.is_err() { return },
                    () = self.stop.cancelled() => {}
                }
                continue;
            };
            let batch = tokio::select! {
                batch = self.spans.batch() => batch,
                _ = self.collector.changed() => {
                    self.health = Health::Well;
                    continue;
                }
                () = self.stop.cancelled() => break,
            };
            self.deliver(&collector, batch).await;
        }
        let collector = self.collector.borrow().clone();
        let Some(collector) = collector else {
            return;
        };
        let spans = self.spans.clone();
        for batch in spans.rest() {
            self.deliver(&collector, batch).await;
        }
    }

    /// Sends spans until they are taken, or it is not worth it any more.
    async fn deliver(&mut self, collector: &Collector, batch: Vec<Ended>) {
        let count = batch.len();
        if count == 0 {
            return;
        }
        self.in_hand = count;
        let body = Bytes::from(message::encode(batch, &self.instance));
        let mut attempts = 0;
        let dropped = loop {
            attempts += 1;
            let refused = match collector.export(body.clone()).await {
                Ok((rejected, why)) => break self.taken(count, rejected, &why),
                Err(refused) => refused,
            };
            let wait = self.failed(collector, &refused);
            let Some(wait) = wait.filter(|_| attempts < ATTEMPTS_MAX) else {
                let reason = match refused.again {
                    Again::Later(_) => Dropped::Unreachable,
                    Again::Never => Dropped::Refused,
                };
                self.metrics_dropped(reason, count);
                break count;
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // It is another collector's turn, with spans of its own time.
                _ = self.collector.changed() => {
                    self.health = Health::Well;
                    self.metrics_dropped(Dropped::Unreachable, count);
                    break count;
                }
                () = self.stop.cancelled() => attempts = attempts.max(ATTEMPTS_MAX - 1),
            }
        };
        self.in_hand = 0;
        if let Health::Failing { dropped: all, .. } = &mut self.health {
            *all = all.saturating_add(dropped);
        }
    }

    /// The collector has taken spans, but for some; says how many those are.
    fn taken(&mut self, count: usize, rejected: usize, why: &str) -> usize {
        let rejected = rejected.min(count);
        let metrics = self.spans.metrics().traces();
        metrics.exported(count - rejected);
        metrics.dropped(Dropped::Refused, rejected);
        if rejected > 0 {
            tracing::debug!(spans = rejected, why, "the collector rejects spans");
        }
        if let Health::Failing { dropped, .. } = self.health {
            tracing::info!(dropped, "traces are exported again");
            self.health = Health::Well;
        }
        rejected
    }

    /// The collector has taken none: told once, until it takes some. Gives the wait before the next attempt, if that makes
    /// sense.
    fn failed(&mut self, collector: &Collector, refused: &Refused) -> Option<Duration> {
        let wait = match &mut self.health {
            Health::Failing { wait, .. } => {
                *wait = wait.saturating_mul(2).min(RETRY_WAIT_MAX);
                *wait
            }
            Health::Well => {
                tracing::warn!(
                    endpoint = %collector.config().endpoint, why = refused.why,
                    "traces cannot be exported, and spans are dropped (roadstead_traces_dropped_total) until they can: \
                     look at the collector and at telemetry.otlp"
                );
                let wait = RETRY_WAIT_MIN;
                self.health = Health::Failing { dropped: 0, wait };
                wait
            }
        };
        match refused.again {
            Again::Never => None,
            Again::Later(None) => Some(wait),
            Again::Later(Some(asked)) => Some(asked.clamp(RETRY_WAIT_MIN, RETRY_AFTER_MAX)),
        }
    }

    /// What waits has nowhere to go.
    fn forget(&self) {
        for batch in self.spans.rest() {
            self.metrics_dropped(Dropped::Unreachable, batch.len());
        }
    }

    fn metrics_dropped(&self, reason: Dropped, count: usize) {
        self.spans.metrics().traces().dropped(reason, count);
    }
}
