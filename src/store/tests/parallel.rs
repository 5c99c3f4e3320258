//! Many writers of one fill, anywhere in it.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::store::capacity::reservation::Room;
use crate::store::cas::coverage::Coverage;
use crate::store::cas::fill_state::{Shared, Span};
use crate::store::cas::ingest::Sink;

const MIB: usize = 1024 * 1024;

/// A generator of numbers that a seed repeats.
pub(in crate::store) struct Random(u64);

impl Random {
    pub(in crate::store) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(in crate::store) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Fetches segments, always the lowest that nobody has, in pieces of any size.
async fn fetch_segments(
    partial: &Partial<&'static str>,
    next: &Mutex<std::vec::IntoIter<Range<usize>>>,
    bytes: &Bytes,
    mut random: Random,
) {
    loop {
        let segment = next.lock().unwrap().next();
        let Some(segment) = segment else { return };
        let mut at = segment.start;
        while at < segment.end {
            let end = segment.end.min(at + 1 + random.below(90_000));
            let middle = at + random.below(end - at + 1);
            let chunks = vec![bytes.slice(at..middle), bytes.slice(middle..end)];
            partial.write(at as u64, chunks).await.unwrap();
            at = end;
        }
    }
}

async fn pull_in_parallel(seed: u64) {
    let (_dir, store) = store();
    let mut random = Random::new(seed);
    let (digest, bytes) = content(1_000_000 + random.below(1_500_000));
    let total = bytes.len();
    let (partial, fill) = begin(&store, digest, None).await;
    partial.start(Some(total as u64)).await.unwrap();
    let mut readers = JoinSet::new();
    for number in 0..8 {
        let start = if number < 4 { 0 } else { random.below(total) };
        let end = if number % 2 == 0 {
            total
        } else {
            start + random.below(total - start)
        };
        let mut reader = fill.reader(Some(start as u64..end as u64));
        let slow = number % 4 < 2;
        let expected = bytes.slice(start..end);
        readers.spawn(async move {
            let mut all = Vec::new();
            while let Some(piece) = soon(reader.next()).await.unwrap() {
                all.extend_from_slice(&piece);
                for _ in 0..if slow { 50 } else { 0 } {
                    tokio::task::yield_now().await;
                }
            }
            assert!(
                all == expected,
                "seed {seed}: reader {number} of {start}..{end}"
            );
        });
    }
    let mut segments: Vec<Range<usize>> = (0..total)
        .step_by(200_000)
        .map(|start| start..total.min(start + 200_000))
        .collect();
    // Lowest first, as a fetcher does; but sometimes all over the place.
    for _ in 0..random.below(4) {
        let (a, b) = (random.below(segments.len()), random.below(segments.len()));
        segments.swap(a, b);
    }
    let next = Mutex::new(segments.into_iter());
    tokio::join!(
        fetch_segments(&partial, &next, &bytes, Random::new(seed + 1000)),
        fetch_segments(&partial, &next, &bytes, Random::new(seed + 2000)),
        fetch_segments(&partial, &next, &bytes, Random::new(seed + 3000)),
        fetch_segments(&partial, &next, &bytes, Random::new(seed + 4000)),
    );
    commit(partial).await;
    readers.join_all().await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes, "seed {seed}");
    assert_eq!(store.contents().ledger().bytes(), total as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scattered_writers_give_every_reader_exact_bytes() {
    for seed in 0..6 {
        pull_in_parallel(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_write_the_same_bytes_one_is_believed() {
    let (_dir, store) = store();
    let (digest, bytes) = content(400_000);
    let (partial, fill) = begin(&store, digest, Some(400_000)).await;
    partial.start(Some(400_000)).await.unwrap();
    let mut reader = fill.reader(None);
    let first = bytes.slice(100_000..200_000);
    partial.write(100_000, vec![first]).await.unwrap();
    let other = Bytes::from(vec![0xEE; 400_000]);
    let late = other.slice(100_000..200_000);
    partial.write(100_000, vec![late]).await.unwrap();
    // What is there stays; what is missing before and behind it is taken.
    partial
        .write(
            0,
            vec![
                bytes.slice(..50_000),
                bytes.slice(50_000..100_000),
                other.slice(..50_000),
            ],
        )
        .await
        .unwrap();
    partial
        .write(150_000, vec![other.slice(..50_000), bytes.slice(200_000..)])
        .await
        .unwrap();
    commit(partial).await;
    assert_eq!(drain(&mut reader).await.unwrap(), bytes);
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn bytes_past_the_total_are_refused() {
    let (_dir, store) = store();
    let (digest, bytes) = content(1000);
    let (partial, _fill) = begin(&store, digest, None).await;
    partial.start(Some(900)).await.unwrap();
    assert!(partial.write(0, vec![bytes.clone()]).await.is_err());
    assert!(partial.write(u64::MAX, vec![bytes.clone()]).await.is_err());
    partial.write(0, vec![bytes.slice(..900)]).await.unwrap();
    assert_eq!(partial.coverage().bytes(), 900);
}

#[tokio::test]
async fn ranges_left_off_are_taken_up_after_a_restart() {
    let (dir, store) = store();
    let (digest, bytes) = content(300_000);
    let (partial, _fill) = begin(&store, digest, Some(300_000)).await;
    partial.start(Some(300_000)).await.unwrap();
    for range in [0..50_000, 100_000..150_000, 180_000..200_000] {
        let part = bytes.slice(range.clone());
        partial.write(range.start as u64, vec![part]).await.unwrap();
    }
    partial.suspend("stopping").await;
    assert_eq!(
        store.contents().ledger().bytes(),
        120_000,
        "gaps take nothing"
    );
    drop(store);
    let store = open(dir.path(), 10_000_000);
    assert_eq!(store.contents().ledger().bytes(), 120_000);
    let (partial, _fill) = begin(&store, digest, None).await;
    assert_eq!(partial.prefix(), 50_000);
    let left = vec![(0, 50_000), (100_000, 150_000), (180_000, 200_000)];
    assert_eq!(partial.coverage(), Coverage::from(left));
    assert_eq!(
        store.contents().ledger().bytes(),
        120_000,
        "and not counted twice"
    );
    partial.start(Some(300_000)).await.unwrap();
    for gap in [50_000..100_000, 150_000..180_000, 200_000..300_000] {
        let part = bytes.slice(gap.clone());
        partial.write(gap.start as u64, vec![part]).await.unwrap();
    }
    commit(partial).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
    assert_eq!(store.contents().ledger().bytes(), 300_000);
}

#[tokio::test]
async fn what_was_left_off_past_the_total_or_the_file_is_not_taken_up() {
    let (dir, store) = store();
    let (digest, bytes) = content(200_000);
    let (partial, _fill) = begin(&store, digest, None).await;
    partial.start(None).await.unwrap();
    partial
        .write(0, vec![bytes.clone(), bytes.clone()])
        .await
        .unwrap();
    partial.suspend("stopping").await;
    drop(store);
    let part = part_path(dir.path(), digest);
    File::options()
        .write(true)
        .open(&part)
        .unwrap()
        .set_len(250_000)
        .unwrap();
    let store = open(dir.path(), 10_000_000);
    let (partial, _fill) = begin(&store, digest, None).await;
    assert_eq!(partial.prefix(), 250_000, "the file was cut");
    partial.start(Some(200_000)).await.unwrap();
    assert_eq!(partial.prefix(), 200_000, "the blob is shorter");
    commit(partial).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

fn sink(store: &Store, digest: Digest) -> Arc<Sink> {
    let room = Room::reserve(store.cas(), key(digest), None).unwrap();
    let shared = Arc::new(Shared::new(key(digest)));
    Arc::new(Sink::open(room, &shared).unwrap())
}

#[test]
fn one_write_reads_back_only_so_much_for_the_verifier() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 100_000_000);
    let (digest, bytes) = content(12 * MIB);
    let sink = sink(&store, digest);
    let turn = sink.turn();
    let write = |range: Range<usize>| {
        let chunks = [bytes.slice(range.clone())];
        sink.write(turn, range.start as u64, &chunks, || ())
            .unwrap();
    };
    write(2 * MIB..12 * MIB - 1);
    assert_eq!(sink.hashed(), 0);
    write(0..2 * MIB);
    assert_eq!(sink.hashed(), 6 * MIB as u64, "its own and 4 MiB more");
    write(12 * MIB - 1..12 * MIB);
    assert_eq!(sink.hashed(), 10 * MIB as u64);
    assert_eq!(sink.hash_to(12 * MIB as u64).unwrap(), digest);
}

#[test]
fn what_is_written_far_ahead_does_not_push_out_what_readers_ask_for() {
    let (digest, bytes) = content(100_000);
    let shared = Shared::new(key(digest));
    let write = |offset: u64| {
        let claim = shared.claim(offset, std::slice::from_ref(&bytes));
        shared.written(&claim);
    };
    write(0);
    (1..100).for_each(|number| write(number * 16 * MIB as u64));
    let mut span = Span::new(0);
    assert_eq!(shared.look(&mut span), Ok(100_000));
    assert_eq!(
        shared.give_recent(&mut span, &(0..100_000)),
        Some(bytes.clone())
    );
    let mut ahead = Span::new(16 * MIB as u64);
    assert_eq!(shared.look(&mut ahead), Ok(16 * MIB as u64 + 100_000));
    let range = ahead.position()..ahead.position() + 10;
    assert_eq!(
        shared.give_recent(&mut ahead, &range),
        None,
        "the file has it"
    );
}

#[test]
fn what_is_being_written_is_nobody_elses_to_write() {
    let (digest, bytes) = content(100);
    let shared = Shared::new(key(digest));
    let claim = |range: Range<usize>| {
        let chunks = [bytes.slice(range.clone())];
        shared.claim(range.start as u64, &chunks)
    };
    let first = claim(20..60);
    let second = claim(0..100);
    let expected = vec![(0, bytes.slice(..20)), (60, bytes.slice(60..))];
    assert_eq!(second.pieces, expected);
    shared.written(&second);
    let covered = vec![(0, 20), (60, 100)];
    assert_eq!(
        shared.coverage(),
        Coverage::from(covered),
        "not the other's"
    );
    assert!(claim(0..100).pieces.is_empty());
    shared.give_up(&first);
    assert_eq!(claim(0..100).pieces, vec![(20, bytes.slice(20..60))]);
}

#[test]
fn what_was_read_while_a_doubt_came_is_not_given() {
    let (_dir, store) = store();
    let (digest, bytes) = content(100);
    let sink = sink(&store, digest);
    let shared = &sink.shared;
    shared.written(&shared.claim(0, std::slice::from_ref(&bytes)));
    let mut span = Span::new(0);
    assert_eq!(shared.look(&mut span), Ok(100));
    sink.doubt(&Coverage::default()).unwrap();
    shared.written(&shared.claim(0, &[Bytes::from(vec![7; 100])]));
    assert!(!shared.give(&mut span, 100), "it may be a mix of both");
    assert_eq!(shared.give_recent(&mut span, &(0..100)), None);
    assert_eq!(span.position(), 0);
    assert_eq!(shared.look(&mut span), Ok(100));
    assert!(shared.give(&mut span, 100));
    assert_eq!(span.position(), 100);
}

#[test]
fn writes_asked_for_before_a_doubt_do_not_come_after_it() {
    let (_dir, store) = store();
    let (digest, bytes) = content(1000);
    let sink = sink(&store, digest);
    let before = sink.turn();
    sink.doubt(&Coverage::default()).unwrap();
    let woken = AtomicBool::new(false);
    let wake = || woken.store(true, Ordering::Relaxed);
    sink.write(before, 0, &[bytes], wake).unwrap();
    assert_eq!(sink.shared.prefix(), 0);
    assert!(!woken.into_inner());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_begins_when_the_file_of_the_one_before_is_nobodys() {
    let (dir, store) = store();
    let (digest, bytes) = content(1000);
    // As a write holds it that goes on although nobody awaits it.
    let held = sink(&store, digest);
    let mut beginning = JoinSet::new();
    let same_store = store.clone();
    beginning.spawn(async move { begin(&same_store, digest, Some(1000)).await });
    held.write(held.turn(), 0, &[Bytes::from(vec![0; 1000])], || ())
        .unwrap();
    assert!(beginning.try_join_next().is_none());
    drop(held);
    let (partial, _fill) = beginning.join_next().await.unwrap().unwrap();
    partial.start(Some(1000)).await.unwrap();
    partial.write(0, vec![bytes.clone()]).await.unwrap();
    assert_eq!(
        part_files(dir.path()).len(),
        1,
        "the file has kept its name"
    );
    commit(partial).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}
