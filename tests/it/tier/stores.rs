//! Stores of other clouds, and what is said to them of what is written.

use http::Method;
use roadstead::tier::{Encryption, Scheme};
use roadstead::upstream::{CloudUrls, Secret, StorageLogin, Text};

use super::{Shared, config, image, is_written, key, pull, start};
use crate::common::FakeRegistry;
use crate::common::bucket::FakeBucket;

fn urls(bucket: &FakeBucket) -> CloudUrls {
    CloudUrls {
        metadata: Some(bucket.url().parse().unwrap()),
        ..CloudUrls::default()
    }
}

/// One node fetches, and another reads.
async fn shared_by_two(
    change: impl Fn(&FakeBucket, &mut roadstead::tier::Config),
    seed: u64,
) -> FakeBucket {
    let (registry, bucket, shared) = (
        FakeRegistry::start().await,
        FakeBucket::start().await,
        Shared::new(),
    );
    let mut tier = config(&bucket, &shared);
    change(&bucket, &mut tier);
    let image = image(&registry, seed, 100_000);
    let first = start(&registry, tier.clone()).await;
    pull(&first, &image).await;
    is_written(&bucket, &image).await;
    first.stop().await;
    registry.go_down().await;
    let second = start(&registry, tier).await;
    pull(&second, &image).await;
    assert!(bucket.objects().contains_key(&key(&image.manifest.digest)));
    bucket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn googles_takes_the_token_of_the_machine() {
    let bucket = shared_by_two(
        |bucket, tier| {
            tier.place.scheme = Scheme::Gs;
            tier.login = StorageLogin::Google {
                key_file: None,
                urls: urls(bucket),
            };
        },
        961,
    )
    .await;
    assert!(bucket.count(|asked| asked.method == Method::PUT && asked.signed) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azures_takes_the_key_of_an_account_or_the_token_of_the_machine() {
    for (seed, by_key) in [(962, true), (963, false)] {
        let bucket = shared_by_two(
            |bucket, tier| {
                tier.place.scheme = Scheme::Az;
                tier.access.account = Some("account".to_owned());
                let key = Text::Literal(Secret::new("c2VjcmV0".to_owned()));
                tier.login = if by_key {
                    StorageLogin::Account { key }
                } else {
                    StorageLogin::Azure {
                        tenant: None,
                        client_id: None,
                        client_secret: None,
                        urls: urls(bucket),
                    }
                };
            },
            seed,
        )
        .await;
        let put = bucket
            .asked()
            .into_iter()
            .find(|it| it.method == Method::PUT);
        assert_eq!(put.unwrap().headers["x-ms-blob-type"], "BlockBlob");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn class_and_encryption_are_as_they_are_chosen() {
    let bucket = shared_by_two(
        |_, tier| {
            tier.write.storage_class = Some("STANDARD_IA".to_owned());
            tier.write.encryption = Some(Encryption::Kms(Some("alias/images".to_owned())));
        },
        964,
    )
    .await;
    let mut written = bucket.asked().into_iter();
    let put = written.find(|it| it.method == Method::PUT && it.key.contains("blobs/"));
    let headers = put.unwrap().headers;
    assert_eq!(headers["x-amz-storage-class"], "STANDARD_IA");
    assert_eq!(headers["x-amz-server-side-encryption"], "aws:kms");
    let key = &headers["x-amz-server-side-encryption-aws-kms-key-id"];
    assert_eq!(key, "alias/images");
    let plain = shared_by_two(
        |_, tier| tier.write.encryption = Some(Encryption::Aes256),
        965,
    )
    .await;
    let mut written = plain.asked().into_iter();
    let put = written.find(|it| it.method == Method::PUT).unwrap();
    assert_eq!(put.headers["x-amz-server-side-encryption"], "AES256");
}
