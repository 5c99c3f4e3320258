//! The store on a disk that works, and on one that fails at every single operation of the same work.

#![allow(
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "these tests own their files, which are small, and play the disk"
)]

mod faulty;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use faulty::{FaultyDisk, Left, Plan};
use rustix::io::Errno;

use super::*;

/// Some of the blobs must go for the others.
const MAX: u64 = 900_000;

/// A directory in memory, if there is one: tests that make thousands of files durable need no disk for it.
fn new_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn try_open(dir: &Path, disk: Option<&Arc<FaultyDisk>>) -> Result<Store, OpenError> {
    let injection = disk.map(|disk| Injection::of(Arc::clone(disk) as Arc<dyn Faults>));
    let config = Config {
        injection: injection.unwrap_or_default(),
        ..config(dir, MAX)
    };
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    Store::open(&config, clock, Metrics::new(std::iter::empty()))
}

/// The blobs of the work, and one for when it is over.
static BLOBS: LazyLock<[(Digest, Bytes); 6]> = LazyLock::new(|| {
    [5_000, 200_000, 150_000, 350_000, 350_001, 70_000].map(|bytes: usize| {
        let content: Vec<u8> = (0..bytes)
            .map(|at| (at / 7 % 251) as u8 ^ (at / 4096) as u8 ^ (bytes % 253) as u8)
            .collect();
        (Digest::of(Algorithm::Sha256, &content), content.into())
    })
});

/// Content that was promised.
#[derive(Debug, Default)]
struct Promised {
    contents: BTreeMap<Digest, Bytes>,
    committed: Vec<Digest>,
}

/// A fill of the parts of a blob, to the end that it takes. A reader gets exact bytes, or an error.
async fn try_fill(
    store: &Store,
    (digest, bytes): &(Digest, Bytes),
    parts: &[std::ops::Range<usize>],
    leave_off: bool,
) -> bool {
    let total = bytes.len() as u64;
    let (opening, fill) = fill::<&'static str>(key(*digest));
    let mut reader = fill.reader(None);
    let partial = match store.begin(opening, Some(total)).await {
        Ok(partial) => partial,
        Err(failed) => {
            failed.unwrap().0.fail("not begun");
            assert!(drain(&mut reader).await.is_err());
            return false;
        }
    };
    let taken_up = partial.coverage();
    let written = async {
        partial.start(Some(total)).await?;
        for part in parts {
            let missing = taken_up.gaps(part.start as u64..part.end as u64);
            for gap in missing.collect::<Vec<_>>() {
                let (from, to) = (gap.start as usize, gap.end as usize);
                partial
                    .write(gap.start, vec![bytes.slice(from..to)])
                    .await?;
            }
        }
        Ok::<_, StoreError>(())
    };
    if written.await.is_err() {
        partial.fail("not written");
        assert!(drain(&mut reader).await.is_err());
        return false;
    }
    if leave_off {
        partial.suspend("left off").await;
        return false;
    }
    let verified = match partial.verify().await {
        Ok(verified) => verified,
        Err((wrong, VerifyError::Digest { got })) => {
            panic!("a part that was taken up was wrong: {got}, {wrong:?}")
        }
        Err((unread, _)) => {
            unread.fail("not read back");
            assert!(drain(&mut reader).await.is_err());
            return false;
        }
    };
    let committed = verified.commit().await.is_ok();
    match drain(&mut reader).await {
        Ok(got) => assert!(got == *bytes, "a reader got other bytes"),
        Err(ended) => assert!(matches!(ended, Ended::Unreadable(_)), "{ended:?}"),
    }
    committed
}

async fn try_whole(store: &Store, blob: &(Digest, Bytes)) -> bool {
    let whole = 0..blob.1.len();
    try_fill(store, blob, std::slice::from_ref(&whole), false).await
}

