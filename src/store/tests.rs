//! Fills and the store together, on a real directory.

mod bounds;
mod crash;
mod damaged;
mod disk;
mod doubt;
mod lost;
pub(super) mod parallel;
mod parts;
mod room;
mod start;
mod upstreams;
mod windows;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::oci::{Algorithm, UpstreamName};

const HELD: usize = 64 * 1024;

/// `max_size` is for blobs and partial files alone.
fn config(dir: &Path, max_size: u64) -> Config {
    let max_size = Amount::Bytes(max_size + capacity::INDEX_STEP_BYTES);
    Config::of(dir.to_path_buf(), max_size)
}

fn open(dir: &Path, max_size: u64) -> Store {
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    Store::open(
        &config(dir, max_size),
        clock,
        Metrics::new(std::iter::empty()),
    )
    .unwrap()
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 10_000_000);
    (dir, store)
}

fn content(bytes: usize) -> (Digest, Bytes) {
    let content: Vec<u8> = (0..251).cycle().step_by(31).take(bytes).collect();
    (Digest::of(Algorithm::Sha256, &content), content.into())
}

/// A blob of its own for each `seed`.
async fn put(store: &Store, seed: u8, bytes: usize) -> Digest {
    let content = Bytes::from(vec![seed; bytes]);
    let digest = Digest::of(Algorithm::Sha256, &content);
    store.put(&digest, "text/plain", content).await.unwrap();
    digest
}

