//! The state that the next process finds when one has ended without a word: here, by a store that is dropped
//! before it has written its index, or by a copy of its directory.

#![expect(
    clippy::disallowed_methods,
    reason = "the test plays a crash, and who meddles with the files"
)]

use super::*;
use crate::oci::directory::Source;
use crate::oci::manifest::ChildKind;
use crate::oci::{Repository, Tag, UpstreamName};

/// Bytes of the files of a store, blobs and partial ones.
fn on_disk(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut left = vec![dir.join("blobs"), dir.join("fills")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_none_or(|extension| extension != "cov") {
            bytes += path.metadata().unwrap().len();
        }
    }
    bytes
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test]
async fn the_index_never_heard_of_what_was_committed() {
    let (dir, store) = store();
    let digests = [put(&store, 1, 1000).await, put(&store, 2, 2000).await];
    drop(store);
    let store = open(dir.path(), 10_000_000);
    assert_eq!(
        store.contents().ledger().bytes(),
        3000,
        "before any look at the files"
    );
    for digest in digests {
        assert!(stored(&store, &digest).await.is_some());
    }
    // As often as it takes: what was noted stays until the index has it.
    drop(store);
    let store = open(dir.path(), 10_000_000);
    assert_eq!(store.contents().ledger().bytes(), 3000);
    store.contents().write_index();
    store.contents().write_index();
    drop(store);
    let store = open(dir.path(), 10_000_000);
    assert_eq!(
        store.contents().ledger().bytes(),
        3000,
        "the index has it now"
    );
}

#[tokio::test]
async fn the_index_never_heard_of_what_was_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 2500);
    let old = put(&store, 1, 1000).await;
    put(&store, 2, 1000).await;
    store.contents().write_index();
    store.contents().write_index();
    let new = put(&store, 3, 1200).await;
    assert_eq!(store.contains(&old), None, "it had to go");
    drop(store);
    let store = open(dir.path(), 2500);
    assert_eq!(store.contains(&old), None);
    assert_eq!(store.contains(&new), Some(1200));
    assert_eq!(store.contents().ledger().bytes(), on_disk(dir.path()));
    assert_eq!(store.contents().ledger().bytes(), 2200);
}

#[tokio::test]
async fn what_was_noted_and_not_done_changes_nothing() {
    let (dir, store) = store();
    let kept = put(&store, 1, 1000).await;
    store.contents().write_index();
    store.contents().write_index();
    let never = Digest::Sha256([9; 32]);
    store
        .contents()
        .note(&store.contents().files(), [&kept, &never], None);
    drop(store);
    let store = open(dir.path(), 10_000_000);
    assert_eq!(store.contains(&kept), Some(1000));
    assert_eq!(store.contents().ledger().bytes(), 1000);
}

#[tokio::test]
async fn files_and_index_are_brought_together() {
    let (dir, store) = store();
    let digests = [put(&store, 1, 1000).await, put(&store, 2, 2000).await];
    store.contents().write_index();
    store.contents().write_index();
    drop(store);
    // Behind its back: one goes, one comes.
    let (digest, bytes) = content(500);
    std::fs::remove_file(path_of(dir.path(), &digests[0])).unwrap();
    let path = path_of(dir.path(), &digest);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let store = open(dir.path(), 10_000_000);
    assert_eq!(store.contents().ledger().bytes(), 3000, "as the index says");
    assert_eq!(store.contains(&digest), None);
    assert_eq!(
        store.scan().find(&digest).await,
        Some(500),
        "it is looked for"
    );
    store.scan().all();
    assert_eq!(store.contents().ledger().bytes(), 2500);
    assert_eq!(store.contains(&digests[0]), None);
    assert_eq!(store.contents().ledger().bytes(), on_disk(dir.path()));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        store.scan().find(&digest).await,
        Some(500),
        "known, until it is opened"
    );
    assert!(store.blob(&digest).await.is_none());
}

