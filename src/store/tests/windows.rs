//! Readers that are given windows of files: of stored blobs, and of blobs on their way.

use super::*;
use crate::store::disk::windows::{FIRST_WINDOW_BYTES, WINDOW_BYTES, WINDOW_BYTES_MIN};
use std::io::{Read, Seek, SeekFrom};

/// Gives up what the kernel has of a file in memory; a file system that is memory keeps it.
fn cool(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[tokio::test]
async fn a_cold_blob_comes_in_windows_the_first_of_them_small() {
    let (dir, store) = store();
    let (digest, bytes) = content(9_500_000);
    store.put(&digest, "", bytes.clone()).await.unwrap();
    for range in [0..9_500_000, 100..9_400_001, 5000..5001] {
        cool(&path_of(dir.path(), &digest));
        let windows = Windows::default();
        let part = range.start as u64..range.end as u64;
        let reader = store.blob(&digest).await.unwrap().reader(Some(part));
        let mut reader = reader.in_windows(windows.clone());
        let mut given = Vec::new();
        while let Some(bytes) = soon(reader.next()).await.unwrap() {
            assert!(windows.hold(&bytes), "it is copied");
            given.push(bytes);
        }
        let lengths: Vec<u64> = given.iter().map(|bytes| bytes.len() as u64).collect();
        let first = lengths[0];
        let usual = [FIRST_WINDOW_BYTES, WINDOW_BYTES, range.len() as u64];
        assert!(usual.contains(&first), "{lengths:?}");
        let middle = lengths.get(1..lengths.len() - 1).unwrap_or_default();
        assert!(middle.iter().all(|it| *it == WINDOW_BYTES), "{lengths:?}");
        assert!(given.concat() == bytes[range]);
    }
}

#[tokio::test]
async fn what_is_in_memory_behind_what_is_not_is_not_brought() {
    let (dir, store) = store();
    let (digest, bytes) = content(9_500_000);
    store.put(&digest, "", bytes).await.unwrap();
    let path = path_of(dir.path(), &digest);
    let disk_file = store.blob(&digest).await.unwrap().looked_at().0.unwrap();
    let next = FIRST_WINDOW_BYTES..FIRST_WINDOW_BYTES + WINDOW_BYTES;
    // The kernel may drop at any time what the test has just read.
    for _ in 0..20 {
        cool(&path);
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(FIRST_WINDOW_BYTES)).unwrap();
        file.read_to_end(&mut Vec::new()).unwrap();
        let blob = store.blob(&digest).await.unwrap();
        let mut reader = blob.reader(None).in_windows(Windows::default());
        let first = soon(reader.next()).await.unwrap().unwrap();
        let brought = disk_file.bringing().available_permits();
        if disk_file.is_cached(&next) {
            let from_disk = first.len() as u64 == FIRST_WINDOW_BYTES;
            println!("{} bytes first, from the disk: {from_disk}", first.len());
            assert_eq!(brought, crate::store::disk::windows::BROUGHT_AT_ONCE_MAX);
            return;
        }
    }
}

#[tokio::test]
async fn many_cold_readers_wait_for_the_disk_by_turns() {
    let (dir, store) = store();
    let (digest, bytes) = content(9_500_000);
    store.put(&digest, "", bytes.clone()).await.unwrap();
    let mut readers = tokio::task::JoinSet::new();
    cool(&path_of(dir.path(), &digest));
    for number in 0..200_u64 {
        let start = number * 40_000;
        let blob = store.blob(&digest).await.unwrap();
        let reader = blob.reader(Some(start..9_500_000));
        let mut reader = reader.in_windows(Windows::default());
        readers.spawn(async move {
            let mut all = Vec::new();
            // Some go in the middle, with a window on its way.
            while let Some(bytes) = soon(reader.next()).await.unwrap()
                && (number % 3 > 0 || all.len() < 300_000)
            {
                all.extend_from_slice(&bytes);
            }
            (usize::try_from(start).unwrap(), all)
        });
    }
    while let Some(read) = readers.join_next().await {
        let (start, all) = read.unwrap();
        assert!(bytes[start..].starts_with(&all));
    }
    let file = store.blob(&digest).await.unwrap().looked_at().0.unwrap();
    soon(async {
        while file.bringing().available_permits() < crate::store::disk::windows::BROUGHT_AT_ONCE_MAX
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_fill_is_given_windows_where_they_are_worth_it() {
    let (_dir, store) = store();
    let (digest, bytes) = content(9_000_000);
    let total = bytes.len() as u64;
    let (partial, fill) = begin(&store, digest, Some(total)).await;
    partial.start(Some(total)).await.unwrap();
    let windows = Windows::default();
    let mut reader = fill.reader(None).in_windows(windows.clone());
    let mut behind = fill.reader(None).in_windows(windows.clone());
    let mut at = 0;
    for (length, is_window) in [
        (500, false),
        (30_000, false),
        (40_000, true),
        (900_000, true),
    ] {
        let part = bytes.slice(at..at + length);
        partial.write(at as u64, vec![part.clone()]).await.unwrap();
        let given = soon(reader.next()).await.unwrap().unwrap();
        assert_eq!(windows.hold(&given), is_window, "{length}");
        assert!(given == part);
        at += length;
    }
    const { assert!(WINDOW_BYTES_MIN > 30_000 && WINDOW_BYTES_MIN <= 40_000) };
    partial
        .write(at as u64, vec![bytes.slice(at..)])
        .await
        .unwrap();
    let mut read = at;
    while read < bytes.len() - HELD {
        let given = soon(reader.next()).await.unwrap().unwrap();
        assert!(windows.hold(&given));
        assert!(given == bytes[read..read + given.len()]);
        read += given.len();
    }
    assert_eq!(
        read_what_is_there(&mut reader).await,
        b"",
        "the tail is held"
    );
    commit(partial).await;
    let tail = soon(reader.next()).await.unwrap().unwrap();
    assert!(windows.hold(&tail) && tail == bytes[read..]);
    assert_eq!(soon(reader.next()).await, Ok(None));
    assert!(drain(&mut behind).await.unwrap() == bytes);
}
