//! Clients that are sent to the bucket.

use http::Method;
use roadstead::tier::When;

use super::{MIB, Shared, TAG, blob_path, config, image, is_written, key, pull, start};
use crate::common::bucket::FakeBucket;
use crate::common::{Blob, FakeRegistry, Mirror};

/// A bucket that has a large blob which the mirror that is started now does not have.
async fn with_large(seed: u64, when: When) -> (FakeRegistry, FakeBucket, Mirror, Blob) {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let blob = Blob::noise(seed, 17 * MIB);
    registry.put_blob("team/app", &blob);
    let first = start(&registry, config(&bucket, &shared)).await;
    let answer = first.get(&blob_path(&blob.digest)).await;
    answer.assert_bytes(200, &blob.bytes);
    bucket
        .wait_for("the blob and its link", |objects| {
            objects.contains_key(&key(&blob.digest))
                && objects.keys().any(|key| key.starts_with("cache/links"))
        })
        .await;
    first.stop().await;
    let mut tier = config(&bucket, &shared);
    tier.redirect.when = when;
    let second = start(&registry, tier).await;
    (registry, bucket, second, blob)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_sent_to_the_bucket_with_a_url_that_needs_no_keys() {
    let (registry, bucket, mirror, blob) = with_large(930, When::Always).await;
    registry.reset();
    let path = blob_path(&blob.digest);
    // The bucket is at the address that the client knows the mirror by: it would be sent its credentials.
    let near = mirror.get(&path).await;
    near.assert_bytes(200, &blob.bytes);
    drop((registry, bucket));
    let (_registry, _bucket, mirror, blob) = with_large(931, When::Always).await;
    let path = blob_path(&blob.digest);
    let host = [("host", "mirror.corp:5000")];
    let head = mirror.client.ask(Method::HEAD, &path, &host).await;
    assert_eq!(head.status, 200, "HEAD is answered here");
    let answer = mirror.get_with(&path, &host).await;
    assert_eq!(answer.status, 307);
    assert_eq!(answer.header("docker-content-digest"), blob.digest);
    assert_eq!(answer.header("cache-control"), "no-store");
    let url: url::Url = answer.header("location").parse().unwrap();
    let authority = (url.host_str().unwrap(), url.port().unwrap());
    let address = format!("{}:{}", authority.0, authority.1).parse().unwrap();
    let client = crate::common::Client(address);
    let target = format!("{}?{}", url.path(), url.query().unwrap());
    client.get(&target).await.assert_bytes(200, &blob.bytes);
    let metrics = mirror.metrics().await;
    assert!(metrics.sum("roadstead_tier_redirects_total", &[]) >= 1.0);
    // What is here is given here.
    mirror.get(&path).await.assert_bytes(200, &blob.bytes);
    let answer = mirror.get_with(&path, &host).await;
    answer.assert_bytes(200, &blob.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_sent_there_who_is_not_to_be() {
    let host = [("host", "mirror.corp:5000")];
    for when in [When::Never, When::Busy] {
        let seed = if when == When::Never { 932 } else { 933 };
        let (_registry, _bucket, mirror, blob) = with_large(seed, when).await;
        let answer = mirror.get_with(&blob_path(&blob.digest), &host).await;
        answer.assert_bytes(200, &blob.bytes);
    }
    // Small blobs, and manifests.
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let image = image(&registry, 934, MIB);
    let first = start(&registry, config(&bucket, &shared)).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    let mut tier = config(&bucket, &shared);
    tier.redirect.when = When::Always;
    let second = start(&registry, tier).await;
    let answer = second.get_with(TAG, &host).await;
    answer.assert_bytes(200, &image.manifest.bytes);
    for blob in image.blobs() {
        let path = blob_path(&blob.digest);
        let answer = second.get_with(&path, &host).await;
        answer.assert_bytes(200, &blob.bytes);
    }
}
