//! One blob on its way from two upstreams.

#![allow(
    clippy::disallowed_methods,
    clippy::similar_names,
    reason = "a test owns its files and tasks; a fill has two sides"
)]

use super::*;
use crate::oci::Repository;
use crate::oci::directory::Source;
use crate::oci::manifest::ChildKind;

async fn begin_of(
    store: &Store,
    upstream: &str,
    digest: Digest,
    bytes: &Bytes,
) -> (Partial<&'static str>, Fill<&'static str>) {
    let total = Some(bytes.len() as u64);
    let (opening, fill) = fill(key_of(upstream, digest));
    let partial = store.begin(opening, total).await.ok().unwrap();
    partial.start(total).await.unwrap();
    (partial, fill)
}

async fn write(partial: &Partial<&'static str>, bytes: &Bytes) {
    partial.write(0, vec![bytes.clone()]).await.unwrap();
}

#[tokio::test]
async fn each_has_a_file_and_room_of_its_own() {
    let (dir, store) = store();
    let (digest, bytes) = content(300_000);
    let wrong = Bytes::from(vec![9; 300_000]);
    let (ours, _ours) = begin_of(&store, "docker.io", digest, &bytes).await;
    let (theirs, fill) = begin_of(&store, "ghcr.io", digest, &wrong).await;
    write(&theirs, &wrong).await;
    write(&ours, &bytes.slice(..100_000)).await;
    // What came of each, and as much ahead.
    assert_eq!(store.contents().ledger().bytes(), 500_000);
    theirs.suspend("stopping").await;
    assert!(fill.has_failed());
    drop((ours, store));

    // What one of them left off is taken up for that one alone.
    let store = open(dir.path(), 10_000_000);
    assert_eq!(store.contents().ledger().bytes(), 300_000);
    let (ours, _ours) = begin_of(&store, "docker.io", digest, &bytes).await;
    assert_eq!(ours.coverage().bytes(), 0);
    let (theirs, _theirs) = begin_of(&store, "ghcr.io", digest, &wrong).await;
    assert_eq!(theirs.prefix(), 300_000);
    write(&ours, &bytes).await;
    commit(ours).await;
    assert!(theirs.verify().await.is_err(), "its bytes are wrong");
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
    assert_eq!(store.contents().ledger().bytes(), 300_000);
    assert_eq!(part_files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn the_second_to_be_right_finds_the_first_stored() {
    let (dir, store) = store();
    let (digest, bytes) = content(300_000);
    let (ours, _ours) = begin_of(&store, "docker.io", digest, &bytes).await;
    let (theirs, fill) = begin_of(&store, "ghcr.io", digest, &bytes).await;
    let mut reader = fill.reader(None).in_windows(Windows::default());
    write(&ours, &bytes).await;
    write(&theirs, &bytes).await;
    let first = soon(reader.next()).await.unwrap().unwrap();
    commit(ours).await;
    let inode = || {
        let file = std::fs::metadata(path_of(dir.path(), &digest)).unwrap();
        std::os::unix::fs::MetadataExt::ino(&file)
    };
    let before = inode();
    commit(theirs).await;
    assert_eq!(inode(), before, "a stored file stays as it is");
    assert_eq!(part_files(dir.path()), [""; 0]);
    // Its reader goes on, and the room that its file takes is counted as long.
    assert_eq!(store.contents().ledger().bytes(), 600_000);
    let rest = drain(&mut reader).await.unwrap();
    assert!([&first[..], &rest[..]].concat() == bytes);
    drop((reader, fill));
    assert_eq!(store.contents().ledger().bytes(), 300_000);
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_stored_file_that_is_gone_is_replaced() {
    let (dir, store) = store();
    let (digest, bytes) = content(300_000);
    let (ours, _ours) = begin_of(&store, "docker.io", digest, &bytes).await;
    let (theirs, _theirs) = begin_of(&store, "ghcr.io", digest, &bytes).await;
    write(&ours, &bytes).await;
    write(&theirs, &bytes).await;
    commit(ours).await;
    std::fs::remove_file(path_of(dir.path(), &digest)).unwrap();
    commit(theirs).await;
    assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
    assert_eq!(store.contents().ledger().bytes(), 300_000);
}

/// All of them, at random moments: one file, and a ledger that is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_commit_at_once() {
    let (dir, store) = store();
    for round in 0..20 {
        let (digest, bytes) = content(70_000 + round);
        let before = store.contents().ledger().bytes();
        let mut commits = Vec::new();
        for upstream in ["docker.io", "ghcr.io", "quay.io", "gcr.io"] {
            let (partial, _fill) = begin_of(&store, upstream, digest, &bytes).await;
            write(&partial, &bytes).await;
            commits.push(tokio::spawn(commit(partial)));
        }
        for done in commits {
            done.await.unwrap();
        }
        let size = bytes.len() as u64;
        assert_eq!(store.contents().ledger().bytes(), before + size);
        assert_eq!(stored(&store, &digest).await.unwrap(), bytes);
    }
    assert_eq!(part_files(dir.path()), [""; 0]);
}

/// A manifest's names are the word of whoever has sent it, for what it has sent itself.
#[tokio::test]
async fn a_link_is_as_good_as_the_word_that_it_is_on() {
    let (_dir, store) = store();
    let digest = put(&store, 1, 1000).await;
    let source = |upstream: &str| Source {
        upstream: UpstreamName::parse(upstream).unwrap(),
        repository: Repository::parse("team/app").unwrap(),
    };
    let (ours, theirs) = (source("docker.io"), source("ghcr.io"));
    let named = Link::of(ChildKind::Blob, None);
    let before = Link {
        word: Word::Before,
        ..named
    };
    let counts = |source: &Source| {
        [named, before, named.given()].map(|link| store.quotas().vouches(source, &digest, &link))
    };
    assert_eq!(counts(&ours), [false, true, true], "nobody's");
    store.quotas().belongs(&digest, &ours.upstream);
    assert_eq!(counts(&ours), [true, true, true]);
    assert_eq!(counts(&theirs), [false, false, true]);
    // Also of a blob that came through a fill.
    let (digest, bytes) = content(70_000);
    let (partial, fill) = begin_of(&store, "ghcr.io", digest, &bytes).await;
    write(&partial, &bytes).await;
    commit(partial).await;
    // Who holds it has the blob open.
    drop(fill);
    assert!(store.quotas().vouches(&theirs, &digest, &named));
    assert!(!store.quotas().vouches(&ours, &digest, &named));
    // What is not stored is nobody's to give.
    assert_eq!(
        store.contents().remove(&digest).await,
        Removal::Removed(70_000)
    );
    assert!(!store.quotas().vouches(&theirs, &digest, &named));
}
