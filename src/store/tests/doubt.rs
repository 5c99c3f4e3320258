//! Bytes that turned out wrong and are written again while readers follow.

#![expect(
    clippy::disallowed_methods,
    reason = "the test plays a disk that does not delete"
)]

use tokio::task::JoinSet;

use super::parallel::Random;
use super::*;
use crate::store::cas::coverage::Coverage;

const TOTAL: usize = 300_000;

/// A fill of [`TOTAL`] bytes that has started.
struct World {
    dir: TempDir,
    store: Store,
    digest: Digest,
    right: Bytes,
    partial: Partial<&'static str>,
    fill: Fill<&'static str>,
}

impl World {
    async fn new() -> Self {
        let (dir, store) = store();
        let (digest, right) = content(TOTAL);
        let (partial, fill) = begin(&store, digest, None).await;
        partial.start(Some(TOTAL as u64)).await.unwrap();
        Self {
            dir,
            store,
            digest,
            right,
            partial,
            fill,
        }
    }

    /// The content with other bytes here and there.
    fn wrong(&self, at: &[usize]) -> Bytes {
        let mut wrong = self.right.to_vec();
        for at in at {
            wrong[*at] ^= 1;
        }
        wrong.into()
    }

    async fn write(&self, content: &Bytes, range: std::ops::Range<usize>) {
        let chunks = vec![content.slice(range.clone())];
        self.partial
            .write(range.start as u64, chunks)
            .await
            .unwrap();
    }

    async fn fail_verify(self) -> Self {
        let (partial, error) = self.partial.verify().await.unwrap_err();
        assert!(matches!(error, VerifyError::Digest { .. }), "{error}");
        Self { partial, ..self }
    }

    async fn doubt_all(&self) {
        self.partial.doubt(Coverage::default()).await.unwrap();
        assert_eq!(self.partial.prefix(), 0);
    }

    /// A reader that has read up to `end`, and those bytes.
    async fn reader_at(&self, start: usize, end: usize) -> (Reader<&'static str>, Vec<u8>) {
        let mut short = self.fill.reader(Some(start as u64..end as u64));
        let mut all = Vec::new();
        while all.len() < end - start {
            all.extend(soon(short.next()).await.unwrap().unwrap());
        }
        (short, all)
    }
}

/// Reads at least `bytes`, and leaves the reader there.
async fn read(reader: &mut Reader<&'static str>, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        all.extend(soon(reader.next()).await.unwrap().unwrap());
    }
    all
}

#[tokio::test]
async fn agreeing_bytes_are_not_noticed() {
    let world = World::new().await;
    let wrong = world.wrong(&[299_000]);
    // So many that what the reader gets depends on no one write.
    world.write(&wrong, 0..100_000).await;
    let mut reader = world.fill.reader(None);
    let mut all = read(&mut reader, 100_000).await;
    world.write(&wrong, 100_000..TOTAL).await;
    let world = world.fail_verify().await;
    world.doubt_all().await;
    assert_eq!(read_what_is_there(&mut reader).await, b"", "it waits");
    for at in (0..TOTAL).step_by(30_000).rev() {
        world.write(&world.right, at..at + 30_000).await;
    }
    commit(world.partial).await;
    all.extend(drain(&mut reader).await.unwrap());
    assert_eq!(all, world.right);
    let stored = stored(&world.store, &world.digest).await.unwrap();
    assert_eq!(stored, world.right);
}

#[tokio::test]
async fn differing_bytes_break_those_who_had_them_and_nobody_else() {
    let world = World::new().await;
    let wrong = world.wrong(&[150_000]);
    world.write(&wrong, 0..140_000).await;
    let mut before = world.fill.reader(None);
    let mut all = read(&mut before, 140_000).await;
    world.write(&wrong, 140_000..TOTAL).await;
    let mut behind = world.fill.reader(None);
    read(&mut behind, 160_000).await;
    // These have their whole range, and have not been told that it ends.
    let (mut has_it, _) = world.reader_at(149_990, 150_010).await;
    let (mut has_others, _) = world.reader_at(200_000, 200_010).await;
    let world = world.fail_verify().await;
    world.doubt_all().await;
    for reader in [&mut behind, &mut has_it, &mut has_others] {
        let patience = Duration::from_millis(50);
        let told = tokio::time::timeout(patience, reader.next()).await;
        assert!(told.is_err(), "nobody knows yet: {told:?}");
    }
    world.write(&world.right, 100_000..TOTAL).await;
    assert_eq!(soon(behind.next()).await, Err(Ended::Altered));
    assert_eq!(
        soon(behind.next()).await,
        Err(Ended::Altered),
        "and stays so"
    );
    assert_eq!(soon(has_it.next()).await, Err(Ended::Altered));
    assert_eq!(soon(has_others.next()).await, Ok(None));
    let mut after = world.fill.reader(Some(149_990..150_010));
    assert_eq!(
        drain(&mut after).await.unwrap(),
        &world.right[149_990..150_010]
    );
    world.write(&world.right, 0..100_000).await;
    commit(world.partial).await;
    all.extend(drain(&mut before).await.unwrap());
    assert_eq!(all, world.right);
    assert_eq!(
        soon(behind.next()).await,
        Err(Ended::Altered),
        "after the end, too"
    );
}

