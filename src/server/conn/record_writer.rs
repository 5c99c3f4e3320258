//! A client's TLS connection that sends its records together.
//!
//! `tokio_rustls` passes on what a write has become before it takes another. HTTP/2 writes frame by frame, 16 KiB each:
//! a system call, and a segment on the network, for every record. Here records are sent when there are 64 KiB of them,
//! or when the writer flushes, which `deferred_flush` has HTTP/2 do only when there is nothing more to write.

use crate::server::conn::buffers::SHOWN_BYTES;
use crate::server::conn::client_stream::Socket;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The content of so many records is sent at once: four whole ones. It is also what a slow reader keeps here.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// A client that has been sent less than [`SHOWN_BYTES`] may never read: no more than a record is kept for it.
const GATHERED_BYTES_FIRST: usize = 16 * 1024;

/// Bytes that encryption adds to all but the last of them, with room to spare (22 bytes each, RFC 8446 section 5.2):
/// without it the last would not fit whole behind the others.
const OVERHEAD_BYTES_MAX: usize = 1024;

/// The connection, after the handshake.
#[derive(Debug)]
pub(crate) struct RecordStream {
    inner: TlsStream<TcpStream>,
    /// Number of bytes that are encrypted and may not have been sent.
    gathered: usize,
    /// The content of all that was.
    sent: u64,
}

impl RecordStream {
    /// Of `inner`, to which nothing has been written.
    pub(crate) fn new(inner: TlsStream<TcpStream>) -> Self {
        Self {
            inner,
            gathered: 0,
            sent: 0,
        }
    }

    fn gathered_max(&self) -> usize {
        if self.sent < SHOWN_BYTES {
            GATHERED_BYTES_FIRST
        } else {
            GATHERED_BYTES_MAX
        }
    }

    /// Has `encrypt` take something, once there is room for it.
    fn poll_gather(
        &mut self,
        context: &mut Context<'_>,
        encrypt: impl Fn(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.gathered >= self.gathered_max() {
            ready!(self.poll_send(context))?;
        }
        let mut taken = self.gather(&encrypt)?;
        if taken == 0 {
            // It takes nothing when its keys are used up, and new ones have to go first.
            ready!(self.poll_send(context))?;
            taken = self.gather(&encrypt)?;
        }
        Poll::Ready(Ok(taken))
    }

    fn gather(
        &mut self,
        encrypt: impl Fn(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let most = self.gathered_max();
        let (_, session) = self.inner.get_mut();
        // Of much at once, whole records.
        let overhead = if self.gathered == 0 {
            0
        } else {
            OVERHEAD_BYTES_MAX
        };
        session.set_buffer_limit(Some(most + overhead));
        let taken = encrypt(&mut session.writer())?;
        self.gathered = self.gathered.saturating_add(taken);
        Ok(taken)
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        let gathered = std::mem::take(&mut self.gathered);
        let gathered = u64::try_from(gathered).unwrap_or(u64::MAX);
        self.sent = self.sent.saturating_add(gathered);
        Poll::Ready(Ok(()))
    }
}

impl Socket for RecordStream {
    fn set_unsent_max(&self, bytes: u32) {
        self.inner.get_ref().0.set_unsent_max(bytes);
    }
}

impl AsyncRead for RecordStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for RecordStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_gather(context, |writer| writer.write(buffer))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_gather(context, |writer| writer.write_vectored(buffers))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::conn::deferred_flush;
    use crate::server::testing::{below, content};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use socket2::SockRef;
    use std::future::poll_fn;
    use std::mem::MaybeUninit;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, TlsConnector, client};

