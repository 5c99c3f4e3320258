//! Room on the disk, where the bucket has some of what is there.

use std::time::Duration;

use http::Method;

use super::{MIB, Shared, blob_path, config, key};
use crate::common::bucket::{FakeBucket, Trouble};
use crate::common::{Blob, FakeRegistry, MirrorBuilder, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_bucket_has_is_evicted_before_what_it_has_not() {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let blobs: Vec<Blob> = (0..3).map(|it| Blob::noise(940 + it, 4 * MIB)).collect();
    for blob in &blobs {
        registry.put_blob("team/app", blob);
    }
    let tier = config(&bucket, &shared);
    let builder = MirrorBuilder::of(&registry).with(|config| {
        config.tier = Some(Box::new(tier));
        config.cache.max_size = roadstead::store::Amount::Bytes(16 << 20);
        config.cache.min_free = roadstead::store::Amount::Bytes(0);
    });
    let mirror = builder.start().await;
    let read = async |blob: &Blob| {
        let answer = mirror.get(&blob_path(&blob.digest)).await;
        answer.assert_bytes(200, &blob.bytes);
    };
    let (there, not_there, last) = (&blobs[0], &blobs[1], &blobs[2]);
    let refused = key(&not_there.digest);
    bucket.trouble(
        move |asked| asked.key == refused && asked.method == Method::PUT,
        Trouble::Status(403, "AccessDenied"),
        usize::MAX,
    );
    read(there).await;
    let written = key(&there.digest);
    bucket
        .wait_for("the first", |objects| objects.contains_key(&written))
        .await;
    mirror
        .wait_for_metrics("it is noted", |metrics| {
            metrics.sum("roadstead_tier_pending_bytes", &[]) == 0.0
        })
        .await;
    read(not_there).await;
    // It was used last, and goes first all the same.
    mirror.clock.advance(Duration::from_mins(5));
    read(there).await;
    mirror.clock.advance(Duration::from_mins(5));
    read(last).await;
    let more = Blob::noise(944, 4 * MIB);
    registry.put_blob("team/app", &more);
    read(&more).await;
    let is_here = |blob: &Blob| mirror.blob_path(&blob.digest).exists();
    let gone = async {
        while is_here(there) && is_here(not_there) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("something to go", gone).await;
    assert!(is_here(not_there) && !is_here(there));
}