#[tokio::test]
async fn what_is_kept_is_neither_doubted_nor_written_again() {
    let world = World::new().await;
    let wrong = world.wrong(&[250_000]);
    world.write(&wrong, 0..100_000).await;
    let mut reader = world.fill.reader(None);
    let mut all = read(&mut reader, 100_000).await;
    world.write(&wrong, 100_000..TOTAL).await;
    let world = world.fail_verify().await;
    // More than was ever there can be named.
    let keep = Coverage::from(vec![(0, 200_000), (290_000, 900_000)]);
    world.partial.doubt(keep).await.unwrap();
    let kept = vec![(0, 200_000), (290_000, 300_000)];
    assert_eq!(world.partial.coverage(), Coverage::from(kept));
    all.extend(read_what_is_there(&mut reader).await);
    assert_eq!(all.len(), 200_000, "what is kept can be read");
    let other = world.wrong(&[5, 199_999, 290_000]);
    world.write(&other, 0..TOTAL).await;
    commit(world.partial).await;
    all.extend(drain(&mut reader).await.unwrap());
    assert_eq!(all, world.right);
}

#[tokio::test]
async fn a_reader_that_slept_through_several_doubts_is_told() {
    let world = World::new().await;
    let first = world.wrong(&[1000, 120_000]);
    world.write(&first, 0..TOTAL).await;
    let (mut had_first, _) = world.reader_at(990, 1010).await;
    let (mut had_both, _) = world.reader_at(119_990, 120_010).await;
    let (mut had_neither, _) = world.reader_at(5000, 5010).await;
    let world = world.fail_verify().await;
    world.doubt_all().await;
    // The second agrees with the first in one place; and part of it never comes.
    let second = world.wrong(&[120_000, 200_000]);
    world.write(&second, 0..150_000).await;
    world.doubt_all().await;
    world.write(&second, 0..110_000).await;
    world.doubt_all().await;
    world.write(&world.right, 0..TOTAL).await;
    assert_eq!(
        soon(had_first.next()).await,
        Err(Ended::Altered),
        "two doubts ago"
    );
    assert_eq!(
        soon(had_both.next()).await,
        Err(Ended::Altered),
        "by the last"
    );
    assert_eq!(soon(had_neither.next()).await, Ok(None));
    commit(world.partial).await;
    let stored = stored(&world.store, &world.digest).await.unwrap();
    assert_eq!(stored, world.right);
}

#[tokio::test]
async fn doubts_come_to_an_end() {
    let world = World::new().await;
    let mut doubts = 0;
    while world.partial.doubt(Coverage::default()).await.is_ok() {
        doubts += 1;
        assert!(doubts < 1000, "each of them takes memory");
    }
    assert!(doubts > 10, "there may be that many endpoints");
    world.partial.fail("no endpoint is right");
    let ended = drain(&mut world.fill.reader(None)).await;
    assert_eq!(ended, Err(Ended::Failed("no endpoint is right")));
}

#[tokio::test]
async fn a_restart_breaks_whoever_had_read() {
    let (_dir, store) = store();
    let (digest, bytes) = content(200_000);
    leave_off(&store, digest, &bytes, 150_000).await;
    let (partial, fill) = begin(&store, digest, None).await;
    let mut early = fill.reader(Some(0..10));
    assert_eq!(soon(early.next()).await.unwrap().unwrap(), bytes[..10]);
    let mut fresh = fill.reader(None);
    partial.restart().await.unwrap();
    assert_eq!(partial.prefix(), 0);
    assert_eq!(soon(early.next()).await, Err(Ended::Altered));
    partial.start(Some(200_000)).await.unwrap();
    partial.write(0, vec![bytes.clone()]).await.unwrap();
    commit(partial).await;
    assert_eq!(drain(&mut fresh).await.unwrap(), bytes);
}

/// Reads to the end and keeps what was given as it was given. `None`: it was broken.
async fn keep(mut reader: Reader<&'static str>, pauses: usize) -> Option<Vec<Bytes>> {
    let mut all = Vec::new();
    loop {
        match soon(reader.next()).await {
            Ok(Some(bytes)) => all.push(bytes),
            Ok(None) => return Some(all),
            Err(Ended::Altered) => return None,
            Err(ended) => panic!("{ended:?}"),
        }
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
    }
}

