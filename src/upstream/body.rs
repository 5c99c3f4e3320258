//! Bytes as they arrive from an upstream.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::FetchError;
use super::headers::content_length;
use super::observer::BodyGuard;
use super::turns::Turn;
use crate::net::Deadline;
use crate::net::{BodySpan, HttpClient, root_cause};
use crate::oci::UpstreamName;
use crate::telemetry::Metrics;

/// The bytes of a blob as they arrive; counts upstream bytes in the metrics; enforces `idle_timeout`;
/// an end before Content-Length is `Broken`.
pub struct BlobBody {
    incoming: Incoming,
    /// Bytes that were read already, and are yielded first.
    before: Option<Bytes>,
    idle_timeout: Duration,
    /// `Content-Length`.
    expected: Option<u64>,
    received: u64,
    /// Since when `next` has waited. It outlives a dropped `next` future, because a caller that waits
    /// for something else, too, would otherwise start the idle time anew again and again.
    waiting_since: Option<Instant>,
    /// The body ended, well or not: nothing more comes.
    ended: bool,
    /// Whom its end is reported to; gone once it is.
    guard: Option<BodyGuard>,
    /// Memory that bodies which are read whole may take together, in KiB.
    memory: Option<Arc<Semaphore>>,
    upstream: UpstreamName,
    metrics: Metrics,
    span: Option<BodySpan>,
}

