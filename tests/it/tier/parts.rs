//! Blobs that are written to the bucket in parts.

use super::{MIB, Shared, blob_path, config, key, start};
use crate::common::bucket::{Asked, FakeBucket, Trouble};
use crate::common::images::Blob;
use crate::common::{FakeRegistry, within};
use http::Method;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_is_written_in_parts_and_taken_up_where_it_was_left() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let blob = Blob::noise(922, 70 * MIB);
    registry.put_blob("team/app", &blob);
    let is_part = |asked: &Asked| asked.query.contains("partNumber=");
    let is_third = |asked: &Asked| asked.query.contains("partNumber=3");
    // Until the process has ended: one that was sent again and cut off by its end would be counted, too.
    let error = Trouble::Status(500, "InternalError");
    bucket.trouble(is_third, error, usize::MAX);
    let mirror = start(&registry, config(&bucket, &shared)).await;
    let answer = mirror.get(&blob_path(&blob.digest)).await;
    answer.assert_bytes(200, &blob.bytes);
    let waiting = async {
        while bucket.count(is_third) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the third part", waiting).await;
    let mirror = mirror.restart_after(|_| bucket.heal()).await;
    let wanted = (key(&blob.digest), blob.bytes.clone());
    bucket
        .wait_for("all of it", |objects| {
            objects.get(&wanted.0) == Some(&wanted.1)
        })
        .await;
    let begun = bucket.count(|it| it.method == Method::POST && it.query.starts_with("uploads"));
    assert_eq!(begun, 1, "one upload");
    let others = |it: &Asked| is_part(it) && !is_third(it);
    assert_eq!(bucket.count(others), 4, "the others of five once each");
    assert!(bucket.count(is_third) >= 2);
    assert_eq!(bucket.uploads(), 0);
    drop(mirror);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_goes_on_with_are_given_up() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let blob = Blob::noise(923, 10);
    bucket.leave_upload(&key(&blob.digest), "old");
    bucket.leave_upload("elsewhere/object", "not-ours");
    let mirror = start(&registry, config(&bucket, &shared)).await;
    let waiting = async {
        while bucket.uploads() != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the leftover gone", waiting).await;
    drop(mirror);
}
