//! The bounds of the store: its size, what it leaves of the file system, and the room made ahead.

use std::sync::atomic::AtomicU64;

use super::*;

const MIB: usize = 1 << 20;

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
    let why = refused(&store, Some(500_001)).await;
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
    store.capacity().reserve(100_000).unwrap();
    store.contents().bounds.unwritten_changes(100_000, 0);
    store.contents().release(100_000);
    partial.fail("given up");
    said.free.store(10_500_000, Ordering::Relaxed);
    store.capacity().reserve(500_000).unwrap();
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
    let reserved = store.capacity().suspended().remove(&key(digest)).unwrap();
    store.contents().release(reserved);
    let (partial, _fill) = begin(&store, digest, None).await;
    assert_eq!(partial.prefix(), 300_000);
    partial.fail("given up");
    store.capacity().reserve(300_000).unwrap();
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
    store.capacity().reserve(200_000).unwrap();
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

/// A store that is full: so many blobs of 1 MiB, the one used longest ago first.
async fn full(blobs: u8) -> (TempDir, Store, Vec<Digest>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), u64::from(blobs) * MIB as u64);
    let mut stored = Vec::new();
    for seed in 0..blobs {
        stored.push(put(&store, seed, MIB).await);
    }
    (dir, store, stored)
}

fn how_many(store: &Store, blobs: &[Digest]) -> usize {
    let there = |digest: &&Digest| store.contains(digest).is_some();
    blobs.iter().filter(there).count()
}

/// Each of these took as much as it said at once, before a byte of it was there.
#[tokio::test]
async fn a_size_that_is_only_said_costs_nobody_a_blob() {
    let (_dir, store, blobs) = full(16).await;
    let (digest, bytes) = content(8 * MIB);
    let said = Some(8 * MIB as u64);
    let (silent, _one) = begin(&store, content(1).0, said).await;
    silent.start(said).await.unwrap();
    let (other, _two) = begin(&store, content(2).0, None).await;
    other.start(said).await.unwrap();
    let (fill, _three) = begin(&store, digest, said).await;
    fill.start(said).await.unwrap();
    assert_eq!(how_many(&store, &blobs), 16);
    // At the end of the blob, as for one who reads there.
    let end = bytes.slice(8 * MIB - 1000..);
    fill.write(8 * MIB as u64 - 1000, vec![end]).await.unwrap();
    assert_eq!(how_many(&store, &blobs), 15, "for what came of it");
    fill.write(0, vec![bytes.slice(..MIB)]).await.unwrap();
    assert!(how_many(&store, &blobs) >= 12, "and as much ahead");
    fill.write(MIB as u64, vec![bytes.slice(MIB..)])
        .await
        .unwrap();
    assert_eq!(how_many(&store, &blobs), 8);
    assert_eq!(store.contents().ledger().bytes(), 16 * MIB as u64);
    commit(fill).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn two_that_do_not_fit_together_do_not_outgrow_the_store() {
    let (_dir, store, _) = full(16).await;
    let mut fills = Vec::new();
    for seed in [1, 2] {
        let (partial, _fill) = begin(&store, content(seed).0, Some(7 * MIB as u64)).await;
        partial.start(Some(7 * MIB as u64)).await.unwrap();
        fills.push((partial, true));
    }
    let (_, bytes) = content(MIB);
    for step in 0..7 {
        for (partial, goes_on) in &mut fills {
            let chunk = vec![bytes.clone()];
            *goes_on = *goes_on && partial.write(step * MIB as u64, chunk).await.is_ok();
            assert!(store.contents().ledger().bytes() <= 16 * MIB as u64);
        }
        // As the mirror does: its readers go on without it.
        fills.retain(|(_, goes_on)| *goes_on);
    }
    assert_eq!(fills.len(), 1, "the other one has all the room then");
    assert_eq!(fills[0].0.coverage().bytes(), 7 * MIB as u64);
}

/// Its bytes may be anything: it would have pushed out all others before that is known.
#[tokio::test]
async fn a_blob_larger_than_half_of_the_store_is_stored_where_there_is_room() {
    let (_dir, store, blobs) = full(16).await;
    let why = refused(&store, Some(9 * MIB as u64)).await;
    assert!(why.contains("not verified"), "{why}");
    assert_eq!(how_many(&store, &blobs), 16);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 16 * MIB as u64);
    let (digest, bytes) = content(14 * MIB);
    let (partial, _fill) = begin(&store, digest, Some(14 * MIB as u64)).await;
    partial.start(Some(14 * MIB as u64)).await.unwrap();
    partial.write(0, vec![bytes]).await.unwrap();
    commit(partial).await;
    assert!(store.contains(&digest).is_some());
    let unverified = store.contents().bounds.unverified_bytes();
    assert_eq!(unverified, 0, "it is verified now");
}