#[tokio::test]
async fn files_that_are_not_known_yet_keep_their_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 5000);
    let known = put(&store, 1, 1000).await;
    let unknown = put(&store, 2, 3000).await;
    store.contents().ledger().stored_mut().forget(&unknown);
    store.scan().assume_full();
    assert!(
        store.capacity().reserve(4500).is_err(),
        "it may all be taken"
    );
    assert!(store.contains(&known).is_some());
    assert_eq!(store.scan().find(&unknown).await, Some(3000));
    assert_eq!(store.contents().ledger().bytes(), 5000);
    store.scan().all();
    assert_eq!(store.contents().ledger().bytes(), 4000, "now it is known");
    store.capacity().reserve(900).unwrap();
}

#[tokio::test]
async fn the_order_of_last_use_is_that_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000)));
    let open = || {
        let metrics = Metrics::new(std::iter::empty());
        Store::open(&config(dir.path(), 3500), Arc::clone(&clock) as _, metrics).unwrap()
    };
    let store = open();
    let mut digests = Vec::new();
    for seed in [3, 1, 2] {
        digests.push(put(&store, seed, 1000).await);
        clock.advance(Duration::from_mins(5));
    }
    store.contents().write_index();
    store.contents().write_index();
    drop(store);
    let store = open();
    let gone: Vec<Digest> = store
        .contents()
        .ledger()
        .free(2500, 0)
        .iter()
        .map(|victim| victim.digest)
        .collect();
    assert_eq!(gone, digests);
}

