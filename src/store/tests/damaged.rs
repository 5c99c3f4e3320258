//! Blobs that turned out damaged.

use super::*;
use crate::store::maintain::scrub::{Checked, Pace};

/// A stored blob, and where its file is.
async fn with_blob() -> (TempDir, Store, Digest, Bytes, PathBuf) {
    let (dir, store) = store();
    let (digest, bytes) = content(1000);
    store.put(&digest, "text", bytes.clone()).await.unwrap();
    let path = path_of(dir.path(), &digest);
    (dir, store, digest, bytes, path)
}

async fn check(store: &Store, digest: &Digest) -> (Checked, LookedAt) {
    store.audit().check(digest, Pace::Full, &|_| {}).await
}

#[tokio::test]
async fn a_fresh_copy_is_not_blamed_for_the_damaged_one_before_it() {
    let (_dir, store, digest, bytes, path) = with_blob().await;
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![b'?'; bytes.len()], 0).unwrap();
    // Two look at it at the same time.
    let (first, one) = check(&store, &digest).await;
    let (second, other) = check(&store, &digest).await;
    assert!(matches!(first, Checked::Damaged(_)), "{first:?}");
    assert_eq!(first, second);
    store
        .quarantine()
        .damaged(&digest, "one found it", one)
        .await;
    assert_eq!(store.contains(&digest), None);
    store.put(&digest, "text", bytes.clone()).await.unwrap();
    store
        .quarantine()
        .damaged(&digest, "the other found it", other)
        .await;
    assert_eq!(stored(&store, &digest).await, Some(bytes));
}

#[tokio::test]
async fn a_file_that_was_missing_and_is_there_again_stays() {
    let (_dir, store, digest, bytes, path) = with_blob().await;
    let away = path.with_extension("away");
    move_file(&path, &away);
    let (checked, looked_at) = check(&store, &digest).await;
    assert_eq!(checked, Checked::Missing);
    move_file(&away, &path);
    store
        .quarantine()
        .damaged(&digest, "gone", looked_at.clone())
        .await;
    assert_eq!(stored(&store, &digest).await, Some(bytes));
    // Nor is one that is gone kept for want of a file that was looked at.
    move_file(&path, &away);
    store.quarantine().damaged(&digest, "gone", looked_at).await;
    assert_eq!(store.contains(&digest), None);
}
