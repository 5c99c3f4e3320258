//! Starts on a disk that cannot say all.

use super::*;
use crate::store::disk::{DiskOp, Fault, Faults};
use rustix::io::Errno;

/// A disk on which nothing can be read below a directory.
#[derive(Debug)]
struct Unreadable(&'static str);

impl Faults for Unreadable {
    fn before(&self, op: DiskOp, path: &Path) -> Result<(), Fault> {
        let here = path.components().any(|part| part.as_os_str() == self.0);
        if here && op == DiskOp::Read {
            return Err(io::Error::from(Errno::IO).into());
        }
        Ok(())
    }
}

fn open_with(dir: &Path, unreadable: &'static str) -> Store {
    let config = Config {
        injection: Injection::of(Arc::new(Unreadable(unreadable))),
        ..config(dir, 10_000_000)
    };
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    Store::open(&config, clock, Metrics::new(std::iter::empty())).unwrap()
}

#[tokio::test]
async fn what_cannot_be_looked_for_is_no_reason_not_to_serve() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, bytes) = content(1000);
    {
        let store = open(dir.path(), 10_000_000);
        store.put(&digest, "text", bytes.clone()).await.unwrap();
        Upkeep(store.clone()).keep_up(true);
    }
    for unreadable in ["fills", "damaged"] {
        let store = open_with(dir.path(), unreadable);
        assert_eq!(stored(&store, &digest).await.as_ref(), Some(&bytes));
    }
}

#[tokio::test]
async fn a_blob_that_cannot_be_looked_at_is_found_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, bytes) = content(1000);
    {
        let store = open(dir.path(), 10_000_000);
        store.put(&digest, "text", bytes.clone()).await.unwrap();
        // Killed before the index was written: the journal names it.
    }
    let hex: &'static str = digest.hex().leak();
    drop(open_with(dir.path(), hex));
    let store = open(dir.path(), 10_000_000);
    store.scan().all();
    assert_eq!(stored(&store, &digest).await, Some(bytes));
}

#[tokio::test]
async fn a_read_only_store_of_an_earlier_version_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, bytes) = content(1000);
    {
        let store = open(dir.path(), 10_000_000);
        store.put(&digest, "text", bytes.clone()).await.unwrap();
        Upkeep(store.clone()).keep_up(true);
    }
    std::fs::remove_dir(dir.path().join("damaged")).unwrap();
    let config = Config {
        injection: Injection::of(Arc::new(ReadOnly)),
        ..config(dir.path(), 10_000_000)
    };
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let store = Store::open(&config, clock, Metrics::new(std::iter::empty())).unwrap();
    assert_eq!(stored(&store, &digest).await, Some(bytes));
    assert!(store.trouble().is_some());
}

/// A file system that is mounted read-only.
#[derive(Debug)]
struct ReadOnly;

impl Faults for ReadOnly {
    fn before(&self, op: DiskOp, _: &Path) -> Result<(), Fault> {
        if matches!(op, DiskOp::Read | DiskOp::ReadIndex) {
            return Ok(());
        }
        Err(io::Error::from(Errno::ROFS).into())
    }
}
