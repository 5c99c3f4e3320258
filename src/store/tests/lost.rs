//! Content that is not known, because an index was lost or cannot be read, or a disk does not let go of something, is
//! not taken for what is not there.

#![expect(
    clippy::disallowed_methods,
    reason = "the test plays the disk, and who meddles with the files"
)]

use std::sync::atomic::AtomicBool;

use super::*;
use crate::store::metadata::index::Table;

/// A disk on which some operations on some paths fail, or take long, while a test wants it.
#[derive(Debug)]
struct Bad {
    ops: &'static [DiskOp],
    /// Part of the path of an operation that fails.
    path: &'static str,
    /// The error that they fail with; nothing: they take [`SLOW`], once.
    errno: Option<i32>,
    on: AtomicBool,
}

/// Longer than a start looks through files itself.
const SLOW: Duration = Duration::from_millis(1200);

impl Faults for Bad {
    fn before(&self, op: DiskOp, path: &Path) -> Result<(), Fault> {
        if !self.ops.contains(&op) || !path.to_str().unwrap().contains(self.path) {
            return Ok(());
        }
        match self.errno {
            None => {
                if self.on.swap(false, Ordering::Relaxed) {
                    std::thread::sleep(SLOW);
                }
                Ok(())
            }
            Some(errno) if self.on.load(Ordering::Relaxed) => {
                Err(io::Error::from_raw_os_error(errno).into())
            }
            Some(_) => Ok(()),
        }
    }
}

impl Bad {
    fn new(ops: &'static [DiskOp], path: &'static str, errno: Option<i32>) -> Arc<Self> {
        Arc::new(Self {
            ops,
            path,
            errno,
            on: AtomicBool::new(false),
        })
    }

    fn turn(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }
}

const INDEX: &[DiskOp] = &[DiskOp::ReadIndex, DiskOp::WriteIndex, DiskOp::SyncIndex];
/// errno(3): it may not be read; the disk is bad.
const NO_ACCESS: i32 = 13;
const BAD: i32 = 5;

fn open_on(dir: &Path, max_size: u64, disk: &Arc<Bad>) -> Store {
    let config = Config {
        injection: Injection::of(Arc::clone(disk) as Arc<dyn Faults>),
        ..config(dir, max_size)
    };
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    Store::open(&config, clock, Metrics::new(std::iter::empty())).unwrap()
}

/// Writes the index and lets go of what the journal noted.
fn write_all(store: &Store) {
    store.contents().write_index();
    store.contents().write_index();
}

#[tokio::test]
async fn an_index_that_cannot_be_read_does_not_say_that_nothing_is_there() {
    for errno in [NO_ACCESS, BAD] {
        let dir = tempfile::tempdir().unwrap();
        let disk = Bad::new(INDEX, "index", Some(errno));
        let store = open_on(dir.path(), 10_000_000, &disk);
        let digest = put(&store, 1, 1000).await;
        write_all(&store);
        store.scan().all();
        assert!(store.knows_all().await);
        assert_eq!(store.pages().stored_after(None, 9).await.unwrap(), [digest]);
        disk.turn(true);
        // A change that cannot be written: the database gives up.
        put(&store, 2, 1000).await;
        store.contents().write_index();
        assert!(!store.knows_all().await, "error {errno}");
        let asked = store.pages().stored_after(None, 9).await;
        assert!(asked.is_err(), "error {errno}: {asked:?}");
        let page = store
            .inner
            .expiry
            .facts()
            .index()
            .page(Table::Blobs, None, 9);
        assert!(page.is_err(), "error {errno}: {page:?}");
        assert!(!store.knows_all().await, "nor is it forgotten");
    }
}

/// A start that looks through the files of a lost index and ends before it is through leaves an index that
/// knows some of them. The next one is not taken in by that.
#[tokio::test]
async fn a_second_start_amid_the_look_begins_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 4000);
    for seed in 1..=4 {
        put(&store, seed, 900).await;
    }
    write_all(&store);
    drop(store);
    std::fs::remove_file(dir.path().join("index.redb")).unwrap();

    let disk = Bad::new(&[DiskOp::Read], "blobs/sha256/", None);
    disk.turn(true);
    let store = open_on(dir.path(), 4000, &disk);
    assert_eq!(
        store.contents().ledger().order().len(),
        1,
        "and more are not known yet"
    );
    assert!(!store.knows_all().await);
    store.capacity().trim();
    assert_eq!(
        store.contents().ledger().order().len(),
        1,
        "that there may be others is no reason to evict it"
    );
    write_all(&store);
    drop(store);

    let store = open(dir.path(), 4000);
    assert_eq!(
        store.contents().ledger().order().len(),
        4,
        "the start found them"
    );
    write_all(&store);
    drop(store);
    let store = open(dir.path(), 4000);
    assert_eq!(store.contents().ledger().order().len(), 4);
    assert!(
        !store.contents().records.is_incomplete(),
        "the look is over, once and for all"
    );
}

