use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::oci::{Algorithm, Digest};
use crate::server::conn::buffers::Buffers;
use crate::server::testing::{below, content};
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

/// Room in the client's kernel, which says nothing of what the server's takes.
const CLIENT_BUFFER_BYTES: u32 = 64 * 1024;

/// A store with one blob, and who is given windows of it.
struct Source {
    _dir: TempDir,
    store: Store,
    digest: Digest,
    content: Bytes,
    windows: Windows,
}

async fn source() -> Source {
    let dir = tempfile::tempdir().unwrap();
    let config = store::Config {
        dir: dir.path().to_path_buf(),
        max_size: store::Amount::Bytes(100_000_000),
        min_free: store::Amount::Bytes(0),
        meter: store::Meter::default(),
        injection: store::Injection::default(),
        scrub: None,
        permanent: false,
        max_age: None,
        shares: Vec::new(),
    };
    let clock = Arc::new(ManualClock::new(Timestamp(1)));
    let store = Store::open(&config, clock, Metrics::new(std::iter::empty())).unwrap();
    let content = content(9_000_000);
    let (digest, content) = (
        Digest::of(Algorithm::Sha256, &content),
        Bytes::from(content),
    );
    store.put(&digest, "", content.clone()).await.unwrap();
    Source {
        _dir: dir,
        store,
        digest,
        content,
        windows: Windows::default(),
    }
}

impl Source {
    /// A part of the blob, in as many windows as it takes.
    async fn window(&self, from: usize, to: usize) -> Vec<Bytes> {
        let blob = self.store.blob(&self.digest).await.unwrap();
        let reader = blob.reader(Some(from as u64..to as u64));
        let mut reader = reader.in_windows(self.windows.clone());
        let mut given = Vec::new();
        while let Some(bytes) = reader.next().await.unwrap() {
            assert!(self.windows.hold(&bytes), "it is no window");
            given.push(bytes);
        }
        given
    }

    /// The mirror's side of a connection, and the client's.
    async fn connect(&self) -> (ClientStream<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(CLIENT_BUFFER_BYTES).unwrap();
        let client = client.connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        let windows = Some(self.windows.clone());
        let (server, peer) = server.unwrap();
        (
            ClientStream::plain(server, Watch::new(peer, false, Buffers::default()), windows),
            client.unwrap(),
        )
    }
}

/// As hyper does: several at once, and what was not taken again.
async fn write_all(stream: &mut ClientStream<TcpStream>, mut queue: VecDeque<Bytes>) {
    while !queue.is_empty() {
        let slices: Vec<_> = queue
            .iter()
            .map(|it| io::IoSlice::new(it))
            .take(16)
            .collect();
        let mut written = stream.write_vectored(&slices).await.unwrap();
        assert_ne!(written, 0, "that would end the connection");
        while let Some(first) = queue.front_mut() {
            let part = first.len().min(written);
            first.advance(part);
            written -= part;
            if !first.is_empty() {
                break;
            }
            queue.pop_front();
        }
    }
}

#[tokio::test]
async fn heads_windows_and_what_comes_after_arrive_in_order() {
    let source = source().await;
    let (mut server, mut client) = source.connect().await;
    let mut queue = VecDeque::from([Bytes::from_static(b"head")]);
    queue.extend(source.window(0, 5_000_000).await);
    queue.push_back(Bytes::from_static(b"tail"));
    let expected = [b"head", &source.content[..5_000_000], b"tail"].concat();
    let mut all = Vec::new();
    let write = async {
        write_all(&mut server, queue).await;
        server.shutdown().await.unwrap();
    };
    let ((), came) = tokio::join!(write, client.read_to_end(&mut all));
    came.unwrap();
    assert!(all == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_written_arrives_in_order() {
    let source = source().await;
    let mut readers = tokio::task::JoinSet::new();
    for seed in 0..30 {
        let mut random = seed;
        let (mut server, mut client) = source.connect().await;
        let mut expected = Vec::new();
        readers.spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.map(|_| all)
        });
        for _ in 0..below(&mut random, 6) {
            let mut queue = VecDeque::new();
            for _ in 0..below(&mut random, 14) {
                let start = below(&mut random, source.content.len());
                let length = below(&mut random, source.content.len() - start).min(700_000);
                let part = source.content.slice(start..start + length);
                expected.extend_from_slice(&part);
                if below(&mut random, 3) == 0 {
                    queue.push_back(part);
                    continue;
                }
                for mut window in source.window(start, start + length).await {
                    let cut = below(&mut random, window.len());
                    queue.extend([window.split_to(cut), window]);
                }
            }
            write_all(&mut server, queue.into_iter().collect()).await;
        }
        server.shutdown().await.unwrap();
        let all = readers.join_next().await.unwrap().unwrap().unwrap();
        assert!(all == expected, "seed {seed}");
    }
}

#[tokio::test]
async fn what_was_sent_is_no_window_any_more() {
    let source = source().await;
    let (mut server, mut client) = source.connect().await;
    let given = source.window(0, 100_000).await;
    write_all(&mut server, given.clone().into()).await;
    assert!(given.iter().all(|window| !source.windows.hold(window)));
    client.read_exact(&mut vec![0; 100_000]).await.unwrap();
}

/// Number of bytes that are written to a client that takes nothing.
async fn taken_by_the_kernel(server: &mut ClientStream<TcpStream>, parts: &[Bytes]) -> usize {
    let mut taken = 0;
    for part in parts {
        let mut rest = part.clone();
        while !rest.is_empty() {
            let slices = [io::IoSlice::new(&rest)];
            let written = poll_fn(|context| {
                Poll::Ready(Pin::new(&mut *server).poll_write_vectored(context, &slices))
            });
            // The runtime has to have looked at the socket again before one can tell that it is full.
            tokio::task::yield_now().await;
            match written.await {
                Poll::Ready(written) => rest.advance(written.unwrap()),
                Poll::Pending => return taken + part.len() - rest.len(),
            }
        }
        taken += part.len();
    }
    panic!("the kernel has taken all of it, {taken} bytes");
}

#[tokio::test]
async fn the_kernel_holds_little_for_a_client_that_takes_nothing() {
    let source = source().await;
    let windows = source.window(0, source.content.len()).await;
    for parts in [windows, vec![source.content.clone()]] {
        let (mut server, _client) = source.connect().await;
        let taken = taken_by_the_kernel(&mut server, &parts).await;
        assert!((64 << 10..1 << 20).contains(&taken), "{taken} bytes");
    }
}

#[tokio::test]
async fn the_kernel_holds_what_it_finds_right_for_a_fast_client() {
    let source = source().await;
    let (mut server, mut client) = source.connect().await;
    let unsent_max = |server: &ClientStream<TcpStream>| {
        let socket = SockRef::from(&server.inner);
        socket.tcp_notsent_lowat().unwrap()
    };
    assert_eq!(unsent_max(&server), UNSENT_BYTES_MAX);
    let write = async {
        // Some 4 MiB will go through within 100 ms, even on a machine that does much else.
        for _ in 0..100 {
            server.write_all(&source.content).await.unwrap();
            if unsent_max(&server) == crate::server::conn::send_buffer::UNSENT_BY_SYSTEM {
                break;
            }
        }
        assert_eq!(
            unsent_max(&server),
            crate::server::conn::send_buffer::UNSENT_BY_SYSTEM
        );
        server.shutdown().await.unwrap();
    };
    let read = async {
        let mut some = vec![0; 1 << 20];
        while client.read(&mut some).await.unwrap() > 0 {}
    };
    tokio::join!(write, read);
}
