//! The one body type of all responses.
//!
//! A body is handed to hyper, which polls it as fast as the client takes its bytes and drops it at
//! the end. An `Err` from it makes hyper break the connection (HTTP/1) or reset the stream (HTTP/2):
//! that is how a client learns that what it has is not the whole.

use crate::mirror::{BlobReader, MirrorError};
use crate::server::conn::buffers::{Buffers, FRAME_BYTES};
use crate::server::http::access_log::Exchange;
use crate::telemetry::Metrics;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body::{Frame, SizeHint};
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// The longest time that the head of a response may wait for the body's first bytes. With them at hand, a fill
/// that fails at once is an error status, on which clients turn to their next mirror, and no
/// broken body, on which they do not; but a merely slow upstream must not delay the head
/// towards containerd's header timeout of 30 s.
const FIRST_CHUNK_WAIT_MAX: Duration = Duration::from_secs(2);

/// The content of a response.
#[derive(Debug)]
pub(crate) enum Content {
    /// Nothing.
    Empty,
    /// Bytes at hand.
    Full(Bytes),
    /// Bytes that come as they are asked for.
    Stream(ByteStream),
}

impl Content {
    /// Waits for the first bytes, but not for long.
    ///
    /// # Errors
    /// The first thing that came was a failure: nothing has been sent yet, so it can be answered.
    pub(crate) async fn prime(&mut self) -> Result<(), BodyError> {
        match self {
            Self::Stream(stream) => stream.prime().await,
            Self::Empty | Self::Full(_) => Ok(()),
        }
    }
}

/// The bytes of a blob, or of a range of it.
pub(crate) struct ByteStream {
    source: BoxStream<'static, Result<Bytes, MirrorError>>,
    /// Bytes that were taken from the source and not given yet.
    taken: Option<Bytes>,
    /// The most that is given at once.
    piece_max: usize,
    /// Number of bytes that must still come; `None` when only the end will tell.
    remaining: Option<u64>,
    /// Time for which the first bytes are waited for.
    patience: Duration,
    _counted: ReaderCount,
}

/// Reason why a body was broken off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The mirror could not go on.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The source ended before the length that was promised.
    #[error("the content ended {missing} bytes too early")]
    Short {
        /// Number of bytes that were still to come.
        missing: u64,
    },
    /// The source had more than the length that was promised.
    #[error("the content is longer than was promised")]
    Long,
    /// Content of no bytes whose end did not come.
    #[error("the end of the empty content did not come in time")]
    Late,
}

/// The source of a body, read piece by piece.
pub(crate) trait Pieces: Send + 'static {
    /// The next bytes; `None` at the clean end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, MirrorError>> + Send;

    /// Sets the number of bytes that are read at once from now on.
    fn set_piece_max(&mut self, bytes: usize);

    /// Time for which it is worth waiting for the first bytes before the head is sent.
    fn patience(&self) -> Duration;
}

impl Pieces for BlobReader {
    async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        self.next().await
    }

    fn set_piece_max(&mut self, bytes: usize) {
        self.set_piece_max(bytes);
    }

    fn patience(&self) -> Duration {
        self.patience()
    }
}

impl ByteStream {
    /// The bytes of `source`, which must be `length` if that is known. They are weighed, unless there are no `buffers`
    /// that they would be in.
    pub(crate) fn of_pieces(
        source: impl Pieces,
        length: Option<u64>,
        metrics: &Metrics,
        buffers: Option<Buffers>,
    ) -> Self {
        let patience = source.patience().max(FIRST_CHUNK_WAIT_MAX);
        let source = stream::try_unfold(
            (source, buffers, 0_u64),
            |(mut source, buffers, given)| async move {
                if let Some(buffers) = &buffers {
                    source.set_piece_max(buffers.piece_max(given));
                }
                let Some(mut bytes) = source.next().await? else {
                    return Ok(None);
                };
                let given = given.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                if let Some(buffers) = &buffers {
                    bytes = buffers.weigh(bytes);
                }
                Ok(Some((bytes, (source, buffers, given))))
            },
        );
        Self {
            patience,
            ..Self::new(source.boxed(), length, metrics)
        }
    }

    /// Gives pieces that are one frame of HTTP/2 each, in one record of TLS.
    pub(crate) fn in_frames(self) -> Self {
        let piece_max = FRAME_BYTES;
        Self { piece_max, ..self }
    }

    fn new(
        source: BoxStream<'static, Result<Bytes, MirrorError>>,
        length: Option<u64>,
        metrics: &Metrics,
    ) -> Self {
        Self {
            source,
            taken: None,
            piece_max: usize::MAX,
            remaining: length,
            patience: FIRST_CHUNK_WAIT_MAX,
            _counted: ReaderCount::begin(metrics),
        }
    }

    /// For tests: the bytes and failures of a script, as fast as hyper asks for them.
    #[cfg(test)]
    pub(crate) fn scripted(
        steps: Vec<Result<Bytes, MirrorError>>,
        length: Option<u64>,
        metrics: &Metrics,
    ) -> Self {
        Self::new(stream::iter(steps).boxed(), length, metrics)
    }

