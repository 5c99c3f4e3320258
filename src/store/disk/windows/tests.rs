use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::store::disk::health::Health;
use crate::store::disk::{Disk, Injection};
use crate::store::tests::parallel::Random;
use crate::telemetry::Metrics;

const FILE_BYTES: usize = 6_000_000;

/// A file, and windows of it.
struct World {
    content: Vec<u8>,
    file: Arc<DiskFile>,
    windows: Windows,
}

fn world() -> World {
    let content: Vec<u8> = (0..FILE_BYTES)
        .map(|at| (at * at / 251).to_le_bytes()[0])
        .collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let health = Arc::new(Health::new(Metrics::new(std::iter::empty())));
    let disk = Disk::new(Injection::default(), health);
    World {
        content,
        file: Arc::new(disk.file(file, "the/file".into())),
        windows: Windows::default(),
    }
}

impl World {
    fn map(&self, range: Range<usize>) -> Bytes {
        let range = range.start as u64..range.end as u64;
        self.file.window(&range).unwrap().unwrap()
    }

    fn give(&self, range: Range<usize>) -> Bytes {
        let bytes = self.map(range.clone());
        let kept = Kept::by(Arc::new(()));
        let file = Arc::clone(&self.file);
        self.windows
            .remember(bytes.clone(), file, range.start as u64, kept);
        bytes
    }

    /// Sends all of these, which are windows or parts of them.
    fn send(&self, mut bytes: Bytes, socket: &TcpStream) {
        while !bytes.is_empty() {
            let sent = self.windows.send(&bytes, socket).unwrap().unwrap();
            drop(bytes.split_to(sent));
        }
    }
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

#[test]
fn what_a_window_shows_arrives_in_whatever_slices() {
    let world = world();
    let mut random = Random::new(5);
    let (server, mut client) = sockets();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    let mut expected = Vec::new();
    for _ in 0..60 {
        let start = random.below(FILE_BYTES);
        let end = start + 1 + random.below((FILE_BYTES - start).min(300_000));
        let mut window = world.give(start..end);
        expected.extend_from_slice(&world.content[start..end]);
        while !window.is_empty() {
            let part = window.split_to(1 + random.below(window.len()));
            assert!(world.windows.hold(&part));
            world.send(part, &server);
        }
    }
    drop(server);
    assert!(reader.join().unwrap() == expected);
    assert!(world.windows.lock().is_empty(), "all were sent");
    assert_eq!(Arc::strong_count(&world.file), 1);
}

#[test]
fn a_send_that_fills_the_socket_goes_on_where_it_stopped() {
    let world = world();
    let (server, mut client) = sockets();
    server.set_nonblocking(true).unwrap();
    let mut left = world.give(1000..FILE_BYTES);
    let mut came = Vec::new();
    let mut stops = 0;
    while !left.is_empty() {
        match world.windows.send(&left, &server).unwrap() {
            Ok(sent) => drop(left.split_to(sent)),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                stops += 1;
                let mut some = vec![0; 100_000];
                client.read_exact(&mut some).unwrap();
                came.extend(some);
            }
        }
    }
    assert!(stops > 0, "the socket takes everything at once");
    drop(server);
    client.read_to_end(&mut came).unwrap();
    assert!(came == world.content[1000..]);
}

#[test]
fn what_is_no_window_is_left_alone() {
    let world = world();
    let (server, mut client) = sockets();
    let window = world.give(0..100_000);
    let copy = window.to_vec();
    let unknown = world.map(0..100_000);
    for bytes in [&copy[..], &unknown, b"head", &[], window.get(7..7).unwrap()] {
        assert!(!world.windows.hold(bytes));
        assert!(world.windows.send(bytes, &server).is_none());
    }
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "nothing was sent");
}

#[test]
fn a_file_that_became_shorter_is_an_error_and_no_end() {
    let world = world();
    let (server, mut client) = sockets();
    let window = world.give(0..100_000);
    world.file.cut(60_000).unwrap();
    let first = world.windows.send(&window, &server).unwrap().unwrap();
    assert_eq!(first, 60_000);
    let then = world.windows.send(&window.slice(first..), &server);
    let error = then.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    client.read_exact(&mut vec![0; 60_000]).unwrap();
}

#[test]
fn the_oldest_of_too_many_are_sent_from_memory() {
    let world = world();
    let given: Vec<Bytes> = (0..WINDOWS_MAX + 2)
        .map(|number| world.give(number * 10_000..(number + 1) * 10_000))
        .collect();
    let held: Vec<bool> = given.iter().map(|it| world.windows.hold(it)).collect();
    assert_eq!(held[..2], [false, false]);
    assert!(held[2..].iter().all(|held| *held));
    assert!(given[0] == world.content[..10_000], "and can be");
}

/// The HTTP library may drop a window that was not sent, and something else may be mapped meanwhile.
#[test]
fn an_address_means_one_window_as_long_as_it_is_known() {
    let world = world();
    let given = world.give(0..50_000);
    let address = given.as_ptr();
    drop(given);
    let others: Vec<Bytes> = (0..100)
        .map(|at| world.map(at * 4096..50_000 + at))
        .collect();
    for other in &others {
        assert_ne!(other.as_ptr(), address);
        assert!(!world.windows.hold(other));
    }
}

/// Whoever pulls slowly has its blob pinned until it has it, though its reader is gone.
#[test]
fn a_window_keeps_its_blob_until_it_has_been_sent() {
    let world = world();
    let (server, mut client) = sockets();
    let guard = Arc::new("kept");
    let kept = Arc::downgrade(&guard);
    let window = world.map(0..1000);
    let file = Arc::clone(&world.file);
    let kept_by = Kept::by(guard);
    world.windows.remember(window.clone(), file, 0, kept_by);
    world.send(window.slice(..999), &server);
    assert!(kept.upgrade().is_some());
    world.send(window.slice(999..), &server);
    assert!(kept.upgrade().is_none());
    client.read_exact(&mut [0; 1000]).unwrap();
}
