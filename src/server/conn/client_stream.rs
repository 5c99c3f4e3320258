//! A client's connection, with everything that passes it counted.
//!
//! All bytes that come and go here are reported to the connection's [`Watch`], which knows how long nothing has, and
//! how fast the client takes what it is sent to [`send_buffer`](super::send_buffer).

use super::send_buffer::{Pace, UNSENT_BYTES_MAX};
use crate::mirror::Windows;
use crate::server::conn::stall_guard::Watch;
use socket2::SockRef;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// The first bytes of a client that speaks HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection under watch.
#[derive(Debug)]
pub(crate) struct ClientStream<T> {
    inner: T,
    watch: Arc<Watch>,
    /// Number of bytes of [`PREFACE`] that have come; none once it is clear which HTTP the client speaks.
    preface: Option<usize>,
    pace: Pace,
    /// The parts of files among what is written.
    windows: Option<Windows>,
}

/// The socket of a client.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin {
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

impl Socket for UnixStream {
    // The kernel bounds what such a socket holds by itself.
    fn set_unsent_max(&self, _bytes: u32) {}
}

impl<T: Socket> ClientStream<T> {
    /// Of `inner`, a connection that was just made.
    pub(crate) fn new(inner: T, watch: Arc<Watch>) -> Self {
        inner.set_unsent_max(UNSENT_BYTES_MAX);
        Self {
            inner,
            watch,
            preface: Some(0),
            pace: Pace::new(Instant::now()),
            windows: None,
        }
    }

    /// The same for a connection without TLS: of what is written to it, `windows` are sent from their files.
    pub(crate) fn plain(inner: T, watch: Arc<Watch>, windows: Option<Windows>) -> Self {
        Self {
            windows,
            ..Self::new(inner, watch)
        }
    }

    /// Notes what a write said that the kernel has taken.
    fn took(&mut self, written: &Poll<io::Result<usize>>) {
        self.watch.blocked(written.is_pending());
        if let Poll::Ready(Ok(bytes)) = written {
            self.watch.wrote(*bytes);
            if let Some(unsent_max) = self.pace.took(*bytes, Instant::now) {
                self.inner.set_unsent_max(unsent_max);
            }
        }
    }
}

impl<T> ClientStream<T> {
    /// Looks at a connection's first bytes.
    fn listen(&mut self, came: &[u8]) {
        let Some(so_far) = self.preface else {
            return;
        };
        let rest = PREFACE.get(so_far..).unwrap_or_default();
        let came = came.get(..rest.len()).unwrap_or(came);
        self.preface = rest.starts_with(came).then_some(so_far + came.len());
        if self.preface == Some(PREFACE.len()) {
            self.preface = None;
            self.watch.speaks_http2();
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
        let came = buffer.filled().get(before..).unwrap_or_default();
        if !came.is_empty() {
            this.watch.read(came.len());
            this.listen(came);
        }
        read
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
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_write_some(context, buffers);
        self.took(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    // A TLS stream waits for the client here, since its writes only fill a buffer.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.watch.blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch.blocked(shut.is_pending());
        shut
    }
}

#[cfg(test)]
mod tests;
