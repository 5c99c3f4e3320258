//! The bounds of the store: its size, what it leaves of the file system, and the room made ahead.

use std::sync::atomic::AtomicU64;

use super::*;

/// A file system that has what a test says.
#[derive(Debug)]
struct Said {
    total: u64,
    free: AtomicU64,
}

impl Measure for Said {
    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space {
            total: self.total,
            free: self.free.load(Ordering::Relaxed),
        })
    }
}

/// A store of 10 MB on a file system of 100 MB, of which `free` bytes are free and 10 % shall stay so.
fn on_a_disk_with(free: u64) -> (TempDir, Store, Arc<Said>) {
    let dir = tempfile::tempdir().unwrap();
    let said = Arc::new(Said {
        total: 100_000_000,
        free: AtomicU64::new(free),
    });
    let config = Config {
        min_free: Amount::Percent(10),
        meter: Meter::of(Arc::clone(&said) as Arc<dyn Measure>),
        ..config(dir.path(), 10_000_000)
    };
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let store = Store::open(&config, clock, Metrics::new(std::iter::empty())).unwrap();
    (dir, store, said)
}

async fn refused(store: &Store, expected: Option<u64>) -> String {
    let (opening, _fill) = fill::<&'static str>(key(content(1).0));
    let refused = store.begin(opening, expected).await;
    refused.err().unwrap().unwrap().1.to_string()
}

#[tokio::test]
async fn what_shall_stay_free_stays_free() {
    let (_dir, store, said) = on_a_disk_with(10_500_000);
    let (digest, _) = content(70_000);
    let (partial, _fill) = begin(&store, digest, Some(400_000)).await;
    let why = refused(&store, Some(100_001)).await;
    assert!(
        why.contains("cache.min_free") && why.contains("10500000 bytes are free"),
        "{why}"
    );
    let (_, bytes) = content(300_000);
    partial.start(Some(400_000)).await.unwrap();
    partial.write(0, vec![bytes]).await.unwrap();
    said.free.store(10_200_000, Ordering::Relaxed);
    assert!(
        refused(&store, Some(100_001)).await.contains("min_free"),
        "what is promised and not written counts"
    );
    store.reserve(100_000).unwrap();
    store.inner.bounds.unwritten_changes(100_000, 0);
    store.release(100_000);
    partial.fail("given up");
    said.free.store(10_500_000, Ordering::Relaxed);
    store.reserve(500_000).unwrap();
}

#[tokio::test]
async fn what_was_left_off_is_not_promised_a_second_time() {
    let (_dir, store, said) = on_a_disk_with(10_500_000);
    let (digest, bytes) = content(300_000);
    let (partial, _fill) = begin(&store, digest, None).await;
    partial.start(Some(400_000)).await.unwrap();
    partial.write(0, vec![bytes]).await.unwrap();
    partial.suspend("later").await;
    said.free.store(10_400_000, Ordering::Relaxed);
    // As if it had been left by somebody who had no room for it.
    let reserved = store.left_off().remove(&key(digest)).unwrap();
    store.release(reserved);
    let (partial, _fill) = begin(&store, digest, None).await;
    assert_eq!(partial.prefix(), 300_000);
    partial.fail("given up");
    store.reserve(300_000).unwrap();
}

#[tokio::test]
async fn eviction_comes_before_refusal_and_only_where_it_helps() {
    let (_dir, store, said) = on_a_disk_with(20_000_000);
    let (old, new) = (put(&store, 1, 300_000).await, put(&store, 2, 300_000).await);
    said.free.store(10_000_000, Ordering::Relaxed);
    let why = refused(&store, Some(700_000)).await;
    assert!(why.contains("min_free"), "{why}");
    assert!(
        store.contains(&old).is_some(),
        "its end would not have helped"
    );
    store.reserve(200_000).unwrap();
    assert_eq!(store.contains(&old), None, "the least recently used went");
    assert!(store.contains(&new).is_some());
}

#[tokio::test]
async fn what_is_larger_than_the_store_costs_nobody_a_blob() {
    let (_dir, store, _) = on_a_disk_with(10_500_000);
    let kept = put(&store, 1, 300_000).await;
    let why = refused(&store, Some(10_000_001)).await;
    assert!(why.contains("cache.m"), "{why}");
    assert!(store.contains(&kept).is_some());
}

#[tokio::test]
async fn room_is_made_ahead_down_to_the_low_mark() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1_000_000);
    let mut blobs = Vec::new();
    for seed in 0..9 {
        blobs.push(put(&store, seed, 105_000).await);
    }
    store.trim();
    assert_eq!(store.ledger().bytes(), 945_000, "below the high mark");
    blobs.push(put(&store, 9, 6_000).await);
    store.trim();
    assert_eq!(store.ledger().bytes(), 846_000, "one is enough");
    assert_eq!(store.contains(&blobs[0]), None);
    assert!(store.layout().open_blob(&blobs[0]).is_err(), "its file too");
    // What is open stays, whatever the marks say.
    let mut open = Vec::new();
    for digest in &blobs[1..] {
        open.push(store.blob(digest).await.unwrap());
    }
    store.reserve(150_000).unwrap();
    store.trim();
    assert_eq!(store.ledger().bytes(), 996_000);
}

#[tokio::test]
async fn room_is_made_for_others_on_the_file_system_too() {
    let (_dir, store, said) = on_a_disk_with(20_000_000);
    let (old, new) = (put(&store, 1, 300_000).await, put(&store, 2, 300_000).await);
    said.free.store(9_900_000, Ordering::Relaxed);
    store.trim();
    assert_eq!(store.contains(&old), None);
    assert!(store.contains(&new).is_some());
}

#[tokio::test]
async fn a_part_of_the_file_system_is_a_size() {
    let dir = tempfile::tempdir().unwrap();
    let said = Said {
        total: 100_000_000,
        free: AtomicU64::new(1),
    };
    let config = Config {
        max_size: Amount::Percent(20),
        meter: Meter::of(Arc::new(said)),
        ..config(dir.path(), 0)
    };
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let store = Store::open(&config, clock, Metrics::new(std::iter::empty())).unwrap();
    assert_eq!(store.ledger().max(), 20_000_000 - space::INDEX_STEP_BYTES);
}

#[tokio::test]
async fn the_index_is_part_of_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 10_000_000);
    let before = store.ledger().max();
    let kept = put(&store, 1, 9_900_000).await;
    // Some megabytes of media types, each under a digest of its own.
    for seed in 0..20_000_u32 {
        let digest = Digest::of(Algorithm::Sha256, &seed.to_be_bytes());
        store.inner.known.note_media_type(&digest, &"x".repeat(200));
    }
    store.inner.known.flush();
    store.account_for_index();
    let room = before - store.ledger().max();
    let file = store.layout().index_bytes().unwrap();
    assert!(room + space::INDEX_STEP_BYTES > file, "{room} for {file}");
    assert_eq!(store.contains(&kept), None, "it made room for the index");
    let figures = store.figures();
    assert_eq!(
        (figures.used, figures.reserved),
        (file, 0),
        "it counts once"
    );
}
