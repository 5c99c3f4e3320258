//! A stream that is flushed when its connection's task has nothing more to do for now.
//!
//! Over HTTP/2 every frame is flushed before the next is written (`h2`), which would send each record by itself
//! ([`RecordStream`](crate::server::conn::record_writer::RecordStream)). But no frame that could be written in the same poll of the
//! connection is worth waiting for the one before. So flushes are put off until that poll is over, and done by whoever
//! polls.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream, for hyper.
#[derive(Debug)]
pub(crate) struct DeferredFlush<S> {
    stream: Arc<Mutex<S>>,
    is_late: bool,
}

/// The same stream, for whoever polls hyper.
#[derive(Debug)]
pub(crate) struct Flusher<S>(Arc<Mutex<S>>);

/// Both are for one task, which never waits for itself here. Unless `is_late`, hyper's flushes are done as they come.
pub(crate) fn new<S>(stream: S, is_late: bool) -> (DeferredFlush<S>, Flusher<S>) {
    let stream = Arc::new(Mutex::new(stream));
    let flusher = Flusher(Arc::clone(&stream));
    (DeferredFlush { stream, is_late }, flusher)
}

fn locked<S>(stream: &Mutex<S>) -> MutexGuard<'_, S> {
    // A poll that panicked ends the connection: nobody goes on with what it may have left half done.
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    /// Sends what has been written since.
    pub(crate) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.0)).poll_flush(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeferredFlush<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.stream)).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeferredFlush<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *locked(&self.stream)).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *locked(&self.stream)).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        locked(&self.stream).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_late {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *locked(&self.stream)).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.stream)).poll_shutdown(context)
    }
}