/// The scripted work: all that a store does. What it says it did is noted.
async fn work(dir: &Path, disk: Option<&Arc<FaultyDisk>>, promised: &mut Promised) {
    let [small, scattered, paused, long_paused, last, _] = &*BLOBS;
    for (digest, bytes) in [small, scattered, paused, long_paused, last] {
        promised.contents.insert(*digest, bytes.clone());
    }
    let note = |promised: &mut Promised, digest: Digest, done: bool| {
        // Without power nobody hears a promise.
        if done && disk.is_none_or(|disk| disk.has_power()) {
            promised.committed.push(digest);
        }
    };
    if let Ok(store) = try_open(dir, disk) {
        let put = store.put(&small.0, "text/plain", small.1.clone()).await;
        note(promised, small.0, put.is_ok());
        let parts = [100_000..200_000, 0..60_000, 60_000..100_000];
        let done = try_fill(&store, scattered, &parts, false).await;
        note(promised, scattered.0, done);
        Upkeep(store.clone()).keep_up(false);
        try_fill(&store, paused, &[0..80_000, 120_000..130_000], true).await;
        try_fill(&store, long_paused, &[0..200_000, 200_000..350_000], true).await;
        let done = try_whole(&store, paused).await;
        note(promised, paused.0, done);
        read(&store, promised).await;
        Upkeep(store.clone()).keep_up(true);
    }
    if let Ok(store) = try_open(dir, disk) {
        read(&store, promised).await;
        let done = try_whole(&store, long_paused).await;
        note(promised, long_paused.0, done);
        let done = try_whole(&store, last).await;
        note(promised, last.0, done);
        Upkeep(store.clone()).keep_up(false);
        read(&store, promised).await;
        Upkeep(store.clone()).keep_up(true);
    }
}

/// Checks that what can be read is right. Where everything works, what is named by a committed blob can be.
async fn read(store: &Store, promised: &Promised) {
    for (digest, bytes) in &promised.contents {
        let Some(blob) = store.blob(digest).await else {
            continue;
        };
        let mut reader = blob.reader(None);
        let mut got = Vec::new();
        let ended = loop {
            match reader.next().await {
                Ok(Some(part)) => got.extend_from_slice(&part),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert!(
            bytes.starts_with(&got) && (!ended || got == *bytes),
            "{digest} was read wrong"
        );
    }
}

/// Every file under a digest's name is whole, and all files together are what the ledger says.
fn check_files(dir: &Path, store: &Store) {
    let mut bytes = 0;
    for shard in std::fs::read_dir(dir.join("blobs/sha256")).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let file = file.unwrap();
            let content = std::fs::read(file.path()).unwrap();
            let name = file.file_name().into_string().unwrap();
            assert_eq!(Digest::of(Algorithm::Sha256, &content).hex(), name);
            bytes += content.len();
        }
    }
    let take = |other: &str| -> usize {
        let files = std::fs::read_dir(dir.join(other)).unwrap();
        let files = files
            .map(Result::unwrap)
            .filter(|file| file.path().extension().is_none_or(|e| e != "cov"));
        files
            .map(|file| usize::try_from(file.metadata().unwrap().len()).unwrap())
            .sum()
    };
    bytes += take("damaged");
    // What lies in their gaps takes nothing.
    let left_off = usize::try_from(store.capacity().all_suspended_bytes()).unwrap();
    let lengths = take("fills/sha256");
    assert!(left_off <= lengths && (left_off == 0) == (lengths == 0));
    bytes += left_off;
    assert_eq!(
        store.contents().ledger().bytes(),
        bytes as u64,
        "the files take {bytes}"
    );
    assert_eq!(store.contents().layout().stray_bytes(), 0);
    assert!(bytes as u64 <= MAX);
}

/// With the faults over, the store comes back by itself, and works.
async fn comes_back(dir: &Path, disk: &Arc<FaultyDisk>, promised: &Promised) {
    let store = try_open(dir, Some(disk));
    disk.heal();
    let store = store.unwrap_or_else(|_| try_open(dir, Some(disk)).unwrap());
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(31)).await;
        Upkeep(store.clone()).keep_up(false);
    }
    assert_eq!(store.trouble(), None);
    let fresh = &BLOBS[5];
    assert!(try_whole(&store, fresh).await);
    assert_eq!(stored(&store, &fresh.0).await.unwrap(), fresh.1);
    read(&store, promised).await;
    let link = (Digest::Sha256([7; 32]), Link::default());
    let source = crate::oci::directory::Source {
        upstream: UpstreamName::parse("docker.io").unwrap(),
        repository: crate::oci::Repository::parse("a/b").unwrap(),
    };
    store.metadata().record_links(&source, vec![link]).await;
    Upkeep(store.clone()).keep_up(true);
    drop(store);
    let store = try_open(dir, None).unwrap();
    assert!(
        store.metadata().link(&source, &link.0).await.is_some(),
        "the index is written"
    );
    check_files(dir, &store);
}