/// Readers of whole and part, while one endpoint after another turns out to be wrong. Nothing leaves before
/// all is over, with `windows` as with others: so slow can a client be.
async fn tell_apart(seed: u64, windows: bool) {
    let mut random = Random::new(seed);
    let mut world = World::new().await;
    let mut versions: Vec<Bytes> = (0..=random.below(4))
        .map(|_| {
            let flips: Vec<usize> = (0..=random.below(3)).map(|_| random.below(TOTAL)).collect();
            world.wrong(&flips)
        })
        .collect();
    versions.push(world.right.clone());
    let mut readers = JoinSet::new();
    for number in 0..10 {
        let start = if number < 4 { 0 } else { random.below(TOTAL) };
        let end = start + random.below(TOTAL - start);
        let range = (number >= 2).then_some(start as u64..end as u64);
        let mut reader = world.fill.reader(range.clone());
        if windows {
            reader = reader.in_windows(Windows::default());
        }
        let pauses = random.below(200);
        readers.spawn(async move { (range, keep(reader, pauses).await) });
    }
    for (number, version) in versions.iter().enumerate() {
        let step = if windows { 50_000 } else { 10_000 };
        let mut parts: Vec<usize> = (0..TOTAL).step_by(step).collect();
        let count = parts.len();
        (0..random.below(10)).for_each(|_| parts.swap(random.below(count), random.below(count)));
        for pair in parts.chunks(2) {
            let write = |at: usize| world.write(version, at..at + step);
            tokio::join!(write(pair[0]), write(pair[1]));
        }
        if number + 1 < versions.len() && *version != world.right {
            world = world.fail_verify().await;
            world.doubt_all().await;
        }
    }
    commit(world.partial).await;
    for (range, read) in readers.join_all().await {
        let Some(all) = read.map(|pieces| pieces.concat()) else {
            continue;
        };
        let Some(range) = range else {
            assert!(all == world.right, "seed {seed}: a clean wrong end");
            continue;
        };
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        // A part has no digest of its own; but it must be what some endpoint sent.
        let sent = versions.iter().any(|version| all == version[range.clone()]);
        assert!(sent, "seed {seed}: a mix of several under a clean end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_a_clean_mix() {
    for seed in 0..20 {
        tell_apart(seed, false).await;
        tell_apart(seed, true).await;
    }
}

/// A client that takes a window late gets what it shows then: so it must be broken, and before it has the end.
#[tokio::test]
async fn a_window_that_comes_out_different_breaks_its_reader() {
    let world = World::new().await;
    let wrong = world.wrong(&[10, 150_000]);
    world.write(&wrong, 0..200_000).await;
    let windows = Windows::default();
    let mut reader = world.fill.reader(None).in_windows(windows.clone());
    let window = soon(reader.next()).await.unwrap().unwrap();
    assert!(windows.hold(&window), "it is not copied");
    assert!(window == wrong[..200_000]);
    world.write(&wrong, 200_000..TOTAL).await;
    let world = world.fail_verify().await;
    world.doubt_all().await;
    world.write(&world.right, 0..TOTAL).await;
    assert!(window == world.right[..200_000], "late is too late");
    assert_eq!(soon(reader.next()).await, Err(Ended::Altered));
    commit(world.partial).await;
    assert_eq!(soon(reader.next()).await, Err(Ended::Altered));
    let mut after = world.fill.reader(Some(0..100_000)).in_windows(windows);
    let part = soon(after.next()).await.unwrap().unwrap();
    assert!(part == world.right[..100_000], "a part of what was checked");
}

/// A part is taken for good before anything is checked: it is what was there at one time.
#[tokio::test]
async fn a_part_stays_as_it_was_given() {
    let world = World::new().await;
    let wrong = world.wrong(&[10, 150_000, 290_000]);
    world.write(&wrong, 0..TOTAL).await;
    let windows = Windows::default();
    let mut parts = [
        world.fill.reader(Some(0..200_000)),
        world.fill.part_reader(100_000..TOTAL as u64),
    ]
    .map(|reader| reader.in_windows(windows.clone()));
    let mut given = Vec::new();
    for reader in &mut parts {
        given.push(soon(reader.next()).await.unwrap().unwrap());
    }
    let world = world.fail_verify().await;
    world.doubt_all().await;
    world.write(&world.right, 0..TOTAL).await;
    commit(world.partial).await;
    assert!(given.iter().all(|bytes| !windows.hold(bytes)));
    assert!(wrong.starts_with(&given[0]));
    assert!(wrong[100_000..].starts_with(&given[1]));
}

/// Whoever has a window of a whole blob that could not be kept is not given bytes of the next attempt.
#[tokio::test]
async fn the_file_of_a_fill_that_is_over_is_never_written_again() {
    let world = World::new().await;
    world.write(&world.right, 0..TOTAL).await;
    let mut reader = world.fill.reader(None).in_windows(Windows::default());
    let verified = world.partial.verify().await.map_err(|(_, error)| error);
    let verified = verified.unwrap();
    let window = soon(reader.next()).await.unwrap().unwrap();
    // As if it could not be deleted.
    let path = part_path(world.dir.path(), world.digest);
    let kept = path.with_file_name("kept");
    std::fs::hard_link(&path, &kept).unwrap();
    drop(verified);
    std::fs::rename(&kept, &path).unwrap();
    let (partial, _fill) = begin(&world.store, world.digest, None).await;
    partial.start(Some(TOTAL as u64)).await.unwrap();
    let zeros = Bytes::from(vec![0; TOTAL]);
    partial.write(0, vec![zeros]).await.unwrap();
    assert!(window == world.right[..window.len()]);
}
