//! A client's connection with patience that ends.
//!
//! hyper bounds how long it waits for a request's head, but neither how long a new connection may
//! stay silent before hyper knows its HTTP version, nor how long a client may leave a response
//! unread: with a full socket hyper does not even poll the body, so the body cannot watch the time.
//! Both are watched here, at the one place that every byte passes; and so is how fast the client takes
//! what it is sent ([`pace`]).

use crate::mirror::Windows;
use pace::{Pace, UNSENT_BYTES_MAX};
use socket2::SockRef;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

mod pace;

/// A response of which the client takes no byte for this long is given up. containerd's own limit
/// for a pull without progress is 5 minutes, so a client this slow has given up itself; a stalled
/// reader keeps a blob pinned and a connection taken.
pub(super) const CLIENT_STALL_MAX: Duration = Duration::from_mins(10);

/// A new connection must say this much ([`FIRST_BYTES`]) within this time. It is hyper's own
/// default for a request's head.
pub(super) const FIRST_BYTES_WAIT_MAX: Duration = Duration::from_secs(30);

/// The length of HTTP/2's connection preface (RFC 9113 section 3.4): after so many bytes hyper
/// always knows the HTTP version, and its own time limits hold. A whole HTTP/1 request that is
/// shorter (`GET / HTTP/1.0`) is answered at once and then has its connection closed early.
const FIRST_BYTES: usize = 24;

/// A connection that fails with [`io::ErrorKind::TimedOut`] when the client stands still.
#[derive(Debug)]
pub(super) struct ClientStream<T> {
    inner: T,
    /// Runs until the first bytes have come.
    first_bytes: Option<FirstBytes>,
    /// Armed while a write waits for the client.
    stall: Pin<Box<Sleep>>,
    stalled: bool,
    stall_max: Duration,
    pace: Pace,
    /// The parts of files among what is written.
    windows: Option<Windows>,
}

/// What a client's bytes come and go through.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Sends the beginning of `bytes` from the file that they are a window of. `None`: it must be written as all
    /// else, because they are not, or because this is not the kernel's socket.
    fn poll_send(
        &mut self,
        _context: &mut Context<'_>,
        _windows: &Windows,
        _bytes: &[u8],
    ) -> Poll<Option<io::Result<usize>>> {
        Poll::Ready(None)
    }

    /// Bounds how much the kernel holds of what it has not sent.
    fn set_unsent_max(&self, bytes: u32);
}

impl Socket for TcpStream {
    fn set_unsent_max(&self, bytes: u32) {
        // Without it all works as well, but for what slow clients cost the others.
        if let Err(error) = SockRef::from(self).set_tcp_notsent_lowat(bytes) {
            tracing::debug!(%error, "cannot set TCP_NOTSENT_LOWAT");
        }
    }

    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        windows: &Windows,
        bytes: &[u8],
    ) -> Poll<Option<io::Result<usize>>> {
        loop {
            if let Err(error) = ready!(self.poll_write_ready(context)) {
                return Poll::Ready(Some(Err(error)));
            }
            let mut is_window = true;
            let sent = self.try_io(Interest::WRITABLE, || {
                windows.send(bytes, &*self).unwrap_or_else(|| {
                    is_window = false;
                    Ok(0)
                })
            });
            match sent {
                // It looked writable from earlier: now it is waited for.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(is_window.then_some(sent)),
            }
        }
    }
}

#[derive(Debug)]
struct FirstBytes {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<T: Socket> ClientStream<T> {
    /// Watches `inner`, a connection that was just made.
    pub(super) fn new(inner: T) -> Self {
        Self::with_limits(inner, FIRST_BYTES_WAIT_MAX, CLIENT_STALL_MAX)
    }

    /// The same for a connection without TLS: of what is written to it, `windows` are sent from their files.
    pub(super) fn plain(inner: T, windows: Option<Windows>) -> Self {
        Self {
            windows,
            ..Self::new(inner)
        }
    }

    fn with_limits(inner: T, first_bytes_max: Duration, stall_max: Duration) -> Self {
        inner.set_unsent_max(UNSENT_BYTES_MAX);
        Self {
            inner,
            first_bytes: Some(FirstBytes {
                missing: FIRST_BYTES,
                deadline: Box::pin(tokio::time::sleep(first_bytes_max)),
            }),
            stall: Box::pin(tokio::time::sleep(stall_max)),
            stalled: false,
            stall_max,
            pace: Pace::new(Instant::now()),
            windows: None,
        }
    }

    /// Notes what a write said that the kernel has taken.
    fn took(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written
            && let Some(unsent_max) = self.pace.took(*bytes, Instant::now)
        {
            self.inner.set_unsent_max(unsent_max);
        }
    }

    /// Passes on what a write said, unless it has waited for the client for too long.
    fn watch<R>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            self.stall.as_mut().reset(Instant::now() + self.stall_max);
        }
        match self.stall.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(timed_out("the client reads nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ClientStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        let Some(first_bytes) = &mut this.first_bytes else {
            return read;
        };
        if read.is_ready() {
            let came = buffer.filled().len().saturating_sub(before);
            first_bytes.missing = first_bytes.missing.saturating_sub(came);
            if first_bytes.missing == 0 {
                this.first_bytes = None;
            }
            return read;
        }
        match first_bytes.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(timed_out("the client says nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Socket> ClientStream<T> {
    /// Writes what comes first of `buffers`: a window from its file, or all up to the first window.
    fn poll_write_some(
        &mut self,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut buffers = buffers;
        if let Some(windows) = &self.windows {
            // An empty write would look like one that the client refused.
            let first = buffers.iter().position(|buffer| !buffer.is_empty());
            buffers = buffers.get(first.unwrap_or_default()..).unwrap_or_default();
            let window = buffers.iter().position(|buffer| windows.hold(buffer));
            match (window, buffers) {
                (Some(0), [window, ..]) => {
                    if let Some(sent) = ready!(self.inner.poll_send(context, windows, window)) {
                        return Poll::Ready(sent);
                    }
                }
                (Some(before), _) => buffers = buffers.get(..before).unwrap_or_default(),
                (None, _) => {}
            }
        }
        Pin::new(&mut self.inner).poll_write_vectored(context, buffers)
    }
}

impl<T: Socket> AsyncWrite for ClientStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, buffer);
        self.took(&written);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_write_some(context, buffers);
        self.took(&written);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    // A TLS stream waits for the client here, since its writes only fill a buffer.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch(context, shut)
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests;