impl BlobBody {
    /// The body of `response`, counted for the upstream of `client`.
    pub(super) fn new(
        client: &HttpClient,
        mut response: Response<Incoming>,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            before: None,
            idle_timeout,
            expected: content_length(response.headers()),
            received: 0,
            waiting_since: None,
            ended: false,
            guard: None,
            memory: None,
            upstream: client.upstream().clone(),
            metrics: client.metrics().clone(),
            span: BodySpan::of(&mut response),
            incoming: response.into_body(),
        }
    }

    /// Yields these bytes first: what was read of it, or what that stands for.
    pub(super) fn push_back(&mut self, bytes: Bytes) {
        self.before = Some(bytes).filter(|bytes| !bytes.is_empty());
    }

    /// Read whole, it waits until it has room beside the others.
    pub(super) fn within(mut self, memory: &Arc<Semaphore>) -> Self {
        self.memory = Some(Arc::clone(memory));
        self
    }

    /// Reports how it ends. One that is dropped before is no failure: nobody wanted the rest.
    pub(super) fn guard(&mut self, guard: BodyGuard) {
        self.guard = Some(guard);
    }

    /// The next bytes, never empty; `None` at the clean end. May be dropped and called again: no byte is lost.
    ///
    /// # Errors
    /// [`FetchError::Broken`], [`FetchError::Timeout`]; [`FetchError::Busy`] when it gave way to others.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        if let Some(bytes) = self.before.take() {
            return Ok(Some(bytes));
        }
        while !self.ended {
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            let idle = since + self.idle_timeout;
            let turn = self.guard.as_ref().map(|guard| &guard.turn);
            // Looked at first, or a body that always has more would never give way.
            if turn.is_some_and(Turn::is_recalled) {
                return Err(self.gives_way());
            }
            let recalled = async {
                match turn {
                    Some(turn) => turn.recalled().await,
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                // Polls the body first: bytes that are there count, however late the caller comes.
                biased;
                frame = tokio::time::timeout_at(idle, self.incoming.frame()) => frame,
                () = recalled => return Err(self.gives_way()),
            };
            let Ok(frame) = frame else {
                return Err(self.failed(FetchError::Timeout("more of a body")));
            };
            if let Some(bytes) = self.take(frame)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Waits until somebody else needs the connection more: for a caller that waits for something else than bytes.
    pub async fn recalled(&self) {
        match &self.guard {
            Some(guard) => guard.turn.recalled().await,
            None => std::future::pending().await,
        }
    }

    /// Whatever has arrived already, without waiting: `None` when nothing is ready (or it ended).
    pub fn try_next(&mut self) -> Option<Result<Bytes, FetchError>> {
        if let Some(bytes) = self.before.take() {
            return Some(Ok(bytes));
        }
        while !self.ended {
            let frame = self.incoming.frame().now_or_never()?;
            if let Some(result) = self.take(frame).transpose() {
                return Some(result);
            }
        }
        None
    }

    /// Takes in what the connection gave: bytes, `None` for a frame without any, or the end.
    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
    ) -> Result<Option<Bytes>, FetchError> {
        self.waiting_since = None;
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                return Err(self.failed(FetchError::Broken(root_cause(&error))));
            }
            None => {
                if let Err(error) = self.check_end() {
                    return Err(self.failed(error));
                }
                self.ended = true;
                self.span = None;
                if let Some(guard) = self.guard.take() {
                    guard.ended(self.received);
                }
                return Ok(None);
            }
        };
        // Trailers say nothing that is needed here.
        let Ok(bytes) = frame.into_data() else {
            return Ok(None);
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(count);
        if let Some(span) = &mut self.span {
            span.came(count);
        }
        self.metrics
            .upstreams()
            .bytes(self.upstream.as_str(), count);
        // Those who know the length need not ask for the end.
        if self.expected == Some(self.received) {
            self.span = None;
            if let Some(guard) = self.guard.take() {
                guard.ended(self.received);
            }
        }
        Ok(Some(bytes))
    }

    /// Somebody else needs the connection more; the endpoint has done nothing wrong.
    fn gives_way(&mut self) -> FetchError {
        self.ended = true;
        self.guard = None;
        FetchError::Busy
    }

    fn failed(&mut self, error: FetchError) -> FetchError {
        self.ended = true;
        if let Some(span) = self.span.take() {
            span.failed(&error);
        }
        if let Some(guard) = self.guard.take() {
            guard.failed(&error, self.received);
        }
        error
    }

    /// hyper reports a short body itself; this holds, should a version or protocol not do so.
    fn check_end(&self) -> Result<(), FetchError> {
        match self.expected {
            Some(expected) if expected != self.received => Err(FetchError::Broken(format!(
                "ended after {} of {expected} bytes",
                self.received
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// All of it, when it is at most `limit` bytes and here by the deadline.
    ///
    /// # Errors
    /// As `next`, and [`FetchError::TooLarge`] naming `what`.
    pub(super) async fn whole(
        mut self,
        what: &'static str,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Bytes, FetchError> {
        let too_large = FetchError::TooLarge { what, limit };
        let fits = |length: u64| usize::try_from(length).is_ok_and(|length| length <= limit);
        if self.expected.is_some_and(|length| !fits(length)) {
            return Err(too_large);
        }
        let memory = self.memory.take();
        let mut room = None;
        let mut all = BytesMut::new();
        while let Some(bytes) = deadline.run(what, self.next()).await?? {
            let length = all.len().saturating_add(bytes.len());
            if length > limit {
                return Err(too_large);
            }
            if let (true, None, Some(memory)) = (length > SMALL_BYTES, &room, &memory) {
                // Once, for all that may come: those who hold a part of what they need would wait for each other.
                let most = self
                    .expected
                    .and_then(|length| usize::try_from(length).ok());
                let most = most.unwrap_or(limit);
                room = Some(deadline.run(what, take(memory, most)).await??);
                all.reserve(most.min(limit));
            }
            all.extend_from_slice(&bytes);
        }
        // It is kept for long, and what was reserved for it may be much more.
        if all.capacity() / 2 > all.len() {
            return Ok(Bytes::copy_from_slice(&all));
        }
        Ok(all.freeze())
    }
}

/// Room for `bytes`, in turn.
async fn take(memory: &Semaphore, bytes: usize) -> Result<SemaphorePermit<'_>, FetchError> {
    let kib = bytes.div_ceil(1024).min(WHOLE_BYTES_MAX / 1024);
    let permits = u32::try_from(kib).unwrap_or(u32::MAX);
    memory
        .acquire_many(permits)
        .await
        .map_err(|_| FetchError::Busy)
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobBody")
    }
}

/// Memory that the bodies of one upstream which are being read whole, manifests and lists, may take together: some
/// of the largest.
pub(super) const WHOLE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Of those that are larger than this; most are smaller, and wait for nobody.
const SMALL_BYTES: usize = 16 * 1024;