/// Path of a stored blob.
fn path_of(dir: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    dir.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// The fill of a blob from the one upstream of most tests.
fn key(digest: Digest) -> FillKey {
    key_of("docker.io", digest)
}

fn key_of(upstream: &str, digest: Digest) -> FillKey {
    FillKey::new(&UpstreamName::parse(upstream).unwrap(), digest)
}

/// Path of its partial file.
fn part_path(dir: &Path, digest: Digest) -> PathBuf {
    let stem = key(digest).stem();
    dir.join("fills/sha256").join(stem + ".part")
}

async fn begin(
    store: &Store,
    digest: Digest,
    expected: Option<u64>,
) -> (Partial<&'static str>, Fill<&'static str>) {
    let (opening, fill) = fill(key(digest));
    (store.begin(opening, expected).await.ok().unwrap(), fill)
}

async fn commit(partial: Partial<&'static str>) {
    let verified = partial.verify().await.map_err(|(_, error)| error).unwrap();
    verified.commit().await.unwrap();
}

async fn drain(reader: &mut Reader<&'static str>) -> Result<Vec<u8>, Ended<&'static str>> {
    let mut all = Vec::new();
    while let Some(bytes) = soon(reader.next()).await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// A wait that comes to an end, also when the test fails.
async fn soon<F: Future>(waiting: F) -> F::Output {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, waiting).await.unwrap()
}

/// Reads until the reader would wait.
async fn read_what_is_there(reader: &mut Reader<&'static str>) -> Vec<u8> {
    let mut all = Vec::new();
    let patience = Duration::from_millis(200);
    while let Ok(Ok(Some(bytes))) = tokio::time::timeout(patience, reader.next()).await {
        all.extend_from_slice(&bytes);
    }
    all
}

async fn stored(store: &Store, digest: &Digest) -> Option<Bytes> {
    store.blob(digest).await?.read_all(usize::MAX).await
}

fn part_files(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir.join("fills/sha256")).unwrap();
    files
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn readers_follow_the_growing_file_and_get_the_tail_after_the_check() {
    let (_dir, store) = store();
    let (digest, bytes) = content(4 * HELD);
    let (partial, fill) = begin(&store, digest, Some(bytes.len() as u64)).await;
    partial.start(Some(bytes.len() as u64)).await.unwrap();
    let (mut early, mut ranged) = (fill.reader(None), fill.reader(Some(10..20)));
    partial
        .write(0, vec![bytes.slice(..2 * HELD)])
        .await
        .unwrap();
    assert_eq!(read_what_is_there(&mut early).await, &bytes[..2 * HELD]);
    assert_eq!(
        drain(&mut ranged).await.unwrap(),
        &bytes[10..20],
        "a range in the middle ends"
    );
    partial
        .write(2 * HELD as u64, vec![bytes.slice(2 * HELD..)])
        .await
        .unwrap();
    let more = read_what_is_there(&mut early).await;
    assert_eq!(more, &bytes[2 * HELD..3 * HELD], "the tail is held back");
    let mut late = fill.reader(Some(3 * HELD as u64..4 * HELD as u64));
    assert_eq!(
        read_what_is_there(&mut late).await,
        b"",
        "from a resumed download too"
    );
    let verified = partial.verify().await.map_err(|(_, error)| error).unwrap();
    assert_eq!(drain(&mut early).await.unwrap(), &bytes[3 * HELD..]);
    assert_eq!(drain(&mut late).await.unwrap(), &bytes[3 * HELD..]);
    assert_eq!(store.contains(&digest), None, "verified is not yet stored");
    verified.commit().await.unwrap();
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
    assert_eq!(
        drain(&mut fill.reader(None)).await.unwrap(),
        bytes,
        "a fill can be read after its end"
    );
}

#[tokio::test]
async fn ranges_may_arrive_in_any_order() {
    let (_dir, store) = store();
    let (digest, bytes) = content(300_000);
    let (partial, fill) = begin(&store, digest, None).await;
    partial.start(Some(300_000)).await.unwrap();
    let mut ahead = fill.reader(Some(200_000..200_100));
    for range in [200_000..300_000, 100_000..200_000, 0..100_000] {
        partial
            .write(range.start as u64, vec![bytes.slice(range)])
            .await
            .unwrap();
    }
    assert_eq!(drain(&mut ahead).await.unwrap(), &bytes[200_000..200_100]);
    commit(partial).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn readers_at_any_distance_behind_read_the_same() {
    let (_dir, store) = store();
    let (digest, bytes) = content(6_000_000);
    let (partial, fill) = begin(&store, digest, None).await;
    partial.start(Some(6_000_000)).await.unwrap();
    let mut readers = Vec::new();
    for start in (0..6_000_000).step_by(500_000) {
        // More than is kept in memory, in chunks that readers never ask for.
        let chunks = (start..start + 500_000).step_by(12_500);
        let chunks = chunks.map(|at| bytes.slice(at..at + 12_500)).collect();
        partial.write(start as u64, chunks).await.unwrap();
        let mut reader = fill.reader(None);
        let first = reader.next().await.unwrap().unwrap();
        readers.push((reader, first.to_vec()));
        let middle = start as u64 + 7..start as u64 + 30_000;
        let expected = &bytes[start + 7..start + 30_000];
        assert_eq!(
            drain(&mut fill.reader(Some(middle))).await.unwrap(),
            expected
        );
    }
    commit(partial).await;
    for (mut reader, mut all) in readers {
        all.extend(drain(&mut reader).await.unwrap());
        assert_eq!(all, bytes);
    }
}

#[tokio::test]
async fn wrong_bytes_break_every_reader_and_leave_nothing() {
    let (dir, store) = store();
    let (digest, bytes) = content(3 * HELD);
    let (partial, fill) = begin(&store, digest, None).await;
    partial.start(Some(bytes.len() as u64)).await.unwrap();
    let mut reader = fill.reader(None);
    let mut wrong = bytes.to_vec();
    wrong[5] ^= 1;
    partial.write(0, vec![wrong.into()]).await.unwrap();
    let (partial, error) = partial.verify().await.unwrap_err();
    assert!(matches!(error, VerifyError::Digest { .. }), "{error}");
    partial.fail("digest");
    assert_eq!(drain(&mut reader).await, Err(Ended::Failed("digest")));
    assert!(fill.has_failed());
    assert_eq!(store.contains(&digest), None);
    assert_eq!(part_files(dir.path()), [""; 0]);
    assert_eq!(
        store.contents().ledger().bytes(),
        0,
        "the reservation is given back"
    );
}

#[tokio::test]
async fn too_few_bytes_are_a_wrong_size() {
    let (_dir, store) = store();
    let (digest, bytes) = content(1000);
    let (partial, fill) = begin(&store, digest, Some(1000)).await;
    partial.start(Some(1000)).await.unwrap();
    partial.write(0, vec![bytes.slice(..999)]).await.unwrap();
    let (partial, error) = partial.verify().await.unwrap_err();
    let right = matches!(
        error,
        VerifyError::Size {
            expected: 1000,
            got: 999
        }
    );
    assert!(right, "{error}");
    partial.fail("size");
    assert_eq!(fill.started().await, Err(Ended::Failed("size")));
}

#[tokio::test]
async fn a_writer_that_vanishes_is_a_failure() {
    let (dir, store) = store();
    let (digest, bytes) = content(HELD * 2);
    let (partial, fill) = begin(&store, digest, None).await;
    partial.start(Some(bytes.len() as u64)).await.unwrap();
    partial.write(0, vec![bytes]).await.unwrap();
    let mut reader = fill.reader(None);
    drop(partial);
    assert_eq!(drain(&mut reader).await, Err(Ended::Vanished));
    assert!(fill.has_failed());
    assert_eq!(part_files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let (_dir, store) = store();
    let (digest, _) = content(0);
    let (partial, fill) = begin(&store, digest, Some(0)).await;
    partial.start(Some(0)).await.unwrap();
    commit(partial).await;
    assert_eq!(drain(&mut fill.reader(None)).await.unwrap(), b"");
    assert_eq!(store.contains(&digest), Some(0));
    assert_eq!(stored(&store, &digest).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn a_size_nobody_announced_is_learned_at_the_end() {
    let (_dir, store) = store();
    let (digest, bytes) = content(HELD + 500);
    let (partial, fill) = begin(&store, digest, None).await;
    partial.start(None).await.unwrap();
    let mut reader = fill.reader(None);
    partial.write(0, vec![bytes.clone()]).await.unwrap();
    assert_eq!(
        read_what_is_there(&mut reader).await,
        &bytes[..500],
        "64 KiB are held back all the same"
    );
    commit(partial).await;
    assert_eq!(drain(&mut reader).await.unwrap(), &bytes[500..]);
    assert_eq!(store.contents().ledger().bytes(), bytes.len() as u64);
}

#[tokio::test]
async fn a_fill_left_off_is_taken_up_after_a_restart_and_hashed_again() {
    let (dir, store) = store();
    let (digest, bytes) = content(200_000);
    let (partial, fill) = begin(&store, digest, Some(200_000)).await;
    partial.start(Some(200_000)).await.unwrap();
    partial
        .write(0, vec![bytes.slice(..150_000)])
        .await
        .unwrap();
    partial.suspend("stopping").await;
    assert_eq!(fill.started().await, Err(Ended::Failed("stopping")));
    drop((fill, store));
    let store = open(dir.path(), 10_000_000);
    let (partial, _fill) = begin(&store, digest, Some(200_000)).await;
    assert_eq!(partial.prefix(), 150_000);
    partial.start(Some(200_000)).await.unwrap();
    partial
        .write(150_000, vec![bytes.slice(150_000..)])
        .await
        .unwrap();
    commit(partial).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn eviction_takes_the_oldest_and_never_an_open_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 2500);
    let mut digests = Vec::new();
    for size in [1000, 1001] {
        let (digest, bytes) = content(size);
        store.put(&digest, "text/plain", bytes).await.unwrap();
        digests.push(digest);
    }
    let held = store.blob(&digests[0]).await.unwrap();
    let (third, bytes) = content(1002);
    store
        .put(&third, "text/plain", bytes.clone())
        .await
        .unwrap();
    assert_eq!(store.contains(&digests[1]), None, "the second was not open");
    let (fourth, more) = content(1003);
    let second_reader = store.blob(&third).await.unwrap();
    assert!(matches!(
        store.put(&fourth, "text/plain", more.clone()).await,
        Err(StoreError::NoRoom(_))
    ));
    assert_eq!(held.read_all(usize::MAX).await.unwrap(), content(1000).1);
    drop(second_reader);
    store
        .put(&fourth, "text/plain", more.clone())
        .await
        .unwrap();
    assert_eq!(stored(&store, &fourth).await.unwrap(), more);
    assert!(store.contents().ledger().bytes() <= 2500);
}

#[tokio::test]
async fn a_restart_takes_what_is_on_disk_with_or_without_an_index() {
    let (dir, store) = store();
    let (digest, bytes) = content(5000);
    store
        .put(&digest, "text/plain", bytes.clone())
        .await
        .unwrap();
    store.contents().records.flush();
    drop(store);
    File::options()
        .write(true)
        .open(dir.path().join("index.redb"))
        .unwrap()
        .write_all_at(&[7; 4096], 0)
        .unwrap();
    let store = open(dir.path(), 10_000_000);
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
    assert_eq!(store.contents().ledger().bytes(), 5000);
    let config = config(dir.path(), 1);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp(0)));
    let second = Store::open(&config, clock, Metrics::new(std::iter::empty()));
    let refused = second.unwrap_err().to_string();
    assert!(
        refused.contains(&format!(
            "another roadstead (process {}) is using",
            std::process::id()
        )),
        "{refused}"
    );
    assert_eq!(
        stored(&store, &digest).await.unwrap(),
        bytes,
        "the second one touched nothing"
    );
}

#[tokio::test]
async fn a_blob_that_is_not_as_long_as_it_should_be_is_a_miss() {
    let (dir, store) = store();
    let (digest, bytes) = content(5000);
    store.put(&digest, "text/plain", bytes).await.unwrap();
    let path = path_of(dir.path(), &digest);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(10)
        .unwrap();
    assert!(store.blob(&digest).await.is_none());
    assert_eq!(store.contains(&digest), None);
    assert!(!path.exists(), "it is not found again at the next start");
}

/// Leaves off a fill of `bytes` after `kept` of them.
async fn leave_off(store: &Store, digest: Digest, bytes: &Bytes, kept: usize) {
    let total = bytes.len() as u64;
    let (partial, _fill) = begin(store, digest, Some(total)).await;
    partial.start(Some(total)).await.unwrap();
    partial.write(0, vec![bytes.slice(..kept)]).await.unwrap();
    partial.suspend("stopping").await;
}

#[tokio::test]
async fn what_a_partial_file_has_beyond_its_record_is_cut_off() {
    let (dir, store) = store();
    let (digest, bytes) = content(200_000);
    leave_off(&store, digest, &bytes, 150_000).await;
    drop(store);
    let part = part_path(dir.path(), digest);
    let file = File::options().write(true).open(&part).unwrap();
    file.write_all_at(&vec![7; 100_000], 150_000).unwrap();
    let store = open(dir.path(), 10_000_000);
    let (partial, _fill) = begin(&store, digest, None).await;
    assert!(
        store.contents().ledger().bytes() >= 150_000,
        "what is kept is reserved"
    );
    partial.start(Some(200_000)).await.unwrap();
    let rest = bytes.slice(150_000..);
    partial.write(150_000, vec![rest]).await.unwrap();
    commit(partial).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn partial_files_left_off_count_and_make_room() {
    let (dir, store) = store();
    let (digest, bytes) = content(200_000);
    leave_off(&store, digest, &bytes, 150_000).await;
    let (empty, nothing) = content(100_000);
    leave_off(&store, empty, &nothing, 0).await;
    drop(store);
    assert_eq!(
        part_files(dir.path()).len(),
        2,
        "nothing to go on from is nothing to keep"
    );
    let store = open(dir.path(), 400_000);
    assert_eq!(store.contents().ledger().bytes(), 150_000);
    let (partial, _fill) = begin(&store, digest, Some(200_000)).await;
    assert_eq!(
        store.contents().ledger().bytes(),
        150_000,
        "it is not counted twice"
    );
    partial.suspend("stopping").await;
    assert_eq!(
        store.contents().ledger().bytes(),
        150_000,
        "in the same run, too"
    );
    let (large, content) = content(300_000);
    store.put(&large, "text/plain", content).await.unwrap();
    assert_eq!(
        part_files(dir.path()),
        [""; 0],
        "a stored blob is worth more"
    );
    assert_eq!(store.contents().ledger().bytes(), 300_000);
    drop(store);
    let store = open(dir.path(), 400_000);
    leave_off(&store, digest, &bytes, 150_000).await;
    drop(store);
    let store = open(dir.path(), 100_000);
    assert!(store.contents().ledger().bytes() <= 100_000);
    assert_eq!(
        part_files(dir.path()),
        [""; 0],
        "a smaller store keeps none"
    );
}

#[expect(clippy::disallowed_methods, reason = "the test plays a faulty disk")]
#[tokio::test]
async fn a_blob_whose_file_is_a_link_is_a_miss() {
    let (dir, store) = store();
    let (digest, bytes) = content(5000);
    store
        .put(&digest, "text/plain", bytes.clone())
        .await
        .unwrap();
    let path = path_of(dir.path(), &digest);
    let elsewhere = dir.path().join("elsewhere");
    move_file(&path, &elsewhere);
    // Also one in a circle, which was an error for ever.
    for target in [&elsewhere, &path] {
        std::os::unix::fs::symlink(target, &path).unwrap();
        // Or the file that was open before would do.
        store.contents().open_files().pop(&digest);
        assert!(store.blob(&digest).await.is_none());
        assert_eq!(store.contains(&digest), None);
        assert!(path.symlink_metadata().is_err(), "it is in nobody's way");
        store
            .put(&digest, "text/plain", bytes.clone())
            .await
            .unwrap();
        assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
        std::fs::remove_file(&path).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the test plays a faulty disk")]
fn move_file(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}