/// Writes the first `count` bytes late enough for a record, and waits for that.
async fn recorded(dir: &Path, partial: &Partial<&'static str>, bytes: &Bytes, count: usize) {
    let half = count / 2;
    partial.write(0, vec![bytes.slice(..half)]).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
    let rest = vec![bytes.slice(half..count)];
    partial.write(half as u64, rest).await.unwrap();
    soon(async {
        while !part_files(dir).iter().any(|name| name.contains(".cov")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_fill_is_gone_on_with_where_it_was_recorded() {
    let (dir, store) = store();
    let (digest, bytes) = content(300_000);
    let total = bytes.len() as u64;
    let (partial, _fill) = begin(&store, digest, Some(total)).await;
    partial.start(Some(total)).await.unwrap();
    recorded(dir.path(), &partial, &bytes, 200_000).await;
    // This is not recorded any more.
    let more = vec![bytes.slice(200_000..250_000)];
    partial.write(200_000, more).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(dir.path(), crashed.path());
    commit(partial_whole(partial, &bytes).await).await;
    assert!(
        part_files(dir.path()).is_empty(),
        "nothing is left of the record"
    );

    let store = open(crashed.path(), 10_000_000);
    assert_eq!(store.contents().ledger().bytes(), 200_000);
    assert_eq!(store.contents().ledger().bytes(), on_disk(crashed.path()));
    let (partial, _fill) = begin(&store, digest, Some(total)).await;
    assert_eq!(partial.prefix(), 200_000);
    // The next crash comes before anything is written.
    let again = tempfile::tempdir().unwrap();
    copy(crashed.path(), again.path());
    let second = open(again.path(), 10_000_000);
    assert_eq!(second.contents().ledger().bytes(), 200_000);
    partial.start(Some(total)).await.unwrap();
    commit(partial_whole(partial, &bytes).await).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

async fn partial_whole(partial: Partial<&'static str>, bytes: &Bytes) -> Partial<&'static str> {
    partial.write(0, vec![bytes.clone()]).await.unwrap();
    partial
}

#[tokio::test]
async fn a_record_does_not_outlive_a_doubt() {
    let (dir, store) = store();
    let (digest, bytes) = content(100_000);
    let (partial, _fill) = begin(&store, digest, Some(100_000)).await;
    partial.start(Some(100_000)).await.unwrap();
    recorded(dir.path(), &partial, &bytes, 60_000).await;
    partial.doubt(Coverage::default()).await.unwrap();
    let left = part_files(dir.path());
    assert!(!left.iter().any(|name| name.contains(".cov")), "{left:?}");
}

#[tokio::test]
async fn leftovers_go_and_what_is_no_file_is_no_obstacle() {
    let (dir, store) = store();
    let (digest, bytes) = content(1000);
    drop(store);
    let fills = dir.path().join("fills/sha256");
    let hex = digest.hex();
    let write = |name: String, bytes: &[u8]| std::fs::write(fills.join(name), bytes).unwrap();
    let stem = key(digest).stem();
    write(format!("{hex}.7.tmp"), &bytes);
    write(format!("{hex}.new"), b"{}");
    write(
        format!("{}.cov", "ab".repeat(32)),
        b"{\"total\":5,\"coverage\":[[0,5]]}",
    );
    write(format!("{}.part", "cd".repeat(32)), &bytes);
    write(format!("{stem}.part"), &bytes);
    write(format!("{stem}.cov"), b"{\"total\":null,\"coverage\":[]}");
    // Of versions that did not tell upstreams apart.
    write(format!("{hex}.part"), &bytes);
    write(format!("{hex}.cov"), b"{\"total\":5,\"coverage\":[[0,5]]}");
    std::fs::create_dir(fills.join("a-directory")).unwrap();
    let store = open(dir.path(), 10_000_000);
    assert_eq!(part_files(dir.path()), ["a-directory"]);
    assert_eq!(store.contents().ledger().bytes(), 0);
}

#[tokio::test]
async fn what_is_known_of_content_that_is_not_stored_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000)));
    let metrics = Metrics::new(std::iter::empty());
    let config = config(dir.path(), 10_000_000);
    let store = Store::open(&config, Arc::clone(&clock) as _, metrics).unwrap();
    let known = store.metadata();
    let source = |name: &str| Source {
        upstream: UpstreamName::parse("docker.io").unwrap(),
        repository: Repository::parse(name).unwrap(),
    };
    let (here, gone) = (put(&store, 1, 1000).await, Digest::Sha256([0; 32]));
    let tag = Tag::parse("v1").unwrap();
    for (name, digest) in [("team/here", here), ("team/gone", gone)] {
        let link = Link::of(ChildKind::Blob, Some(1000));
        known
            .record_links(&source(name), vec![(digest, link)])
            .await;
        let record = TagRecord {
            origin: Origin::default(),
            class: crate::oci::AcceptClass::from_bits(1),
            digest,
            media_type: "text/plain".to_owned(),
            checked: clock.now(),
        };
        known.record_tag(&source(name), &tag, record).await;
    }
    let expire = || {
        for table in [
            metadata::index::Table::Links,
            metadata::index::Table::Tags,
            metadata::index::Table::Repositories,
        ] {
            assert_eq!(store.inner.expiry.page(table, None), None);
        }
        store.contents().records.flush();
    };
    clock.advance(Duration::from_hours(24 * 29));
    expire();
    assert_eq!(store.pages().repositories(None, 9).await.len(), 2);
    // Confirmed: it begins anew.
    let link = Link::of(ChildKind::Blob, Some(1000));
    known
        .record_links(&source("team/gone"), vec![(gone, link)])
        .await;
    clock.advance(Duration::from_hours(24 * 29));
    expire();
    assert!(known.link(&source("team/gone"), &gone).await.is_some());
    assert!(known.tags(&source("team/gone"), &tag).await.is_empty());
    clock.advance(Duration::from_hours(24 * 2));
    expire();
    assert_eq!(known.link(&source("team/gone"), &gone).await, None);
    assert_eq!(
        store.pages().repositories(None, 9).await,
        [source("team/here")]
    );
    assert!(known.link(&source("team/here"), &here).await.is_some());
    assert_eq!(known.tags(&source("team/here"), &tag).await.len(), 1);
}