    /// Both sides of a connection.
    async fn connect() -> (RecordStream, client::TlsStream<TcpStream>) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = CertificateDer::from(made.cert);
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let accepting = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let connecting = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let call = TcpStream::connect(listener.local_addr().unwrap());
        let (calling, (called, _)) = tokio::try_join!(call, listener.accept()).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let (client, server) = tokio::join!(
            TlsConnector::from(Arc::new(connecting)).connect(name, calling),
            TlsAcceptor::from(Arc::new(accepting)).accept(called)
        );
        (RecordStream::new(server.unwrap()), client.unwrap())
    }

    #[tokio::test]
    async fn whatever_is_written_arrives_in_order() {
        for seed in 0..10 {
            let mut random = seed;
            let (mut server, mut client) = connect().await;
            let sent = content(5_000_000);
            let write = async {
                let mut rest = sent.as_slice();
                while !rest.is_empty() {
                    // Frames, pieces, and what is left of them.
                    let most = [100, 16_384, 200_000][below(&mut random, 3)];
                    let (part, _) = rest.split_at(rest.len().min(1 + below(&mut random, most)));
                    let (head, tail) = part.split_at(below(&mut random, part.len()));
                    let slices = [IoSlice::new(head), IoSlice::new(tail)];
                    let written = server.write_vectored(&slices).await.unwrap();
                    assert_ne!(written, 0, "that would end the connection, seed {seed}");
                    rest = &rest[written..];
                    if below(&mut random, 10) == 0 {
                        server.flush().await.unwrap();
                    }
                }
                server.shutdown().await.unwrap();
            };
            let mut came = Vec::new();
            let ((), read) = tokio::join!(write, client.read_to_end(&mut came));
            read.unwrap();
            assert!(came == sent, "seed {seed}");
        }
    }

    /// Number of bytes that the client's kernel has for it.
    fn waiting(client: &client::TlsStream<TcpStream>) -> usize {
        let mut buffer = vec![MaybeUninit::uninit(); 1 << 20];
        match SockRef::from(client.get_ref().0).peek(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            peeked => peeked.unwrap(),
        }
    }

    #[tokio::test]
    async fn records_wait_for_the_late_flush_and_there_are_no_more_than_64_kib() {
        let (server, mut client) = connect().await;
        let (mut server, flusher) = deferred_flush::new(server, true);
        let sent = content(GATHERED_BYTES_MAX + 1);
        let mut came = vec![0; GATHERED_BYTES_MAX];
        // To a client that may not read: a record.
        let first = GATHERED_BYTES_FIRST;
        server.write_all(&sent[..=first]).await.unwrap();
        client.read_exact(&mut came[..first]).await.unwrap();
        assert_eq!(waiting(&client), 0, "the last byte has not been flushed");
        let end = poll_fn(|context| flusher.poll_flush(context));
        end.await.unwrap();
        client.read_exact(&mut came[..1]).await.unwrap();
        for _ in 0..SHOWN_BYTES >> 16 {
            server.write_all(&sent[..1 << 16]).await.unwrap();
            let end = poll_fn(|context| flusher.poll_flush(context));
            end.await.unwrap();
            client.read_exact(&mut came[..1 << 16]).await.unwrap();
        }
        let before = waiting(&client);

        // What hyper does with each frame.
        server.write_all(&sent[..100]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(waiting(&client), before, "a record was sent by itself");
        let end = poll_fn(|context| flusher.poll_flush(context));
        end.await.unwrap();
        client.read_exact(&mut came[..100]).await.unwrap();
        assert!(came[..100] == sent[..100]);
        assert_eq!(waiting(&client), 0);

        server.write_all(&sent).await.unwrap();
        client.read_exact(&mut came).await.unwrap();
        assert!(came == sent[..GATHERED_BYTES_MAX]);
        assert_eq!(waiting(&client), 0, "the last byte has not been flushed");
        server.shutdown().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), sent[GATHERED_BYTES_MAX]);
    }

    #[tokio::test]
    async fn over_http_1_a_flush_is_one() {
        let (server, mut client) = connect().await;
        let (mut server, _flusher) = deferred_flush::new(server, false);
        server.write_all(b"answer").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
    }
}