/// A disk that cannot tell of one file, after the index was lost: the others are found all the same, and nobody
/// takes those for all. When it can, that one is found too.
#[tokio::test]
async fn a_file_that_cannot_be_looked_at_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    let store = open(dir.path(), 10_000_000);
    for seed in 1..=4 {
        digests.push(put(&store, seed, 900).await);
    }
    drop(store);
    for file in ["index.redb", "journal.0", "journal.1"] {
        std::fs::remove_file(dir.path().join(file)).ok();
    }
    let bad: &'static str = digests[2].hex().leak();
    let disk = Bad::new(&[DiskOp::Read], bad, Some(BAD));
    disk.turn(true);
    let store = open_on(dir.path(), 10_000_000, &disk);
    store.scan().all();
    assert_eq!(store.contents().ledger().order().len(), 3);
    assert!(!store.knows_all().await);
    assert!(store.contents().records.is_incomplete());
    disk.turn(false);
    assert_eq!(
        store.scan().find(&digests[2]).await,
        Some(900),
        "it is looked for"
    );
    store.scan().all();
    assert!(store.knows_all().await);
    assert!(!store.contents().records.is_incomplete());
}

/// An index that turns out damaged while it is in use is begun anew; the next start looks for all that the
/// new one has not heard of.
#[tokio::test(start_paused = true)]
async fn an_index_begun_anew_is_known_not_to_say_all() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Bad::new(INDEX, "index", Some(BAD));
    let store = open_on(dir.path(), 10_000_000, &disk);
    let old = put(&store, 1, 1000).await;
    write_all(&store);
    store.scan().all();
    write_all(&store);
    disk.turn(true);
    let new = put(&store, 2, 2000).await;
    Upkeep(store.clone()).keep_up(false);
    assert!(store.trouble().is_some());
    std::fs::write(dir.path().join("index.redb"), vec![7; 50_000]).unwrap();
    disk.turn(false);
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(31)).await;
        Upkeep(store.clone()).keep_up(false);
    }
    assert_eq!(store.trouble(), None);
    let aside = dir.path().join("index.redb.unreadable");
    assert!(aside.exists(), "it was begun anew");
    write_all(&store);
    drop(store);
    let store = open(dir.path(), 10_000_000);
    assert_eq!(store.contains(&new), Some(2000));
    assert_eq!(store.contains(&old), Some(1000), "found at the start");
}

/// A damaged file that can be neither moved nor deleted is not found again beside the index.
#[tokio::test]
async fn a_damaged_file_that_stays_is_not_taken_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Bad::new(&[DiskOp::Rename, DiskOp::Remove], "", Some(BAD));
    let store = open_on(dir.path(), 10_000_000, &disk);
    let digest = put(&store, 1, 1000).await;
    std::fs::write(path_of(dir.path(), &digest), vec![9; 1000]).unwrap();
    disk.turn(true);
    let (_, looked_at) = store.audit().check(&digest, Pace::Full, &|_| {}).await;
    store
        .quarantine()
        .damaged(&digest, "as the test says", looked_at)
        .await;
    assert!(path_of(dir.path(), &digest).exists());
    assert_eq!(store.scan().find(&digest).await, None);
    store.scan().all();
    assert_eq!(store.contains(&digest), None);
    assert!(store.blob(&digest).await.is_none());
}

/// A reader finds out that a blob cannot be read whose file is gone already: that is no other blob.
#[tokio::test]
async fn a_blob_that_cannot_be_read_and_has_no_file_any_more_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Bad::new(&[DiskOp::Read], "blobs/", Some(BAD));
    let store = open_on(dir.path(), 10_000_000, &disk);
    let digest = put(&store, 1, 1000).await;
    let blob = store.blob(&digest).await.unwrap();
    std::fs::remove_file(path_of(dir.path(), &digest)).unwrap();
    disk.turn(true);
    assert!(blob.reader(None).next().await.is_err());
    assert_eq!(store.contains(&digest), None);
}

/// The scrub, `verify` and what asks for manifests in passing see everything once: that is no use.
#[tokio::test]
async fn who_only_looks_changes_nothing_about_what_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 3500);
    let mut digests = Vec::new();
    for seed in 1..=3 {
        digests.push(put(&store, seed, 1000).await);
    }
    let read = |_| {};
    let (checked, _) = store.audit().check(&digests[0], Pace::Full, &read).await;
    assert_eq!(checked, Checked::Sound(1000));
    put(&store, 4, 1000).await;
    assert_eq!(store.contains(&digests[0]), None, "hashing is no use");
    assert!(store.audit().peek(&digests[1], 5000).await.is_some());
    put(&store, 5, 1000).await;
    assert_eq!(store.contains(&digests[1]), None, "nor is a look");
    assert!(store.contains(&digests[2]).is_some());
}