/// An endless blob, and the same again and again, pushed out all others.
#[tokio::test]
async fn blobs_of_which_nobody_says_how_large_they_are_push_out_a_quarter_at_most() {
    let (_dir, store, blobs) = full(16).await;
    let (_, bytes) = content(MIB);
    for turn in 0..4 {
        let mut fills = Vec::new();
        for seed in 0..3 {
            let (partial, _fill) = begin(&store, content(10 * turn + seed + 1).0, None).await;
            partial.start(None).await.unwrap();
            fills.push(partial);
        }
        for step in 0..16 {
            for partial in &fills {
                let written = partial.write(step * MIB as u64, vec![bytes.clone()]).await;
                if let Err(error) = written {
                    assert!(error.is_room(), "{error}");
                }
            }
            store.capacity().trim();
        }
        // Two more went to the low mark, for the store was full.
        let left = how_many(&store, &blobs);
        assert!(left >= 10, "{left} in turn {turn}");
    }
    let reserved = store.contents().figures().reserved;
    assert_eq!(reserved, 0, "what they had is given back");
    // One that is finished within that is kept.
    let (digest, bytes) = content(3 * MIB);
    let (partial, _fill) = begin(&store, digest, None).await;
    partial.start(None).await.unwrap();
    partial.write(0, vec![bytes]).await.unwrap();
    commit(partial).await;
    assert!(store.contains(&digest).is_some());
}

/// Downloads that break off again and again are no reason to evict what is whole.
#[tokio::test]
async fn what_was_left_off_goes_before_blobs_if_there_is_much_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 16 * MIB as u64);
    for seed in 0..5_usize {
        let (_, bytes) = content(MIB);
        let (partial, _fill) = begin(&store, content(seed + 1).0, Some(8 * MIB as u64)).await;
        partial.start(Some(8 * MIB as u64)).await.unwrap();
        partial.write(0, vec![bytes]).await.unwrap();
        partial.suspend("later").await;
    }
    let mut blobs = Vec::new();
    for seed in 0..16 {
        blobs.push(put(&store, seed, MIB).await);
    }
    assert_eq!(how_many(&store, &blobs), 16);
}

#[tokio::test]
async fn room_is_made_ahead_down_to_the_low_mark() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1_000_000);
    let mut blobs = Vec::new();
    for seed in 0..9 {
        blobs.push(put(&store, seed, 105_000).await);
    }
    store.capacity().trim();
    assert_eq!(
        store.contents().ledger().bytes(),
        945_000,
        "below the high mark"
    );
    blobs.push(put(&store, 9, 6_000).await);
    store.capacity().trim();
    assert_eq!(store.contents().ledger().bytes(), 846_000, "one is enough");
    assert_eq!(store.contains(&blobs[0]), None);
    assert!(
        store.contents().layout().blobs().open(&blobs[0]).is_err(),
        "its file too"
    );
    // What is open stays, whatever the marks say.
    let mut open = Vec::new();
    for digest in &blobs[1..] {
        open.push(store.blob(digest).await.unwrap());
    }
    store.capacity().reserve(150_000).unwrap();
    store.capacity().trim();
    assert_eq!(store.contents().ledger().bytes(), 996_000);
}

#[tokio::test]
async fn room_is_made_for_others_on_the_file_system_too() {
    let (_dir, store, said) = on_a_disk_with(20_000_000);
    let (old, new) = (put(&store, 1, 300_000).await, put(&store, 2, 300_000).await);
    said.free.store(9_900_000, Ordering::Relaxed);
    store.capacity().trim();
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
    assert_eq!(
        store.contents().ledger().max(),
        20_000_000 - capacity::INDEX_STEP_BYTES
    );
}

#[tokio::test]
async fn the_index_is_part_of_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 60_000_000);
    let before = store.contents().ledger().max();
    let kept = put(&store, 1, 59_900_000).await;
    // Some megabytes of media types, each under a digest of its own.
    for seed in 0..30_000_u32 {
        let digest = Digest::of(Algorithm::Sha256, &seed.to_be_bytes());
        store
            .inner
            .metadata
            .note_media_type(&digest, &format!("a/{}", "x".repeat(120)));
    }
    store.contents().records.flush();
    store.capacity().account_for_index();
    let room = before - store.contents().ledger().max();
    let file = store.contents().layout().index().bytes().unwrap();
    assert!(
        room + capacity::INDEX_STEP_BYTES > file,
        "{room} for {file}"
    );
    assert_eq!(store.contains(&kept), None, "it made room for the index");
    let figures = store.contents().figures();
    assert_eq!(
        (figures.used, figures.reserved),
        (file, 0),
        "it counts once"
    );
}