    /// Waits for the first bytes, but not for long. Content of zero bytes is waited for to its end:
    /// its whole promise is in the head.
    ///
    /// # Errors
    /// The first thing that came was a failure: nothing has been sent yet, so it can be answered.
    pub(crate) async fn prime(&mut self) -> Result<(), BodyError> {
        if self.remaining == Some(0) {
            // Nothing follows the head that could be broken off, so the end is awaited, but not for ever.
            let ended = tokio::time::timeout(self.patience, self.source.next()).await;
            return match ended.map_err(|_slow| BodyError::Late)? {
                None => Ok(()),
                Some(Ok(bytes)) if bytes.is_empty() => Ok(()),
                Some(Ok(_)) => Err(BodyError::Long),
                Some(Err(error)) => Err(error.into()),
            };
        }
        // The stream keeps its own state, so giving up the wait loses nothing.
        match tokio::time::timeout(self.patience, self.source.next()).await {
            Err(_slow) => Ok(()),
            Ok(Some(Ok(bytes))) => {
                self.taken = Some(bytes);
                Ok(())
            }
            Ok(Some(Err(error))) => Err(error.into()),
            Ok(None) => {
                // The end of content whose length was unknown: now it is known.
                let missing = self.remaining.replace(0).unwrap_or(0);
                if missing > 0 {
                    return Err(BodyError::Short { missing });
                }
                Ok(())
            }
        }
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let bytes = match self.taken.take() {
            Some(taken) => Some(taken),
            None => ready!(self.source.poll_next_unpin(context)).transpose()?,
        };
        let Some(mut bytes) = bytes else {
            return Poll::Ready(match self.remaining {
                Some(missing) if missing > 0 => Some(Err(BodyError::Short { missing })),
                Some(_) | None => None,
            });
        };
        if let Some(remaining) = &mut self.remaining {
            // Before any of it is given: a piece could be the promised end.
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let Some(rest) = remaining.checked_sub(length) else {
                return Poll::Ready(Some(Err(BodyError::Long)));
            };
            *remaining = rest;
        }
        if bytes.len() > self.piece_max {
            let rest = bytes.split_off(self.piece_max);
            if let Some(remaining) = &mut self.remaining {
                *remaining += u64::try_from(rest.len()).unwrap_or_default();
            }
            self.taken = Some(rest);
        }
        Poll::Ready(Some(Ok(bytes)))
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

/// The body of a response, which writes the request's access line at its end.
#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    /// Dropped with the body, however that happens: at its end, after an error, or with the connection.
    exchange: Box<Exchange>,
    /// Told with the next poll.
    failure: Option<Box<BodyError>>,
    /// Bytes that the client may not have yet.
    held: Option<Held>,
}

/// Bytes that are held back, since their client has had as many as it may have in a second.
#[derive(Debug)]
struct Held {
    bytes: Bytes,
    until: Pin<Box<Sleep>>,
}

impl Body {
    /// A body with `content`. The request must have been answered ([`Exchange::answered`]).
    pub(crate) fn new(mut content: Content, exchange: Box<Exchange>) -> Self {
        if let Content::Stream(stream) = &mut content {
            stream.piece_max = stream.piece_max.min(exchange.account.piece_max());
        }
        let mut body = Self {
            content,
            exchange,
            failure: None,
            held: None,
        };
        if http_body::Body::is_end_stream(&body) {
            // hyper does not poll such a body at all.
            body.exchange.completed();
        }
        body
    }

    /// Gives bytes, as soon as the client may have them.
    fn offer(
        &mut self,
        bytes: Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let wait = self.exchange.account.pace(bytes.len());
        if wait.is_zero() {
            return self.give(bytes);
        }
        let until = Box::pin(tokio::time::sleep(wait));
        let held = self.held.insert(Held { bytes, until });
        ready!(held.until.as_mut().poll(context));
        self.release()
    }

    /// Gives the bytes that were held back.
    fn release(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let held = self.held.take();
        self.give(held.map(|held| held.bytes).unwrap_or_default())
    }

    fn give(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.exchange.sent(bytes.len());
        let is_last = match &self.content {
            Content::Empty => true,
            Content::Full(rest) => rest.is_empty(),
            Content::Stream(stream) => stream.remaining == Some(0),
        };
        if is_last {
            self.finish();
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn finish(&mut self) {
        self.content = Content::Empty;
        self.exchange.completed();
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.failure.take() {
            return Poll::Ready(Some(Err(*error)));
        }
        if let Some(held) = &mut this.held {
            ready!(held.until.as_mut().poll(context));
            return this.release();
        }
        match &mut this.content {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) => {
                let bytes = mem::take(bytes);
                this.offer(bytes, context)
            }
            Content::Stream(stream) => match ready!(stream.poll_bytes(context)) {
                None => {
                    this.finish();
                    Poll::Ready(None)
                }
                Some(Ok(bytes)) => this.offer(bytes, context),
                Some(Err(error)) => {
                    this.exchange.failed(&error);
                    this.content = Content::Empty;
                    // hyper throws away what it has buffered when a body fails: the head and all that came just
                    // before. It sends that first if the body has nothing for now.
                    this.failure = Some(Box::new(error));
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.held.is_some() {
            return false;
        }
        match &self.content {
            Content::Empty => self.failure.is_none(),
            Content::Full(bytes) => bytes.is_empty(),
            Content::Stream(stream) => stream.remaining == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let length = |bytes: &Bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let rest = match &self.content {
            Content::Empty => Some(0),
            Content::Full(bytes) => Some(length(bytes)),
            Content::Stream(stream) => stream.remaining,
        };
        let held = self.held.as_ref().map_or(0, |held| length(&held.bytes));
        let rest = rest.map(|rest| rest.saturating_add(held));
        rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// One of the readers in flight, for as long as it lives.
struct ReaderCount(Metrics);

impl ReaderCount {
    fn begin(metrics: &Metrics) -> Self {
        metrics.readers_in_flight(1);
        Self(metrics.clone())
    }
}

impl Drop for ReaderCount {
    fn drop(&mut self) {
        self.0.readers_in_flight(-1);
    }
}

#[cfg(test)]
mod tests;