#[tokio::test(start_paused = true)]
async fn the_work_is_done_on_a_disk_that_works() {
    // On a real file system, whatever the others are on.
    let dir = tempfile::tempdir().unwrap();
    let mut promised = Promised::default();
    work(dir.path(), None, &mut promised).await;
    assert_eq!(promised.committed.len(), 5);
    let store = try_open(dir.path(), None).unwrap();
    check_files(dir.path(), &store);
    let kept = promised.committed.iter();
    let kept = kept
        .filter(|digest| store.contains(digest).is_some())
        .count();
    assert!((2..5).contains(&kept), "some went for others: {kept}");
}

/// In most runs some of the operations, others each time; all of them if `STORE_FAULTS=all`.
fn chosen(count: usize) -> impl Iterator<Item = usize> {
    let all = std::env::var("STORE_FAULTS").is_ok_and(|value| value == "all");
    let (first, step) = if all {
        (1, 1)
    } else {
        (1 + std::process::id() as usize % SOME, SOME)
    };
    println!("operations {first}, {} … of {count}", first + step);
    (first..=count).step_by(step)
}

/// One of so many operations fails in a run of all tests: every one of them takes minutes.
const SOME: usize = 6;

/// Number of operations that the work takes.
async fn operations() -> usize {
    let dir = new_dir();
    let disk = FaultyDisk::new(Plan::Count, dir.path());
    work(dir.path(), Some(&disk), &mut Promised::default()).await;
    println!("{} operations: {:?}", disk.count(), disk.kinds());
    disk.count()
}

async fn every_operation_fails(plan: impl Fn(usize) -> Plan) {
    let count = operations().await;
    for n in chosen(count) {
        let dir = new_dir();
        let disk = FaultyDisk::new(plan(n), dir.path());
        let mut promised = Promised::default();
        work(dir.path(), Some(&disk), &mut promised).await;
        comes_back(dir.path(), &disk, &promised).await;
    }
    println!("{count} runs, each with another operation failing");
}

#[tokio::test(start_paused = true)]
async fn any_one_operation_may_fail_for_lack_of_space() {
    every_operation_fails(|n| Plan::Nth(n, Errno::NOSPC)).await;
}

#[tokio::test(start_paused = true)]
async fn any_one_operation_may_fail_on_a_bad_disk() {
    every_operation_fails(|n| Plan::Nth(n, Errno::IO)).await;
}

#[tokio::test(start_paused = true)]
async fn the_disk_may_fail_altogether_at_any_operation() {
    let errors = [Errno::NOSPC, Errno::ROFS, Errno::IO];
    every_operation_fails(|n| Plan::From(n, errors[n % errors.len()])).await;
}

#[tokio::test(start_paused = true)]
async fn power_may_be_lost_at_any_operation() {
    let count = operations().await;
    let mut found = BTreeMap::<String, usize>::new();
    for n in chosen(count) {
        let dir = new_dir();
        let disk = FaultyDisk::new(Plan::PowerLoss(n), dir.path());
        let mut promised = Promised::default();
        work(dir.path(), Some(&disk), &mut promised).await;
        for (left, after) in disk.left() {
            check_after_power_loss(n, left, dir.path(), after.path(), &promised, &mut found).await;
        }
    }
    println!("{count} times without power: {found:?}");
}

async fn check_after_power_loss(
    n: usize,
    left: Left,
    before: &Path,
    after: &Path,
    promised: &Promised,
    found: &mut BTreeMap<String, usize>,
) {
    let what = format!("operation {n}, {left:?}");
    let name = |digest: &Digest| {
        let hex = digest.hex();
        Path::new("blobs/sha256").join(&hex[..2]).join(&hex)
    };
    for digest in &promised.committed {
        if before.join(name(digest)).exists() {
            let there = after.join(name(digest)).exists();
            assert!(there, "{what}: a committed blob is lost");
            *found.entry(format!("{left:?} blobs")).or_default() += 1;
        }
    }
    let store = try_open(after, None).unwrap();
    // One that was never finished holds nothing.
    let lost = after.join("index.redb.unreadable").exists();
    assert!(
        !lost || promised.committed.is_empty(),
        "{what}: the index is lost"
    );
    check_files(after, &store);
    read(&store, promised).await;
    // What was left off is taken up, and right.
    for (digest, bytes) in &promised.contents {
        if store.contains(digest).is_none() {
            let blob = (*digest, bytes.clone());
            assert!(try_whole(&store, &blob).await, "{what}");
        }
    }
    assert_eq!(store.trouble(), None, "{what}");
    drop(store);
    let store = try_open(after, None).unwrap();
    check_files(after, &store);
}
