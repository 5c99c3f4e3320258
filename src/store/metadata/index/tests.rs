//! The index by itself.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::*;
use crate::store::disk::health::Health;
use crate::store::disk::{Disk, Injection};
use crate::telemetry::Metrics;

fn layout(dir: &Path) -> Arc<Layout> {
    let health = Health::new(Metrics::new(std::iter::empty()));
    let disk = Disk::new(Injection::default(), Arc::new(health));
    Arc::new(Layout::open(dir, disk).unwrap())
}

fn pair(key: &str, value: &str) -> Pair {
    (key.into(), value.into())
}

#[test]
fn a_change_is_seen_before_and_after_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&layout(dir.path())).unwrap();
    index.change(Table::Tags, b"a".to_vec(), Some(b"1".to_vec()));
    assert_eq!(index.read(Table::Tags, b"a"), Some(b"1".to_vec()));
    index.flush();
    assert_eq!(
        index.unwritten(Table::Tags, b"a"),
        None,
        "it is in the file alone now"
    );
    assert_eq!(index.read(Table::Tags, b"a"), Some(b"1".to_vec()));
    index.change(Table::Tags, b"a".to_vec(), None);
    assert_eq!(
        index.read(Table::Tags, b"a"),
        None,
        "a deletion hides the file's entry"
    );
    assert_eq!(index.read(Table::Links, b"a"), None);
}

#[test]
fn what_does_not_fit_in_memory_is_dropped_and_of_blobs_that_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&layout(dir.path())).unwrap();
    let change = |table, key: &str, value: &str| {
        index.change_within(2 * CHANGE_BYTES, table, key.into(), Some(value.into()));
    };
    change(Table::Tags, "a", "1");
    change(Table::Tags, "b", "1");
    change(Table::Tags, "c", "1");
    change(Table::Tags, "a", "2");
    assert_eq!(index.read(Table::Tags, b"a"), Some(b"2".to_vec()));
    assert_eq!(index.read(Table::Tags, b"c"), None);
    let incomplete = crate::store::metadata::records::INCOMPLETE;
    assert_eq!(index.read(Table::Blobs, incomplete), None);
    change(Table::Blobs, "blob", "1");
    assert_eq!(index.read(Table::Blobs, b"blob"), None);
    assert!(!index.flush(), "not all of it is in the file");
    assert!(index.flush());
    assert!(index.read(Table::Blobs, incomplete).is_some());
}

#[test]
fn a_scan_goes_on_after_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&layout(dir.path())).unwrap();
    for key in ["c", "a", "b", "d"] {
        index.change(Table::Repositories, key.into(), Some(key.into()));
    }
    index.flush();
    assert_eq!(
        index.scan(Table::Repositories, None, 2),
        [pair("a", "a"), pair("b", "b")]
    );
    assert_eq!(
        index.scan(Table::Repositories, Some(b"b"), 9),
        [pair("c", "c"), pair("d", "d")]
    );
}

#[test]
fn a_second_process_is_told_apart_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let index = Index::open(&layout).unwrap();
    assert!(matches!(Index::open(&layout), Err(IndexError::InUse)));
    drop(index);
    #[expect(clippy::disallowed_methods, reason = "the test plays a damaged disk")]
    std::fs::write(layout.index().path(), vec![7; 5000]).unwrap();
    assert!(matches!(
        Index::open(&layout),
        Err(IndexError::Unreadable(_))
    ));
}

#[test]
fn an_index_that_can_be_opened_and_not_read_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let index = Index::open(&layout).unwrap();
    for n in 0..4_000_u32 {
        index.change(Table::Links, n.to_be_bytes().to_vec(), Some(vec![1; 4000]));
    }
    assert!(index.flush());
    let file = std::fs::File::options()
        .write(true)
        .open(layout.index().path());
    let file = file.unwrap();
    let bytes = file.metadata().unwrap().len();
    // The header stays, so that it can be opened.
    for page in 2..bytes / 4096 {
        file.write_all_at(&[0xa5; 4096], page * 4096).unwrap();
    }
    let all = |index: &Index| {
        let mut found = 0;
        index.each(Table::Links, |_, _| found += 1).then_some(found)
    };
    let mut looks = 0;
    while all(&index) != Some(0) {
        looks += 1;
        assert!(looks < 100, "it is never begun anew");
        layout.health().hurry(Part::Index);
        index.flush();
    }
    assert!(looks > 0, "nothing was damaged");
    index.change(Table::Tags, b"a".to_vec(), Some(b"1".to_vec()));
    layout.health().hurry(Part::Index);
    assert!(index.flush());
    assert!(index.is_sound());
    let incomplete = crate::store::metadata::records::INCOMPLETE;
    assert!(index.read(Table::Blobs, incomplete).is_some());
}
